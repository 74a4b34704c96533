"""Speed: what a stage has done so far, again and again, in; slices a second out."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

WARM_UP = 0.25
"""So much of a stage's time goes by before it is counted: by then, what was made ahead is used up."""

LEAST_TURNS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How much was done in what time.

    Attributes:
        slices: how many; a part of one, too, where files are read.
        seconds: wall time.
    """

    slices: float
    seconds: float

    @property
    def slices_per_s(self) -> float:
        """Slices a second."""
        return self.slices / self.seconds


def measure(done: Iterable[float], seconds: float) -> Rate:
    """Lets a stage go on for a time, and four turns at least.

    Args:
        done: does a turn each time it is asked, and gives how many slices that were. It may come to an end,
            but not before the first.
        seconds: how long it is counted; before, it runs for a quarter of that.

    Returns:
        What was done from the end of one turn to that of the last. Where there are several, the first is left
        out: it makes what is made once.
    """
    started = time.perf_counter()
    ends = [(started, 0.0)]
    for slices in done:
        ends.append((time.perf_counter(), slices))
        if len(ends) > LEAST_TURNS and ends[-1][0] - started >= (1 + WARM_UP) * seconds:
            break
    turns = len(ends) - 1
    warm = next((turn for turn, (end, _) in enumerate(ends) if end - started >= WARM_UP * seconds), turns)
    first = max(min(warm, turns - 2), min(1, turns - 1))
    return Rate(slices=sum(slices for _, slices in ends[first + 1 :]), seconds=ends[-1][0] - ends[first][0])
