"""The share of clot in each batch."""

from pathlib import Path

import numpy as np
import pytest

from clotseg.config import Config, FeedConfig, SliceConfig
from clotseg.dali.feed import SlicedCohort
from clotseg.dali.order import plan_training
from clotseg.prep.cohorts import read_cohorts
from clotseg.project import Project
from clotseg.train.session import open_data


def cohort_of(has_clot: np.ndarray) -> SlicedCohort:
    """A cohort of one shard whose records hold clot where they are said to."""
    records = len(has_clot)
    return SlicedCohort(
        shards=(Path("one.tfrecord"),),
        offsets=(np.zeros((records, 2), np.int64),),
        case_of=np.zeros(records, np.int64),
        case_names=("case",),
        has_clot=has_clot,
    )


RARE = np.arange(200) % 20 == 3


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(("share", "least"), [(1 / 3, 4), (0.34, 5), (0.5, 6), (1.0, 12)])
def test_at_least_the_share_of_every_global_batch_holds_clot(share: float, least: int, replicas: int) -> None:
    plan = plan_training(
        cohort_of(RARE), samples=120, batch_size=12, replicas=replicas, seed=1, epoch=1, clot_share=share
    )
    in_batch = RARE[plan.uids].sum(axis=(1, 2))
    assert in_batch.min() == least
    assert plan.weights.sum() == 120


def test_the_order_of_a_seed_and_epoch_is_for_ever_the_same() -> None:
    """As it was first released: a run that is resumed with a later version goes on with the very slices."""
    plan = plan_training(
        cohort_of(RARE), samples=22, batch_size=12, replicas=1, seed=1, epoch=1, clot_share=0.34
    )
    first = [189, 11, 66, 42, 112, 161, 28, 163, 183, 123, 3, 83]
    assert plan.uids.ravel().tolist() == [*first, 132, 12, 3, 124, 72, 7, 41, 143, 63, 23, 23, 23]


def test_slices_with_clot_come_evenly_and_those_without_at_most_once() -> None:
    plan = plan_training(
        cohort_of(RARE), samples=192, batch_size=12, replicas=1, seed=1, epoch=1, clot_share=0.5
    )
    times = np.bincount(plan.uids.ravel(), minlength=200)
    assert times[~RARE].max() == 1
    assert np.ptp(times[RARE]) <= 2, "what gives way is replaced evenly; the rest comes once"


def test_where_there_is_clot_enough_or_none_the_order_is_that_without_a_share() -> None:
    for has_clot in (np.arange(60) % 2 == 0, np.zeros(60, bool)):
        cohort = cohort_of(has_clot)
        plans = [
            plan_training(
                cohort, samples=60, batch_size=20, replicas=1, seed=5, epoch=2, clot_share=share
            ).uids
            for share in (0.0, 0.1)
        ]
        np.testing.assert_array_equal(*plans)


def test_which_records_hold_clot_is_what_the_masks_say(sliced_project: Project) -> None:
    data = open_data(sliced_project, Config(feed=FeedConfig(size=32), slice=SliceConfig(slices_per_shard=8)))
    masks = [
        np.load(sliced_project.masks / f"{name}_seg_corrected_binary.npy")
        for name in read_cohorts(sliced_project).members["Training"]
    ]
    expected = np.concatenate([mask.any(axis=(0, 1)) for mask in masks])
    assert data.training.has_clot is not None
    np.testing.assert_array_equal(data.training.has_clot, expected)
