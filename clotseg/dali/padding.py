"""Padding and scaling: uint8 slices of any size in, float32 squares out.

DALI's operators write a slice three times: padded, as floats, and scaled. What is compiled for the CPU writes
it once; it all stands in this file, for the reason that `clotseg.dali.augment.compiled` gives.
"""

import numpy as np
from numba import carray, cfunc, njit
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.plugin.numba import address_as_void_pointer

from clotseg.dali.augment.compiled import RUN, SETUP
from clotseg.dali.augment.on_cpu import compiled_operator
from clotseg.dali.augment.parameters import DataNode

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

WHITE = np.float32(1 / 255)
"""What an image's grey levels are multiplied by."""


def placed(
    images: DataNode, masks: DataNode, size: int, *, compiled: bool | None = None
) -> tuple[DataNode, DataNode]:
    """Slices amid zeros, an odd pixel going to the bottom or right, as floats.

    Args:
        images, masks: uint8 HWC.
        size: S, no smaller than any slice.
        compiled: whether `place` does it instead of DALI's operators, which only a CPU can run; None is where
            it can.

    Returns:
        Images float32 [S, S, C] of 0…1, and masks float32 [S, S, 1] of 0 and 1.
    """
    if images.device == "cpu" if compiled is None else compiled:
        # An operator learns how large its outputs are from the shapes of its inputs alone.
        side = types.Constant(np.zeros(size, np.uint8), device="cpu")
        return tuple(compiled_operator(_run, _set_up, types.FLOAT, types.UINT8)(images, masks, side))
    images, masks = _cropped(images, size), _cropped(masks, size)
    return images * (1.0 / 255.0), masks


def _cropped(images: DataNode, size: int) -> DataNode:
    cropped = fn.crop(
        images, crop=(size, size), out_of_bounds_policy="pad", fill_values=0, rounding="truncate"
    )
    return fn.cast(cropped, dtype=types.FLOAT)


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
    lines, squares = image.reshape(rows, -1), out.reshape(side, -1)
    top, left = (side - rows) // 2, (side - columns) // 2 * channels
    right = left + columns * channels
    squares[:top] = 0
    squares[top + rows :] = 0
    for row in range(rows):
        to = squares[top + row]
        to[:left] = 0
        _scale(lines[row], scale, to[left:right])
        to[right:] = 0


@njit(cache=True)  # type: ignore[untyped-decorator]
def _numbers(address: int, count: int) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = carray(address_as_void_pointer(address), (count,), np.int64)
    return numbers


@cfunc(SETUP, cache=True)  # type: ignore[untyped-decorator]
def _set_up(
    out_shapes: int, _axes: int, outs: int, in_shapes: int, _in_axes: int, ins: int, samples: int
) -> None:
    """Outputs are squares, a side as long as the last input."""
    to, given = _numbers(out_shapes, outs * samples), _numbers(in_shapes, ins * samples)
    side = _numbers(given[outs * samples], 1)[0]
    for number in range(outs * samples):
        shape = _numbers(to[number], 3)
        shape[0], shape[1], shape[2] = side, side, _numbers(given[number], 3)[2]


@cfunc(RUN, cache=True)  # type: ignore[untyped-decorator]
def _run(
    outs: int, _shapes: int, _axes: int, count: int, ins: int, in_shapes: int, _in_axes: int, in_count: int
) -> None:
    """Image, mask and a square's side in, image and mask out."""
    to, given, shapes = _numbers(outs, count), _numbers(ins, in_count), _numbers(in_shapes, in_count)
    side = _numbers(shapes[2], 1)[0]
    for number in range(count):
        shape = _numbers(shapes[number], 3)
        image = carray(address_as_void_pointer(given[number]), (shape[0], shape[1], shape[2]), np.uint8)
        squares = carray(address_as_void_pointer(to[number]), (side, side, shape[2]), np.float32)
        place(image, WHITE if number == 0 else np.float32(1), squares)
