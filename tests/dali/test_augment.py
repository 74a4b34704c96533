"""Replaying: each slice gets what its own record says, and what cannot be meant is refused."""

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.dali import replay
from clotseg.dali.augment.parameters import from_records, to_records
from clotseg.errors import ConfigError
from tests.dali.conftest import parameters

Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def slices() -> tuple[Bytes, Bytes]:
    """Random slices and masks."""
    random = np.random.default_rng(4)
    images = random.integers(0, 256, (6, 31, 16, 2), np.uint8)
    return images, random.integers(0, 2, images.shape[:3], np.uint8)


def test_each_slice_of_a_batch_gets_its_own_parameters(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = (np.repeat(part[:1], 3, axis=0) for part in slices)
    records = [parameters(), parameters(hflip=True), parameters(alpha=0.0, beta=9.5)]
    got, _ = replay(images, masks, records)
    np.testing.assert_array_equal(got[0], images[0])
    np.testing.assert_array_equal(got[1], images[1, :, ::-1])
    assert (got[2] == 9).all()


def test_cta_and_ncct_share_their_parameters_and_the_mask_gets_flips_alone(
    slices: tuple[Bytes, Bytes],
) -> None:
    images, masks = slices
    twins = np.repeat(images[..., :1], 2, axis=-1)
    record = parameters(
        hflip=True, alpha=1.1, beta=20.0, gamma=0.9, blur_kernel=[[0.1] * 3] * 3, clahe_clip=2.5
    )
    got_images, got_masks = replay(twins, masks, [record] * len(twins))
    assert (got_images != twins).any()
    np.testing.assert_array_equal(got_images[..., 0], got_images[..., 1])
    np.testing.assert_array_equal(got_masks, masks[:, :, ::-1])


def test_all_off_changes_no_pixel(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = slices
    got_images, got_masks = replay(images, masks, [parameters()] * len(images))
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_masks, masks)


def test_replay_refuses_slices_masks_and_records_that_do_not_pair_up(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = slices
    with pytest.raises(ConfigError, match=r"6 images, 6 masks and 1 records do not pair up"):
        replay(images, masks, [parameters()])


def test_replay_refuses_slices_of_different_channels(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = slices
    with pytest.raises(ConfigError, match="same number of channels"):
        replay([images[0], images[1][..., :1]], [masks[0], masks[1]], [parameters()] * 2)


@pytest.mark.parametrize("shape", [(2, 2), (9, 9), (3, 5)])
def test_replay_refuses_a_kernel_that_is_not_a_small_odd_square(
    slices: tuple[Bytes, Bytes], shape: tuple[int, int]
) -> None:
    images, masks = slices
    record = parameters(blur_kernel=np.ones(shape).tolist())
    with pytest.raises(ConfigError, match=r"blur_kernel: a blur kernel of shape .* cannot be applied"):
        replay(images[:1], masks[:1], [record])


def test_replay_refuses_a_clip_limit_below_0(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = slices
    with pytest.raises(ConfigError, match="a clip limit must be above 0"):
        replay(images[:1], masks[:1], [parameters(clahe_clip=-1.0)])


def test_a_record_survives_the_way_through_the_graph() -> None:
    records = [
        parameters(),
        parameters(hflip=True, alpha=1.125, beta=-2.5, gamma=1.0625),
        parameters(vflip=True, blur_kernel=[[0.0, 0.25, 0.0], [0.25, 0.0, 0.25], [0.0, 0.25, 0.0]]),
        parameters(blur_kernel=np.full((7, 7), 0.5).tolist(), clahe_clip=3.7),
    ]
    assert to_records(from_records(records)) == records
