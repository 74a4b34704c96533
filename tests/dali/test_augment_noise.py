"""Noise: as strong as the settings say, without a pattern, and the same again from a record."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from clotseg.config import AugmentConfig
from clotseg.dali import replay
from clotseg.dali.augment.parameters import ParameterRecord
from clotseg.dali.augment.rerun import sample
from tests.dali.conftest import NOTHING, parameters

SHAPE = (120, 131, 2)


def noise_on(
    grey: int, records: list[ParameterRecord], device: str = "cpu", shape: tuple[int, int, int] = SHAPE
) -> NDArray[np.float64]:
    """What is added to flat slices, [N, H, W, C]; fails where a mask is touched."""
    images = np.full((len(records), *shape), grey, np.uint8)
    masks = np.random.default_rng(1).integers(0, 2, images.shape[:3], np.uint8)
    got, got_masks = replay(images, masks, records, device=device)
    np.testing.assert_array_equal(got_masks, masks)
    return got.astype(float) - grey


def assert_moments(values: NDArray[np.float64], variance: float) -> None:
    """Mean 0 and this variance, to 4 standard errors; rounding adds 1/12."""
    expected = variance + 1 / 12
    assert abs(values.mean()) < 4 * np.sqrt(expected / values.size)
    assert abs(values.var() / expected - 1) < 4 * np.sqrt(2 / values.size)


@pytest.mark.parametrize("grey", [60, 128, 190])
def test_gaussian_noise_has_the_standard_deviation_asked_for_at_any_grey(grey: int, device: Any) -> None:
    records = [parameters(noise_gaussian=sd, noise_seed=seed) for seed, sd in enumerate((0.5, 3.0, 11.0))]
    for noise, sd in zip(noise_on(grey, records, device), (0.5, 3.0, 11.0), strict=True):
        assert_moments(noise, sd**2)


def test_gaussian_noise_is_normal() -> None:
    values = noise_on(128, [parameters(noise_gaussian=9.0, noise_seed=5)]).ravel()
    levels = np.arange(-25, 26)
    edges = np.concatenate([[-np.inf], levels - 0.5, [25.5, np.inf]])
    expected = np.diff(stats.norm(0, 9.0).cdf(edges)) * values.size
    assert stats.chisquare(np.histogram(values, edges)[0], expected).pvalue > 1e-3


@pytest.mark.parametrize("factor", [0.3, 2.0])
def test_poisson_noise_has_a_variance_that_grows_with_the_grey_level(factor: float, device: Any) -> None:
    for grey in (40, 90, 180):
        noise = noise_on(grey, [parameters(noise_poisson=factor, noise_seed=grey)], device)
        assert_moments(noise, factor * grey)
    assert (noise_on(0, [parameters(noise_poisson=factor, noise_seed=1)], device) == 0).all()


def test_poisson_noise_is_close_to_events_that_are_counted() -> None:
    factor, grey = 2.0, 100
    values = noise_on(grey, [parameters(noise_poisson=factor, noise_seed=8)]).ravel()
    counted = stats.poisson(grey / factor)
    for level in (80, 90, 100, 110, 120):
        below = counted.cdf(level / factor - 1) + counted.pmf(level / factor) / 2
        ours = (values < level - grey).mean() + (values == level - grey).mean() / 2
        assert ours == pytest.approx(below, abs=0.02)


def test_both_together_add_their_variances() -> None:
    record = parameters(noise_gaussian=4.0, noise_poisson=0.5, noise_seed=2)
    assert_moments(noise_on(100, [record]), 16 + 50)


def test_neighbours_channels_and_samples_have_nothing_in_common() -> None:
    records = [parameters(noise_gaussian=10.0, noise_seed=seed) for seed in (0, 1, 2, 2**20, 2**24)]
    noise = noise_on(128, records)
    pairs = [
        *((noise[:, distance:], noise[:, :-distance]) for distance in (1, 2, 8, 64)),
        *((noise[:, :, distance:], noise[:, :, :-distance]) for distance in (1, 2, 8, 64)),
        (noise[..., 0], noise[..., 1]),
        *((noise[place], noise[place - 1]) for place in range(len(records))),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)


def test_a_seed_makes_the_same_noise_in_any_batch_and_beside_any_slice() -> None:
    record = parameters(noise_gaussian=5.0, noise_poisson=0.2, noise_seed=77)
    other = parameters(noise_gaussian=5.0, noise_poisson=0.2, noise_seed=78)
    alone = noise_on(90, [record])[0]
    assert (noise_on(90, [other])[0] != alone).mean() > 0.8
    small, large = np.full((20, 30, 2), 90, np.uint8), np.full((200, 140, 2), 90, np.uint8)
    images = [large, small]
    (_, got), _ = replay(images, [np.zeros(image.shape[:2], np.uint8) for image in images], [other, record])
    np.testing.assert_array_equal(got - 90.0, alone[:20, :30])


def test_noise_is_cut_at_black_and_white() -> None:
    record = parameters(noise_gaussian=8.0, noise_seed=3)
    for grey, sign in ((0, 1), (255, -1)):
        noise = sign * noise_on(grey, [record])
        assert noise.min() == 0
        assert (noise == 0).mean() == pytest.approx(stats.norm.cdf(0.5 / 8), abs=0.02)


def test_a_modality_that_is_dropped_stays_black() -> None:
    noise = noise_on(90, [parameters(noise_gaussian=8.0, noise_seed=3, dropped="NCCT")])
    assert (noise[..., 1] == -90).all()
    assert noise[..., 0].std() > 7


def test_noise_comes_up_as_often_and_as_much_as_the_settings_say() -> None:
    config = AugmentConfig(
        **{**NOTHING, "probability": 0.8},
        noise_gaussian=0.5,
        noise_gaussian_sd=(2, 6),
        noise_poisson=0.25,
        noise_poisson_factor=(0.5, 0.75),
    )
    records = sample(config, count=10_000, seed=4)
    for name, share, (low, high) in (("noise_gaussian", 0.4, (2, 6)), ("noise_poisson", 0.2, (0.5, 0.75))):
        amounts = [record[name] for record in records if name in record]  # type: ignore[literal-required]
        assert stats.binomtest(len(amounts), len(records), share).pvalue > 1e-3
        assert stats.kstest(amounts, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    seeds = [record["noise_seed"] for record in records if "noise_seed" in record]
    assert len(set(seeds)) > 0.99 * len(seeds)
    assert all(
        ("noise_seed" in record) == bool(record.keys() & {"noise_gaussian", "noise_poisson"})
        for record in records
    )
