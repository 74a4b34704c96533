"""Finding and checking cases: folders of `.npy` volumes in; a sorted list of cases that can be trusted out.

A case is one CTA, one NCCT registered to it and one clot mask, all [row, column, slice] and of one shape.
All findings of all cases can be raised together, and nothing is written here. Volumes are mapped and read in
blocks, so a check holds a few megabytes however large a volume is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.console import Progress
from clotseg.errors import DataError
from clotseg.prep.table import Row, differing_by_letter_case, read_table
from clotseg.project import Project

CTA_SUFFIX = "_CTA_Binary.npy"
NCCT_SUFFIX = "_NCCT_Reg_Binary.npy"
MASK_SUFFIX = "_seg_corrected_binary.npy"

LOWEST_HU, HIGHEST_HU = -2048, 32767
PADDING_HU = -1000
"""Air, and what scanners fill the corners with, lies here or below; no clot does."""

VOXELS_PER_BLOCK = 2**18
NOTICED_NAMES = 10

EMPTY_MASK = "the mask is empty"
MASK_OF_255 = "the mask holds 0 and 255, read as 0 and 1"

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
        clot_voxels: how many voxels of the mask are clot.
        notices: what is allowed but worth telling.
    """

    case: Case
    shape: tuple[int, int, int]
    clot_voxels: int
    notices: tuple[str, ...] = field(default=(), compare=False)


def survey_cases(project: Project) -> tuple[list[Case], dict[str, list[str]]]:
    """All cases of a project, sorted by name, whole or not; no volume is read.

    Returns:
        The cases, and what is wrong with them, by the name of the case, or of the folder or table that it
        is wrong with.

    Raises:
        DataError: there is no case.
    """
    names = case_names(project)
    if not names:
        raise DataError(
            f"no case found: expected {project.volumes / ('*' + CTA_SUFFIX)} and its partners",
            where=project.root,
            fix="run clotseg in the folder that holds DL_vol_files and DL_seg_files, or name it with -C",
        )
    table, table_faults = read_table(project.cases_csv, names)
    cases = [_case(project, name, table.get(name, Row())) for name in names]
    findings = {case.name: _file_faults(case) for case in cases}
    for group in differing_by_letter_case(names):
        findings[group[0]].append(f"cases {' and '.join(group)} differ by letter case only; rename one")
    for name, fault in _links_that_lead_out(project, cases):
        findings.setdefault(name, []).append(fault)
    findings[project.cases_csv.name] = table_faults
    return cases, {name: faults for name, faults in findings.items() if faults}


def case_names(project: Project) -> list[str]:
    """The names of all cases of which a file is there, sorted."""
    places = (
        (project.volumes, CTA_SUFFIX),
        (project.volumes, NCCT_SUFFIX),
        (project.masks, MASK_SUFFIX),
    )
    found = {
        path.name.removesuffix(suffix) for folder, suffix in places for path in folder.glob(f"*{suffix}")
    }
    return sorted(found)


def _case(project: Project, name: str, row: Row) -> Case:
    return Case(
        name=name,
        patient=row.patient or name,
        site=row.site,
        spacing_mm=row.spacing_mm,
        cta=project.volumes / f"{name}{CTA_SUFFIX}",
        ncct=project.volumes / f"{name}{NCCT_SUFFIX}",
        mask=project.masks / f"{name}{MASK_SUFFIX}",
    )


def _file_faults(case: Case) -> list[str]:
    return [fault for path in case.files if (fault := _file_fault(case, path))]


def _file_fault(case: Case, path: Path) -> str | None:
    """Why a file of a case cannot be opened, if it cannot."""
    try:
        if path.is_file():
            with path.open("rb"):
                return None
    except OSError as error:
        return f"{path.name}: cannot be opened ({error.strerror})"
    if path.is_symlink():
        return f"{path.name}: is a link to {path.readlink()}, which is no file"
    if path.exists():
        return f"{path.name}: is not a file"
    kind = dict(zip(case.files, ("CTA", "NCCT", "mask"), strict=True))[path]
    return f"{case.name}: no {kind} volume; it would be {path.name}"


def _links_that_lead_out(project: Project, cases: list[Case]) -> Iterator[tuple[str, str]]:
    """Links to places outside of the project: such a file can change or go without the project's knowing."""
    root = project.root.resolve()
    advice = "is outside of the project; copy the data in, or hard-link it (cp -al)"
    inside = {folder: folder.resolve().is_relative_to(root) for folder in (project.volumes, project.masks)}
    for folder, is_inside in inside.items():
        if not is_inside:
            yield project.shown(folder), f"{project.shown(folder)}: {folder.resolve()} {advice}"
    for case in cases:
        for path in case.files:
            if path.is_symlink() and inside[path.parent] and not path.resolve().is_relative_to(root):
                yield case.name, f"{path.name}: links to {path.resolve()}, which {advice}"


def refusal(cases: list[Case], findings: Mapping[str, Sequence[str]]) -> DataError:
    """The error that tells all findings at once, each once, in the order of the cases."""
    names = [case.name for case in cases]
    bad = sum(name in findings for name in names)
    others = [name for name in findings if name not in set(names)]
    return DataError(
        f"{bad} of {len(cases)} cases cannot be used; nothing was written"
        if bad
        else "the cases cannot be used as they are; nothing was written",
        details=[line for name in (*others, *names) for line in dict.fromkeys(findings.get(name, ()))],
        fix="mend or remove these files, then run the command again",
    )


def tell_notices(checked: list[CheckedCase], progress: Progress) -> None:
    """Says what is allowed but worth knowing: one line for each kind of notice, with its cases."""
    named: dict[str, list[str]] = {}
    for entry in checked:
        for notice in entry.notices:
            named.setdefault(notice, []).append(entry.case.name)
    for notice, names in named.items():
        more = f" and {len(names) - NOTICED_NAMES} more" if len(names) > NOTICED_NAMES else ""
        progress.say("notice", what=notice, cases=len(names), names=", ".join(names[:NOTICED_NAMES]) + more)


def check_case(case: Case, *, largest_slice: int | None) -> CheckedCase:
    """Reads the three volumes of one case and holds them against the format.

    Raises:
        DataError: with one line for each finding.
    """
    findings: list[str] = []
    volumes = {path: _open(case, path, findings) for path in case.files}
    shapes = {path: volume.shape for path, volume in volumes.items() if volume is not None}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{path.name} {shape}" for path, shape in shapes.items())
        findings.append(f"{case.name}: the volumes differ in shape: {listed}")
    for path, (rows, columns, _) in shapes.items():
        if largest_slice is not None and max(rows, columns) > largest_slice:
            findings.append(
                f"{path.name}: slices of {rows}×{columns} pixels, larger than {largest_slice}; "
                "crop the volume, or allow it with --size"
            )
    for path in (case.cta, case.ncct):
        if (volume := volumes[path]) is not None:
            findings.extend(hu_faults(path, volume))
    mask, cta = volumes[case.mask], volumes[case.cta]
    if mask is None:
        raise DataError(f"case {case.name} cannot be used", details=findings)
    facts = _read_mask(mask, cta if cta is not None and cta.shape == mask.shape else None)
    findings.extend(_bad_mask(case, facts))
    if findings:
        raise DataError(f"case {case.name} cannot be used", details=findings)
    notices = [EMPTY_MASK] * (not facts.clot_voxels) + [MASK_OF_255] * facts.is_0_and_255
    rows, columns, slices = mask.shape
    return CheckedCase(
        case=case, shape=(rows, columns, slices), clot_voxels=facts.clot_voxels, notices=tuple(notices)
    )


def open_volume(path: Path) -> Volume:
    """Maps a `.npy` file; nothing in it is unpickled, since a map of objects cannot be.

    Raises:
        DataError: it cannot be read, does not hold a plain array, or has another size than its header says.
    """
    try:
        volume = np.lib.format.open_memmap(path, mode="r")
        surplus = path.stat().st_size - volume.offset - volume.nbytes
    except Exception as error:  # NumPy's header parser lets out tokenizer, syntax and overflow errors too
        raise DataError(f"is not a readable .npy array ({error})", where=path.name) from error
    if surplus and volume.size:
        raise DataError(
            f"is not a readable .npy array ({surplus} bytes more than its header says)", where=path.name
        )
    return volume


def open_mask(path: Path) -> NDArray[np.uint8]:
    """A clot mask as uint8 0/1 [row, column, slice], also where the file holds 0 and 255.

    Raises:
        DataError: it cannot be read, or does not hold a plain array.
    """
    return np.asarray(open_volume(path) != 0).view(np.uint8)


def _open(case: Case, path: Path, findings: list[str]) -> Volume | None:
    if fault := _file_fault(case, path):
        findings.append(fault)
        return None
    try:
        volume = open_volume(path)
    except DataError as error:
        findings.append(str(error))
        return None
    if fault := array_fault(path, volume):
        findings.append(fault)
        return None
    return volume


def array_fault(path: Path, volume: Volume) -> str | None:
    """Why an array that was read from a file is no volume of numbers, if it is none."""
    if volume.ndim != 3 or 0 in volume.shape:
        return f"{path.name}: has shape {volume.shape}; [row, column, slice] is needed"
    if volume.dtype.kind not in "biuf":
        return f"{path.name}: holds {volume.dtype}; integers or floats are needed"
    return None


def blocks(volume: Volume) -> Iterator[tuple[slice, slice, slice]]:
    """Cuts across the axis that is slowest in memory, so that each block is one stretch of its file.

    A block holds about a quarter of a million voxels.
    """
    axis = int(np.argmax(volume.strides))
    thickness = max(1, VOXELS_PER_BLOCK * volume.shape[axis] // volume.size)
    for start in range(0, volume.shape[axis], thickness):
        cut = [slice(None)] * 3
        cut[axis] = slice(start, start + thickness)
        yield cut[0], cut[1], cut[2]


def hu_faults(path: Path, volume: Volume) -> list[str]:
    """A line for each reason why the numbers of a volume cannot be HU; it is read block by block."""
    if volume.dtype.kind == "b":
        return [f"{path.name}: holds bool; HU values are needed"]
    not_finite, lows, highs = 0, [], []
    for block in blocks(volume):
        voxels = volume[block]
        if volume.dtype.kind == "f" and not (finite := np.isfinite(voxels)).all():
            not_finite += int(np.count_nonzero(~finite))
            voxels = voxels[finite]
        if voxels.size:
            lows.append(voxels.min().item())
            highs.append(voxels.max().item())
    findings = [f"{path.name}: {not_finite} voxels are NaN or infinite"] if not_finite else []
    if not lows:
        return findings
    low, high = min(lows), max(highs)
    if low < LOWEST_HU or high > HIGHEST_HU:
        findings.append(f"{path.name}: {low}…{high} cannot be HU, which lie in {LOWEST_HU}…{HIGHEST_HU}")
    elif -1 <= low <= high <= 1:
        findings.append(
            f"{path.name}: all voxels lie in {low}…{high}: looks normalised; HU values are needed"
        )
    return findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _MaskFacts:
    """What the voxels of a mask are.

    Attributes:
        clot_voxels: how many are not 0.
        foreign_voxels: how many are neither 0 nor 1.
        foreign_values: the lowest few of their values.
        in_padding: how many are not 0 where the CTA is air or padding.
        voxels: how many there are.
    """

    clot_voxels: int
    foreign_voxels: int
    foreign_values: list[float]
    in_padding: int
    voxels: int

    @property
    def is_0_and_255(self) -> bool:
        """Whether these two values are there and no other."""
        return self.foreign_values == [255] and self.foreign_voxels == self.clot_voxels < self.voxels


def _read_mask(mask: Volume, cta: Volume | None) -> _MaskFacts:
    clot_voxels = foreign_voxels = in_padding = 0
    foreign_values = np.empty(0, mask.dtype)
    for block in blocks(mask):
        voxels = mask[block]
        clot = voxels != 0
        foreign = voxels[clot & (voxels != 1)]
        clot_voxels += int(np.count_nonzero(clot))
        foreign_voxels += foreign.size
        foreign_values = np.unique(np.concatenate([foreign_values, foreign]))[:5]
        if cta is not None:
            in_padding += int(np.count_nonzero(cta[block][clot] <= PADDING_HU))
    return _MaskFacts(
        clot_voxels=clot_voxels,
        foreign_voxels=foreign_voxels,
        foreign_values=foreign_values.tolist(),
        in_padding=in_padding,
        voxels=mask.size,
    )


def _bad_mask(case: Case, facts: _MaskFacts) -> list[str]:
    if facts.foreign_voxels and not facts.is_0_and_255:
        shown = ", ".join(str(value) for value in facts.foreign_values)
        return [
            f"{case.mask.name}: a mask holds 0 and 1 only, or 0 and 255 only; "
            f"found {shown} in {facts.foreign_voxels} voxels"
        ]
    if facts.in_padding:
        return [
            f"{case.mask.name}: {facts.in_padding} voxels of clot lie where the CTA is air or padding "
            f"({PADDING_HU} HU or less); mask and CTA do not belong together, or one of them is flipped"
        ]
    return []
