"""What a clot is like: a mask and the volumes it was drawn on in; one measurement per clot out.

A clot is a 26-connected component of a mask [row, column, slice]; clots come in the order of their first
voxel. What always holds: a column of a measurement that does not exist is None, never NaN; without a voxel
spacing all columns in millimetres are None; nothing here knows which mask is the true one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from clotseg.errors import DataError
from clotseg.evaluate.midplane import Midplane, find_midplane

Mask = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]

PERCENTILES = (10, 50, 90)
PERVIOUS_TAI_HU = 10.9
"""Santos et al. 2016 (Stroke 47:732): clots that gain this much from contrast let some blood through."""

LARGEST_TO_DIVIDE = 20_000
MOST_PARTS = 16
SMOOTHING_VOXELS = 1.0
HEADING_VOXELS = 2.0
STEPS_PER_PART = 50
HALF_OF_CUBE = [(r, c, s) for r in (0, 1) for c in (-1, 0, 1) for s in (-1, 0, 1) if (r, c, s) > (0, 0, 0)]
"""The 13 of the 26 neighbours that come later, so that each pair of neighbours is met once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClotMeasurement:
    """What is reported about one clot.

    Args:
        clot: number of the clot in its mask, from 1.
        volume_voxels: voxels of the clot.
        volume_mm3: voxels times the volume of a voxel; None where the spacing is not known.
        length_voxels: see `clot_lengths`, with every voxel a cube of side 1.
        length_mm: see `clot_lengths`; None where the spacing is not known.
        centroid_row: mean row index of its voxels.
        centroid_col: mean column index.
        centroid_slice: mean slice index.
        centroid_x_mm: the centroid in patient coordinates, by the affine of the volume (right to left, back
            to front, feet to head in the NIfTI convention RAS+); None without an affine.
        centroid_y_mm: as above.
        centroid_z_mm: as above.
        ncct_hu_mean: mean HU of the clot's voxels on NCCT; all of NCCT None without that volume.
        ncct_hu_sd: their standard deviation (n).
        ncct_hu_p10: their 10th percentile.
        ncct_hu_p50: their median.
        ncct_hu_p90: their 90th percentile.
        cta_hu_mean: as on NCCT.
        cta_hu_sd: as on NCCT.
        cta_hu_p10: as on NCCT.
        cta_hu_p50: as on NCCT.
        cta_hu_p90: as on NCCT.
        tai_hu: thrombus attenuation increase (Santos et al. 2016, Stroke 47:732): mean HU on CTA minus mean
            HU on NCCT, both within the clot.
        pervious: whether `tai_hu` is at least 10.9 HU.
        ncct_mirrored_hu: mean HU on NCCT of the clot's voxels mirrored to the other side of the head.
        ncct_ratio: `ncct_hu_mean` / `ncct_mirrored_hu`, the relative density rHU (Puig et al. 2012, AJNR
            33:90). None where no mid-plane was found, or where less than half of the mirrored clot lies in
            the volume and outside every clot of the mask, as of a clot on the mid-plane.
    """

    clot: int
    volume_voxels: int
    volume_mm3: float | None
    length_voxels: float
    length_mm: float | None
    centroid_row: float
    centroid_col: float
    centroid_slice: float
    centroid_x_mm: float | None
    centroid_y_mm: float | None
    centroid_z_mm: float | None
    ncct_hu_mean: float | None
    ncct_hu_sd: float | None
    ncct_hu_p10: float | None
    ncct_hu_p50: float | None
    ncct_hu_p90: float | None
    cta_hu_mean: float | None
    cta_hu_sd: float | None
    cta_hu_p10: float | None
    cta_hu_p50: float | None
    cta_hu_p90: float | None
    tai_hu: float | None
    pervious: bool | None
    ncct_mirrored_hu: float | None
    ncct_ratio: float | None

    def as_row(self) -> dict[str, int | float | bool | None]:
        """The measurement as one flat row for CSV or JSON; always the same columns in the same order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


MEASUREMENT_COLUMNS = tuple(field.name for field in fields(ClotMeasurement))
CLOT_COLUMNS = ("case", "mask", *MEASUREMENT_COLUMNS)
"""Of a table of clots."""


def measure_clots(
    mask: Mask,
    *,
    cta_hu: npt.NDArray[Any] | None,
    ncct_hu: npt.NDArray[Any] | None,
    spacing_mm: Spacing | None,
    affine: npt.NDArray[np.floating[Any]] | None = None,
    midplane: Midplane | Literal["find"] | None = "find",
) -> list[ClotMeasurement]:
    """Measures every clot of a mask.

    Args:
        mask: [row, column, slice], 0 or 1.
        cta_hu: [row, column, slice] in HU, or None.
        ncct_hu: [row, column, slice] in HU, or None.
        spacing_mm: millimetres between voxel centres along each axis, or None where not known.
        affine: 4×4, from (row, column, slice, 1) to patient coordinates in mm, or None.
        midplane: what `find_midplane` said of this NCCT, where it was asked before; found here by default.

    Returns:
        One measurement a clot; empty for an empty mask.

    Raises:
        DataError: the volumes differ in shape.
    """
    for name, volume in (("CTA", cta_hu), ("NCCT", ncct_hu)):
        if volume is not None and volume.shape != mask.shape:
            raise DataError(f"the mask has shape {mask.shape}, the {name} {volume.shape}")
    inside = np.asarray(mask) != 0
    if midplane == "find":
        seek = ncct_hu is not None and inside.any()
        midplane = find_midplane(ncct_hu, spacing_mm) if seek and ncct_hu is not None else None
    measured = []
    for number, (box, clot) in enumerate(_clots(inside), start=1):
        voxels = np.argwhere(clot) + [part.start for part in box]
        at = tuple(voxels.T)
        ncct, cta = (None if hu is None else np.asarray(hu[at], np.float64) for hu in (ncct_hu, cta_hu))
        tai = None if ncct is None or cta is None else float(cta.mean() - ncct.mean())
        centroid = voxels.mean(axis=0)
        measured.append(
            ClotMeasurement(
                clot=number,
                volume_voxels=len(voxels),
                volume_mm3=None if spacing_mm is None else len(voxels) * math.prod(map(float, spacing_mm)),
                length_voxels=_length(clot, (1.0, 1.0, 1.0)),
                length_mm=None if spacing_mm is None else _length(clot, spacing_mm),
                centroid_row=float(centroid[0]),
                centroid_col=float(centroid[1]),
                centroid_slice=float(centroid[2]),
                **_named("centroid", ("x_mm", "y_mm", "z_mm"), _in_patient(centroid, affine)),
                **_density("ncct_hu", ncct),
                **_density("cta_hu", cta),
                tai_hu=tai,
                pervious=None if tai is None else tai >= PERVIOUS_TAI_HU,
                **_against_other_side(voxels, inside, ncct_hu, midplane),
            )
        )
    return measured


def clot_rows(
    truth: Mask,
    predicted: Mask,
    *,
    case: str,
    cta_hu: npt.NDArray[Any],
    ncct_hu: npt.NDArray[Any],
    spacing_mm: Spacing | None,
) -> list[dict[str, Any]]:
    """Every clot of a case's two masks as a row of `CLOT_COLUMNS`; `mask` is `true` or `predicted`."""
    midplane = find_midplane(ncct_hu, spacing_mm) if np.any(truth) or np.any(predicted) else None
    return [
        {"case": case, "mask": name, **clot.as_row()}
        for name, mask in (("true", truth), ("predicted", predicted))
        for clot in measure_clots(
            mask, cta_hu=cta_hu, ncct_hu=ncct_hu, spacing_mm=spacing_mm, midplane=midplane
        )
    ]


def clot_lengths(mask: Mask, spacing_mm: Spacing) -> list[float]:
    """Length of every clot of a mask in mm, in the order of `measure_clots`.

    The clot is thinned to its skeleton (Lee, Kashyap & Chu 1994, CVGIP 56:462) after its voxels were divided
    into nearly cubic parts, and the longest of the shortest paths between two points of it is taken, through
    neighbours among the 26, each edge with its length in mm. Two errors of such a path are mended: it goes in
    steps along the grid, and so is smoothed (Gaussian of one voxel); and thinning eats up the ends, so it is
    prolonged straight on to the clot's surface at both. What is measured is thus the centre line from one end
    face to the other: the height of a cylinder, the diameter of a ball, the longest side of a single voxel.

    Exact for skeletons that branch; where a skeleton has a loop, a longer path may be overlooked.

    Args:
        mask: [row, column, slice]; any value but 0 is foreground.
        spacing_mm: millimetres between voxel centres along each axis.
    """
    return [_length(clot, spacing_mm) for _, clot in _clots(np.asarray(mask) != 0)]


def _clots(inside: Mask) -> Iterator[tuple[Box, Mask]]:
    """Each clot of a mask: its box, and the mask of it alone within the box."""
    for around in ndimage.find_objects(inside.view(np.uint8)):
        labels, _ = ndimage.label(inside[around], structure=np.ones((3, 3, 3), np.uint8))
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            rows, columns, slices = (
                slice(part.start + offset.start, part.stop + offset.start)
                for part, offset in zip(box, around, strict=True)
            )
            yield (rows, columns, slices), labels[box] == number


def _length(clot: Mask, spacing_mm: Spacing) -> float:
    """Length of one clot in mm, see `clot_lengths`."""
    finest = min(spacing_mm)
    # Two or three voxels across leave no middle to thin to; halves do. Large clots need no more than they
    # have.
    halves = 2 if np.count_nonzero(clot) < LARGEST_TO_DIVIDE else 1
    parts = [min(max(round(step * halves / finest), 1), MOST_PARTS) for step in spacing_mm]
    for axis, count in enumerate(parts):
        clot = np.repeat(clot, count, axis=axis)
    step_mm = np.array(spacing_mm) / parts
    padded = np.pad(clot, 1)
    path_mm = _longest_path(_skeleton(padded), step_mm) * step_mm
    if len(path_mm) > 1:
        path_mm = ndimage.gaussian_filter1d(path_mm, SMOOTHING_VOXELS * halves, axis=0, mode="nearest")
    length = float(np.linalg.norm(np.diff(path_mm, axis=0), axis=1).sum())
    return length + sum(
        _to_surface(end, heading, padded, step_mm)
        for end, heading in _ends(path_mm, padded, step_mm, HEADING_VOXELS * finest)
    )


def _skeleton(padded: Mask) -> npt.NDArray[np.intp]:
    """Voxels [n, 3] of a clot's skeleton; where thinning leaves nothing, the voxel nearest to the middle."""
    from skimage.morphology import skeletonize

    thin = np.argwhere(skeletonize(padded, method="lee"))
    if len(thin):
        return thin
    voxels = np.argwhere(padded)
    return voxels[[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]]


def _longest_path(points: npt.NDArray[np.intp], step_mm: Floats) -> npt.NDArray[np.intp]:
    """The points [n, 3] of the longest of all shortest paths through neighbouring points.

    From any point the farthest one is an end of such a path where there are no loops; going on to the
    farthest from there, until that gains nothing, gives the path.
    """
    places = {tuple(point): number for number, point in enumerate(points.tolist())}
    edges = [
        (number, other, math.dist((0, 0, 0), step_mm * offset))
        for point, number in places.items()
        for offset in HALF_OF_CUBE
        if (other := places.get((point[0] + offset[0], point[1] + offset[1], point[2] + offset[2])))
        is not None
    ]
    if not edges:
        return points[:1]
    first, second, weight = zip(*edges, strict=True)
    graph = sparse.coo_array((weight, (first, second)), shape=(len(points), len(points))).tocsr()
    end, reached = 0, -1.0
    while True:
        (distances,), (before,) = sparse.csgraph.dijkstra(
            graph, directed=False, indices=[end], return_predecessors=True
        )
        far = int(np.argmax(np.where(np.isfinite(distances), distances, -1)))
        if distances[far] <= reached:
            break
        start, end, reached, way_back = end, far, distances[far], before
    path = [end]
    while path[-1] != start:
        path.append(int(way_back[path[-1]]))
    return points[path]


def _ends(
    path_mm: Floats, padded: Mask, step_mm: Floats, shortest_mm: float
) -> Iterator[tuple[Floats, Floats]]:
    """Both ends of a path, and the direction in which the clot goes on there.

    The direction is that of the path over the last radius of the clot, or `shortest_mm` where that is more;
    of a path that is a point, it is the longest axis of the clot.
    """
    if np.allclose(path_mm, path_mm[0]):
        point = path_mm[0]
        axis = _longest_axis(np.argwhere(padded) * step_mm, step_mm)
        yield point, axis
        yield point, -axis
        return
    radius_mm = ndimage.distance_transform_edt(padded, sampling=step_mm)
    for ordered in (path_mm, path_mm[::-1]):
        end = ordered[-1]
        away = np.linalg.norm(ordered - end, axis=1)
        nearest = tuple(np.rint(end / step_mm).astype(int))
        reach = max(float(radius_mm[nearest]), shortest_mm)
        beyond = np.flatnonzero(away >= reach)
        back = ordered[beyond[-1]] if len(beyond) else ordered[0]
        heading = end - back
        yield end, heading / np.linalg.norm(heading)


def _longest_axis(points_mm: Floats, step_mm: Floats) -> Floats:
    """Unit vector [3] along which the voxels at these points extend most, their own size included."""
    centred = points_mm - points_mm.mean(axis=0)
    spread = centred.T @ centred / len(centred) + np.diag(step_mm**2 / 12)
    return np.asarray(np.linalg.eigh(spread)[1][:, -1], np.float64)


def _to_surface(start: Floats, heading: Floats, padded: Mask, step_mm: Floats) -> float:
    """Millimetres from a point straight on to where the clot ends."""
    step = float(step_mm.min()) / STEPS_PER_PART
    reach = float(np.linalg.norm(np.array(padded.shape) * step_mm))
    along = np.arange(0.0, reach, step)
    voxels = np.rint((start + along[:, np.newaxis] * heading) / step_mm).astype(int)
    voxels = np.clip(voxels, 0, np.array(padded.shape) - 1)
    return float(along[np.argmin(padded[tuple(voxels.T)])])


def _in_patient(centroid: Floats, affine: npt.NDArray[np.floating[Any]] | None) -> Sequence[float | None]:
    if affine is None:
        return None, None, None
    row, column, depth = (np.asarray(affine, np.float64) @ [*centroid, 1.0])[:3]
    return float(row), float(column), float(depth)


def _named(name: str, parts: Sequence[str], values: Sequence[float | None] | Floats) -> dict[str, Any]:
    return {
        f"{name}_{part}": None if value is None else float(value)
        for part, value in zip(parts, values, strict=True)
    }


def _density(name: str, hu: Floats | None) -> dict[str, Any]:
    """Mean, SD and percentiles of a clot's HU."""
    parts = ("mean", "sd", *(f"p{percent}" for percent in PERCENTILES))
    if hu is None:
        return _named(name, parts, [None] * len(parts))
    return _named(name, parts, [hu.mean(), hu.std(), *np.percentile(hu, PERCENTILES)])


def _against_other_side(
    voxels: npt.NDArray[np.intp],
    inside: Mask,
    ncct_hu: npt.NDArray[Any] | None,
    midplane: Midplane | None,
) -> dict[str, float | None]:
    """Mean HU of the mirrored clot on NCCT, and the clot's against it."""
    nothing: dict[str, float | None] = {"ncct_mirrored_hu": None, "ncct_ratio": None}
    if ncct_hu is None or midplane is None:
        return nothing
    mirrored = np.rint(midplane.mirror(voxels)).astype(int)
    in_volume = ((mirrored >= 0) & (mirrored < inside.shape)).all(axis=1)
    at = tuple(mirrored[in_volume].T)
    free = ~inside[at]
    if 2 * np.count_nonzero(free) < len(voxels):
        return nothing
    other = float(np.asarray(ncct_hu[at], np.float64)[free].mean())
    own = float(np.asarray(ncct_hu[tuple(voxels.T)], np.float64).mean())
    return {"ncct_mirrored_hu": other, "ncct_ratio": own / other if other > 0 else None}
