"""Feeding: a sliced cohort in; for each step of an epoch, one batch a replica as TensorFlow tensors out.

An epoch's order is decided here, once, for all replicas together, and handed to DALI as index files. So the
global batches do not depend on how many replicas share them, every record's place is known, and a pass can be
exact: where the last batch is not full, a record is repeated with weight 0.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import AugmentConfig
from clotseg.dali.augment.parameters import ParameterRecord, to_records
from clotseg.errors import CorruptArtifactError
from clotseg.prep.shards import index_name

Tensor = Any  # TensorFlow ships no types

SIZE_STEP = 16
MOST_REPLICAS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicedCohort:
    """The records of a sliced cohort.

    Attributes:
        shards: TFRecord files.
        offsets: where each shard's records lie, int64 [records, 2] of (offset, size) in bytes.
        case_of: number of each record's case in `case_names`, int64 [records of the cohort].
        case_names: the cases, in order.
    """

    shards: tuple[Path, ...]
    offsets: tuple[NDArray[np.int64], ...]
    case_of: NDArray[np.int64]
    case_names: tuple[str, ...]

    @property
    def records(self) -> int:
        """How many slices the cohort has."""
        return len(self.case_of)


def padded_size(largest_slice: int) -> int:
    """The smallest multiple of 16 that holds slices of this side, in pixels."""
    return -(-largest_slice // SIZE_STEP) * SIZE_STEP


def open_cohort(folder: Path, manifest: dict[str, Any]) -> SlicedCohort:
    """Reads a sliced cohort's indices.

    Args:
        folder: where its shards lie.
        manifest: its manifest.

    Raises:
        CorruptArtifactError: an index does not fit the manifest or its shard.
    """
    shards = tuple(folder / shard["name"] for shard in manifest["shards"])
    offsets = tuple(
        _read_index(path.with_name(index_name(path.name)), path, shard["records"])
        for path, shard in zip(shards, manifest["shards"], strict=True)
    )
    records = [case["records"] for case in manifest["cases"]]
    return SlicedCohort(
        shards=shards,
        offsets=offsets,
        case_of=np.repeat(np.arange(len(records)), records),
        case_names=tuple(case["case"] for case in manifest["cases"]),
    )


def _read_index(index: Path, shard: Path, records: int) -> NDArray[np.int64]:
    try:
        offsets = np.array(index.read_text(encoding="ascii").split(), np.int64).reshape(-1, 2)
    except (OSError, ValueError, OverflowError) as error:
        raise CorruptArtifactError(f"is not a DALI index ({error})", where=index) from error
    ends = offsets.sum(axis=1)
    contiguous = len(offsets) and offsets[0, 0] == 0 and np.array_equal(offsets[1:, 0], ends[:-1])
    if not contiguous or len(offsets) != records or ends[-1] != shard.stat().st_size:
        raise CorruptArtifactError(
            f"does not describe {shard.name} with its {records} records",
            where=index,
            fix="run `clotseg prep --slice force`",
        )
    return offsets


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochPlan:
    """Which record goes where in an epoch.

    Attributes:
        uids: int64 [steps, replicas, batch a replica].
        weights: float32 of the same shape, 1 for a slice that counts and 0 for a repeat.
    """

    uids: NDArray[np.int64]
    weights: NDArray[np.float32]


def plan_pass(cohort: SlicedCohort, *, batch_size: int, replicas: int) -> EpochPlan:
    """One exact pass in file order: each slice counts once."""
    return _plan(np.arange(cohort.records), batch_size, replicas)


def plan_training(
    cohort: SlicedCohort, *, samples: int, batch_size: int, replicas: int, seed: int, epoch: int
) -> EpochPlan:
    """`samples` slices in random order; each comes up once before any comes up again.

    Shards come in random order, and records in random order within their shard, so files are read one after
    the other however large the cohort is. The order depends on seed and epoch, not on the replicas.
    """
    random = np.random.default_rng([seed, epoch])
    passes = -(-samples // cohort.records)
    order = np.concatenate([_shuffled(cohort, random) for _ in range(passes)])[:samples]
    return _plan(order, batch_size, replicas)


def _shuffled(cohort: SlicedCohort, random: np.random.Generator) -> NDArray[np.int64]:
    starts = _first_uids(cohort)
    return np.concatenate(
        [
            starts[shard] + random.permutation(len(cohort.offsets[shard]))
            for shard in random.permutation(len(cohort.shards))
        ]
    )


def _first_uids(cohort: SlicedCohort) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(offsets) for offsets in cohort.offsets])])


def _plan(order: NDArray[np.int64], batch_size: int, replicas: int) -> EpochPlan:
    """Fills the last batch with repeats of the last record; `batch_size` is the global one."""
    repeats = -len(order) % batch_size
    shape = (-1, replicas, batch_size // replicas)
    weights = np.concatenate([np.ones(len(order), np.float32), np.zeros(repeats, np.float32)])
    return EpochPlan(
        uids=np.pad(order, (0, repeats), mode="edge").reshape(shape), weights=weights.reshape(shape)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaBatch:
    """What one replica gets for one step.

    Attributes:
        images: float32 [N, size, size, C], 0…1, on the replica's device.
        masks: float32 [N, size, size, 1].
        uids: int64 [N], as they came out of the records.
        parameters: how each slice was augmented, where the feed logs that.
    """

    images: Tensor
    masks: Tensor
    uids: NDArray[np.int64]
    parameters: list[ParameterRecord]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedSettings:
    """What every pipeline of a run shares.

    Attributes:
        size: side of the padded square, in pixels.
        channels: of every slice.
        gpus: the GPU of each replica, or None for each replica on the CPU.
        threads: CPU threads of each pipeline.
        prefetch: batches each pipeline makes ahead.
    """

    size: int
    channels: int
    gpus: tuple[int | None, ...]
    threads: int
    prefetch: int


class Feed:
    """One epoch of batches: iterate over it once.

    Each epoch and each replica draws its augmentation from a stream of its own.

    Attributes:
        waited_s: how long the iteration has blocked for input so far, in seconds.
    """

    def __init__(
        self,
        cohort: SlicedCohort,
        plan: EpochPlan,
        settings: FeedSettings,
        *,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        epoch: int = 0,
        log_parameters: bool = False,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._log_parameters = log_parameters
        self.waited_s = 0.0
        with tempfile.TemporaryDirectory(prefix="clotseg-index-") as scratch:
            self._pipelines = [
                self._open(cohort, replica, Path(scratch), augment, stream_seed(seed, epoch, replica))
                for replica in range(plan.uids.shape[1])
            ]

    def _open(
        self,
        cohort: SlicedCohort,
        replica: int,
        scratch: Path,
        augment: AugmentConfig | None,
        seed: int,
    ) -> Any:
        from clotseg.dali.pipeline import slice_pipeline

        shards, indices = _write_indices(cohort, self._plan.uids[:, replica].ravel(), scratch, replica)
        return slice_pipeline(
            shards=shards,
            indices=indices,
            size=self._settings.size,
            channels=self._settings.channels,
            augment=augment,
            log_parameters=self._log_parameters,
            batch_size=self._plan.uids.shape[2],
            threads=self._settings.threads,
            seed=seed,
            device_id=self._settings.gpus[replica],
            prefetch=self._settings.prefetch,
        )

    def __iter__(self) -> Iterator[list[ReplicaBatch]]:
        """Yields each step's batches, one a replica.

        Raises:
            CorruptArtifactError: a record is not the one its index and manifest promise.
        """
        for uids in self._plan.uids:
            started = time.perf_counter()
            batches = [_to_tensorflow(pipeline.run()) for pipeline in self._pipelines]
            self.waited_s += time.perf_counter() - started
            for batch, expected in zip(batches, uids, strict=True):
                if not np.array_equal(batch.uids, expected):
                    raise CorruptArtifactError(
                        f"records {expected.tolist()} were due, but the shards hold {batch.uids.tolist()}",
                        where="Processed/Sliced",
                        fix="run `clotseg prep --slice force`",
                    )
            yield batches


def stream_seed(seed: int, epoch: int, replica: int) -> int:
    """The seed of one pipeline. No two of a run are the same, for up to 512 replicas and 4 million epochs.

    DALI heeds 32 bits of a seed, too few for hashes never to meet: so the run's seed is hashed, and epoch and
    replica are counted on from there. DALI hashes what it is given.
    """
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return (start + epoch * MOST_REPLICAS + replica) % 2**31


def _to_tensorflow(outputs: Sequence[Any]) -> ReplicaBatch:
    """Hands DALI's buffers to TensorFlow by DLPack: no pixel is copied; a buffer lives with its tensor."""
    import tensorflow as tf

    images, masks, uids, *parameters = outputs
    return ReplicaBatch(
        images=tf.experimental.dlpack.from_dlpack(images.as_tensor().__dlpack__()),
        masks=tf.experimental.dlpack.from_dlpack(masks.as_tensor().__dlpack__()),
        uids=np.array(uids.as_tensor()).ravel(),
        parameters=to_records([np.array(node.as_tensor()) for node in parameters]) if parameters else [],
    )


def _write_indices(
    cohort: SlicedCohort, uids: NDArray[np.int64], scratch: Path, replica: int
) -> tuple[list[Path], list[Path]]:
    """Index files that lead through `uids` in order: one for each stretch of records in the same shard."""
    starts = _first_uids(cohort)
    shard_of = np.searchsorted(starts, uids, side="right") - 1
    shards, indices = [], []
    for number, stretch in enumerate(np.split(np.arange(len(uids)), np.flatnonzero(np.diff(shard_of)) + 1)):
        shard = int(shard_of[stretch[0]])
        index = scratch / f"{replica}-{number}.idx"
        np.savetxt(index, cohort.offsets[shard][uids[stretch] - starts[shard]], fmt="%d")
        shards.append(cohort.shards[shard])
        indices.append(index)
    return shards, indices
