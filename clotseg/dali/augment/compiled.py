"""The original's six transforms of one slice, compiled for the CPU.

Bit for bit what OpenCV and albumentations do. On a CPU, DALI's graph takes most of its time to start
operators and for copies between them: what are some tens of operators there is one function here.

A slice is worked on as lines, uint8 [H, W·C], in which the channels of a pixel lie next to each other, as in
the records. Places in a line are counted from parts cut out before a loop, so that none can be negative: then
the compiler works on many at once.

Numba keeps what it has compiled until the file changes that it stands in, whatever it calls from elsewhere:
so all of it stands here, with the functions that DALI calls at the end.
"""

import math
from typing import Any

import numpy as np
from numba import carray, cfunc, njit
from numpy.typing import NDArray
from nvidia.dali.plugin.numba import address_as_void_pointer

from clotseg.dali.augment.clahe import BINS, TILES
from clotseg.dali.augment.packed import (
    ALPHA,
    BETA,
    BLUR,
    CLIP,
    GAMMA,
    HFLIP,
    LEVELS,
    PARAMETERS,
    SCALARS,
    VFLIP,
)
from clotseg.dali.augment.parameters import KERNEL_SIDE

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Counts = NDArray[np.int32]
Places = NDArray[np.int64]
Fours = NDArray[np.uint32]

GAPS = TILES + 1
"""From the edge to the first centre, between centres, from the last to the edge."""
COUNTERS = 2
"""Neighbours are counted apart: to count up the same number twice running is to wait for the memory."""

SETUP = "void(uint64, uint64, int32, uint64, uint64, int32, int32)"
"""Of outputs: shapes, numbers of axes, how many; the same of inputs; how many samples."""
RUN = "void(uint64, uint64, uint64, int32, uint64, uint64, uint64, int32)"
"""Of outputs: buffers, shapes, numbers of axes, how many; the same of inputs. One sample a call."""


@njit(cache=True)  # type: ignore[untyped-decorator]
def mirrored(place: int, length: int) -> int:
    """Where a place on an axis falls when the axis is mirrored at its ends, which do not come twice."""
    if length == 1:
        return 0
    period = 2 * (length - 1)
    place = abs(place) % period
    return place if place < length else period - place


@njit(cache=True)  # type: ignore[untyped-decorator]
def _mirror(lines: Bytes, channels: int, hflip: bool, vflip: bool, out: Bytes) -> None:
    rows = len(lines)
    for row in range(rows):
        line, to = lines[rows - 1 - row if vflip else row], out[row]
        if not hflip:
            for place in range(to.size):
                to[place] = line[place]
        elif channels == 1:
            _reverse(line, to)
        elif channels == 2:
            # A pixel of CTA and NCCT is moved as one number.
            _reverse(line.view(np.uint16), to.view(np.uint16))
        else:
            for channel in range(channels):
                _reverse(line[channel::channels], to[channel::channels])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _reverse(line: Any, to: Any) -> None:
    last = np.uintp(line.size - 1)
    for place in range(to.size):
        # Without a sign no place can be one counted from the end, which would have to be looked out for.
        to[place] = line[last - np.uintp(place)]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _levels(alpha: np.float32, beta: np.float32, gamma: float) -> Bytes:
    """What becomes of each level: first in single, then, for gamma, in double precision, each truncated."""
    table = np.empty(BINS, np.uint8)
    white = np.float32(BINS - 1)
    for grey in range(BINS):
        linear = np.floor(min(max(np.float32(grey) * alpha + beta, np.float32(0)), white))
        table[grey] = np.uint8(math.floor(math.pow(np.float64(linear) / 255.0, gamma) * 255.0))
    return table


@njit(cache=True)  # type: ignore[untyped-decorator]
def _look_up(pixels: Bytes, table: Bytes) -> None:
    for place in range(pixels.size):
        pixels[place] = table[pixels[place]]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _without_border(kernel: Floats) -> Floats:
    """The kernel, 7, 5 or 3 cells a side, without the zeros around it: they would change no sum."""
    margin = 0
    while margin < KERNEL_SIDE // 2 - 1:
        last = KERNEL_SIDE - 1 - margin
        if kernel[margin].any() or kernel[last].any() or kernel[:, margin].any() or kernel[:, last].any():
            break
        margin += 1
    return np.ascontiguousarray(kernel[margin : KERNEL_SIDE - margin, margin : KERNEL_SIDE - margin])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _filter(lines: Bytes, channels: int, kernel: Floats, out: Bytes) -> None:
    """As `cv2.filter2D`: correlated, mirrored without the edge coming twice, rounded to even, cut to 0…255.

    Holds as many lines in single precision as the kernel has rows, each with what lies beyond its ends.
    """
    rows = len(lines)
    side = len(kernel)
    reach = side // 2
    edge = reach * channels
    held = np.empty((side, lines.shape[1] + 2 * edge), np.float32)
    sums = np.empty(lines.shape[1], np.float32)
    for row in range(-reach, reach):
        _load(lines[mirrored(row, rows)], channels, edge, held[(row + side) % side])
    for row in range(rows):
        _load(lines[mirrored(row + reach, rows)], channels, edge, held[(row + reach) % side])
        sums[:] = 0
        for down in range(side):
            line = held[(row + down + side - reach) % side]
            if side == 3:
                _add_3(sums, line, kernel[down], channels)
            elif side == 5:
                _add_5(sums, line, kernel[down], channels)
            else:
                _add_7(sums, line, kernel[down], channels)
        _round(sums, out[row])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _load(line: Bytes, channels: int, edge: int, held: Floats) -> None:
    inner = held[edge:]
    for place in range(line.size):
        inner[place] = line[place]
    columns = line.size // channels
    for beyond in range(1, edge // channels + 1):
        left, right = mirrored(-beyond, columns), mirrored(columns - 1 + beyond, columns)
        for channel in range(channels):
            held[edge - beyond * channels + channel] = line[left * channels + channel]
            held[edge + line.size + (beyond - 1) * channels + channel] = line[right * channels + channel]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _round(sums: Floats, out: Bytes) -> None:
    for place in range(sums.size):
        out[place] = np.uint8(np.rint(min(max(sums[place], np.float32(0)), np.float32(255))))


# OpenCV adds up cell by cell, and multiplies and adds in one rounding where the processor can; so may these.
# They are written out because a loop over the cells would fetch and store every sum again for each.


@njit(cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _add_3(sums: Floats, line: Floats, cells: Floats, step: int) -> None:
    c0, c1, c2 = cells[0], cells[1], cells[2]
    l0, l1, l2 = line, line[step:], line[2 * step :]
    for x in range(sums.size):
        sums[x] = sums[x] + c0 * l0[x] + c1 * l1[x] + c2 * l2[x]


@njit(cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _add_5(sums: Floats, line: Floats, cells: Floats, step: int) -> None:
    c0, c1, c2, c3, c4 = cells[0], cells[1], cells[2], cells[3], cells[4]
    l0, l1, l2, l3, l4 = line, line[step:], line[2 * step :], line[3 * step :], line[4 * step :]
    for x in range(sums.size):
        sums[x] = sums[x] + c0 * l0[x] + c1 * l1[x] + c2 * l2[x] + c3 * l3[x] + c4 * l4[x]


@njit(cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _add_7(sums: Floats, line: Floats, cells: Floats, step: int) -> None:
    c0, c1, c2, c3, c4, c5, c6 = cells[0], cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]
    l0, l1, l2, l3, l4 = line, line[step:], line[2 * step :], line[3 * step :], line[4 * step :]
    l5, l6 = line[5 * step :], line[6 * step :]
    for x in range(sums.size):
        begun = sums[x] + c0 * l0[x] + c1 * l1[x] + c2 * l2[x] + c3 * l3[x]
        sums[x] = begun + c4 * l4[x] + c5 * l5[x] + c6 * l6[x]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _equalise(lines: Bytes, channels: int, clip: float, out: Bytes) -> None:
    """Equalises each channel by itself.

    Args:
        lines: uint8 [H, W·C].
        channels: C.
        clip: OpenCV's clip limit.
        out: what comes of it, of the same shape; not the lines themselves.
    """
    rows, columns = len(lines), lines.shape[1] // channels
    filled_up = 0 if rows % TILES == 0 and columns % TILES == 0 else 1
    height, width = rows // TILES + filled_up, columns // TILES + filled_up
    tables = _tables(lines, channels, height, width, clip)
    up, down, below = _neighbours(rows, height)
    left, right, beyond = _neighbours(columns, width)
    weights = np.repeat(beyond, channels)
    ends = np.searchsorted(left + right, np.maximum(2 * np.arange(GAPS) - 1, 0), side="right") * channels
    ends[GAPS - 1] = columns * channels
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
            _look_up_fours(lines[row, start : ends[gap]], packed[gap], fours[start : ends[gap]])
            start = ends[gap]
        _blend(fours, weights, below[row], out[row])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _tables(lines: Bytes, channels: int, height: int, width: int, clip: float) -> Bytes:
    """The table of each tile and channel, uint8 [8, 8, C, 256]."""
    tables = np.empty((TILES, TILES, channels, BINS), np.uint8)
    counts = np.empty((COUNTERS, channels, BINS), np.int32)
    area = height * width
    limit = max(int(clip * area / BINS), 1)
    for down in range(TILES):
        for across in range(TILES):
            counts[:] = 0
            for row in range(down * height, (down + 1) * height):
                _count(lines[mirrored(row, len(lines))], channels, across * width, width, counts)
            for channel in range(channels):
                total = counts[0, channel]
                total += counts[1, channel]
                _clip(total, limit)
                _fill_table(total, np.float32(BINS - 1) / np.float32(area), tables[down, across, channel])
    return tables


@njit(cache=True)  # type: ignore[untyped-decorator]
def _count(line: Bytes, channels: int, start: int, width: int, counts: Counts) -> None:
    """Counts the grey levels of so many pixels; those beyond the end of the line are mirrored."""
    columns = line.size // channels
    inside = max(min(width, columns - start), 0)
    if channels == 2:
        _count_pairs(line[2 * start : 2 * (start + inside)], counts)
    else:
        for column in range(start, start + inside):
            for channel in range(channels):
                counts[column % COUNTERS, channel, line[column * channels + channel]] += 1
    for column in range(start + inside, start + width):
        for channel in range(channels):
            counts[0, channel, line[mirrored(column, columns) * channels + channel]] += 1


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
def _look_up_fours(pixels: Bytes, packed: Fours, fours: Fours) -> None:
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


@njit(  # type: ignore[untyped-decorator]
    "void(uint8[:, :, ::1], uint8[:, :, ::1], float64[::1], uint8[:, :, ::1], uint8[:, :, ::1])", cache=True
)
def alter(image: Bytes, mask: Bytes, parameters: NDArray[np.float64], out: Bytes, out_mask: Bytes) -> None:
    """Applies one sample's parameters.

    Args:
        image, mask: uint8 [H, W, C] and [H, W, 1].
        parameters: float64 [57], a row of `packed`.
        out, out_mask: what comes of them, of the same shapes.
    """
    rows, channels = len(image), image.shape[2]
    hflip, vflip = parameters[HFLIP] == 1, parameters[VFLIP] == 1
    blurs, equalises = parameters[BLUR] == 1, parameters[CLIP] > 0
    _mirror(mask.reshape(rows, -1), 1, hflip, vflip, out_mask.reshape(rows, -1))
    # Blur and CLAHE go from one of two buffers to the other, and the last step is to end in `out`.
    last = out.reshape(rows, -1)
    spare = np.empty_like(last) if blurs or equalises else last
    here, there = (spare, last) if blurs != equalises else (last, spare)
    _mirror(image.reshape(rows, -1), channels, hflip, vflip, here)
    if parameters[LEVELS] == 1:
        table = _levels(np.float32(parameters[ALPHA]), np.float32(parameters[BETA]), parameters[GAMMA])
        _look_up(here.reshape(-1), table)
    if blurs:
        cells = parameters[len(SCALARS) :].astype(np.float32)
        _filter(here, channels, _without_border(cells.reshape(KERNEL_SIDE, KERNEL_SIDE)), there)
        here, there = there, here
    if equalises:
        _equalise(here, channels, parameters[CLIP], there)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _numbers(address: int, count: int) -> Places:
    """So many numbers of 64 bits, which may be addresses."""
    numbers: Places = carray(address_as_void_pointer(address), (count,), np.int64)
    return numbers


@njit(cache=True)  # type: ignore[untyped-decorator]
def _bytes(address: int, shape: Places) -> Bytes:
    pixels: Bytes = carray(address_as_void_pointer(address), (shape[0], shape[1], shape[2]), np.uint8)
    return pixels


@cfunc(SETUP, cache=True)  # type: ignore[untyped-decorator]
def setup_alter(
    out_shapes: int, _axes: int, outs: int, in_shapes: int, _in_axes: int, _ins: int, samples: int
) -> None:
    """Outputs are as large as the first inputs."""
    to, given = _numbers(out_shapes, outs * samples), _numbers(in_shapes, outs * samples)
    for number in range(outs * samples):
        _numbers(to[number], 3)[:] = _numbers(given[number], 3)


@cfunc(RUN, cache=True)  # type: ignore[untyped-decorator]
def run_alter(
    outs: int, _shapes: int, _axes: int, count: int, ins: int, in_shapes: int, _in_axes: int, in_count: int
) -> None:
    """Image, mask and parameters in, image and mask out."""
    to, given, shapes = _numbers(outs, count), _numbers(ins, in_count), _numbers(in_shapes, in_count)
    of_image, of_mask = _numbers(shapes[0], 3), _numbers(shapes[1], 3)
    parameters = carray(address_as_void_pointer(given[2]), (PARAMETERS,), np.float64)
    image, mask = _bytes(given[0], of_image), _bytes(given[1], of_mask)
    alter(image, mask, parameters, _bytes(to[0], of_image), _bytes(to[1], of_mask))
