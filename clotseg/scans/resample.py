"""From one grid of voxels to another in one step: HU by linear interpolation, masks so that volume is kept.

Everything is done by one affine map from the voxels of the target to the voxels of the source, whatever lies
between the two: orientation, spacing, crop, registration. So a value is interpolated once, and the same map,
inverted, carries a mask back.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.prep.table import Spacing
from clotseg.scans.scan import Affine, Scan

AIR_HU = -1000.0
POINTS_A_SIDE = 3
"""A voxel's share of a mask is the mean over this many points along each of its sides, cubed."""

NETWORK_AXES_RAS = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Row, column and slice grow to the back, the left and the head of the patient: a column for each axis."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """A grid of voxels in the patient.

    Attributes:
        shape: voxels along each axis.
        affine: 4×4 float64, from (i, j, k, 1) to mm in the patient, RAS+.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))


def grid_of(scan: Scan) -> Grid:
    """The grid that a scan lies on."""
    i, j, k = scan.values.shape
    return Grid(shape=(i, j, k), affine=scan.affine)


def box_grid(low_mm: NDArray[Any], high_mm: NDArray[Any], spacing_mm: float) -> Grid:
    """A grid along the network's axes, [row, column, slice], whose voxel centres fill a box.

    Args:
        low_mm: float [3], RAS+, the box's lower corner.
        high_mm: float [3], RAS+, its upper corner; a voxel lies on each corner where the spacing divides.
        spacing_mm: of all three axes.
    """
    sides = NETWORK_AXES_RAS.T @ np.array([low_mm, high_mm]).T
    first, last = sides.min(axis=1), sides.max(axis=1)
    rows, columns, slices = (int(count) + 1 for count in np.floor((last - first) / spacing_mm + 1e-6))
    affine = np.eye(4)
    affine[:3, :3] = NETWORK_AXES_RAS * spacing_mm
    affine[:3, 3] = NETWORK_AXES_RAS @ first
    return Grid(shape=(rows, columns, slices), affine=affine)


def corners_mm(grid: Grid) -> NDArray[np.float64]:
    """The centres of a grid's eight corner voxels, float64 [8, 3], RAS+ in mm."""
    corners = np.array(np.meshgrid(*((0, side - 1) for side in grid.shape), indexing="ij")).reshape(3, -1)
    return np.asarray((grid.affine[:3, :3] @ corners + grid.affine[:3, 3:]).T)


def spacing_of(grid: Grid) -> Spacing:
    """Millimetres between voxel centres along each axis."""
    i, j, k = np.linalg.norm(grid.affine[:3, :3], axis=0)
    return float(i), float(j), float(k)


def resample_hu(
    scan: Scan, grid: Grid, *, to_scan: Affine | None = None, outside: float = AIR_HU
) -> NDArray[np.float32]:
    """The values of a scan at the voxel centres of another grid, by linear interpolation.

    Args:
        scan: the source.
        grid: the target.
        to_scan: 4×4, from mm in the target's frame to mm in the scan's; the identity where it is one frame.
        outside: what lies beyond the scan's outermost voxels.

    Returns:
        float32 of the grid's shape.
    """
    return _sampled(np.asarray(scan.values, np.float32), _voxel_map(scan, grid, to_scan), grid.shape, outside)


def resample_mask(scan: Scan, grid: Grid, *, to_scan: Affine | None = None) -> NDArray[np.uint8]:
    """A mask on another grid; each of its components keeps its volume, as far as voxels allow.

    Each voxel's share of a component is found first. Then the voxels with the largest shares are taken, as
    many as the shares sum up to. A component that lies in the grid at all keeps a voxel.

    Args:
        scan: the mask; above 0 is inside. Components touch by faces, edges or corners.
        grid: the target.
        to_scan: as for `resample_hu`.

    Returns:
        uint8 0/1 of the grid's shape.
    """
    from scipy import ndimage

    found = np.zeros(grid.shape, np.uint8)
    labels, _ = ndimage.label(np.asarray(scan.values) > 0, np.ones((3, 3, 3)))
    to_voxel = _voxel_map(scan, grid, to_scan)
    for number, block in enumerate(ndimage.find_objects(labels), 1):
        _add_component(found, labels[block] == number, [side.start for side in block], to_voxel)
    return found


def _add_component(
    found: NDArray[np.uint8], component: NDArray[np.bool_], start: list[int], to_voxel: Affine
) -> None:
    """Sets the voxels of one component, which begins at voxel `start` of its scan, in the target."""
    padded = np.pad(component, 1).astype(np.float32)
    shift = np.eye(4)
    shift[:3, 3] = 1 - np.array(start, float)
    to_padded = shift @ to_voxel
    reach = Grid(shape=padded.shape, affine=np.asarray(np.linalg.inv(to_padded), np.float64))
    ends = corners_mm(reach)
    low = np.maximum(np.floor(ends.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(ends.max(axis=0)).astype(int) + 2, found.shape)
    if (high <= low).any():
        return
    window = np.eye(4)
    window[:3, 3] = low
    rows, columns, slices = (int(side) for side in high - low)
    shares = _shares(padded, to_padded @ window, (rows, columns, slices))
    count = max(round(float(shares.sum())), int(shares.max() > 0))
    largest = np.argsort(-shares, axis=None, kind="stable")[:count]
    inside = np.zeros(shares.size, np.uint8)
    inside[largest] = shares.ravel()[largest] > 0
    found[tuple(slice(one, other) for one, other in zip(low, high, strict=True))] |= inside.reshape(
        shares.shape
    )


def _shares(mask: NDArray[np.float32], to_voxel: Affine, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """How much of each voxel of the target lies in the mask, 0…1, from points spread evenly over it."""
    # Where voxels lie on voxels, their centres say all, and a mask stays as it is to the voxel.
    as_large = bool(np.isclose(abs(np.linalg.det(to_voxel)), 1, atol=1e-6))
    side = 1 if as_large and np.allclose(to_voxel, np.rint(to_voxel), atol=1e-6) else POINTS_A_SIDE
    offsets = (np.arange(side) - (side - 1) / 2) / side
    shares = np.zeros(shape, np.float32)
    for offset in np.array(np.meshgrid(offsets, offsets, offsets)).reshape(3, -1).T:
        moved = to_voxel.copy()
        moved[:3, 3] += to_voxel[:3, :3] @ offset
        shares += _sampled(mask, moved, shape, 0.0)
    # Sums of equal terms in another order differ in the last bits, and would order equal shares by chance.
    return np.asarray(np.round(shares / side**3, 6), np.float32)


def _voxel_map(scan: Scan, grid: Grid, to_scan: Affine | None) -> Affine:
    """From the target's voxels to the scan's, 4×4."""
    between = np.eye(4) if to_scan is None else to_scan
    return np.asarray(np.linalg.inv(scan.affine) @ between @ grid.affine)


def _sampled(
    values: NDArray[np.float32], to_voxel: Affine, shape: tuple[int, int, int], outside: float
) -> NDArray[np.float32]:
    """Linear interpolation of `values` [i, j, k] at `to_voxel` of each voxel of `shape`.

    SimpleITK sees voxels as they are numbered, without their place, so axes of any direction will do. Up to
    half a voxel beyond the outermost centres the outermost value holds.
    """
    import SimpleITK

    # The last bits of a product of affines must not move a voxel that lies on another one.
    to_voxel = np.round(to_voxel, 9)
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(to_voxel[:3, :3].ravel().tolist())
    transform.SetTranslation(to_voxel[:3, 3].tolist())
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    filter_ = SimpleITK.ResampleImageFilter()
    filter_.SetSize(shape)
    filter_.SetTransform(transform)
    filter_.SetInterpolator(SimpleITK.sitkLinear)
    filter_.SetDefaultPixelValue(outside)
    sampled = SimpleITK.GetArrayFromImage(filter_.Execute(image))
    return np.ascontiguousarray(sampled.transpose(2, 1, 0))
