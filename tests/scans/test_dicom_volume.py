"""CT series as volumes: SimpleITK reads the plain ones, arithmetic by hand says where the others must lie."""

import itertools
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.scans.dicom_volume import read_dicom
from tests.conftest import shared_data
from tests.scans.dicom_writing import unchanged, write_dicom_series

pydicom = pytest.importorskip("pydicom", reason="needs the extra `dicom`")
sitk = pytest.importorskip("SimpleITK", reason="needs the extra `dicom`")

SHAPE = (9, 12, 8)
TURN = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.25)
OBLIQUE = nibabel.affines.from_matvec(TURN @ np.diag([-0.5, -0.75, 2.0]), (10, -20, 30))
STRAIGHT = np.array([[-0.5, 0, 0, 10], [0, -0.75, 0, 20], [0, 0, 2.0, -5], [0, 0, 0, 1]])
SLOPE_PER_MM = np.array([11.0, -23.0, 17.0])


def field(places: NDArray[np.float64]) -> NDArray[np.int16]:
    """HU that grow evenly along each axis of the patient: linear interpolation gives them back anywhere."""
    return np.round(places @ SLOPE_PER_MM).astype(np.int16)


def places_of(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.asarray(nibabel.affines.apply_affine(affine, voxels))


def noise(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-900, 900, shape).astype(np.int16)


def require_as_simpleitk_reads(folder: Path) -> None:
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    scan, notices = read_dicom(folder, irregular="refuse")
    np.testing.assert_array_equal(scan.values, sitk.GetArrayFromImage(image).T)
    assert scan.values.dtype == np.float32
    for voxel in itertools.product(*((0, side - 1) for side in scan.values.shape)):
        there = np.array(image.TransformIndexToPhysicalPoint([int(index) for index in voxel]))
        here = nibabel.affines.apply_affine(scan.affine, voxel)
        np.testing.assert_allclose(here, there * (-1, -1, 1), atol=1e-3)
    assert all("left out" in notice for notice in notices)


def test_an_oblique_series_is_read_as_simpleitk_reads_it(tmp_path: Path) -> None:
    """Its files are named and numbered against the order of its slices."""
    require_as_simpleitk_reads(
        write_dicom_series(tmp_path / "ct", noise(), OBLIQUE, slope=0.5, intercept=-200)
    )


@pytest.mark.slow
def test_a_real_plain_series_is_read_as_simpleitk_reads_it() -> None:
    require_as_simpleitk_reads(shared_data("head_phantom_philips_5mm"))


def test_a_file_that_is_no_slice_is_counted() -> None:
    notices = read_dicom(shared_data("head_phantom_philips_5mm"), irregular="refuse")[1]
    assert notices == ["left out: 1 × DICOM without an image that has a place in a patient"]


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    def vary(headers: list[Any]) -> None:
        for number, header in enumerate(headers):
            header.RescaleSlope, header.RescaleIntercept = 1 + number, 10 * number

    stored = np.full(SHAPE, 20, np.int16)
    scan, _ = read_dicom(
        write_dicom_series(tmp_path / "ct", stored, OBLIQUE, change=vary), irregular="refuse"
    )
    assert scan.values[0, 0].tolist() == [20, 50, 80, 110, 140, 170, 200, 230]


def pad(value: int, limit: int | None = None, vr: str = "SS") -> Callable[[list[Any]], None]:
    def change(headers: list[Any]) -> None:
        for header in headers:
            header.add_new("PixelPaddingValue", vr, value)
            if limit is not None:
                header.add_new("PixelPaddingRangeLimit", vr, limit)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (pad(-1500), [-1000, -1024, -1024, -950, 40]),
        (pad(64036, vr="US"), [-1000, -1024, -1024, -950, 40]),
        (pad(-1500, -1480), [-1000, -1000, -1024, -950, 40]),
        (pad(-1480, -1500), [-1000, -1000, -1024, -950, 40]),
        (unchanged, [-1024, -1024, -1024, -950, 40]),
    ],
)
def test_padding_is_air_and_nothing_is_darker_than_a_detector_measures(
    tmp_path: Path, change: Callable[[list[Any]], None], expected: list[float]
) -> None:
    """Stored values are 100 above HU; the padding value is one of those stored."""
    stored = np.full(SHAPE, 140, np.int16)
    stored[:4, 0, 0] = -1500, -1490, -1100, -850
    folder = write_dicom_series(tmp_path / "ct", stored, OBLIQUE, intercept=-100, change=change)
    scan, notices = read_dicom(folder, irregular="refuse")
    assert scan.values[:5, 0, 0].tolist() == expected
    assert not notices


def test_a_padding_value_that_is_a_tissue_is_not_believed(tmp_path: Path) -> None:
    scan, notices = read_dicom(
        write_dicom_series(tmp_path / "ct", np.full(SHAPE, 0, np.int16), OBLIQUE, change=pad(0)),
        irregular="refuse",
    )
    assert not scan.values.any()
    assert notices == ["padding value of 8 slices is a tissue's HU, and is taken for that, not for air"]


def test_what_is_no_slice_of_the_series_is_left_out_and_counted(tmp_path: Path) -> None:
    def more(headers: list[Any]) -> None:
        for number in (2, 2, 5):
            again = deepcopy(headers[number])
            again.SOPInstanceUID = pydicom.uid.generate_uid()
            headers.append(again)
        scout = deepcopy(headers[0])
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        headers.append(scout)

    folder = write_dicom_series(tmp_path / "ct", noise(), OBLIQUE, change=more)
    (folder / "notes.txt").write_text("none of ours")
    (folder / "picture.jpg").write_bytes(b"\xff\xd8\xff")
    scan, notices = read_dicom(folder, irregular="refuse")
    np.testing.assert_array_equal(scan.values, noise())
    assert notices == [
        "left out: 1 × localizer",
        "left out: 2 × no DICOM",
        "left out: 3 × slice that is there once more",
    ]


def test_series_are_told_apart_by_uid(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "ct", noise(), OBLIQUE, series_uid="1.2.3")
    write_dicom_series(tmp_path / "ct", noise()[:, :, :5] + np.int16(1), OBLIQUE, series_uid="1.2.4")
    with pytest.raises(DataError, match="holds 2 series") as told:
        read_dicom(tmp_path / "ct", irregular="correct")
    assert told.value.details == ("1.2.3: 8 slices", "1.2.4: 5 slices")
    scan, _ = read_dicom(tmp_path / "ct#1.2.4", irregular="refuse")
    np.testing.assert_array_equal(scan.values, noise()[:, :, :5] + 1)


def lean(degrees: float) -> NDArray[np.float64]:
    """A grid whose slices lie above each other along the patient's axis, and lean by the gantry's angle."""
    turn = nibabel.eulerangles.euler2mat(x=np.radians(degrees))
    affine = nibabel.affines.from_matvec(turn @ np.diag([-0.5, -0.75, 2.0]), (10, 20, -5))
    affine[:3, 2] = (0, 0, 2 / np.cos(np.radians(degrees)))
    return np.asarray(affine)


def heights(*millimetres: float) -> Callable[[list[Any]], None]:
    """Puts the slices of a straight series at other heights."""

    def change(headers: list[Any]) -> None:
        del headers[len(millimetres) :]
        for header, height in zip(headers, millimetres, strict=True):
            header.ImagePositionPatient = [-10, -20, -5 + height]

    return change


def stack(folder: Path, *millimetres: float) -> Path:
    """A straight series with slices at these heights, each HU where it must be."""
    places = places_of((*SHAPE[:2], len(millimetres)), STRAIGHT)
    places[..., 2] = -5 + np.array(millimetres)
    return write_dicom_series(folder, field(places), STRAIGHT, change=heights(*millimetres))


IRREGULAR = {
    "leaning": (
        lambda folder: write_dicom_series(folder, field(places_of(SHAPE, lean(18.5))), lean(18.5)),
        r"gantry tilt: the stack leans 18\.5° from the normal of its slices",
        (8, 2.0),
    ),
    "leaning the other way": (
        lambda folder: write_dicom_series(folder, field(places_of(SHAPE, lean(-25))), lean(-25)),
        r"gantry tilt: the stack leans 25\.0°",
        (8, 2.0),
    ),
    "missing": (
        lambda folder: stack(folder, 0, 2, 4, 10, 12, 14),
        r"missing slices: 2 between others that are 2\.00 mm apart",
        (8, 2.0),
    ),
    "uneven": (
        lambda folder: stack(folder, 0, 2, 4, 6, 6.5, 9.5, 12.5, 15.5),
        r"irregular spacing: neighbouring slices are 0\.50 to 3\.00 mm apart",
        (8, 2.0),
    ),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_an_irregular_stack_is_corrected_to_a_grid_with_every_hu_where_it_was(
    tmp_path: Path, kind: str
) -> None:
    write, said, (count, apart) = IRREGULAR[kind]
    scan, notices = read_dicom(write(tmp_path / "ct"), irregular="correct")
    axes = scan.affine[:3, :3] / scan.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert scan.spacing_mm == pytest.approx((0.5, 0.75, apart), abs=1e-3)
    assert scan.values.shape[2] == count
    expected = field(places_of(scan.values.shape, scan.affine))
    right = np.abs(scan.values - expected) < 1.6  # HU were rounded on the way in
    if "leaning" not in kind:
        assert right.all()
    else:  # The first or the last row of a slice is half air where it was moved by a part of a pixel.
        assert right.sum() >= SHAPE[0] * (SHAPE[1] - 1) * count
        assert ((~right & (scan.values > -1000)).any(axis=0).sum(axis=0) <= 2).all()
    assert notices[0].startswith("corrected: ")
    assert notices[1].startswith("resampled from ")
    with pytest.raises(DataError, match=said):
        read_dicom(tmp_path / "ct", irregular="refuse")


def test_slices_that_lie_on_the_grid_are_not_touched(tmp_path: Path) -> None:
    values = noise((9, 12, 6))
    folder = write_dicom_series(tmp_path / "ct", values, STRAIGHT, change=heights(0, 2, 4, 10, 12, 14))
    scan, _ = read_dicom(folder, irregular="correct")
    np.testing.assert_array_equal(scan.values[:, :, [0, 1, 2, 5, 6, 7]], values)


def put_two_in_one_place(headers: list[Any]) -> None:
    headers[1].ImagePositionPatient = headers[2].ImagePositionPatient


def name_another_patient(headers: list[Any]) -> None:
    headers[1].PatientID = "CANARY"


def push_aside(headers: list[Any]) -> None:
    for number, header in enumerate(headers):
        header.ImagePositionPatient = [-10 + 4 * number, -20, 2 * number]


def turn_to_mr(headers: list[Any]) -> None:
    for header in headers:
        header.Modality = "MR"


def take_intercept(headers: list[Any]) -> None:
    del headers[3].RescaleIntercept


def shear_orientation(headers: list[Any]) -> None:
    for header in headers:
        header.ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


ALWAYS_REFUSED = {
    "clash": (put_two_in_one_place, "1 slices lie where another one does, with other pixels"),
    "patients": (name_another_patient, "slices differ in PatientID"),
    "aside": (push_aside, "no gantry tilt explains"),
    "gap": (heights(0, 2, 4, 6, 20, 22), r"a gap of 14\.00 mm .* too large"),
    "single": (heights(0), "it has one slice"),
    "modality": (turn_to_mr, "no CT by its Modality"),
    "rescale": (take_intercept, "slices lack RescaleIntercept"),
    "orientation": (shear_orientation, "no two directions at right angles"),
}


@pytest.mark.parametrize("irregular", ["correct", "refuse"])
@pytest.mark.parametrize("wrong", ALWAYS_REFUSED)
def test_what_no_correction_can_mend_is_refused_either_way(
    tmp_path: Path, wrong: str, irregular: Any
) -> None:
    change, said = ALWAYS_REFUSED[wrong]
    if irregular == "refuse":
        said = {"gap": "missing slices", "aside": "gantry tilt"}.get(wrong, said)
    folder = write_dicom_series(tmp_path / "ct", noise(), STRAIGHT, change=change)
    with pytest.raises(DataError, match=said):
        read_dicom(folder, irregular=irregular)


def by_height(folder: Path) -> list[Any]:
    headers = [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]
    return sorted(headers, key=lambda header: float(header.ImagePositionPatient[2]))


@pytest.mark.slow
def test_a_real_tilted_and_uneven_series_is_corrected_where_its_slices_truly_lie() -> None:
    """Its first 14 slices are 4.00 mm apart along their normal, the others 7.00 mm, between them 1.08 mm."""
    folder = shared_data("head_ct_ge_tilted")
    scan, notices = read_dicom(folder, irregular="correct")
    assert [notice.split(":")[1] for notice in notices[:2]] == [" gantry tilt", " irregular spacing"]
    assert "18.5°" in notices[0]
    assert scan.spacing_mm == pytest.approx((0.48828, 0.48828, 4.0019), abs=1e-3)
    headers = by_height(folder)
    require_pixels_by_hand(scan.values, scan.affine, headers)
    require_mass_kept(scan.values, scan.affine, headers)
    assert scan.values.min() >= -1024


def require_pixels_by_hand(values: Any, affine: NDArray[np.float64], headers: list[Any]) -> None:
    """Each of some voxels on a slice holds what its place on the slice says, by bilinear interpolation."""
    random = np.random.default_rng(1)
    for number in (0, 5, 13):
        header = headers[number]
        across, down = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        pixels = np.where(header.pixel_array == -1500, -1000, np.maximum(header.pixel_array, -1024))
        for column, row in random.integers(150, 350, (50, 2)):
            place = nibabel.affines.apply_affine(affine, (column, row, number)) * (-1, -1, 1)
            aside = place - np.array(header.ImagePositionPatient, float)
            assert abs(np.cross(across, down) @ aside) < 0.01, "it lies on the slice"
            x, y = across @ aside / 0.4882812, down @ aside / 0.4882812
            left, top = round(x), int(np.floor(y))
            assert abs(x - left) < 1e-3
            part = y - top
            by_hand = pixels[top, left] * (1 - part) + pixels[top + 1, left] * part
            assert values[column, row, number] == pytest.approx(by_hand, abs=2)


def require_mass_kept(values: Any, affine: NDArray[np.float64], headers: list[Any]) -> None:
    """Mass, HU + 1000, and its centre in the patient, summed over the slices and over the volume."""
    heights_mm = np.array([header.ImagePositionPatient[2] for header in headers], float)
    heights_mm *= np.cos(np.radians(18.5))
    masses, centres = [], []
    for header in headers:
        mass = np.maximum(header.pixel_array.astype(float), -1000) + 1000
        across, down = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        rows, columns = np.indices(mass.shape)
        x, y = ((mass * where).sum() / mass.sum() * 0.4882812 for where in (columns, rows))
        masses.append(mass.sum() * 0.4882812**2)
        centres.append(np.array(header.ImagePositionPatient, float) + x * across + y * down)
    expected_mass = np.trapezoid(masses, heights_mm)
    moments = np.array(masses)[:, None] * centres
    expected = np.trapezoid(moments, heights_mm, axis=0) / expected_mass * (-1, -1, 1)
    mass = np.maximum(values.astype(float), -1000) + 1000
    mass[:, :, [0, -1]] /= 2
    voxels = [(mass.sum(axis=others) @ np.arange(mass.shape[axis])) / mass.sum() for axis, others in AXES]
    centre = nibabel.affines.apply_affine(affine, voxels)
    total = mass.sum() * abs(np.linalg.det(affine[:3, :3]))
    assert total == pytest.approx(expected_mass, rel=0.002)
    np.testing.assert_allclose(centre, expected, atol=0.05)


AXES = ((0, (1, 2)), (1, (0, 2)), (2, (0, 1)))


def test_a_real_tilted_series_is_refused_by_both_names() -> None:
    with pytest.raises(DataError, match=r"leans 18\.5°") as told:
        read_dicom(shared_data("head_ct_ge_tilted"), irregular="refuse")
    assert "irregular spacing: neighbouring slices are 1.08 to 7.00 mm apart" in told.value.details


def test_what_nothing_here_can_read_is_refused_by_name(tmp_path: Path) -> None:
    """Many frames in one object; pixels compressed by a method that is not one."""

    def add_frames(headers: list[Any]) -> None:
        headers[0].NumberOfFrames = 2

    many = write_dicom_series(tmp_path / "many", noise(), STRAIGHT, change=add_frames)
    with pytest.raises(DataError, match="multi-frame object"):
        read_dicom(many, irregular="correct")
    packed = write_dicom_series(tmp_path / "packed", noise(), STRAIGHT)
    for file in packed.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([dataset.PixelData])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(file)
    with pytest.raises(DataError, match="is compressed in a way that nothing installed here can undo"):
        read_dicom(packed, irregular="correct")
