"""The source of one volume in; its voxels and their place in the patient, or a digest of its bytes, out.

NIfTI and DICOM come out alike: HU not below −1024, as float32, and masks of zeros and ones, as uint8.
"""

import hashlib
from pathlib import Path

import numpy as np

from clotseg.errors import DataError
from clotseg.scans.dicom_mask import find_dicom_seg, read_dicom_seg
from clotseg.scans.dicom_volume import LOWEST_HU, Irregular, read_dicom, series_files
from clotseg.scans.nifti import NIFTI_SUFFIXES, along_stored_axes, read_nifti
from clotseg.scans.scan import Scan


def read_source(source: Path, *, irregular: Irregular) -> tuple[Scan, list[str]]:
    """Reads a CT volume.

    Args:
        source: a NIfTI file, a folder with a DICOM series, or `FOLDER#SeriesInstanceUID`.
        irregular: whether a DICOM stack that leans or has uneven gaps is corrected or refused.

    Returns:
        HU, float32, along the axes a NIfTI is stored along, [column, row, slice] of the series for DICOM; and
        notices of what was left out or corrected.

    Raises:
        DataError: it cannot be read, or is not what it must be; see `read_dicom` and `read_nifti`.
        EnvironmentProblem: it is DICOM, and the extra `dicom` is not installed.
    """
    if not source.name.endswith(NIFTI_SUFFIXES):
        return read_dicom(source, irregular=irregular)
    volume = read_nifti(source)
    hu = np.asarray(volume.hu, np.float32)
    if not np.isfinite(hu).all():
        raise DataError("holds values that are no number", where=source.name, fix="export it again")
    hu = along_stored_axes(np.maximum(hu, np.float32(LOWEST_HU)), volume.stored)
    return Scan(values=hu, affine=np.asarray(volume.stored.affine, np.float64)), []


def read_mask(source: Path) -> Scan:
    """Reads a mask; whole numbers above 0 all mark the clot.

    Args:
        source: a NIfTI file, a DICOM Segmentation, or a folder that holds one and no slices.

    Returns:
        0 and 1, uint8; axes as `read_source` gives them.

    Raises:
        DataError: it cannot be read, or holds something else than whole numbers from 0 on.
        EnvironmentProblem: it is DICOM, and the extra `dicom` is not installed.
    """
    if source.is_dir():
        file = find_dicom_seg(source)
        if file is None:
            fix = "name the Segmentation's own file, or give the mask as NIfTI"
            raise DataError("holds no single DICOM Segmentation and nothing else", where=source, fix=fix)
        return read_dicom_seg(file, where=source)
    if not source.name.endswith(NIFTI_SUFFIXES):
        return read_dicom_seg(source)
    volume = read_nifti(source)
    values = np.asarray(volume.hu)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all()):
        raise DataError(
            "is no mask: it holds other values than whole numbers from 0 on",
            where=source.name,
            fix="give a mask of zeros and ones",
        )
    return Scan(values=(values > 0).astype(np.uint8), affine=volume.affine)


def digest_source(source: Path) -> str:
    """SHA-256, in hexadecimal, of what a source is read from.

    That of a file is over its bytes. That of a folder is over the sorted digests of the files of its series,
    one a line, so that neither their names nor what lies beside them matter.

    Raises:
        DataError: the source is not there or cannot be read, or its folder holds no or several series.
        EnvironmentProblem: it is DICOM, and the extra `dicom` is not installed.
    """
    try:
        if source.is_file():
            return _digest(source)
        segmentation = find_dicom_seg(source) if source.is_dir() else None
        files = series_files(source) if segmentation is None else [segmentation]
        digests = sorted(map(_digest, files))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=source) from None
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
