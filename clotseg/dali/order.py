"""The order of an epoch: a cohort in; which record each replica gets in each step out.

An epoch's order is decided once, for all replicas of all workers together. So the global batches do not
depend on how many replicas share them, every record's place is known, and a pass can be exact: where the last
batch is not full, a record is repeated with weight 0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clotseg.dali.feed import SlicedCohort


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochPlan:
    """Which record goes where in an epoch.

    Attributes:
        uids: int64 [steps, replicas, batch a replica].
        weights: float32 of the same shape, 1 for a slice that counts and 0 for a repeat.
    """

    uids: NDArray[np.int64]
    weights: NDArray[np.float32]


def plan_pass(cohort: "SlicedCohort", *, batch_size: int, replicas: int) -> EpochPlan:
    """One exact pass in file order: each slice counts once."""
    return _plan(np.arange(cohort.records), batch_size, replicas)


def plan_training(
    cohort: "SlicedCohort", *, samples: int, batch_size: int, replicas: int, seed: int, epoch: int
) -> EpochPlan:
    """`samples` slices in random order; each comes up once before any comes up again.

    Shards come in random order, and records in random order within their shard, so files are read one after
    the other however large the cohort is. The order depends on seed and epoch, not on the replicas.
    """
    random = np.random.default_rng([seed, epoch])
    passes = -(-samples // cohort.records)
    order = np.concatenate([_shuffled(cohort, random) for _ in range(passes)])[:samples]
    return _plan(order, batch_size, replicas)


def _shuffled(cohort: "SlicedCohort", random: np.random.Generator) -> NDArray[np.int64]:
    starts = cohort.first_uids
    return np.concatenate(
        [
            starts[shard] + random.permutation(len(cohort.offsets[shard]))
            for shard in random.permutation(len(cohort.shards))
        ]
    )


def _plan(order: NDArray[np.int64], batch_size: int, replicas: int) -> EpochPlan:
    """Fills the last batch with repeats of the last record; `batch_size` is the global one."""
    repeats = -len(order) % batch_size
    shape = (-1, replicas, batch_size // replicas)
    weights = np.concatenate([np.ones(len(order), np.float32), np.zeros(repeats, np.float32)])
    return EpochPlan(
        uids=np.pad(order, (0, repeats), mode="edge").reshape(shape), weights=weights.reshape(shape)
    )
