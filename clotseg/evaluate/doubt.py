"""Doubt: how unsure the networks are of what they predict in a case, known without any truth.

A case to look at first is one of high doubt. What always holds: both measures exist for every prediction, an
empty one included, and are never NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.evaluate.metrics import TOUCHING_26

AROUND = 2
"""Pixels on every side, within each slice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """How unsure a prediction is.

    Attributes:
        level: 1 − (n / N) · n / (n + u), from 0 to 1. N voxels are predicted, n of them in the largest
            26-connected component; u is the entropy −p log₂ p − (1 − p) log₂(1 − p) in bits, summed over
            that component and the `AROUND` pixels beside it. So 0 is one component that the networks are
            sure of, inside and out; pieces beside it, and voxels that might as well be as not be clot,
            count against it. Of an empty prediction it is the entropy of the highest probability in the
            volume, or 1 where this is a half or more: how near the case came to having a clot.
        spread: mean over the voxels of the predicted clot of the standard deviation of the probability over
            the passes (networks of an ensemble, flips), 0…0.5; of an empty prediction that of the voxel of
            highest probability, the first of several. None where there was one pass.
    """

    level: float
    spread: float | None


def doubt_of(probability: NDArray[Any], predicted: NDArray[np.uint8], spread: NDArray[Any] | None) -> Doubt:
    """The doubt about one case.

    Args:
        probability: calibrated, [row, column, slice], 0…1.
        predicted: the mask that was cut from it, 0 or 1, of the same shape.
        spread: standard deviation over the passes, of the same shape, or None.
    """
    clot = predicted != 0
    if clot.any():
        return Doubt(
            level=_level(probability, clot),
            spread=None if spread is None else float(spread[clot].mean(dtype=np.float64)),
        )
    highest = np.unravel_index(int(probability.argmax()), probability.shape)
    return Doubt(
        level=float(_entropy_bits(np.minimum(probability[highest], 0.5))),
        spread=None if spread is None else float(spread[highest]),
    )


def _level(probability: NDArray[Any], clot: NDArray[np.bool_]) -> float:
    from scipy import ndimage

    (rows, columns, slices) = ndimage.find_objects(clot.view(np.uint8))[0]
    box = (*(slice(max(side.start - AROUND, 0), side.stop + AROUND) for side in (rows, columns)), slices)
    labels, _ = ndimage.label(clot[box], structure=TOUCHING_26)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = labels == sizes.argmax()
    beside = np.ones((2 * AROUND + 1, 2 * AROUND + 1, 1), bool)
    unsure = _entropy_bits(probability[box][ndimage.binary_dilation(largest, beside)]).sum()
    voxels = int(sizes.max())
    return float(1 - voxels / int(sizes.sum()) * voxels / (voxels + unsure))


def _entropy_bits(probability: NDArray[Any]) -> NDArray[np.float64]:
    p = np.asarray(probability, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return np.asarray(np.where((p <= 0) | (p >= 1), 0.0, bits))
