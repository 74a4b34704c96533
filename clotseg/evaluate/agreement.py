"""Statistics of a cohort: numbers a case, and the patient of each, in; estimates with their intervals out.

What always holds: cases of one patient are resampled together, the same seed gives the same interval, and
what does not exist (a correlation of two cases, of numbers that are all alike) is None, never NaN.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]

FEWEST_TO_CORRELATE = 3
NORMAL_95 = 1.96


def bootstrap_interval(
    values: Sequence[float], groups: Sequence[str], *, samples: int, seed: int, level: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13), by patient.

    Cases of one patient resemble each other, so patients are drawn with replacement, each with all its cases,
    and the mean is taken over the cases drawn (cluster bootstrap, Davison & Hinkley 1997, section 3.8).

    Args:
        values: one number a case, at least one.
        groups: the patient of each case.
        samples: how many resamples to draw.
        seed: of the random generator; the same seed gives the same interval.
        level: share of resampled means that lie inside.

    Returns:
        Lower and upper end. A single patient gives the mean twice: there is nothing to resample, and the
        caller should show no interval.
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError("need one group per value, and at least one value")
    names, patient_of_case = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(patient_of_case, weights=np.asarray(values, dtype=np.float64))
    cases = np.bincount(patient_of_case)
    drawn = np.random.default_rng(seed).integers(len(names), size=(samples, len(names)))
    means = sums[drawn].sum(axis=1) / cases[drawn].sum(axis=1)
    return _percentiles(means, level)


def mean_interval(
    values: Sequence[float], patients: Sequence[str], *, samples: int, seed: int
) -> list[float] | None:
    """The 95 % `bootstrap_interval` as JSON holds it; None below two patients."""
    if len(set(patients)) < 2:
        return None
    return list(bootstrap_interval(values, patients, samples=samples, seed=seed))


def bootstrap_statistic(
    statistic: Callable[[Floats, Floats], float | None],
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence[str],
    *,
    samples: int,
    seed: int,
) -> list[float] | None:
    """95 % percentile bootstrap interval, by patient, of a statistic of pairs of numbers.

    Resamples in which the statistic does not exist are left out.

    Returns:
        Lower and upper end; None below three patients, or where most resamples have no such statistic.
    """
    if len(set(patients)) < FEWEST_TO_CORRELATE:
        return None
    pairs = np.asarray([first, second], dtype=np.float64)
    resampled = (statistic(*pairs[:, cases]) for cases in _resamples(patients, samples, seed))
    known = [value for value in resampled if value is not None]
    return list(_percentiles(np.asarray(known), 0.95)) if 2 * len(known) > samples else None


def _resamples(patients: Sequence[str], samples: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """The cases of as many patients as there are, drawn with replacement, time and again."""
    names, patient_of_case = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    members = [np.flatnonzero(patient_of_case == number) for number in range(len(names))]
    random = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.concatenate([members[number] for number in random.integers(len(names), size=len(names))])


def _percentiles(values: Floats, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_interval(count: int, of: int) -> list[float] | None:
    """95 % interval of a share by Wilson 1927 (JASA 22:209); None of nothing.

    Unlike a bootstrap it does not say that 0 of 11 is exactly 0. Cases count as independent.
    """
    if not of:
        return None
    interval = stats.binomtest(count, of).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def icc_2_1(ratings: npt.ArrayLike) -> float | None:
    """Intraclass correlation ICC(2,1): two-way random effects, absolute agreement, single rater.

    Shrout & Fleiss 1979 (Psychol Bull 86:420): (BMS − EMS) / (BMS + (k − 1) EMS + k (JMS − EMS) / n), of n
    targets rated by k raters, with the mean squares between targets, between raters (JMS), and of the rest.
    Unlike a correlation it drops when one rater always says more than the other.

    Args:
        ratings: [n, k].

    Returns:
        At most 1, and below 0 where targets differ less than chance has it; None below two targets or where
        all ratings are alike.
    """
    table = np.asarray(ratings, dtype=np.float64)
    targets, raters = table.shape
    if targets < 2 or not np.ptp(table):
        return None
    mean = table.mean()
    of_targets, of_raters = table.mean(axis=1), table.mean(axis=0)
    between_targets = raters * np.sum((of_targets - mean) ** 2) / (targets - 1)
    between_raters = targets * np.sum((of_raters - mean) ** 2) / (raters - 1)
    rest = table - of_targets[:, np.newaxis] - of_raters + mean
    error = np.sum(rest**2) / ((targets - 1) * (raters - 1))
    spread = between_targets + (raters - 1) * error + raters * (between_raters - error) / targets
    return float((between_targets - error) / spread) if spread else None


def bland_altman(first: npt.ArrayLike, second: npt.ArrayLike) -> dict[str, float | None]:
    """Bland & Altman 1986 (Lancet 327:307): how far `second` lies from `first`.

    Returns:
        `bias`, the mean of second − first; `sd` of these differences (n − 1); `lower` and `upper`, the limits
        of agreement bias ± 1.96 SD, within which 95 % of differences are expected to lie. None what does not
        exist: the bias of no pair, the rest below two pairs.
    """
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    bias = float(differences.mean()) if differences.size else None
    if bias is None or differences.size < 2:
        return {"bias": bias, "sd": None, "lower": None, "upper": None}
    sd = float(differences.std(ddof=1))
    return {"bias": bias, "sd": sd, "lower": bias - NORMAL_95 * sd, "upper": bias + NORMAL_95 * sd}


def pearson(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Pearson's r; None below three pairs or where one side is all alike."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < FEWEST_TO_CORRELATE or not np.ptp(a) or not np.ptp(b):
        return None
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(a @ a) * float(b @ b))
    return min(max(float(a @ b) / spread, -1.0), 1.0) if spread else None


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Spearman's ρ, ties at their mean rank; None below three pairs or where one side is all alike."""
    return pearson(stats.rankdata(np.asarray(first)), stats.rankdata(np.asarray(second)))


def agreement(
    truth: Sequence[float], predicted: Sequence[float], patients: Sequence[str], *, samples: int, seed: int
) -> dict[str, Any]:
    """How well one measured number agrees with the true one, over cases.

    Returns:
        `cases`; `icc` and `pearson`, each with its `_ci95` ([low, high], bootstrap by patient); `bias`, `sd`,
        `lower` and `upper` of `bland_altman`; None what does not exist.
    """
    options: dict[str, Any] = {"samples": samples, "seed": seed}
    pairs = (truth, predicted)

    def icc(first: Floats, second: Floats) -> float | None:
        return icc_2_1(np.stack([first, second], axis=1))

    return {
        "cases": len(truth),
        "icc": icc(*(np.asarray(side, dtype=np.float64) for side in pairs)),
        "icc_ci95": bootstrap_statistic(icc, *pairs, patients, **options),
        "pearson": pearson(*pairs),
        "pearson_ci95": bootstrap_statistic(pearson, *pairs, patients, **options),
        **bland_altman(*pairs),
    }


def doubt_and_dice(
    doubt: Sequence[float], dice: Sequence[float], patients: Sequence[str], *, samples: int, seed: int
) -> dict[str, Any]:
    """How well a case's doubt foretells its Dice.

    Args:
        doubt: one number a case, larger where the network is less sure.
        dice: of the same cases.
        patients: of the same cases.
        samples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `cases`; `spearman`, −1 where doubt ranks cases exactly from best to worst; `spearman_ci95`.
    """
    return {
        "cases": len(doubt),
        "spearman": spearman(doubt, dice),
        "spearman_ci95": bootstrap_statistic(spearman, doubt, dice, patients, samples=samples, seed=seed),
    }
