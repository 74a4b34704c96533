"""Cohorts: cases with their patients in; Training, Validation and Testing, disjoint by patient, out.

The order of patients is that of a keyed hash of their names, so the split depends on the seed and on who the
patients are: not on file order, folder, machine or library version.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from math import ceil, floor

from clotseg.config import SplitConfig
from clotseg.errors import DataError
from clotseg.project import COHORTS


def split_cases(patient_of: Mapping[str, str], config: SplitConfig) -> dict[str, tuple[str, ...]]:
    """Shares N patients out: ceil(train_perc · N), floor(val_perc · N), the rest; cases follow their patient.

    Args:
        patient_of: the patient of each case.
        config: percentages and seed.

    Returns:
        Case names of each cohort, in an order that mixes sites and dates.

    Raises:
        DataError: a cohort would come out empty.
    """
    cases_of: dict[str, list[str]] = {}
    for case in sorted(patient_of):
        cases_of.setdefault(patient_of[case], []).append(case)
    patients = sorted(
        cases_of, key=lambda patient: hashlib.sha256(f"{config.seed}\0{patient}".encode()).digest()
    )
    train_end = ceil(_exact(config.train_perc) * len(patients))
    val_end = train_end + floor(_exact(config.val_perc) * len(patients))
    members = (patients[:train_end], patients[train_end:val_end], patients[val_end:])
    cohorts = {
        cohort: tuple(case for patient in chosen for case in cases_of[patient])
        for cohort, chosen in zip(COHORTS, members, strict=True)
    }
    if empty := [cohort for cohort, chosen in cohorts.items() if not chosen]:
        raise DataError(
            f"{len(patients)} patient(s) leave nothing for {' and '.join(empty)}; nothing was written",
            where="split",
            fix="add patients, or change --train-perc and --val-perc",
        )
    return cohorts


def _exact(percentage: float) -> Fraction:
    """The decimal number the user wrote: 0.1 of 30 patients is 3, where binary floats would make it 4."""
    return Fraction(repr(percentage))
