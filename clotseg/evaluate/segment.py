"""Segmentation: networks, a cut and the volumes of a case in; calibrated probability, mask and doubt out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.evaluate.calibration import temper
from clotseg.evaluate.doubt import Doubt, doubt_of
from clotseg.evaluate.infer import Predictor, Volumes
from clotseg.evaluate.metrics import TOUCHING_26


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How probabilities become a mask.

    Attributes:
        temperature: what their log-odds are divided by first.
        threshold: a voxel is clot at this probability or more.
        smallest_component: 26-connected components of fewer voxels are removed.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    smallest_component: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segmentation:
    """What networks say of a case, on the grid of its volumes.

    Attributes:
        probability: float16 [row, column, slice], calibrated.
        predicted: uint8 0/1 of the same shape, cut from `probability` as it stands.
        doubt: how unsure the networks are.
    """

    probability: NDArray[np.float16]
    predicted: NDArray[np.uint8]
    doubt: Doubt


def segment(predictor: Predictor, volumes: Volumes, cut: Cut) -> Segmentation:
    """Predicts one case.

    Raises:
        DataError: a slice is larger than a network's input.
    """
    probability = np.empty(volumes.shape, np.float16)
    spread = np.empty(volumes.shape, np.float16) if predictor.passes > 1 else None
    for block in predictor.blocks(volumes):
        probability[:, :, block.numbers] = temper(block.probability, cut.temperature)
        if spread is not None:
            spread[:, :, block.numbers] = block.spread
    # The mask is cut from what is stored, so that anyone who cuts again gets the same mask.
    predicted = cut_mask(probability, cut)
    return Segmentation(
        probability=probability, predicted=predicted, doubt=doubt_of(probability, predicted, spread)
    )


def cut_mask(probability: NDArray[Any], cut: Cut) -> NDArray[np.uint8]:
    """The mask, uint8 0/1 [row, column, slice], of probabilities that the temperature was applied to."""
    predicted = (probability >= cut.threshold).astype(np.uint8)
    if cut.smallest_component > 1 and predicted.any():
        from scipy import ndimage

        (box,) = ndimage.find_objects(predicted)
        labels, _ = ndimage.label(predicted[box], structure=TOUCHING_26)
        predicted[box] &= np.bincount(labels.ravel())[labels] >= cut.smallest_component
    return predicted
