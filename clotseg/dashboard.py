"""The training dashboard: a live panel on a terminal, one `key=value` line per epoch elsewhere; on stderr."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clotseg.console import PLAIN_INTERVAL_S, PlainProgress, Progress, TerminalProgress

BLOCKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 12
"""Fits beside the longest number at 80 columns."""


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


class TrainingView(Protocol):
    """What the training loop tells of its work."""

    def run(self, name: str, devices: str, epochs: int) -> AbstractContextManager[None]:
        """A run of so many epochs lasts as long as the block."""

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """Epoch `epoch`, from 1, will take `steps` training steps."""

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:
        """A step is done; `waited_s` is the time its epoch has waited for input so far."""

    def validation_begins(self, steps: int) -> None:
        """The validation pass will take `steps` steps."""

    def validation_step_done(self) -> None:
        """A validation step is done."""

    def epoch_done(self, row: EpochFacts) -> None:
        """Training and validation of an epoch are done."""


def open_training_view(progress: Progress) -> TrainingView:
    """A live panel where progress is shown on a terminal, plain lines elsewhere."""
    return (
        LiveTrainingView(progress.console) if isinstance(progress, TerminalProgress) else PlainTrainingView()
    )


class PlainTrainingView:
    """One line per epoch, and one every few seconds within it."""

    def __init__(self) -> None:
        self._progress = PlainProgress()
        self._epochs = self._epoch = self._steps = self._step = 0
        self._last_line = time.monotonic()

    @contextmanager
    def run(self, name: str, devices: str, epochs: int) -> Iterator[None]:
        """See `TrainingView.run`."""
        self._epochs = epochs
        self._progress.say("train", run=name, devices=devices, epochs=epochs)
        yield

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """See `TrainingView.epoch_begins`."""
        self._epoch, self._steps, self._step = epoch, steps, 0

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:  # noqa: ARG002
        """See `TrainingView.step_done`."""
        self._step += 1
        if time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = time.monotonic()
            self._progress.say("step", epoch=self._epoch, step=f"{self._step}/{self._steps}", loss=loss)

    def validation_begins(self, steps: int) -> None:
        """See `TrainingView.validation_begins`."""

    def validation_step_done(self) -> None:
        """See `TrainingView.validation_step_done`."""

    def epoch_done(self, row: EpochFacts) -> None:
        """See `TrainingView.epoch_done`."""
        self._last_line = time.monotonic()
        self._progress.say(
            "epoch",
            epoch=f"{row.epoch}/{self._epochs}",
            loss=row.loss,
            val_dice=row.val_dice,
            learning_rate=row.learning_rate,
            seconds=row.seconds,
            slices_per_s=row.slices_per_s,
            waiting=row.waiting,
        )


@dataclass(slots=True)
class TrainingState:
    """What the panel shows; changed by the loop, read by the drawing."""

    name: str = ""
    devices: str = ""
    epochs: int = 0
    epoch: int = 0
    phase: str = "starting"
    step: int = 0
    steps: int = 0
    slices: int = 0
    waited_s: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    run_started: float = field(default_factory=time.monotonic)
    train_started: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)
    dices: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class LiveTrainingView:
    """A panel that redraws itself a few times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.state = TrainingState()

    @contextmanager
    def run(self, name: str, devices: str, epochs: int) -> Iterator[None]:
        """See `TrainingView.run`."""
        self.state = TrainingState(name=name, devices=devices, epochs=epochs)
        with Live(get_renderable=self.draw, console=self._console, refresh_per_second=4):
            yield

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """See `TrainingView.epoch_begins`."""
        state = self.state
        state.epoch, state.phase, state.step, state.steps = epoch, "training", 0, steps
        state.slices, state.waited_s, state.train_started = 0, 0.0, time.monotonic()

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:
        """See `TrainingView.step_done`."""
        self.state.step += 1
        self.state.slices += slices
        self.state.loss, self.state.waited_s = loss, waited_s

    def validation_begins(self, steps: int) -> None:
        """See `TrainingView.validation_begins`."""
        self.state.phase, self.state.step, self.state.steps = "validating", 0, steps

    def validation_step_done(self) -> None:
        """See `TrainingView.validation_step_done`."""
        self.state.step += 1

    def epoch_done(self, row: EpochFacts) -> None:
        """See `TrainingView.epoch_done`."""
        self.state.losses.append(row.loss)
        self.state.dices.append(row.val_dice)
        self.state.seconds.append(row.seconds)
        self.state.learning_rate = row.learning_rate

    def draw(self) -> RenderableType:
        """The panel as it is now."""
        return draw_training(self.state, time.monotonic(), datetime.now().astimezone())


def draw_training(state: TrainingState, now: float, clock: datetime) -> RenderableType:
    """The panel of a state.

    Args:
        state: what to show.
        now: monotonic time in seconds.
        clock: the time of day.
    """
    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(width=10)
    bars.add_column(ratio=1)
    bars.add_column(min_width=9, no_wrap=True, justify="right")
    done = len(state.losses)
    bars.add_row("epoch", ProgressBar(total=max(state.epochs, 1), completed=done), f"{done}/{state.epochs}")
    steps = f"{state.step}/{state.steps}"
    bars.add_row(state.phase, ProgressBar(total=max(state.steps, 1), completed=state.step), steps)

    facts = Table.grid(padding=(0, 2), expand=True)
    for _ in range(2):
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(no_wrap=True, ratio=1)
    for row in _facts(state, now, clock):
        facts.add_row(*row)
    title = Text(f"training {state.name} on {state.devices}", style="bold")
    return Panel(Group(bars, Text(), facts), title=title, title_align="left", padding=(0, 1))


def _facts(state: TrainingState, now: float, clock: datetime) -> list[tuple[str, str, str, str]]:
    left_s = _seconds_left(state, now)
    left = "–" if left_s is None else str(timedelta(seconds=round(left_s)))
    end = "–" if left_s is None else (clock + timedelta(seconds=left_s)).strftime("%H:%M:%S")
    best = max(state.dices, default=None)
    best_epoch = f" (epoch {state.dices.index(best) + 1})" if best is not None else ""
    trained_s = now - state.train_started
    training = state.phase == "training" and state.slices > 0
    return [
        ("loss", f"{_number(state.loss)} {sparkline(state.losses)}", "time left", left),
        (
            "val Dice",
            f"{_number(state.dices[-1] if state.dices else None)} {sparkline(state.dices)}",
            "ends at",
            end,
        ),
        ("best Dice", f"{_number(best)}{best_epoch}", "learning rate", _number(state.learning_rate)),
        (
            "slices/s",
            f"{state.slices / trained_s:.1f}" if training else "–",
            "waiting",
            f"{state.waited_s / trained_s:.1%} of the time" if training else "–",
        ),
        ("elapsed", str(timedelta(seconds=round(now - state.run_started))), "load", _load()),
    ]


def _seconds_left(state: TrainingState, now: float) -> float | None:
    """From the mean epoch so far; None before the first has ended."""
    if not state.seconds:
        return None
    mean_s = sum(state.seconds) / len(state.seconds)
    in_epoch_s = min(now - state.train_started, mean_s) if state.epoch > len(state.seconds) else 0.0
    return mean_s * (state.epochs - len(state.seconds)) - in_epoch_s


def sparkline(values: list[float], width: int = SPARKLINE_WIDTH) -> str:
    """The last `width` values as blocks, lowest to highest; `×` for one that is no finite number."""
    shown = values[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return "".join(_block(value, low, high) for value in shown)


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "×"
    return BLOCKS[round((value - low) / (high - low) * (len(BLOCKS) - 1)) if high > low else 0]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
