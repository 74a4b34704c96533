"""Slices: HU volumes [row, column, slice] in; 8-bit two-channel slices [slice, row, column, channel] out.

Values outside a window saturate; they never wrap.
"""

import numpy as np
from numpy.typing import NDArray

from clotseg.config import SliceConfig, WindowHU
from clotseg.prep.cases import Case, Volume, open_mask, open_volume

CHANNELS = ("CTA", "NCCT")

Bytes = NDArray[np.uint8]


def window_to_uint8(hu: Volume, window_hu: WindowHU) -> Bytes:
    """Maps [low, high] HU linearly to 0…255, rounded half to even, saturated outside.

    Args:
        hu: HU values of any shape, integer or float, all finite.
        window_hu: (low, high) in HU.
    """
    low, high = window_hu
    inside = np.clip(hu.astype(np.float64), low, high)
    return np.rint((inside - low) * 255.0 / (high - low)).astype(np.uint8)


def windowed_slices(case: Case, config: SliceConfig) -> Bytes:
    """All slices of a case, uint8 [slice, row, column, channel]: CTA then NCCT, each in its window."""
    windowed = (
        window_to_uint8(open_volume(case.cta), config.cta_window_hu),
        window_to_uint8(open_volume(case.ncct), config.ncct_window_hu),
    )
    return np.ascontiguousarray(np.moveaxis(np.stack(windowed, axis=-1), 2, 0))


def mask_slices(case: Case) -> Bytes:
    """The clot mask of a case, uint8 0/1 [slice, row, column]."""
    return np.ascontiguousarray(np.moveaxis(open_mask(case.mask), 2, 0))
