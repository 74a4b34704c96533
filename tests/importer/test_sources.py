"""Sources of every kind hold one volume; it comes out at its place, and no word of whose it is."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.importer.entries import find_entries
from clotseg.importer.sources import digest_source, read_mask, read_source
from tests.scans.dicom_writing import unchanged, write_dicom_series

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
pytest.importorskip("highdicom", reason="needs the extra `dicom`")
from tests.scans.test_dicom_mask import marked, places, written_by_highdicom  # noqa: E402

SHAPE = (9, 12, 8)
AFFINE = np.array([[-0.5, 0, 0, 10], [0, -0.75, 0, 20], [0, 0, 2.0, -5], [0, 0, 0, 1]])


def noise() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def test_a_volume_is_the_same_from_nifti_and_from_dicom(tmp_path: Path) -> None:
    """At each place in the patient; along which axes it is stored is another matter."""
    nifti, _ = read_source(write_nifti(tmp_path / "ct.nii.gz", noise()), irregular="refuse")
    dicom, _ = read_source(write_dicom_series(tmp_path / "ct", noise(), AFFINE), irregular="refuse")
    assert nifti.values.dtype == dicom.values.dtype == np.float32
    for chosen in ((0, 0, 0), (3, 10, 7), (8, 2, 5)):
        place = nibabel.affines.apply_affine(AFFINE, chosen)
        for scan in (nifti, dicom):
            voxel = nibabel.affines.apply_affine(np.linalg.inv(scan.affine), place).round().astype(int)
            np.testing.assert_allclose(nibabel.affines.apply_affine(scan.affine, voxel), place, atol=1e-4)
            assert scan.values[tuple(voxel)] == noise()[chosen]


def test_a_nifti_is_no_darker_than_a_detector_measures_and_all_numbers(tmp_path: Path) -> None:
    values = noise().astype(np.float32)
    values[0, 0, 0] = -3024
    scan, notices = read_source(write_nifti(tmp_path / "ct.nii.gz", values), irregular="refuse")
    assert scan.values.min() == -1024
    assert notices == []
    values[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="no number"):
        read_source(write_nifti(tmp_path / "ct.nii.gz", values), irregular="refuse")


@pytest.mark.parametrize("scale", [1, 7, 255])
def test_a_nifti_mask_of_any_labels_is_zeros_and_ones(tmp_path: Path, scale: int) -> None:
    affine = AFFINE
    scan = read_mask(write_nifti(tmp_path / "mask.nii.gz", marked() * np.uint8(scale)))
    assert scan.values.dtype == np.uint8
    assert set(np.unique(scan.values)) == {0, 1}
    np.testing.assert_allclose(places(scan.values, scan.affine), places(marked(), affine), atol=1e-4)


@pytest.mark.parametrize("value", [0.5, -1, np.nan])
def test_what_is_no_mask_is_refused(tmp_path: Path, value: float) -> None:
    values = marked().astype(np.float32)
    values[0, 0, 0] = value
    with pytest.raises(DataError, match="is no mask"):
        read_mask(write_nifti(tmp_path / "mask.nii.gz", values))


def test_a_segmentation_is_read_from_its_file_or_from_its_folder(tmp_path: Path) -> None:
    file = written_by_highdicom(tmp_path / "made", marked())
    (tmp_path / "SEG").mkdir()
    shutil.copy(file, tmp_path / "SEG" / "1")
    (tmp_path / "SEG" / "readme.txt").write_text("none")
    by_file, by_folder = read_mask(file), read_mask(tmp_path / "SEG")
    assert by_file.values.sum() == marked().sum()
    np.testing.assert_array_equal(by_file.values, by_folder.values)
    np.testing.assert_array_equal(by_file.affine, by_folder.affine)
    with pytest.raises(DataError, match="no single DICOM Segmentation"):
        read_mask(tmp_path / "made")
    shutil.copy(file, tmp_path / "SEG" / "2")
    with pytest.raises(DataError, match="no single DICOM Segmentation"):
        read_mask(tmp_path / "SEG")


def test_a_digest_follows_the_bytes_and_nothing_else(tmp_path: Path) -> None:
    folder = write_dicom_series(tmp_path / "ct", noise(), AFFINE, series_uid="1.2.3")
    each = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir())
    before = digest_source(folder)
    assert before == hashlib.sha256("\n".join(each).encode()).hexdigest()
    for file in list(folder.iterdir()):
        file.rename(folder / f"{file.name[::-1]}")
    (folder / "readme.txt").write_text("none of the series")
    assert digest_source(folder) == before
    write_dicom_series(folder / "below", noise(), AFFINE, series_uid="1.2.4")
    assert digest_source(tmp_path / "ct#1.2.3") == before != digest_source(tmp_path / "ct#1.2.4")
    with pytest.raises(DataError, match="holds 2 series"):
        digest_source(folder)
    changed = next(file for file in folder.iterdir() if file.name.startswith("mcd."))
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x01")
    assert digest_source(tmp_path / "ct#1.2.3") != before


def test_a_digest_of_a_file_or_of_a_segmentations_folder(tmp_path: Path) -> None:
    file = write_nifti(tmp_path / "mask.nii.gz", marked())
    assert digest_source(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    made = written_by_highdicom(tmp_path / "made", marked())
    (tmp_path / "SEG").mkdir()
    shutil.copy(made, tmp_path / "SEG")
    own = hashlib.sha256(made.read_bytes()).hexdigest()
    assert digest_source(tmp_path / "SEG") == hashlib.sha256(own.encode()).hexdigest()
    with pytest.raises(DataError):
        digest_source(tmp_path / "absent")


def name_everything(headers: list[Any]) -> None:
    """Canaries wherever a header may name someone, also where pydicom warns of them and quotes them."""
    for header in headers:
        header.PatientName, header.PatientID = "CANARYNAME", "CANARYID" * 9
        header.PatientBirthDate = "CANARYDATE"
        header.PatientSex = "CANARYSEX"
        header.SeriesDescription = header.InstitutionName = header.AccessionNumber = "CANARYTEXT" * 7
        header.ImageType = ["ORIGINAL", "PRIMARY", "CANARY"]


def lean(headers: list[Any]) -> None:
    for number, header in enumerate(headers):
        header.ImagePositionPatient = [-10, -20 + 0.5 * number, 2 * number]


def mix_patients(headers: list[Any]) -> None:
    headers[1].PatientID = "CANARYOTHER"


def cut_pixels(headers: list[Any]) -> None:
    headers[2].PixelData = headers[2].PixelData[:10]


def break_numbers(headers: list[Any]) -> None:
    headers[2].add_new("PixelPaddingValue", "LO", "CANARYPADDING")


def break_uid(headers: list[Any]) -> None:
    for header in headers[::2]:
        header.SeriesInstanceUID = "CANARYUID"


def clash(headers: list[Any]) -> None:
    headers[2].ImagePositionPatient = headers[1].ImagePositionPatient


def scout(headers: list[Any]) -> None:
    headers[0].ImageType = ["CANARY", "PRIMARY", "LOCALIZER"]


BOTH = ("correct", "refuse")
SITUATIONS: dict[str, tuple[Callable[[list[Any]], None], tuple[str, ...]]] = {
    "fine": (unchanged, ()),
    "leaning": (lean, ("refuse",)),
    "scout": (scout, ()),
    "patients": (mix_patients, BOTH),
    "cut": (cut_pixels, BOTH),
    "numbers": (break_numbers, BOTH),
    "uid": (break_uid, BOTH),
    "clash": (clash, BOTH),
    "damaged": (unchanged, ()),
}
"""What is wrong with a series, and the ways of reading it that fail then."""


@pytest.mark.parametrize("situation", SITUATIONS)
def test_no_notice_and_no_error_names_the_patient(
    tmp_path: Path, situation: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    change, failing = SITUATIONS[situation]

    def name_and_change(headers: list[Any]) -> None:
        name_everything(headers)
        change(headers)

    folder = write_dicom_series(tmp_path / "ct", noise(), AFFINE, name="CANARY^FILE", change=name_and_change)
    assert b"CANARYNAME" in next(folder.glob("*.dcm")).read_bytes()
    (folder / "CANARY.txt").write_text("CANARY")
    if situation == "damaged":
        (folder / "CANARY.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"CANARY" * 20)
    caplog.clear()  # of what was said while it was written
    capfd.readouterr()
    said, failed = [], []
    for irregular in BOTH:
        try:
            said += read_source(folder, irregular=irregular)[1]  # type: ignore[arg-type]
        except DataError as error:
            failed.append(irregular)
            said.append(str(error))
    assert tuple(failed) == failing, said
    said += failures(folder)
    captured = capfd.readouterr()
    for text in (*said, captured.out, captured.err, caplog.text):
        assert "CANARY" not in text


def failures(folder: Path) -> list[str]:
    """What is said where the series is taken for something else."""
    said = []
    for attempt in (
        lambda: read_mask(folder),
        lambda: read_source(Path(f"{folder}#1.2"), irregular="correct"),
        lambda: digest_source(Path(f"{folder}#1.2")),
        lambda: find_entries(folder),
    ):
        with pytest.raises(DataError) as told:
            attempt()
        said.append(str(told.value))
    return said


def test_no_error_of_a_segmentation_names_the_patient(tmp_path: Path) -> None:
    file = written_by_highdicom(tmp_path / "made", marked())
    changed = pydicom.dcmread(file)
    changed.PatientName = "CANARYNAME"
    del changed.SegmentSequence
    (tmp_path / "SEG").mkdir()
    changed.save_as(tmp_path / "SEG" / "CANARY.dcm")
    with pytest.raises(DataError) as told:
        read_mask(tmp_path / "SEG")
    assert "CANARY" not in str(told.value)
