"""CLAHE of one slice on 8 × 8 tiles, compiled for the CPU: the bits of `cv2.createCLAHE`, any number of channels.

Zuiderveld 1994, Contrast limited adaptive histogram equalization (Graphics Gems IV), rounded where OpenCV rounds,
in single precision. Every tile has a table of 256 grey levels; a pixel is blended from those of the four tiles
whose centres lie around it. The four are packed into one number a grey level for each gap between tiles, so that a
pixel is looked up once, and a whole line is blended in one loop.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from clotseg.dali.augment.clahe import BINS, TILES
from clotseg.dali.augment.compiled_edges import mirrored

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Counts = NDArray[np.int32]
Places = NDArray[np.int64]
Fours = NDArray[np.uint32]

GAPS = TILES + 1
"""From the edge to the first centre, between centres, from the last to the edge."""
COUNTERS = 2
"""Neighbours of the same grey are counted apart: counting up one number twice running waits for the memory."""


@njit(cache=True)  # type: ignore[untyped-decorator]
def equalise(image: Bytes, clip: float, out: Bytes) -> None:
    """Equalises each channel by itself.

    Args:
        image: uint8 [H, W, C].
        clip: OpenCV's clip limit.
        out: what comes of it, of the same shape; not the image itself.
    """
    rows, columns, channels = image.shape
    filled_up = 0 if rows % TILES == 0 and columns % TILES == 0 else 1
    height, width = rows // TILES + filled_up, columns // TILES + filled_up
    tables = _tables(image, height, width, clip)
    up, down, below = _neighbours(rows, height)
    left, right, beyond = _neighbours(columns, width)
    weights = np.repeat(beyond, channels)
    ends = np.searchsorted(left + right, np.maximum(2 * np.arange(GAPS) - 1, 0), side="right")
    ends[GAPS - 1] = columns
    packed = np.empty((GAPS, channels, BINS), np.uint32)
    fours = np.empty(columns * channels, np.uint32)
    last = -1
    for row in range(rows):
        if up[row] + down[row] != last:
            last = up[row] + down[row]
            for gap in range(GAPS):
                _pack(tables[up[row]], tables[down[row]], gap, packed[gap])
        start = 0
        for gap in range(GAPS):
            _look_up(image[row, start : ends[gap]].reshape(-1), packed[gap], fours[start * channels :])
            start = ends[gap]
        _blend(fours, weights, below[row], out[row].reshape(-1))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _tables(image: Bytes, height: int, width: int, clip: float) -> Bytes:
    """The table of each tile and channel, uint8 [8, 8, C, 256]."""
    channels = image.shape[2]
    tables = np.empty((TILES, TILES, channels, BINS), np.uint8)
    counts = np.empty((COUNTERS, channels, BINS), np.int32)
    area = height * width
    limit = max(int(clip * area / BINS), 1)
    for down in range(TILES):
        for across in range(TILES):
            _count(image, down * height, across * width, height, width, counts)
            for channel in range(channels):
                total = counts[0, channel]
                total += counts[1, channel]
                _clip(total, limit)
                _fill_table(total, np.float32(BINS - 1) / np.float32(area), tables[down, across, channel])
    return tables


@njit(cache=True)  # type: ignore[untyped-decorator]
def _count(image: Bytes, top: int, start: int, height: int, width: int, counts: Counts) -> None:
    """Counts grey levels in a tile; what of it lies beyond the slice is mirrored."""
    rows, columns, channels = image.shape
    counts[:] = 0
    inside = max(min(width, columns - start), 0)
    for row in range(top, top + height):
        line = image[mirrored(row, rows)]
        if channels == 2:
            _count_pairs(line[start : start + inside].reshape(-1), counts)
        else:
            for column in range(start, start + inside):
                for channel in range(channels):
                    counts[column % COUNTERS, channel, line[column, channel]] += 1
        for column in range(start + inside, start + width):
            for channel in range(channels):
                counts[0, channel, line[mirrored(column, columns), channel]] += 1


@njit(cache=True)  # type: ignore[untyped-decorator]
def _count_pairs(pixels: Bytes, counts: Counts) -> None:
    """The same for two channels, two pixels at a time."""
    first, second, third, fourth = counts[0, 0], counts[0, 1], counts[1, 0], counts[1, 1]
    for four in range(pixels.size // 4):
        first[pixels[4 * four]] += 1
        second[pixels[4 * four + 1]] += 1
        third[pixels[4 * four + 2]] += 1
        fourth[pixels[4 * four + 3]] += 1
    if pixels.size % 4:
        first[pixels[pixels.size - 2]] += 1
        second[pixels[pixels.size - 1]] += 1


@njit(cache=True)  # type: ignore[untyped-decorator]
def _clip(counts: Counts, limit: int) -> None:
    """Cuts counts at the limit and shares out what was cut; the rest goes to every so many-th grey."""
    cut = 0
    for grey in range(BINS):
        cut += max(counts[grey] - limit, 0)
        counts[grey] = min(counts[grey], limit)
    counts += np.int32(cut // BINS)
    rest = cut % BINS
    if rest:
        step = max(BINS // rest, 1)
        counts[: rest * step : step] += np.int32(1)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _fill_table(counts: Counts, scale: np.float32, table: Bytes) -> None:
    total = np.int32(0)
    for grey in range(BINS):
        total += counts[grey]
        counts[grey] = total
    for grey in range(BINS):
        table[grey] = np.uint8(min(np.rint(np.float32(counts[grey]) * scale), np.float32(BINS - 1)))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _neighbours(length: int, tile: int) -> tuple[Places, Places, Floats]:
    """Of each place on an axis: the tiles whose centres it lies between, and the weight of the second."""
    first, second = np.empty(length, np.int64), np.empty(length, np.int64)
    weight = np.empty(length, np.float32)
    inverse = np.float32(1) / np.float32(tile)
    for place in range(length):
        along = np.float32(place) * inverse - np.float32(0.5)
        before = np.floor(along)
        weight[place] = along - before
        first[place] = max(int(before), 0)
        second[place] = min(int(before) + 1, TILES - 1)
    return first, second, weight


@njit(cache=True)  # type: ignore[untyped-decorator]
def _pack(above: Bytes, below: Bytes, gap: int, packed: Fours) -> None:
    """The four tables around a gap, a byte each: above left, above right, below left, below right."""
    left, right = max(gap - 1, 0), min(gap, TILES - 1)
    for channel in range(len(packed)):
        first, second = above[left, channel], above[right, channel]
        third, fourth = below[left, channel], below[right, channel]
        to = packed[channel]
        for grey in range(BINS):
            low = np.uint32(first[grey]) | np.uint32(second[grey]) << np.uint32(8)
            high = np.uint32(third[grey]) << np.uint32(16) | np.uint32(fourth[grey]) << np.uint32(24)
            to[grey] = low | high


@njit(cache=True)  # type: ignore[untyped-decorator]
def _look_up(pixels: Bytes, packed: Fours, fours: Fours) -> None:
    channels = len(packed)
    if channels == 2:
        first, second = packed[0], packed[1]
        for pair in range(pixels.size // 2):
            fours[2 * pair] = first[pixels[2 * pair]]
            fours[2 * pair + 1] = second[pixels[2 * pair + 1]]
    else:
        for place in range(pixels.size // channels):
            for channel in range(channels):
                value = place * channels + channel
                fours[value] = packed[channel, pixels[value]]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _blend(fours: Fours, weights: Floats, below: np.float32, out: Bytes) -> None:
    """Bilinear; nothing may be multiplied and added in one rounding here, since OpenCV does not."""
    byte, one = np.uint32(255), np.float32(1)
    above = one - below
    for place in range(out.size):
        four, right = fours[place], weights[place]
        left = one - right
        first = np.float32(np.int32(four & byte))
        second = np.float32(np.int32(four >> np.uint32(8) & byte))
        third = np.float32(np.int32(four >> np.uint32(16) & byte))
        fourth = np.float32(np.int32(four >> np.uint32(24)))
        grey = (first * left + second * right) * above + (third * left + fourth * right) * below
        out[place] = np.uint8(np.int32(np.rint(grey)))
