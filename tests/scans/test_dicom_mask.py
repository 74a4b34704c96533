"""DICOM Segmentations as masks: highdicom writes them, and every marked place is known beforehand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.evaluate.dicom_seg import write_segmentation
from clotseg.scans.dicom_mask import read_dicom_seg
from tests.scans.dicom_writing import unchanged, write_dicom_series

highdicom = pytest.importorskip("highdicom", reason="needs the extra `dicom`")
pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
from pydicom.sr.codedict import codes  # noqa: E402

SHAPE = (7, 9, 6)
TURN = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.25)
OBLIQUE = nibabel.affines.from_matvec(TURN @ np.diag([-0.5, -0.75, 2.0]), (10, -20, 30))


def marked() -> NDArray[np.uint8]:
    """A mask [i, j, k] that no mirror and no turn leaves as it is; its slices 0, 2 and 5 are bare."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 2, 1] = 1
    mask[1, 2:4, 1] = 1
    mask[5, 6, 3] = 1
    mask[5:7, 6, 4] = 1
    return mask


def places(values: Any, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    found = nibabel.affines.apply_affine(affine, np.argwhere(values))
    return found[np.lexsort(np.round(found, 2).T)]


def slices_of(folder: Path) -> list[Any]:
    headers = [pydicom.dcmread(file) for file in folder.glob("*.dcm")]
    return sorted(headers, key=lambda header: -header.InstanceNumber)


def written_by_highdicom(
    folder: Path, *segments: NDArray[np.uint8], kind: str = "BINARY", leave_out_bare: bool = True
) -> Path:
    """A Segmentation of a series in the folder, one segment for each mask [i, j, k]."""
    series = write_dicom_series(folder / "ct", np.zeros(SHAPE, np.int16), OBLIQUE)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"part {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Thrombus,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, len(segments) + 1)
    ]
    pixels = np.stack([np.transpose(mask) for mask in segments], axis=-1)
    made = highdicom.seg.Segmentation(
        source_images=slices_of(series),
        pixel_array=pixels.astype(float) if kind == "FRACTIONAL" else pixels,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=2,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
        omit_empty_frames=leave_out_bare,
    )
    made.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


@pytest.mark.parametrize("leave_out_bare", [True, False])
def test_every_marked_voxel_is_where_it_was_drawn(tmp_path: Path, leave_out_bare: bool) -> None:
    """Whether the object holds a frame for each slice, or only for those with a mark."""
    scan = read_dicom_seg(written_by_highdicom(tmp_path, marked(), leave_out_bare=leave_out_bare))
    assert scan.values.dtype == np.uint8
    assert set(np.unique(scan.values)) == {0, 1}
    np.testing.assert_allclose(places(scan.values, scan.affine), places(marked(), OBLIQUE), atol=1e-3)
    assert scan.spacing_mm == pytest.approx((0.5, 0.75, 2.0), abs=1e-4)


def test_a_single_frame_keeps_the_thickness_of_its_slice(tmp_path: Path) -> None:
    alone = np.zeros(SHAPE, np.uint8)
    alone[2, 5, 3] = 1
    scan = read_dicom_seg(written_by_highdicom(tmp_path, alone))
    np.testing.assert_allclose(places(scan.values, scan.affine), places(alone, OBLIQUE), atol=1e-3)
    assert scan.spacing_mm == pytest.approx((0.5, 0.75, 2.0), abs=1e-4)


def test_far_frames_keep_the_distance_of_the_slices(tmp_path: Path) -> None:
    """Two marks three slices apart are no single slice of thrice the thickness."""
    apart = np.zeros(SHAPE, np.uint8)
    apart[2, 5, 1] = apart[3, 5, 4] = 1
    scan = read_dicom_seg(written_by_highdicom(tmp_path, apart))
    np.testing.assert_allclose(places(scan.values, scan.affine), places(apart, OBLIQUE), atol=1e-3)
    assert scan.spacing_mm == pytest.approx((0.5, 0.75, 2.0), abs=1e-4)


def test_segments_are_put_together_where_they_overlap_too(tmp_path: Path) -> None:
    more = np.zeros(SHAPE, np.uint8)
    more[4:7, 2, 1] = 1
    scan = read_dicom_seg(written_by_highdicom(tmp_path, marked(), more))
    np.testing.assert_allclose(places(scan.values, scan.affine), places(marked() | more, OBLIQUE), atol=1e-3)


def without_thickness(headers: list[Any]) -> None:
    for header in headers:
        del header.SliceThickness


@pytest.mark.parametrize("change", [unchanged, without_thickness])
def test_what_dicom_seg_writes_is_read_back(tmp_path: Path, change: Callable[[list[Any]], None]) -> None:
    """Of a series that does not say how thick its slices are, too."""
    series = write_dicom_series(tmp_path / "ct", np.zeros(SHAPE, np.int16), OBLIQUE, change=change)
    nibabel.save(nibabel.Nifti1Image(marked(), OBLIQUE), tmp_path / "mask.nii.gz")
    out = tmp_path / "out.dcm"
    write_segmentation(mask=tmp_path / "mask.nii.gz", series=series, out=out, overwrite=False)
    scan = read_dicom_seg(out)
    np.testing.assert_allclose(places(scan.values, scan.affine), places(marked(), OBLIQUE), atol=1e-3)


def test_fractions_and_other_objects_are_refused_by_name(tmp_path: Path) -> None:
    fractions = written_by_highdicom(tmp_path, marked(), kind="FRACTIONAL")
    with pytest.raises(DataError, match="Segmentation of fractions"):
        read_dicom_seg(fractions)
    with pytest.raises(DataError, match="is no DICOM Segmentation"):
        read_dicom_seg(next((tmp_path / "ct").glob("*.dcm")))
    (tmp_path / "text").write_text("none")
    with pytest.raises(DataError, match="is no DICOM Segmentation"):
        read_dicom_seg(tmp_path / "text")


def test_frames_at_uneven_distances_are_refused_by_name(tmp_path: Path) -> None:
    path = written_by_highdicom(tmp_path, marked(), leave_out_bare=False)
    changed = pydicom.dcmread(path)
    places_of_frames = changed.PerFrameFunctionalGroupsSequence
    normal = TURN[:, 2] * (-1, -1, 1)
    moved = places_of_frames[2].PlanePositionSequence[0]
    shifted = np.array(moved.ImagePositionPatient, float) + 0.7 * normal
    moved.ImagePositionPatient = [f"{value:.6f}" for value in shifted]
    changed.save_as(path)
    with pytest.raises(DataError, match="no regular stack of slices"):
        read_dicom_seg(path)
