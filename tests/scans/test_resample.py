"""Volumes on new grids: HU where they were, masks as large as they were, and back again."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from clotseg.scans.resample import Grid, box_grid, corners_mm, grid_of, resample_hu, resample_mask
from clotseg.scans.scan import Scan

CUBE_MM = 30.0


def grid(spacing: tuple[float, ...], *, turned: float = 0.0, seed: int = 0, side_mm: float = CUBE_MM) -> Grid:
    """A grid around the origin, off it by a part of a voxel, its axes turned by some degrees."""
    random = np.random.default_rng(seed)
    shape = np.ceil(side_mm / np.array(spacing)).astype(int)
    axis = random.normal(size=3)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(
        np.deg2rad(turned) * axis / np.linalg.norm(axis)
    ).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = affine[:3, :3] @ (-(shape - 1) / 2) + random.uniform(-0.2, 0.2, 3)
    rows, columns, slices = map(int, shape)
    return Grid(shape=(rows, columns, slices), affine=affine)


def places_mm(on: Grid) -> NDArray[Any]:
    voxels = np.stack(np.meshgrid(*map(np.arange, on.shape), indexing="ij"), axis=-1)
    return np.asarray(voxels @ on.affine[:3, :3].T + on.affine[:3, 3])


def ball(on: Grid, radius_mm: float, centre_mm: tuple[float, ...] = (0, 0, 0)) -> NDArray[np.uint8]:
    away = np.linalg.norm(places_mm(on) - np.array(centre_mm), axis=-1)
    return (away <= radius_mm).astype(np.uint8)


def tube(on: Grid, across_mm: float, seed: int) -> NDArray[np.uint8]:
    """A bent tube around the middle of the grid, about 18 mm long."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=3)
    steps = 0.3 * direction / np.linalg.norm(direction) + random.normal(0, 0.03, (60, 3))
    line = np.cumsum(steps, axis=0)
    line -= line.mean(axis=0)
    away = np.linalg.norm(places_mm(on)[..., None, :] - line[::2], axis=-1).min(axis=-1)
    return (away <= across_mm / 2).astype(np.uint8)


def dice(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_a_scan_on_its_own_grid_is_what_it_was() -> None:
    own = grid((0.4, 0.45, 0.7), turned=20)
    values = np.random.default_rng(1).integers(-1000, 2000, own.shape).astype(np.int16)
    scan = Scan(values=values, affine=own.affine)
    np.testing.assert_array_equal(np.rint(resample_hu(scan, grid_of(scan))), values)


def test_a_plane_in_space_stays_where_it_is_whatever_the_axes() -> None:
    old, new = grid((0.6, 0.8, 1.1), turned=35, seed=3), grid((0.5, 0.5, 0.5), side_mm=14)
    slope, at_origin = np.array([3.0, -2.0, 5.0]), 40.0
    scan = Scan(values=places_mm(old) @ slope + at_origin, affine=old.affine)
    np.testing.assert_allclose(
        resample_hu(scan, new), places_mm(new) @ slope + at_origin, atol=2e-3
    )  # Linear interpolation of a linear function is exact.


def test_a_transform_leads_from_the_new_grid_to_the_scan() -> None:
    old, new = grid((0.6, 0.8, 1.1), seed=4), grid((0.5, 0.5, 0.5), side_mm=10)
    turn = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()
    moved = np.eye(4)
    moved[:3, :3], moved[:3, 3] = turn, (3.0, -1.0, 2.0)
    scan = Scan(values=places_mm(old) @ np.array([1.0, 2.0, 3.0]), affine=old.affine)
    expected = (places_mm(new) @ turn.T + moved[:3, 3]) @ np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(resample_hu(scan, new, to_scan=moved), expected, atol=2e-3)


def test_beyond_a_scan_there_is_air() -> None:
    scan = Scan(values=np.full((4, 4, 4), 50), affine=np.eye(4))
    found = resample_hu(scan, Grid(shape=(8, 1, 1), affine=np.diag([1.0, 1, 1, 1])))
    np.testing.assert_array_equal(found.ravel(), [50] * 4 + [-1000] * 4)


@pytest.mark.parametrize("radius_mm", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("spacing", [(0.4, 0.4, 0.5), (0.5, 0.5, 2.5), (0.9, 0.7, 1.0)])
def test_a_ball_keeps_its_volume_within_3_percent(radius_mm: float, spacing: tuple[float, ...]) -> None:
    old, new = grid(spacing, turned=15, seed=5), grid((0.5, 0.5, 0.5), seed=6)
    mask = ball(old, radius_mm)
    found = resample_mask(Scan(values=mask, affine=old.affine), new)
    assert found.sum() * new.voxel_mm3 == pytest.approx(mask.sum() * old.voxel_mm3, rel=0.03)
    np.testing.assert_allclose(
        new.affine[:3, :3] @ ndimage.center_of_mass(found) + new.affine[:3, 3],
        old.affine[:3, :3] @ ndimage.center_of_mass(mask) + old.affine[:3, 3],
        atol=0.1,
    )


def test_each_of_two_balls_keeps_its_own_volume() -> None:
    old, new = grid((0.5, 0.5, 2.0), seed=7), grid((0.5, 0.5, 0.5), seed=8)
    small, large = ball(old, 1.6, (-9, 0, 0)), ball(old, 5.0, (4, 0, 0))
    found = resample_mask(Scan(values=small | large, affine=old.affine), new)
    labels, count = ndimage.label(found, np.ones((3, 3, 3)))
    assert count == 2
    volumes = sorted(np.bincount(labels.ravel())[1:] * new.voxel_mm3)
    expected = sorted(mask.sum() * old.voxel_mm3 for mask in (small, large))
    np.testing.assert_allclose(volumes, expected, rtol=0.03)


def test_a_clot_of_one_small_voxel_is_not_lost() -> None:
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[10, 9, 11] = 1
    old = np.diag([0.2, 0.2, 0.2, 1.0])
    found = resample_mask(Scan(values=mask, affine=old), Grid(shape=(4, 4, 4), affine=np.eye(4)))
    assert np.argwhere(found).tolist() == [[2, 2, 2]]


def test_a_mask_outside_of_the_grid_is_not_on_it() -> None:
    mask = np.ones((2, 2, 2), np.uint8)
    far = np.eye(4)
    far[:3, 3] = 100
    assert not resample_mask(Scan(values=mask, affine=far), Grid(shape=(9, 9, 9), affine=np.eye(4))).any()


@pytest.mark.slow
@pytest.mark.parametrize("across_mm", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("spacing", [(0.4, 0.4, 0.5), (0.45, 0.45, 0.625), (0.5, 0.5, 1.0)])
def test_a_tube_as_wide_as_a_clot_comes_back_as_it_went(across_mm: float, spacing: tuple[float, ...]) -> None:
    for seed in range(4):
        old, new = grid(spacing, turned=10, seed=seed), grid((0.5, 0.5, 0.5), seed=seed + 9)
        mask = tube(old, across_mm, seed)
        there = resample_mask(Scan(values=mask, affine=old.affine), new)
        back = resample_mask(Scan(values=there, affine=new.affine), old)
        assert dice(mask, back) >= 0.95


def test_a_box_becomes_a_grid_along_the_axes_of_the_network() -> None:
    made = box_grid(np.array([-10.0, -20.0, 5.0]), np.array([10.0, 0.0, 9.0]), 0.5)
    assert made.shape == (41, 41, 9)
    np.testing.assert_allclose(made.affine @ [0, 0, 0, 1], [10, 0, 5, 1])  # right, front, lowest
    np.testing.assert_allclose(made.affine @ [40, 40, 8, 1], [-10, -20, 9, 1])  # left, back, highest
    corners = corners_mm(made)
    np.testing.assert_allclose(corners.min(axis=0), [-10, -20, 5])
    np.testing.assert_allclose(corners.max(axis=0), [10, 0, 9])
