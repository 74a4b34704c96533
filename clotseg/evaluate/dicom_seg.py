"""`clotseg dicom-seg`: a mask and the DICOM series of its CTA in; a DICOM Segmentation that refers to it out.

The mask is turned onto the series' axes by quarters and mirrored, never resampled. The object belongs to
the series' patient and study, as DICOM asks. Nothing that a file says of its patient gets into a result, a
message or an error: what pydicom and highdicom warn of, and what they raise, may quote it and is held back.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import __version__, artifact
from clotseg.errors import DataError, require_extra
from clotseg.scans.dicom_series import Series, read_series
from clotseg.scans.nifti import corners_apart_mm, read_nifti
from clotseg.scans.unheard import patient_unheard

LARGEST_SHIFT_MM = 0.1
"""How far a corner of the mask may lie from the series' own; far below a pixel, far above what is rounded."""

NOTICE = "Research software, not a medical device"
MASK_FIX = "give the mask that `clotseg predict` wrote for the CTA made from this series"

Mask = NDArray[np.bool_]


def write_segmentation(*, mask: Path, series: Path, out: Path, overwrite: bool) -> dict[str, Any]:
    """Writes a binary DICOM Segmentation with one segment, Thrombus.

    A mask without any clot gives a segmentation without any: all frames are there, and nothing is set.

    Args:
        mask: NIfTI of zeros and ones on the CTA's grid, along any axes.
        series: a folder with the CTA's slices, in folders below it too; `FOLDER#SeriesInstanceUID` where it
            holds several series.
        out: the file to write, in one step.
        overwrite: whether an earlier segmentation there is replaced.

    Returns:
        `{"segmentation", "series", "slices", "slices_with_clot", "voxels"}`; the first a path, the second the
        SeriesInstanceUID.

    Raises:
        DataError: the series is none, several or no regular stack; the mask is none or lies on another grid;
            or `out` is taken.
        EnvironmentProblem: the extra `dicom` is not installed, or the disk refuses the write.
    """
    require_extra("dicom", ("highdicom", "pydicom"), where="dicom-seg")
    with patient_unheard(series, purpose="used for a DICOM Segmentation"):
        _require_free(out, overwrite=overwrite)
        stack = read_series(series)
        inside = _on_grid(mask, stack)
        content = _segmentation(inside, stack)
    with artifact.writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_file(out, content)
    return {
        "segmentation": out,
        "series": stack.uid,
        "slices": len(inside),
        "slices_with_clot": int(inside.any(axis=(1, 2)).sum()),
        "voxels": int(inside.sum()),
    }


def _require_free(out: Path, *, overwrite: bool) -> None:
    """A segmentation is replaced when asked for; a slice of the patient never is."""
    if not out.exists():
        return
    if not overwrite:
        raise DataError("is there already", where=out, fix="name another file, or add --overwrite")
    import pydicom

    try:
        earlier = pydicom.dcmread(out, stop_before_pixels=True).SOPClassUID
    except (OSError, AttributeError, pydicom.errors.InvalidDicomError):
        earlier = None
    if earlier != pydicom.uid.SegmentationStorage:
        raise DataError("is no DICOM Segmentation, and is left as it is", where=out, fix="name another file")


def _on_grid(path: Path, series: Series) -> Mask:
    """The mask as [slice, row, column] of the series.

    Raises:
        DataError: it is no mask, or does not lie on the series' grid.
    """
    from nibabel import orientations

    volume = read_nifti(path)
    values = np.asarray(volume.hu)
    if not np.isin(values, (0, 1)).all():
        raise DataError("is no mask: it holds other values than 0 and 1", where=path.name, fix=MASK_FIX)
    turn = orientations.io_orientation(np.linalg.inv(series.affine) @ volume.affine)
    turned = orientations.apply_orientation(values, turn)
    if turned.shape != series.shape:
        raise DataError(
            f"has {_size(turned.shape)}, the series {_size(series.shape)}", where=path.name, fix=MASK_FIX
        )
    affine = volume.affine @ orientations.inv_ornt_aff(turn, values.shape)
    apart_mm = corners_apart_mm(series.shape, series.affine, affine)
    if apart_mm > LARGEST_SHIFT_MM:
        raise DataError(
            f"lies up to {apart_mm:.2f} mm away from the series' voxels in the patient; "
            f"more than {LARGEST_SHIFT_MM:g} mm is too far",
            where=path.name,
            fix=f"{MASK_FIX}; a mask on a resampled or cropped grid must be resampled to the series first",
        )
    return np.asarray(turned != 0)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} slices of {shape[1]}×{shape[2]}"


def _segmentation(inside: Mask, series: Series) -> bytes:
    """The file, with new UIDs: a DICOM object never changes under the UID it was once known by."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="clotseg", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Thrombus",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Thrombus,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    made = highdicom.seg.Segmentation(
        source_images=series.slices,
        pixel_array=inside,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="clotseg",
        manufacturer_model_name="clotseg",
        software_versions=__version__,
        device_serial_number="none",
        content_label="THROMBUS",
        content_description=NOTICE,
        series_description=f"clotseg {__version__}: {NOTICE}",
        omit_empty_frames=bool(inside.any()),
    )
    buffer = BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()
