"""`clotseg train`, as it happens: sliced cohorts in; a run folder with weights and history out."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import Config, load_config
from clotseg.console import Progress
from clotseg.dali.feed import Feed, ReplicaBatch
from clotseg.dali.order import plan_pass, plan_training
from clotseg.dashboard import TrainingView
from clotseg.errors import ConfigError, EnvironmentProblem, Interrupted
from clotseg.project import Project, Run
from clotseg.train.ancestry import Ancestry, ancestry, beginning
from clotseg.train.checkpoint import read_description
from clotseg.train.devices import Devices, open_devices
from clotseg.train.keeper import Keeper
from clotseg.train.nonfinite import require_finite
from clotseg.train.optimizer import learning_rate
from clotseg.train.records import (
    EpochRow,
    open_run,
    read_history,
    read_record,
    reopen_run,
    runs,
    training_key,
    trim_augmentations,
)
from clotseg.train.resume import find_fork, load_fork, require_unchanged
from clotseg.train.session import Session, open_data, open_session, training_slices
from clotseg.train.state import Position, newest_state, read_state
from clotseg.train.step import StepResult, sum_over_workers
from clotseg.train.stopping import StopRequest, TimeIsUp, TimeLimit, stop_requests
from clotseg.train.tensorboard import Pictures, draw_overlays, read_slices, slices_to_show


def train(
    project: Project,
    config: Config,
    view: TrainingView,
    *,
    resume: Run | None = None,
    fork: Path | None = None,
) -> dict[str, Any]:
    """Trains on what `prep` published.

    Args:
        project: where the slices are, and the run will be.
        config: the settings.
        view: told of what happens.
        resume: a run to go on with, whose settings and slices must be these.
        fork: a checkpoint, or a run whose newest it is, whose weights a new run begins with.

    Returns:
        `{"run", "best", "epochs", "val_dice"}`, paths as `Project.shown` gives them. Only the first of
        several workers knows them; the others return an empty dictionary.

    Raises:
        CorruptArtifactError: the sliced cohorts or a checkpoint are missing, damaged or of another split.
        ConfigError: the settings do not fit the slices, the devices, or the run to go on with.
        DataError: the loss is no finite number, or the weights to begin with have seen patients to be tested.
        EnvironmentProblem: devices are missing, a worker was lost, or the disk refuses.
        Interrupted: SIGINT or SIGTERM came; the state has been kept.
    """
    limit = TimeLimit(config.runtime.minutes)
    data = open_data(project, config)
    if resume is not None:
        require_unchanged(project, resume, data)
    begun_from = None if fork is None else find_fork(fork)
    origin = None if resume else ancestry(project, data.cohorts, begun_from)
    devices = open_devices(config.runtime)
    if limit.minutes and devices.workers > 1:
        # Each would look at its own clock, and wait for ever for those that end sooner.
        raise ConfigError("several workers cannot end by the clock", where="--minutes", fix="use --epochs")
    session = open_session(data, devices)
    position = Position()
    if resume is not None and (folder := newest_state(resume.checkpoints)):
        position = read_state(folder, session.variables)
    elif begun_from := beginning(project, resume) if resume else begun_from:
        load_fork(begun_from, session)
    folder_of_run = _open_folder(project, session, resume, devices, origin)
    with suppress(TimeIsUp), folder_of_run as run, _lost_workers(devices):
        if run is not None and resume is not None:
            trim_augmentations(run, position.epoch, position.step * session.local_batch_size)
        Training(session, view, run, limit).go_on(position, name=run.folder.name if run else "worker")
    return _outcome(project, run) if run else {}


def train_or_reuse(
    project: Project, config: Config, progress: Progress, view: TrainingView
) -> dict[str, Any]:
    """As `train`, but takes a run of the same settings and slices that was finished, or ended by this time
    limit, or goes on with one that was stopped before, where there is one."""
    had_its_time = str(TimeIsUp(TimeLimit(config.runtime.minutes)))
    key = training_key(config, training_slices(project, config)[1]["key"])
    of_this = [run for run in reversed(runs(project)) if read_record(run).get("asked_key") == key]
    for run in of_this:
        record = read_record(run)
        if record["state"] == "finished" or record.get("reason") == had_its_time:
            progress.say("train", state="reused", run=run.folder.name)
            return _outcome(project, run)
    begun = next((run for run in of_this if newest_state(run.checkpoints)), None)
    if begun is not None:
        # What was `auto` has been chosen; the run says what.
        config = replace(load_config(begun.settings), runtime=config.runtime)
    return train(project, config, view, resume=begun)


def _outcome(project: Project, run: Run) -> dict[str, Any]:
    return {
        "run": project.shown(run.folder),
        "best": project.shown(run.best),
        "epochs": len(read_history(run)),
        "val_dice": read_description(run.best).val_dice,
    }


@contextmanager
def _open_folder(
    project: Project, session: Session, resume: Run | None, devices: Devices, origin: Ancestry | None
) -> Iterator[Run | None]:
    """The run's folder, for the one process that writes it."""
    if not devices.chief:
        yield None
    elif resume is not None:
        with reopen_run(resume, str(devices)) as run:
            yield run
    else:
        data = session.data
        keys = {"key": data.key, "asked_key": data.asked_key, "split_key": data.cohorts.key}
        chosen = {choice.setting: choice.reason for choice in data.choices}
        known = {"chosen": chosen, "ancestry": origin.recorded() if origin else {}}
        with open_run(project, data.config, str(devices), known=known, **keys) as run:
            yield run


@contextmanager
def _lost_workers(devices: Devices) -> Iterator[None]:
    """Tells in the user's words that another worker is gone."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if devices.workers == 1:
            raise
        raise EnvironmentProblem(
            f"another worker was lost ({type(error).__name__})",
            where=f"worker {devices.place.worker} of {devices.workers}",
            fix="see what that worker said last, then start all of them again with --resume",
        ) from error


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


PICTURES = 4
"""Validation slices that are drawn after each epoch."""


@dataclass(slots=True)
class InFlight:
    """A step that may not have been computed yet; its batches must live as long."""

    told: Any
    batches: list[ReplicaBatch]
    uids: NDArray[np.int64]


class Training:
    """Epochs from a position to the end.

    Args:
        session: what trains.
        view: told of what happens.
        run: where the files go; None for all workers but the first.
        limit: when to end before that.
    """

    def __init__(self, session: Session, view: TrainingView, run: Run | None, limit: TimeLimit) -> None:
        self._session, self._view, self._run, self._limit = session, view, run, limit
        self._keeper = Keeper(session, run, view)
        self._clot_pixels = np.zeros(session.data.validation.records, np.int64)
        self._shown: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def go_on(self, position: Position, *, name: str) -> None:
        """Trains until the epochs are done or the validation Dice rises no more.

        Raises:
            TimeIsUp: that was not yet so when the time limit came; everything has been kept.
        """
        begin = position
        epochs = self._session.epochs
        devices = self._session.devices
        shown = self._view.run(
            name,
            str(devices),
            epochs,
            first_epoch=position.epoch,
            history=position.rows,
            gpus=0 if devices.on_cpu else len(devices.gpus),
            limit_s=self._limit.left_s,
        )
        with shown, stop_requests(self._tell_stopping) as stop:
            self._keeper.begin(position)
            for choice in self._session.data.choices:
                self._view.message(str(choice))
            if self._session.config.train.clot_share and self._session.data.training.has_clot is None:
                self._view.message("slices augmented offline do not tell which hold clot: no clot_share")
            if position != Position():
                self._view.message(f"resumed in epoch {position.epoch}, step {position.step}")
            while not (over := self._over(position)):
                if self._limit.over and position is not begin:
                    break
                position = self._train_pass(position, stop)
                position = self._validate(position, stop)
                self._keeper.epoch_done(position, self._overlays())
                self._view.epoch_done(position.rows[-1])
        self._keeper.finish()
        if not over:
            reached = TimeIsUp(self._limit)
            self._view.message(f"{reached}; --resume goes on")
            raise reached

    def _over(self, position: Position) -> bool:
        config = self._session.config.train
        if config.patience and position.stale(config.min_improvement) >= config.patience:
            self._view.message(f"stopped early: no better validation Dice for {config.patience} epochs")
            return True
        return position.epoch > self._session.epochs

    def _tell_stopping(self, _signal: int) -> None:
        self._view.message("stopping after this step, with a checkpoint; once more stops at once")

    def _stop(self, position: Position, stop: StopRequest) -> None:
        """Keeps the state and ends the process's training.

        Raises:
            Interrupted: always. A worker that got no signal itself ends as by SIGTERM.
        """
        import signal

        self._keeper.checkpoint(position)
        raise Interrupted(stop.signal or signal.SIGTERM)

    def _train_pass(self, position: Position, stop: StopRequest) -> Position:
        """The rest of an epoch's batches; at least one, but none beyond the time limit."""
        session, config = self._session, self._session.config
        self._view.epoch_begins(position.epoch, session.steps - position.step)
        if position.step == session.steps:
            return position
        under_way = EpochUnderWay(session, position)
        in_flight: InFlight | None = None
        for number, batches, weights, uids in under_way:
            epochs_done = position.epoch - 1 + number / session.steps
            rate = learning_rate(config.train, epochs_done, self._limit.gone)
            session.optimizer.learning_rate.assign(rate)
            whole = (position.epoch - 1) * session.steps + number
            told = session.train_step(batches, weights, number=whole, stop=bool(stop))
            self._log_augmentations(position.epoch, number, batches, weights)
            # Reading what a step told waits for it; only then may its batch be let go.
            stops = self._settle(under_way, in_flight)
            in_flight = InFlight(told, batches, uids)
            if stops or under_way.checkpoint_due():
                self._settle(under_way, in_flight)
                in_flight = None
                if stops:
                    self._stop(under_way.position, stop)
                self._keeper.checkpoint(under_way.position)
            if self._limit.over:
                break
        if self._settle(under_way, in_flight):
            self._stop(under_way.position, stop)
        return under_way.position

    def _settle(self, under_way: "EpochUnderWay", step: InFlight | None) -> float:
        """Waits for a step, where there is one; tells how many replicas want to stop."""
        if step is None:
            return 0.0
        result = StepResult.of(step.told)
        require_finite(
            result, under_way.epoch, len(under_way.losses), self._session, step.batches, step.uids, self._run
        )
        under_way.losses.append(result.loss)
        self._view.step_done(result.loss, self._session.batch_size, under_way.feed.waited_s)
        return result.stops

    def _log_augmentations(
        self, epoch: int, number: int, batches: list[ReplicaBatch], weights: NDArray[np.float32]
    ) -> None:
        """Writes down how the first samples that this process has of an epoch were augmented."""
        left = self._session.config.runtime.log_augment - number * self._session.local_batch_size
        if left <= 0:
            return
        records = [record for batch in batches for record in batch.parameters]
        if not records:  # Slices that were augmented offline.
            return
        uids = [int(uid) for batch in batches for uid in batch.uids]
        # What only fills the last batch up has no weight.
        counted = [
            (uid, record)
            for uid, record, weight in zip(uids, records, weights.ravel(), strict=True)
            if weight
        ]
        self._keeper.log_augmentations(epoch, counted[:left])

    def _validate(self, position: Position, stop: StopRequest) -> Position:
        """The position after an epoch, with its row."""
        session = self._session
        started = time.perf_counter()
        val_dice = volume_dice(self._count_volumes(position, stop))
        done = len(position.losses) * session.batch_size
        row = EpochRow(
            epoch=position.epoch,
            loss=math.fsum(position.losses) / len(position.losses),
            val_dice=val_dice,
            learning_rate=float(session.optimizer.learning_rate.numpy()),
            seconds=position.seconds + time.perf_counter() - started,
            slices_per_s=min(done, session.samples) / position.seconds,
            waiting=min(position.waited_s / position.seconds, 1.0),
        )
        return Position(epoch=position.epoch + 1, rows=(*position.rows, row))

    def _count_volumes(self, position: Position, stop: StopRequest) -> NDArray[np.int64]:
        """Voxel counts of each validation volume, int64 [volumes, 3]: every slice once, none augmented."""
        session, cohort = self._session, self._session.data.validation
        plan = plan_pass(cohort, batch_size=session.batch_size, replicas=session.devices.replicas)
        uids, weights = plan.uids[:, session.local_part], plan.weights[:, session.local_part]
        counts = np.zeros((len(cohort.case_names), 3), np.int64)
        self._view.validation_begins(len(uids))
        feed = Feed(cohort, plan, session.feed, replicas=session.local_replicas)
        for batches, of_uids, of_weights in zip(feed, uids, weights, strict=True):
            counted = session.count_step(batches) * of_weights.reshape(-1, 1).astype(np.int64)
            np.add.at(counts, cohort.case_of[of_uids.ravel()], counted)
            np.maximum.at(self._clot_pixels, of_uids.ravel(), counted[:, 2])
            self._view.validation_step_done()
            if stop and session.devices.workers == 1:
                self._stop(position, stop)
        return sum_over_workers(session.devices, counts)

    def _overlays(self) -> Pictures | None:
        """A few validation slices with truth and prediction; None where none of them has clot."""
        session, cohort = self._session, self._session.data.validation
        uids = slices_to_show(self._clot_pixels, cohort.case_of, PICTURES)
        if self._run is None or not len(uids):
            return None
        if self._shown is None:
            self._shown = read_slices(cohort, uids, session.feed)
        images, masks = self._shown
        probabilities = session.evaluated(images, training=False).numpy()
        return draw_overlays(images, masks, probabilities, channel=session.config.slice.context)


class EpochUnderWay:
    """The rest of an epoch's batches, and how far it is.

    Attributes:
        feed: where the batches come from.
        losses: of the batches that are done.
    """

    def __init__(self, session: Session, position: Position) -> None:
        config = session.config
        augmented = config.train.source == "sliced"
        self._local = session.local_part
        self._start = position
        self._plan = plan_training(
            session.data.training,
            samples=session.samples,
            batch_size=session.batch_size,
            replicas=session.devices.replicas,
            seed=config.train.seed,
            epoch=position.epoch,
            clot_share=config.train.clot_share,
        )
        self.losses = list(position.losses)
        self._every_s = 60 * config.runtime.checkpoint_minutes
        self._started = self._last_checkpoint = time.perf_counter()
        self.feed = Feed(
            session.data.training,
            self._plan,
            session.feed,
            augment=config.augment if augmented else None,
            seed=config.train.seed,
            epoch=position.epoch,
            log_parameters=config.runtime.log_augment > 0 and augmented,
            first_step=position.step,
            replicas=session.local_replicas,
        )

    def __iter__(
        self,
    ) -> Iterator[tuple[int, list[ReplicaBatch], NDArray[np.float32], NDArray[np.int64]]]:
        """Number in the epoch, the batches and weights of this process's replicas, and the uids of all."""
        for number, batches in enumerate(self.feed, start=self._start.step):
            yield number, batches, self._plan.weights[number, self._local], self._plan.uids[number]

    @property
    def epoch(self) -> int:
        """From 1."""
        return self._start.epoch

    @property
    def position(self) -> Position:
        """How far the training is."""
        return replace(
            self._start,
            step=len(self.losses),
            losses=tuple(self.losses),
            seconds=self._start.seconds + time.perf_counter() - self._started,
            waited_s=self._start.waited_s + self.feed.waited_s,
        )

    def checkpoint_due(self) -> bool:
        """Whether it is time for a checkpoint, again and again."""
        now = time.perf_counter()
        if not self._every_s or now - self._last_checkpoint < self._every_s:
            return False
        self._last_checkpoint = now
        return True
