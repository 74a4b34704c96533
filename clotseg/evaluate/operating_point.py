"""The operating point: networks and a validation cohort in; temperature, threshold, smallest component out.

It is chosen on the validation cohort alone and kept with the weights, in `operating_point.json` of the first
network's checkpoint folder, which names the weights it belongs to and is sealed. No function here is given a
test case.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from clotseg import artifact
from clotseg.config import TestConfig, plain
from clotseg.console import Progress
from clotseg.errors import CorruptArtifactError
from clotseg.evaluate.calibration import Calibration, calibrate, no_counts, temper
from clotseg.evaluate.infer import Predictor, open_case
from clotseg.evaluate.metrics import TOUCHING_26
from clotseg.evaluate.segment import Cut
from clotseg.prep.cases import CheckedCase, open_mask
from clotseg.train.checkpoint import OPERATING_POINT

CODE_VERSION = 4
THRESHOLDS = (0.01, 0.02, *(round(0.05 * step, 2) for step in range(1, 20)), 0.98, 0.99)
SMALLEST_COMPONENTS = (0, 5, 10, 20, 50, 100, 200, 500)
"""Voxels."""
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 1e-4, 0.9995
"""What half precision, in which probabilities are stored, tells from 0 and 1."""
NO_WORSE = 0.005
"""A mean Dice that is lower by no more than this, and by no more than its standard error, is no worse."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """How probabilities become a mask.

    Attributes:
        code_version: of the code that chose it.
        weights: SHA-256 of the weights of each network, in order.
        tta: whether flipped slices were averaged.
        split_key: of the split whose validation cohort it was chosen on.
        cases: how many validation cases there were.
        calibration: the temperature, and how well calibrated the voxels are.
        threshold: a voxel is clot at this calibrated probability or more.
        smallest_component: 26-connected components of fewer voxels are removed.
        val_dice: mean Dice of the validation volumes at this threshold and smallest component, where a volume
            without a clot counts as `dice_table` says.
    """

    code_version: Annotated[int, Field(ge=1)]
    weights: Annotated[tuple[Hash, ...], Field(min_length=1)]
    tta: bool
    split_key: Hash
    cases: Annotated[int, Field(ge=1)]
    calibration: Calibration
    threshold: Annotated[float, Field(gt=0, lt=1)]
    smallest_component: Annotated[int, Field(ge=0)]
    val_dice: Annotated[float, Field(ge=0, le=1)]


def cut_in_force(config: TestConfig, point: OperatingPoint | None) -> Cut:
    """The chosen cut, or what the settings say instead: with a threshold of their own nothing is removed.

    Where no point was chosen and the settings leave it to that: a half, and nothing is removed.
    """
    cut = Cut()
    if point is not None:
        cut = Cut(
            temperature=point.calibration.temperature,
            threshold=point.threshold,
            smallest_component=point.smallest_component,
        )
    if config.threshold != "auto":
        cut = replace(cut, threshold=config.threshold, smallest_component=0)
    if config.smallest_component != "auto":
        cut = replace(cut, smallest_component=config.smallest_component)
    return cut


def stored_or_chosen(
    folder: Path,
    predictor: Predictor,
    cases: Sequence[CheckedCase],
    progress: Progress,
    *,
    weights: Sequence[str],
    tta: bool,
    split_key: str,
) -> OperatingPoint:
    """The operating point that is kept with the weights; where there is none it is chosen, and kept.

    Args:
        folder: the first network's checkpoint folder.
        predictor: the networks.
        cases: the validation cohort; read only where the point must be chosen.
        progress: told of each case.
        weights: SHA-256 of each network's weights, the first of them those in `folder`.
        tta: whether the predictor flips.
        split_key: whose validation cohort this is.

    Raises:
        CorruptArtifactError: what is kept there is damaged or belongs to other weights.
    """
    kept = read_points(folder, weights[0])
    wanted = (CODE_VERSION, tuple(weights), tta, split_key)
    for point in kept:
        if (point.code_version, point.weights, point.tta, point.split_key) == wanted:
            return point
    point = choose(predictor, cases, progress, weights=weights, tta=tta, split_key=split_key)
    others = [other for other in kept if (other.weights, other.tta) != (point.weights, point.tta)]
    write_points(folder, weights[0], [*others, point])
    return point


def find_point(folder: Path, weights: Sequence[str], *, tta: bool | None) -> OperatingPoint | None:
    """The operating point kept for these networks, or None.

    Args:
        folder: the first network's checkpoint folder.
        weights: SHA-256 of each network's weights.
        tta: chosen with flips or without; None for either, of both the one with.

    Raises:
        CorruptArtifactError: what is kept there is damaged or belongs to other weights.
    """
    kept = [point for point in read_points(folder, weights[0]) if point.weights == tuple(weights)]
    found = [point for point in kept if tta in (None, point.tta)]
    return max(found, key=lambda point: point.tta, default=None)


def read_points(folder: Path, weights: str) -> list[OperatingPoint]:
    """The operating points in a checkpoint folder, for single networks, with flips, and for ensembles.

    Args:
        folder: the checkpoint folder.
        weights: SHA-256 of its weights.

    Raises:
        CorruptArtifactError: the file is damaged, changed by hand, or belongs to other weights.
    """
    path = folder / OPERATING_POINT
    if not path.exists():
        return []
    facts: Any = artifact.read_json(path)
    fix = "delete it; `clotseg test` chooses it again"
    try:
        if facts["format"] != artifact.FORMAT or facts["seal"] != _seal(facts["weights"], facts["points"]):
            raise CorruptArtifactError("is not as it was written: its seal does not fit", where=path, fix=fix)
        if facts["weights"] != weights:
            raise CorruptArtifactError("belongs to other weights than those beside it", where=path, fix=fix)
        return TypeAdapter(list[OperatingPoint]).validate_python(facts["points"])
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(f"is no operating point ({error})", where=path, fix=fix) from error


def write_points(folder: Path, weights: str, points: Sequence[OperatingPoint]) -> None:
    """Writes the operating points of a checkpoint folder, sealed, in one step."""
    listed = artifact.as_json([plain(point) for point in points])
    facts = {"format": artifact.FORMAT, "weights": weights, "points": listed}
    artifact.write_json(folder / OPERATING_POINT, {**facts, "seal": _seal(weights, listed)})


def _seal(weights: object, points: object) -> str:
    return artifact.stage_key("operating point", artifact.FORMAT, points, weights)


def choose(
    predictor: Predictor,
    cases: Sequence[CheckedCase],
    progress: Progress,
    *,
    weights: Sequence[str],
    tta: bool,
    split_key: str,
) -> OperatingPoint:
    """Chooses temperature, threshold and smallest component; see `calibrate` and `choose_cut`.

    Where no validation case has a clot there is nothing to choose by: temperature 1, threshold 0.5, all
    components stay.
    """
    counts, tables, clots = no_counts(), [], []
    with progress.bar("calibrate", len(cases), "cases") as advance:
        for entry in cases:
            truth = open_mask(entry.case.mask)
            probability = np.empty(entry.shape, np.float16)
            for block in predictor.blocks(open_case(entry.case)):
                counts.add(block.probability, truth[:, :, block.numbers])
                probability[:, :, block.numbers] = block.probability
            tables.append(dice_table(probability, truth))
            clots.append(int(np.count_nonzero(truth)))
            advance()
    calibration = calibrate(counts)
    dice = np.stack(tables)
    cuts = cuts_after(calibration.temperature)
    at, size = THRESHOLDS.index(0.5), 0
    if any(clots):
        at, size = choose_cut(dice[..., : sizes_allowed(clots)], cuts)
    return OperatingPoint(
        code_version=CODE_VERSION,
        weights=tuple(weights),
        tta=tta,
        split_key=split_key,
        cases=len(cases),
        calibration=calibration,
        threshold=float(np.float16(cuts[at])),
        smallest_component=SMALLEST_COMPONENTS[size],
        val_dice=float(dice[:, at, size].mean()),
    )


def cuts_after(temperature: float) -> NDArray[np.float32]:
    """Each of `THRESHOLDS` as it lies after a temperature, which keeps the order of probabilities.

    NaN where it would be so near to 0 or 1 that probabilities could not be told from it.
    """
    cuts = np.asarray(temper(np.array(THRESHOLDS, np.float32), temperature), np.float32)
    return np.where((cuts < LOWEST_THRESHOLD) | (cuts > HIGHEST_THRESHOLD), np.float32(np.nan), cuts)


def sizes_allowed(clots: Sequence[int]) -> int:
    """How many of `SMALLEST_COMPONENTS` may be chosen: those up to a quarter of the smallest clot.

    A network often finds a part of a clot, and a few validation cases cannot tell how small a part: a limit
    that is best for them alone would miss clots of other cases altogether.

    Args:
        clots: voxels of the true clot of each validation case; 0 where there is none.
    """
    smallest = min(voxels for voxels in clots if voxels)
    return sum(size <= smallest / 4 for size in SMALLEST_COMPONENTS)


def choose_cut(dice: NDArray[np.float64], cuts: NDArray[np.float32]) -> tuple[int, int]:
    """The most careful of the cuts whose mean Dice is no worse than the highest.

    The highest of a few validation cases is often that of an extreme threshold, by chance. So of all cuts
    that are no worse, see `NO_WORSE`, the largest smallest component is taken, which lets the fewest false
    clots through, and of its thresholds the one nearest to a half, of two as near the lower. The standard
    error is that of the paired difference (after Breiman et al. 1984, Classification and Regression Trees).

    Args:
        dice: float64 [case, threshold, smallest component], see `dice_table`.
        cuts: of each threshold, see `cuts_after`; where it is NaN the threshold is not taken.

    Returns:
        Index of the threshold in `THRESHOLDS`, and of the size in `SMALLEST_COMPONENTS`.
    """
    mean = np.where(np.isnan(cuts)[:, None], -1, dice.mean(axis=0))
    best = np.unravel_index(int(mean.argmax()), mean.shape)
    lower = dice[:, best[0], best[1], None, None] - dice
    error = lower.std(axis=0, ddof=1) / np.sqrt(len(dice)) if len(dice) > 1 else np.zeros_like(mean)
    good = (mean >= 0) & (lower.mean(axis=0) <= np.minimum(error, NO_WORSE) + 1e-9)
    at, size = min(
        (tuple(map(int, place)) for place in np.argwhere(good)),
        key=lambda place: (-place[1], abs(THRESHOLDS[place[0]] - 0.5), place[0]),
    )
    return at, size


def dice_table(probability: NDArray[Any], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Dice of one volume at each threshold and smallest component.

    A volume without a clot counts 1 where nothing is predicted and 0 otherwise, so that false clots cost as
    much as missed ones.

    Args:
        probability: [row, column, slice], 0…1.
        truth: 0 or 1, of the same shape.

    Returns:
        float64 [threshold, smallest component], for `THRESHOLDS` and `SMALLEST_COMPONENTS`.
    """
    from scipy import ndimage

    true_voxels = int(np.count_nonzero(truth))
    table = np.full((len(THRESHOLDS), len(SMALLEST_COMPONENTS)), 0.0 if true_voxels else 1.0)
    candidates = probability >= THRESHOLDS[0]
    if not candidates.any():
        return table
    (box,) = ndimage.find_objects(candidates.view(np.uint8))
    near, clot = probability[box], truth[box] != 0
    for at, threshold in enumerate(THRESHOLDS):
        labels, count = ndimage.label(near >= threshold, structure=TOUCHING_26)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(labels[clot], minlength=count + 1)[1:]
        for column, smallest in enumerate(SMALLEST_COMPONENTS):
            kept = sizes >= smallest
            predicted = int(sizes[kept].sum())
            if predicted:
                overlap = 2 * int(hits[kept].sum())
                table[at, column] = overlap / (predicted + true_voxels) if true_voxels else 0.0
    return table
