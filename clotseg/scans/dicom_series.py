"""A DICOM series: a folder in; its slices in the order they lie in the patient, and the grid they make, out.

Slices are ordered by their position along the normal of the image plane, whatever their files or numbers
say. What is given is one regular stack: one orientation, size and pixel spacing, slices at equal distances
straight above each other. Anything else is refused by name, since no voxel grid could stand for it.
"""

import re
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """The slices of one series, wherever they lie.

    Attributes:
        uid: SeriesInstanceUID.
        headers: of its slices, without pixels, in no order; `filename` says where each was read.
        folder: that holds them.
        left_out: what else was found below the folder, and how often; never what it is called.
    """

    uid: str
    headers: list[Dataset]
    folder: Path
    left_out: dict[str, int]


def read_series(path: Path) -> Series:
    """Reads the headers below a folder and checks that the slices are one stack.

    Args:
        path: a folder, or `FOLDER#SeriesInstanceUID`. What is no DICOM image with a place in a patient is
            passed over.

    Raises:
        DataError: there is no series, more than one and none is named, or it is no regular stack.
    """
    found = find_series(path)
    return _stacked(found)


def find_series(path: Path) -> Found:
    """Reads the headers below a folder, and picks the one series or the one that is named.

    Args:
        path: a folder, or `FOLDER#SeriesInstanceUID`. Localizers, Segmentations, and what is no DICOM image
            with a place in a patient are left out and counted.

    Raises:
        DataError: there is no series, or more than one and none is named.
    """
    folder, uid = _parted(path)
    found, left_out = _by_series(folder)
    listed = [f"{known}: {len(slices)} slices" for known, slices in sorted(found.items())]
    if not found:
        raise DataError("holds no DICOM slices with a place in a patient", where=folder)
    if uid is None and len(found) > 1:
        fix = "name one: `FOLDER#SeriesInstanceUID`"
        raise DataError(f"holds {len(found)} series", where=folder, details=listed, fix=fix)
    if uid is not None and uid not in found:
        raise DataError(f"holds no series {uid}", where=folder, details=listed, fix="name one of these")
    uid = next(iter(found)) if uid is None else uid
    return Found(uid=uid, headers=found[uid], folder=folder, left_out=left_out)


def _parted(path: Path) -> tuple[Path, str | None]:
    folder, mark, uid = str(path).rpartition("#")
    if path.is_dir() or not mark:
        folder, uid = str(path), ""
    if not Path(folder).is_dir():
        raise DataError("is no folder", where=folder, fix="give the folder that holds the series' slices")
    return Path(folder), uid or None


def _by_series(folder: Path) -> tuple[dict[str, list[Dataset]], dict[str, int]]:
    """Headers of slices by series, and how much of what else there is."""
    import pydicom

    found: dict[str, list[Dataset]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            left_out["no DICOM"] += 1
            continue
        if reason := no_slice(header):
            left_out[reason] += 1
        else:
            found[_uid(header)].append(header)
    return dict(found), dict(left_out)


def _uid(header: Dataset) -> str:
    """SeriesInstanceUID; it is told to the user, and so must be one."""
    uid = str(header.get("SeriesInstanceUID", ""))
    return uid if re.fullmatch("[0-9.]{1,64}", uid) else "without a valid SeriesInstanceUID"


def no_slice(header: Dataset) -> str | None:
    """What a DICOM object is where it is no slice."""
    if header.get("Modality") == "SEG":
        return "Segmentation"
    if "LOCALIZER" in str(header.get("ImageType", "")).upper():
        return "localizer"
    if "Rows" not in header or ("ImagePositionPatient" not in header and _frames(header) < 2):
        return "DICOM without an image that has a place in a patient"
    return None


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def refusal(found: Found, findings: list[str], *, or_else: str = "") -> DataError:
    """The error for a series that is no regular stack, by the names of what is wrong."""
    return DataError(
        f"series {found.uid} is no regular stack of slices",
        where=found.folder,
        details=findings,
        fix=f"export the series again, whole and once, or have it reconstructed straight and evenly{or_else}",
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ordered:
    """Slices of one orientation, size and pixel spacing, in the order of their positions along the normal.

    Attributes:
        headers: of the slices.
        places: float64 [slice, 3], centre of the first pixel of each, mm, LPS+.
        axes: float64 [3, 3], rows: unit vectors along a growing column, a growing row, and the normal, LPS+.
        pixel_mm: millimetres between columns and between rows.
    """

    headers: list[Dataset]
    places: Floats
    axes: Floats
    pixel_mm: tuple[float, float]


def in_order(found: Found, may_lack: tuple[str, ...] = MAY_BE_EMPTY) -> Ordered:
    """Orders the slices of a series by their positions.

    Raises:
        DataError: it is a multi-frame object, or its slices lack or do not share what they must.
    """
    headers = found.headers
    if any(_frames(header) > 1 for header in headers):
        raise refusal(found, ["it is a multi-frame object; one file a slice is needed"])
    for header in headers:
        for name in may_lack:
            if name not in header:
                setattr(header, name, None)
    if findings := _not_one(headers):
        raise refusal(found, findings)
    across, down = np.reshape(np.asarray(headers[0].ImageOrientationPatient, float), (2, 3))
    axes = np.array([across, down, np.cross(across, down)])
    places = np.array([header.ImagePositionPatient for header in headers], float)
    between_rows, between_columns = map(float, headers[0].PixelSpacing)
    if findings := _no_place(axes, places, (between_columns, between_rows)):
        raise refusal(found, findings)
    order = np.argsort(places @ axes[2], kind="stable")
    return Ordered(
        headers=[headers[place] for place in order],
        places=places[order],
        axes=axes,
        pixel_mm=(between_columns, between_rows),
    )


def _no_place(axes: Floats, places: Floats, pixel_mm: tuple[float, float]) -> list[str]:
    findings = []
    if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
        findings.append("ImageOrientationPatient is no two directions at right angles")
    if not np.isfinite(places).all():
        findings.append("ImagePositionPatient is no place")
    if not (np.isfinite(pixel_mm).all() and min(pixel_mm) > 0):
        findings.append("PixelSpacing is not above 0 mm")
    return findings


def _stacked(found: Found) -> Series:
    ordered = in_order(found)
    if findings := irregularities(ordered.places, ordered.axes[2]):
        raise refusal(found, findings)
    affine = stack_affine(ordered)
    for header in ordered.headers:  # Some say another distance than their positions, and readers believe it.
        header.SpacingBetweenSlices = round(float(np.linalg.norm(affine[:3, 2])), 6)
        if header.get("SliceThickness") is None:  # What refers to the slices must say how thick they are.
            header.SliceThickness = header.SpacingBetweenSlices
    return Series(uid=found.uid, slices=ordered.headers, affine=affine[:, [2, 1, 0, 3]])


def stack_affine(ordered: Ordered) -> Floats:
    """The grid of a regular stack of at least two slices: 4×4, from (column, row, slice, 1) to mm, RAS+."""
    places = ordered.places
    affine = np.eye(4)
    affine[:3, :2] = ordered.axes[:2].T * ordered.pixel_mm
    affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
    affine[:3, 3] = places[0]
    return np.asarray(RAS_FROM_LPS @ affine)


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


def irregularities(places: Floats, normal: Floats) -> list[str]:
    """What keeps positions, ordered along the normal, from being one straight and even stack.

    Args:
        places: float64 [slice, 3], mm.
        normal: float64 [3], of length 1.

    Returns:
        One text for each finding, with its measure; none for a regular stack.
    """
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
