"""Keeping: weights, states and history in; files that neither a kill nor a full disk can harm out.

A write that is refused is told, and made up for at the next chance: what is worth keeping stays in memory
until then, and the last good files stay where they are.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from clotseg import artifact
from clotseg.dali.augment.parameters import ParameterRecord
from clotseg.dashboard import TrainingView
from clotseg.errors import EnvironmentProblem
from clotseg.prep.slices import channel_count
from clotseg.project import Run
from clotseg.train.checkpoint import Description, save_checkpoint
from clotseg.train.records import EpochRow, append_augmentations, write_history
from clotseg.train.session import Session
from clotseg.train.state import Position, thin_out, write_state
from clotseg.train.tensorboard import Events, Pictures


@dataclass(slots=True)
class Keeper:
    """Writes into a run's folder; where `run` is None, as for all workers but the first, it does nothing.

    Attributes:
        session: whose networks are kept.
        run: where.
        view: told of refused writes.
    """

    session: Session
    run: Run | None
    view: TrainingView
    _events: Events | None = field(default=None, init=False)
    _best: tuple[EpochRow, list[Any]] | None = field(default=None, init=False)
    _refusal: EnvironmentProblem | None = field(default=None, init=False)

    def begin(self, position: Position) -> None:
        """Takes away the events of epochs that will be done again.

        Raises:
            EnvironmentProblem: the disk is full or refuses the write.
        """
        if self.run is not None:
            self._events = Events(self.run, position.rows)

    def epoch_done(self, position: Position, pictures: Pictures | None = None) -> None:
        """Keeps an epoch: its weights where they are the best, history, events, and the state.

        Args:
            position: after the epoch.
            pictures: of validation slices, uint8 [n, row, column, RGB].
        """
        if self.run is None:
            return
        self._write_events(position.rows[-1], pictures)
        row = position.rows[-1]
        if position.best is row:
            # In memory alone until it is written, since the network goes on.
            self._best = (row, self.session.evaluated.get_weights())
        self.checkpoint(position)

    def checkpoint(self, position: Position) -> None:
        """Keeps the state, and what an earlier refusal has held up."""
        if self.run is None:
            return
        try:
            if self._best is not None:
                self._write_best(self.run, *self._best)
                self._best = None
            if position.rows:
                write_history(self.run, position.rows)
            self._write_state(self.run, position)
        except EnvironmentProblem as problem:
            self._refusal = problem
            self.view.message(f"could not save, training goes on: {problem.where}: {problem.what}")
        else:
            self._refusal = None

    def log_augmentations(self, epoch: int, samples: Sequence[tuple[int, ParameterRecord]]) -> None:
        """Adds samples, each a uid and its parameters, to the log of an epoch."""
        if self.run is None:
            return
        try:
            append_augmentations(self.run, epoch, samples)
        except EnvironmentProblem as problem:
            self.view.message(
                f"augmentation is not logged, training goes on: {problem.where}: {problem.what}"
            )

    def _write_events(self, row: EpochRow, pictures: Pictures | None) -> None:
        if self._events is None:
            return
        # Refused events are tried again with the next, and are too little to tell of.
        with suppress(EnvironmentProblem):
            self._events.epoch(row)
            if pictures is not None:
                self._events.overlays(row.epoch, pictures)

    def finish(self) -> None:
        """Ends the keeping.

        Raises:
            EnvironmentProblem: the last write was refused.
        """
        if self._refusal is not None:
            raise self._refusal

    def _write_best(self, run: Run, row: EpochRow, weights: list[Any]) -> None:
        model = self.session.evaluated
        present = model.get_weights()
        model.set_weights(weights)
        try:
            save_checkpoint(run.best, model, self._description(row))
        finally:
            model.set_weights(present)

    def _write_state(self, run: Run, position: Position) -> None:
        with artifact.publish(run.checkpoints / position.name) as folder:
            if position.step == 0 and position.rows:
                save_checkpoint(folder, self.session.evaluated, self._description(position.rows[-1]))
            write_state(folder, position, self.session.variables)
        with artifact.writing(run.checkpoints):
            thin_out(run.checkpoints, self.session.config.runtime.keep_checkpoints)

    def _description(self, row: EpochRow) -> Description:
        config = self.session.config
        return Description(
            network=config.network,
            slicing=config.slice,
            size=self.session.feed.size,
            channels=channel_count(config.slice),
            flips=config.augment.flips,
            epoch=row.epoch,
            val_dice=row.val_dice,
        )
