"""Augmentation: the same pixels as albumentations, and each transform as often as the settings say."""

from collections.abc import Callable
from typing import Any

import albumentations
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from nvidia.dali import pipeline_def
from scipy import stats

from clotseg.config import AugmentConfig
from clotseg.dali.augment import ParameterRecord, draw, replay
from clotseg.errors import ConfigError

Bytes = NDArray[np.uint8]
DRAWS = 4000


def parameters(**changed: Any) -> ParameterRecord:
    """Nothing on but what is named; amounts in single precision, as the graph has them."""
    off = {"hflip": False, "vflip": False, "alpha": 1.0, "beta": 0.0, "gamma": 1.0}
    return ParameterRecord(**{**off, **changed})  # type: ignore[typeddict-item]


def by_albumentations(
    image: Bytes, mask: Bytes, *, contrast: float = 0, brightness: float = 0, record: ParameterRecord
) -> tuple[Bytes, Bytes]:
    """The same parameters through albumentations: its limits are closed on each drawn value."""
    transforms: list[Any] = []
    if record["hflip"]:
        transforms.append(albumentations.HorizontalFlip(p=1))
    if record["vflip"]:
        transforms.append(albumentations.VerticalFlip(p=1))
    if contrast or brightness:
        limits = {"brightness_limit": (brightness,) * 2, "contrast_limit": (contrast,) * 2}
        transforms.append(albumentations.RandomBrightnessContrast(**limits, p=1))
    if record["gamma"] != 1:
        transforms.append(albumentations.RandomGamma(gamma_limit=(100 * record["gamma"],) * 2, p=1))
    changed = albumentations.Compose(transforms)(image=image, mask=mask)
    return changed["image"], changed["mask"]


@pytest.fixture(scope="module")
def slices() -> tuple[Bytes, Bytes]:
    """Random slices that hold every grey level, flat ones, saturated ones, and random masks."""
    random = np.random.default_rng(4)
    every_level = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(2, axis=0)[:31]
    images = np.stack(
        [
            random.integers(0, 256, (31, 16, 2), np.uint8),
            np.stack([every_level, every_level[::-1]], axis=-1),
            np.full((31, 16, 2), 97, np.uint8),
            np.zeros((31, 16, 2), np.uint8),
            np.full((31, 16, 2), 255, np.uint8),
            random.choice(np.array([0, 255], np.uint8), (31, 16, 2)),
        ]
    )
    return images, random.integers(0, 2, images.shape[:3], np.uint8)


def assert_as_albumentations(
    slices: tuple[Bytes, Bytes], *, contrast: float = 0, brightness: float = 0, **changed: Any
) -> None:
    images, masks = slices
    record = parameters(alpha=1 + contrast, beta=255 * brightness, **changed)
    got_images, got_masks = replay(images, masks, [record] * len(images))
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        expected = by_albumentations(image, mask, contrast=contrast, brightness=brightness, record=record)
        np.testing.assert_array_equal(got_images[number], expected[0], err_msg=f"slice {number}")
        np.testing.assert_array_equal(got_masks[number], expected[1], err_msg=f"mask {number}")


@pytest.mark.parametrize(("hflip", "vflip"), [(True, False), (False, True), (True, True)])
def test_flips_are_those_of_albumentations(slices: tuple[Bytes, Bytes], hflip: bool, vflip: bool) -> None:
    assert_as_albumentations(slices, hflip=hflip, vflip=vflip)
    images, masks = slices
    mirrored = [axis for axis, on in ((1, vflip), (2, hflip)) if on]
    got = replay(images, masks, [parameters(hflip=hflip, vflip=vflip)] * len(images))
    np.testing.assert_array_equal(got[0], np.flip(images, mirrored))
    np.testing.assert_array_equal(got[1], np.flip(masks, mirrored))


amounts = st.floats(-0.2, 0.2)
gammas = st.floats(0.8, 1.2).map(lambda gamma: float(np.float32(gamma)))


@settings(max_examples=40, deadline=None)
@given(contrast=amounts, brightness=amounts)
def test_brightness_and_contrast_are_those_of_albumentations_on_every_pixel(
    slices: tuple[Bytes, Bytes], contrast: float, brightness: float
) -> None:
    assert_as_albumentations(slices, contrast=contrast, brightness=brightness)


@settings(max_examples=40, deadline=None)
@example(gamma=0.8629869818687439)  # Puts level 207 at 212.999994: single precision makes it 213.
@example(gamma=1.0000134706497192)  # Puts level 254 at 253.999987.
@given(gamma=gammas.filter(lambda gamma: gamma != 1))
def test_gamma_is_that_of_albumentations_on_every_pixel(slices: tuple[Bytes, Bytes], gamma: float) -> None:
    assert_as_albumentations(slices, gamma=gamma)


@settings(max_examples=40, deadline=None)
@given(
    hflip=st.booleans(),
    vflip=st.booleans(),
    contrast=amounts,
    brightness=amounts,
    gamma=gammas,
)
def test_all_together_come_in_the_order_of_albumentations(
    slices: tuple[Bytes, Bytes], hflip: bool, vflip: bool, contrast: float, brightness: float, gamma: float
) -> None:
    assert_as_albumentations(
        slices, hflip=hflip, vflip=vflip, contrast=contrast, brightness=brightness, gamma=gamma
    )


def test_each_slice_of_a_batch_gets_its_own_parameters(slices: tuple[Bytes, Bytes]) -> None:
    images, masks = (np.repeat(part[:1], 3, axis=0) for part in slices)
    records = [parameters(), parameters(hflip=True), parameters(gamma=0.875)]
    got, _ = replay(images, masks, records)
    np.testing.assert_array_equal(got[0], images[0])
    np.testing.assert_array_equal(got[1], images[1, :, ::-1])
    np.testing.assert_array_equal(got[2], by_albumentations(images[2], masks[2], record=records[2])[0])


def test_cta_and_ncct_share_their_parameters_and_the_mask_gets_flips_alone(
    slices: tuple[Bytes, Bytes],
) -> None:
    images, masks = slices
    twins = np.repeat(images[..., :1], 2, axis=-1)
    record = parameters(hflip=True, alpha=1.1, beta=20.0, gamma=0.9)
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


def drawn(config: AugmentConfig, seed: int = 11) -> dict[str, NDArray[np.float64]]:
    """Parameters of many slices, as the training pipeline draws them."""

    @pipeline_def(batch_size=DRAWS, num_threads=1, device_id=None, seed=seed, enable_conditionals=True)
    def pipeline() -> tuple[Any, ...]:
        parameters = draw(config)
        return parameters.hflip, parameters.vflip, parameters.alpha, parameters.beta, parameters.gamma

    built = pipeline()
    built.build()
    names = ("hflip", "vflip", "alpha", "beta", "gamma")
    return {
        name: np.asarray(batch.as_array(), np.float64) for name, batch in zip(names, built.run(), strict=True)
    }


SWITCHES: dict[str, Callable[[dict[str, NDArray[np.float64]]], NDArray[np.bool_]]] = {
    "horizontal_flip": lambda values: values["hflip"] == 1,
    "vertical_flip": lambda values: values["vflip"] == 1,
    "brightness_contrast": lambda values: (values["alpha"] != 1) & (values["beta"] != 0),
    "gamma": lambda values: values["gamma"] != 1,
}


def assert_as_often(on: NDArray[np.bool_], probability: float) -> None:
    """Would a fair coin of this probability come up like that? A false alarm comes once in 10 000."""
    assert stats.binomtest(int(on.sum()), len(on), probability).pvalue > 1e-4


@pytest.mark.parametrize("seed", [1, 2])
def test_each_transform_comes_up_as_often_as_the_settings_say(seed: int) -> None:
    chances = {"horizontal_flip": 0.5, "vertical_flip": 0.3, "brightness_contrast": 0.7, "gamma": 0.2}
    values = drawn(AugmentConfig(probability=0.8, **chances), seed)
    for name, chance in chances.items():
        assert_as_often(SWITCHES[name](values), 0.8 * chance)


def test_a_slice_is_augmented_at_all_with_the_overall_probability() -> None:
    always = dict.fromkeys(SWITCHES, 1.0)
    values = drawn(AugmentConfig(probability=0.6, **always))
    on = np.stack([switch(values) for switch in SWITCHES.values()])
    assert_as_often(on[0], 0.6)
    assert (on == on[0]).all(), "with every transform certain, a slice gets all of them or none"


def test_transforms_are_drawn_independently_of_each_other() -> None:
    values = drawn(AugmentConfig(probability=1.0))
    on = [switch(values) for switch in SWITCHES.values()]
    for first in range(4):
        for second in range(first):
            assert_as_often(on[first] & on[second], 0.25)
    contrast, brightness = values["alpha"][on[2]], values["beta"][on[2]]
    assert abs(stats.pearsonr(contrast, brightness).statistic) < 0.1


def test_amounts_are_uniform_within_their_limits() -> None:
    config = AugmentConfig(
        probability=1.0,
        brightness_contrast=1.0,
        brightness_limit=(-0.1, 0.3),
        contrast_limit=(0.05, 0.15),
        gamma=1.0,
        gamma_limit=(0.7, 0.9),
    )
    values = drawn(config)
    for name, low, high in (("alpha", 1.05, 1.15), ("beta", -25.5, 76.5), ("gamma", 0.7, 0.9)):
        assert stats.kstest(values[name], stats.uniform(low, high - low).cdf).pvalue > 1e-4, name


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(probability=0.0),
        AugmentConfig(
            probability=1.0, horizontal_flip=0.0, vertical_flip=0.0, brightness_contrast=0.0, gamma=0.0
        ),
    ],
    ids=["never at all", "no transform"],
)
def test_with_probability_0_every_parameter_is_off(config: AugmentConfig) -> None:
    values = drawn(config)
    for name, off in (("hflip", 0), ("vflip", 0), ("alpha", 1), ("beta", 0), ("gamma", 1)):
        assert (values[name] == off).all(), name
