"""Noise that differs in every pixel, and yet comes back from one number a sample.

DALI's own noise takes a seed for a whole graph, so what it did to one sample could not be done again. Here a
pixel's noise is worked out from the sample's seed and the pixel's place, by hashing, so that a record that
holds the seed holds the noise, whatever else is in the batch and however large the graph's slices may be.
"""

import numpy as np
from nvidia.dali import fn, math, types

from clotseg.dali.augment.parameters import DataNode, beside

LARGEST_SEED = 2**24
ROW_STRIDE = 2**16
"""The values of a row have fewer numbers than this."""


def add_noise(
    images: DataNode, sd: DataNode, factor: DataNode, seed: DataNode, *, channels: int, largest_side: int
) -> DataNode:
    """Adds normal noise of variance sd² + factor · grey, by itself in each channel; rounds, cuts to 0…255.

    `factor` · grey is the variance of Poisson noise where one event is worth `factor` grey levels. From some
    ten events on, grey above 10 · `factor`, a Poisson distribution is close to the normal one used here.

    Args:
        images: uint8 HWC.
        sd: float32, in grey levels.
        factor: float32, in grey levels.
        seed: int32, from 0 up to `LARGEST_SEED`.
        channels: C.
        largest_side: no image has more rows or columns.

    Returns:
        uint8 HWC.
    """
    grey = fn.cast(images, dtype=types.FLOAT)
    sd, factor, seed = (beside(images, node) for node in (sd, factor, seed))
    normal = _normal(_numbered(images, channels, largest_side), fn.cast(seed, dtype=types.UINT32))
    return fn.cast(grey + math.sqrt(sd * sd + grey * factor) * normal, dtype=types.UINT8)


def _numbered(images: DataNode, channels: int, largest_side: int) -> DataNode:
    """A number of its own for every value of an image, uint32 HWC, by its place alone."""
    sides = images.shape()
    rows = np.arange(largest_side, dtype=np.uint32).reshape(-1, 1, 1) * np.uint32(ROW_STRIDE)
    in_row = np.arange(largest_side * channels, dtype=np.uint32).reshape(1, -1, channels)
    down = types.Constant(rows, device="cpu")[: sides[0]]
    across = types.Constant(in_row, device="cpu")[:, : sides[1]]
    return beside(images, down) + beside(images, across)


def _normal(numbers: DataNode, seed: DataNode) -> DataNode:
    """Standard normal, float32 (Box & Muller 1958, A Note on the Generation of Random Normal Deviates)."""
    first = _hashed(seed)
    second = _hashed(first + _whole(1))
    third = _hashed(second + _whole(1))
    scattered = _hashed(numbers ^ first)
    radius = math.sqrt(math.log(_fraction(_hashed(scattered + second))) * -2.0)
    return radius * math.cos(_fraction(_hashed(scattered + third)) * (2 * np.pi))


def _hashed(numbers: DataNode) -> DataNode:
    """uint32 to uint32, one to one, every bit of the output depending on every bit of the input.

    Shifts, exclusive or and multiplication modulo 2³², as MurmurHash3 ends, with one odd factor below 2³¹,
    since DALI's constants are signed.
    """
    for _ in range(2):
        numbers = (numbers ^ (numbers // _whole(2**16))) * _whole(0x045D9F3B)
    return numbers ^ (numbers // _whole(2**16))


def _fraction(numbers: DataNode) -> DataNode:
    """uint32 to float32 above 0 and up to 1, from the 24 bits that single precision holds."""
    return (fn.cast(numbers // _whole(2**8), dtype=types.FLOAT) + 0.5) * 2.0**-24


def _whole(value: int) -> DataNode:
    return types.Constant(value, dtype=types.UINT32)
