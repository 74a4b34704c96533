"""How far two surfaces lie apart: two binary volumes and their spacing in; distances and their areas out.

The surface of a mask is that of marching cubes at one half: every corner point where eight voxels meet, and
not all of them are alike, carries a piece of surface with an area in mm². What lies beyond the volume is
background, so a clot cut off by the border has a surface there too. Points, areas and rules for percentiles
are those of Nikolov et al. 2021 (J Med Internet Res 23:e26151) and their program `surface-distance`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]

CORNERS = np.arange(8).reshape(2, 2, 2)
"""The bit of each of the eight voxels around a corner point."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Side:
    """The pieces of one surface, sorted by distance, then by area.

    Attributes:
        distance_mm: from each piece to the nearest point of the other surface, float64 [n].
        area_mm2: of each piece, float64 [n].
    """

    distance_mm: Floats
    area_mm2: Floats

    def within(self, tolerance_mm: float) -> float:
        """Area no further than this from the other surface, in mm²."""
        return float(self.area_mm2[self.distance_mm <= tolerance_mm].sum())

    def percentile_mm(self, percent: float) -> float:
        """The distance that this share of the area does not exceed."""
        share = np.cumsum(self.area_mm2) / self.area_mm2.sum()
        place = int(np.searchsorted(share, percent / 100))
        return float(self.distance_mm[min(place, len(self.distance_mm) - 1)])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SurfaceDistances:
    """The distances between two surfaces, in both directions."""

    predicted: Side
    truth: Side

    def dice(self, tolerance_mm: float) -> float:
        """Normalised surface Dice (Nikolov et al. 2021): share of both surfaces within a tolerance, 0…1."""
        sides = self.predicted, self.truth
        near = sum(side.within(tolerance_mm) for side in sides)
        return near / sum(float(side.area_mm2.sum()) for side in sides)

    def hausdorff_mm(self, percent: float) -> float:
        """Robust Hausdorff distance: the larger of the two directions' percentiles."""
        return max(self.predicted.percentile_mm(percent), self.truth.percentile_mm(percent))

    def average_mm(self) -> float:
        """Average symmetric surface distance: the mean over the area of both surfaces."""
        sides = self.predicted, self.truth
        weighted = sum(float((side.distance_mm * side.area_mm2).sum()) for side in sides)
        return weighted / sum(float(side.area_mm2.sum()) for side in sides)


def surface_distances(predicted: Mask, truth: Mask, spacing_mm: Spacing) -> SurfaceDistances | None:
    """The distances between the surfaces of two masks.

    Args:
        predicted: bool [row, column, slice].
        truth: bool [row, column, slice].
        spacing_mm: millimetres between voxel centres along each axis.

    Returns:
        None where a mask is empty: there is no distance to what is not there.
    """
    if not (predicted.any() and truth.any()):
        return None
    # All that decides a distance lies in the box around both masks; distance transforms of whole heads are
    # slow.
    (box,) = ndimage.find_objects((predicted | truth).astype(np.uint8))
    codes = [_corner_codes(mask[box]) for mask in (predicted, truth)]
    at_surface = [(code != 0) & (code != 255) for code in codes]
    to_surface = [ndimage.distance_transform_edt(~here, sampling=spacing_mm) for here in at_surface]
    areas = _areas_mm2(spacing_mm)
    sides = []
    for code, here, other in zip(codes, at_surface, reversed(to_surface), strict=True):
        distance, area = other[here], areas[code[here]]
        order = np.lexsort((area, distance))
        sides.append(Side(distance_mm=distance[order], area_mm2=area[order]))
    return SurfaceDistances(predicted=sides[0], truth=sides[1])


def _corner_codes(mask: Mask) -> npt.NDArray[np.uint8]:
    """Which of the eight voxels around each corner point are foreground, one bit each."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([side - 1 for side in padded.shape], np.uint8)
    for (row, column, depth), bit in np.ndenumerate(CORNERS):
        part = padded[row:, column:, depth:][: codes.shape[0], : codes.shape[1], : codes.shape[2]]
        codes |= part << np.uint8(bit)
    return codes


def _areas_mm2(spacing_mm: Spacing) -> Floats:
    """Area of the surface at a corner point, float64 [256], by which of its voxels are foreground."""
    row, column, depth = spacing_mm
    scaled = _triangle_normals() * np.array([column * depth, row * depth, row * column])
    return np.asarray(np.linalg.norm(scaled, axis=-1).sum(axis=-1), np.float64)


@cache
def _triangle_normals() -> Floats:
    """Normals of the triangles of marching cubes (Lorensen & Cline 1987), float64 [256, 5, 3].

    Their length is the area on a grid of unit spacing. Where more than four voxels are foreground the
    triangles of the opposite case are taken: a surface has the same area from both sides.
    """
    from skimage.measure import marching_cubes

    normals = np.zeros((256, 5, 3))
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code
        cube = (fewer >> CORNERS & 1).astype(np.float32)
        points, triangles, _, _ = marching_cubes(cube, 0.5, method="lorensen", allow_degenerate=False)
        a, b, c = (points[triangles[:, corner]] for corner in range(3))
        normals[code, : len(triangles)] = np.cross(b - a, c - a) / 2
    return normals
