"""Cohort statistics against published tables, SciPy, and what is known exactly."""

import json
from functools import partial

import numpy as np
import pytest
from scipy import stats

from clotseg.evaluate.agreement import (
    agreement,
    bland_altman,
    bootstrap_interval,
    bootstrap_statistic,
    doubt_and_dice,
    icc_2_1,
    pearson,
    share_interval,
    spearman,
)

SHROUT_FLEISS_1979 = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Their table 2: six targets, four judges."""

WRIGHT_LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
WRIGHT_MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
"""Bland & Altman 1986, first readings of peak flow (l/min) of 17 subjects with two meters."""


@pytest.mark.parametrize(
    ("groups", "expected"),
    [(list("abcdefgh"), "wide"), (["a", "a", "b", "b", "c", "c", "d", "d"], "point")],
    ids=["each case a patient", "patients whose means are alike"],
)
def test_cases_of_one_patient_are_resampled_together(groups, expected):
    """Each patient's mean is 0.5, so resampling patients can give nothing else; resampling cases would."""
    low, high = bootstrap_interval([0.0, 1.0] * 4, groups, samples=500, seed=1)
    assert (low < 0.3 and high > 0.7) if expected == "wide" else (low, high) == (0.5, 0.5)


def test_the_interval_is_the_same_for_the_same_seed_only():
    first, again, other = (
        bootstrap_interval([0.1, 0.4, 0.5, 0.9, 0.95], list("abcde"), samples=200, seed=n) for n in (3, 3, 4)
    )
    assert first == again != other


def test_the_interval_of_two_patients_is_known_exactly():
    """Means of two draws from {0, 1}: 0, 1/2, 1 with odds 1:2:1, so 95 % of them reach from 0 to 1."""
    assert bootstrap_interval([0.0, 1.0], ["a", "b"], samples=4000, seed=1) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], ["a", "b"], samples=4000, seed=1, level=0.4) == (0.5, 0.5)


def test_the_interval_approaches_the_normal_one_in_a_large_cohort():
    values = np.random.default_rng(5).uniform(0, 1, 900)
    low, high = bootstrap_interval(values, [str(n) for n in range(900)], samples=4000, seed=1)
    half = 1.96 * values.std() / 30
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_a_patient_with_many_cases_weighs_by_cases():
    """Drawn means are 1 (a, a), 1/4 (a, b: one case of a, three of b) or 0 (b, b); the middle is 1/4."""
    values, patients = [1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"]
    assert bootstrap_interval(values, patients, samples=4000, seed=1, level=0.4) == (0.25, 0.25)


def test_one_patient_gives_a_degenerate_interval_and_no_case_an_error():
    assert bootstrap_interval([0.2, 0.6], ["a", "a"], samples=50, seed=1) == pytest.approx((0.4, 0.4))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([], [], samples=50, seed=1)


def test_the_published_example_has_its_published_icc():
    assert round(icc_2_1(SHROUT_FLEISS_1979), 2) == 0.29


def test_a_rater_who_always_says_more_is_correlated_but_does_not_agree():
    """By hand, of (1, 3), (2, 4), (3, 5): BMS 2, EMS 0, JMS 6, so 2 / (2 + 2 · 6 / 3) = 1/3."""
    assert icc_2_1([[1, 3], [2, 4], [3, 5]]) == pytest.approx(1 / 3)
    assert pearson([1, 2, 3], [3, 4, 5]) == pytest.approx(1)
    assert icc_2_1([[1, 1], [2, 2], [5, 5]]) == pytest.approx(1)


def test_limits_of_agreement_are_those_bland_and_altman_published():
    """Mean difference −2.1, SD 38.8, limits −79.7 and 75.5 l/min with ± 2 SD; ours are ± 1.96 SD."""
    found = bland_altman(WRIGHT_MINI, WRIGHT_LARGE)
    assert round(found["bias"], 1) == -2.1
    assert round(found["sd"], 1) == 38.8
    assert found["lower"] == pytest.approx(-2.1 - 1.96 * 38.77, abs=0.1)
    assert found["upper"] == pytest.approx(-2.1 + 1.96 * 38.77, abs=0.1)


def test_correlations_are_those_of_scipy_ties_included():
    random = np.random.default_rng(2)
    for _ in range(20):
        a, b = random.integers(0, 6, (2, 15))
        assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_the_interval_of_a_share_is_that_of_wilson():
    """By hand for 0 of 10: (0, z² / (10 + z²)) with z = 1.96; none missed is no proof of none."""
    low, high = share_interval(0, 10)
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(1.959964**2 / (10 + 1.959964**2))
    assert share_interval(0, 0) is None


def test_doubt_that_ranks_cases_from_best_to_worst_foretells_dice():
    doubt, patients = np.linspace(0, 1, 12), [f"p{n}" for n in range(12)]
    found = doubt_and_dice(doubt, 1 - doubt**2, patients, samples=100, seed=1)
    assert found == {"cases": 12, "spearman": pytest.approx(-1), "spearman_ci95": pytest.approx([-1, -1])}


def test_the_interval_of_a_correlation_covers_what_it_should():
    """Of pairs with correlation 0.6, 95 % intervals hold 0.6 in about 95 of 100 cohorts."""
    random, held = np.random.default_rng(3), 0
    for cohort in range(100):
        a, b = random.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        names = [str(n) for n in range(40)]
        low, high = bootstrap_statistic(pearson, a, b, names, samples=60, seed=cohort)
        held += low <= 0.6 <= high
    assert 84 <= held <= 100


@pytest.mark.parametrize("cases", [0, 1, 2, 5])
def test_what_does_not_exist_is_null_and_never_nan(cases):
    """Too few cases to correlate, or predictions that are all alike."""
    patients = [f"p{n}" for n in range(cases)]
    found = agreement([1.0 * n for n in range(cases)], [0.0] * cases, patients, samples=20, seed=1)
    assert found["pearson"] is None
    assert found["cases"] == cases
    json.dumps(found, allow_nan=False)


def test_intervals_by_patient_are_reproducible():
    a, b = np.random.default_rng(1).normal(size=(2, 12))
    of = partial(bootstrap_statistic, spearman, a, b, [f"p{n // 2}" for n in range(12)], samples=50)
    assert of(seed=1) == of(seed=1) != of(seed=2)
