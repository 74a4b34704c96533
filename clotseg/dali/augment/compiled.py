"""Flips, grey levels, blur and CLAHE of one slice, compiled for the CPU: the bits of OpenCV and albumentations.

A CPU spends most of DALI's graph on starting operators and on copies between them: what takes one slice some
tens of operators there is one function here. Indices are never negative, and slices of lines are taken before
a loop, so that the compiler can work on many pixels at once. Channels lie next to each other, as in the records.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from clotseg.dali.augment.compiled_clahe import equalise
from clotseg.dali.augment.compiled_edges import mirrored
from clotseg.dali.augment.parameters import KERNEL_SIDE, Columns

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SCALARS = ("hflip", "vflip", "levels", "alpha", "beta", "gamma", "blur", "clahe_clip")
"""The parameters in front, in this order; then come the cells of the kernel, row by row."""
HFLIP, VFLIP, LEVELS, ALPHA, BETA, GAMMA, BLUR, CLIP = range(len(SCALARS))

PARAMETERS = len(SCALARS) + KERNEL_SIDE**2
GREYS = 256


def packed(columns: Columns, *, flips: bool) -> NDArray[np.float64]:
    """The parameters that `alter` takes, float64 [samples, 57]; none is rounded.

    Args:
        columns: the parameters.
        flips: whether slices are mirrored here.
    """
    scalars = np.stack([columns[name].astype(np.float64) for name in SCALARS], axis=1)
    if not flips:
        scalars[:, [HFLIP, VFLIP]] = 0
    return np.concatenate([scalars, columns["kernel"].reshape(len(scalars), -1)], axis=1)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _mirror(image: Bytes, hflip: bool, vflip: bool, out: Bytes) -> None:
    rows, columns, channels = image.shape
    for row in range(rows):
        line, to = image[rows - 1 - row if vflip else row].reshape(-1), out[row].reshape(-1)
        if not hflip:
            for place in range(to.size):
                to[place] = line[place]
        elif channels == 1:
            _reverse(line, to)
        elif channels == 2:
            # A pixel of CTA and NCCT is moved as one number.
            _reverse(line.view(np.uint16), to.view(np.uint16))
        else:
            for column in range(columns):
                for channel in range(channels):
                    to[column * channels + channel] = line[(columns - 1 - column) * channels + channel]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _reverse(line: Any, to: Any) -> None:
    last = np.uintp(line.size - 1)
    for place in range(to.size):
        # Without a sign no place can be one counted from the end, which would have to be looked out for.
        to[place] = line[last - np.uintp(place)]


@njit(cache=True)  # type: ignore[untyped-decorator]
def _levels(alpha: np.float32, beta: np.float32, gamma: float) -> Bytes:
    """What becomes of each grey level: the first step in single, gamma in double precision, each truncated."""
    table = np.empty(GREYS, np.uint8)
    white = np.float32(GREYS - 1)
    for grey in range(GREYS):
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
def _filter(image: Bytes, kernel: Floats, out: Bytes) -> None:
    """As `cv2.filter2D`: correlated, mirrored without the edge coming twice, rounded to even, cut to 0…255.

    Holds as many lines in single precision as the kernel has rows, each with its edges mirrored.
    """
    rows, columns, channels = image.shape
    side = len(kernel)
    reach = side // 2
    lines = np.empty((side, (columns + 2 * reach) * channels), np.float32)
    sums = np.empty(columns * channels, np.float32)
    for row in range(-reach, reach):
        _load(image[mirrored(row, rows)], reach, lines[(row + side) % side])
    for row in range(rows):
        _load(image[mirrored(row + reach, rows)], reach, lines[(row + reach) % side])
        sums[:] = 0
        for down in range(side):
            line = lines[(row + down + side - reach) % side]
            if side == 3:
                _add_3(sums, line, kernel[down], channels)
            elif side == 5:
                _add_5(sums, line, kernel[down], channels)
            else:
                _add_7(sums, line, kernel[down], channels)
        to = out[row].reshape(-1)
        for place in range(sums.size):
            to[place] = np.uint8(np.rint(min(max(sums[place], np.float32(0)), np.float32(255))))


@njit(cache=True)  # type: ignore[untyped-decorator]
def _load(pixels: Bytes, reach: int, line: Floats) -> None:
    columns, channels = pixels.shape
    flat, inner = pixels.reshape(-1), line[reach * channels :]
    for place in range(flat.size):
        inner[place] = flat[place]
    for beyond in range(1, reach + 1):
        left, right = mirrored(-beyond, columns), mirrored(columns - 1 + beyond, columns)
        for channel in range(channels):
            line[(reach - beyond) * channels + channel] = pixels[left, channel]
            line[(reach + columns - 1 + beyond) * channels + channel] = pixels[right, channel]


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
    hflip, vflip = parameters[HFLIP] == 1, parameters[VFLIP] == 1
    blurs, equalises = parameters[BLUR] == 1, parameters[CLIP] > 0
    _mirror(mask, hflip, vflip, out_mask)
    # Blur and CLAHE go from one of two buffers to the other, and the last step is to end in `out`.
    spare = np.empty_like(image) if blurs or equalises else out
    here, there = (spare, out) if blurs != equalises else (out, spare)
    _mirror(image, hflip, vflip, here)
    if parameters[LEVELS] == 1:
        table = _levels(np.float32(parameters[ALPHA]), np.float32(parameters[BETA]), parameters[GAMMA])
        _look_up(here.reshape(-1), table)
    if blurs:
        cells = parameters[len(SCALARS) :].astype(np.float32)
        _filter(here, _without_border(cells.reshape(KERNEL_SIDE, KERNEL_SIDE)), there)
        here, there = there, here
    if equalises:
        equalise(here, parameters[CLIP], there)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _scale(pixels: Bytes, scale: np.float32, out: Floats) -> None:
    for number in range(out.size):
        out[number] = np.float32(pixels[number]) * scale


@njit("void(uint8[:, :, ::1], float32, float32[:, :, ::1])", cache=True)  # type: ignore[untyped-decorator]
def place(image: Bytes, scale: np.float32, out: Floats) -> None:
    """Centre-pads with 0, an odd pixel going to the bottom or right, and scales.

    Args:
        image: uint8 [H, W, C].
        scale: what each grey level is multiplied by.
        out: float32 [S, S, C], no smaller than the image.
    """
    rows, columns, channels = image.shape
    side = len(out)
    top, left = (side - rows) // 2, (side - columns) // 2 * channels
    right = left + columns * channels
    out[:top] = 0
    out[top + rows :] = 0
    for row in range(rows):
        to = out[top + row].reshape(-1)
        to[:left] = 0
        _scale(image[row].reshape(-1), scale, to[left:right])
        to[right:] = 0
