"""Cases that an import made, on disk: volumes, sidecar and picture, so that a killed import harms nothing.

Volumes are written beside their places and renamed one after the other; the sidecar goes before the first
and comes after the last. So volumes with a sidecar are whole and belong together, and a folder without one
is done again.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.importer.case import BuiltCase
from clotseg.prep.cases import CTA_SUFFIX, MASK_SUFFIX, NCCT_SUFFIX, case_names
from clotseg.prep.table import COLUMNS, SPACING_COLUMNS
from clotseg.project import Project
from clotseg.scans.origin import grid_as_json
from clotseg.scans.resample import grid_of, spacing_of

PICTURE = "picture.png"


def volume_files(project: Project, name: str) -> tuple[Path, Path, Path]:
    """Where a case's CTA, NCCT and mask go."""
    return (
        project.volumes / f"{name}{CTA_SUFFIX}",
        project.volumes / f"{name}{NCCT_SUFFIX}",
        project.masks / f"{name}{MASK_SUFFIX}",
    )


def require_none_of_others(project: Project) -> None:
    """Refuses a project with cases that no import made: their table would not be whole with others in it.

    Raises:
        DataError: with the names of some.
    """
    others = [name for name in case_names(project) if not (project.imported / name).is_dir()]
    if others:
        more = f" and {len(others) - 10} more" if len(others) > 10 else ""
        raise DataError(
            f"holds {len(others)} cases that were not imported: {', '.join(others[:10])}{more}",
            where=project.root,
            fix="import into a folder of its own: `clotseg -C FOLDER import …`",
        )


def is_done(project: Project, name: str, key: str) -> bool:
    """Whether a case was imported under this key, and all its files are there with their sizes."""
    sidecar = read_sidecar(project, name)
    return (
        sidecar is not None and sidecar.get("key") == key and artifact.outputs_intact(project.root, sidecar)
    )


def read_sidecar(project: Project, name: str) -> dict[str, Any] | None:
    """What is known of an imported case; None where it is not there, or damaged."""
    try:
        return artifact.read_manifest(project.imported / name)
    except CorruptArtifactError:
        return None


def publish_case(
    project: Project, name: str, case: BuiltCase, picture: bytes, facts: Mapping[str, Any]
) -> None:
    """Writes a case; of one that failed its checks the sidecar and the picture alone.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    folder = project.imported / name
    arrays: dict[Path, NDArray[Any] | None] = dict(
        zip(volume_files(project, name), (case.cta, case.ncct, case.mask), strict=True)
    )
    if case.verdict == "fail":
        arrays = dict.fromkeys(arrays)
    with artifact.writing(folder):
        for place in (folder, project.volumes, project.masks):
            place.mkdir(parents=True, exist_ok=True)
        beside = {path: _written_beside(path, array) for path, array in arrays.items() if array is not None}
        (folder / artifact.MANIFEST).unlink(missing_ok=True)
        for path in arrays:
            if path in beside:
                artifact.replace_file(beside[path], path)
            else:
                path.unlink(missing_ok=True)
        artifact.write_file(folder / PICTURE, picture)
        names = [project.shown(path) for path in (*beside, folder / PICTURE)]
        sidecar = {**facts, "outputs": artifact.describe_outputs(project.root, names)}
        artifact.write_manifest(folder, artifact.as_json(sidecar))


def withdraw(project: Project, name: str, *, unless: Mapping[str, Any]) -> bool:
    """Takes a case out of the project that was made with other settings, and so lies on another grid.

    What was made with these settings stays, though its scans cannot be read today.

    Args:
        project: where.
        name: of the case.
        unless: the settings, `config` as a sidecar carries it, and the digests of the atlas, by name.

    Returns:
        Whether there was something to take out.

    Raises:
        EnvironmentProblem: the disk refuses the write.
    """
    folder, volumes = project.imported / name, volume_files(project, name)
    sidecar = read_sidecar(project, name)
    said = {} if sidecar is None else {**sidecar.get("inputs", {}), "config": sidecar.get("config")}
    if {key: said.get(key) for key in unless} == dict(unless) or not any(path.exists() for path in volumes):
        return False
    with artifact.writing(folder):
        for path in (folder / artifact.MANIFEST, *volumes, folder / PICTURE):
            path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return True


def _written_beside(path: Path, array: NDArray[Any]) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    return temporary


def grids_of(case: BuiltCase) -> dict[str, Any]:
    """The grids of a case and of its scans, as its sidecar carries them."""
    return {
        "cta": grid_as_json(grid_of(case.scan)),
        "ncct": grid_as_json(case.ncct_grid),
        "case": grid_as_json(case.grid),
        "spacing_mm": list(spacing_of(case.grid)),
    }


def sidecars(project: Project) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and sidecar of every imported case, sorted by name."""
    for folder in sorted(project.imported.glob("[!.]*")):
        sidecar = read_sidecar(project, folder.name)
        if sidecar is not None:
            yield folder.name, sidecar


def write_cases_csv(project: Project) -> None:
    """Writes `cases.csv` with a line for each imported case whose volumes are there, in one step.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, sidecar in sidecars(project):
        if sidecar["verdict"] != "fail":
            spacing = dict(zip(SPACING_COLUMNS, sidecar["grids"]["spacing_mm"], strict=True))
            writer.writerow({"case": name, "patient": sidecar["patient"], "site": sidecar["site"], **spacing})
    artifact.write_file(project.cases_csv, stream.getvalue().encode())
