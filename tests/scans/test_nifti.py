"""NIfTI in the network's axes, held against nibabel's own account of where each voxel lies in the patient."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.scans.nifti import read_nifti, require_same_grid, write_nifti
from tests.evaluate.conftest import nifti_pair

AXES = ["PLS", "RAS", "LPS", "LAI", "SAR", "IRP"]


def voxel_values(image: Any) -> dict[tuple[float, ...], float]:
    """What a volume holds at each place in the patient, to a hundredth of a millimetre."""
    values = np.asarray(image.dataobj)
    voxels = np.argwhere(np.ones(values.shape, bool))
    places = np.round(nibabel.affines.apply_affine(image.affine, voxels), 2) + 0.0
    return {tuple(place): values[tuple(voxel)] for place, voxel in zip(places, voxels, strict=True)}


@pytest.mark.parametrize("axes", AXES)
def test_the_network_sees_rows_to_the_back_columns_to_the_left_slices_to_the_head(
    tmp_path: Path, axes: str
) -> None:
    cta, _ = nifti_pair(tmp_path, "case", axes=axes)
    assert nibabel.aff2axcodes(nibabel.load(tmp_path / "case_CTA.nii.gz").affine) == tuple(axes)
    volume = read_nifti(tmp_path / "case_CTA.nii.gz")
    np.testing.assert_array_equal(volume.hu, cta)
    assert nibabel.aff2axcodes(volume.affine) == ("P", "L", "S")
    assert volume.spacing_mm == pytest.approx((0.5, 0.4, 2.0))


@pytest.mark.parametrize("axes", AXES)
def test_what_is_written_lies_where_it_was_seen(tmp_path: Path, axes: str) -> None:
    """Written as it was read, a volume has every value at the place in the patient where it was."""
    nifti_pair(tmp_path, "case", axes=axes)
    given = nibabel.load(tmp_path / "case_CTA.nii.gz")
    volume = read_nifti(tmp_path / "case_CTA.nii.gz")
    write_nifti(tmp_path / "back.nii.gz", volume.hu.astype(np.float32), volume)
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert back.shape == given.shape
    np.testing.assert_array_equal(back.affine, given.affine)
    for code in ("sform_code", "qform_code", "pixdim"):
        np.testing.assert_array_equal(back.header[code], given.header[code])
    assert voxel_values(back) == voxel_values(given)


def test_an_oblique_volume_keeps_its_affine(tmp_path: Path) -> None:
    turn = nibabel.eulerangles.euler2mat(0.2, 0.1, -0.15)
    affine = nibabel.affines.from_matvec(turn @ np.diag([-0.4, 0.5, 3.0]), (10, -20, 30))
    hu = np.random.default_rng(0).integers(-100, 300, (6, 5, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, affine), tmp_path / "oblique.nii")
    volume = read_nifti(tmp_path / "oblique.nii")
    assert volume.hu.shape == (5, 6, 4)
    assert volume.spacing_mm == pytest.approx((0.5, 0.4, 3.0), rel=1e-5)
    write_nifti(tmp_path / "back.nii", volume.hu, volume)
    back = nibabel.load(tmp_path / "back.nii")
    np.testing.assert_array_equal(np.asarray(back.dataobj), hu)
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)


def test_a_mask_carries_nothing_of_the_scan_but_its_grid(tmp_path: Path) -> None:
    nifti_pair(tmp_path, "case")
    image = nibabel.load(tmp_path / "case_CTA.nii.gz")
    image.header["descrip"] = b"Jane Doe"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nibabel.save(image, tmp_path / "named.nii.gz")
    volume = read_nifti(tmp_path / "named.nii.gz")
    write_nifti(tmp_path / "mask.nii", np.zeros(volume.hu.shape, np.uint8), volume)
    assert b"Jane" not in (tmp_path / "mask.nii").read_bytes()


def test_scaled_numbers_are_read_as_hu(tmp_path: Path) -> None:
    """nibabel undoes a slope when it writes, so numbers and slope go into the file by themselves."""
    cta, _ = nifti_pair(tmp_path, "case", axes="PLS")
    header = nibabel.load(tmp_path / "case_CTA.nii.gz").header
    header.set_slope_inter(0.5, -1024)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    raw = ((cta.astype(int) + 1024) * 2).astype(np.int16)
    (tmp_path / "scaled.nii").write_bytes(header.binaryblock + bytes(4) + raw.tobytes(order="F"))
    np.testing.assert_array_equal(nibabel.load(tmp_path / "scaled.nii").get_fdata(), cta)
    volume = read_nifti(tmp_path / "scaled.nii")
    np.testing.assert_array_equal(volume.hu, cta)
    write_nifti(tmp_path / "mask.nii", np.ones(volume.hu.shape, np.uint8), volume)
    assert (nibabel.load(tmp_path / "mask.nii").get_fdata() == 1).all()


def moved(image: Any) -> Any:
    affine = image.affine.copy()
    affine[0, 3] += 0.3
    return nibabel.Nifti1Image(np.asarray(image.dataobj), affine)


def turned(image: Any) -> Any:
    affine = image.affine.copy()
    affine[:3, :3] = nibabel.eulerangles.euler2mat(0.05) @ affine[:3, :3]
    return nibabel.Nifti1Image(np.asarray(image.dataobj), affine)


def shorter(image: Any) -> Any:
    return nibabel.Nifti1Image(np.asarray(image.dataobj)[:, :, :-1], image.affine)


@pytest.mark.parametrize(("spoil", "told"), [(moved, "0.30 mm apart"), (turned, "apart"), (shorter, "shape")])
def test_a_pair_on_two_grids_is_refused(tmp_path: Path, spoil: Callable[[Any], Any], told: str) -> None:
    nifti_pair(tmp_path, "case")
    nibabel.save(spoil(nibabel.load(tmp_path / "case_NCCT.nii.gz")), tmp_path / "other.nii.gz")
    cta = read_nifti(tmp_path / "case_CTA.nii.gz")
    with pytest.raises(DataError, match=told) as caught:
        require_same_grid(cta, read_nifti(tmp_path / "other.nii.gz"))
    assert "resample" in str(caught.value)


def test_a_pair_on_one_grid_may_be_stored_along_different_axes(tmp_path: Path) -> None:
    nifti_pair(tmp_path, "case", axes="RAS")
    nifti_pair(tmp_path / "other", "case", axes="SLA")
    require_same_grid(
        read_nifti(tmp_path / "case_CTA.nii.gz"), read_nifti(tmp_path / "other" / "case_NCCT.nii.gz")
    )


def of_values(values: NDArray[Any], affine: NDArray[Any] | None) -> Callable[[Path], None]:
    return lambda path: nibabel.save(nibabel.Nifti1Image(values, affine), path)


def of_header(start: int, content: bytes) -> Callable[[Path], None]:
    """A volume with other bytes at a place in its header."""

    def write(path: Path) -> None:
        of_values(np.zeros((4, 4, 4), np.int16), np.eye(4))(path)
        whole = path.read_bytes()
        path.write_bytes(whole[:start] + content + whole[start + len(content) :])

    return write


COLOURS = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
DIM, DATATYPE, MAGIC = 40, 70, 344
"""Where they are in a header, nifti1.h."""


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (of_values(np.zeros((4, 4, 4), np.int16), None), "how it lies in the patient"),
        (of_values(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), "one 3-D volume"),
        (lambda path: path.write_bytes(b""), "cannot be read as NIfTI"),
        (lambda path: path.write_bytes(b"no NIfTI at all" * 100), "cannot be read as NIfTI"),
        (of_values(COLOURS, np.eye(4)), "no single number a voxel"),
        (of_values(np.zeros((4, 4, 4), np.complex64), np.eye(4)), "no single number a voxel"),
        (of_header(DATATYPE, b"\x00\x00"), "cannot be read as NIfTI"),
        (of_header(DATATYPE, b"\x0f\x27"), "cannot be read as NIfTI"),
        (of_header(DIM, b"\x63\x00"), "cannot be read as NIfTI"),
        (of_header(MAGIC, b"abcd"), "cannot be read as NIfTI"),
    ],
    ids=[
        "no orientation",
        "two times",
        "empty",
        "foreign",
        "colours",
        "complex",
        "no type",
        "unknown type",
        "99 axes",
        "no magic",
    ],
)
def test_what_is_no_volume_in_a_patient_is_refused(
    tmp_path: Path, write: Callable[[Path], None], told: str
) -> None:
    write(tmp_path / "case.nii")
    with pytest.raises(DataError, match=told) as caught:
        read_nifti(tmp_path / "case.nii")
    assert caught.value.where == "case.nii"


@pytest.mark.parametrize("kept", [40, 400, 2000])
def test_a_cut_off_file_is_refused(tmp_path: Path, kept: int) -> None:
    nifti_pair(tmp_path, "case")
    file = tmp_path / "case_CTA.nii.gz"
    assert file.stat().st_size > kept
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read as NIfTI"):
        read_nifti(file)
    shutil.copy(file, tmp_path / "case.nii")
    with pytest.raises(DataError, match="cannot be read as NIfTI"):
        read_nifti(tmp_path / "case.nii")
