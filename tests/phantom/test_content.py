"""What a cohort shows: clots that look like clots, arteries, flow, and two sites."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label

from tests.phantom.conftest import Written

TOUCHING = np.ones((3, 3, 3))
BRIGHT_HU = 160


def contrast(case: Written) -> NDArray[np.bool_]:
    """Voxels that hold contrast: bright on CTA, neither bone nor calcium on NCCT."""
    return (case.cta > BRIGHT_HU) & ~binary_dilation(case.ncct > 120, TOUCHING)


def test_one_case_in_seven_has_no_clot(written: list[Written]) -> None:
    for first in range(0, len(written), 7):
        assert sum(not case.mask.any() for case in written[first : first + 7]) == 1


def test_clots_are_under_one_percent_of_the_voxels(written: list[Written]) -> None:
    share = np.mean([case.mask.mean() for case in written])
    assert 0 < share < 0.01


def test_a_clot_is_one_piece_of_a_size_that_can_be_learnt(with_clot: list[Written]) -> None:
    for case in with_clot:
        assert label(case.mask, TOUCHING)[1] == 1
        assert 40 <= case.mask.sum() <= 250


def test_clots_lodge_in_several_large_arteries_of_both_sides(with_clot: list[Written]) -> None:
    branches = {case.truth["branch"] for case in with_clot}
    assert {name.split()[0] for name in branches} >= {"M1", "M2"}
    assert {name.split()[-1] for name in branches} >= {"left", "right"}
    for case in with_clot:
        column_mm = np.average(case.column_mm, weights=case.mask.sum((0, 2)))
        if case.truth["branch"].endswith("left"):
            assert column_mm > 5
        if case.truth["branch"].endswith("right"):
            assert column_mm < -5


def test_a_clot_is_dense_on_ncct_and_dark_on_cta(with_clot: list[Written]) -> None:
    ncct_hu = [case.ncct[case.mask == 1].mean() for case in with_clot]
    cta_hu = [case.cta[case.mask == 1].mean() for case in with_clot]
    artery_hu = [np.percentile(case.cta[contrast(case)], 90) for case in with_clot]
    assert 47 <= np.mean(ncct_hu) <= 65
    assert min(ncct_hu) > 42
    assert max(ncct_hu) < 70
    assert max(cta_hu) < 90
    assert all(250 < hu < 420 for hu in artery_hu)


def test_arteries_with_contrast_are_plain_blood_on_ncct(written: list[Written]) -> None:
    for case in written:
        lumen = (case.cta > 250) & ~binary_dilation(case.ncct > 120, TOUCHING, iterations=2)
        assert lumen.sum() > 50
        assert 25 < case.ncct[lumen].mean() < 50


def test_contrast_stops_at_the_clot(with_clot: list[Written]) -> None:
    beyond, opposite = 0, 0
    for case in with_clot:
        near = binary_dilation(case.mask, TOUCHING, iterations=3)
        assert (case.cta[near] > BRIGHT_HU).any(), f"{case.name}: no stump touches the clot"
        if case.truth["branch"].split()[0] not in ("M1", "ICA"):
            continue
        side = 1 if case.truth["branch"].endswith("left") else -1
        bright = contrast(case)[:, :, 12:].sum((0, 2))
        lateral_mm = case.column_mm * side
        beyond += bright[(lateral_mm > 20) & (lateral_mm < 46)].sum()
        opposite += bright[(lateral_mm < -20) & (lateral_mm > -46)].sum()
    assert opposite > 200
    assert beyond < 0.25 * opposite


def test_without_a_clot_both_sides_fill(written: list[Written]) -> None:
    for case in written:
        if not case.mask.any():
            bright = contrast(case)[:, :, 12:].sum((0, 2))
            left, right = bright[case.column_mm > 20].sum(), bright[case.column_mm < -20].sum()
            assert min(left, right) > 0.4 * max(left, right)


def test_rows_run_to_the_back_and_slices_upwards(written: list[Written]) -> None:
    for case in written:
        bright = contrast(case)
        # The carotids and the basilar artery come from below; the front of the circle is before the middle.
        in_front = bright[:48, :, :10].sum()
        behind = bright[60:, :, :10].sum()
        assert in_front > 2 * behind
        bone = (case.ncct > 400).sum((0, 1))
        assert bone[:3].mean() > 1.2 * bone[-3:].mean()


def test_veins_look_like_clots_but_are_elsewhere(with_clot: list[Written]) -> None:
    """Pieces as dense as clots on NCCT and without contrast on CTA, of a clot's size, in every case."""
    for case in with_clot:
        alike = (case.ncct > 46) & (case.ncct < 75) & (case.cta < 100) & (case.mask == 0)
        sizes = np.bincount(label(alike, TOUCHING)[0].ravel())[1:]
        assert (sizes >= 30).sum() >= 2


def test_the_two_sites_differ_in_noise(written: list[Written]) -> None:
    noise = {
        site: np.mean([case.cta[:4, :4].std() for case in written if case.row["site"] == site])
        for site in ("site-a", "site-b")
    }
    assert 1.05 * noise["site-a"] < noise["site-b"] < 2 * noise["site-a"]
