"""Scores against hand-counted masks and independent oracles."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from surface_distance import compute_dice_coefficient

from clotseg.errors import DataError
from clotseg.evaluate.metrics import AVERAGED, CaseScore, dice, score_case, summarise

MASKS = hnp.arrays(np.uint8, (5, 4, 3), elements=st.sampled_from([0, 0, 1]))


def mask(*voxels, shape=(6, 6, 4)):
    volume = np.zeros(shape, np.uint8)
    for voxel in voxels:
        volume[voxel] = 1
    return volume


def score(predicted, truth, **names):
    facts = {"case": "a", "patient": "p", "site": None, "spacing_mm": None}
    return score_case(predicted, truth, **facts | names)


def cohort_score(case, *, patient=None, dice=0.5, has_clot=True, found=True, false_clots=0, mm3=None):
    return CaseScore(
        case=case,
        patient=patient or case,
        site=None,
        has_clot=has_clot,
        dice=dice,
        found=found if has_clot else None,
        false_clots=false_clots,
        volume_true=100 if has_clot else 0,
        volume_predicted=80 if has_clot else 0,
        volume_true_mm3=mm3,
        volume_predicted_mm3=None if mm3 is None else mm3 + 10,
        spacing_mm=None if mm3 is None else (1.0, 1.0, 1.0),
    )


def pieces_by_flood_fill(volume):
    """26-connected pieces as sets of voxels, without scipy."""
    left, pieces = {tuple(map(int, voxel)) for voxel in np.argwhere(volume)}, []
    while left:
        piece, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            piece.add(voxel)
            near = {
                other for other in left if max(abs(a - b) for a, b in zip(voxel, other, strict=True)) <= 1
            }
            left -= near
            edge.extend(near)
        pieces.append(piece)
    return pieces


def test_dice_of_hand_counted_masks():
    truth = mask((0, 0, 0), (0, 1, 0), (0, 2, 0))
    assert dice(mask((0, 1, 0), (0, 2, 0), (5, 5, 3)), truth) == pytest.approx(4 / 6)
    assert dice(mask((0, 1, 0)), truth) == pytest.approx(2 / 4)
    assert dice(truth, truth) == 1.0


def test_two_empty_masks_agree_and_one_empty_mask_does_not():
    assert dice(mask(), mask()) == 1.0
    assert dice(mask(), mask((0, 0, 0))) == 0.0
    assert dice(mask((0, 0, 0)), mask()) == 0.0


def test_dice_refuses_masks_of_different_shape():
    with pytest.raises(DataError, match="shape"):
        dice(np.ones((2, 1), np.uint8), np.ones((2, 2), np.uint8))


@given(predicted=MASKS, truth=MASKS)
def test_dice_is_that_of_the_reference_implementation(predicted, truth):
    assume(predicted.any() or truth.any())  # where the reference has no value
    reference = compute_dice_coefficient(truth.astype(bool), predicted.astype(bool))
    assert dice(predicted, truth) == pytest.approx(reference)


def test_dice_counts_large_uint8_masks_without_overflow():
    full = np.ones((64, 64, 64), np.uint8)
    assert dice(full, full) == 1.0


def test_one_shared_voxel_finds_a_clot_and_saves_its_whole_component():
    truth = mask((2, 2, 1), (2, 3, 1))
    predicted = mask((2, 3, 1), (3, 4, 2), (4, 5, 3))
    result = score(predicted, truth)
    assert (result.found, result.false_clots) == (True, 0)


def test_components_that_touch_no_true_voxel_are_false_clots():
    truth = mask((0, 0, 0))
    result = score(mask((0, 1, 0), (5, 5, 3)), truth)
    assert (result.has_clot, result.found, result.false_clots) == (True, False, 2)


def test_voxels_that_meet_at_a_corner_are_one_component():
    assert score(mask((1, 1, 1), (2, 2, 2)), mask()).false_clots == 1
    assert score(mask((1, 1, 1), (3, 1, 1)), mask()).false_clots == 2


def test_a_case_without_a_clot_is_neither_found_nor_missed():
    result = score(mask((1, 1, 1)), mask())
    assert (result.has_clot, result.found, result.dice, result.false_clots) == (False, None, 0.0, 1)
    assert score(mask(), mask()).dice == 1.0


@given(predicted=MASKS, truth=MASKS)
def test_false_clots_and_found_agree_with_a_flood_fill(predicted, truth):
    true_voxels = {tuple(map(int, voxel)) for voxel in np.argwhere(truth)}
    pieces = pieces_by_flood_fill(predicted)
    result = score(predicted, truth)
    assert result.false_clots == sum(not piece & true_voxels for piece in pieces)
    assert result.found == (any(piece & true_voxels for piece in pieces) if true_voxels else None)


def test_every_clot_is_found_or_missed_by_itself():
    """Three true clots; one touched twice, one once, one not at all; and one piece that is no clot."""
    truth = mask((0, 0, 0), (0, 1, 0), (0, 2, 0), (3, 3, 1), (5, 0, 3))
    result = score(mask((0, 0, 0), (0, 2, 0), (3, 3, 1), (5, 5, 3)), truth)
    assert (result.clots_true, result.clots_found, result.clots_missed, result.false_clots) == (3, 2, 1, 1)
    assert result.clot_f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_one_piece_over_two_clots_finds_both():
    truth = mask((0, 0, 0), (0, 4, 0))
    result = score(mask(*((0, column, 0) for column in range(5))), truth)
    assert (result.clots_found, result.false_clots, result.clot_f1) == (2, 0, 1.0)


def test_precision_and_recall_of_hand_counted_masks():
    result = score(mask((0, 0, 0), (0, 1, 0), (5, 5, 3)), mask((0, 0, 0), (1, 0, 0)))
    assert (result.precision, result.recall) == (pytest.approx(1 / 3), 0.5)
    assert result.volume_error_percent == pytest.approx(50)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (mask(), mask(), (1.0, 1.0, 0.0, None, None, None, None)),
        (mask(), mask((1, 1, 1)), (0.0, 0.0, None, 0.0, 0.0, 0.0, -100.0)),
        (mask((1, 1, 1)), mask(), (0.0, 0.0, None, 0.0, None, 0.0, None)),
        (mask((1, 1, 1)), mask((1, 1, 1)), (1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0)),
    ],
    ids=["both empty", "a missed clot", "a false clot", "the same voxel"],
)
def test_what_empty_masks_give_is_laid_down(predicted, truth, expected):
    """A missed clot is 0 wherever 0 is worst, so that it weighs on the mean; distances do not exist."""
    found = score(predicted, truth, spacing_mm=(1.0, 1.0, 1.0))
    names = ("dice", "surface_dice_1mm", "hd95_mm", "precision", "recall", "clot_f1", "volume_error_percent")
    assert tuple(getattr(found, name) for name in names) == expected


def test_volumes_follow_anisotropic_spacing():
    result = score(mask((0, 0, 0)), mask((0, 0, 0), (1, 0, 0), (0, 0, 1)), spacing_mm=(0.5, 0.4, 3.0))
    assert (result.volume_true, result.volume_predicted) == (3, 1)
    assert result.volume_true_mm3 == pytest.approx(1.8)
    assert result.volume_predicted_mm3 == pytest.approx(0.6)
    assert result.volume_error_mm3 == pytest.approx(-1.2)


def test_lengths_are_summed_over_clots():
    """Two rods along the slices, of 2 and of 3 voxels of 3 mm; the prediction has the shorter one."""
    short, long = [(0, 0, n) for n in (0, 1)], [(4, 4, n) for n in (1, 2, 3)]
    result = score(mask(*short), mask(*short, *long), spacing_mm=(0.5, 0.4, 3.0))
    assert result.length_true_mm == pytest.approx(15, abs=0.05)
    assert result.length_predicted_mm == pytest.approx(6, abs=0.05)


def test_without_a_spacing_there_are_no_millimetres():
    result = score(mask((0, 0, 0)), mask((0, 0, 0)))
    assert {name for name, value in result.as_row().items() if "mm" in name and value is not None} == set()


@pytest.mark.parametrize(
    ("predicted", "truth", "spacing_mm"),
    [
        (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.uint8), None),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), None),
        (np.full((4, 4, 2), 255, np.uint8), np.zeros((4, 4, 2), np.uint8), None),
        (np.zeros((4, 4, 2), np.uint8), np.full((4, 4, 2), 0.5), None),
        (np.zeros((4, 4, 2), np.uint8), np.full((4, 4, 2), np.nan), None),
        (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 2), np.uint8), (1.0, float("nan"), 1.0)),
        (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 2), np.uint8), (1.0, 0.0, 1.0)),
    ],
)
def test_masks_and_spacings_that_cannot_be_scored_are_refused_by_name(predicted, truth, spacing_mm):
    with pytest.raises(DataError, match="case-17"):
        score(predicted, truth, case="case-17", spacing_mm=spacing_mm)


def test_a_row_has_the_same_columns_whatever_is_known():
    bare, full = score(mask(), mask()), score(mask(), mask((0, 0, 0)), spacing_mm=(0.5, 0.4, 3.0))
    assert list(bare.as_row()) == list(full.as_row())
    assert list(full.as_row())[:2] == ["case", "patient"]
    assert full.as_row()["spacing_slice_mm"] == 3.0
    assert bare.as_row()["spacing_slice_mm"] is None
    json.dumps(full.as_row(), allow_nan=False)


def test_the_summary_of_a_hand_counted_cohort():
    scores = [
        cohort_score("a", dice=0.9, false_clots=2),
        cohort_score("b", dice=0.6),
        cohort_score("c", dice=0.0, found=False, false_clots=1),
        cohort_score("d", dice=1.0, has_clot=False),
        cohort_score("e", dice=0.0, has_clot=False, false_clots=3),
    ]
    result = summarise(scores, bootstrap_samples=500, seed=1)
    assert result["cases"] == 5
    assert result["cases_with_clot"] == 3
    assert result["dice_mean"] == pytest.approx(0.5)
    assert result["dice_median"] == pytest.approx(0.6)
    assert result["missed"] == 1
    assert (result["clot_free_cases"], result["clot_free_with_false"], result["false_clots"]) == (2, 1, 3)
    assert result["false_clots_in_clot_cases"] == 3
    assert (result["volume_bias_voxels"], result["volume_error_voxels"]) == (-20.0, 20.0)
    low, high = result["dice_ci95"]
    assert 0.0 <= low < 0.5 < high <= 0.9
    assert (result["missed_rate"], result["specificity"]) == (pytest.approx(1 / 3), 0.5)
    assert result["missed_rate_ci95"][0] < 1 / 3 < result["missed_rate_ci95"][1]


def test_a_missed_clot_has_no_distance_and_the_summary_says_over_how_many_the_mean_goes():
    truth = mask((1, 1, 1))
    cases = [("a", truth), ("b", mask()), ("c", mask((3, 1, 1)))]
    scores = [
        score(predicted, truth, case=name, patient=name, spacing_mm=(1.0,) * 3) for name, predicted in cases
    ]
    result = summarise(scores, bootstrap_samples=20, seed=1)
    assert (result["dice_mean"], result["dice_cases"]) == (pytest.approx(1 / 3), 3)
    assert (result["hd95_mm_mean"], result["hd95_mm_cases"]) == (1.0, 2)


def test_clots_are_counted_over_the_whole_cohort():
    scores = [
        score(mask((0, 0, 0)), mask((0, 0, 0), (3, 3, 3)), case="a"),
        score(mask((0, 0, 0), (3, 3, 3)), mask(), case="b"),
    ]
    result = summarise(scores, bootstrap_samples=20, seed=1)
    assert [result[name] for name in ("clots_true", "clots_found", "clots_missed")] == [2, 1, 1]
    assert result["clot_f1"] == pytest.approx(2 / (2 + 1 + 2))


def test_the_cohort_is_told_by_site_and_by_size():
    """Six clots of 1 to 6 voxels, Dice growing with size, from two sites and one unknown."""
    scores = [
        replace(
            cohort_score(f"c{n}", dice=n / 10, found=n > 1), volume_true=n, site=[None, "east", "west"][n % 3]
        )
        for n in range(1, 7)
    ]
    result = summarise(scores, bootstrap_samples=20, seed=1)
    sizes = [(row["group"], row["cases"], row["dice_mean"], row["missed"]) for row in result["by_size"]]
    assert sizes == [
        ("small: 1–2 voxels", 2, pytest.approx(0.15), 1),
        ("medium: 3–4 voxels", 2, pytest.approx(0.35), 0),
        ("large: 5–6 voxels", 2, pytest.approx(0.55), 0),
    ]
    sites = {row["group"]: row["dice_mean"] for row in result["by_site"]}
    assert sites == {
        "east": pytest.approx(0.25),
        "not known": pytest.approx(0.45),
        "west": pytest.approx(0.35),
    }


def test_volume_and_length_agree_where_the_masks_do():
    scores = [
        score(rod, rod, case=str(n), patient=str(n), spacing_mm=(1.0, 1.0, 2.0))
        for n in range(1, 4)
        for rod in [mask(*((0, 0, depth) for depth in range(n)))]
    ]
    result = summarise(scores, bootstrap_samples=50, seed=1)
    for kind in ("volume_agreement", "length_agreement"):
        assert result[kind]["icc"] == pytest.approx(1)
        assert result[kind]["bias"] == 0
    assert result["volume_agreement"]["unit"] == "mm³"


def test_the_summary_does_not_depend_on_the_order_of_the_scores():
    """To the last bit: 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point."""
    scores = [cohort_score(f"c{n}", dice=(n % 3 + 1) / 10, patient=f"p{n // 3}") for n in range(6)]
    forward = summarise(scores, bootstrap_samples=300, seed=1)
    assert forward == summarise(scores[::-1], bootstrap_samples=300, seed=1)


def test_cubic_millimetres_are_summed_up_only_where_every_clot_has_them():
    known = [cohort_score("a", mm3=50.0), cohort_score("b", mm3=70.0)]
    assert summarise(known, bootstrap_samples=10, seed=1)["volume_error_mm3"] == pytest.approx(10.0)
    mixed = summarise([*known, cohort_score("c")], bootstrap_samples=10, seed=1)
    assert (mixed["volume_error_mm3"], mixed["volume_bias_mm3"]) == (None, None)


@pytest.mark.parametrize(
    "scores",
    [
        [],
        [cohort_score("a", has_clot=False, dice=1.0)],
        [cohort_score("a")],
        [cohort_score("a", patient="p"), cohort_score("b", patient="p")],
    ],
    ids=["no case", "no clot", "one case", "one patient"],
)
def test_what_does_not_exist_is_null_and_never_nan(scores):
    result = summarise(scores, bootstrap_samples=20, seed=1)
    assert result["dice_ci95"] is None
    for name in AVERAGED:
        assert (result[f"{name}_mean"] is None) == (result[f"{name}_cases"] == 0)
    assert (result["dice_cases"] == 0) == (result["cases_with_clot"] == 0)
    json.dumps(result, allow_nan=False)
