"""The account of a training: what the loop tells in; speed, waiting, time left and the best epoch out.

Times are monotonic, in seconds, and given by the caller. Epochs count from 1.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

WINDOW_S = 5.0
"""Speed "now" is that of the last few seconds."""

MOST_WAITING = 0.05
MOST_LEFT_S = 1e10
LEAST_STEPS = 3
"""From so many steps on an epoch's length is guessed, not counting the first, which builds the graph."""


class EpochFacts(Protocol):
    """What a finished epoch tells; `clotseg.train.records.EpochRow` is one."""

    @property
    def epoch(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def val_dice(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def slices_per_s(self) -> float: ...
    @property
    def waiting(self) -> float: ...


def starvation_advice(waiting: float) -> str | None:
    """What to change where training waited for input for too much of an epoch; None up to 5 %.

    Args:
        waiting: share of the epoch's training time, 0…1.
    """
    if not waiting > MOST_WAITING:
        return None
    return (
        f"training waited for input {waiting:.0%} of this epoch: raise [runtime] threads or prefetch, use a "
        "local disk, or switch off slow [augment] such as blur or clahe"
    )


@dataclass(slots=True)
class TrainingState:
    """What a view shows; changed by the loop, read by the drawing.

    Attributes:
        history: the finished epochs, those before a resume too.
        done: the last finished epoch.
        resumed_after: the last epoch that an earlier process did.
        ends_by: when a time limit ends it; None without one.
        loss: of the last step.
        slices: trained in this epoch.
        waited_s: waited for input in this epoch.
        recent: time and slices of the epoch's last steps.
        messages: time of day and text.
    """

    name: str = ""
    devices: str = ""
    epochs: int = 0
    history: list[EpochFacts] = field(default_factory=list)
    done: int = 0
    resumed_after: int = 0
    run_started: float = 0.0
    ends_by: float | None = None
    epoch: int = 0
    phase: str = "starting"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    slices: int = 0
    waited_s: float = 0.0
    train_started: float = 0.0
    train_ended: float | None = None
    first_step_s: float | None = None
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    messages: deque[tuple[datetime, str]] = field(default_factory=lambda: deque(maxlen=20))

    def begin_run(
        self,
        name: str,
        devices: str,
        epochs: int,
        first_epoch: int,
        history: Sequence[EpochFacts],
        now: float,
        limit_s: float | None = None,
    ) -> None:
        """A run starts, or goes on at `first_epoch` with the epochs of `history` behind it."""
        self.name, self.devices, self.epochs = name, devices, epochs
        self.history = [row for row in history if row.epoch < first_epoch]
        self.done = self.resumed_after = first_epoch - 1
        self.run_started = now
        self.ends_by = None if limit_s is None else now + limit_s

    def begin_epoch(self, epoch: int, steps: int, now: float) -> None:
        """An epoch of so many training steps starts."""
        self.epoch, self.phase, self.step, self.steps = epoch, "training", 0, steps
        self.slices, self.waited_s = 0, 0.0
        self.train_started, self.train_ended, self.first_step_s = now, None, None
        self.recent = deque([(now, 0)])

    def end_step(self, loss: float, slices: int, waited_s: float, now: float) -> None:
        """A training step on so many slices is done; its epoch has waited `waited_s` so far."""
        self.step += 1
        self.slices += slices
        self.loss, self.waited_s = loss, waited_s
        self.first_step_s = now if self.first_step_s is None else self.first_step_s
        self.recent.append((now, self.slices))
        while len(self.recent) > 2 and self.recent[1][0] < now - WINDOW_S:
            self.recent.popleft()

    def begin_validation(self, steps: int, now: float) -> None:
        """The validation pass starts."""
        self.phase, self.step, self.steps, self.train_ended = "validating", 0, steps, now

    def end_epoch(self, row: EpochFacts) -> str | None:
        """An epoch is done; returns advice where it has begun to starve."""
        starved_before = bool(self.history) and self.history[-1].waiting > MOST_WAITING
        self.history.append(row)
        self.done = row.epoch
        return (
            None if starved_before and self.done > self.resumed_after + 1 else starvation_advice(row.waiting)
        )

    @property
    def losses(self) -> list[float]:
        """Of the finished epochs."""
        return [row.loss for row in self.history]

    @property
    def dices(self) -> list[float]:
        """Validation Dice of the finished epochs."""
        return [row.val_dice for row in self.history]

    @property
    def best(self) -> EpochFacts | None:
        """The first epoch with the highest validation Dice."""
        finite = [row for row in self.history if math.isfinite(row.val_dice)]
        return max(finite, key=lambda row: row.val_dice, default=None)

    def speed_now(self, now: float) -> float | None:
        """Slices a second over the last few seconds of training; falls while a step does not end."""
        if self.phase != "training" or not self.slices:
            return None
        (first_s, first), (last_s, last) = self.recent[0], self.recent[-1]
        return (last - first) / max(last_s - first_s, now - last_s, 1e-9)

    def speed_mean(self, now: float) -> float | None:
        """Slices a second over the training steps of this epoch."""
        return self.slices / self._trained_s(now) if self.slices else None

    def waiting(self, now: float) -> float | None:
        """Share of this epoch's training time that was spent waiting for input, 0…1."""
        return min(self.waited_s / self._trained_s(now), 1.0) if self.slices else None

    def _trained_s(self, now: float) -> float:
        return max((now if self.train_ended is None else self.train_ended) - self.train_started, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """By the mean of this process's epochs; before its first, by what is known of it; no more than the
        time limit leaves.

        None where nothing is known, or where it is so much that no calendar has the day.
        """
        by_epochs = self._epochs_left(now)
        if self.ends_by is None:
            return by_epochs
        by_clock = max(self.ends_by - now, 0.0)
        return by_clock if by_epochs is None else min(by_epochs, by_clock)

    def _epochs_left(self, now: float) -> float | None:
        epoch_s = self._epoch_s(now)
        if epoch_s is None:
            return None
        in_epoch_s = min(now - self.train_started, epoch_s) if self.epoch > self.done else 0.0
        left_s = epoch_s * (self.epochs - self.done) - in_epoch_s
        return left_s if left_s < MOST_LEFT_S else None

    def _epoch_s(self, now: float) -> float | None:
        """Mean length of an epoch in seconds, validation included where one has ended."""
        own = [row.seconds for row in self.history if row.epoch > self.resumed_after]
        known = own or [row.seconds for row in self.history]
        if known:
            return sum(known) / len(known)
        if self.train_ended is not None:
            return now - self.train_started
        if self.first_step_s is None or self.step < LEAST_STEPS:
            return None
        step_s = (self.recent[-1][0] - self.first_step_s) / (self.step - 1)
        return self.first_step_s - self.train_started + step_s * (self.steps - 1)
