"""What the original does not have: NCCT that lies a little off, and cases that lack a modality."""

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


@pytest.fixture(scope="module")
def slices() -> tuple[Bytes, Bytes]:
    """Smooth slices with one context slice at each side: three channels of CTA, three of NCCT."""
    random = np.random.default_rng(6)
    images = ndimage.gaussian_filter(random.uniform(0, 255, (4, 30, 41, 6)), (0, 2, 2, 0))
    return images.astype(np.uint8), random.integers(0, 2, images.shape[:3], np.uint8)


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


def test_by_default_neither_comes_up() -> None:
    for record in sample(AugmentConfig(probability=1.0), count=500, seed=3):
        assert "ncct_shift" not in record
        assert "dropped" not in record
