"""A CT series of one file a slice in; HU on a regular grid, and how it lies in the patient, out.

Slices are told apart, ordered and checked as `dicom_series` does. HU are `stored · RescaleSlope +
RescaleIntercept` of each slice by itself. Pixels that hold the padding value, or lie between it and the range
limit, are air, −1000 HU; below −1024 HU, where a detector measures nothing, HU are −1024. A stack that leans
or has uneven gaps is refused, or resampled from where its slices truly lie, as the user says. Nothing said
quotes a file: what is left out is counted.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import DataError, require_extra
from clotseg.scans.dicom_series import (
    MAY_BE_EMPTY,
    RAS_FROM_LPS,
    SAME_PLACE_MM,
    Dataset,
    Floats,
    Found,
    Ordered,
    find_series,
    in_order,
    irregularities,
    refusal,
    stack_affine,
)
from clotseg.scans.resample import AIR_HU
from clotseg.scans.scan import Scan
from clotseg.scans.unheard import patient_unheard

Irregular = Literal["correct", "refuse"]
Slices = NDArray[np.float32]

LOWEST_HU = -1024.0
TISSUE_HU = (-500.0, 1500.0)
"""A padding value in here would make tissue air; it is not believed, and the user is told."""
LARGEST_GAP_MM = 10.0
LARGEST_GAP_IN_MEDIANS = 3.0
"""A gap beyond both is not filled in: a clot could lie in it whole."""
LARGEST_LEAN_DEGREES = 40.0
"""Beyond what any gantry tilts; positions that say more are wrong."""
EVEN_MM = 0.1
"""How far the last slice may lie from a whole number of median gaps, and the stack still ends on it."""


def read_dicom(path: Path, *, irregular: Irregular) -> tuple[Scan, list[str]]:
    """Reads a CT series.

    With `correct`, a stack that leans or has uneven or missing slices is resampled: each voxel of a grid with
    axes at right angles, along column, row and normal of the slices, is interpolated linearly between the two
    slices it lies between, and bilinearly within each. Slices of the grid are the median gap apart, from the
    first slice on; what no slice covers is air.

    Args:
        path: a folder, or `FOLDER#SeriesInstanceUID`.
        irregular: whether what is no regular stack is corrected, or refused by name.

    Returns:
        HU, float32 [column, row, slice], slices along the normal of the image plane; and a notice of each
        thing that was left out or corrected, and by how much.

    Raises:
        DataError: there is no CT series, or several and none is named; slices lie in one place with different
            pixels; or the stack is irregular and is to be refused, or its gaps or lean are too large to
            correct (`LARGEST_GAP_MM` and `LARGEST_GAP_IN_MEDIANS`, `LARGEST_LEAN_DEGREES`).
        EnvironmentProblem: the extra `dicom` is not installed.
    """
    require_extra("dicom", ("pydicom",), where=path)
    with patient_unheard(path, purpose="read as a CT series"):
        found = find_series(path)
        _require_ct(found)
        notices = [f"left out: {count} × {what}" for what, count in sorted(found.left_out.items())]
        ordered = in_order(found, (*MAY_BE_EMPTY, "StudyInstanceUID", "FrameOfReferenceUID"))
        slices, padded = _hu(ordered, found)
        ordered, slices, repeated = _each_place_once(ordered, slices, found)
        notices += [f"left out: {repeated} × slice that is there once more"] if repeated else []
        notices += padded
        findings = irregularities(ordered.places, ordered.axes[2])
        if not findings:
            return Scan(values=slices.T, affine=stack_affine(ordered)), notices
        if irregular == "refuse" or len(slices) < 2:
            raise refusal(found, findings, or_else=", or let it be resampled: `--irregular correct`")
        _require_correctable(ordered, found)
        scan = _corrected(ordered, slices)
        notices += [f"corrected: {finding}" for finding in findings]
        apart = f"{scan.spacing_mm[2]:.2f} mm apart"
        notices.append(f"resampled from {len(slices)} slices to {scan.values.shape[2]}, {apart}")
        return scan, notices


def series_files(path: Path) -> list[Path]:
    """The files of the slices that `read_dicom` would read, sorted.

    Raises:
        DataError: there is no series, or several and none is named.
        EnvironmentProblem: the extra `dicom` is not installed.
    """
    require_extra("dicom", ("pydicom",), where=path)
    with patient_unheard(path, purpose="read as a CT series"):
        return sorted(Path(header.filename) for header in find_series(path).headers)


def _require_ct(found: Found) -> None:
    if any(header.get("Modality") != "CT" for header in found.headers):
        raise DataError(f"series {found.uid} is no CT by its Modality", where=found.folder)
    lacking = [
        name
        for name in ("RescaleSlope", "RescaleIntercept")
        if any(header.get(name) is None for header in found.headers if not header.get("NumberOfFrames"))
    ]
    if lacking:
        raise refusal(found, [f"slices lack {name}, and so have no HU" for name in lacking])
    if any(header.get("SamplesPerPixel", 1) != 1 for header in found.headers):
        raise refusal(found, ["its pixels have colours, and so no HU"])


def _hu(ordered: Ordered, found: Found) -> tuple[Slices, list[str]]:
    """HU, [slice, row, column], and a notice where a padding value is not believed."""
    first, doubted = ordered.headers[0], 0
    slices = np.empty((len(ordered.headers), int(first.Rows), int(first.Columns)), np.float32)
    for hu, header in zip(slices, ordered.headers, strict=True):
        stored = _stored(header, found)
        slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
        hu[:] = np.maximum(stored * np.float32(slope) + np.float32(intercept), np.float32(LOWEST_HU))
        low, high = _padding(header)
        if low is not None and high is not None:
            tissue = [TISSUE_HU[0] < value * slope + intercept < TISSUE_HU[1] for value in (low, high)]
            if any(tissue):
                doubted += 1
            else:
                hu[(stored >= low) & (stored <= high)] = AIR_HU
    said = f"padding value of {doubted} slices is a tissue's HU, and is taken for that, not for air"
    return slices, [said] if doubted else []


def _stored(header: Dataset, found: Found) -> Any:
    import pydicom

    dataset = pydicom.dcmread(header.filename)
    try:
        return dataset.pixel_array
    except (RuntimeError, NotImplementedError):
        if not dataset.file_meta.TransferSyntaxUID.is_compressed:
            raise
        raise DataError(
            f"series {found.uid} is compressed in a way that nothing installed here can undo",
            where=found.folder,
            fix="export it uncompressed, or install `pylibjpeg[all]`",
        ) from None


def _padding(header: Dataset) -> tuple[int | None, int | None]:
    """The lowest and the highest stored value that stand for no measurement."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return None, None
    limit = header.get("PixelPaddingRangeLimit")
    # Some write a negative value as if it were unsigned, others the other way round.
    lowest = -(2**15) if header.PixelRepresentation else 0
    ends = (lowest + (int(end) - lowest) % 2**16 for end in (value, value if limit is None else limit))
    low, high = sorted(ends)
    return low, high


def _each_place_once(ordered: Ordered, slices: Slices, found: Found) -> tuple[Ordered, Slices, int]:
    """Without the slices that repeat their neighbour, and how many these are."""
    kept: list[int] = []
    clashes = 0
    for place, position in enumerate(ordered.places):
        same = kept and np.linalg.norm(position - ordered.places[kept[-1]]) < SAME_PLACE_MM
        if not same:
            kept.append(place)
        elif not np.array_equal(slices[place], slices[kept[-1]]):
            clashes += 1
    if clashes:
        raise refusal(found, [f"{clashes} slices lie where another one does, with other pixels"])
    if len(kept) == len(slices):
        return ordered, slices, 0
    once = Ordered(
        headers=[ordered.headers[place] for place in kept],
        places=ordered.places[kept],
        axes=ordered.axes,
        pixel_mm=ordered.pixel_mm,
    )
    return once, slices[kept], len(slices) - len(kept)


def _require_correctable(ordered: Ordered, found: Found) -> None:
    """Refuses what interpolation would have to invent."""
    along = (ordered.places - ordered.places[0]) @ ordered.axes.T
    gaps = np.diff(along[:, 2])
    findings = []
    if gaps.min() < SAME_PLACE_MM:
        findings.append("slices lie at one height beside each other")
    if gaps.max() > max(LARGEST_GAP_MM, LARGEST_GAP_IN_MEDIANS * float(np.median(gaps))):
        findings.append(
            f"a gap of {gaps.max():.2f} mm between slices that are {np.median(gaps):.2f} mm apart "
            "is too large to fill in"
        )
    reach = float(np.linalg.norm(along[:, :2], axis=1).max())
    if reach > np.tan(np.radians(LARGEST_LEAN_DEGREES)) * along[-1, 2]:
        findings.append(f"slices lie up to {reach:.0f} mm aside of the first, which no gantry tilt explains")
    if findings:
        raise refusal(found, findings)


def _corrected(ordered: Ordered, slices: Slices) -> Scan:
    """The stack on a grid with axes at right angles."""
    along = (ordered.places - ordered.places[0]) @ ordered.axes.T
    aside = np.round(along[:, :2] / ordered.pixel_mm, 3)  # A thousandth of a pixel is not worth a blur.
    depths, spacing_mm = along[:, 2], _spacing_mm(np.diff(along[:, 2]))
    start = np.floor(aside.min(axis=0)).astype(int)
    size = np.array(slices.T.shape[:2]) + np.ceil(aside.max(axis=0)).astype(int) - start
    values = np.full((*size, int(depths[-1] / spacing_mm + 1e-3) + 1), AIR_HU, np.float32)
    wanted = np.minimum(np.arange(values.shape[2]) * spacing_mm, depths[-1])
    above = np.clip(np.searchsorted(depths, wanted - 1e-3), 1, len(depths) - 1)
    for upper in np.unique(above):
        below_hu, above_hu = (
            _moved(slices[place].T, aside[place] - start, size) for place in (upper - 1, upper)
        )
        for k in np.flatnonzero(above == upper):
            share = (wanted[k] - depths[upper - 1]) / (depths[upper] - depths[upper - 1])
            share = np.float32(round(share, 4))
            values[:, :, k] = below_hu + share * (above_hu - below_hu)
    affine = np.eye(4)
    affine[:3, :3] = ordered.axes.T * (*ordered.pixel_mm, spacing_mm)
    affine[:3, 3] = ordered.places[0] + affine[:3, :2] @ start
    return Scan(values=values, affine=RAS_FROM_LPS @ affine)


def _spacing_mm(gaps: Floats) -> float:
    """The median gap, fitted to the height of the stack where a whole number of them makes it up."""
    median, height = float(np.median(gaps)), float(gaps.sum())
    steps = max(1, round(height / median))
    return height / steps if abs(steps * median - height) <= EVEN_MM else median


def _moved(hu: Slices, by: Floats, size: NDArray[np.int_]) -> Slices:
    """A slice [column, row] on a larger canvas of air, moved by a part of a pixel, too."""
    whole = np.floor(by).astype(int)
    canvas = np.full(size, AIR_HU, np.float32)
    canvas[whole[0] : whole[0] + hu.shape[0], whole[1] : whole[1] + hu.shape[1]] = hu
    for axis in (0, 1):
        part = np.float32(by[axis] - whole[axis])
        if part > 0:
            before = np.roll(canvas, 1, axis=axis)
            np.moveaxis(before, axis, 0)[0] = AIR_HU
            canvas += part * (before - canvas)
    return canvas
