"""One case: its scans in; CTA, NCCT and mask on one grid out, with all that led there.

Everything is found in the frame of the CTA. Each volume is interpolated once, through the product of all
transforms, however many there are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.importer.entries import Entry
from clotseg.importer.quality import Check, check_case, verdict_of
from clotseg.importer.registration import register_atlas, register_rigid
from clotseg.importer.settings import ImportSettings
from clotseg.importer.sources import read_mask, read_source
from clotseg.prep.cases import HIGHEST_HU, LOWEST_HU
from clotseg.scans.resample import (
    Grid,
    box_grid,
    corners_mm,
    grid_of,
    resample_hu,
    resample_mask,
    spacing_of,
)
from clotseg.scans.scan import Affine, Scan

HEAD_HU = -300
"""Skin and all below it are above, air and most of a head rest are not."""
FARTHEST_BEYOND_MM = 20.0
"""A region that reaches farther beyond the CTA than this is not there, but misplaced."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BuiltCase:
    """A case on its new grid.

    Attributes:
        cta, ncct: int16 HU, [row, column, slice].
        mask: uint8 0/1 of the same shape, None where none was given.
        grid: theirs.
        scan: the CTA as it was read.
        cta_to_ncct: 4×4, mm RAS+, from a point of the CTA to the same place in the NCCT.
        cta_to_atlas: the same for the atlas; None without one.
        ncct_grid: of the NCCT as it was read.
        checks: what was looked at, and how it turned out.
        notices: what was left out, mended or cut.
    """

    cta: NDArray[np.int16]
    ncct: NDArray[np.int16]
    mask: NDArray[np.uint8] | None
    grid: Grid
    scan: Scan
    cta_to_ncct: Affine
    cta_to_atlas: Affine | None
    ncct_grid: Grid
    checks: list[Check]
    notices: list[str]

    @property
    def verdict(self) -> str:
        """`pass`, `warn` or `fail`: the worst of the checks."""
        return verdict_of(self.checks)


def build_case(entry: Entry, settings: ImportSettings) -> BuiltCase:
    """Reads, registers, crops and resamples one case.

    Raises:
        DataError: a scan cannot be used, or the region lies outside of the CTA. What it says names the scan,
            not its file: names of files and folders may be names of patients.
    """
    notices: list[str] = []
    scans = {}
    for kind, source in (("CTA", entry.cta), ("NCCT", entry.ncct)):
        with naming(kind):
            scans[kind], said = read_source(Path(source), irregular=settings.irregular)
        notices += [f"{kind}: {notice}" for notice in said]
    cta, ncct = scans["CTA"], scans["NCCT"]
    registration = register_rigid(cta, ncct, seed=settings.seed)
    grid, cta_to_atlas = _region(cta, settings, notices)
    mask, kept = None, 1.0
    if entry.mask is not None:
        with naming("mask"):
            drawn = read_mask(Path(entry.mask))
        mask = resample_mask(drawn, grid)
        volume = np.count_nonzero(drawn.values) * grid_of(drawn).voxel_mm3
        kept = np.count_nonzero(mask) * grid.voxel_mm3 / volume if volume else 1.0
    new = [
        resample_hu(cta, grid),
        resample_hu(ncct, grid, to_scan=registration.fixed_to_moving),
    ]
    checks = check_case(
        cta=new[0],
        ncct=new[1],
        mask=mask,
        spacing_mm=spacing_of(grid),
        registration=registration,
        mask_voxels_kept=kept,
    )
    return BuiltCase(
        cta=_as_hu(new[0]),
        ncct=_as_hu(new[1]),
        mask=mask,
        grid=grid,
        scan=cta,
        cta_to_ncct=registration.fixed_to_moving,
        cta_to_atlas=cta_to_atlas,
        ncct_grid=grid_of(ncct),
        checks=checks,
        notices=notices,
    )


@contextmanager
def naming(kind: str) -> Iterator[None]:
    """Lets an error name the scan in place of its file."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{kind}: {error.what}", fix=error.fix, details=error.details) from None


def _as_hu(values: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(values), LOWEST_HU, HIGHEST_HU).astype(np.int16)


def _region(cta: Scan, settings: ImportSettings, notices: list[str]) -> tuple[Grid, Affine | None]:
    """The grid of the region around the vessels, and from the CTA to the atlas where one leads there.

    Raises:
        DataError: the region lies outside of the CTA.
    """
    ends = corners_mm(grid_of(cta))
    low, high = ends.min(axis=0), ends.max(axis=0)
    to_atlas = None
    if settings.atlas is not None and settings.atlas_roi is not None:
        to_atlas, region = _region_of_atlas(cta, settings.atlas, settings.atlas_roi, settings.seed)
    elif settings.box_mm is not None:
        region = np.array(settings.box_mm).reshape(3, 2).T
    else:
        region = np.array([low, high])
    beyond = max((low - region[0]).max(), (region[1] - high).max())
    if beyond > FARTHEST_BEYOND_MM:
        raise DataError(
            f"the region reaches {beyond:.0f} mm beyond the CTA",
            details=[f"region {_range(region)}", f"CTA {_range(np.array([low, high]))}"],
            fix="give a box or an atlas region that lies in the head, in mm, RAS+",
        )
    region = np.clip(region, low, high)
    return box_grid(*_narrowed(cta, region, settings, notices), settings.spacing_mm), to_atlas


def _range(region: NDArray[Any]) -> str:
    sides = zip(("left to right", "back to front", "foot to head"), *region, strict=True)
    return ", ".join(f"{name} {low:.0f} to {high:.0f} mm" for name, low, high in sides)


def _region_of_atlas(cta: Scan, atlas: Path, roi: Path, seed: int) -> tuple[Affine, NDArray[Any]]:
    """From the CTA to the atlas, and the box in the CTA that holds the atlas's region."""
    with naming("atlas"):
        there, _ = read_source(atlas, irregular="refuse")
    with naming("atlas region"):
        marked = read_mask(roi)
    inside = np.argwhere(np.asarray(marked.values) > 0)
    if not len(inside):
        raise DataError("atlas region: nothing is marked in it", fix="mark the region with 1 in the NIfTI")
    first, last = inside.min(axis=0), inside.max(axis=0)
    (rows, columns, slices), shift = (last - first + 1).tolist(), np.eye(4)
    shift[:3, 3] = first
    to_atlas = register_atlas(cta, there, seed=seed).fixed_to_moving
    box = corners_mm(
        Grid(shape=(rows, columns, slices), affine=np.linalg.inv(to_atlas) @ marked.affine @ shift)
    )
    return to_atlas, np.array([box.min(axis=0), box.max(axis=0)])


def _narrowed(
    cta: Scan, region: NDArray[Any], settings: ImportSettings, notices: list[str]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The region with slices of at most the largest size, cut around the middle of the head."""
    longest = (settings.largest_slice - 1) * settings.spacing_mm
    low, high = region
    sides = high - low
    sides[2] = 0
    if (sides <= longest + 1e-6).all():
        return low, high
    middle = _middle_of_head(cta)
    for axis in (0, 1):
        if sides[axis] > longest:
            start = np.clip(middle[axis] - longest / 2, low[axis], high[axis] - longest)
            low[axis], high[axis] = start, start + longest
    notices.append(
        f"slices are cut to {longest:.0f} mm, {settings.largest_slice} pixels, around the middle of the head"
    )
    return low, high


def _middle_of_head(cta: Scan) -> NDArray[Any]:
    """The centroid of what is no air, mm RAS+; the CTA's own where there is nothing else."""
    inside = np.argwhere(np.asarray(cta.values)[::4, ::4, ::2] > HEAD_HU) * (4, 4, 2)
    voxel = inside.mean(axis=0) if len(inside) else (np.array(cta.values.shape) - 1) / 2
    return np.asarray(cta.affine[:3, :3] @ voxel + cta.affine[:3, 3])
