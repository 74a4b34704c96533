"""What an import looked like: a built case in; one PNG with its crop and a checkerboard of its scans out.

Above: the CTA as it was read, seen from the left, the front and the top, with the crop outlined. Below: the
case, its CTA and NCCT in turn on the fields of a chessboard, in the same three planes through the clot, or
through the middle where there is none; the mask is outlined.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.importer.case import BuiltCase
from clotseg.scans.resample import Grid, box_grid, corners_mm, grid_of, resample_hu

CTA_WINDOW_HU, NCCT_WINDOW_HU = (-50.0, 350.0), (-20.0, 100.0)
OVERVIEW_MM = 1.5
PANEL = 280
FIELDS = 8
"""Fields of the chessboard along the longer side of a panel."""
CROP_COLOUR, MASK_COLOUR = (255, 196, 0), (0, 220, 90)

Panel = NDArray[np.uint8]


def draw_case(case: BuiltCase) -> bytes:
    """The picture as PNG, two rows of three panels."""
    from PIL import Image

    rows = [np.hstack(panels) for panels in (_overview(case), _checkerboards(case))]
    stream = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _overview(case: BuiltCase) -> list[Panel]:
    ends = corners_mm(grid_of(case.scan))
    grid = box_grid(ends.min(axis=0), ends.max(axis=0), OVERVIEW_MM)
    hu = resample_hu(case.scan, grid)
    corners = _voxels_of(grid, corners_mm(case.grid))
    first, last = np.rint(corners.min(axis=0)).astype(int), np.rint(corners.max(axis=0)).astype(int)
    middle = (first + last) // 2
    crop = np.zeros(hu.shape, bool)
    crop[tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))] = True
    panels = []
    for axis in range(3):
        picture = _coloured(_windowed(_plane(hu, axis, middle), CTA_WINDOW_HU))
        panels.append(_panel(picture, _edge(_plane(crop, axis, middle)), CROP_COLOUR))
    return panels


def _voxels_of(grid: Grid, places_mm: NDArray[Any]) -> NDArray[Any]:
    to_voxel = np.linalg.inv(grid.affine)
    voxels = (to_voxel[:3, :3] @ places_mm.T).T + to_voxel[:3, 3]
    return np.asarray(np.clip(voxels, 0, np.array(grid.shape) - 1))


def _checkerboards(case: BuiltCase) -> list[Panel]:
    shape = case.cta.shape
    clot = np.argwhere(case.mask) if case.mask is not None else np.zeros((0, 3))
    middle = np.rint(clot.mean(axis=0)).astype(int) if len(clot) else np.array(shape) // 2
    panels = []
    for axis in range(3):
        cta = _windowed(_plane(case.cta, axis, middle), CTA_WINDOW_HU)
        ncct = _windowed(_plane(case.ncct, axis, middle), NCCT_WINDOW_HU)
        field = max(1, max(cta.shape) // FIELDS)
        row, column = np.indices(cta.shape) // field
        picture = _coloured(np.where((row + column) % 2 == 0, cta, ncct))
        outline = np.zeros(cta.shape, bool)
        if case.mask is not None:
            outline = _edge(_plane(case.mask, axis, middle) > 0)
        panels.append(_panel(picture, outline, MASK_COLOUR))
    return panels


def _plane(volume: NDArray[Any], axis: int, middle: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    """A plane of [row, column, slice] as it is hung: the head up, the front up or to the left."""
    if axis == 2:
        return np.asarray(volume[:, :, middle[2]])
    across = volume[:, middle[1], :] if axis == 0 else volume[middle[0], :, :]
    return np.asarray(across.T[::-1])


def _windowed(hu: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = window
    return np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _coloured(grey: NDArray[np.uint8]) -> Panel:
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost pixels of what is inside."""
    padded = np.pad(inside, 1)
    kept = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~kept


def _panel(picture: Panel, outline: NDArray[np.bool_], colour: tuple[int, int, int]) -> Panel:
    """A picture in the middle of a square of `PANEL` pixels, with the outline drawn over it."""
    from PIL import Image

    picture = picture.copy()
    picture[outline] = colour
    rows, columns = outline.shape
    scale = PANEL / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
    panel = np.zeros((PANEL, PANEL, 3), np.uint8)
    top, left = (PANEL - size[1]) // 2, (PANEL - size[0]) // 2
    panel[top : top + size[1], left : left + size[0]] = resized
    return panel
