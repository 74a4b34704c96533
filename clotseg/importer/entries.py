"""What to import: a CSV or a folder of exported volumes in; the sources of each case, by case name, out.

No volume is read here. A source is the path of a file, of a folder with a DICOM series, or, in a CSV,
`FOLDER#SeriesInstanceUID`. Entries are sorted by case; no two share a name. Everything that is wrong is told
at once.
"""

import csv
import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clotseg.errors import DataError
from clotseg.prep.table import differing_by_letter_case, read_lines
from clotseg.scans.nifti import NIFTI_SUFFIXES

COLUMNS = ("case", "patient", "site", "cta", "ncct", "mask")
NEEDED = ("case", "cta", "ncct")

ROLES = {
    "mask": ("mask", "msk", "seg", "dseg", "segmentation", "clot", "thrombus", "label", "labels", "lesion"),
    "cta": ("cta", "angio"),
    "ncct": ("ncct", "nect", "noncontrast", "ct"),
}
"""Words in a name that tell what a volume is, the first that fits: a `CTA_mask` is a mask, no CTA."""
OTHER_ANATOMY = ("brain", "skull", "head", "vessel", "vessels")
"""What masks among BIDS derivatives may be of instead of the clot."""
NAMING = (
    "list the cases in a CSV with the columns case,patient,site,cta,ncct,mask; or give each case a folder "
    "that holds CTA, NCCT and mask by these names; or name files {case}_CTA.nii.gz, {case}_NCCT.nii.gz and "
    "{case}_mask.nii.gz, or as BIDS does"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where the volumes of one case are.

    Attributes:
        case: its name; also that of the files written for it.
        patient: whom cases share; empty where nothing says so.
        site: where it was scanned; empty where nothing says so.
        cta: source of the CTA.
        ncct: source of the NCCT.
        mask: source of the clot mask, None where there is none.
    """

    case: str
    patient: str
    site: str
    cta: str
    ncct: str
    mask: str | None


@dataclass(kw_only=True, slots=True)
class _Candidates:
    """What was found for one case, by role."""

    patient: str = ""
    sources: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))


def find_entries(path: Path) -> tuple[list[Entry], list[str]]:
    """The cases that a CSV lists, or that a folder holds by the names in it.

    A folder holds a folder for each case with a CTA, an NCCT and maybe a mask in it, each a NIfTI file or a
    folder (`ROLES` are the words by which they are told apart, in upper or lower case); or files
    `{case}_CTA.nii.gz`, `{case}_NCCT.nii.gz`, `{case}_mask.nii.gz`; or BIDS-like `sub-…` folders, where each
    session is a case, the label of `sub` is the patient, and masks may lie under `derivatives`.

    Args:
        path: a `.csv`, whose relative paths start at its own folder, or a folder.

    Returns:
        The entries, and a notice for each case that lacks a volume and for what else was passed over.

    Raises:
        DataError: the path is neither, no case was found, or, all told at once: columns that are not known,
            sources that are not there, case names that are there twice, differ by letter case only or cannot
            be names of files, and cases with two candidates for one volume.
    """
    if path.is_dir():
        entries, notices, faults = _in_folder(path)
    elif path.suffix.lower() == ".csv" and path.is_file():
        entries, notices, faults = _in_table(path)
    else:
        raise DataError("is no folder and no CSV", where=path, fix=NAMING)
    faults += [
        f"cases {' and '.join(names)} differ by letter case only"
        for names in differing_by_letter_case(entry.case for entry in entries)
    ]
    if faults:
        raise DataError("cannot be imported as it is", where=path, details=faults)
    if not entries:
        raise DataError("no case found", where=path, details=notices, fix=NAMING)
    return sorted(entries, key=lambda entry: entry.case), notices


def _unsafe(case: str) -> bool:
    """Whether a case's name cannot be that of files."""
    return not case.isprintable() or case != case.strip() or bool(re.search(r"^\.|[/\\]", case)) or not case


def _in_table(file: Path) -> tuple[list[Entry], list[str], list[str]]:
    try:
        columns, lines = read_lines(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=file) from error
    faults = list(_column_faults(columns))
    if any(name not in columns for name in NEEDED):
        return [], [], faults
    entries: dict[str, Entry] = {}
    for number, cells in lines:
        text = {column: (cells.get(column) or "").strip() for column in COLUMNS}
        wrong = ["more cells than columns"] if None in cells else []
        wrong += _line_faults(text, file.parent)
        if text["case"] in entries:
            wrong.append(f"case {text['case']} is listed twice")
        faults += [f"line {number}: {fault}" for fault in wrong]
        sources = {role: str(file.parent / text[role]) if text[role] else "" for role in ROLES}
        entries.setdefault(
            text["case"],
            Entry(
                case=text["case"],
                patient=text["patient"],
                site=text["site"],
                cta=sources["cta"],
                ncct=sources["ncct"],
                mask=sources["mask"] or None,
            ),
        )
    return list(entries.values()), [], faults


def _column_faults(columns: list[str]) -> Iterator[str]:
    for column in columns:
        if column not in COLUMNS:
            nearest = difflib.get_close_matches(column.lower(), COLUMNS, n=1, cutoff=0.6)
            hint = f"did you mean `{nearest[0]}`?" if nearest else "leave it out."
            yield f"unknown column `{column}`; {hint} Columns, with commas between: {','.join(COLUMNS)}"
    yield from (f"column `{name}` is there twice" for name in COLUMNS if columns.count(name) > 1)
    yield from (f"no column `{name}`" for name in NEEDED if name not in columns)


def _line_faults(text: dict[str, str], folder: Path) -> Iterator[str]:
    case = text["case"]
    if _unsafe(case):
        yield f"{case!r} cannot be the name of a case and of its files"
    for role in ROLES:
        if not text[role]:
            if role in NEEDED:
                yield f"case {case} has no `{role}`"
        elif not (folder / text[role]).exists() and not _folder_of(folder / text[role]).is_dir():
            yield f"case {case}: what `{role}` names is not there"


def _folder_of(source: Path) -> Path:
    """The folder of `FOLDER#SeriesInstanceUID`."""
    return Path(str(source).rpartition("#")[0] or str(source))


def _in_folder(root: Path) -> tuple[list[Entry], list[str], list[str]]:
    cases: dict[str, _Candidates] = {}
    passed_over, twice = 0, []
    for add in (_bids, _flat, _folders):
        found, left = add(root)
        passed_over += left
        twice += [f"case {name} is there in two ways" for name in found.keys() & cases.keys()]
        cases |= found
    faults, notices, entries = sorted(twice), [], []
    for case, candidates in sorted(cases.items()):
        sources, wrong = _one_each(candidates, root)
        faults += [f"case {case} has {fault}" for fault in wrong]
        if _unsafe(case):
            faults.append(f"{case!r} cannot be the name of a case and of its files")
        if missing := [role.upper() for role in ("cta", "ncct") if not candidates.sources[role]]:
            notices.append(f"case {case} left out: it has no {' and no '.join(missing)}")
        elif not wrong:
            entries.append(_entry(case, candidates.patient, sources))
    if passed_over:
        notices.append(f"passed over: {passed_over} × file or folder that no name tells to be a volume")
    return entries, notices, faults


def _one_each(candidates: _Candidates, root: Path) -> tuple[dict[str, str], list[str]]:
    """A source for each role, and what there is twice."""
    sources, faults = {}, []
    for role, given in candidates.sources.items():
        paths = [path for one in given for path in _within(one)]
        if len(paths) > 1:
            names = " and ".join(path.relative_to(root).as_posix() for path in sorted(paths))
            faults.append(f"{len(paths)} candidates for the {role}: {names}")
        elif paths:
            sources[role] = str(paths[0])
    return sources, faults


def _within(path: Path) -> list[Path]:
    """The NIfTI files in a folder, where it has any; else the path itself."""
    held = [file for file in path.iterdir() if file.name.endswith(NIFTI_SUFFIXES)] if path.is_dir() else []
    return held or [path]


def _entry(case: str, patient: str, sources: dict[str, str]) -> Entry:
    return Entry(
        case=case,
        patient=patient,
        site="",
        cta=sources["cta"],
        ncct=sources["ncct"],
        mask=sources.get("mask"),
    )


def _visible(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _stem(path: Path) -> str | None:
    """The name of a folder, or of a file that may be a volume or a DICOM Segmentation; None for any other."""
    if path.is_dir():
        return path.name
    endings = (*NIFTI_SUFFIXES, ".dcm")
    return next((path.name.removesuffix(end) for end in endings if path.name.endswith(end)), None)


def _role(name: str) -> str | None:
    words = re.split(r"[^a-z0-9]+", re.sub(r"non[^a-z0-9]contrast", "noncontrast", name.lower()))
    return next((role for role, known in ROLES.items() if set(words) & set(known)), None)


def _folders(root: Path) -> tuple[dict[str, _Candidates], int]:
    """A folder for each case."""
    cases: dict[str, _Candidates] = {}
    passed_over = 0
    for folder in _visible(root):
        if not folder.is_dir() or _is_bids(folder) or folder.name == "derivatives":
            continue
        found = _Candidates()
        for path in _visible(folder):
            role = _role((_stem(path) or "").removeprefix(folder.name))
            if role is None or (path.suffix == ".dcm" and path.is_file() and role != "mask"):
                passed_over += 1
            else:
                found.sources[role].append(path)
        if found.sources:
            cases[folder.name] = found
    return cases, passed_over


def _flat(root: Path) -> tuple[dict[str, _Candidates], int]:
    """Files whose names end in what they are."""
    cases: dict[str, _Candidates] = defaultdict(_Candidates)
    masks: list[tuple[str, Path]] = []
    passed_over = 0
    for path in _visible(root):
        if path.is_dir() or _is_bids(path):
            continue
        case, _, word = (_stem(path) or "").rpartition("_")
        role = _role(word)
        if not case or role is None or (path.suffix == ".dcm" and role != "mask"):
            passed_over += 1
        elif role == "mask":
            masks.append((case, path))
        else:
            cases[case].sources[role].append(path)
    for case, path in masks:  # `a_CTA_mask` is the mask of `a`, unless there is a case `a_CTA`.
        shorter, _, word = case.rpartition("_")
        named = shorter if case not in cases and shorter in cases and _role(word) else case
        cases[named].sources["mask"].append(path)
    return dict(cases), passed_over


def _is_bids(path: Path) -> bool:
    """Whether a file, or one below a folder, is named for a BIDS subject, and the folder is, too."""
    return path.name.startswith("sub-") and any(file.name.startswith("sub-") for file in _files(path))


def _bids(root: Path) -> tuple[dict[str, _Candidates], int]:
    """Files named by `key-value` pairs and a last word; of derivatives only the masks."""
    cases: dict[str, _Candidates] = defaultdict(_Candidates)
    of_subject: dict[str, list[Path]] = defaultdict(list)
    passed_over = 0
    raw = [path for top in _visible(root) if _is_bids(top) for path in _files(top)]
    derived = {path for path in _files(root / "derivatives") if path.name.startswith("sub-")}
    for path in (*raw, *sorted(derived)):
        if path.suffix == ".json":
            continue
        pairs, role = _bids_name(path)
        if role is None or "sub" not in pairs or (path in derived and role != "mask"):
            passed_over += 1
            continue
        case = f"sub-{pairs['sub']}" + (f"_ses-{pairs['ses']}" if "ses" in pairs else "")
        if role == "mask" and "ses" not in pairs:
            of_subject[pairs["sub"]].append(path)
        else:
            cases[case].patient = pairs["sub"]
            cases[case].sources[role].append(path)
    for subject, masks in of_subject.items():
        own = [found for found in cases.values() if found.patient == subject]
        if len(own) == 1:
            own[0].sources["mask"] += masks
        else:
            passed_over += len(masks)
    return dict(cases), passed_over


def _files(folder: Path) -> list[Path]:
    """Files at and below a path, none hidden."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("[!.]*") if path.is_file())


def _bids_name(path: Path) -> tuple[dict[str, str], str | None]:
    """The pairs of a BIDS name, and what the file is."""
    *pairs, last = (_stem(path) or "").split("_")
    known = dict(pair.partition("-")[::2] for pair in pairs)
    if last.lower() in ROLES["mask"]:
        other = {known.get(key, "").lower() for key in ("desc", "label")} & set(OTHER_ANATOMY)
        return known, None if other else "mask"
    if path.suffix == ".dcm" or path.is_dir():
        return known, None
    # Of `acq-ctp_ct` nothing but the acquisition tells that it is no NCCT.
    return known, _role(known["acq"] if "acq" in known and last.lower() == "ct" else last)
