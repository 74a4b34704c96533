"""Drawing: each transform as often, and as much of it, as the settings and albumentations 2.0.8 say."""

from collections import Counter
from itertools import combinations, product
from math import comb
from typing import Any

import albumentations
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from clotseg.config import AugmentConfig
from clotseg.dali.augment.draws import CHUNK, EpochDraws, stream_seed
from clotseg.dali.augment.sampler import draw_many
from tests.dali.conftest import NOTHING

pytestmark = pytest.mark.slow

DRAWS = 10_000
FALSE_ALARM = 1e-3
"""How seldom a fair draw may fail a test; the seeds are fixed, so a test that passes once passes always."""

Drawn = dict[str, NDArray[np.float64]]


def drawn(config: AugmentConfig, *, seed: int = 11, threads: int = 1, count: int = DRAWS) -> Drawn:
    """Parameters of many slices, as they are drawn for training."""
    columns = draw_many(config, count=count, seed=seed, threads=threads)
    return {name: np.asarray(values, np.float64) for name, values in columns.items()}


def switched(values: Drawn) -> NDArray[np.bool_]:
    """Which of the six transforms are on, bool [6, slices], in the order they are applied."""
    return np.stack(
        [
            values["hflip"] == 1,
            values["vflip"] == 1,
            (values["alpha"] != 1) & (values["beta"] != 0),
            values["gamma"] != 1,
            values["blur"] == 1,
            values["clahe_clip"] != 0,
        ]
    )


@pytest.fixture(scope="module")
def by_key() -> Drawn:
    """Draws of the original's key, every slice augmented."""
    return drawn(AugmentConfig(probability=1.0))


@pytest.fixture(scope="module")
def all_on() -> Drawn:
    """Every transform on for every slice."""
    return drawn(AugmentConfig(**{name: 1.0 if value == 0.0 else value for name, value in NOTHING.items()}))


def assert_as_often(on: NDArray[np.bool_], probability: float) -> None:
    """Would a coin of this probability come up like that?"""
    assert stats.binomtest(int(on.sum()), len(on), probability).pvalue > FALSE_ALARM


def key_probabilities() -> dict[tuple[int, ...], float]:
    """How likely each combination of six switches is, counted out: all 8! orders of k zeros are even odds."""
    chances: Counter[tuple[int, ...]] = Counter()
    for zeros in range(8):
        for key in product((0, 1), repeat=8):
            if key.count(0) == zeros:
                chances[tuple(key[slot] for slot in (0, 1, 2, 5, 6, 7))] += 1 / 8 / comb(8, zeros)
    return chances


def test_the_key_switches_all_six_jointly_as_the_original_does(by_key: Drawn) -> None:
    expected = key_probabilities()
    seen = Counter(map(tuple, switched(by_key).T.astype(int).tolist()))
    assert set(seen) <= set(expected)
    counts = [seen[combination] for combination in expected]
    assert stats.chisquare(counts, [DRAWS * chance for chance in expected.values()]).pvalue > FALSE_ALARM


def test_the_key_switches_each_transform_with_probability_0_5625(by_key: Drawn) -> None:
    for on in switched(by_key):
        assert_as_often(on, 0.5625)


@pytest.mark.parametrize("selection", ["key8", "independent"])
def test_a_slice_is_augmented_at_all_with_the_overall_probability(selection: Any) -> None:
    certain = {**NOTHING, "selection": "independent"}
    config = AugmentConfig(**{name: 1.0 if value == 0.0 else value for name, value in certain.items()})
    assert switched(drawn(config, count=100)).all()
    values = drawn(AugmentConfig(probability=0.6, selection=selection))
    none_on = {"key8": key_probabilities()[(0,) * 6], "independent": 0.5**6}[selection]
    assert_as_often(switched(values).any(axis=0), 0.6 * (1 - none_on))


def test_independent_transforms_come_up_as_often_as_the_settings_say_and_apart() -> None:
    names = ("horizontal_flip", "vertical_flip", "brightness_contrast", "gamma", "blur", "clahe")
    chances = dict(zip(names, (0.5, 0.3, 0.7, 0.2, 0.4, 0.6), strict=True))
    on = switched(drawn(AugmentConfig(**{**NOTHING, "probability": 1.0, **chances})))
    for first, chance in enumerate(chances.values()):
        assert_as_often(on[first], chance)
        for second, other in list(enumerate(chances.values()))[:first]:
            assert_as_often(on[first] & on[second], chance * other)


@pytest.mark.parametrize("config", [{"probability": 0.0}, NOTHING], ids=["never at all", "no transform"])
def test_with_probability_0_every_parameter_is_off(config: dict[str, Any]) -> None:
    values = drawn(AugmentConfig(**config), count=500)
    off = {"hflip": 0, "vflip": 0, "levels": 0, "alpha": 1, "beta": 0, "gamma": 1, "blur": 0, "clahe_clip": 0}
    for name, neutral in off.items():
        assert (values[name] == neutral).all(), name


def by_albumentations(transform: Any) -> list[dict[str, Any]]:
    transform.set_random_seed(3)
    return [
        transform.get_params()
        | transform.get_params_dependent_on_data({}, {"image": np.zeros((1, 1), np.uint8)})
        for _ in range(DRAWS)
    ]


def assert_same_distribution(ours: Any, theirs: Any) -> None:
    """Two-sample Kolmogorov-Smirnov."""
    assert stats.ks_2samp(np.ravel(ours), np.ravel(theirs)).pvalue > FALSE_ALARM


def test_brightness_contrast_gamma_and_clip_limit_are_distributed_as_in_albumentations(all_on: Drawn) -> None:
    levels = by_albumentations(albumentations.RandomBrightnessContrast(p=1))
    assert_same_distribution(all_on["alpha"], [params["alpha"] for params in levels])
    assert_same_distribution(all_on["beta"], [params["beta"] for params in levels])
    gammas = by_albumentations(albumentations.RandomGamma(p=1))
    assert_same_distribution(all_on["gamma"], [params["gamma"] for params in gammas])
    clips = by_albumentations(albumentations.CLAHE(p=1))
    assert_same_distribution(all_on["clahe_clip"], [params["clip_limit"] for params in clips])
    assert abs(stats.pearsonr(all_on["alpha"], all_on["beta"]).statistic) < 0.05


def moments(kernel: NDArray[np.float64]) -> dict[str, float]:
    """What a kernel does: where its weight lies, how wide, how peaked, how slanted."""
    side = len(kernel)
    axis = np.arange(side) - side // 2
    across, down = np.meshgrid(axis, axis)
    return {
        "centre": kernel[side // 2, side // 2],
        "width": float((kernel * across**2).sum()),
        "height": float((kernel * down**2).sum()),
        "slant": float((kernel * across * down).sum()),
        "shift": float((kernel * across).sum()),
        "corner": float(kernel[side // 2 - 1, side // 2 + 1]),
    }


def test_blur_kernels_are_distributed_as_those_of_albumentations(all_on: Drawn) -> None:
    theirs = [moments(params["kernel"]) for params in by_albumentations(albumentations.AdvancedBlur(p=1))]
    ours = [moments(kernel) for kernel in all_on["kernel"]]
    for name in ours[0]:
        # Many kernels are all centre but for less than single precision tells from nothing.
        shown = [np.round([kernel[name] for kernel in kernels], 5) + 0.0 for kernels in (ours, theirs)]
        assert_same_distribution(*shown)


def test_a_blur_kernel_has_weight_1_and_3_5_or_7_cells_a_side_with_even_odds(all_on: Drawn) -> None:
    """Each size comes with its own spread of weight, so sizes are told by wide, flat kernels alone."""
    kernels = all_on["kernel"]
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert (kernels >= 0).all()
    # A kernel with this much beside its centre has some, however little, in every cell of its size.
    wide = kernels[kernels[:, 3, 3] < 0.25]
    sides = Counter(int((kernel[3] > 0).sum()) for kernel in wide)
    assert set(sides) == {3, 5, 7}
    theirs = [params["kernel"] for params in by_albumentations(albumentations.AdvancedBlur(p=1))]
    wide_theirs = [kernel for kernel in theirs if kernel[len(kernel) // 2, len(kernel) // 2] < 0.25]
    expected = Counter(int((kernel[len(kernel) // 2].astype(np.float32) > 0).sum()) for kernel in wide_theirs)
    table = [[counts[side] for side in (3, 5, 7)] for counts in (sides, expected)]
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def test_the_same_seed_draws_the_same_for_any_number_of_threads_and_another_seed_otherwise() -> None:
    config = AugmentConfig()
    first = drawn(config, seed=7, count=300)
    for name, values in drawn(config, seed=7, threads=3, count=300).items():
        np.testing.assert_array_equal(values, first[name], err_msg=name)
    other = drawn(config, seed=8, count=300)
    assert (switched(other) != switched(first)).any(axis=0).mean() > 0.5
    assert not np.intersect1d(other["gamma"][other["gamma"] != 1], first["gamma"]).size


def test_no_two_chunks_or_epochs_of_any_run_share_a_stream() -> None:
    for seed in (0, 1, 2**31 - 1):
        seeds = {stream_seed(seed, epoch, chunk) for epoch in range(1, 65) for chunk in range(1000)}
        assert len(seeds) == 64_000
        assert 0 <= min(seeds) <= max(seeds) < 2**31, "DALI heeds no more bits than these"


def test_an_epoch_of_many_million_samples_shares_no_stream_with_the_next_ones() -> None:
    seeds = [stream_seed(1, epoch, chunk) for epoch in range(1, 9) for chunk in range(20_000)]
    assert len(set(seeds)) == len(seeds)


def gammas(draws: EpochDraws, first: int, count: int) -> NDArray[np.float64]:
    """Of the positions from `first` on; no two are alike."""
    values: NDArray[np.float64] = draws.columns(first, count)["gamma"]
    return values


def epoch_of_gammas(*, seed: int = 1, epoch: int = 1) -> EpochDraws:
    """The draws of an epoch in which every slice gets a gamma."""
    config = AugmentConfig(**{**NOTHING, "gamma": 1.0})
    return EpochDraws(config, seed=seed, epoch=epoch, spread=0)


def test_no_two_positions_epochs_or_runs_draw_the_same() -> None:
    parts = [
        gammas(epoch_of_gammas(seed=seed, epoch=epoch), chunk * CHUNK, 300)
        for seed, epoch, chunk in ((1, 1, 0), (1, 1, 1), (1, 2, 0), (2, 1, 0))
    ]
    assert all(len(np.unique(part)) == 300 for part in parts)
    for one, other in combinations(parts, 2):
        # Single precision has some 3 million numbers from 0.8 to 1.2, so a few meet by chance.
        assert len(np.intersect1d(one, other)) < 3


def test_positions_draw_the_same_in_whatever_order_and_stretches_they_are_asked_for() -> None:
    together = gammas(epoch_of_gammas(), 0, 3 * CHUNK + 10)
    draws = epoch_of_gammas()
    for first, count in ((2 * CHUNK - 5, 10), (3 * CHUNK, 10), (7, 1), (0, CHUNK), (CHUNK - 1, CHUNK + 2)):
        np.testing.assert_array_equal(gammas(draws, first, count), together[first : first + count])


def test_a_position_far_into_an_epoch_of_two_million_draws_no_more_than_its_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = []

    def counted(config: AugmentConfig, *, count: int, seed: int) -> Drawn:
        counts.append(count)
        return draw_many(config, count=count, seed=seed)

    monkeypatch.setattr("clotseg.dali.augment.sampler.draw_many", counted)
    assert len(np.unique(gammas(epoch_of_gammas(), 1_900_000, 10))) == 10
    assert counts == [CHUNK]
