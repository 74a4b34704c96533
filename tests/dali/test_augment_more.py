"""What the original does not have: warps, waves, NCCT that lies a little off, cases that lack a modality."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

from clotseg.config import AugmentConfig
from clotseg.dali import replay
from clotseg.dali.augment.rerun import sample
from tests.dali.conftest import NOTHING, parameters

Bytes = NDArray[np.uint8]
DRAWS = 10_000
EXTRAS = {"warp", "elastic", "ncct_shift", "noise_gaussian", "noise_poisson", "noise_seed", "dropped"}


@pytest.fixture(scope="module")
def slices() -> tuple[Bytes, Bytes]:
    """Smooth slices with one context slice at each side: three channels of CTA, three of NCCT."""
    random = np.random.default_rng(6)
    images = ndimage.gaussian_filter(random.uniform(0, 255, (4, 30, 41, 6)), (0, 2, 2, 0))
    return images.astype(np.uint8), random.integers(0, 2, images.shape[:3], np.uint8)


def test_a_quarter_turn_turns_image_and_mask_exactly() -> None:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (2, 21, 21, 2), np.uint8)
    masks = random.integers(0, 2, (2, 21, 21), np.uint8)
    quarter = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    got, got_masks = replay(images, masks, [parameters(warp=quarter), parameters()])
    # An output point x to the right and y down of the centre comes from y to the right and x up.
    np.testing.assert_array_equal(got[0], np.rot90(images[0], -1))
    np.testing.assert_array_equal(got_masks[0], np.rot90(masks[0], -1))
    np.testing.assert_array_equal(got[1], images[1])


def test_a_warp_is_linear_for_the_image_and_nearest_for_the_mask(slices: tuple[Bytes, Bytes]) -> None:
    images, _ = slices
    blocks = np.kron(np.eye(2, dtype=np.uint8), np.ones((15, 20), np.uint8))
    masks = np.repeat(np.pad(blocks, ((0, 0), (0, 1)))[np.newaxis], len(images), axis=0)
    matrix = np.array([[0.95, -0.12, 1.7], [0.12, 0.95, -2.4]])
    got, got_masks = replay(images, masks, [parameters(warp=matrix.tolist())] * len(images))
    by_rows = matrix[:, [1, 0, 2]][[1, 0]]
    middle = (np.array(images.shape[1:3]) - 1) / 2
    offset = by_rows[:, 2] + middle - by_rows[:, :2] @ middle
    inside = np.s_[6:-6, 6:-6]
    for image, mask, result, result_mask in zip(images, masks, got, got_masks, strict=True):
        for channel in range(image.shape[2]):
            expected = ndimage.affine_transform(
                image[..., channel].astype(float), by_rows[:, :2], offset, order=1
            )
            assert np.abs(result[..., channel][inside] - expected[inside]).max() <= 0.51
        nearest = ndimage.affine_transform(mask, by_rows[:, :2], offset, order=0)
        assert set(np.unique(result_mask)) == {0, 1}
        assert (result_mask[inside] != nearest[inside]).mean() < 0.01


def test_drawn_warps_turn_scale_and_move_within_their_limits() -> None:
    config = AugmentConfig(
        **NOTHING, warp=0.5, rotation_degrees=(-20, 5), scale_limit=(0.8, 1.25), shift_pixels=(-3, 4)
    )
    records = sample(config, count=DRAWS, seed=5)
    warps = np.array([record["warp"] for record in records if "warp" in record])
    assert stats.binomtest(len(warps), DRAWS, 0.5).pvalue > 1e-3
    scale = 1 / np.sqrt(np.linalg.det(warps[:, :, :2]))
    angle = np.degrees(np.arctan2(warps[:, 1, 0], warps[:, 0, 0]))
    for values, (low, high) in (
        (scale, (0.8, 1.25)),
        (angle, (-20, 5)),
        *((v, (-3, 4)) for v in warps[:, :, 2].T),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_waves_bend_image_and_mask_together(slices: tuple[Bytes, Bytes], device: Any) -> None:
    images, _ = slices
    blocks = np.kron(np.array([[1, 0], [0, 1]], np.uint8), np.ones((15, 20), np.uint8))
    masks = np.repeat(np.pad(blocks, ((0, 0), (0, 1)))[np.newaxis], len(images), axis=0)
    drawn = [
        [[3.5, 0.21, 1.0], [2.5, 0.3, 5.0]],
        [[0.0, 0.21, 1.0], [4.0, 0.1, 0.0]],
        [[4.0, 0.05, 3.0], [0.0, 0.0, 0.0]],
    ]
    records = [*(parameters(elastic=waves) for waves in drawn), parameters()]
    got, got_masks = replay(images, masks, records, device=device)
    np.testing.assert_array_equal(got[3], images[3])
    np.testing.assert_array_equal(got_masks[3], masks[3])
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    for place, (right, down) in enumerate(drawn):
        source_row = rows + down[0] * np.sin(down[1] * columns + down[2])
        source_column = columns + right[0] * np.sin(right[1] * source_row + right[2])
        inside = (source_row > 1) & (source_row < rows.max() - 1)
        inside &= (source_column > 1) & (source_column < columns.max() - 1)
        assert inside.mean() > 0.6
        for channel in range(images.shape[3]):
            plane = images[place, ..., channel].astype(float)
            result = got[place, ..., channel]
            at_once = ndimage.map_coordinates(plane, [source_row, source_column], order=1)
            assert np.abs(result - at_once)[inside].max() <= 1.5
            black = {"order": 1, "mode": "grid-constant"}
            over_row = columns + right[0] * np.sin(right[1] * rows + right[2])
            sheared = ndimage.map_coordinates(plane, [rows, over_row], **black)
            expected = ndimage.map_coordinates(sheared, [source_row, columns], **black)
            assert np.abs(result - expected).max() <= 0.51
        nearest = ndimage.map_coordinates(masks[place], [source_row, source_column], order=0)
        assert set(np.unique(got_masks[place])) == {0, 1}
        assert (got_masks[place] != nearest)[inside].mean() < 0.05
        outside = (source_row < -1) | (source_row > rows.max() + 1)
        assert (got[place][outside] == 0).all()
        assert (got_masks[place][outside] == 0).all()


def test_drawn_waves_keep_to_their_limits() -> None:
    config = AugmentConfig(**NOTHING, elastic=0.5, elastic_pixels=3.0, elastic_period_pixels=(20, 50))
    records = sample(config, count=DRAWS, seed=7)
    waves = np.array([record["elastic"] for record in records if "elastic" in record])
    assert stats.binomtest(len(waves), DRAWS, 0.5).pvalue > 1e-3
    for amplitude, frequency, phase in waves.transpose(1, 2, 0):
        assert stats.kstest(amplitude, stats.uniform(0, 3).cdf).pvalue > 1e-3
        assert stats.kstest(2 * np.pi / frequency, stats.uniform(20, 30).cdf).pvalue > 1e-3
        assert stats.kstest(phase, stats.uniform(0, 2 * np.pi).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(waves.reshape(len(waves), 6).T) - np.eye(6)).max() < 0.08


@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (2, 1)])
def test_whole_pixels_move_the_ncct_alone_and_black_comes_in(
    slices: tuple[Bytes, Bytes], shift: tuple[int, int]
) -> None:
    images, masks = slices
    got, got_masks = replay(images, masks, [parameters(ncct_shift=list(map(float, shift)))] * len(images))
    right, down = shift
    expected = np.zeros_like(images[..., 3:])
    rows, columns = images.shape[1:3]
    expected[:, max(down, 0) : rows + min(down, 0), max(right, 0) : columns + min(right, 0)] = images[
        :, max(-down, 0) : rows - max(down, 0), max(-right, 0) : columns - max(right, 0), 3:
    ]
    np.testing.assert_array_equal(got[..., :3], images[..., :3])
    np.testing.assert_array_equal(got[..., 3:], expected)
    np.testing.assert_array_equal(got_masks, masks)


def test_fractions_of_a_pixel_lie_linearly_between_neighbours(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = slices
    right, down = 1.3, -0.6
    got, _ = replay(images, masks, [parameters(ncct_shift=[right, down])] * len(images))
    for image, result in zip(images, got, strict=True):
        expected = ndimage.shift(image[..., 3:].astype(float), (down, right, 0), order=1)
        inside = np.s_[2:-2, 2:-2]
        assert np.abs(result[..., 3:][inside] - expected[inside]).max() <= 0.51


@pytest.mark.parametrize(
    ("dropped", "lost", "kept"), [("CTA", np.s_[:3], np.s_[3:]), ("NCCT", np.s_[3:], np.s_[:3])]
)
def test_a_dropped_modality_is_black_in_all_its_channels_and_the_other_is_whole(
    slices: tuple[Bytes, Bytes], dropped: str, lost: slice, kept: slice
) -> None:
    images, masks = slices
    records = [parameters(dropped=dropped), parameters(), parameters(), parameters(dropped=dropped)]
    got, got_masks = replay(images, masks, records)
    np.testing.assert_array_equal(got[1:3], images[1:3])
    np.testing.assert_array_equal(got[::3, ..., kept], images[::3, ..., kept])
    assert (got[::3, ..., lost] == 0).all()
    np.testing.assert_array_equal(got_masks, masks)


def test_they_come_up_as_often_and_as_much_as_the_settings_say() -> None:
    config = AugmentConfig(
        **{**NOTHING, "probability": 0.8}, misregistration=0.5, misregistration_pixels=1.5, drop_modality=0.25
    )
    records = sample(config, count=DRAWS, seed=3)
    shifts = np.array([record["ncct_shift"] for record in records if "ncct_shift" in record])
    assert stats.binomtest(len(shifts), DRAWS, 0.4).pvalue > 1e-3
    for direction in shifts.T:
        assert stats.kstest(direction, stats.uniform(-1.5, 3).cdf).pvalue > 1e-3
    dropped = [record["dropped"] for record in records if "dropped" in record]
    assert stats.binomtest(len(dropped), DRAWS, 0.2).pvalue > 1e-3
    assert stats.binomtest(dropped.count("CTA"), len(dropped), 0.5).pvalue > 1e-3


def test_by_default_none_of_them_comes_up() -> None:
    for record in sample(AugmentConfig(probability=1.0), count=500, seed=3):
        assert record.keys().isdisjoint(EXTRAS)
