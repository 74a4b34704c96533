"""Small cohorts that tests build themselves: discs of clot on noise, with known voxels."""

import csv
from pathlib import Path

import numpy as np
import pytest

from clotseg.project import Project


def write_case(
    project: Project,
    name: str,
    *,
    shape: tuple[int, int, int] = (32, 32, 6),
    clot: bool = True,
    seed: int = 0,
) -> None:
    """Writes one case: noise, a bright ring in the CTA, and a disc that is dense in both volumes."""
    random = np.random.default_rng([seed, *name.encode()])
    rows, columns, slices = np.ogrid[: shape[0], : shape[1], : shape[2]]
    centre = random.uniform(0.35, 0.65, 3) * shape
    inside = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (min(shape[:2]) / 8) ** 2) & (
        np.abs(slices - centre[2]) <= 1
    )
    mask = (inside & clot).astype(np.uint8)
    cta = random.normal(40, 10, shape) + 300.0 * mask
    ncct = random.normal(35, 5, shape) + 30.0 * mask
    for folder in (project.volumes, project.masks):
        folder.mkdir(parents=True, exist_ok=True)
    np.save(project.volumes / f"{name}_CTA_Binary.npy", cta.astype(np.int16))
    np.save(project.volumes / f"{name}_NCCT_Reg_Binary.npy", ncct.astype(np.int16))
    np.save(project.masks / f"{name}_seg_corrected_binary.npy", mask)


def write_cases_csv(project: Project, rows: list[dict[str, object]]) -> None:
    """Writes `cases.csv` with the columns of the rows."""
    with project.cases_csv.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_cohort(root: Path, cases: int = 10, **options: object) -> Project:
    """A project of `cases` cases, every fifth of them without a clot."""
    project = Project(root)
    for number in range(cases):
        write_case(project, f"case_{number:02d}", clot=number % 5 != 4, **options)  # type: ignore[arg-type]
    return project


@pytest.fixture
def cohort(tmp_path: Path) -> Project:
    """A project with ten small cases and nothing prepared."""
    return write_cohort(tmp_path / "project")
