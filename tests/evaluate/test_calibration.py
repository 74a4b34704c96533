"""Calibration against SciPy on every voxel, and against reliability bins counted by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, logit

from clotseg.evaluate.calibration import LogOddsCounts, calibrate, fit_temperature, no_counts, temper


def counted(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> LogOddsCounts:
    counts = no_counts()
    for part in np.array_split(np.arange(probability.size), 3):
        counts.add(probability[part], truth[part])
    return counts


def voxels(overconfidence: float, count: int = 60_000) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Voxels whose log-odds are `overconfidence` times those that would be right."""
    random = np.random.default_rng(3)
    odds = random.normal(-1.5, 2.0, count)
    truth = random.random(count) < expit(odds)
    return expit(overconfidence * odds).astype(np.float32), truth


@pytest.mark.parametrize("overconfidence", [0.4, 1.0, 2.5])
def test_the_temperature_is_the_one_that_scipy_finds_on_every_voxel(overconfidence: float) -> None:
    probability, truth = voxels(overconfidence)
    odds = logit(probability.astype(np.float64))

    def loss(temperature: float) -> float:
        return -float(np.mean(np.where(truth, log_expit(odds / temperature), log_expit(-odds / temperature))))

    expected = float(minimize_scalar(loss, bracket=(0.2, 3.0)).x)
    assert expected == pytest.approx(overconfidence, rel=0.05), "or these voxels do not show what they should"
    assert fit_temperature(counted(probability, truth)) == pytest.approx(expected, rel=2e-3)


def test_calibrated_probabilities_come_true() -> None:
    probability, truth = voxels(2.5)
    calibration = calibrate(counted(probability, truth))
    assert calibration.ece_after < 0.2 * calibration.ece_before
    after = temper(probability, calibration.temperature)
    for low in (0.2, 0.5, 0.8):
        near = (after > low) & (after < low + 0.1)
        assert truth[near].mean() == pytest.approx(after[near].mean(), abs=0.03)


def test_reliability_is_as_counted_by_hand() -> None:
    """Four voxels near 0.12, of which one is clot, and six near 0.87, of which all are."""
    probability = np.float32([0.12] * 4 + [0.87] * 6)
    truth = np.array([True, False, False, False] + [True] * 6)
    calibration = calibrate(counted(probability, truth))
    (low, high) = calibration.bins_before
    assert low == (pytest.approx(0.12, abs=0.002), 0.25, 4)
    assert high == (pytest.approx(0.87, abs=0.002), 1.0, 6)
    assert calibration.ece_before == pytest.approx(0.4 * 0.13 + 0.6 * 0.13, abs=0.002)


def test_tempering_divides_log_odds_and_keeps_the_order() -> None:
    probability = np.float32([0.0, 1e-6, 0.2, 0.5, 0.9, 1.0])
    tempered = temper(probability, 2.0)
    np.testing.assert_allclose(tempered[1:5], expit(logit(probability[1:5].astype(float)) / 2), rtol=1e-5)
    assert (np.diff(tempered) > 0).all()
    assert tempered[3] == 0.5
    assert 0 <= tempered[0] < 1e-3
    assert 1 - 1e-3 < tempered[-1] <= 1
    np.testing.assert_array_equal(temper(probability, 1.0), probability)


@pytest.mark.parametrize("clot", [True, False])
def test_one_kind_of_voxel_alone_teaches_no_temperature(clot: bool) -> None:
    probability = np.linspace(0.1, 0.9, 20, dtype=np.float32)
    assert fit_temperature(counted(probability, np.full(20, clot))) == 1.0


def test_voxels_that_the_network_is_wholly_sure_of_are_counted() -> None:
    counts = counted(np.float32([0.0, 1.0, 1.0]), np.array([False, True, True]))
    assert (counts.clot.sum(), counts.other.sum()) == (2, 1)
    assert np.isfinite(calibrate(counts).ece_after)
