"""Clots of known shape, and what is measured of them."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from clotseg.errors import DataError
from clotseg.evaluate.clot import clot_lengths, measure_clots
from clotseg.evaluate.midplane import find_midplane
from clotseg.phantom.case import make_case
from clotseg.phantom.geometry import Grid

FINE, THICK_SLICES, COARSE = (0.5, 0.5, 0.5), (0.45, 0.45, 1.0), (1.17, 1.17, 1.5)
EXTENT_MM = 36.0


def centres_mm(spacing_mm):
    """Voxel centres [row, column, slice, 3] of a cube of 36 mm."""
    axes = [(np.arange(math.ceil(EXTENT_MM / step)) + 0.5) * step for step in spacing_mm]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def cylinder(direction, *, length_mm, radius_mm, spacing_mm):
    """A cylinder with flat ends around the middle of the cube."""
    along = np.asarray(direction, float) / np.linalg.norm(direction)
    points = centres_mm(spacing_mm) - EXTENT_MM / 2
    height = points @ along
    aside = np.linalg.norm(points - height[..., np.newaxis] * along, axis=-1)
    return ((np.abs(height) <= length_mm / 2) & (aside <= radius_mm)).astype(np.uint8)


def bent_tube(*, bend_mm, arc, radius_mm, spacing_mm, tilt):
    """A tube with round ends along an arc of a circle; its centre line is bend · arc long."""
    turned = np.linspace(0, arc, 300)
    line = bend_mm * np.stack([np.cos(turned), np.sin(turned), tilt * np.sin(turned / 2)], 1)
    line += EXTENT_MM / 2 - line.mean(axis=0)
    away, _ = cKDTree(line).query(centres_mm(spacing_mm), distance_upper_bound=2 * radius_mm)
    length_mm = np.linalg.norm(np.diff(line, axis=0), axis=1).sum() + 2 * radius_mm
    return (away <= radius_mm).astype(np.uint8), length_mm


def measure(mask, *, cta_hu=None, ncct_hu=None, spacing_mm=FINE, **options):
    return measure_clots(mask, cta_hu=cta_hu, ncct_hu=ncct_hu, spacing_mm=spacing_mm, **options)


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1), (1, 1, 0), (1, 2, 3), (3, -2, 1)], ids=str)
@pytest.mark.parametrize(
    ("spacing_mm", "radius_mm", "tolerance"),
    [(FINE, 1.0, 0.06), (FINE, 2.0, 0.06), (THICK_SLICES, 1.5, 0.12), (COARSE, 2.0, 0.15)],
    ids=["fine", "fine and wide", "thick slices", "coarse"],
)
def test_the_length_of_a_cylinder_is_its_height(direction, spacing_mm, radius_mm, tolerance):
    mask = cylinder(direction, length_mm=16, radius_mm=radius_mm, spacing_mm=spacing_mm)
    (length_mm,) = clot_lengths(mask, spacing_mm)
    assert length_mm == pytest.approx(16, rel=tolerance)


@pytest.mark.parametrize("tilt", [0.0, 1.0])
@pytest.mark.parametrize("arc", [1.5, 2.8])
@pytest.mark.parametrize(
    ("spacing_mm", "tolerance"), [(FINE, 0.06), (THICK_SLICES, 0.08), (COARSE, 0.25)], ids=str
)
def test_the_length_of_a_bent_tube_goes_round_the_bend(tilt, arc, spacing_mm, tolerance):
    """The chord of the longer arc is 0.7 of it, so that a straight measure would fail; on the coarse grid the
    tube is two voxels wide."""
    mask, expected_mm = bent_tube(bend_mm=7, arc=arc, radius_mm=1.5, spacing_mm=spacing_mm, tilt=tilt)
    (length_mm,) = clot_lengths(mask, spacing_mm)
    assert length_mm == pytest.approx(expected_mm, rel=tolerance)


@pytest.mark.parametrize("radius_mm", [2, 3, 5])
def test_the_length_of_a_ball_is_its_diameter(radius_mm):
    ball = np.linalg.norm(centres_mm(FINE) - EXTENT_MM / 2, axis=-1) <= radius_mm
    assert clot_lengths(ball, FINE) == [pytest.approx(2 * radius_mm, abs=0.1)]


def test_a_side_branch_does_not_count():
    """A T: a bar of 20 mm, and a leg of 8 mm from its middle."""
    mask = cylinder((1, 0, 0), length_mm=20, radius_mm=1, spacing_mm=FINE)
    middle = mask.shape[1] // 2
    mask[35:38, middle : middle + 16, 35:38] = 1
    assert clot_lengths(mask, FINE) == [pytest.approx(20, rel=0.06)]


def test_one_voxel_is_as_long_as_its_longest_side():
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[2, 3, 1] = 1
    (found,) = measure(mask, spacing_mm=(0.5, 0.4, 3.0))
    assert (found.volume_voxels, found.volume_mm3) == (1, pytest.approx(0.6))
    assert found.length_mm == pytest.approx(3.0, abs=0.02)
    assert found.length_voxels == pytest.approx(1.0, abs=0.02)
    assert (found.centroid_row, found.centroid_col, found.centroid_slice) == (2, 3, 1)


@pytest.mark.parametrize("corner", [0, -6])
def test_a_clot_at_the_border_ends_there(corner):
    mask = np.zeros((6, 6, 20), np.uint8)
    mask[corner : corner + 2 or None, corner : corner + 2 or None, :] = 1
    (length_mm,) = clot_lengths(mask, (0.5, 0.5, 1.5))
    assert length_mm == pytest.approx(30, rel=0.01)


def test_two_clots_are_measured_apart_in_the_order_of_their_first_voxel():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[12:14, 2:4, 2:12] = 1
    mask[2:4, 2:4, 2:7] = 1
    first, second = measure(mask, spacing_mm=(1.0, 1.0, 2.0))
    assert [first.clot, second.clot] == [1, 2]
    assert (first.volume_mm3, second.volume_mm3) == (40, 80)
    assert (first.length_mm, second.length_mm) == (pytest.approx(10, abs=0.1), pytest.approx(20, abs=0.1))
    assert (first.centroid_row, second.centroid_row) == (2.5, 12.5)


def test_clots_that_meet_at_a_corner_are_one():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1, 1, 1] = mask[2, 2, 2] = 1
    assert [clot.volume_voxels for clot in measure(mask)] == [2]


def test_an_empty_mask_has_no_clot():
    assert measure(np.zeros((4, 4, 4), np.uint8)) == []


def test_without_a_spacing_the_millimetres_stay_empty_and_voxels_do_not():
    mask = np.zeros((6, 6, 8), np.uint8)
    mask[2:4, 2:4, 1:7] = 1
    (bare,), (full,) = measure(mask, spacing_mm=None), measure(mask)
    assert (bare.volume_voxels, bare.length_voxels) == (24, pytest.approx(6, abs=0.1))
    assert {name for name, value in bare.as_row().items() if "mm" in name and value is not None} == set()
    assert list(bare.as_row()) == list(full.as_row())
    json.dumps(full.as_row(), allow_nan=False)


def test_the_centroid_in_patient_coordinates_follows_the_affine():
    """Rows go to the back (−y), columns to the left (−x), slices upwards, as of a scan stored in LPS."""
    affine = np.array([[0, -0.4, 0, 50], [-0.5, 0, 0, 60], [0, 0, 3, -20], [0, 0, 0, 1]])
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2, 4:6, 3] = 1
    (found,) = measure(mask, affine=affine)
    assert (found.centroid_x_mm, found.centroid_y_mm, found.centroid_z_mm) == (
        pytest.approx(50 - 0.4 * 4.5),
        pytest.approx(60 - 0.5 * 2),
        pytest.approx(-20 + 3 * 3),
    )
    assert measure(mask)[0].centroid_x_mm is None


def test_density_is_that_of_the_clots_own_voxels():
    random = np.random.default_rng(1)
    ncct, cta = random.normal(60, 8, (6, 7, 8)), random.normal(75, 9, (6, 7, 8))
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[1:3, 2:5, 4] = 1
    (found,) = measure(mask, cta_hu=cta, ncct_hu=ncct)
    for name, hu in (("ncct", ncct[mask == 1]), ("cta", cta[mask == 1])):
        facts = found.as_row()
        assert facts[f"{name}_hu_mean"] == pytest.approx(hu.sum() / 6)
        assert facts[f"{name}_hu_sd"] == pytest.approx(math.sqrt(((hu - hu.mean()) ** 2).sum() / 6))
        assert facts[f"{name}_hu_p50"] == pytest.approx(sorted(hu)[2] / 2 + sorted(hu)[3] / 2)
    assert found.tai_hu == pytest.approx(cta[mask == 1].mean() - ncct[mask == 1].mean())


@pytest.mark.parametrize(("gain", "pervious"), [(10.8, False), (10.9, True), (-4.0, False)])
def test_a_clot_that_gains_10_9_hu_from_contrast_is_pervious(gain, pervious):
    mask = np.ones((2, 2, 2), np.uint8)
    ncct = np.zeros(mask.shape)
    (found,) = measure(mask, cta_hu=ncct + gain, ncct_hu=ncct)
    assert found.pervious is pervious


def test_without_one_of_the_volumes_there_is_no_attenuation_increase():
    mask = np.ones((2, 2, 2), np.uint8)
    (found,) = measure(mask, cta_hu=np.full(mask.shape, 80))
    assert (found.cta_hu_mean, found.ncct_hu_mean, found.tai_hu, found.pervious) == (80, None, None, None)


def test_volumes_of_another_shape_are_refused():
    with pytest.raises(DataError, match="NCCT"):
        measure(np.ones((2, 2, 2), np.uint8), ncct_hu=np.zeros((2, 2, 3)))


def head():
    """A head [96, 96], mirrored about its middle column; front and back differ."""
    rows, columns = np.indices((96, 96)) - 47.5
    ncct = np.full((96, 96), -1000.0)
    for radii, hu in (((44, 36), 900.0), ((41, 33), 35.0)):
        ncct[(rows / radii[0]) ** 2 + (columns / radii[1]) ** 2 < 1] = hu
    for side in (-1, 1):
        ncct[((rows + 8) / 12) ** 2 + ((columns - 8 * side) / 4) ** 2 < 1] = 8.0
        ncct[((rows - 22) / 5) ** 2 + ((columns - 14 * side) / 8) ** 2 < 1] = 45.0
    ncct[(rows < -30) & (np.abs(columns) < 3) & (rows > -40)] = 8.0
    return ncct


def scanned(picture, *, tilt=0.0, aside=0.0):
    """Turned, shifted along the columns, and repeated in 16 slices with noise."""
    turned = ndimage.rotate(picture, tilt, reshape=False, order=1, cval=-1000)
    shifted = ndimage.shift(turned, (0, aside), order=1, cval=-1000)
    return shifted[:, :, np.newaxis] + np.random.default_rng(1).normal(0, 4, (96, 96, 16))


def spot(side):
    """A disc of radius 3 in the brain, 20 pixels to one side of the middle column."""
    rows, columns = np.indices((96, 96)) - 47.5
    return (rows - 4) ** 2 + (columns - 20 * side) ** 2 < 9


@pytest.mark.parametrize(("tilt", "aside"), [(0, 0), (8, 0), (-15, 5), (25, -6), (90, 3)])
def test_a_dense_clot_is_compared_with_the_other_side(tilt, aside):
    """Brain opposite has 35 HU, the clot 65, however the head lies."""
    own, other = (scanned(1000.0 * spot(side) - 1000, tilt=tilt, aside=aside) > -400 for side in (1, -1))
    own[:, :, :5] = own[:, :, 9:] = False
    ncct = scanned(head() + 30 * spot(1), tilt=tilt, aside=aside)
    plane = find_midplane(ncct, (1.0, 1.0, 2.0))
    mirrored = plane.mirror(np.argwhere(own)).mean(axis=0)
    assert np.linalg.norm(mirrored[:2] - np.argwhere(other).mean(axis=0)[:2]) < 1
    (found,) = measure(own, ncct_hu=ncct, spacing_mm=(1.0, 1.0, 2.0))
    assert found.ncct_mirrored_hu == pytest.approx(35, abs=1.5)
    assert found.ncct_ratio == pytest.approx(65 / 35, rel=0.08)


def test_the_mid_plane_of_a_real_head_turns_with_it(atlas):
    """The atlas runs from right to left along its rows, 202 of 1 mm."""
    import nibabel

    brain = np.asarray(nibabel.load(atlas).dataobj[:, :, 80:110], np.float32)
    found = []
    for turn in (0, 12, -20):
        turned = ndimage.rotate(brain, turn, reshape=False, order=1, cval=float(brain.min()))
        plane = find_midplane(turned, (1.0, 1.0, 1.0))
        found.append((math.degrees(math.atan2(*plane.normal)), plane.point))
    straight = found[0][0]
    assert abs(abs(straight) - 90) < 4
    for (angle, point), turn in zip(found, (0, 12, -20), strict=True):
        assert abs((angle - straight + turn + 90) % 180 - 90) < 1.5
        assert math.dist(point, (100.5, 100.5)) < 6


def test_pixels_need_not_be_square_nor_their_size_known():
    ncct = scanned(head() + 30 * spot(1))
    mask = np.repeat(spot(1)[..., np.newaxis], 16, axis=2)
    (narrow,) = measure(mask[:, ::2], ncct_hu=ncct[:, ::2], spacing_mm=(0.5, 1.0, 2.0))
    (bare,) = measure(mask, ncct_hu=ncct, spacing_mm=None)
    for found in (narrow, bare):
        assert found.ncct_ratio == pytest.approx(65 / 35, rel=0.08)


def test_a_clot_on_the_mid_plane_has_no_other_side():
    mask = np.zeros((96, 96, 16), np.uint8)
    mask[44:52, 44:52, 6:9] = 1
    (found,) = measure(mask, ncct_hu=scanned(head()))
    assert (found.ncct_mirrored_hu, found.ncct_ratio) == (None, None)
    assert found.ncct_hu_mean is not None


@pytest.mark.parametrize("what", ["noise", "a disc", "nothing"])
def test_where_no_mid_plane_can_be_found_there_is_no_ratio(what):
    random = np.random.default_rng(1)
    rows, columns = np.indices((96, 96)) - 47.5
    ncct = {
        "noise": random.normal(40, 20, (96, 96, 16)),
        "a disc": np.where(np.hypot(rows, columns) < 40, 40.0, -1000.0)[..., np.newaxis]
        + random.normal(0, 4, (96, 96, 16)),
        "nothing": np.zeros((96, 96, 16)),
    }[what]
    mask = np.zeros((96, 96, 16), np.uint8)
    mask[40:44, 60:64, 6:9] = 1
    assert measure(mask, ncct_hu=ncct)[0].ncct_ratio is None


@pytest.mark.slow
def test_phantoms_are_measured_as_they_were_drawn(capsys):
    """The drawn length leaves out the rounded ends: a clot is longer by its width, of 2 to 4 mm."""
    grid = Grid((160, 160, 48))
    longer_mm, with_ratio = [], 0
    for index in range(10):
        case = make_case(5, index, grid, None)
        clots = measure(case.mask, cta_hu=case.cta, ncct_hu=case.ncct, spacing_mm=grid.spacing_mm)
        assert len(clots) == (case.truth.voxels > 0)
        for clot in clots:
            assert clot.volume_voxels == case.truth.voxels
            assert clot.tai_hu == pytest.approx(case.truth.cta_hu - case.truth.ncct_hu, abs=0.02)
            longer_mm.append(clot.length_mm - case.truth.length_mm)
            with_ratio += clot.ncct_ratio is not None
    with capsys.disabled():
        print(
            f"\nlonger than the drawn centre line by {np.round(longer_mm, 1)} mm; {with_ratio} with a ratio"
        )
    assert 1 < min(longer_mm) <= max(longer_mm) < 5
    assert with_ratio >= 5
