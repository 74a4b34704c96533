"""Finding and checking cases: folders of `.npy` volumes in; a sorted list of cases that can be trusted out.

A case is one CTA, one NCCT registered to it and one clot mask, all [row, column, slice] and of one shape.
All findings of all cases are raised together, and nothing is written here.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.project import Project

CTA_SUFFIX = "_CTA_Binary.npy"
NCCT_SUFFIX = "_NCCT_Reg_Binary.npy"
MASK_SUFFIX = "_seg_corrected_binary.npy"
SPACING_COLUMNS = ("spacing_row_mm", "spacing_col_mm", "spacing_slice_mm")

Volume = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Where a case's volumes lie, and what `cases.csv` says of it.

    Attributes:
        spacing_mm: voxel size along (row, column, slice) in mm, None when not known.
    """

    name: str
    patient: str
    site: str
    spacing_mm: tuple[float, float, float] | None
    cta: Path
    ncct: Path
    mask: Path

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """CTA, NCCT and mask."""
        return self.cta, self.ncct, self.mask


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedCase:
    """A case whose volumes were read and found good.

    Attributes:
        shape: (rows, columns, slices).
        clot_voxels: how many voxels of the mask are 1.
    """

    case: Case
    shape: tuple[int, int, int]
    clot_voxels: int


def find_cases(project: Project) -> list[Case]:
    """All cases of a project, sorted by name.

    Raises:
        DataError: there is none, a case lacks one of its three files, or `cases.csv` cannot be used.
    """
    stems = {
        kind: {path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")}
        for kind, folder, suffix in (
            ("CTA", project.volumes, CTA_SUFFIX),
            ("NCCT", project.volumes, NCCT_SUFFIX),
            ("mask", project.masks, MASK_SUFFIX),
        )
    }
    names = sorted(set().union(*stems.values()))
    if not names:
        raise DataError(
            f"no case found: expected {project.volumes / ('*' + CTA_SUFFIX)} and its partners",
            where=project.root,
            fix="run clotseg in the folder that holds DL_vol_files and DL_seg_files, or name it with -C",
        )
    missing = [
        f"{name}: no {kind} volume" for name in names for kind, found in stems.items() if name not in found
    ]
    if missing:
        raise DataError(
            "some cases are not complete",
            where=project.root,
            details=missing,
            fix=f"each case needs NAME{CTA_SUFFIX}, NAME{NCCT_SUFFIX} and NAME{MASK_SUFFIX}",
        )
    table = _read_cases_csv(project.cases_csv, names)
    return [_case(project, name, table.get(name, {})) for name in names]


def _case(project: Project, name: str, row: dict[str, Any]) -> Case:
    return Case(
        name=name,
        patient=(row.get("patient") or "").strip() or name,
        site=(row.get("site") or "").strip(),
        spacing_mm=row.get("spacing_mm"),
        cta=project.volumes / f"{name}{CTA_SUFFIX}",
        ncct=project.volumes / f"{name}{NCCT_SUFFIX}",
        mask=project.masks / f"{name}{MASK_SUFFIX}",
    )


def check_cases(
    cases: list[Case], *, largest_slice: int | None, on_case: Callable[[], None] = lambda: None
) -> list[CheckedCase]:
    """Reads every volume of every case and holds it against the format.

    Args:
        cases: the cases to check.
        largest_slice: the longest side a slice may have, in pixels; None for no limit.
        on_case: called after each case.

    Raises:
        DataError: with one line for each finding in each file of each case.
    """
    checked: list[CheckedCase] = []
    findings: list[str] = []
    for case in cases:
        try:
            checked.append(check_case(case, largest_slice=largest_slice))
        except DataError as error:
            findings.extend(error.details)
        on_case()
    if findings:
        raise DataError(
            f"{len(cases) - len(checked)} of {len(cases)} cases cannot be used; nothing was written",
            details=findings,
            fix="mend or remove these files, then run the command again",
        )
    return checked


def check_case(case: Case, *, largest_slice: int | None) -> CheckedCase:
    """Reads the three volumes of one case and holds them against the format.

    Raises:
        DataError: with one line for each finding.
    """
    findings: list[str] = []
    volumes = {path: _open(path, findings) for path in case.files}
    shapes = {path: volume.shape for path, volume in volumes.items() if volume is not None}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{path.name} {shape}" for path, shape in shapes.items())
        findings.append(f"{case.name}: the volumes differ in shape: {listed}")
    for path, volume in volumes.items():
        if volume is None:
            continue
        if largest_slice is not None and max(volume.shape[:2]) > largest_slice:
            rows, columns = volume.shape[:2]
            findings.append(
                f"{path.name}: slices of {rows}×{columns} pixels, larger than {largest_slice}; "
                "crop the volume, or allow it with --size"
            )
        findings.extend(_bad_mask(path, volume) if path == case.mask else _bad_hu(path, volume))
    mask = volumes[case.mask]
    if findings or mask is None:
        raise DataError(f"case {case.name} cannot be used", details=findings)
    rows, columns, slices = mask.shape
    return CheckedCase(case=case, shape=(rows, columns, slices), clot_voxels=int(np.count_nonzero(mask)))


def open_volume(path: Path) -> Volume:
    """Maps a `.npy` file; nothing in it is unpickled, since a map of objects cannot be.

    Raises:
        DataError: it cannot be read, or does not hold a plain array.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy's header parser lets out tokenizer, syntax and overflow errors too
        raise DataError(f"is not a readable .npy array ({error})", where=path.name) from error


def _open(path: Path, findings: list[str]) -> Volume | None:
    try:
        volume = open_volume(path)
    except DataError as error:
        findings.append(str(error))
        return None
    if volume.ndim != 3 or 0 in volume.shape:
        findings.append(f"{path.name}: has shape {volume.shape}; [row, column, slice] is needed")
        return None
    if volume.dtype.kind not in "biuf":
        findings.append(f"{path.name}: holds {volume.dtype}; integers or floats are needed")
        return None
    return volume


def _bad_hu(path: Path, volume: Volume) -> list[str]:
    if volume.dtype.kind == "b":
        return [f"{path.name}: holds bool; HU values are needed"]
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        bad = int(np.count_nonzero(~np.isfinite(volume)))
        return [f"{path.name}: {bad} voxels are NaN or infinite"]
    return []


def _bad_mask(path: Path, volume: Volume) -> list[str]:
    foreign = volume[(volume != 0) & (volume != 1)]
    if not foreign.size:
        return []
    shown = ", ".join(str(value) for value in np.unique(foreign)[:5])
    return [f"{path.name}: a mask holds 0 and 1 only; found {shown} in {foreign.size} voxels"]


def _read_cases_csv(path: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Patient, site and spacing by case name; empty where there is no table."""
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=path) from error
    if "case" not in columns:
        raise DataError(
            "has no column `case`",
            where=path,
            fix=f"its columns: case,patient,site,{','.join(SPACING_COLUMNS)}",
        )
    findings: list[str] = []
    table: dict[str, dict[str, Any]] = {}
    for line, row in enumerate(rows, 2):
        name = row["case"]
        if name in table:
            findings.append(f"line {line}: case {name} is listed twice")
        table[name] = {**row, "spacing_mm": _spacing(row, line, findings)}
    if absent := sorted(set(names) - set(table)):
        findings.append(f"no line for {', '.join(absent[:10])}{' …' if len(absent) > 10 else ''}")
    if findings:
        raise DataError(
            "does not fit the cases", where=path, details=findings, fix="one line for each case, or no table"
        )
    return table


def _spacing(row: dict[str, Any], line: int, findings: list[str]) -> tuple[float, float, float] | None:
    texts = [(row.get(column) or "").strip() for column in SPACING_COLUMNS]
    if not any(texts):
        return None
    try:
        row_mm, column_mm, slice_mm = (float(text) for text in texts)
    except ValueError:
        findings.append(f"line {line}: spacing {texts} is not three numbers")
        return None
    if not all(np.isfinite(value) and value > 0 for value in (row_mm, column_mm, slice_mm)):
        findings.append(f"line {line}: spacing {texts} must be above 0 mm")
        return None
    return row_mm, column_mm, slice_mm
