"""Inference: a trained network and a case in; clot probability on the case's own grid out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import SliceConfig
from clotseg.errors import DataError
from clotseg.prep.cases import Case
from clotseg.prep.slices import windowed_slices, with_context

Model = Any  # TensorFlow and Keras ship no types

SLICES_AT_ONCE = 16


class Predictor:
    """A network ready to run on whole volumes.

    Args:
        model: takes float32 [N, size, size, channels] in 0…1.
        slicing: the windows and the context the network was trained with.
        size: side of its input square, in pixels.
    """

    def __init__(self, model: Model, slicing: SliceConfig, size: int) -> None:
        import tensorflow as tf

        self._slicing = slicing
        self._size = size
        self._call = tf.function(lambda slices: model(slices, training=False), reduce_retracing=True)

    def probability(self, case: Case) -> NDArray[np.float32]:
        """Clot probability of every voxel, float32 [row, column, slice], on the grid of the case's volumes.

        Raises:
            DataError: a slice is larger than the network's input.
        """
        slices = windowed_slices(case, self._slicing)
        rows, columns = slices.shape[1:3]
        if max(rows, columns) > self._size:
            raise DataError(
                f"has slices of {rows}×{columns} pixels; the network takes {self._size}×{self._size}",
                where=case.name,
                fix="crop the volume, or train with a larger --size",
            )
        parts = []
        for start in range(0, len(slices), SLICES_AT_ONCE):
            numbers = range(start, min(start + SLICES_AT_ONCE, len(slices)))
            padded = centre_pad(with_context(slices, numbers, self._slicing.context), self._size)
            predicted = self._call(padded.astype(np.float32) * np.float32(1 / 255)).numpy()
            parts.append(centre_crop(predicted, rows, columns)[..., 0])
        return np.ascontiguousarray(np.moveaxis(np.concatenate(parts), 0, 2))


def centre_pad(slices: NDArray[Any], size: int) -> NDArray[Any]:
    """Zeros around [N, row, column, …] up to size × size; an odd pixel goes to the bottom or right.

    The rule is that of the training pipeline.
    """
    before = [(size - side) // 2 for side in slices.shape[1:3]]
    padded = np.zeros((len(slices), size, size, *slices.shape[3:]), slices.dtype)
    padded[:, before[0] : before[0] + slices.shape[1], before[1] : before[1] + slices.shape[2]] = slices
    return padded


def centre_crop(slices: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Undoes `centre_pad`."""
    before = [(side - wanted) // 2 for side, wanted in zip(slices.shape[1:3], (rows, columns), strict=True)]
    return slices[:, before[0] : before[0] + rows, before[1] : before[1] + columns]
