"""A DICOM series: a folder in; its slices in the order they lie in the patient, and the grid they make, out.

Slices are ordered by their position along the normal of the image plane, whatever their files or numbers
say. What is given is one regular stack: one orientation, size and pixel spacing, slices at equal distances
straight above each other. Anything else is refused by name, since no voxel grid could stand for it.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import DataError

Dataset = Any  # pydicom is an extra
Floats = NDArray[np.float64]

LARGEST_STRAY_MM = 0.1
"""How far a slice may lie from its place in a regular stack; scanners round positions to less."""
SAME_PLACE_MM = 0.01

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
"""What DICOM lets a scanner leave empty, and some who remove names then remove altogether."""
ONE_EACH = ("Rows", "Columns", "PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Series:
    """One regular stack of slices.

    Attributes:
        uid: SeriesInstanceUID.
        slices: headers in the order of their positions along the normal, without pixels, with the distance
            between slices that their positions give.
        affine: 4×4 float64, from (slice, row, column, 1) to mm in the patient, RAS+.
    """

    uid: str
    slices: list[Dataset]
    affine: Floats

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.slices), int(self.slices[0].Rows), int(self.slices[0].Columns)


def read_series(path: Path) -> Series:
    """Reads the headers below a folder and checks that the slices are one stack.

    Args:
        path: a folder, or `FOLDER#SeriesInstanceUID`. What is no DICOM image with a place in a patient is
            passed over.

    Raises:
        DataError: there is no series, more than one and none is named, or it is no regular stack.
    """
    folder, uid = _parted(path)
    found = _by_series(folder)
    listed = [f"{known}: {len(slices)} slices" for known, slices in sorted(found.items())]
    if not found:
        raise DataError("holds no DICOM slices with a place in a patient", where=folder)
    if uid is None and len(found) > 1:
        fix = f"name one: `{folder.name}#SeriesInstanceUID`"
        raise DataError(f"holds {len(found)} series", where=folder, details=listed, fix=fix)
    if uid is not None and uid not in found:
        raise DataError(f"holds no series {uid}", where=folder, details=listed, fix="name one of these")
    uid = next(iter(found)) if uid is None else uid
    return _stacked(uid, found[uid], folder)


def _parted(path: Path) -> tuple[Path, str | None]:
    folder, mark, uid = str(path).rpartition("#")
    if path.is_dir() or not mark:
        folder, uid = str(path), ""
    if not Path(folder).is_dir():
        raise DataError("is no folder", where=folder, fix="give the folder that holds the series' slices")
    return Path(folder), uid or None


def _by_series(folder: Path) -> dict[str, list[Dataset]]:
    import pydicom

    found: dict[str, list[Dataset]] = defaultdict(list)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        if "Rows" in header and ("ImagePositionPatient" in header or _frames(header) > 1):
            found[str(header.get("SeriesInstanceUID", "without a SeriesInstanceUID"))].append(header)
    return {uid: headers for uid, headers in found.items() if not all(map(_is_segmentation, headers))}


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _is_segmentation(header: Dataset) -> bool:
    return bool(header.get("Modality") == "SEG")


def _stacked(uid: str, headers: list[Dataset], folder: Path) -> Series:
    def refuse(findings: list[str]) -> DataError:
        return DataError(
            f"series {uid} is no regular stack of slices",
            where=folder,
            details=findings,
            fix="export the series again, whole and once, or have it reconstructed straight and evenly",
        )

    if any(_frames(header) > 1 for header in headers):
        raise refuse(["it is a multi-frame object; one file a slice is needed"])
    for header in headers:
        for name in MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, None)
    if findings := _not_one(headers):
        raise refuse(findings)
    across, down = np.reshape(np.asarray(headers[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(across, down)
    places = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(places @ normal, kind="stable")
    headers, places = [headers[place] for place in order], places[order]
    if findings := _irregular(places, normal):
        raise refuse(findings)
    between_rows, between_columns = map(float, headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = (places[-1] - places[0]) / (len(places) - 1)
    affine[:3, 1] = down * between_rows
    affine[:3, 2] = across * between_columns
    affine[:3, 3] = places[0]
    for header in headers:  # Some say another distance than their positions, and readers believe it.
        header.SpacingBetweenSlices = round(float(np.linalg.norm(affine[:3, 0])), 6)
    return Series(uid=uid, slices=headers, affine=RAS_FROM_LPS @ affine)


def _not_one(headers: list[Dataset]) -> list[str]:
    """What is missing, or differs among slices that should share it; by the name of it, never its value."""
    names = [*ONE_EACH, "ImageOrientationPatient", "PixelSpacing"]
    missing = [name for name in names if any(name not in header for header in headers)]
    if missing:
        return [f"slices lack {name}" for name in missing]
    differing = [name for name in ONE_EACH if len({str(header[name].value) for header in headers}) > 1]
    for name in ("ImageOrientationPatient", "PixelSpacing"):
        values = np.array([header[name].value for header in headers], float)
        if np.ptp(values, axis=0).max() > 1e-4:
            differing.append(name)
    return [f"slices differ in {name}" for name in differing]


def _irregular(places: Floats, normal: Floats) -> list[str]:
    """What keeps positions, ordered along the normal, from being one straight and even stack; mm."""
    if len(places) < 2:
        return ["it has one slice; at least two are needed to know their distance"]
    steps = np.diff(places, axis=0)
    gaps = steps @ normal
    if gaps.min() < SAME_PLACE_MM:
        return [f"{int((gaps < SAME_PLACE_MM).sum())} slices lie where another one does"]
    findings = []
    sideways = steps - np.outer(gaps, normal)
    # The header's gantry angle says nothing: it stays there when a series has been straightened.
    if np.linalg.norm(np.cumsum(sideways, axis=0), axis=1).max() > LARGEST_STRAY_MM:
        degrees = np.degrees(np.arctan2(np.linalg.norm(sideways.sum(axis=0)), gaps.sum()))
        findings.append(f"gantry tilt: the stack leans {degrees:.1f}° from the normal of its slices")
    even = np.linspace(0, gaps.sum(), len(gaps) + 1)[1:]
    if np.abs(np.cumsum(gaps) - even).max() > LARGEST_STRAY_MM:
        findings.append(_uneven(gaps))
    return findings


def _uneven(gaps: Floats) -> str:
    times = gaps / np.median(gaps)
    if np.abs(times - np.round(times)).max() < 0.1 and times.min() > 0.5:
        return (
            f"missing slices: {int(np.round(times).sum()) - len(gaps)} between others that are "
            f"{np.median(gaps):.2f} mm apart"
        )
    return f"irregular spacing: neighbouring slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart"
