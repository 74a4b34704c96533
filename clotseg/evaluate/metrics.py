"""How well predicted clot masks agree with the true ones: per case, and over a cohort.

In: binary masks [row, column, slice] with their case, patient and voxel spacing. Out: plain numbers that
go into CSV and JSON as they are. What always holds: every case counts (a missed clot is a Dice of 0, never a
gap), clot-free cases are reported apart because Dice says nothing about them, and no result is NaN: what
does not exist is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clotseg.errors import DataError

Mask = npt.NDArray[Any]
TOUCHING_26 = np.ones((3, 3, 3), dtype=np.uint8)
"""Voxels that share a face, an edge or a corner belong to one component."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """What is reported about one case.

    Args:
        case: name of the case.
        patient: name of the patient; cases of one patient are not independent.
        site: where the scan was made, or None where that is not known.
        has_clot: whether the true mask has a voxel.
        dice: overlap over the whole volume, see `dice`.
        found: whether the prediction shares a voxel with the true clot; None for a case without a clot.
        false_clots: 26-connected components of the prediction that share no voxel with the true clot.
        volume_true: voxels of the true clot.
        volume_predicted: voxels of the prediction.
        volume_true_mm3: the same in mm³; None where the spacing is not known.
        volume_predicted_mm3: the same in mm³; None where the spacing is not known.
        spacing_mm: distance between voxel centres along row index, column index and slice index, or None.
    """

    case: str
    patient: str
    site: str | None
    has_clot: bool
    dice: float
    found: bool | None
    false_clots: int
    volume_true: int
    volume_predicted: int
    volume_true_mm3: float | None
    volume_predicted_mm3: float | None
    spacing_mm: tuple[float, float, float] | None

    def as_row(self) -> dict[str, str | bool | int | float | None]:
        """The score as one flat row for CSV or JSON; the columns and their order are always the same."""
        row, column, between_slices = self.spacing_mm or (None, None, None)
        return {
            "case": self.case,
            "patient": self.patient,
            "site": self.site,
            "has_clot": self.has_clot,
            "dice": self.dice,
            "found": self.found,
            "false_clots": self.false_clots,
            "volume_true": self.volume_true,
            "volume_predicted": self.volume_predicted,
            "volume_true_mm3": self.volume_true_mm3,
            "volume_predicted_mm3": self.volume_predicted_mm3,
            "spacing_row_mm": row,
            "spacing_col_mm": column,
            "spacing_slice_mm": between_slices,
        }


def dice(predicted: Mask, truth: Mask) -> float:
    """Sørensen-Dice coefficient 2 |A ∩ B| / (|A| + |B|) of two binary masks (Dice 1945).

    Args:
        predicted: binary array of any shape; any value but 0 is foreground.
        truth: binary array of the same shape.

    Returns:
        Between 0 and 1. Both masks empty: 1.0, they agree. Exactly one empty: 0.0.
    """
    a, b = np.asarray(predicted) != 0, np.asarray(truth) != 0
    if a.shape != b.shape:
        raise DataError(f"the prediction has shape {a.shape}, the true mask {b.shape}")
    foreground = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / foreground if foreground else 1.0


def score_case(
    predicted: Mask,
    truth: Mask,
    *,
    case: str,
    patient: str,
    site: str | None,
    spacing_mm: tuple[float, float, float] | None,
) -> CaseScore:
    """Compares one predicted volume with the true one.

    Args:
        predicted: uint8 [row, column, slice], 0 or 1.
        truth: uint8 [row, column, slice], 0 or 1.
        case: name of the case.
        patient: name of the patient.
        site: where the scan was made, or None.
        spacing_mm: millimetres between voxel centres along each axis, or None where not known.

    Raises:
        DataError: the shapes differ or are not 3-D, a mask has another value than 0 and 1, or a spacing is
            not a positive number.
    """
    _check(predicted, truth, case=case, spacing_mm=spacing_mm)
    components, count = ndimage.label(predicted, structure=TOUCHING_26)
    touching = np.unique(components[truth != 0])
    touching_count = int(np.count_nonzero(touching))
    volume_true, volume_predicted = int(np.count_nonzero(truth)), int(np.count_nonzero(predicted))
    voxel_mm3 = None if spacing_mm is None else math.prod(float(step) for step in spacing_mm)
    return CaseScore(
        case=case,
        patient=patient,
        site=site,
        has_clot=volume_true > 0,
        dice=dice(predicted, truth),
        found=touching_count > 0 if volume_true else None,
        false_clots=int(count) - touching_count,
        volume_true=volume_true,
        volume_predicted=volume_predicted,
        volume_true_mm3=None if voxel_mm3 is None else volume_true * voxel_mm3,
        volume_predicted_mm3=None if voxel_mm3 is None else volume_predicted * voxel_mm3,
        spacing_mm=spacing_mm,
    )


def bootstrap_interval(
    values: Sequence[float], groups: Sequence[str], *, samples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13), by patient.

    Cases of one patient resemble each other, so patients are drawn with replacement, each with all its cases,
    and the mean is taken over the cases drawn (cluster bootstrap, Davison & Hinkley 1997, section 3.8).

    Args:
        values: one number a case, at least one.
        groups: the patient of each case.
        samples: how many resamples to draw.
        seed: of the random generator; the same seed gives the same interval.
        level: share of resampled means that lie inside.

    Returns:
        Lower and upper end. A single patient gives the mean twice: there is nothing to resample, and the
        caller should show no interval.
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError("need one group per value, and at least one value")
    names, patient_of_case = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(patient_of_case, weights=np.asarray(values, dtype=np.float64))
    cases = np.bincount(patient_of_case)
    drawn = np.random.default_rng(seed).integers(len(names), size=(samples, len(names)))
    means = sums[drawn].sum(axis=1) / cases[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(scores: Sequence[CaseScore], *, bootstrap_samples: int, seed: int) -> dict[str, Any]:
    """The cohort in a few numbers, ready for JSON.

    Args:
        scores: one a case, in any order.
        bootstrap_samples: resamples for the interval of the mean Dice.
        seed: of the bootstrap.

    Returns:
        `cases`, `patients`, `cases_with_clot`;
        over cases with a clot (None where there is none): `dice_mean`, `dice_median`, `dice_ci95` ([low,
        high]; None below two patients), `missed`, `false_clots_in_clot_cases`, `volume_bias_voxels` (mean of
        predicted minus true), `volume_error_voxels` (mean of its absolute value) and the same two in mm³
        (None unless every such case has a spacing);
        over cases without one: `clot_free_cases`, `clot_free_with_false` (cases), `false_clots` (components).
    """
    ordered = sorted(scores, key=lambda score: score.case)
    with_clot = [score for score in ordered if score.has_clot]
    clot_free = [score for score in ordered if not score.has_clot]
    values = [score.dice for score in with_clot]
    patients = [score.patient for score in with_clot]
    interval = None
    if len(set(patients)) > 1:
        interval = list(bootstrap_interval(values, patients, samples=bootstrap_samples, seed=seed))
    return {
        "cases": len(ordered),
        "patients": len({score.patient for score in ordered}),
        "cases_with_clot": len(with_clot),
        "dice_mean": _mean(values),
        "dice_median": float(np.median(values)) if values else None,
        "dice_ci95": interval,
        "missed": sum(not score.found for score in with_clot),
        "false_clots_in_clot_cases": sum(score.false_clots for score in with_clot),
        **_volume_errors(with_clot),
        "clot_free_cases": len(clot_free),
        "clot_free_with_false": sum(score.false_clots > 0 for score in clot_free),
        "false_clots": sum(score.false_clots for score in clot_free),
    }


def _check(predicted: Mask, truth: Mask, *, case: str, spacing_mm: tuple[float, float, float] | None) -> None:
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise DataError(
            f"the prediction has shape {predicted.shape}, the true mask {truth.shape}",
            where=case,
            fix="give two masks [row, column, slice] of one shape",
        )
    for name, mask in (("prediction", predicted), ("true mask", truth)):
        if not np.isin(mask, (0, 1)).all():
            raise DataError(
                f"the {name} has values other than 0 and 1", where=case, fix="threshold it to 0 and 1 first"
            )
    if spacing_mm is not None and not (
        len(spacing_mm) == 3 and all(math.isfinite(step) and step > 0 for step in spacing_mm)
    ):
        raise DataError(
            f"the voxel spacing {spacing_mm} mm is not three positive numbers",
            where=case,
            fix="correct it in cases.csv, or leave it out",
        )


def _volume_errors(scores: Sequence[CaseScore]) -> dict[str, float | None]:
    """Bias and mean absolute error of the predicted clot volume, in voxels and in mm³."""
    voxels = [float(score.volume_predicted - score.volume_true) for score in scores]
    known = [
        score.volume_predicted_mm3 - score.volume_true_mm3
        for score in scores
        if score.volume_predicted_mm3 is not None and score.volume_true_mm3 is not None
    ]
    cubic_mm = known if len(known) == len(scores) else []
    return {
        "volume_bias_voxels": _mean(voxels),
        "volume_error_voxels": _mean([abs(error) for error in voxels]),
        "volume_bias_mm3": _mean(cubic_mm),
        "volume_error_mm3": _mean([abs(error) for error in cubic_mm]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
