"""Registration: what moved is found again, and always the same way."""

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from clotseg.errors import DataError
from clotseg.importer.registration import register_atlas, register_rigid, to_image
from clotseg.phantom.case import make_case
from clotseg.phantom.geometry import Grid
from clotseg.scans.scan import Scan
from tests.importer.head_scans import (
    Array,
    displacement_mm,
    grid_around,
    head_pair,
    rigid_motion,
    scanned,
    turned,
)

sitk = pytest.importorskip("SimpleITK")

GRID = Grid((64, 64, 24))


def phantom_pair(seed: int) -> tuple[Scan, Scan]:
    """CTA and NCCT of a phantom: a slab of 112×112×36 mm around the Circle of Willis."""
    case = make_case(seed, 0, GRID, None)
    row_mm, column_mm, slice_mm = GRID.spacing_mm
    affine = np.eye(4)
    # Rows grow to the back of the patient, columns to the left, slices to the head.
    affine[:3, :3] = [[0, -column_mm, 0], [-row_mm, 0, 0], [0, 0, slice_mm]]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(GRID.shape) - 1) / 2)
    return Scan(values=case.cta, affine=affine), Scan(values=case.ncct, affine=affine)


def brain_points(scan: Scan) -> Array:
    brain = np.argwhere((scan.values > 10) & (scan.values < 80))[::101]
    return np.asarray(brain @ scan.affine[:3, :3].T + scan.affine[:3, 3])


def moved(scan: Scan, motion: Array) -> Scan:
    """The scan as the same grid would see it after the patient moved."""
    to_voxels = np.linalg.inv(scan.affine) @ np.linalg.inv(motion)
    random = np.random.default_rng(0)
    return scanned(
        random, scan.values.astype(np.float32), to_voxels, scan.values.shape, scan.affine, noise_hu=1.0
    )


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def test_a_motion_of_a_thin_slab_is_found() -> None:
    """Against the same slab unmoved: a phantom's NCCT is off by up to a millimetre from the start."""
    cta, ncct = phantom_pair(0)
    motion = rigid_motion(np.random.default_rng(0), np.zeros(3), angle_deg=5, shift_mm=4)
    unmoved = register_rigid(cta, ncct).fixed_to_moving
    found = register_rigid(cta, moved(ncct, motion))
    points_mm = brain_points(ncct)
    assert displacement_mm(np.eye(4), motion, points_mm) > 3
    assert displacement_mm(found.fixed_to_moving, motion @ unmoved, points_mm) < 0.5 * GRID.spacing_mm[0]
    assert found.similarity_after > found.similarity_before + 0.1
    assert found.heads_overlap > 0.9
    turn = found.fixed_to_moving[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9, err_msg="not rigid")
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_array_equal(found.fixed_to_moving[3], [0, 0, 0, 1])


@pytest.mark.slow
def test_neither_threads_nor_repeats_change_a_bit(threads_restored: None) -> None:
    cta, ncct = phantom_pair(3)
    results = []
    for threads in (1, 4):
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        found = register_rigid(cta, ncct)
        results.append((found.fixed_to_moving.tobytes(), found.similarity_after, found.heads_overlap))
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_frame_far_away_is_no_obstacle() -> None:
    """Scanners put the origin where they like: headers that do not meet tell nothing of the head."""
    cta, ncct = phantom_pair(4)
    near = register_rigid(cta, ncct)
    away = np.eye(4)
    away[:3, 3] = (40, -700, 1200)
    far = register_rigid(cta, Scan(values=ncct.values, affine=away @ ncct.affine))
    assert far.similarity_before == 0
    assert displacement_mm(far.fixed_to_moving, away @ near.fixed_to_moving, brain_points(cta)) < 0.5


def test_scans_with_nothing_in_them_are_refused() -> None:
    cta, _ = phantom_pair(0)
    air = Scan(values=np.full(cta.values.shape, -1000, np.int16), affine=cta.affine)
    with pytest.raises(DataError, match="nothing in common"):
        register_rigid(cta, air)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SLA", "ARI"])
def test_a_voxel_is_where_its_affine_says(axes: str) -> None:
    """SimpleITK counts to the left and the back where NIfTI counts to the right and the front."""
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    oblique = np.eye(4)
    oblique[:3, :3] = turned(np.array([1.0, 2.0, 3.0]), 20) * (0.5, 0.7, 3.0)
    oblique[:3, 3] = (11, -20, 300)
    image = nibabel.Nifti1Image(values, oblique)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(oblique), nibabel.orientations.axcodes2ornt(axes)
    )
    image = image.as_reoriented(turn)
    found = to_image(Scan(values=np.asarray(image.dataobj), affine=image.affine))
    for voxel in ((0, 0, 0), (1, 2, 3), (3, 1, 2)):
        place_mm = np.array(found.TransformIndexToPhysicalPoint(voxel)) * (-1, -1, 1)
        np.testing.assert_allclose(place_mm, nibabel.affines.apply_affine(image.affine, voxel), atol=1e-4)
        assert found[voxel] == image.dataobj[voxel]


def test_a_sheared_grid_is_refused() -> None:
    """As a tilted gantry leaves it."""
    affine = np.eye(4)
    affine[1, 2] = 0.3
    with pytest.raises(DataError, match="right angles") as caught:
        to_image(Scan(values=np.zeros((4, 4, 4), np.int16), affine=affine))
    assert "resample" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [100, 101, 102])
def test_a_motion_of_a_real_head_is_found_within_half_a_voxel(atlas: Path, seed: int) -> None:
    pair = head_pair(atlas, seed, angle_deg=15, shift_mm=15)
    found = register_rigid(pair.cta, pair.ncct)
    assert pair.error_mm(np.eye(4)) > 5
    assert pair.error_mm(found.fixed_to_moving) < 0.5
    assert found.heads_overlap > 0.95
    assert found.similarity_after > found.similarity_before


@pytest.mark.slow
def test_the_atlas_finds_its_place_in_a_head_of_another_size(atlas: Path) -> None:
    """In a head 8 % wider and 6 % flatter, turned by 10° in its skull, brain meets brain within 1.5 mm."""
    image = nibabel.load(atlas)
    brain = Scan(values=np.asarray(image.dataobj), affine=np.asarray(image.affine, np.float64))
    pair = head_pair(atlas, 7, skull=True)
    warp = rigid_motion(np.random.default_rng(7), np.zeros(3), 10, 20) @ np.diag([1.08, 1.0, 0.94, 1.0])
    points_mm = pair.brain_mm @ warp[:3, :3].T + warp[:3, 3]
    shape, affine = grid_around(points_mm, np.array([1.0, 1.0, 1.5]), np.diag([-1.0, -1.0, 1.0]), 20)
    to_voxels = np.linalg.inv(pair.cta.affine) @ np.linalg.inv(warp)
    values = pair.cta.values.astype(np.float32)
    cta = scanned(np.random.default_rng(7), values, to_voxels, shape, affine, 3.0)
    found = register_atlas(cta, brain)
    assert displacement_mm(found.fixed_to_moving, np.linalg.inv(warp), points_mm) < 1.5
    assert found.heads_overlap > 0.9
