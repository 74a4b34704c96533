"""The plane that mirrors one side of a head onto the other: an NCCT in; the plane, or None, out.

The plane stands upright on the slices, so that it is one line, the same in every slice.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

Floats = npt.NDArray[np.float64]

BRAIN_HU = (-20.0, 100.0)
"""Air and bone are seen as the ends of this range, so that neither outweighs the brain."""

GRID_PIXELS, SLICES, SPARSE = 64, 9, 5
ANGLES = np.deg2rad(np.arange(-90.0, 90.0, 5.0))
FARTHEST_OFFSET = 0.25
SMALLEST_OVERLAP = 0.5
LEAST_CORRELATION = 0.6
NEARLY_ALIKE = math.radians(30)
LARGEST_SHARE = 0.8
"""What the best line leaves unexplained, of what the best line across leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Midplane:
    """A line in the slices: all points with `normal` · (point − `point`) = 0, in millimetres or pixels.

    Attributes:
        normal: unit vector (row, column), across the line.
        point: (row, column) of a point on it.
        pixel: size of a pixel (row, column) in the same unit.
        correlation: of the volume with its mirror image, −1…1.
    """

    normal: tuple[float, float]
    point: tuple[float, float]
    pixel: tuple[float, float]
    correlation: float

    def mirror(self, voxels: npt.NDArray[Any]) -> Floats:
        """Indices (row, column, slice) [n, 3] of voxels after mirroring, between voxels as a rule."""
        mirrored = np.array(voxels, np.float64)
        normal, pixel = np.array(self.normal), np.array(self.pixel)
        across = (mirrored[:, :2] * pixel - self.point) @ normal
        mirrored[:, :2] -= 2 * across[:, np.newaxis] * normal / pixel
        return mirrored


def find_midplane(
    ncct_hu: npt.NDArray[Any], spacing_mm: tuple[float, float, float] | None
) -> Midplane | None:
    """The line in the slices about which an NCCT is most like its own mirror image.

    Nine slices, windowed to the brain and made coarse, are mirrored about lines of every direction near the
    middle of the slice; the line with the highest correlation is refined.

    Args:
        ncct_hu: [row, column, slice] in HU.
        spacing_mm: voxel size along each axis; pixels count as square without one.

    Returns:
        None where the volume is nowhere like its mirror image (correlation r below 0.6), or where a line
        across is nearly as good (1 − r of the best line more than 0.8 of that across), as of a disc: then
        nothing says which the mid-plane is.
    """
    pixel = (1.0, 1.0) if spacing_mm is None else (float(spacing_mm[0]), float(spacing_mm[1]))
    coarse, step = _coarse(ncct_hu, pixel)
    if not np.ptp(coarse):
        return None
    search = _Search(coarse)
    offsets = np.arange(-FARTHEST_OFFSET, FARTHEST_OFFSET + 1e-9, 1 / 32) * GRID_PIXELS
    scores = np.array(
        [[search.correlation(angle, offset, every=SPARSE) for offset in offsets] for angle in ANGLES]
    )
    turned = np.abs(_turn(ANGLES - ANGLES[np.unravel_index(int(np.argmax(scores)), scores.shape)[0]]))
    along = _best(search, scores, offsets, turned < NEARLY_ALIKE)
    across = _best(search, scores, offsets, turned > math.pi / 2 - NEARLY_ALIKE)
    (correlation, angle, offset), (second, *_) = sorted((along, across), reverse=True)
    if correlation < LEAST_CORRELATION or 1 - correlation > LARGEST_SHARE * (1 - second):
        return None
    normal = math.sin(angle), math.cos(angle)
    middle = [(side - 1) / 2 * size for side, size in zip(ncct_hu.shape[:2], pixel, strict=True)]
    point = middle[0] + offset * step * normal[0], middle[1] + offset * step * normal[1]
    return Midplane(normal=normal, point=point, pixel=pixel, correlation=correlation)


def _turn(angle: Floats) -> Floats:
    """The same line's angle in −90°…90°."""
    return np.asarray((angle + math.pi / 2) % math.pi - math.pi / 2)


def _best(
    search: "_Search", scores: Floats, offsets: Floats, allowed: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Correlation, angle and offset of the best line among those allowed, refined."""
    among = np.where(allowed[:, np.newaxis], scores, -2.0)
    row, column = np.unravel_index(int(np.argmax(among)), among.shape)
    first = float(ANGLES[row]), float(offsets[column])
    simplex = [first, (first[0] + math.radians(3), first[1]), (first[0], first[1] + 1)]

    def unlike(line: Floats) -> float:
        return -search.correlation(float(line[0]), float(line[1]))

    line = optimize.fmin(unlike, first, xtol=1e-3, ftol=1e-5, disp=False, initial_simplex=simplex)
    return -unlike(line), float(line[0]), float(line[1])


def _coarse(ncct_hu: npt.NDArray[Any], pixel: tuple[float, float]) -> tuple[Floats, float]:
    """Slices [slice, 64, 64] of square pixels around the middle, and the size of these pixels."""
    rows, columns, slices = ncct_hu.shape
    chosen = np.unique(np.linspace(0, slices - 1, min(SLICES, slices) + 2).round().astype(int)[1:-1])
    extent = max(rows * pixel[0], columns * pixel[1])
    step = extent / GRID_PIXELS
    zoom = np.array([step / pixel[0], step / pixel[1]])
    offset = (np.array([rows, columns]) - 1) / 2 - zoom * (GRID_PIXELS - 1) / 2
    coarse = []
    for number in chosen:
        shown = np.clip(np.asarray(ncct_hu[:, :, number], np.float64), *BRAIN_HU)
        smooth = ndimage.gaussian_filter(shown, np.maximum(zoom, 0.5))
        coarse.append(
            ndimage.affine_transform(
                smooth, zoom, offset, output_shape=(GRID_PIXELS, GRID_PIXELS), order=1, cval=math.nan
            )
        )
    return np.stack(coarse), step


class _Search:
    """Correlation of coarse slices with their mirror images; pixels outside the slices do not count."""

    def __init__(self, coarse: Floats) -> None:
        self._flat = coarse.reshape(len(coarse), -1)
        self._known = np.isfinite(coarse[0])
        grid = np.indices(coarse.shape[1:], dtype=np.float64) - (GRID_PIXELS - 1) / 2
        self._points = grid[:, self._known]
        self._values = coarse[:, self._known]

    def correlation(self, angle: float, offset: float, *, every: int = 1) -> float:
        """−1 where the mirror image falls outside by more than half; over all pixels, or every so many."""
        normal = np.array([math.sin(angle), math.cos(angle)])
        points = self._points[:, ::every]
        across = normal @ points - offset
        mirrored = points - 2 * normal[:, np.newaxis] * across + (GRID_PIXELS - 1) / 2
        corner = np.floor(mirrored).astype(int)
        inside = np.asarray(((corner >= 0) & (corner < GRID_PIXELS - 1)).all(axis=0))
        inside[inside] = self._known[tuple(np.rint(mirrored[:, inside]).astype(int))]
        if np.count_nonzero(inside) < SMALLEST_OVERLAP * len(inside):
            return -1.0
        own, other = (
            self._values[:, ::every][:, inside],
            self._between(mirrored[:, inside], corner[:, inside]),
        )
        both = np.isfinite(other[0])
        own, other = own[:, both], other[:, both]
        own, other = own - own.mean(), other - other.mean()
        spread = math.sqrt(float((own**2).sum()) * float((other**2).sum()))
        return float((own * other).sum()) / spread if spread else -1.0

    def _between(self, at: Floats, corner: npt.NDArray[np.intp]) -> Floats:
        """The slices at points between pixels, by linear interpolation: float64 [slice, point]."""
        row, column = at - corner
        first = corner[0] * GRID_PIXELS + corner[1]
        left = (1 - row) * self._flat[:, first] + row * self._flat[:, first + GRID_PIXELS]
        right = (1 - row) * self._flat[:, first + 1] + row * self._flat[:, first + GRID_PIXELS + 1]
        return np.asarray((1 - column) * left + column * right)
