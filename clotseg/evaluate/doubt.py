"""Doubt: how unsure the networks are of what they predict in a case, known without any truth.

A case to look at first is one of high doubt. What always holds: both measures exist for every prediction, an
empty one included, and are never NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """How unsure a prediction is.

    Attributes:
        entropy: mean over the voxels of the predicted clot of −p log₂ p − (1 − p) log₂(1 − p), in bits: 0
            where the networks are sure of every voxel, 1 where they say a half everywhere. Of an empty
            prediction it is that of the highest probability in the volume, or 1 where this is a half or
            more: how near the case came to having a clot.
        spread: mean over the voxels of the predicted clot of the standard deviation of the probability over
            the passes (networks of an ensemble, flips), 0…0.5; of an empty prediction that of the voxel of
            highest probability, the first of several. None where there was one pass.
    """

    entropy: float
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
            entropy=float(_entropy_bits(probability[clot]).mean()),
            spread=None if spread is None else float(spread[clot].mean(dtype=np.float64)),
        )
    highest = np.unravel_index(int(probability.argmax()), probability.shape)
    return Doubt(
        entropy=float(_entropy_bits(np.minimum(probability[highest], 0.5))),
        spread=None if spread is None else float(spread[highest]),
    )


def _entropy_bits(probability: NDArray[Any]) -> NDArray[np.float64]:
    p = np.asarray(probability, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return np.asarray(np.where((p <= 0) | (p >= 1), 0.0, bits))
