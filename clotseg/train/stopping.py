"""Stopping on request: SIGINT, SIGTERM or a time limit in; what the loop looks at between steps out."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether, and by which signal, this process has been asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


class TimeIsUp(Exception):
    """The time limit ended a training that was not done; as text, that it was reached.

    Args:
        limit: which.
    """

    def __init__(self, limit: "TimeLimit") -> None:
        super().__init__(f"{limit} was reached")


class TimeLimit:
    """How long to train.

    Args:
        minutes: from now; 0 is without a limit.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._started = time.monotonic()

    @property
    def gone(self) -> float:
        """The part of the time that has passed, up to 1; 0 without a limit."""
        if not self.minutes:
            return 0.0
        return min((time.monotonic() - self._started) / (60 * self.minutes), 1.0)

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, down to 0; None without a limit."""
        return (1 - self.gone) * 60 * self.minutes if self.minutes else None

    @property
    def over(self) -> bool:
        """Whether the time has passed."""
        return self.gone == 1.0

    def __str__(self) -> str:
        return f"the limit of {self.minutes:g} min"


@contextmanager
def stop_requests(tell: Callable[[int], None]) -> Iterator[StopRequest]:
    """Within the block the first signal only asks; a second does what signals did before.

    Args:
        tell: called with the number of the first signal.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Only the main thread gets signals.
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        request.signal = number
        for other, handler in before.items():
            signal.signal(other, handler)
        tell(number)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
