"""Slices: HU volumes [row, column, slice] in; 8-bit slices [slice, row, column, channel] out.

Values outside a window saturate; they never wrap. Volumes are read block by block, so that beside the result
no more than a block is in memory.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clotseg.config import SliceConfig, WindowHU
from clotseg.prep.cases import Case, Volume, blocks, open_volume

CHANNELS = ("CTA", "NCCT")


Bytes = NDArray[np.uint8]


def channel_count(config: SliceConfig) -> int:
    """Channels of a slice: for CTA and then for NCCT, the slice amid its neighbours."""
    return len(CHANNELS) * (2 * config.context + 1)


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
    return window_volumes(open_volume(case.cta), open_volume(case.ncct), config)


def window_volumes(cta: Volume | None, ncct: Volume | None, config: SliceConfig) -> Bytes:
    """All slices of two volumes, uint8 [slice, row, column, channel]: CTA then NCCT, each in its window.

    Args:
        cta: HU [row, column, slice], or None for black slices.
        ncct: the same; one of the two must be there.
        config: the windows.
    """
    rows, columns, slices = next(volume for volume in (cta, ncct) if volume is not None).shape
    windowed = np.zeros((slices, rows, columns, len(CHANNELS)), np.uint8)
    for channel, (volume, window_hu) in enumerate(
        ((cta, config.cta_window_hu), (ncct, config.ncct_window_hu))
    ):
        if volume is not None:
            _window_into(np.moveaxis(windowed[..., channel], 0, 2), volume, window_hu)
    return windowed


def with_context(slices: Bytes, numbers: Sequence[int], context: int) -> Bytes:
    """Slices with their neighbours as channels; beyond the ends of the volume its last slice is repeated.

    Args:
        slices: uint8 [slice, row, column, 2], all of a case.
        numbers: which of them.
        context: neighbours on each side.

    Returns:
        uint8 [numbers, row, column, channel]: 2 · context + 1 slices of CTA, bottom to top, then of NCCT.
    """
    chosen = np.asarray(numbers)
    if not context:
        return np.asarray(slices[chosen])
    wanted = np.clip(np.add.outer(chosen, np.arange(-context, context + 1)), 0, len(slices) - 1)
    # [number, neighbour, row, column, volume] → [number, row, column, volume, neighbour]
    gathered = np.moveaxis(slices[wanted], 1, 4)
    return np.asarray(gathered.reshape(*gathered.shape[:3], -1))


def mask_slices(case: Case) -> Bytes:
    """The clot mask of a case, uint8 0/1 [slice, row, column]."""
    volume = open_volume(case.mask)
    rows, columns, slices = volume.shape
    masks = np.empty((slices, rows, columns), np.uint8)
    by_voxel = np.moveaxis(masks, 0, 2)
    for block in blocks(volume):
        by_voxel[block] = volume[block] != 0
    return masks


def slices_with_clot(mask: Volume) -> list[int]:
    """Numbers of the slices of a mask [row, column, slice] that hold clot, rising."""
    found = np.zeros(mask.shape[2], bool)
    for block in blocks(mask):
        found[block[2]] |= np.any(mask[block], axis=(0, 1))
    return [int(number) for number in np.flatnonzero(found)]


def _window_into(target: Bytes, volume: Volume, window_hu: WindowHU) -> None:
    """Windows a volume into `target`, of the same shape: integers of 8 and 16 bits through a table.

    The table holds what `window_to_uint8` gives, so both ways agree to the last level.
    """
    native = volume.dtype.newbyteorder("=")
    if native.kind not in "iu" or native.itemsize > 2:
        for block in blocks(volume):
            target[block] = window_to_uint8(volume[block], window_hu)
        return
    unsigned = np.dtype(f"u{native.itemsize}")
    every_value = np.arange(2 ** (8 * native.itemsize), dtype=unsigned).view(native)
    table = window_to_uint8(every_value, window_hu)
    for block in blocks(volume):
        target[block] = np.take(table, np.ascontiguousarray(volume[block], native).view(unsigned))
