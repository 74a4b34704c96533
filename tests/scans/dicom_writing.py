"""Voxels and where they lie in; a CT series of one file a slice out, as a scanner would export it."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Change = Callable[[list[Any]], None]


def unchanged(headers: list[Any]) -> None:
    """As they are."""


def write_dicom_series(
    folder: Path,
    values: NDArray[np.int16],
    affine: ArrayLike,
    *,
    series_uid: str | None = None,
    patient_name: str = "NOBODY^AT ALL",
    patient_id: str = "ID-0",
    slope: float = 1,
    intercept: float = 0,
    modality: str = "CT",
    name: str = "slice",
    change: Change = unchanged,
) -> Path:
    """Writes a series; its files are named, and its instances numbered, against the order of its slices.

    Args:
        folder: made where it is not there.
        values: int16 [i, j, k], as they are stored: HU = value · `slope` + `intercept`. i becomes the column,
            j the row and k the slice of a DICOM image.
        affine: 4×4, from (i, j, k, 1) to mm, RAS+; i and j at right angles. The gantry leans as k does.
        series_uid: a new one where none is given.
        name: what the names of the files begin with.
        change: alters the datasets, given in the order of k, before they are written; removes and adds some.

    Returns:
        The folder.
    """
    import pydicom

    uid = series_uid or pydicom.uid.generate_uid()
    shared = _shared(uid, np.asarray(affine, float), patient_name, patient_id, modality)
    shared.RescaleSlope, shared.RescaleIntercept = _decimal(slope), _decimal(intercept)
    lps = LPS_FROM_RAS @ np.asarray(affine, float)
    headers = []
    for k in range(values.shape[2]):
        header = deepcopy(shared)
        header.SOPInstanceUID = pydicom.uid.generate_uid()
        header.InstanceNumber = values.shape[2] - k
        header.ImagePositionPatient = [_decimal(value) for value in lps[:3, 3] + k * lps[:3, 2]]
        header.Columns, header.Rows = values.shape[:2]
        header.PixelData = np.ascontiguousarray(values[:, :, k].T).astype("<i2").tobytes()
        headers.append(header)
    with warnings.catch_warnings(action="ignore"):  # of values that are against the rules on purpose
        change(headers)
    folder.mkdir(parents=True, exist_ok=True)
    for number, header in enumerate(headers):
        with warnings.catch_warnings(action="ignore"):
            _save(header, folder / f"{name}_{uid[-6:]}_{len(headers) - number:03d}.dcm")
    return folder


def _shared(uid: str, affine: NDArray[np.float64], patient_name: str, patient_id: str, modality: str) -> Any:
    import pydicom

    across, down = (LPS_FROM_RAS @ affine)[:3, :2].T
    spacing = [np.linalg.norm(down), np.linalg.norm(across)]
    shared = pydicom.Dataset()
    shared.SOPClassUID = pydicom.uid.CTImageStorage
    shared.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    shared.Modality = modality
    shared.PatientName, shared.PatientID = patient_name, patient_id
    shared.PatientBirthDate, shared.PatientSex = "19010203", "O"
    shared.StudyInstanceUID, shared.SeriesInstanceUID = pydicom.uid.generate_uid(), uid
    shared.FrameOfReferenceUID = pydicom.uid.generate_uid()
    shared.StudyID, shared.StudyDate, shared.StudyTime = "1", "20200101", "120000"
    shared.SeriesNumber, shared.AccessionNumber, shared.Manufacturer = 1, "", "none"
    shared.PositionReferenceIndicator, shared.ReferringPhysicianName = "", ""
    normal = np.cross(across / spacing[1], down / spacing[0])
    shared.SliceThickness = _decimal(abs(normal @ (LPS_FROM_RAS @ affine)[:3, 2]))
    shared.PixelSpacing = [_decimal(value) for value in spacing]
    shared.ImageOrientationPatient = [
        _decimal(value) for value in (*(across / spacing[1]), *(down / spacing[0]))
    ]
    shared.SamplesPerPixel, shared.PhotometricInterpretation = 1, "MONOCHROME2"
    shared.BitsAllocated, shared.BitsStored, shared.HighBit, shared.PixelRepresentation = 16, 16, 15, 1
    return shared


def _decimal(value: float) -> str:
    """A number within the 16 characters that DICOM gives it."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(float(round(value, 10))))


def _save(header: Any, path: Path) -> None:
    import pydicom

    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path, enforce_file_format=True)
