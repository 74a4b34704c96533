"""DICOM Segmentations: SimpleITK says where a mask lies, highdicom and pydicom read it back."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.errors import ClotsegError, DataError
from clotseg.evaluate.dicom_seg import write_segmentation
from clotseg.scans.nifti import read_nifti, write_nifti
from tests.conftest import contents, run_clotseg, shared_data, start_python

highdicom = pytest.importorskip("highdicom", reason="needs the extra `dicom`")
pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
sitk = pytest.importorskip("SimpleITK", reason="needs the extra `dicom`")
from pydicom.data import get_testdata_file  # noqa: E402

SHAPE = (5, 12, 9)
"""Slices, rows and columns of the small series, no two alike."""
Change = Callable[[list[Any]], None]


def asymmetric(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A mask [slice, row, column] that no mirror and no turn leaves as it is; a slice amid it is bare."""
    mask = np.zeros(shape, np.uint8)
    mask[1, 2:7, 3] = 1
    mask[1, 2, 3:6] = 1
    mask[3, 4, 1] = 1
    mask[-2:, -3, -2:] = 1
    mask[2] = 0
    return mask


def unchanged(headers: list[Any]) -> None:
    """As they are."""


def write_series(folder: Path, change: Change = unchanged, *, series: str | None = None) -> Path:
    """A small oblique CT from pydicom's own test file; files are named against the order of the slices."""
    turn = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.25)
    uid = series or pydicom.uid.generate_uid()
    headers = []
    for number in range(SHAPE[0]):
        header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        header.SeriesInstanceUID, header.SOPInstanceUID = uid, pydicom.uid.generate_uid()
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.Rows, header.Columns = SHAPE[1:]
        header.PixelData = np.full(SHAPE[1:], 40, np.int16).tobytes()
        header.PixelSpacing = [0.5, 0.75]
        header.ImageOrientationPatient = [float(f"{value:.8f}") for value in turn[:, :2].T.ravel()]
        header.ImagePositionPatient = [
            float(f"{value:.6f}") for value in np.array([10, -20, 30]) + 2.0 * number * turn[:, 2]
        ]
        headers.append(header)
    change(headers)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):
        for number, header in enumerate(headers):
            header.save_as(folder / f"{uid[-6:]}_{99 - number}.dcm")
    return folder


def write_mask(path: Path, series: Path, mask: NDArray[np.uint8] | None = None, *, axes: str = "") -> Path:
    """A mask [slice, row, column] of a series as NIfTI, its grid as SimpleITK reads it from the series."""
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    grid = sitk.ReadImage(files)
    image = sitk.GetImageFromArray(asymmetric(grid.GetSize()[::-1]) if mask is None else mask)
    image.CopyInformation(grid)
    sitk.WriteImage(image, str(path))
    if axes:
        given = nibabel.load(path)
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(given.affine), nibabel.orientations.axcodes2ornt(axes)
        )
        turned = given.as_reoriented(turn)
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine), path)
    return path


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series")


@pytest.fixture
def mask(tmp_path: Path, series: Path) -> Path:
    return write_mask(tmp_path / "case_pred.nii.gz", series)


def written(mask: Path, series: Path, *, overwrite: bool = False) -> Path:
    out = mask.with_name("out.dcm")
    write_segmentation(mask=mask, series=series, out=out, overwrite=overwrite)
    return out


def places_in_nifti(path: Path) -> NDArray[np.float64]:
    """Where the voxels of a mask lie, mm, LPS, sorted."""
    image = nibabel.load(path)
    places = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj)))
    return in_order(places * (-1, -1, 1))


def places_in_dicom(path: Path) -> NDArray[np.float64]:
    """Where the pixels of a segmentation lie, by the attributes of each frame, mm, LPS, sorted."""
    read = pydicom.dcmread(path)
    shared = read.SharedFunctionalGroupsSequence[0]
    across, down = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(
        float
    )
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    places = []
    frames = read.pixel_array.reshape(-1, read.Rows, read.Columns)
    for frame, group in zip(frames, read.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            places.append(corner + column * between_columns * across + row * between_rows * down)
    return in_order(np.array(places))


def in_order(places: NDArray[np.float64]) -> NDArray[np.float64]:
    return places[np.lexsort(np.round(places, 1).T)]


def slices_by_position(series: Path) -> list[Any]:
    """Headers from the first to the last along the normal, ordered by SimpleITK."""
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]


def require_read_back(out: Path, mask: Path, series: Path, expected: NDArray[np.uint8]) -> None:
    """highdicom and pydicom find each voxel of the mask in the slice and at the place where it was."""
    read = highdicom.seg.segread(out)
    uids = [header.SOPInstanceUID for header in slices_by_position(series)]
    pixels = read.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels[..., 0], expected)
    volume = read.get_volume(combine_segments=True)
    voxels = np.argwhere(volume.array)
    places = in_order(volume.map_indices_to_reference(voxels.astype(float)))
    np.testing.assert_allclose(places, places_in_nifti(mask), atol=0.01)
    np.testing.assert_allclose(places_in_dicom(out), places_in_nifti(mask), atol=0.01)


@pytest.mark.parametrize("axes", ["", "RAS", "SAR", "PLS"])
def test_every_voxel_is_read_back_where_it_was_in_an_oblique_series(
    tmp_path: Path, series: Path, axes: str
) -> None:
    mask = write_mask(tmp_path / "mask.nii.gz", series, axes=axes)
    assert not axes or "".join(nibabel.aff2axcodes(nibabel.load(mask).affine)) == axes
    require_read_back(written(mask, series), mask, series, asymmetric(SHAPE))


def test_a_mask_as_predict_writes_it_is_read_back_from_the_voxels_of_the_cta(
    tmp_path: Path, series: Path
) -> None:
    """The CTA's slices hold 40 HU everywhere; SimpleITK brings one voxel in, and its place must come out."""
    grid = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    grid[3, 7, 1] = 500  # column, row, slice
    sitk.WriteImage(grid, str(tmp_path / "case_CTA.nii.gz"))
    cta = read_nifti(tmp_path / "case_CTA.nii.gz")
    write_nifti(tmp_path / "case_pred.nii.gz", (cta.hu > 400).astype(np.uint8), cta)
    expected = np.zeros(SHAPE, np.uint8)
    expected[1, 7, 3] = 1
    mask = tmp_path / "case_pred.nii.gz"
    require_read_back(written(mask, series), mask, series, expected)


def test_every_voxel_is_read_back_where_it_was_in_a_real_series(tmp_path: Path) -> None:
    """Its names, I10, I100, I110, …, are not in the order of its slices, and its DIRFILE is none."""
    series = shared_data("head_phantom_philips_5mm")
    mask = write_mask(tmp_path / "mask.nii.gz", series, axes="RAS")
    require_read_back(written(mask, series), mask, series, asymmetric((28, 512, 512)))


def test_the_segmentation_says_what_made_it_of_whom_and_from_what(series: Path, mask: Path) -> None:
    read = pydicom.dcmread(written(mask, series))
    source = slices_by_position(series)
    assert read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert (read.SegmentationType, read.Modality) == ("BINARY", "SEG")
    (segment,) = read.SegmentSequence
    (category,) = segment.SegmentedPropertyCategoryCodeSequence
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    assert (category.CodingSchemeDesignator, category.CodeValue) == ("SCT", "49755003")
    assert (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning) == ("SCT", "396339007", "Thrombus")
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Thrombus", "AUTOMATIC")
    assert segment.SegmentAlgorithmName == "clotseg"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == read.SoftwareVersions
    assert read.ContentDescription == "Research software, not a medical device"
    for name in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert read[name].value == source[0][name].value
    (referred,) = read.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source[0].SeriesInstanceUID != read.SeriesInstanceUID
    instances = {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence}
    assert instances == {header.SOPInstanceUID for header in source}


def test_a_mask_without_a_clot_gives_a_segmentation_without_one(tmp_path: Path, series: Path) -> None:
    mask = write_mask(tmp_path / "empty.nii.gz", series, np.zeros(SHAPE, np.uint8))
    out = tmp_path / "out.dcm"
    told = write_segmentation(mask=mask, series=series, out=out, overwrite=False)
    assert (told["voxels"], told["slices_with_clot"], told["slices"]) == (0, 0, 5)
    read = highdicom.seg.segread(out)
    assert read.pixel_array.shape == SHAPE
    assert not read.pixel_array.any()


def test_a_series_without_any_name_in_it_will_do(tmp_path: Path) -> None:
    def take_names_away(headers: list[Any]) -> None:
        for header in headers:
            for name in (
                "PatientID",
                "PatientName",
                "PatientBirthDate",
                "PatientSex",
                "StudyID",
                "StudyDate",
            ):
                header.pop(name, None)

    series = write_series(tmp_path / "series", take_names_away)
    mask = write_mask(tmp_path / "mask.nii.gz", series)
    read = pydicom.dcmread(written(mask, series))
    assert not read.PatientName
    assert not read.PatientID


def lean(headers: list[Any]) -> None:
    for number, header in enumerate(headers):
        header.ImagePositionPatient = [10, -20 + 0.5 * number, 30 + 2 * number]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def space_unevenly(headers: list[Any]) -> None:
    for header, place in zip(headers, (0, 2, 4, 6, 9), strict=True):
        header.ImagePositionPatient = [10, -20, place]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def put_two_in_one_place(headers: list[Any]) -> None:
    headers[1].ImagePositionPatient = headers[2].ImagePositionPatient


def turn_one(headers: list[Any]) -> None:
    headers[1].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def mix_patients(headers: list[Any]) -> None:
    headers[1].PatientID = "CANARY"


def stretch_one(headers: list[Any]) -> None:
    headers[1].PixelSpacing = [0.5, 0.8]


REFUSED = {
    "lean": (lean, r"gantry tilt: the stack leans 14\.0°"),
    "uneven": (space_unevenly, r"irregular spacing: neighbouring slices are 2\.00 to 3\.00 mm apart"),
    "missing": (lambda headers: headers.pop(2), r"missing slices: 1 between others that are 2\.00 mm apart"),
    "twice": (put_two_in_one_place, "1 slices lie where another one does"),
    "turned": (turn_one, "slices differ in ImageOrientationPatient"),
    "stretched": (stretch_one, "slices differ in PixelSpacing"),
    "patients": (mix_patients, "slices differ in PatientID"),
    "single": (lambda headers: headers.__delitem__(slice(1, None)), "it has one slice"),
    "nowhere": (lambda headers: headers[0].pop("FrameOfReferenceUID"), "slices lack FrameOfReferenceUID"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_series_that_is_no_regular_stack_is_refused_by_name(tmp_path: Path, mask: Path, wrong: str) -> None:
    change, said = REFUSED[wrong]
    odd = write_series(tmp_path / "odd", change)
    with pytest.raises(DataError, match=said) as told:
        written(mask, odd)
    assert "CANARY" not in str(told.value)
    assert not (tmp_path / "out.dcm").exists()


def test_a_real_tilted_and_unevenly_spaced_series_is_refused_by_both_names(
    tmp_path: Path, mask: Path
) -> None:
    with pytest.raises(DataError) as told:
        written(mask, shared_data("head_ct_ge_tilted"))
    assert "gantry tilt: the stack leans 18.5°" in str(told.value)
    assert "irregular spacing: neighbouring slices are 1.08 to 7.00 mm apart" in str(told.value)


def test_one_of_several_series_is_picked_by_its_uid(tmp_path: Path, series: Path, mask: Path) -> None:
    uid = slices_by_position(series)[0].SeriesInstanceUID
    other = pydicom.uid.generate_uid()
    write_series(series / "below", series=other)
    with pytest.raises(DataError, match="holds 2 series") as told:
        written(mask, series)
    assert f"{uid}: 5 slices" in str(told.value)
    assert f"{other}: 5 slices" in str(told.value)
    with pytest.raises(DataError, match=r"holds no series 1\.2\.3"):
        written(mask, Path(f"{series}#1.2.3"))
    read = pydicom.dcmread(written(mask, Path(f"{series}#{other}")))
    assert read.ReferencedSeriesSequence[0].SeriesInstanceUID == other


def moved(mask: Path, millimetres: float) -> Path:
    image = nibabel.load(mask)
    shift = nibabel.affines.from_matvec(np.eye(3), (millimetres, 0, 0))
    path = mask.with_name("moved.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), shift @ image.affine), path)
    return path


def test_a_mask_may_lie_a_rounding_away_from_the_series_and_no_farther(series: Path, mask: Path) -> None:
    with pytest.raises(DataError, match=r"lies up to 0\.20 mm away from the series' voxels.*0\.1 mm"):
        written(moved(mask, 0.2), series)
    assert highdicom.seg.segread(written(moved(mask, 0.05), series)).pixel_array.any()


def test_a_mask_mirrored_in_the_patient_is_refused(series: Path, mask: Path) -> None:
    image = nibabel.load(mask)
    mirror = np.diag([-1.0, 1, 1, 1])
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), mirror @ image.affine), mask)
    with pytest.raises(DataError, match="mm away"):
        written(mask, series)


def test_a_mask_of_another_size_or_of_probabilities_is_refused(series: Path, mask: Path) -> None:
    image = nibabel.load(mask)
    values = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image(values[:, :, :-1], image.affine), mask)
    with pytest.raises(DataError, match="has 4 slices of 12×9, the series 5 slices of 12×9"):
        written(mask, series)
    nibabel.save(nibabel.Nifti1Image(values * np.float32(0.7), image.affine), mask)
    with pytest.raises(DataError, match="is no mask"):
        written(mask, series)


def test_an_earlier_segmentation_is_replaced_only_when_asked_and_a_slice_never(
    series: Path, mask: Path
) -> None:
    """The segmentation may lie beside the slices: it is not taken for one of them."""
    ours = {"mask": mask, "series": series, "out": series / "seg.dcm"}
    write_segmentation(**ours, overwrite=False)
    before = contents(series)
    with pytest.raises(DataError, match="is there already"):
        write_segmentation(**ours, overwrite=False)
    slice_file = next(series.glob("*_99.dcm"))
    with pytest.raises(DataError, match="is no DICOM Segmentation"):
        write_segmentation(mask=mask, series=series, out=slice_file, overwrite=True)
    assert contents(series) == before
    write_segmentation(**ours, overwrite=True)
    after = contents(series)
    assert after.pop("seg.dcm") != before.pop("seg.dcm"), "it has UIDs of its own"
    assert after == before


def name_canaries(headers: list[Any]) -> None:
    """Values that highdicom and pydicom warn of and quote: a name of one part, an identifier too long."""
    with warnings.catch_warnings(action="ignore"):
        for header in headers:
            header.PatientName = "CANARYNAME"
            header.PatientID = "CANARYID" * 9
            header.SeriesDescription = "CANARYTEXT"


def name_canaries_and_lean(headers: list[Any]) -> None:
    name_canaries(headers)
    lean(headers)


def name_a_wrong_sex(headers: list[Any]) -> None:
    name_canaries(headers)
    for header in headers:
        header.PatientSex = "CANARYSEX"


def canary_commands(tmp_path: Path) -> Iterator[tuple[int, list[object]]]:
    """Ways to end well and badly, with the exit code of each."""
    fine = write_series(tmp_path / "fine", name_canaries)
    wrong = write_series(tmp_path / "wrong", name_a_wrong_sex)
    leaning = write_series(tmp_path / "leaning", name_canaries_and_lean)
    mask = write_mask(tmp_path / "mask.nii.gz", fine)
    yield 0, [mask, fine, tmp_path / "one.dcm"]
    yield 0, [mask, fine, tmp_path / "two.dcm", "--json"]
    yield 3, [mask, wrong, tmp_path / "three.dcm"]
    yield 3, [moved(mask, 3), fine, tmp_path / "four.dcm"]
    yield 3, [mask, leaning, tmp_path / "five.dcm"]


@pytest.mark.slow
def test_nothing_that_is_said_names_the_patient(tmp_path: Path) -> None:
    for code, arguments in canary_commands(tmp_path):
        done = run_clotseg("-C", tmp_path, "--debug", "dicom-seg", *arguments)
        assert done.returncode == code, done.stderr
        assert "CANARY" not in done.stdout + done.stderr
    assert pydicom.dcmread(tmp_path / "one.dcm").PatientName == "CANARYNAME", "the canary was there"


def test_an_error_of_the_libraries_does_not_carry_the_patient_along(tmp_path: Path) -> None:
    """highdicom's own message quotes the value it cannot take."""
    series = write_series(tmp_path / "series", name_a_wrong_sex)
    mask = write_mask(tmp_path / "mask.nii.gz", series)
    with pytest.raises(ClotsegError, match="cannot be used for a DICOM Segmentation") as told:
        written(mask, series)
    assert "CANARY" not in str(told.value)
    assert told.value.exit_code == 3


def test_without_its_extra_it_says_how_to_get_it(tmp_path: Path) -> None:
    """In a process that finds neither library, wherever this one has them."""
    program = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "gone = ('highdicom', 'pydicom')\n"
        "util.find_spec = lambda name, *more: None if name in gone else find(name, *more)\n"
        "from clotseg.cli import main\n"
        "sys.argv = ['clotseg', '-C', sys.argv[1], 'dicom-seg', 'mask.nii.gz', 'series', 'out.dcm']\n"
        "main()\n"
    )
    process = start_python(program, tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "highdicom and pydicom not installed" in said
    assert "clotseg[dicom]" in said
