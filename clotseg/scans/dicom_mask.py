"""A DICOM Segmentation in; a volume of zeros and ones, and how it lies in the patient, out.

Segments are put together: what any of them marks is 1. The volume spans the frames that the object holds, so
it may be smaller than the series it was drawn on; beyond it nothing is marked.
"""

from pathlib import Path
from typing import Any

import numpy as np

from clotseg.errors import DataError, require_extra
from clotseg.scans.dicom_series import RAS_FROM_LPS, no_slice
from clotseg.scans.scan import Scan
from clotseg.scans.unheard import patient_unheard

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of a Segmentation and a Label Map Segmentation."""
AS_NIFTI = "give the mask as NIfTI"


def read_dicom_seg(path: Path, *, where: Path | None = None) -> Scan:
    """Reads a Segmentation.

    Args:
        path: its file.
        where: what errors name instead of the file, where its name was not given by the user.

    Returns:
        0 and 1, uint8 [column, row, slice], slices along the normal of the image plane. Slices that the
        object leaves out between others are empty.

    Raises:
        DataError: it is no Segmentation, one of fractions, or its frames are no regular stack.
        EnvironmentProblem: the extra `dicom` is not installed.
    """
    where = where or path
    require_extra("dicom", ("highdicom", "pydicom"), where=where)
    with patient_unheard(where, purpose="read as a DICOM Segmentation"):
        return _read(path, where)


def find_dicom_seg(folder: Path) -> Path | None:
    """The one Segmentation below a folder; None where there is none, several, or slices beside it.

    Raises:
        DataError: a file cannot be read.
        EnvironmentProblem: the extra `dicom` is not installed.
    """
    require_extra("dicom", ("pydicom",), where=folder)
    found = []
    with patient_unheard(folder, purpose="read as DICOM"):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            header = _header(file)
            if header is None:
                continue
            if header.get("SOPClassUID") in SEGMENTATIONS:
                found.append(file)
            elif no_slice(header) is None:
                return None
    return found[0] if len(found) == 1 else None


def _header(path: Path) -> Any:
    """A file's DICOM header, None where it has none."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        return None


def _read(path: Path, where: Path) -> Scan:
    import highdicom

    header = _header(path)
    if header is None or header.get("SOPClassUID") not in SEGMENTATIONS:
        raise DataError("is no DICOM Segmentation", where=where, fix="give a Segmentation or a NIfTI mask")
    segmentation = highdicom.seg.segread(path)
    if segmentation.segmentation_type == highdicom.seg.SegmentationTypeValues.FRACTIONAL:
        raise DataError("is a Segmentation of fractions; a binary one is needed", where=where, fix=AS_NIFTI)
    if segmentation.get_volume_geometry(allow_missing_positions=True) is None:
        raise DataError("has frames that are no regular stack of slices", where=where, fix=AS_NIFTI)
    volume = segmentation.get_volume(
        combine_segments=True, skip_overlap_checks=True, allow_missing_positions=True
    )
    marked = np.ascontiguousarray(np.transpose(volume.array != 0)).astype(np.uint8)
    return Scan(values=marked, affine=np.asarray(RAS_FROM_LPS @ volume.affine[:, [2, 1, 0, 3]]))
