"""Progress for people: Rich bars on a terminal, one `key=value` line per stage elsewhere; always on stderr.

stdout is left to results. Nothing here decides anything: a command runs the same with either progress.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

PLAIN_INTERVAL_S = 10.0


class Advance(Protocol):
    """Says that `count` more of a bar's total are done."""

    def __call__(self, count: int = 1) -> None: ...


class Progress(Protocol):
    """What the stages tell of their work."""

    def bar(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Shows how far a stage is; the block gets the function that advances it."""

    def say(self, event: str, **facts: object) -> None:
        """Tells one thing that happened, with its facts."""


def open_progress() -> Progress:
    """Rich on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    return (
        TerminalProgress(console) if console.is_terminal and not console.is_dumb_terminal else PlainProgress()
    )


def plain_line(**facts: object) -> str:
    """`key=value` pairs on one line; text with spaces is quoted as JSON quotes it, floats are short."""
    return " ".join(f"{key}={_plain_value(value)}" for key, value in facts.items())


def _plain_value(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if re.fullmatch(r"[^\s\"]+", text) else json.dumps(text, ensure_ascii=False)


class PlainProgress:
    """One line when a stage ends, and one every few seconds while it lasts."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """See `Progress.bar`."""
        done, started = 0, time.monotonic()
        last_line = started

        def line() -> None:
            self.say(label, done=f"{done}/{total}", unit=unit, seconds=round(time.monotonic() - started, 1))

        def advance(count: int = 1) -> None:
            nonlocal done, last_line
            done += count
            if done < total and time.monotonic() - last_line >= PLAIN_INTERVAL_S:
                last_line = time.monotonic()
                line()

        yield advance
        line()

    def say(self, event: str, **facts: object) -> None:
        """See `Progress.say`."""
        print(plain_line(event=event, **facts), file=sys.stderr, flush=True)


class TerminalProgress:
    """Bars that move, and a line for each thing that happened."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """See `Progress.bar`."""
        columns = (
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with RichBars(*columns, console=self.console) as bars:
            task = bars.add_task(label, total=total)

            def advance(count: int = 1) -> None:
                bars.advance(task, count)

            yield advance

    def say(self, event: str, **facts: object) -> None:
        """See `Progress.say`."""
        shown = ", ".join(f"{key} {_plain_value(value)}" for key, value in facts.items())
        self.console.print(f"{event:<12}", shown, style="bold", markup=False, highlight=False, soft_wrap=True)
