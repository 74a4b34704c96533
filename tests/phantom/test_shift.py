"""A shifted cohort: each difference from the usual one, measured on the volumes as a user has them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter

from clotseg.errors import DataError
from clotseg.phantom import write_cohort
from tests.conftest import contents, run_clotseg
from tests.phantom.conftest import Written, read_cohort

CASES, SEED = 8, 100
BALL = np.ones((3, 3, 3))
Measure = Callable[[Written], float]


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    folder = tmp_path_factory.mktemp("shifted") / "cohort"
    write_cohort(folder, cases=CASES, seed=SEED, shift=True)
    return read_cohort(folder)


@pytest.fixture(scope="module")
def usual(written: list[Written]) -> list[Written]:
    return written[:CASES]


def noise_of(volume: NDArray[np.int16], case: Written) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Differences of neighbouring slices over sqrt(2), and where they lie within the brain: tissue hardly
    differs from slice to slice, so that what is left is noise."""
    brain = (case.ncct > 10) & (case.ncct < 60) & (case.cta < 80)
    return np.diff(volume.astype(np.float64), axis=2) / np.sqrt(2), brain[..., 1:] & brain[..., :-1]


def spread(values: NDArray[np.float64]) -> float:
    """SD of the middle of a distribution, so that borders of tissues do not count."""
    low, high = np.percentile(values, (25, 75))
    return float((high - low) / 1.349)


def lumen(case: Written) -> NDArray[np.bool_]:
    """Arteries full of contrast: at least half as bright as the brightest, and no bone."""
    soft = ~binary_dilation(case.ncct > 120, BALL, iterations=2)
    return soft & (case.cta > 0.55 * np.percentile(case.cta[soft], 99.9))


def spacing_mm(case: Written) -> list[float]:
    return [float(case.row[f"spacing_{axis}_mm"]) for axis in ("row", "col", "slice")]


def means(measure: Measure, cases: list[Written]) -> float:
    return float(np.mean([measure(case) for case in cases]))


@pytest.mark.parametrize("kind", ["cta", "ncct"])
def test_it_is_noisier(kind: str, usual: list[Written], shifted: list[Written]) -> None:
    def noise_hu(case: Written) -> float:
        noise, brain = noise_of(getattr(case, kind), case)
        return spread(noise[brain])

    assert min(map(noise_hu, shifted)) > max(map(noise_hu, usual))
    assert means(noise_hu, shifted) > 1.25 * means(noise_hu, usual)


def test_its_noise_is_smoother(usual: list[Written], shifted: list[Written]) -> None:
    def correlation(case: Written) -> float:
        noise, brain = noise_of(case.cta, case)
        both = brain[:, 1:] & brain[:, :-1]
        return float(np.corrcoef(noise[:, 1:][both], noise[:, :-1][both])[0, 1])

    assert min(map(correlation, shifted)) > max(map(correlation, usual)) + 0.1


@pytest.mark.parametrize("axis", [1, 2])
def test_its_borders_are_blurrier(axis: int, usual: list[Written], shifted: list[Written]) -> None:
    def steepest_hu(case: Written) -> float:
        return float(np.percentile(np.abs(np.diff(case.ncct.astype(np.float64), axis=axis)), 99.8))

    assert means(steepest_hu, shifted) < 0.9 * means(steepest_hu, usual)


def soft_tissue(case: Written) -> NDArray[np.bool_]:
    return (case.ncct > -20) & (case.ncct < 90)


def test_its_brains_are_smaller_and_hold_more_fluid(usual: list[Written], shifted: list[Written]) -> None:
    def brain_cm2(case: Written) -> float:
        row_mm, column_mm, _ = spacing_mm(case)
        return float(soft_tissue(case)[:, :, 12].sum() * row_mm * column_mm / 100)

    def share_of_fluid(case: Written) -> float:
        smooth = gaussian_filter(case.ncct.astype(np.float64), (1, 1, 0.7))
        return float((smooth[soft_tissue(case)] < 20).mean())

    assert max(map(brain_cm2, shifted)) < min(map(brain_cm2, usual))
    assert min(map(share_of_fluid, shifted)) > max(map(share_of_fluid, usual))


def test_one_side_of_its_brains_is_narrower(usual: list[Written], shifted: list[Written]) -> None:
    def off_the_middle_mm(case: Written) -> float:
        return abs(float(np.average(case.column_mm, weights=soft_tissue(case)[:, :, 8:16].sum((0, 2)))))

    assert means(off_the_middle_mm, shifted) > means(off_the_middle_mm, usual) + 0.5


def contrast_hu(case: Written) -> float:
    return float(np.percentile(case.cta[lumen(case)], 90))


def test_its_arteries_are_thinner_and_hold_less_contrast(
    usual: list[Written], shifted: list[Written]
) -> None:
    def radius_mm(case: Written) -> float:
        inside = lumen(case)
        return float(np.percentile(distance_transform_edt(inside, sampling=spacing_mm(case))[inside], 90))

    assert means(radius_mm, shifted) < 0.94 * means(radius_mm, usual)
    assert max(map(contrast_hu, shifted)) < min(map(contrast_hu, usual))


def test_its_clots_are_smaller_and_less_dense(usual: list[Written], shifted: list[Written]) -> None:
    def clot_mm3(case: Written) -> float:
        return float(case.mask.sum() * np.prod(spacing_mm(case)))

    def clot_hu(case: Written) -> float:
        return float(case.ncct[case.mask == 1].mean())

    of_usual, of_shifted = ([case for case in cases if case.mask.any()] for cases in (usual, shifted))
    assert len(of_shifted) >= 6
    assert means(clot_mm3, of_shifted) < 0.75 * means(clot_mm3, of_usual)
    assert means(clot_hu, of_shifted) < means(clot_hu, of_usual) - 5


SMALL = {"cases": 2, "size": 40, "slices": 8, "seed": 3}


KEPT_HU = {"case_000": (56.271, 52.399, 7), "case_001": (80.158, 74.291, 8)}
"""Mean HU of CTA and NCCT, voxels of clot, as they were before there was a shift."""


def test_the_usual_cohort_stays_as_it_was(tmp_path: Path) -> None:
    """To a thousandth of a HU: how a processor rounds may differ in a voxel or two."""
    write_cohort(tmp_path, **SMALL)
    cases = {case.name: case for case in read_cohort(tmp_path)}
    assert list(cases) == list(KEPT_HU)
    for name, (cta, ncct, clot) in KEPT_HU.items():
        assert cases[name].cta.mean() == pytest.approx(cta, abs=2e-3)
        assert cases[name].ncct.mean() == pytest.approx(ncct, abs=2e-3)
        assert cases[name].mask.sum() == clot


def test_the_command_writes_one(tmp_path: Path) -> None:
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    done = run_clotseg("phantom", tmp_path / "commanded", "--shift", *options)
    assert done.returncode == 0, done.stderr
    write_cohort(tmp_path / "called", **SMALL, shift=True)
    assert contents(tmp_path / "commanded") == contents(tmp_path / "called")


def test_a_shifted_cohort_is_another_and_comes_back_by_its_seed(tmp_path: Path) -> None:
    first, second, usual = tmp_path / "first", tmp_path / "second", tmp_path / "usual"
    write_cohort(first, **SMALL, shift=True)
    write_cohort(second, **SMALL, shift=True)
    assert contents(first) == contents(second)
    assert write_cohort(first, **SMALL, shift=True) == "reused"
    with pytest.raises(DataError, match="choose another folder"):
        write_cohort(first, **SMALL)
    write_cohort(usual, **SMALL)
    assert [case.truth["branch"] for case in read_cohort(first)] != [
        case.truth["branch"] for case in read_cohort(usual)
    ], "the cases of one seed are not the same patients in both"


@pytest.mark.slow
def test_it_may_grow_in_a_real_head(tmp_path: Path, atlas: Path) -> None:
    cohorts = {}
    for name, shift in (("usual", False), ("shifted", True)):
        write_cohort(tmp_path / name, cases=2, size=64, slices=16, seed=100, anatomy=atlas, shift=shift)
        cohorts[name] = read_cohort(tmp_path / name)
    air = {name: np.mean([(case.ncct < -900).mean() for case in cases]) for name, cases in cohorts.items()}
    assert air["shifted"] > air["usual"] + 0.05, "the head is smaller"
    assert max(map(contrast_hu, cohorts["shifted"])) < min(map(contrast_hu, cohorts["usual"]))
