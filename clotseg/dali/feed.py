"""Feeding: a sliced cohort in; for each step of an epoch, one batch a replica as TensorFlow tensors out.

The order of the epoch is handed to DALI as index files, and what augmentation does to each of its positions
as arrays. So what comes out at a position is the same however many replicas, workers and threads share the
epoch, and whether it is read from its start or taken up at a later step.

Where DALI's operators augment, DALI is run for some steps at a time.

A pipeline reads its whole index when it is opened. So it is given a stretch of the epoch, and the pipeline of
the next stretch is opened while the first runs: an epoch starts as soon whether it is short or long.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import AugmentConfig
from clotseg.dali.augment.draws import EpochDraws
from clotseg.dali.augment.parameters import Columns, ParameterRecord, to_records
from clotseg.dali.indices import index_files, read_index
from clotseg.dali.order import EpochPlan
from clotseg.dali.relay import Leg, Relay, stretches
from clotseg.errors import CorruptArtifactError
from clotseg.prep.shards import index_name

if TYPE_CHECKING:
    from clotseg.dali.augment.transforms import Bounds

Tensor = Any  # TensorFlow ships no types

AT_ONCE = 64
"""Operators take a while to start, so they augment up to so many slices of some steps together."""

STRETCH, FIRST_STRETCH = 2**13, 2**11
"""So many slices a pipeline is opened for, the first of a long epoch for fewer, as training waits for it.
Opening one takes about 30 ms, and 6 µs more a slice where one in six is followed by another shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicedCohort:
    """The records of a sliced cohort.

    Attributes:
        shards: TFRecord files.
        offsets: where each shard's records lie, int64 [records, 2] of (offset, size) in bytes.
        case_of: number of each record's case in `case_names`, int64 [records of the cohort].
        case_names: the cases, in order.
        has_clot: whether each record holds clot, bool [records of the cohort]; None where that is not known.
    """

    shards: tuple[Path, ...]
    offsets: tuple[NDArray[np.int64], ...]
    case_of: NDArray[np.int64]
    case_names: tuple[str, ...]
    has_clot: NDArray[np.bool_] | None = None

    @property
    def records(self) -> int:
        """How many slices the cohort has."""
        return len(self.case_of)

    @property
    def first_uids(self) -> NDArray[np.int64]:
        """The uid of each shard's first record, and then the number of all: int64 [shards + 1]."""
        return np.concatenate([[0], np.cumsum([len(offsets) for offsets in self.offsets])])


def padded_size(largest_slice: int, step: int) -> int:
    """The smallest multiple of `step` that holds slices of this side, in pixels."""
    return -(-largest_slice // step) * step


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
        read_index(path.with_name(index_name(path.name)), path, shard["records"])
        for path, shard in zip(shards, manifest["shards"], strict=True)
    )
    records = [case["records"] for case in manifest["cases"]]
    return SlicedCohort(
        shards=shards,
        offsets=offsets,
        case_of=np.repeat(np.arange(len(records)), records),
        case_names=tuple(case["case"] for case in manifest["cases"]),
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
        gpus: the GPU of each replica that is served, or None for each replica on the CPU.
        threads: CPU threads for each replica.
        prefetch: batches made ahead for each replica at least.
    """

    size: int
    channels: int
    gpus: tuple[int | None, ...]
    threads: int
    prefetch: int


class Feed:
    """One epoch of batches, or the rest of one: iterate over it once.

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
        first_step: int = 0,
        replicas: Sequence[int] | None = None,
    ) -> None:
        """Opens the pipelines of each replica that is served; they start at once.

        Args:
            cohort: the records.
            plan: which of them goes where in the epoch.
            settings: of the pipelines; `gpus` has one entry for each replica that is served.
            augment: how slices are augmented; None leaves them as they are.
            seed: of the run; with `epoch` and its position in the epoch it decides what is done to a sample.
            epoch: number of the epoch.
            log_parameters: whether the batches tell what was done to them.
            first_step: the step to start at; the batches from there on are those of the whole epoch.
            replicas: which of the plan's replicas are served, in the order of `gpus`; None is all of them.
        """
        self._plan = plan
        self._settings = settings
        self._first_step = first_step
        self._served = range(plan.uids.shape[1]) if replicas is None else replicas
        steps, _, batch = plan.uids.shape
        self._bounds = None if augment is None else _bounds(augment, settings)
        self._steps_a_run = _steps_a_run(self._bounds, settings, batch, steps - first_step)
        self._log_parameters = log_parameters
        self.waited_s = 0.0
        spread = (self._ahead + 1) * self._steps_a_run * plan.uids[0].size
        self._draws = EpochDraws(augment or AugmentConfig(), seed=seed, epoch=epoch, spread=spread)
        builder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clotseg-feed")
        first, length = (max(1, slices // (self._steps_a_run * batch)) for slices in (FIRST_STRETCH, STRETCH))
        self._relays = [
            Relay(
                stretches(range(self.runs), first=first, length=length),
                partial(self._build, cohort, replica, gpu),
                builder,
            )
            for replica, gpu in zip(self._served, settings.gpus, strict=True)
            if self.runs
        ]

    def _build(self, cohort: SlicedCohort, replica: int, gpu: int | None, runs: range) -> Callable[[], Leg]:
        """Builds the pipeline that makes these of the replica's runs; what it gives starts them."""
        from clotseg.dali.pipeline import Augmentation, slice_pipeline

        steps = slice(self._first_step + runs.start * self._steps_a_run, None)
        uids = self._plan.uids[steps, replica][: len(runs) * self._steps_a_run]
        ahead = min(len(runs), self._ahead)
        log: deque[Columns] = deque()
        parameters = partial(self._parameters, replica, runs.start, log)
        with index_files(cohort, uids.ravel()) as (shards, indices):
            pipeline = slice_pipeline(
                shards=shards,
                indices=indices,
                size=self._settings.size,
                augment=None
                if self._bounds is None
                else Augmentation(bounds=self._bounds, parameters=parameters),
                batch_size=self._steps_a_run * uids.shape[1],
                threads=self._settings.threads,
                device_id=gpu,
                prefetch=ahead,
            )
        return partial(Leg, pipeline, runs=len(runs), ahead=ahead, log=log)

    @property
    def _ahead(self) -> int:
        """Runs that a pipeline makes ahead."""
        return -(-self._settings.prefetch // self._steps_a_run)

    def _parameters(self, replica: int, first_run: int, log: deque[Columns], number: int) -> Columns:
        """What is done to the slices of one run of a pipeline, those of each step in turn."""
        _, replicas, count = self._plan.uids.shape
        step = self._first_step + (first_run + number) * self._steps_a_run
        shared = self._draws.columns(step * replicas * count, self._steps_a_run * replicas * count)
        columns = {name: _share(values, replica, replicas, count) for name, values in shared.items()}
        if self._log_parameters:
            log.append(columns)
        return columns

    @property
    def steps_a_run(self) -> int:
        """Steps whose slices DALI makes together."""
        return self._steps_a_run

    @property
    def runs(self) -> int:
        """How many runs a replica's pipelines make."""
        return -(-(len(self._plan.uids) - self._first_step) // self._steps_a_run)

    def take_run(self) -> list[tuple[Sequence[Any], Columns | None]]:
        """The next run of each replica as DALI gives it, instead of iterating."""
        return [relay.take() for relay in self._relays]

    def __iter__(self) -> Iterator[list[ReplicaBatch]]:
        """Yields each step's batches, one for each replica that is served.

        Raises:
            CorruptArtifactError: a record is not the one its index and manifest promise.
        """
        runs: list[list[ReplicaBatch]] = []
        for number, uids in enumerate(self._plan.uids[self._first_step :, list(self._served)]):
            place = number % self._steps_a_run
            if place == 0:
                started = time.perf_counter()
                runs = [_to_tensorflow(*taken, self._steps_a_run) for taken in self.take_run()]
                self.waited_s += time.perf_counter() - started
            batches = [of_replica[place] for of_replica in runs]
            for batch, expected in zip(batches, uids, strict=True):
                if not np.array_equal(batch.uids, expected):
                    raise CorruptArtifactError(
                        f"records {expected.tolist()} were due, but the shards hold {batch.uids.tolist()}",
                        where="Processed/Sliced",
                        fix="run `clotseg prep --slice force`",
                    )
            yield batches


def _bounds(augment: AugmentConfig, settings: FeedSettings) -> "Bounds":
    from clotseg.dali.augment.transforms import bounds_of

    return bounds_of(augment, channels=settings.channels, largest_side=settings.size)


def _steps_a_run(bounds: "Bounds | None", settings: FeedSettings, batch: int, steps: int) -> int:
    """How many of the steps that are left DALI makes together."""
    by_operators = bounds is not None and (
        bounds.more_than_six or any(gpu is not None for gpu in settings.gpus)
    )
    return max(1, min(AT_ONCE // batch, steps)) if by_operators else 1


def _share(values: NDArray[Any], replica: int, replicas: int, count: int) -> NDArray[Any]:
    """What is one replica's of the values of some steps, `count` a step."""
    by_replica = values.reshape(-1, replicas, count, *values.shape[1:])[:, replica]
    return np.ascontiguousarray(by_replica).reshape(-1, *values.shape[1:])


def _to_tensorflow(outputs: Sequence[Any], columns: Columns | None, steps: int) -> list[ReplicaBatch]:
    """Hands DALI's buffers to TensorFlow by DLPack, cut into the batches of so many steps.

    No pixel is copied: a part along the first axis shares its buffer, which lives with the last of its parts.
    """
    import tensorflow as tf

    images, masks = (
        tf.experimental.dlpack.from_dlpack(part.as_tensor().__dlpack__()) for part in outputs[:2]
    )
    uids = np.array(outputs[2].as_tensor()).ravel()
    records = [] if columns is None else to_records(columns)
    if steps == 1:
        return [ReplicaBatch(images=images, masks=masks, uids=uids, parameters=records)]
    parts = zip(tf.split(images, steps), tf.split(masks, steps), np.split(uids, steps), strict=True)
    count = len(uids) // steps
    return [
        ReplicaBatch(images=some, masks=of_some, uids=numbers, parameters=records[step * count :][:count])
        for step, (some, of_some, numbers) in enumerate(parts)
    ]
