"""The views: what the loop tells, as it tells it, in; a panel that redraws itself, or plain lines, out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Protocol

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live

from clotseg.console import PLAIN_INTERVAL_S, PlainProgress, Progress, TerminalProgress
from clotseg.dashboard.panel import draw_training
from clotseg.dashboard.state import EpochFacts, TrainingState
from clotseg.telemetry import DeviceLoad, Telemetry


class TrainingView(Protocol):
    """What the training loop tells of its work."""

    def run(
        self,
        name: str,
        devices: str,
        epochs: int,
        first_epoch: int = 1,
        history: Sequence[EpochFacts] = (),
        gpus: int = 0,
        limit_s: float | None = None,
    ) -> AbstractContextManager[None]:
        """A run lasts as long as the block.

        Args:
            name: of the run.
            devices: what it runs on, for people.
            epochs: how many it has in all.
            first_epoch: the first that is still to be done; above 1 where a run is resumed.
            history: the epochs that were done before.
            gpus: how many of the GPUs it uses, to watch their load.
            limit_s: after how many seconds it ends at the latest, where it does.
        """

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """Epoch `epoch`, from 1, will take `steps` training steps."""

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:
        """A step is done; `waited_s` is the time its epoch has waited for input so far."""

    def validation_begins(self, steps: int) -> None:
        """The validation pass will take `steps` steps."""

    def validation_step_done(self) -> None:
        """A validation step is done."""

    def epoch_done(self, row: EpochFacts) -> None:
        """Training and validation of an epoch are done; where it starved, the view says what to change."""

    def message(self, text: str) -> None:
        """Something the user should know, in a sentence: a warning, or from where the run goes on."""


def open_training_view(progress: Progress) -> TrainingView:
    """A live panel where progress is shown on a terminal, plain lines elsewhere."""
    return (
        LiveTrainingView(progress.console) if isinstance(progress, TerminalProgress) else PlainTrainingView()
    )


class _AccountKeeper:
    """What both views do alike: they keep the account and watch the devices."""

    def __init__(self) -> None:
        self.state = TrainingState()
        self._telemetry = Telemetry()

    @contextmanager
    def run(
        self,
        name: str,
        devices: str,
        epochs: int,
        first_epoch: int = 1,
        history: Sequence[EpochFacts] = (),
        gpus: int = 0,
        limit_s: float | None = None,
    ) -> Iterator[None]:
        """See `TrainingView.run`."""
        self.state, self._telemetry = TrainingState(), Telemetry(gpus)
        self.state.begin_run(name, devices, epochs, first_epoch, history, time.monotonic(), limit_s)
        with self._shown():
            yield

    def _shown(self) -> AbstractContextManager[None]:
        """How a run is shown as long as it lasts."""
        raise NotImplementedError

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """See `TrainingView.epoch_begins`."""
        self.state.begin_epoch(epoch, steps, time.monotonic())

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:
        """See `TrainingView.step_done`."""
        self.state.end_step(loss, slices, waited_s, time.monotonic())

    def validation_begins(self, steps: int) -> None:
        """See `TrainingView.validation_begins`."""
        self.state.begin_validation(steps, time.monotonic())

    def validation_step_done(self) -> None:
        """See `TrainingView.validation_step_done`."""
        self.state.step += 1


class PlainTrainingView(_AccountKeeper):
    """One line per epoch, and one every few seconds within it."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = PlainProgress()
        self._last_line = 0.0

    @contextmanager
    def _shown(self) -> Iterator[None]:
        state, self._last_line = self.state, time.monotonic()
        resumed = {"first_epoch": state.done + 1} if state.done else {}
        self._progress.say("train", run=state.name, devices=state.devices, epochs=state.epochs, **resumed)
        yield

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:
        """See `TrainingView.step_done`."""
        super().step_done(loss, slices, waited_s)
        now = time.monotonic()
        facts = {
            "loss": loss,
            "slices_per_s": self.state.speed_now(now),
            "waiting": self.state.waiting(now),
            "left_s": self.state.seconds_left(now),
        }
        self._now_and_then("step", **facts)

    def validation_step_done(self) -> None:
        """See `TrainingView.validation_step_done`."""
        super().validation_step_done()
        self._now_and_then("validation")

    def epoch_done(self, row: EpochFacts) -> None:
        """See `TrainingView.epoch_done`."""
        self._last_line = time.monotonic()
        advice = self.state.end_epoch(row)
        self._progress.say(
            "epoch",
            epoch=f"{row.epoch}/{self.state.epochs}",
            loss=row.loss,
            val_dice=row.val_dice,
            learning_rate=row.learning_rate,
            seconds=row.seconds,
            slices_per_s=row.slices_per_s,
            waiting=row.waiting,
        )
        if advice:
            self.message(advice)

    def message(self, text: str) -> None:
        """See `TrainingView.message`."""
        self._progress.say("message", text=text)

    def _now_and_then(self, event: str, **facts: float | None) -> None:
        """A line with how far the epoch is, and what the devices do, where the last is some seconds old."""
        if time.monotonic() - self._last_line < PLAIN_INTERVAL_S:
            return
        self._last_line = time.monotonic()
        known = {name: value for name, value in facts.items() if value is not None}
        loads = {
            name: value for load in self._telemetry.sample() for name, value in _load_facts(load).items()
        }
        step = f"{self.state.step}/{self.state.steps}"
        self._progress.say(event, epoch=self.state.epoch, step=step, **known, **loads)


def _load_facts(load: DeviceLoad) -> dict[str, float]:
    """`gpu0_busy=0.97 gpu0_gb=34.1 gpu0_w=412` and the like; `run_busy` is a share of the cores."""
    prefix = {"CPU, run": "run", "CPU, all": "machine"}.get(load.name) or load.name.lower().replace(" ", "")
    facts = {
        "busy": load.busy,
        "gb": None if load.used_bytes is None else load.used_bytes / 1e9,
        "w": load.power_w,
    }
    return {f"{prefix}_{name}": round(value, 3) for name, value in facts.items() if value is not None}


class LiveTrainingView(_AccountKeeper):
    """A panel that redraws itself a few times a second, in a thread of its own."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._size = console.size

    @contextmanager
    def _shown(self) -> Iterator[None]:
        with Live(get_renderable=self.draw, console=self._console, refresh_per_second=4):
            yield

    def epoch_done(self, row: EpochFacts) -> None:
        """See `TrainingView.epoch_done`."""
        if advice := self.state.end_epoch(row):
            self.message(advice)

    def message(self, text: str) -> None:
        """See `TrainingView.message`."""
        self.state.messages.append((datetime.now().astimezone(), " ".join(text.split())))

    def draw(self) -> RenderableType:
        """The panel as it is now, for the terminal as large as it is now."""
        size = self._console.size
        if size != self._size:
            # Lines of the old panel may have been broken anew; only a cleared screen has none of them left.
            self._size = size
            self._console.control(Control.clear(), Control.home())
        return draw_training(
            self.state,
            self._telemetry.sample(),
            time.monotonic(),
            datetime.now().astimezone(),
            width=size.width,
            height=size.height,
        )
