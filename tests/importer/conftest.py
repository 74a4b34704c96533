"""Scans of phantom heads, as files that `clotseg import` is given."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.phantom.case import PhantomCase, make_case
from clotseg.phantom.geometry import Grid
from clotseg.scans.resample import NETWORK_AXES_RAS

GRID = Grid((96, 96, 24))
MIDDLE_MM = (12.5, -40.0, 900.0)


@pytest.fixture(scope="session")
def phantoms() -> list[PhantomCase]:
    """Two cases with a clot, 96×96×24 voxels of 1.17×1.17×1.5 mm."""
    cases = (make_case(5, number, GRID, None) for number in range(6))
    return [case for case in cases if case.mask.any()][:2]


def affine_of(grid: Grid) -> NDArray[np.float64]:
    """From [row, column, slice] of a phantom to mm, RAS+, its middle somewhere in the scanner."""
    affine = np.eye(4)
    affine[:3, :3] = NETWORK_AXES_RAS * grid.spacing_mm
    affine[:3, 3] = MIDDLE_MM - affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    return affine


def write_scan(path: Path, values: NDArray[np.generic]) -> None:
    """NIfTI of a phantom's volume, stored as most converters do: first to the left, then to the front."""
    affine = affine_of(GRID)
    image = nibabel.Nifti1Image(values, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt("LAS")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.as_reoriented(turn).to_filename(path)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory, phantoms: list[PhantomCase]) -> Path:
    """`scans.csv` of two registered cases, `one.csv` of the first alone. Copy the folder to change it."""
    folder = tmp_path_factory.mktemp("scans")
    lines = ["case,patient,site,cta,ncct,mask"]
    for number, case in enumerate(phantoms, 1):
        for kind, values in (("cta", case.cta), ("ncct", case.ncct), ("mask", case.mask)):
            write_scan(folder / f"c{number}" / f"{kind}.nii.gz", values)
        lines.append(
            f"c{number},p{number},north,c{number}/cta.nii.gz,c{number}/ncct.nii.gz,c{number}/mask.nii.gz"
        )
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")
    (folder / "one.csv").write_text("\n".join(lines[:2]) + "\n")
    return folder
