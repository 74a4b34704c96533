"""Which slices are trained on: all, those with clot, or those and as many without."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clotseg.prep.selection import choose_slices


@st.composite
def cohorts(draw):
    """Slices of some cases, and which of them hold clot."""
    slices_of = draw(st.dictionaries(st.text(max_size=4), st.integers(1, 12), min_size=1, max_size=8))
    clots = {case: sorted(draw(st.sets(st.integers(0, count - 1)))) for case, count in slices_of.items()}
    return slices_of, clots


@given(cohorts())
def test_all_takes_every_slice_and_clot_those_with_clot(cohort):
    slices_of, clots = cohort
    chosen = choose_slices(slices_of, clots, "all", 1)
    assert {case: list(numbers) for case, numbers in chosen.items()} == {
        case: list(range(count)) for case, count in slices_of.items()
    }
    chosen = choose_slices(slices_of, clots, "clot", 1)
    assert {case: list(numbers) for case, numbers in chosen.items()} == clots


@given(cohorts(), st.integers(0, 5))
def test_balanced_takes_every_clot_slice_and_as_many_without_where_there_are_so_many(cohort, seed):
    slices_of, clots = cohort
    chosen = choose_slices(slices_of, clots, "balanced", seed)
    with_clot = sum(map(len, clots.values()))
    without = sum(slices_of.values()) - with_clot
    free = {case: set(numbers) - set(clots[case]) for case, numbers in chosen.items()}
    assert all(set(clots[case]) <= set(numbers) for case, numbers in chosen.items())
    assert sum(map(len, free.values())) == min(with_clot, without)
    for case, numbers in chosen.items():
        assert list(numbers) == sorted(set(numbers))
        assert set(numbers) <= set(range(slices_of[case]))
    # Evenly: nobody gives two more than another who still has some to give.
    for case, numbers in free.items():
        if len(numbers) < slices_of[case] - len(clots[case]):
            assert len(numbers) >= max(map(len, free.values())) - 1


@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(cohort, random):
    slices_of, clots = cohort
    items = list(slices_of.items())
    random.shuffle(items)
    assert choose_slices(dict(items), clots, "balanced", 3) == choose_slices(slices_of, clots, "balanced", 3)


def test_slices_without_clot_are_drawn_by_the_seed_from_anywhere_in_the_volume():
    slices_of, clots = {"a": 20, "b": 20}, {"a": [7, 8], "b": []}
    drawn = [choose_slices(slices_of, clots, "balanced", seed) for seed in range(300)]
    assert drawn[3] == choose_slices(slices_of, clots, "balanced", 3)
    assert all(len(set(chosen["a"]) - {7, 8}) == len(chosen["b"]) == 1 for chosen in drawn)
    counts = Counter(chosen["b"][0] for chosen in drawn)
    # Binomial(300, 1/20) has mean 15 and standard deviation 3.8.
    assert set(counts) == set(range(20))
    assert max(counts.values()) < 15 + 5 * 3.8


@pytest.mark.parametrize("seed", [1, 2])
def test_a_case_that_is_clot_all_over_lets_others_give_more(seed):
    chosen = choose_slices(
        {"full": 6, "a": 3, "b": 9}, {"full": range(6), "a": [], "b": []}, "balanced", seed
    )
    assert [len(chosen[case]) for case in ("full", "a", "b")] == [6, 3, 3]
