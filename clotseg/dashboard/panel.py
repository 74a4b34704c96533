"""The panel: the account of a training and the machine's load in; what a terminal of a given size shows out.

Narrow terminals get one column instead of two. Where lines are short, messages go first, then devices.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import zip_longest

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clotseg.dashboard.state import MOST_WAITING, TrainingState
from clotseg.telemetry import DeviceLoad

BLOCKS = "▁▂▃▄▅▆▇█"
TWO_COLUMNS = 72
"""From this width on facts stand in two columns."""

MOST_MESSAGE_LINES = 5
FRAME_LINES = 2
BORDERS = 4

Fact = tuple[str, Text]


def draw_training(
    state: TrainingState,
    loads: Sequence[DeviceLoad],
    now: float,
    clock: datetime,
    *,
    width: int = 80,
    height: int = 24,
) -> Panel:
    """The panel of a training.

    Args:
        state: what to show.
        loads: what the devices do.
        now: monotonic time in seconds.
        clock: the time of day.
        width: columns there are.
        height: lines there are; a line is left free for the cursor.
    """
    wide = width >= TWO_COLUMNS
    facts = _facts(state, now, clock, blocks=max(12, width // 2 - 29) if wide else max(4, width - 30))
    if not wide:
        facts.insert(0, ("devices", Text(state.devices)))
    left_over = height - 1 - FRAME_LINES - 2 - (-(-len(facts) // 2) + 1 if wide else len(facts))
    devices = _devices(loads, left_over)
    messages = _messages(state, width - BORDERS, min(left_over - len(devices), MOST_MESSAGE_LINES))
    parts: list[RenderableType] = [
        _bars(state, width),
        *([Text()] if wide else []),
        _columns(facts, wide=wide),
    ]
    if devices:
        parts.append(_table(devices, names=13 if wide else 0))
    title = f"{state.name} on {state.devices}" if wide else state.name
    return Panel(
        Group(*parts, *messages),
        title=Text(title, style="bold"),
        title_align="left",
        padding=(0, 1),
        width=width,
    )


def _bars(state: TrainingState, width: int) -> Table:
    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(width=10)
    bars.add_column(ratio=1)
    bars.add_column(min_width=9 if width >= TWO_COLUMNS else 5, no_wrap=True, justify="right")
    epochs, steps = f"{state.done}/{state.epochs}", f"{state.step}/{state.steps}"
    bars.add_row("epoch", ProgressBar(total=max(state.epochs, 1), completed=state.done), epochs)
    bars.add_row(state.phase, ProgressBar(total=max(state.steps, 1), completed=state.step), steps)
    return bars


def _facts(state: TrainingState, now: float, clock: datetime, *, blocks: int) -> list[Fact]:
    left_s = state.seconds_left(now)
    best = state.best
    loss = Text(f"{_number(state.loss)} ").append(sparkline(state.losses, blocks), style="cyan")
    dice = Text(f"{_number(state.dices[-1] if state.dices else None)} ")
    speed = _share(state.speed_now(now), "{:.1f}")
    mean = _share(state.speed_mean(now), ", mean {:.1f}", unknown="")
    waiting = state.waiting(now)
    starving = waiting is not None and waiting > MOST_WAITING
    rate = state.history[-1].learning_rate if state.history else None
    return [
        ("loss", loss),
        ("val Dice", dice.append(sparkline(state.dices, blocks), style="green")),
        ("best Dice", Text("–" if best is None else f"{_number(best.val_dice)} (epoch {best.epoch})")),
        ("learning rate", Text(_number(rate))),
        ("slices/s", Text(speed + mean)),
        ("waiting", Text(_share(waiting, "{:.1%} of the time"), style="yellow" if starving else "")),
        ("elapsed", Text(_duration(now - state.run_started))),
        ("time left", Text("–" if left_s is None else _duration(left_s))),
        ("ends at", Text("–" if left_s is None else _clock_time(clock, left_s))),
    ]


def _columns(facts: list[Fact], *, wide: bool) -> Table:
    if not wide:
        return _table(facts, names=13)
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True, ratio=1)
    half = -(-len(facts) // 2)
    for left, right in zip_longest(facts[:half], facts[half:], fillvalue=("", Text())):
        table.add_row(*left, *right)
    return table


def _table(rows: Sequence[Fact], *, names: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=names)
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _devices(loads: Sequence[DeviceLoad], lines: int) -> list[Fact]:
    """A line a device, `lines` at most; the last says how many are not shown."""
    rows = [(load.name, Text(", ".join(_told(load)))) for load in loads]
    if len(rows) <= lines:
        return rows
    return [*rows[: lines - 1], ("", Text(f"and {len(rows) - lines + 1} more"))] if lines > 0 else []


def _told(load: DeviceLoad) -> list[str]:
    told = [] if load.busy is None else [f"{load.busy:.0%}"]
    if load.used_bytes is not None:
        total = "" if load.total_bytes is None else f"/{load.total_bytes / 1e9:.0f}"
        told.append(f"{load.used_bytes / 1e9:.1f}{total} GB")
    if load.power_w is not None:
        told.append(f"{load.power_w:.0f} W")
    return told or ["–"]


def _messages(state: TrainingState, width: int, lines: int) -> list[Text]:
    """The newest messages that fit, oldest of them first; a long one goes over several lines."""
    shown: list[Text] = []
    console = Console(width=width)
    for clock, text in reversed(list(state.messages)):
        wrapped = Text.assemble((f"{clock:%H:%M} ", "dim"), text).wrap(console, width)
        if len(shown) + len(wrapped) > lines:
            return shown or list(wrapped)[: max(lines, 0)]
        shown = [*wrapped, *shown]
    return shown


def sparkline(values: Sequence[float], width: int) -> str:
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


def _share(value: float | None, pattern: str, *, unknown: str = "–") -> str:
    return unknown if value is None else pattern.format(value)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _clock_time(clock: datetime, left_s: float) -> str:
    """The time of day of the end, with its weekday where that is another day."""
    end = clock + timedelta(seconds=left_s)
    return end.strftime("%H:%M:%S" if end.date() == clock.date() else "%a %d %b %H:%M")
