"""New patients: the user's folders, files and tables in; the CTA and NCCT of each case by name out.

No volume is read here. What is found is sorted by name, and each name is there once.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clotseg.errors import DataError
from clotseg.prep.cases import CTA_SUFFIX, NCCT_SUFFIX
from clotseg.prep.table import SPACING_COLUMNS, Row, Spacing, read_lines, read_spacing, read_table
from clotseg.project import Project
from clotseg.scans.nifti import NIFTI_SUFFIXES

CTA_NAMES = (CTA_SUFFIX, *(f"_CTA{suffix}" for suffix in NIFTI_SUFFIXES))
NCCT_NAMES = (NCCT_SUFFIX, *(f"_NCCT{suffix}" for suffix in NIFTI_SUFFIXES))
COLUMNS = ("case", "cta", "ncct", *SPACING_COLUMNS)
NAMING = (
    "name volumes {case}_CTA.nii.gz and {case}_NCCT.nii.gz, or {case}_CTA_Binary.npy and "
    "{case}_NCCT_Reg_Binary.npy, or list them in a CSV with the columns case,cta,ncct"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """A case without a mask.

    Attributes:
        name: of the case; also the name of its results.
        cta: file of the CTA, or None where there is none.
        ncct: file of the NCCT, or None where there is none.
        spacing_mm: voxel size along (row, column, slice) where a table gives it; NIfTI carries its own.
    """

    name: str
    cta: Path | None
    ncct: Path | None
    spacing_mm: Spacing | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are there, CTA first."""
        return tuple(path for path in (self.cta, self.ncct) if path is not None)

    @property
    def is_nifti(self) -> bool:
        """Whether its volumes are NIfTI; where they are of two kinds, whether the CTA is."""
        return self.files[0].name.endswith(NIFTI_SUFFIXES)


def find_patients(inputs: Iterable[Path]) -> list[Patient]:
    """The cases that the user's paths mean.

    Args:
        inputs: folders of volumes, projects, tables (`.csv`), or files of volumes, of which one finds the
            other by its name.

    Raises:
        DataError: a path is none of these, there is no case, or two cases have one name.
    """
    found: dict[str, Patient] = {}
    for path in inputs:
        for patient in _within(path):
            if found.setdefault(patient.name, patient) != patient:
                raise DataError(
                    f"case {patient.name} is there twice, with different files",
                    where=path,
                    fix="give each case a name of its own, or run `clotseg predict` once for each folder",
                )
    return [found[name] for name in sorted(found)]


def _within(path: Path) -> list[Patient]:
    if path.is_dir():
        project = Project(path)
        patients = _in_project(project) if project.volumes.is_dir() else _in_folder(path)
    elif path.suffix == ".csv" and path.is_file():
        patients = _in_table(path)
    elif (name := _case_name(path.name)) and path.is_file():
        patients = [patient for patient in _in_folder(path.parent) if patient.name == name]
    else:
        raise DataError("is no folder, table or volume of a case", where=path, fix=NAMING)
    if not patients:
        raise DataError("no case found", where=path, fix=NAMING)
    return patients


def _case_name(name: str) -> str | None:
    """The case that a file belongs to by its name."""
    for suffix in (*CTA_NAMES, *NCCT_NAMES):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return None


def _in_folder(folder: Path) -> list[Patient]:
    names = sorted({name for path in folder.iterdir() if (name := _case_name(path.name))})
    return [
        Patient(name=name, cta=_file(folder, name, CTA_NAMES), ncct=_file(folder, name, NCCT_NAMES))
        for name in names
    ]


def _file(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path | None:
    found = [path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(
            f"case {name} has {' and '.join(path.name for path in found)}",
            where=folder,
            fix="keep one of them, or list the cases in a CSV",
        )
    return found[0] if found else None


def _in_project(project: Project) -> list[Patient]:
    """The cases of a project, with the spacing of its table."""
    patients = _in_folder(project.volumes)
    table, faults = read_table(project.cases_csv, [patient.name for patient in patients])
    if faults:
        raise DataError("cannot be used", where=project.cases_csv, details=faults)
    return [
        Patient(
            name=patient.name,
            cta=patient.cta,
            ncct=patient.ncct,
            spacing_mm=table.get(patient.name, Row()).spacing_mm,
        )
        for patient in patients
    ]


def _in_table(file: Path) -> list[Patient]:
    """The cases of a CSV; its paths are taken from its own folder."""
    faults: list[str] = []
    try:
        columns, lines = read_lines(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=file) from error
    faults += [f"unknown column `{column}`" for column in columns if column not in COLUMNS]
    faults += [f"no column `{column}`" for column in COLUMNS[:3] if column not in columns]
    if faults:
        raise DataError(
            "has other columns than it must", where=file, details=faults, fix=f"use {','.join(COLUMNS)}"
        )
    patients = list(_lines(file.parent, lines, faults))
    if faults:
        raise DataError("some lines cannot be used", where=file, details=faults)
    return patients


def _lines(
    folder: Path, lines: Iterable[tuple[int, Mapping[str | None, str | None]]], faults: list[str]
) -> Iterator[Patient]:
    seen: set[str] = set()
    for number, cells in lines:
        text = {column: (cells.get(column) or "").strip() for column in COLUMNS}
        name = text["case"]
        if not name or Path(name).name != name or name.startswith("."):
            faults.append(f"line {number}: {name!r} cannot be the name of a case and of its results")
        elif name in seen:
            faults.append(f"line {number}: case {name} is listed twice")
        elif not text["cta"] and not text["ncct"]:
            faults.append(f"line {number}: case {name} has neither CTA nor NCCT")
        seen.add(name)
        yield Patient(
            name=name,
            cta=folder / text["cta"] if text["cta"] else None,
            ncct=folder / text["ncct"] if text["ncct"] else None,
            spacing_mm=read_spacing([text[column] for column in SPACING_COLUMNS], number, faults),
        )
