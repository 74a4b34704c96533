"""Calibration: probabilities of validation voxels and their truth in; a temperature and reliability out.

A network is calibrated where of the voxels it calls clot with 0.7, seven in ten are clot. One number, the
temperature, divides every log-odds (Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2):
above 1 it takes confidence back, below 1 it adds some, and the order of voxels never changes. Voxels are
counted by their log-odds, so memory does not grow with the cohort.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]

HIGHEST_LOG_ODDS, STEP = 16.0, 0.02
"""Float32 tells no probability nearer to 0 or 1 than these log-odds from its neighbour."""
TEMPERATURES = (0.1, 10.0)
RELIABILITY_BINS = 10

ReliabilityBin = tuple[float, float, int]
"""Mean probability of a bin, share of clot among its voxels, how many voxels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LogOddsCounts:
    """How many voxels there are of each log-odds.

    Attributes:
        clot: int64 [bins], voxels that are clot.
        other: int64 [bins], voxels that are not.
    """

    clot: Counts
    other: Counts

    def add(self, probability: Floats, truth: NDArray[Any]) -> None:
        """Counts voxels, in place.

        Args:
            probability: of any shape, 0…1.
            truth: of the same shape; any value but 0 is clot.
        """
        bins = np.rint((log_odds(probability) + HIGHEST_LOG_ODDS) / STEP).astype(np.int32).ravel()
        every = np.bincount(bins, minlength=len(self.clot))
        clot = np.bincount(bins[np.ravel(truth) != 0], minlength=len(self.clot))
        self.clot[:] += clot
        self.other[:] += every - clot


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What was learnt from the validation cohort.

    Attributes:
        temperature: what log-odds are divided by.
        ece_before: expected calibration error of the network's own probabilities, see `reliability`.
        ece_after: the same with the temperature.
        bins_before: the bins of a reliability diagram; those without a voxel are left out.
        bins_after: the same with the temperature.
    """

    temperature: float
    ece_before: float
    ece_after: float
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


def no_counts() -> LogOddsCounts:
    """Counts to add voxels to."""
    bins = round(2 * HIGHEST_LOG_ODDS / STEP) + 1
    return LogOddsCounts(clot=np.zeros(bins, np.int64), other=np.zeros(bins, np.int64))


def calibrate(counts: LogOddsCounts) -> Calibration:
    """Fits the temperature and says how well calibrated the voxels are without and with it."""
    temperature = fit_temperature(counts)
    ece_before, bins_before = reliability(counts, 1.0)
    ece_after, bins_after = reliability(counts, temperature)
    return Calibration(
        temperature=temperature,
        ece_before=ece_before,
        ece_after=ece_after,
        bins_before=bins_before,
        bins_after=bins_after,
    )


def fit_temperature(counts: LogOddsCounts) -> float:
    """The temperature, 0.1 to 10, of the lowest negative log-likelihood over the voxels.

    Returns:
        The temperature; 1.0 where no voxel is clot or none is not, which leaves nothing to fit to.
    """
    if not counts.clot.any() or not counts.other.any():
        return 1.0
    from scipy.optimize import minimize_scalar

    odds = _bin_log_odds(counts)

    def loss(log_temperature: float) -> float:
        scaled = odds * np.exp(-log_temperature)
        # −log of the probability given to what is true: log(1 + e^−z) for clot, log(1 + e^z) elsewhere.
        return float(counts.clot @ np.logaddexp(0, -scaled) + counts.other @ np.logaddexp(0, scaled)) / float(
            counts.clot.sum() + counts.other.sum()
        )

    low, high = TEMPERATURES
    found = minimize_scalar(
        loss, bounds=(math.log(low), math.log(high)), method="bounded", options={"xatol": 1e-4}
    )
    return round(math.exp(float(found.x)), 4)


def reliability(counts: LogOddsCounts, temperature: float) -> tuple[float, tuple[ReliabilityBin, ...]]:
    """Expected calibration error and reliability bins at a temperature.

    Ten bins of equal width; the error is the mean over voxels of |mean probability − share of clot| of
    their bin (Guo et al. 2017, equation 3), 0 where there is no voxel. Nearly all voxels of a brain are
    plain background, and the error is as small as that makes it; the bins show the rest.
    """
    probability = _expit(_bin_log_odds(counts) / temperature)
    place = np.minimum((probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    every = counts.clot + counts.other
    voxels = np.bincount(place, every, RELIABILITY_BINS)
    clot = np.bincount(place, counts.clot, RELIABILITY_BINS)
    total = np.bincount(place, every * probability, RELIABILITY_BINS)
    bins = tuple(
        (float(total[at] / voxels[at]), float(clot[at] / voxels[at]), int(voxels[at]))
        for at in np.flatnonzero(voxels)
    )
    error = sum(count * abs(mean - share) for mean, share, count in bins)
    return float(error / max(voxels.sum(), 1)), bins


def temper(probability: Floats, temperature: float) -> Floats:
    """Probabilities with their log-odds divided by the temperature, float32 of the same shape."""
    if temperature == 1.0:
        return probability
    return np.asarray(_expit(log_odds(probability) / np.float32(temperature)), np.float32)


def log_odds(probability: Floats) -> Floats:
    """log(p / (1 − p)), held to −16…16."""
    with np.errstate(divide="ignore"):
        odds = np.log(probability) - np.log1p(-probability)
    return np.asarray(np.clip(odds, -HIGHEST_LOG_ODDS, HIGHEST_LOG_ODDS), np.float32)


def _bin_log_odds(counts: LogOddsCounts) -> NDArray[np.float64]:
    return np.asarray(np.arange(len(counts.clot)) * STEP - HIGHEST_LOG_ODDS, np.float64)


def _expit(odds: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-odds)))
