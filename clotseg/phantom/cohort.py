"""Writing a synthetic cohort: a folder in; cases in the input format and `phantom.json` out.

A cohort is whole when `phantom.json` is there. While it is being written, `.phantom-writing` is there too: a
killed run leaves it behind, and the next run removes what the killed one wrote and starts over. Nothing that
this module did not write is ever removed or overwritten.

Several processes draw cases where there is enough to draw; which of them draws a case changes no byte.
"""

import csv
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.artifact import (
    FORMAT,
    describe_outputs,
    digest_file,
    outputs_intact,
    project_lock,
    read_json,
    stage_key,
    write_json,
)
from clotseg.errors import ConfigError, CorruptArtifactError, DataError, EnvironmentProblem
from clotseg.phantom.anatomy import HeadScan, read_head
from clotseg.phantom.case import PhantomCase, make_case
from clotseg.phantom.geometry import Grid
from clotseg.phantom.population import SHIFTED, USUAL, Population
from clotseg.project import Project
from clotseg.tasks import workers_worth

CODE_VERSION = 1
MARKER = ".phantom-writing"
SMALLEST_SIZE, LARGEST_SIZE = 32, 512
FEWEST_SLICES, MOST_SLICES = 8, 512
MOST_CASES = 1000
VOXELS_WORTH_A_PROCESS = 4_000_000
"""With less to draw no other process is started: one draws half a million voxels a second."""


def write_cohort(
    out: Path,
    *,
    cases: int = 24,
    size: int = 96,
    slices: int = 24,
    seed: int = 0,
    anatomy: Path | None = None,
    shift: bool = False,
    on_case: Callable[[str], None] | None = None,
) -> str:
    """Writes a synthetic cohort; the same arguments give the same bytes.

    A large one is drawn by processes that import the calling program anew: a script of one's own must do
    nothing on import (`if __name__ == "__main__":`).

    Args:
        out: the folder; made where it is not there. It must hold no other cases.
        cases: how many, 1…1000. A case does not depend on how many there are.
        size: rows and columns of a slice, 32…512; the field of view is 112 mm whatever the size.
        slices: slices of a volume, 8…512, over 36 mm.
        seed: at least 0.
        anatomy: a head CT (NIfTI, HU) to grow the vessels in, see `anatomy.read_head`; None draws heads.
        shift: draws all cases from `population.SHIFTED`, for holding out. With `anatomy`, the head is made
            smaller, but its ventricles and sulci stay as they are.
        on_case: called with the name of each case once its files are written.

    Returns:
        `made`, or `reused` where the folder already holds this very cohort.

    Raises:
        ConfigError: an argument is out of range.
        DataError: the folder holds cases that are not this cohort, or `anatomy` is no head CT.
        EnvironmentProblem: the folder cannot be written, another clotseg is writing there, or a process that
            draws was ended from outside.
    """
    arguments = {"cases": cases, "size": size, "slices": slices, "seed": seed}
    _check(arguments)
    if shift:
        # Only where it is set, so that cohorts without it keep the bytes that they have always had.
        arguments["shift"] = True
    if out.exists() and not out.is_dir():
        raise DataError("is a file", where=out, fix="choose another folder")
    inputs = None if anatomy is None else digest_file(anatomy)
    key = stage_key("phantom", CODE_VERSION, arguments, inputs)
    project = Project(out)
    with project_lock(out):
        if not (out / MARKER).exists() and _already_there(project, key):
            return "reused"
        scan = None if anatomy is None else read_head(anatomy)
        try:
            _clear_killed_write(project)
            _write(project, arguments, key, scan, on_case or (lambda _: None))
        except OSError as error:
            raise EnvironmentProblem(
                f"could not be written ({error.strerror or error})",
                where=out,
                fix="free disk space or mend the folder's permissions, then run the command again",
            ) from error
    return "made"


def _check(arguments: dict[str, int]) -> None:
    limits = {
        "cases": (1, MOST_CASES),
        "size": (SMALLEST_SIZE, LARGEST_SIZE),
        "slices": (FEWEST_SLICES, MOST_SLICES),
        "seed": (0, 2**31 - 1),
    }
    findings = [
        f"{name} = {arguments[name]}: must be from {low} to {high}"
        for name, (low, high) in limits.items()
        if not low <= arguments[name] <= high
    ]
    if findings:
        raise ConfigError("such a cohort cannot be made", where="phantom", details=findings)


def _input_folders(project: Project) -> tuple[Path, Path]:
    return project.volumes.parent, project.masks.parent


def _already_there(project: Project, key: str) -> bool:
    """Whether the folder holds this cohort; False where it holds no cases at all.

    Raises:
        DataError: it holds other cases.
    """
    folders = [folder for folder in _input_folders(project) if folder.exists()]
    try:
        record = read_json(project.phantom_record) if project.phantom_record.exists() else {}
        same = record.get("key") == key and outputs_intact(project.root, record)
    except (CorruptArtifactError, AttributeError, KeyError, TypeError):
        same = False
    if folders and not same:
        raise DataError(
            "already holds cases, and they are not the ones asked for; nothing was changed",
            where=project.root,
            fix="choose another folder",
            details=[f"found {folder.name}" for folder in folders],
        )
    return same


def _clear_killed_write(project: Project) -> None:
    """Removes what a killed run wrote.

    Raises:
        DataError: other files were put beside it since.
    """
    if not (project.root / MARKER).exists():
        return
    project.phantom_record.unlink(missing_ok=True)
    for folder in _input_folders(project):
        foreign = [
            path
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("case_") and path != project.cases_csv
        ]
        if foreign:
            raise DataError(
                "holds files that clotseg phantom did not write; nothing was removed",
                where=folder,
                fix=f"choose another folder, or move them away (and remove {MARKER} to keep the rest)",
                details=[path.name for path in foreign],
            )
    for folder in _input_folders(project):
        if folder.exists():
            shutil.rmtree(folder)


def _write(
    project: Project,
    arguments: dict[str, int],
    key: str,
    scan: HeadScan | None,
    on_case: Callable[[str], None],
) -> None:
    marker = project.root / MARKER
    marker.touch()
    for folder in (project.volumes, project.masks):
        folder.mkdir(parents=True, exist_ok=True)
    grid = Grid((arguments["size"], arguments["size"], arguments["slices"]))
    population = SHIFTED if arguments.get("shift") else USUAL
    cases = arguments["cases"]
    tasks = [(project, arguments["seed"], index, grid, scan, population) for index in range(cases)]
    workers = workers_worth(cases * math.prod(grid.shape) // VOXELS_WORTH_A_PROCESS)
    written = workers.run(_write_case, tasks, lambda index: on_case(_name(index)))
    rows = [case.row for case in written]
    files = [path for case in written for path in case.files]
    with project.cases_csv.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    names = [path.relative_to(project.root).as_posix() for path in [project.cases_csv, *files]]
    write_json(
        project.phantom_record,
        {
            "format": FORMAT,
            "key": key,
            "arguments": {**arguments, "anatomy": scan is not None},
            "cases": [case.recorded for case in written],
            "outputs": describe_outputs(project.root, names),
        },
    )
    marker.unlink()


@dataclass(frozen=True, slots=True)
class Written:
    """What is told of a case: its files, its row of `cases.csv`, its entry in `phantom.json`."""

    files: list[Path]
    row: dict[str, Any]
    recorded: dict[str, Any]


def _name(index: int) -> str:
    return f"case_{index:03d}"


def _write_case(
    project: Project, seed: int, index: int, grid: Grid, scan: HeadScan | None, population: Population
) -> Written:
    name, case = _name(index), make_case(seed, index, grid, scan, population)
    arrays: dict[Path, NDArray[Any]] = {
        project.volumes / f"{name}_CTA_Binary.npy": case.cta,
        project.volumes / f"{name}_NCCT_Reg_Binary.npy": case.ncct,
        project.masks / f"{name}_seg_corrected_binary.npy": case.mask,
    }
    for path, array in arrays.items():
        np.save(path, array, allow_pickle=False)
    recorded = {"case": name, "site": case.site.name, **asdict(case.truth)}
    return Written(list(arrays), _row(name, index, case, grid), recorded)


def _row(name: str, index: int, case: PhantomCase, grid: Grid) -> dict[str, Any]:
    spacing = dict(
        zip(
            ("spacing_row_mm", "spacing_col_mm", "spacing_slice_mm"),
            map(_rounded, grid.spacing_mm),
            strict=True,
        )
    )
    return {"case": name, "patient": f"patient_{index:03d}", "site": case.site.name, **spacing}


def _rounded(spacing_mm: float) -> float:
    return round(spacing_mm, 6)
