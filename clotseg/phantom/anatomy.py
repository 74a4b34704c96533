"""The head that vessels are grown in: a random generator in; tissue in HU, without vessels or noise, out.

Two ways lead to the same `Tissue`: a head drawn from ellipsoids and tubes, or a real head CT that is turned,
scaled and cut to the field of view.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.phantom.arteries import CIRCLE_MM, Tree, from_circle
from clotseg.phantom.geometry import (
    Floats,
    Grid,
    Points,
    Random,
    Tube,
    blend,
    fill_ellipsoid,
    fill_tubes,
    rotation,
    smooth_field,
    tube_through,
)
from clotseg.phantom.population import USUAL, Population

AIR_HU, FAT_HU, BONE_HU, CSF_HU, GREY_HU, WHITE_HU, DURA_HU = -1000.0, -80.0, 950.0, 9.0, 38.0, 29.0, 54.0
SCALP_MM, SKULL_MM, FLUID_MM, CORTEX_MM = 5.0, 5.0, 1.5, 4.5
BRAIN_RADII_MM = (60.0, 49.0)
BRAIN_HU = (10.0, 80.0)
SMALLEST_BRAIN_ML = 300.0
SLEEVED = ("M1", "M2", "A1", "A2", "P1", "P2", "basilar", "ACom")


@dataclass(frozen=True, slots=True)
class Tissue:
    """A head without vessels and noise.

    Attributes:
        ncct: HU, float32 [row, column, slice].
        cta: HU with the slight enhancement of well-perfused brain, float32 [row, column, slice].
    """

    ncct: Floats
    cta: Floats


def drawn_head(
    random: Random, grid: Grid, tree: Tree, veins: Sequence[Tube], population: Population = USUAL
) -> Tissue:
    """A head of scalp, skull, brain, cerebrospinal fluid and dura, drawn around the vessels of a case."""
    radii_mm = np.array(BRAIN_RADII_MM) * random.uniform(*population.brain_scale, 2)
    depth_mm = _depth_below_brain_surface(random, grid, radii_mm, population)
    ncct = np.full(grid.shape, AIR_HU, np.float32)
    layers = [
        (SCALP_MM + SKULL_MM + FLUID_MM, FAT_HU),
        (SKULL_MM + FLUID_MM, BONE_HU),
        (FLUID_MM, CSF_HU),
        (0.0, GREY_HU),
    ]
    for outside_mm, hu in layers:
        blend(ncct, _share_inside(depth_mm + outside_mm, grid), hu)
    folds_mm = 2.5 * smooth_field(random, grid, 5.0)
    blend(ncct, _share_inside(depth_mm - CORTEX_MM + folds_mm, grid), WHITE_HU)
    brain = _share_inside(depth_mm, grid)
    _draw_nuclei(random, grid, ncct, population.inner_scale)
    _draw_fluid(random, grid, ncct, depth_mm, [*_sleeved(tree), *veins], population)
    perfused = np.clip((ncct - CSF_HU) / (GREY_HU - CSF_HU), 0, 1) * brain
    ncct += brain * (1.6 * smooth_field(random, grid, 4.0))
    _draw_dura(random, grid, ncct, population.inner_scale)
    cta = ncct + perfused * np.float32(random.uniform(2.0, 6.0))
    _draw_skull_base(random, grid, ncct, cta, population.inner_scale)
    return Tissue(ncct, cta)


def _depth_below_brain_surface(
    random: Random, grid: Grid, radii_mm: NDArray[Any], population: Population
) -> Floats:
    """About how far each voxel lies inside the surface of the brain, mm; negative outside."""
    row, column, height = grid.axes_mm()
    # The head narrows towards the skull base, which lies in the lowest slices.
    taper = 1 - 0.0025 * np.maximum(0, -height)
    turn = np.deg2rad(random.normal(0.0, 3.0))
    along = (row * np.cos(turn) + column * np.sin(turn)) / (radii_mm[0] * taper)
    across = (column * np.cos(turn) - row * np.sin(turn)) / (radii_mm[1] * taper)
    if population.narrower_side is not None:
        narrower = random.uniform(*population.narrower_side)
        across = np.where(across * random.choice([-1, 1]) > 0, across / narrower, across)
    relative = (np.abs(along) ** 2.3 + np.abs(across) ** 2.3) ** (1 / 2.3)
    return np.asarray((1 - relative) * radii_mm.mean(), np.float32)


def _share_inside(depth_mm: Floats, grid: Grid) -> Floats:
    return np.asarray(np.clip(0.5 + depth_mm / np.float32(grid.edge_mm), 0, 1), np.float32)


def _draw_nuclei(random: Random, grid: Grid, ncct: Floats, scale: float) -> None:
    """Deep grey matter, thalami, brain stem and cerebellum."""

    def place(row_mm: float, column_mm: float, slice_mm: float) -> Points:
        return from_circle(row_mm * scale, column_mm * scale, slice_mm * scale)

    for side in (1, -1):
        lentiform = place(6, 20 * side, 16) + random.normal(0, 1, 3)
        thalamus = place(24, 9 * side, 16) + random.normal(0, 1, 3)
        blend(ncct, fill_ellipsoid(grid, lentiform, (13, 6, 9)), GREY_HU)
        blend(ncct, fill_ellipsoid(grid, thalamus, (10, 7, 8)), GREY_HU)
        blend(ncct, fill_ellipsoid(grid, place(45, 22 * side, -13), (20, 20, 12)), GREY_HU - 2)
    blend(ncct, fill_ellipsoid(grid, place(25, 0, -8), (10, 12, 22)), WHITE_HU + 2)


def _draw_fluid(
    random: Random,
    grid: Grid,
    ncct: Floats,
    depth_mm: Floats,
    vessels: Sequence[Tube],
    population: Population,
) -> None:
    """Ventricles, sulci, and the cisterns that arteries and veins run in."""
    wide = random.uniform(*population.ventricle_width)
    for side in (1, -1):
        horn = from_circle(-6, 9 * side, 24)
        blend(ncct, fill_ellipsoid(grid, horn, (14 * wide, 4 * wide, 6)), CSF_HU)
        atrium = from_circle(40, 19 * side, 22)
        blend(ncct, fill_ellipsoid(grid, atrium, (10 * wide, 5 * wide, 8)), CSF_HU)
    blend(ncct, fill_ellipsoid(grid, from_circle(17, 0, 11), (12, 1.8 * wide, 8)), CSF_HU)
    blend(ncct, fill_ellipsoid(grid, from_circle(38, 0, -9), (4, 6 * wide, 7)), CSF_HU)
    blend(ncct, fill_ellipsoid(grid, from_circle(1, 0, -2), (9, 12, 6)), CSF_HU)
    gap_mm = random.uniform(*population.cistern_mm)
    sleeves = [Tube(tube.points_mm, tube.radius_mm + gap_mm) for tube in vessels]
    blend(ncct, fill_tubes(grid, sleeves) * _share_inside(depth_mm + FLUID_MM, grid), CSF_HU)
    near_surface = np.clip(1 - depth_mm / 14, 0, 1) * (depth_mm > 0)
    sulci = np.clip(1.1 - np.abs(smooth_field(random, grid, 4.0)) / population.sulcus_width, 0, 1)
    share = np.float32(random.uniform(*population.sulcus_fluid))
    blend(ncct, np.asarray(sulci * near_surface * share, np.float32), CSF_HU)
    row, column, _ = grid.axes_mm()
    fissure = np.clip(1.8 - np.abs(column), 0, 1) * ((row < CIRCLE_MM[0] - 8) | (row > 42)) * (depth_mm > 0)
    blend(ncct, np.asarray(fissure * np.float32(0.8), np.float32), CSF_HU)


def _sleeved(tree: Tree) -> list[Tube]:
    """The arteries that run in fluid."""
    return [artery.tube for name, artery in tree.items() if name.startswith(SLEEVED)]


def _draw_dura(random: Random, grid: Grid, ncct: Floats, scale: float) -> None:
    """Pieces of falx and tentorium: thin, and about as dense as a clot."""
    pieces = [[(-58, 0, top), (-44, 0, top)] for top in (4, 12, 20)]
    pieces += [[(48, 0, top), (62, 0, top)] for top in (10, 18)]
    for side in (1, -1):
        pieces += [[(28, 24 * side, -6), (40, 16 * side, 2), (50, 6 * side, 9)]]
        pieces += [[(26, 30 * side, -9), (42, 26 * side, -4), (56, 12 * side, 3)]]
    tubes = []
    for piece in pieces:
        if random.uniform() < 0.75:
            radius_mm = float(random.uniform(0.8, 1.5))
            points_mm = np.array(piece) * scale + random.normal(0, 1.0, (len(piece), 3))
            tubes.append(tube_through(points_mm, (radius_mm, radius_mm)))
    blend(ncct, fill_tubes(grid, tubes), DURA_HU + float(random.normal(0, 3)))


def _draw_skull_base(random: Random, grid: Grid, ncct: Floats, cta: Floats, scale: float) -> None:
    """Petrous ridges, sphenoid wings and the clivus; they leave the field of view upwards."""
    ridges = [[(7, 0, -22), (3, 0, -14), (-1, 0, -10)]]
    for side in (1, -1):
        ridges.append([(18, 20 * side, -16), (25, 34 * side, -13), (30, 52 * side, -10)])
        ridges.append([(-14, 12 * side, -11), (-20, 28 * side, -8), (-18, 50 * side, -4)])
    radii_mm = [(4.0, 2.5), *([(4.0, 6.0), (2.5, 4.0)] * 2)]
    tubes = [
        tube_through(CIRCLE_MM + np.array(ridge) * scale + random.normal(0, 1.0, (3, 3)), radius_mm)
        for ridge, radius_mm in zip(ridges, radii_mm, strict=True)
    ]
    coverage = fill_tubes(grid, tubes)
    hu = BONE_HU + 200 * smooth_field(random, grid, 4.0)
    blend(ncct, coverage, hu)
    blend(cta, coverage, hu)


@dataclass(frozen=True, slots=True)
class HeadScan:
    """A real head CT.

    Attributes:
        hu: float32 [row, column, slice], voxels of `spacing_mm`, air around the head.
        spacing_mm: voxel size along (row, column, slice).
        circle: where the Circle of Willis is expected, in voxels along (row, column, slice).
    """

    hu: Floats
    spacing_mm: tuple[float, float, float]
    circle: tuple[float, float, float]


def read_head(file: Path) -> HeadScan:
    """Reads a head CT from NIfTI, and finds the place of the Circle of Willis in it.

    The circle is expected in the middle of the brain's bounding box from right to left, 40 % of its length
    behind its front, and a third of its height above its lowest point, as measured on an average brain CT;
    the brain is the largest piece of voxels of 10 to 80 HU.

    Raises:
        DataError: the file is not a 3-D volume in HU that shows a brain.
    """
    import nibabel
    from scipy.ndimage import binary_fill_holes, binary_opening, find_objects, label

    fix = "give a non-contrast head CT in HU as .nii or .nii.gz, or leave --anatomy out"
    try:
        image = nibabel.as_closest_canonical(nibabel.load(file))
        hu = np.asarray(image.dataobj, np.float32)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f"cannot be read as NIfTI ({error})", where=file, fix=fix) from error
    if hu.ndim != 3 or min(hu.shape) < 8 or not np.isfinite(hu).all():
        raise DataError(f"holds an array of shape {hu.shape}, no 3-D CT volume", where=file, fix=fix)
    # From axes that grow to the right, front and top to rows that grow backwards and columns to the left.
    hu = np.ascontiguousarray(hu[::-1, ::-1].transpose(1, 0, 2))
    column_mm, row_mm, slice_mm = (float(size) for size in image.header.get_zooms()[:3])
    spacing_mm = (row_mm, column_mm, slice_mm)
    pieces, _ = label(binary_opening((hu > BRAIN_HU[0]) & (hu < BRAIN_HU[1]), iterations=2))
    sizes = np.bincount(pieces.ravel())[1:]
    if not sizes.size or sizes.max() * np.prod(spacing_mm) < SMALLEST_BRAIN_ML * 1000:
        raise DataError("shows no brain: too few voxels of 10 to 80 HU hang together", where=file, fix=fix)
    largest = int(sizes.argmax()) + 1
    box = find_objects(pieces)[largest - 1]
    circle = tuple(
        part.start + share * (part.stop - part.start)
        for part, share in zip(box, (0.4, 0.5, 0.33), strict=True)
    )
    if hu.min() > -500:
        # A skull-stripped volume has no air of its own.
        hu[~binary_fill_holes(hu > 2)] = AIR_HU
    return HeadScan(hu, spacing_mm, (circle[0], circle[1], circle[2]))


def real_head(random: Random, grid: Grid, scan: HeadScan, population: Population = USUAL) -> Tissue:
    """The scan with its circle in its place, a little turned and scaled for each case."""
    from scipy.ndimage import affine_transform

    turn = rotation(random.normal(0.0, (2.0, 2.0, 3.0))) * random.uniform(*population.shrinkage, 3)
    to_voxels = turn / np.asarray(scan.spacing_mm)[:, None]
    first_mm = np.array([grid.axis_mm(axis)[0] for axis in range(3)], np.float64)
    offset = np.asarray(scan.circle) + to_voxels @ (first_mm - CIRCLE_MM)
    ncct = affine_transform(
        scan.hu,
        to_voxels * np.asarray(grid.spacing_mm),
        offset,
        output_shape=grid.shape,
        order=1,
        mode="constant",
        cval=AIR_HU,
    )
    ncct = np.asarray(ncct, np.float32)
    perfused = np.clip((ncct - CSF_HU) / (GREY_HU - CSF_HU), 0, 1) * (ncct < BRAIN_HU[1])
    return Tissue(ncct, ncct + perfused * np.float32(random.uniform(2.0, 6.0)))
