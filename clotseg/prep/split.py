"""Cohorts: cases with their patients in; Training, Validation and Testing, disjoint by patient, out.

The order of patients is that of a keyed hash of their names, so the split depends on the seed and on who the
patients are: not on file order, folder, machine or library version.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

from clotseg.config import SplitConfig
from clotseg.errors import DataError
from clotseg.project import COHORTS

Members = dict[str, tuple[str, ...]]
"""Case names of each cohort."""


def split_cases(
    patient_of: Mapping[str, str], config: SplitConfig, stratum_of: Mapping[str, str] | None = None
) -> Members:
    """Shares N patients out: ceil(train_perc · N), floor(val_perc · N), the rest; cases follow their patient.

    With folds, the patients of the chosen fold are tested, floor(val_perc · N) of the others validate, and
    the rest trains. Strata change who is chosen, never how many: each is represented to within one patient of
    its share of those who are left to choose from.

    Args:
        patient_of: the patient of each case.
        config: percentages, folds and seed.
        stratum_of: the stratum of each case; a patient's is that of its cases together. None for no strata.

    Returns:
        Case names of each cohort, in an order that mixes sites and dates.

    Raises:
        DataError: a cohort would come out empty.
    """
    cases_of: dict[str, list[str]] = {}
    for case in sorted(patient_of):
        cases_of.setdefault(patient_of[case], []).append(case)
    strata = {
        patient: ", ".join(sorted({stratum_of[case] for case in cases})) if stratum_of else ""
        for patient, cases in cases_of.items()
    }
    patients = sorted(cases_of, key=lambda patient: _hash(config.seed, patient))
    members = dict(zip(COHORTS, _share_out(patients, strata, config), strict=True))
    cohorts = {
        cohort: tuple(case for patient in chosen for case in cases_of[patient])
        for cohort, chosen in members.items()
    }
    if empty := [cohort for cohort, chosen in cohorts.items() if not chosen]:
        raise DataError(
            f"{len(patients)} patient(s) leave nothing for {' and '.join(empty)}; nothing was written",
            where="split",
            fix="add patients, or change --train-perc and --val-perc"
            + (" or the number of folds" if config.folds else ""),
        )
    return cohorts


def _share_out(
    patients: list[str], strata: Mapping[str, str], config: SplitConfig
) -> tuple[list[str], list[str], list[str]]:
    """Training, validation and test patients, each in the order they had."""
    validating = floor(_exact(config.val_perc) * len(patients))
    if config.folds:
        # Dealt out stratum by stratum: folds differ by one patient at most, in all and in each stratum.
        dealt = sorted(patients, key=lambda patient: strata[patient])
        testing = set(dealt[config.fold - 1 :: config.folds])
        left = [patient for patient in patients if patient not in testing]
        chosen = _choose(left, strata, min(validating, len(left)), config.seed)
        training = [patient for patient in left if patient not in chosen]
    else:
        trained = _choose(patients, strata, ceil(_exact(config.train_perc) * len(patients)), config.seed)
        training = [patient for patient in patients if patient in trained]
        left = [patient for patient in patients if patient not in trained]
        chosen = _choose(left, strata, validating, config.seed)
        testing = set(left) - chosen
    return (
        training,
        [patient for patient in patients if patient in chosen],
        [patient for patient in patients if patient in testing],
    )


def _choose(patients: list[str], strata: Mapping[str, str], count: int, seed: int) -> set[str]:
    """The first of each stratum, as many as is its part of `count` by largest remainders."""
    groups: dict[str, list[str]] = {}
    for patient in patients:
        groups.setdefault(strata[patient], []).append(patient)
    quotas = {name: Fraction(count * len(group), len(patients)) for name, group in groups.items()}
    seats = {name: floor(quota) for name, quota in quotas.items()}
    waiting = sorted(groups, key=lambda name: (seats[name] - quotas[name], _hash(seed, name)))
    for name in waiting[: count - sum(seats.values())]:
        seats[name] += 1
    return {patient for name, group in groups.items() for patient in group[: seats[name]]}


def read_split_file(file: Path, patient_of: Mapping[str, str]) -> Members:
    """Takes cohorts from a split.json, whoever made it.

    Args:
        file: JSON with `cohorts`: the case names of Training, Validation and Testing.
        patient_of: the patient of each case there is.

    Raises:
        DataError: it cannot be read, or with a line for each case that is unknown, missing or named twice,
            each patient in two cohorts and each empty cohort.
    """
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["cohorts"]
        members: Members = {cohort: tuple(listed[cohort]) for cohort in COHORTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"is not a split.json ({type(error).__name__}: {error})",
            where=file,
            fix='it must hold {"cohorts": {"Training": […], "Validation": […], "Testing": […]}}',
        ) from error
    if findings := _misfits(members, patient_of, listed):
        raise DataError(
            "does not fit the cases; nothing was written",
            where=file,
            details=findings,
            fix="mend the file, or split anew without --split-file",
        )
    return members


def _misfits(members: Members, patient_of: Mapping[str, str], listed: Iterable[Any]) -> list[str]:
    named = [case for cases in members.values() for case in cases]
    findings = [f"unknown cohort {cohort!r}" for cohort in listed if cohort not in COHORTS]
    findings += [f"{cohort} is empty" for cohort, cases in members.items() if not cases]
    findings += [f"case {case!r} is not in the project" for case in named if case not in patient_of]
    findings += [f"case {case} is in no cohort" for case in sorted(set(patient_of) - set(named))]
    findings += [f"case {case} is named twice" for case in sorted({c for c in named if named.count(c) > 1})]
    cohorts_of: dict[str, set[str]] = {}
    for cohort, cases in members.items():
        for case in cases:
            if case in patient_of:
                cohorts_of.setdefault(patient_of[case], set()).add(cohort)
    findings += [
        f"patient {patient} is in {' and '.join(cohort for cohort in COHORTS if cohort in cohorts)}"
        for patient, cohorts in sorted(cohorts_of.items())
        if len(cohorts) > 1
    ]
    return findings


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _exact(percentage: float) -> Fraction:
    """The decimal number the user wrote: 0.1 of 30 patients is 3, where binary floats would make it 4."""
    return Fraction(repr(percentage))
