"""How well predicted clot masks agree with the true ones: per case, and over a cohort.

In: binary masks [row, column, slice] with their case, patient and voxel spacing. Out: plain numbers that
go into CSV and JSON as they are. What always holds: every case counts (a missed clot is a Dice of 0, never a
gap), clot-free cases are reported apart because Dice says nothing about them, and no result is NaN: what
does not exist is None, and beside a mean stands over how many cases it was taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clotseg.errors import DataError
from clotseg.evaluate.agreement import agreement, mean_interval, share_interval
from clotseg.evaluate.clot import clot_lengths
from clotseg.evaluate.surface import surface_distances

Mask = npt.NDArray[Any]
TOUCHING_26 = np.ones((3, 3, 3), dtype=np.uint8)
"""Voxels that share a face, an edge or a corner belong to one component."""
AVERAGED = (
    "dice",
    "surface_dice_1mm",
    "surface_dice_2mm",
    "hd95_mm",
    "average_surface_distance_mm",
    "precision",
    "recall",
)
"""The metrics of which the summary gives mean, median and interval over cases with a clot."""
SIZES = ("small", "medium", "large")
UNKNOWN_SITE = "not known"
SIDES = ("true", "predicted")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScore:
    """What is reported about one case. A clot is a 26-connected component of a mask.

    Args:
        case: name of the case.
        patient: name of the patient; cases of one patient are not independent.
        site: where the scan was made, or None where that is not known.
        has_clot: whether the true mask has a voxel.
        dice: overlap over the whole volume, see `dice`.
        surface_dice_1mm: normalised surface Dice at 1 mm: share of both surfaces that lies within 1 mm of the
            other. Both masks empty: 1; exactly one: 0. None only where the spacing is not known.
        surface_dice_2mm: the same at 2 mm.
        hd95_mm: 95 % Hausdorff distance; both masks empty: 0. None where the spacing is not known or exactly
            one mask is empty: nothing is at a distance from what is not there.
        average_surface_distance_mm: mean distance over the area of both surfaces, None as `hd95_mm`.
        precision: share of predicted voxels that are clot. None predicted: 0 with a clot, which is missed,
            and None without one.
        recall: share of clot voxels that are predicted; None without a clot.
        found: whether the prediction shares a voxel with the true clot; None for a case without a clot.
        clots_true: clots of the true mask.
        clots_found: those that share a voxel with the prediction.
        clots_missed: those that do not.
        false_clots: clots of the prediction that share no voxel with the true mask.
        clot_f1: 2 found / (2 found + missed + false); None where neither mask has a clot.
        volume_true: voxels of the true clot.
        volume_predicted: voxels of the prediction.
        volume_true_mm3: the same in mm³; None where the spacing is not known.
        volume_predicted_mm3: the same in mm³; None where the spacing is not known.
        volume_error_mm3: predicted minus true; None where the spacing is not known.
        volume_error_percent: predicted minus true, of the true volume; None without a clot.
        length_true_mm: lengths of the true clots together, see `clot.clot_lengths`; None where the spacing is
            not known.
        length_predicted_mm: the same of the predicted clots.
        spacing_mm: distance between voxel centres along row index, column index and slice index, or None.
    """

    case: str
    patient: str
    site: str | None
    has_clot: bool
    dice: float
    surface_dice_1mm: float | None = None
    surface_dice_2mm: float | None = None
    hd95_mm: float | None = None
    average_surface_distance_mm: float | None = None
    precision: float | None = None
    recall: float | None = None
    found: bool | None
    clots_true: int = 0
    clots_found: int = 0
    clots_missed: int = 0
    false_clots: int
    clot_f1: float | None = None
    volume_true: int
    volume_predicted: int
    volume_true_mm3: float | None
    volume_predicted_mm3: float | None
    volume_error_mm3: float | None = None
    volume_error_percent: float | None = None
    length_true_mm: float | None = None
    length_predicted_mm: float | None = None
    spacing_mm: tuple[float, float, float] | None

    def as_row(self) -> dict[str, str | bool | int | float | None]:
        """The score as one flat row for CSV or JSON; the columns and their order are always the same."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        steps = row.pop("spacing_mm") or (None, None, None)
        names = ("spacing_row_mm", "spacing_col_mm", "spacing_slice_mm")
        return row | dict(zip(names, steps, strict=True))


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
    a, b = _cropped(np.asarray(predicted) != 0, np.asarray(truth) != 0)
    volume_predicted, volume_true = int(np.count_nonzero(a)), int(np.count_nonzero(b))
    shared = int(np.count_nonzero(a & b))
    error = volume_predicted - volume_true
    return CaseScore(
        case=case,
        patient=patient,
        site=site,
        has_clot=volume_true > 0,
        dice=dice(a, b),
        precision=shared / volume_predicted if volume_predicted else 0.0 if volume_true else None,
        recall=shared / volume_true if volume_true else None,
        found=shared > 0 if volume_true else None,
        volume_true=volume_true,
        volume_predicted=volume_predicted,
        volume_error_percent=100 * error / volume_true if volume_true else None,
        **_by_clot(a, b),
        **_in_mm(a, b, spacing_mm),
    )


def _cropped(a: Mask, b: Mask) -> tuple[Mask, Mask]:
    """Both masks in the box around both: clots are a thousandth of a head, and nothing else is counted."""
    box = ndimage.find_objects((a | b).view(np.uint8))
    return (a[box[0]], b[box[0]]) if box else (a[:1, :1, :1], b[:1, :1, :1])


def _by_clot(predicted: Mask, truth: Mask) -> dict[str, Any]:
    """The counts of clots."""
    true_clots, true_count = ndimage.label(truth, structure=TOUCHING_26)
    pieces, piece_count = ndimage.label(predicted, structure=TOUCHING_26)
    found = len(np.unique(true_clots[predicted & truth]))
    false = piece_count - len(np.unique(pieces[predicted & truth]))
    missed = true_count - found
    return {
        "clots_true": true_count,
        "clots_found": found,
        "clots_missed": missed,
        "false_clots": false,
        "clot_f1": _f1(found, missed, false),
    }


def _in_mm(predicted: Mask, truth: Mask, spacing_mm: tuple[float, float, float] | None) -> dict[str, Any]:
    """All that is in millimetres; None each where the spacing is not known."""
    if spacing_mm is None:
        return {"volume_true_mm3": None, "volume_predicted_mm3": None, "spacing_mm": None}
    voxel_mm3 = math.prod(float(step) for step in spacing_mm)
    volume_predicted, volume_true = (int(np.count_nonzero(mask)) * voxel_mm3 for mask in (predicted, truth))
    distances = surface_distances(predicted, truth, spacing_mm)
    surface: tuple[float | None, ...]
    if distances is not None:
        surface = distances.dice(1.0), distances.dice(2.0), distances.hausdorff_mm(95), distances.average_mm()
    elif predicted.any() or truth.any():
        surface = 0.0, 0.0, None, None
    else:
        surface = 1.0, 1.0, 0.0, 0.0
    names = ("surface_dice_1mm", "surface_dice_2mm", "hd95_mm", "average_surface_distance_mm")
    return {
        **dict(zip(names, surface, strict=True)),
        "volume_true_mm3": volume_true,
        "volume_predicted_mm3": volume_predicted,
        "volume_error_mm3": volume_predicted - volume_true,
        "length_true_mm": math.fsum(clot_lengths(truth, spacing_mm)),
        "length_predicted_mm": math.fsum(clot_lengths(predicted, spacing_mm)),
        "spacing_mm": spacing_mm,
    }


def _f1(found: int, missed: int, false: int) -> float | None:
    clots = 2 * found + missed + false
    return 2 * found / clots if clots else None


def summarise(scores: Sequence[CaseScore], *, bootstrap_samples: int, seed: int) -> dict[str, Any]:
    """The cohort in a few numbers, ready for JSON. Intervals are of 95 %.

    Args:
        scores: one a case, in any order.
        bootstrap_samples: resamples for the intervals of means, by patient.
        seed: of the bootstrap.

    Returns:
        `cases`, `patients`, `cases_with_clot`;
        over cases with a clot, for each of `AVERAGED`: `…_mean`, `…_median`, `…_ci95` ([low, high]; None
        below two patients), `…_cases` (how many have it; a missed clot has no distance);
        `missed` (cases), `missed_rate` with `missed_rate_ci95` (Wilson), `false_clots_in_clot_cases`,
        `volume_bias_voxels` (mean of predicted minus true), `volume_error_voxels` (mean of its absolute
        value) and the same two in mm³ (None unless every such case has a spacing), `volume_error_percent`
        (mean of the absolute value);
        over single clots: `clots_true`, `clots_found`, `clots_missed`, `clot_f1` (all cases together);
        over cases without one: `clot_free_cases`, `clot_free_with_false` (cases), `false_clots` (components),
        `specificity` (share without a false clot) with `specificity_ci95` (Wilson);
        `volume_agreement` in mm³ or, unless every such case has a spacing, in voxels (its `unit` says which),
        and `length_agreement` in mm or None: see `agreement.agreement`;
        `by_site` and `by_size` (thirds by true volume): lists of `group`, `cases`, `dice_mean`,
        `dice_median`, `dice_ci95`, `missed`.
    """
    ordered = sorted(scores, key=lambda score: score.case)
    with_clot = [score for score in ordered if score.has_clot]
    clot_free = [score for score in ordered if not score.has_clot]
    options: dict[str, Any] = {"samples": bootstrap_samples, "seed": seed}
    summary: dict[str, Any] = {
        "cases": len(ordered),
        "patients": len({score.patient for score in ordered}),
        "cases_with_clot": len(with_clot),
        **_detection(with_clot, clot_free),
        **_volume_errors(with_clot),
        **_agreements(with_clot, options),
        "by_site": _groups(_by_site(with_clot), options),
        "by_size": _groups(_by_size(with_clot), options),
    }
    for name in AVERAGED:
        summary |= _averages(name, with_clot, options)
    return summary


def _detection(with_clot: Sequence[CaseScore], clot_free: Sequence[CaseScore]) -> dict[str, Any]:
    """What was found, missed and falsely found, by case and by clot."""
    missed = sum(not score.found for score in with_clot)
    alarmed = sum(score.false_clots > 0 for score in clot_free)
    found, lost, false = (
        sum(getattr(score, name) for score in (*with_clot, *clot_free))
        for name in ("clots_found", "clots_missed", "false_clots")
    )
    return {
        "missed": missed,
        "missed_rate": missed / len(with_clot) if with_clot else None,
        "missed_rate_ci95": share_interval(missed, len(with_clot)),
        "false_clots_in_clot_cases": sum(score.false_clots for score in with_clot),
        "clots_true": found + lost,
        "clots_found": found,
        "clots_missed": lost,
        "clot_f1": _f1(found, lost, false),
        "clot_free_cases": len(clot_free),
        "clot_free_with_false": alarmed,
        "false_clots": sum(score.false_clots for score in clot_free),
        "specificity": 1 - alarmed / len(clot_free) if clot_free else None,
        "specificity_ci95": share_interval(len(clot_free) - alarmed, len(clot_free)),
    }


def _averages(name: str, scores: Sequence[CaseScore], options: dict[str, Any]) -> dict[str, Any]:
    """Mean, median, interval and number of cases of one metric, over the cases that have it."""
    known = [score for score in scores if getattr(score, name) is not None]
    values = [float(getattr(score, name)) for score in known]
    return {
        f"{name}_mean": _mean(values),
        f"{name}_median": float(np.median(values)) if values else None,
        f"{name}_ci95": mean_interval(values, [score.patient for score in known], **options),
        f"{name}_cases": len(values),
    }


def _agreements(scores: Sequence[CaseScore], options: dict[str, Any]) -> dict[str, Any]:
    in_mm = all(score.spacing_mm for score in scores)
    kinds = {"volume": "volume_{}_mm3" if in_mm else "volume_{}"}
    if scores and all(score.length_true_mm is not None for score in scores):
        kinds["length"] = "length_{}_mm"
    patients = [score.patient for score in scores]
    found: dict[str, Any] = {"volume_agreement": None, "length_agreement": None}
    for kind, column in kinds.items():
        true, predicted = ([float(getattr(score, column.format(side))) for score in scores] for side in SIDES)
        found[f"{kind}_agreement"] = agreement(true, predicted, patients, **options)
    found["volume_agreement"]["unit"] = "mm³" if in_mm else "voxels"
    return found


def _by_site(scores: Sequence[CaseScore]) -> dict[str, list[CaseScore]]:
    sites: dict[str, list[CaseScore]] = {}
    for score in scores:
        sites.setdefault(score.site or UNKNOWN_SITE, []).append(score)
    return dict(sorted(sites.items()))


def _by_size(scores: Sequence[CaseScore]) -> dict[str, list[CaseScore]]:
    """Thirds by true volume, each named with its range; none below three cases."""
    if len(scores) < len(SIZES):
        return {}
    in_mm = all(score.spacing_mm for score in scores)
    column, unit = ("volume_true_mm3", "mm³") if in_mm else ("volume_true", "voxels")
    ranked = sorted(scores, key=lambda score: (getattr(score, column), score.case))
    groups = {}
    for size, members in zip(SIZES, np.array_split(np.arange(len(ranked)), len(SIZES)), strict=True):
        group = [ranked[place] for place in members]
        low, high = getattr(group[0], column), getattr(group[-1], column)
        groups[f"{size}: {low:,.0f}–{high:,.0f} {unit}"] = group
    return groups


def _groups(groups: dict[str, list[CaseScore]], options: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, scores in groups.items():
        averages = _averages("dice", scores, options)
        averages.pop("dice_cases")
        missed = sum(not score.found for score in scores)
        rows.append({"group": name, "cases": len(scores), **averages, "missed": missed})
    return rows


def _check(predicted: Mask, truth: Mask, *, case: str, spacing_mm: tuple[float, float, float] | None) -> None:
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise DataError(
            f"the prediction has shape {predicted.shape}, the true mask {truth.shape}",
            where=case,
            fix="give two masks [row, column, slice] of one shape",
        )
    for name, mask in (("prediction", predicted), ("true mask", truth)):
        if not ((mask == 0) | (mask == 1)).all():
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
        "volume_error_percent": _mean(
            [abs(score.volume_error_percent) for score in scores if score.volume_error_percent is not None]
        ),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
