"""`clotseg train`, as it happens: sliced cohorts in; a run folder with weights and history out."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import Config, TrainConfig
from clotseg.console import Progress
from clotseg.dali.feed import (
    Feed,
    FeedSettings,
    ReplicaBatch,
    SlicedCohort,
    open_cohort,
    padded_size,
)
from clotseg.dali.order import EpochPlan, plan_pass, plan_training
from clotseg.dashboard import TrainingView
from clotseg.errors import ConfigError
from clotseg.prep.cohorts import Cohorts, read_cohorts
from clotseg.prep.offline import read_augmented
from clotseg.prep.slices import channel_count
from clotseg.prep.stages import read_sliced, sliced_config
from clotseg.project import Project, Run
from clotseg.train.checkpoint import Description, read_description, save_checkpoint
from clotseg.train.devices import Devices, open_devices
from clotseg.train.records import (
    EpochRow,
    append_augmentations,
    append_history,
    open_run,
    read_history,
    read_record,
    runs,
    training_key,
)
from clotseg.train.step import CountStep, TrainStep, make_count_step, make_train_step
from clotseg.train.unet import Model, build_unet

VALIDATION_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """All that stays the same from the first epoch to the last."""

    config: Config
    training: SlicedCohort
    validation: SlicedCohort
    feed: FeedSettings
    model: Model
    optimizer: Any
    train_step: TrainStep
    count_step: CountStep
    view: TrainingView

    @property
    def replicas(self) -> int:
        """How many copies of the network train together."""
        return len(self.feed.gpus)


def train(project: Project, config: Config, view: TrainingView) -> dict[str, Any]:
    """Trains on what `prep` published.

    Returns:
        `{"run", "best", "epochs", "val_dice"}`, paths as `Project.shown` gives them.

    Raises:
        CorruptArtifactError: the sliced cohorts are missing, damaged or of another split.
        ConfigError: the settings do not fit the slices or the devices.
        EnvironmentProblem: devices are missing, or the disk refuses.
    """
    cohorts = read_cohorts(project)
    validation = read_sliced(project, "Validation")
    folder, training = _training_slices(project, config)
    # With the slice stage off these may be other than those asked for; the network must know what it was fed.
    config = replace(config, slice=sliced_config(validation))
    size = input_size(config, cohorts)
    devices = open_devices(config.runtime)
    opened = open_cohort(folder, training), open_cohort(project.sliced / "Validation", validation)
    session = _open_session(config, opened, size, devices, view)
    key = training_key(config, training["key"])
    best: EpochRow | None = None
    with (
        open_run(project, config, cohorts.key, key, str(devices)) as run,
        view.run(run.folder.name, str(devices), config.train.epochs),
    ):
        for epoch in range(1, config.train.epochs + 1):
            row = _run_epoch(session, run, epoch)
            append_history(run, row)
            best = _keep(session, run, row, best)
            view.epoch_done(row)
    return _outcome(project, run)


def train_or_reuse(
    project: Project, config: Config, progress: Progress, view: TrainingView
) -> dict[str, Any]:
    """As `train`, but takes a finished run of the same settings and slices where there is one."""
    key = training_key(config, _training_slices(project, config)[1]["key"])
    for run in reversed(runs(project)):
        record = read_record(run)
        if record["state"] == "finished" and record["key"] == key:
            progress.say("train", state="reused", run=run.folder.name)
            return _outcome(project, run)
    return train(project, config, view)


def _outcome(project: Project, run: Run) -> dict[str, Any]:
    return {
        "run": project.shown(run.folder),
        "best": project.shown(run.best),
        "epochs": len(read_history(run)),
        "val_dice": read_description(run.best).val_dice,
    }


def input_size(config: Config, cohorts: Cohorts) -> int:
    """Side of the square that slices are padded to, in pixels.

    Raises:
        ConfigError: a slice of some cohort is larger than the size asked for.
    """
    if config.feed.size == "auto":
        return padded_size(cohorts.largest_slice)
    if cohorts.largest_slice > config.feed.size:
        raise ConfigError(
            f"the largest slice has {cohorts.largest_slice} pixels a side, more than {config.feed.size}",
            where="feed.size",
            fix=f"use `--size auto`, or `--size {padded_size(cohorts.largest_slice)}`",
        )
    return config.feed.size


def volume_dice(counts: NDArray[np.int64]) -> float:
    """Mean Dice over volumes that have a clot; over all where none has.

    Args:
        counts: int64 [volumes, 3]: voxels in both prediction and mask, in the prediction, in the mask.

    Returns:
        The mean; a volume where both are empty counts as 1.
    """
    overlap, predicted, truth = counts.T
    total = predicted + truth
    dice = np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)
    has_clot = truth > 0
    return float(dice[has_clot].mean() if has_clot.any() else dice.mean())


def _training_slices(project: Project, config: Config) -> tuple[Path, dict[str, Any]]:
    """Folder and manifest of the slices to train on."""
    if config.train.source == "augmented":
        return project.augmented / "Training", read_augmented(project)
    return project.sliced / "Training", read_sliced(project, "Training")


def _open_session(
    config: Config,
    opened: tuple[SlicedCohort, SlicedCohort],
    size: int,
    devices: Devices,
    view: TrainingView,
) -> Session:
    import keras

    if config.train.batch_size % devices.replicas:
        raise ConfigError(
            f"a batch of {config.train.batch_size} cannot be shared evenly by {devices.replicas} devices",
            where="--batch-size",
            fix=f"choose a multiple of {devices.replicas}",
        )
    keras.utils.set_random_seed(config.train.seed)
    with devices.strategy.scope():
        model = build_unet(config.network, size=size, channels=channel_count(config.slice))
        optimizer = keras.optimizers.Adam(config.train.learning_rate)
        optimizer.build(model.trainable_variables)
    return Session(
        config=config,
        training=opened[0],
        validation=opened[1],
        feed=FeedSettings(
            size=size,
            channels=channel_count(config.slice),
            gpus=devices.gpus,
            threads=devices.threads,
            prefetch=config.runtime.prefetch,
        ),
        model=model,
        optimizer=optimizer,
        train_step=make_train_step(devices.strategy, model, optimizer, config.train),
        count_step=make_count_step(devices.strategy, model, VALIDATION_THRESHOLD),
        view=view,
    )


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, from 1."""
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / config.epochs)) / 2


def _run_epoch(session: Session, run: Run, epoch: int) -> EpochRow:
    started = time.perf_counter()
    config = session.config.train
    session.optimizer.learning_rate.assign(learning_rate(config, epoch))
    samples = session.training.records if config.train_samples == "all" else config.train_samples
    plan = plan_training(
        session.training,
        samples=samples,
        batch_size=config.batch_size,
        replicas=session.replicas,
        seed=config.seed,
        epoch=epoch,
    )
    loss, waited_s = _train_pass(session, run, plan, epoch)
    train_s = time.perf_counter() - started
    val_dice = volume_dice(_validation_pass(session))
    return EpochRow(
        epoch=epoch,
        loss=loss,
        val_dice=val_dice,
        learning_rate=learning_rate(config, epoch),
        seconds=time.perf_counter() - started,
        slices_per_s=samples / train_s,
        waiting=waited_s / train_s,
    )


def _train_pass(session: Session, run: Run, plan: EpochPlan, epoch: int) -> tuple[float, float]:
    """Mean loss of the steps, and seconds spent waiting for input."""
    config = session.config
    to_log = config.runtime.log_augment
    feed = Feed(
        session.training,
        plan,
        session.feed,
        augment=config.augment if config.train.source == "sliced" else None,
        seed=config.train.seed,
        epoch=epoch,
        log_parameters=to_log > 0 and config.train.source == "sliced",
    )
    session.view.epoch_begins(epoch, len(plan.uids))
    losses: list[float] = []
    in_flight: list[Any] = []
    for batches, weights in zip(feed, plan.weights, strict=True):
        in_flight.append((session.train_step(batches, weights), batches))
        to_log -= _log_augmentations(run, epoch, batches, to_log)
        if len(in_flight) > 1:
            # Reading the loss of the step before waits for it; only then may its batch be let go.
            losses.append(float(in_flight.pop(0)[0]))
            session.view.step_done(losses[-1], config.train.batch_size, feed.waited_s)
    losses.append(float(in_flight.pop()[0]))
    session.view.step_done(losses[-1], config.train.batch_size, feed.waited_s)
    return float(np.mean(losses)), feed.waited_s


def _log_augmentations(run: Run, epoch: int, batches: list[ReplicaBatch], most: int) -> int:
    """Writes down how the next samples were augmented, `most` at most; returns how many it wrote."""
    uids = [int(uid) for batch in batches for uid in batch.uids][:most]
    if uids:
        append_augmentations(
            run, epoch, uids, [record for batch in batches for record in batch.parameters][:most]
        )
    return len(uids)


def _validation_pass(session: Session) -> NDArray[np.int64]:
    """Voxel counts of each validation volume, int64 [volumes, 3]: every slice once, none augmented."""
    cohort = session.validation
    plan = plan_pass(cohort, batch_size=session.config.train.batch_size, replicas=session.replicas)
    counts = np.zeros((len(cohort.case_names), 3), np.int64)
    session.view.validation_begins(len(plan.uids))
    for batches, uids, weights in zip(Feed(cohort, plan, session.feed), plan.uids, plan.weights, strict=True):
        counted = session.count_step(batches) * weights.reshape(-1, 1).astype(np.int64)
        np.add.at(counts, cohort.case_of[uids.ravel()], counted)
        session.view.validation_step_done()
    return counts


def _keep(session: Session, run: Run, row: EpochRow, best: EpochRow | None) -> EpochRow:
    """Saves the last weights, and the best where these are; returns the best epoch so far."""
    description = Description(
        network=session.config.network,
        slicing=session.config.slice,
        size=session.feed.size,
        channels=channel_count(session.config.slice),
        epoch=row.epoch,
        val_dice=row.val_dice,
    )
    save_checkpoint(run.checkpoints, session.model, description)
    if best is not None and row.val_dice <= best.val_dice:
        return best
    save_checkpoint(run.best, session.model, description)
    return row
