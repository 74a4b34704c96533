"""The frame of a phantom, in millimetres: centre lines and shapes in; how much of each voxel they fill out.

Every point is (row, column, slice) in mm from the middle of the field of view: rows grow towards the back of
the head, columns towards the patient's left, slices upwards. Whatever the number of voxels, the field of view
is the same piece of the head, so a shape keeps its size in mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree

FIELD_OF_VIEW_MM = (112.0, 112.0, 36.0)
STEP_MM = 0.5

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
Random = np.random.Generator
Vector = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """The voxels of a case.

    Attributes:
        shape: (rows, columns, slices).
    """

    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (row, column, slice)."""
        row, column, depth = (
            extent / count for extent, count in zip(FIELD_OF_VIEW_MM, self.shape, strict=True)
        )
        return row, column, depth

    @property
    def edge_mm(self) -> float:
        """Side of the cube with a voxel's volume: over this distance a border goes from empty to full."""
        return float(np.cbrt(np.prod(self.spacing_mm)))

    def axis_mm(self, axis: int) -> Floats:
        """Voxel centres along one axis, float32 [count]."""
        count = self.shape[axis]
        centred = np.arange(count) + 0.5 - count / 2
        return np.asarray(centred * self.spacing_mm[axis], np.float32)

    def axes_mm(self) -> tuple[Floats, Floats, Floats]:
        """Voxel centres along all axes, shaped to broadcast to a volume."""
        return (
            self.axis_mm(0)[:, None, None],
            self.axis_mm(1)[None, :, None],
            self.axis_mm(2)[None, None, :],
        )


@dataclass(frozen=True, slots=True)
class Tube:
    """A vessel-like shape.

    Attributes:
        points_mm: its centre line, float64 [n, 3], about `STEP_MM` apart.
        radius_mm: its radius at each point, float64 [n].
    """

    points_mm: Points
    radius_mm: Points

    @property
    def arc_mm(self) -> Points:
        """Distance of each point from the first along the centre line, float64 [n]."""
        steps = np.linalg.norm(np.diff(self.points_mm, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length_mm(self) -> float:
        """Length of the centre line."""
        return float(self.arc_mm[-1])


@dataclass(frozen=True, slots=True)
class Patch:
    """What a tube fills in the box of voxels around it.

    Attributes:
        box: where the box lies in the volume.
        coverage: 0…1 per voxel of the box; one half on the wall of the tube.
        nearest: index of the nearest point of the centre line, per voxel of the box.
    """

    box: tuple[slice, slice, slice]
    coverage: Floats
    nearest: NDArray[np.intp]


def tube_through(controls_mm: Sequence[Sequence[float]] | Points, radius_mm: tuple[float, float]) -> Tube:
    """A smooth tube through control points [n ≥ 2, 3], its radius going evenly from the first to the last."""
    controls = np.asarray(controls_mm, np.float64)
    chords = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(controls, axis=0), axis=1))])
    spline = make_interp_spline(chords, controls, k=min(3, len(controls) - 1))
    along = np.linspace(0.0, chords[-1], max(2, int(np.ceil(chords[-1] / STEP_MM)) + 1))
    return Tube(np.asarray(spline(along), np.float64), np.linspace(*radius_mm, len(along)))


def fill_tube(grid: Grid, tube: Tube) -> Patch | None:
    """How much of each voxel a tube fills, or None where it lies outside the grid."""
    reach = float(tube.radius_mm.max()) + grid.edge_mm
    box = []
    for axis, spacing in enumerate(grid.spacing_mm):
        ends = np.array([tube.points_mm[:, axis].min() - reach, tube.points_mm[:, axis].max() + reach])
        low, high = np.floor(ends / spacing + grid.shape[axis] / 2).astype(int)
        box.append(slice(max(low, 0), min(high + 1, grid.shape[axis])))
        if box[-1].start >= box[-1].stop:
            return None
    centres = np.meshgrid(*(grid.axis_mm(axis)[part] for axis, part in enumerate(box)), indexing="ij")
    # Far from the tube the exact distance is of no use; the bound makes the search stop early.
    distance, nearest = cKDTree(tube.points_mm).query(np.stack(centres, -1), distance_upper_bound=reach + 1)
    nearest = np.minimum(nearest, len(tube.points_mm) - 1)
    coverage = np.clip(0.5 - (distance - tube.radius_mm[nearest]) / grid.edge_mm, 0.0, 1.0)
    return Patch((box[0], box[1], box[2]), coverage.astype(np.float32), nearest)


def fill_tubes(grid: Grid, tubes: Sequence[Tube]) -> Floats:
    """How much of each voxel several tubes fill together, float32 0…1 [row, column, slice]."""
    coverage = np.zeros(grid.shape, np.float32)
    for tube in tubes:
        patch = fill_tube(grid, tube)
        if patch is not None:
            np.maximum(coverage[patch.box], patch.coverage, out=coverage[patch.box])
    return coverage


def fill_ellipsoid(grid: Grid, centre_mm: Vector, radii_mm: Vector) -> Floats:
    """How much of each voxel an ellipsoid fills, float32 0…1 [row, column, slice]."""
    row, column, depth = (
        (axis - np.float32(middle)) / np.float32(radius)
        for axis, middle, radius in zip(grid.axes_mm(), centre_mm, radii_mm, strict=True)
    )
    outside_mm = (np.sqrt(row**2 + column**2 + depth**2) - 1) * np.float32(min(radii_mm))
    return np.asarray(np.clip(0.5 - outside_mm / np.float32(grid.edge_mm), 0, 1), np.float32)


def blend(volume: Floats, coverage: Floats, hu: float | Floats) -> None:
    """Replaces the covered share of each voxel by `hu`, in place: the partial-volume effect."""
    volume += coverage * (hu - volume)


def smooth_field(random: Random, grid: Grid, sigma_mm: float) -> Floats:
    """A random field of mean 0 and SD 1 that varies over about `sigma_mm`, float32 [row, column, slice]."""
    from scipy.ndimage import gaussian_filter

    # Drawn on a coarse grid of fixed size in mm, so that it costs the same and looks the same on every grid.
    pitch_mm = sigma_mm / 1.5
    coarse_shape = [int(np.ceil(extent / pitch_mm)) + 4 for extent in FIELD_OF_VIEW_MM]
    coarse = gaussian_filter(random.standard_normal(coarse_shape).astype(np.float32), 1.5)
    coarse /= coarse.std()
    return resample(coarse, grid, pitch_mm)


def resample(coarse: Floats, grid: Grid, pitch_mm: float) -> Floats:
    """Linear interpolation of a cubic-voxel volume, centred on the field of view, at the grid's voxels."""
    from scipy.ndimage import affine_transform

    zoom = np.asarray(grid.spacing_mm) / pitch_mm
    offset = (np.asarray(coarse.shape) - 1) / 2 - zoom * (np.asarray(grid.shape) - 1) / 2
    return np.asarray(
        affine_transform(coarse, zoom, offset, output_shape=grid.shape, order=1, mode="nearest"), np.float32
    )


def rotation(degrees: Vector) -> Points:
    """The matrix, float64 [3, 3], of turns about the row, column and slice axes, in this order."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(), np.float64)
