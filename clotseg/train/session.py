"""What stays the same all through a training: settings and cohorts in; a `Session` out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import Config, SliceConfig, nearest_batches, settled
from clotseg.dali.feed import FeedSettings, SlicedCohort, open_cohort, padded_size
from clotseg.errors import ConfigError
from clotseg.prep.cohorts import Cohorts, read_cohorts
from clotseg.prep.offline import read_augmented
from clotseg.prep.selection import slices_of_cohort
from clotseg.prep.slices import channel_count
from clotseg.prep.stages import read_sliced, sliced_config
from clotseg.project import Project
from clotseg.train.auto import Choice, choose, facts_of, settled_by, slices_an_epoch
from clotseg.train.devices import Devices
from clotseg.train.optimizer import make_optimizer
from clotseg.train.records import training_key
from clotseg.train.step import CountStep, TrainStep, make_count_step
from clotseg.train.unet import Model, build_unet

VALIDATION_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a run is trained and validated on.

    Attributes:
        config: the settings, with the slicing that the slices were made with.
        cohorts: the split.
        training, validation: slices.
        slice_key: of the stage that made the slices to train on.
        asked_key: of the training as it was asked for, whatever was chosen for settings that are `auto`.
        choices: for these.
    """

    config: Config
    cohorts: Cohorts
    training: SlicedCohort
    validation: SlicedCohort
    slice_key: str
    asked_key: str
    choices: tuple[Choice, ...] = ()

    @property
    def key(self) -> str:
        """Of the training: of its settings and its slices."""
        return training_key(self.config, self.slice_key)


def open_data(project: Project, config: Config) -> Data:
    """Opens what `prep` published.

    Raises:
        CorruptArtifactError: the cohorts are missing, damaged or of another split.
    """
    cohorts = read_cohorts(project)
    validation = read_sliced(project, "Validation", cohorts.key)
    folder, training = training_slices(project, config, cohorts.key)
    # With the slice stage off these may be other than those asked for; the network must know what it was fed.
    config = replace(config, slice=sliced_config(validation))
    opened = open_cohort(folder, training)
    if config.train.source == "sliced":
        opened = replace(opened, has_clot=_clots_of(opened, cohorts, config.slice))
    return Data(
        config=config,
        cohorts=cohorts,
        training=opened,
        validation=open_cohort(project.sliced / "Validation", validation),
        slice_key=training["key"],
        asked_key=training_key(config, training["key"]),
    )


def _settled(data: Data, devices: Devices) -> Data:
    """The same with values for all settings that are `auto`."""
    choices = choose(data.config, facts_of(data.config, data.cohorts, data.training, devices))
    return replace(data, config=settled_by(data.config, choices), choices=choices)


def _clots_of(training: SlicedCohort, cohorts: Cohorts, slicing: SliceConfig) -> NDArray[np.bool_]:
    """Whether each record holds clot, from what was found in the masks when the cohorts were made."""
    taken = slices_of_cohort(cohorts, "Training", slicing)
    has_clot = np.zeros(training.records, bool)
    first = 0
    for case in training.case_names:
        clots = set(cohorts.clot_slices[case])
        has_clot[first : first + len(taken[case])] = [number in clots for number in taken[case]]
        first += len(taken[case])
    return has_clot


def training_slices(
    project: Project, config: Config, split_key: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """Folder and manifest of the slices to train on; `split_key` as `read_sliced` takes it."""
    if config.train.source == "augmented":
        return project.augmented / "Training", read_augmented(project)
    return project.sliced / "Training", read_sliced(project, "Training", split_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What trains.

    Attributes:
        data: what on.
        devices: where.
        feed: what every pipeline shares.
        model: the network that learns.
        evaluated: the one that is validated and kept: the same, or the average of its weights.
        optimizer: with its variables.
        train_step: one batch.
        count_step: one batch of validation.
    """

    data: Data
    devices: Devices
    feed: FeedSettings
    model: Model
    evaluated: Model
    optimizer: Any
    train_step: TrainStep
    count_step: CountStep

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.data.config

    @property
    def local_replicas(self) -> range:
        """The numbers of this process's replicas among all."""
        first = self.devices.first_replica
        return range(first, first + len(self.feed.gpus))

    @property
    def local_part(self) -> slice:
        """The same, as a part of the plan's axis of replicas."""
        return slice(self.local_replicas.start, self.local_replicas.stop)

    @property
    def samples(self) -> int:
        """Slices an epoch."""
        return slices_an_epoch(self.config.train, self.data.training)

    @property
    def batch_size(self) -> int:
        """Slices a step, all devices together."""
        return settled(self.config.train.batch_size)

    @property
    def local_batch_size(self) -> int:
        """Those of them that this process trains on."""
        return self.batch_size // self.devices.replicas * len(self.local_replicas)

    @property
    def epochs(self) -> int:
        """After how many the training is done."""
        return settled(self.config.train.epochs)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-self.samples // self.batch_size)

    @property
    def variables(self) -> list[Any]:
        """All that changes while training, in an order that is always the same."""
        averaged = [] if self.evaluated is self.model else self.evaluated.weights
        return [*self.model.weights, *averaged, *self.optimizer.variables, *self.train_step.variables]


def open_session(data: Data, devices: Devices) -> Session:
    """Chooses settings that are `auto`, and builds networks, optimiser and steps on the devices.

    Raises:
        ConfigError: the settings do not fit the slices or the devices.
    """
    import keras
    import tensorflow as tf

    data = _settled(data, devices)
    config = data.config
    _check_fit(config, devices)
    size, channels = input_size(config, data.cohorts), channel_count(config.slice)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.train.seed)
    with devices.strategy.scope(), _precision(config, devices):
        build = partial(build_unet, config.network, size=size, channels=channels, slicing=config.slice)
        model = build()
        evaluated = _same_again(model, build) if config.train.ema_decay else model
        optimizer = make_optimizer(config.train, model)
    averaged = None if evaluated is model else evaluated
    return Session(
        data=data,
        devices=devices,
        feed=FeedSettings(
            size=size,
            channels=channels,
            gpus=devices.gpus,
            threads=devices.threads,
            prefetch=config.runtime.prefetch,
        ),
        model=model,
        evaluated=evaluated,
        optimizer=optimizer,
        train_step=TrainStep(devices, model, averaged, optimizer, config.train),
        count_step=make_count_step(devices, evaluated, VALIDATION_THRESHOLD),
    )


def _same_again(model: Model, build: Callable[[], Model]) -> Model:
    """Another network of the same shape with the same weights."""
    again = build()
    again.set_weights(model.get_weights())
    return again


@contextmanager
def _precision(config: Config, devices: Devices) -> Iterator[None]:
    """Networks built in the block compute in bfloat16 where the settings and the devices say so."""
    import keras

    wanted = config.train.precision
    if wanted == "auto":
        wanted = "bfloat16" if devices.have_bfloat16 else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if wanted == "bfloat16" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_fit(config: Config, devices: Devices) -> None:
    batch, replicas = settled(config.train.batch_size), devices.replicas
    if batch % replicas:
        raise ConfigError(
            f"a batch of {batch} cannot be shared evenly by {replicas} replicas",
            where="--batch-size",
            fix=f"choose {nearest_batches(batch, replicas)}",
        )
    if config.train.xla and replicas > 1:
        raise ConfigError("XLA holds on one device only", where="train.xla", fix="use --no-xla")


def input_size(config: Config, cohorts: Cohorts) -> int:
    """Side of the square that slices are padded to, in pixels.

    Raises:
        ConfigError: a slice of some cohort is larger than the size asked for.
    """
    size = settled(config.feed.size)
    if cohorts.largest_slice > size:
        step = 2 ** settled(config.network.depth)
        raise ConfigError(
            f"the largest slice has {cohorts.largest_slice} pixels a side, more than {size}",
            where="feed.size",
            fix=f"use `--size auto`, or `--size {padded_size(cohorts.largest_slice, step)}`",
        )
    return size
