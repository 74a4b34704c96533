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
    cohort: "SlicedCohort",
    *,
    samples: int,
    batch_size: int,
    replicas: int,
    seed: int,
    epoch: int,
    clot_share: float = 0.0,
) -> EpochPlan:
    """`samples` slices in random order; each comes up once before any comes up again.

    Shards come in random order, and records in random order within their shard, so files are read one after
    the other however large the cohort is. The order depends on seed and epoch, not on the replicas.

    Where less than `clot_share` of a global batch holds clot, the last of its slices without give way to
    slices with, which come in an order of their own, each once before any again.
    """
    random = np.random.default_rng([seed, epoch])
    passes = -(-samples // cohort.records)
    order = np.concatenate([_shuffled(cohort, random) for _ in range(passes)])[:samples]
    if clot_share and cohort.has_clot is not None and cohort.has_clot.any():
        order = _with_clot(order, cohort.has_clot, batch_size, clot_share, random)
    return _plan(order, batch_size, replicas)


def _with_clot(
    order: NDArray[np.int64],
    has_clot: NDArray[np.bool_],
    batch_size: int,
    share: float,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    order = order.copy()
    starts = np.arange(0, len(order), batch_size)
    sizes = np.diff(starts, append=len(order))
    free = ~has_clot[order]
    free_in_batch = np.add.reduceat(free, starts, dtype=np.int64)
    missing = np.ceil(share * sizes).astype(np.int64) - (sizes - free_in_batch)
    free_after = np.repeat(np.cumsum(free_in_batch), sizes) - np.cumsum(free)
    places = np.flatnonzero(free & (free_after < np.repeat(missing, sizes)))
    clots = np.flatnonzero(has_clot)
    passes = -(-len(places) // len(clots))
    order[places] = np.concatenate(
        [np.zeros(0, np.int64), *(random.permutation(clots) for _ in range(passes))]
    )[: len(places)]
    return order


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
