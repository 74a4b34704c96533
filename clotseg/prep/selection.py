"""Which slices are trained on: cases and where their clots lie in; slice numbers of each case out."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from clotseg.config import SliceConfig
from clotseg.prep.cohorts import Cohorts

Selection = Literal["all", "clot", "balanced"]


def choose_slices(
    slices_of: Mapping[str, int], clot_slices: Mapping[str, Sequence[int]], selection: Selection, seed: int
) -> dict[str, tuple[int, ...]]:
    """Picks slices of each case: all, those with clot, or those and as many without, evenly over cases.

    Where a case has too few slices without clot, the others give more of theirs.

    Args:
        slices_of: how many slices each case has.
        clot_slices: the numbers of its slices that hold clot.
        selection: the rule.
        seed: decides which slices without clot are drawn; their names and numbers do the rest.

    Returns:
        Slice numbers of each case, rising; empty for a case of which nothing is taken.
    """
    if selection == "all":
        return {case: tuple(range(count)) for case, count in slices_of.items()}
    if selection == "clot":
        return {case: tuple(clot_slices[case]) for case in slices_of}
    free = {
        case: sorted(set(range(count)) - set(clot_slices[case]), key=partial(_hash, seed, case))
        for case, count in slices_of.items()
    }
    quotas = _share_evenly(
        sum(len(clot_slices[case]) for case in slices_of),
        {case: len(numbers) for case, numbers in free.items()},
        seed,
    )
    return {case: tuple(sorted([*clot_slices[case], *free[case][: quotas[case]]])) for case in slices_of}


def slices_of_cohort(cohorts: Cohorts, cohort: str, slicing: SliceConfig) -> dict[str, tuple[int, ...]]:
    """Which slices of each case of a cohort are taken.

    Validation is always on all, or its score would not compare.
    """
    return choose_slices(
        {entry.case.name: entry.shape[2] for entry in cohorts.of(cohort)},
        cohorts.clot_slices,
        slicing.slices if cohort == "Training" else "all",
        cohorts.seed,
    )


def _share_evenly(wanted: int, available: Mapping[str, int], seed: int) -> dict[str, int]:
    """Parts of `wanted` that differ by one at most, but where a case has no more to give."""
    quotas = dict.fromkeys(available, 0)
    wanted = min(wanted, sum(available.values()))
    while wanted:
        open_cases = sorted(
            (case for case in available if quotas[case] < available[case]),
            key=lambda case: _hash(seed, case, -1),
        )
        part = max(1, wanted // len(open_cases))
        for case in open_cases:
            given = min(part, available[case] - quotas[case], wanted)
            quotas[case] += given
            wanted -= given
    return quotas


def _hash(seed: int, case: str, number: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{case}\0{number}".encode()).digest()
