"""CLAHE on 8 × 8 tiles with a clip limit of its own for each sample, as `cv2.createCLAHE`.

DALI fixes the clip limit when a graph is built. But OpenCV rounds it down to whole pixels of a tile,
⌊clip · area / 256⌋ and at least 1, so a ladder of a few fixed limits does what any limit does. The rungs
lie 256 / (largest area + 1) apart: closer than the limits that one rounding maps to the same number, for
the largest tile and so for every smaller one.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import do_not_convert

from clotseg.dali.augment.parameters import DataNode

TILES = 8
BINS = 256


def largest_tile_area(largest_side: int) -> int:
    """Pixels of the largest tile of a slice of up to this side.

    OpenCV fills both sides up when either is not a multiple of 8, a side that is one by 8 more pixels.
    """
    return (largest_side // TILES + 1) ** 2


@do_not_convert  # type: ignore[untyped-decorator]
def rungs_needed(largest_clip: float, smallest_clip: float, largest_area: int) -> list[int]:
    """Numbers of the rungs that some tile area up to the largest makes use of, ascending."""
    used = {0}
    for area in range(1, largest_area + 1):
        lowest = max(2, int(smallest_clip * area / BINS))
        for limit in range(lowest, int(largest_clip * area / BINS) + 1):
            used.add(ceil(limit * (largest_area + 1) / area - 0.5 + _margin(largest_area)))
    return sorted(used)


def rung_clip(rung: int, largest_area: int) -> float:
    """The clip limit of a rung."""
    return (rung + 0.5) * BINS / (largest_area + 1)


def equalise(
    images: DataNode, clip: DataNode, *, channels: int, largest_side: int, clips: tuple[float, float]
) -> DataNode:
    """Equalises each channel by itself.

    Args:
        images: uint8 HWC, up to `largest_side` pixels a side.
        clip: float64, a clip limit a sample, within `clips`.
        channels: C.
        largest_side: in pixels.
        clips: the smallest and largest clip limit.
    """
    largest_area = largest_tile_area(largest_side)
    rungs = rungs_needed(clips[1], clips[0], largest_area)
    tile = _tile(images)
    rung = _rung_of(tile, clip, largest_area)
    # OpenCV, which the operator of a CPU is, fills up; that of a GPU makes the last tiles smaller.
    sides = images.shape()
    filled = fill_up(images, tile * TILES, largest_side + TILES)
    return _by_plane(filled, rung, rungs, channels, largest_area)[: sides[0], : sides[1]]


def fill_up(images: DataNode, sides: DataNode, largest_side: int) -> DataNode:
    """Mirrors images at their bottom and right edge, which does not come twice, as often as need be.

    Args:
        images: HWC.
        sides: int64 [2], rows and columns of the output, not fewer than there are.
        largest_side: more pixels a side are never asked for.
    """
    for axis in (0, 1):
        places = types.Constant(np.arange(largest_side, dtype=np.int32), device="cpu")[: sides[axis]]
        last = fn.cast(images.shape()[0] - 1, dtype=types.INT32)
        period = math.max(last * 2, 1)
        order = last - math.abs(last - (places - (places // period) * period))
        mirrored = fn.sequence_rearrange(fn.reshape(images, layout="FHC"), new_order=order)
        # Now the other side comes first; twice, and the sides are in order again.
        images = fn.transpose(mirrored, perm=[1, 0, 2])
    return fn.reshape(images, layout="HWC")


def _margin(largest_area: int) -> float:
    """Keeps a rung clear of the ends of what it stands for, where single precision could tip it over."""
    return 1 / (3 * (largest_area + 1))


def _tile(images: DataNode) -> DataNode:
    """Rows and columns of a tile, int64 [2]."""
    sides = images.shape()[:2]
    whole = sides // TILES
    return whole + (fn.reductions.max(sides - whole * TILES) > 0)


def _rung_of(tile: DataNode, clip: DataNode, largest_area: int) -> DataNode:
    """The first rung for each sample's clip limit and tile; for a limit of 1, any below it will do."""
    area = tile[0] * tile[1]
    limit = math.floor(clip * area / float(BINS))
    return math.ceil(limit * float(largest_area + 1) / area - (0.5 - _margin(largest_area)))


def _by_plane(
    images: DataNode, rung: DataNode, rungs: Sequence[int], channels: int, largest_area: int
) -> DataNode:
    planes = [images[:, :, channel : channel + 1] for channel in range(channels)]
    return fn.cat(*_climb(planes, rung, rungs, largest_area), axis=2)


def _climb(planes: list[DataNode], rung: DataNode, rungs: Sequence[int], largest_area: int) -> list[DataNode]:
    """Halves the ladder until one rung is left, so that a sample passes few conditions."""
    if len(rungs) == 1:
        clip = rung_clip(rungs[0], largest_area)
        return [fn.clahe(plane, tiles_x=TILES, tiles_y=TILES, clip_limit=clip) for plane in planes]
    middle = len(rungs) // 2
    if rung < rungs[middle]:
        equalised = _climb(planes, rung, rungs[:middle], largest_area)
    else:
        equalised = _climb(planes, rung, rungs[middle:], largest_area)
    return equalised
