"""A DICOM Segmentation in; a volume of zeros and ones, and how it lies in the patient, out.

Segments are put together: what any of them marks is 1. The volume spans the frames that the object holds, so
it may be smaller than the series it was drawn on; beyond it nothing is marked.
"""

from pathlib import Path

import numpy as np

from clotseg.errors import DataError, require_extra
from clotseg.scans.dicom_series import RAS_FROM_LPS
from clotseg.scans.scan import Scan
from clotseg.scans.unheard import patient_unheard

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of a Segmentation and a Label Map Segmentation."""
AS_NIFTI = "give the mask as NIfTI"


def read_dicom_seg(path: Path) -> Scan:
    """Reads a Segmentation.

    Args:
        path: its file.

    Returns:
        0 and 1, uint8 [column, row, slice], slices along the normal of the image plane. Slices that the
        object leaves out between others are empty.

    Raises:
        DataError: it is no Segmentation, one of fractions, or its frames are no regular stack.
        EnvironmentProblem: the extra `dicom` is not installed.
    """
    require_extra("dicom", ("highdicom", "pydicom"), where=path)
    with patient_unheard(path, purpose="read as a DICOM Segmentation"):
        return _read(path)


def is_dicom_seg(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation, by its header.

    Raises:
        DataError: the header cannot be read.
        EnvironmentProblem: the extra `dicom` is not installed.
    """
    require_extra("dicom", ("pydicom",), where=path)
    import pydicom

    with patient_unheard(path, purpose="read as DICOM"):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        except pydicom.errors.InvalidDicomError:
            return False
        return header.get("SOPClassUID") in SEGMENTATIONS


def _read(path: Path) -> Scan:
    import highdicom

    if not is_dicom_seg(path):
        raise DataError("is no DICOM Segmentation", where=path, fix="give a Segmentation or a NIfTI mask")
    segmentation = highdicom.seg.segread(path)
    if segmentation.segmentation_type == highdicom.seg.SegmentationTypeValues.FRACTIONAL:
        raise DataError("is a Segmentation of fractions; a binary one is needed", where=path, fix=AS_NIFTI)
    if segmentation.get_volume_geometry(allow_missing_positions=True) is None:
        raise DataError("has frames that are no regular stack of slices", where=path, fix=AS_NIFTI)
    volume = segmentation.get_volume(
        combine_segments=True, skip_overlap_checks=True, allow_missing_positions=True
    )
    marked = np.ascontiguousarray(np.transpose(volume.array != 0)).astype(np.uint8)
    return Scan(values=marked, affine=np.asarray(RAS_FROM_LPS @ volume.affine[:, [2, 1, 0, 3]]))
