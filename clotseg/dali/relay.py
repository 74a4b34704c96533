"""Pipelines one after the other: the runs of a long epoch in; what DALI makes of them, run by run, out."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from clotseg.dali.augment.parameters import Columns


class Leg:
    """A pipeline and the runs it is to make; it makes none in vain."""

    def __init__(self, pipeline: Any, *, runs: int, ahead: int, log: deque[Columns]) -> None:
        """Starts `ahead` runs, the pipeline's `prefetch`; it logs what is done to each, if at all."""
        self._pipeline = pipeline
        self._to_take = runs
        self._to_start = runs - ahead
        self._log = log
        # The first call starts as many runs as the pipeline is to make ahead, any later one a single run.
        pipeline.schedule_run()

    def take(self) -> tuple[Sequence[Any], Columns | None]:
        """The next run, and what was done to its slices where that is logged; starts one more meanwhile."""
        outputs = self._pipeline.outputs()
        self._to_take -= 1
        columns = self._log.popleft() if self._log else None
        if self._to_start:
            self._pipeline.schedule_run()
            self._to_start -= 1
        return outputs, columns

    @property
    def all_started(self) -> bool:
        """Whether it has started the last of its runs."""
        return self._to_start == 0

    @property
    def all_taken(self) -> bool:
        """Whether there is no run left to take."""
        return self._to_take == 0


class Relay:
    """Pipelines that follow one another, each with a stretch of the runs, as if they were one."""

    def __init__(
        self,
        stretches: Sequence[range],
        build: Callable[[range], Callable[[], Leg]],
        builder: ThreadPoolExecutor,
    ) -> None:
        """Starts the first leg.

        Args:
            stretches: the runs of each leg.
            build: builds what makes such runs, and gives a function that starts them.
            builder: where the legs to come are built.
        """
        self._to_build = list(stretches[1:])
        self._build, self._builder = build, builder
        self._built: Future[Callable[[], Leg]] | None = None
        self._leg = build(stretches[0])()
        self._next: Leg | None = None

    def take(self) -> tuple[Sequence[Any], Columns | None]:
        """The next run, as `Leg.take` gives it."""
        if self._leg.all_taken:
            self._leg, self._next = self._next or self._start_next(), None
        taken = self._leg.take()
        if self._leg.all_started and self._next is None and self._built is not None:
            self._next = self._start_next()
        if self._built is None and self._to_build:
            self._built = self._builder.submit(self._build, self._to_build.pop(0))
        return taken

    def _start_next(self) -> Leg:
        assert self._built is not None, "there is no further run to take"
        start, self._built = self._built.result(), None
        return start()


def stretches(turns: range, *, first: int, length: int) -> list[range]:
    """The turns, cut into parts of this length where they are more; the first part is shorter then."""
    if len(turns) <= length:
        return [turns]
    cuts = [0, *range(min(first, length), len(turns), length), len(turns)]
    return [turns[start:stop] for start, stop in pairwise(cuts)]
