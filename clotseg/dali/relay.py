"""Lanes one after the other: the runs of a long epoch in; what makes them, opened stretch by stretch, out."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from clotseg.dali.augment.parameters import Columns

if TYPE_CHECKING:
    from clotseg.dali.feed import Lane


class Relay:
    """Lanes that follow one another, each with a stretch of the runs, as if they were one."""

    def __init__(
        self,
        stretches: Sequence[range],
        build: Callable[[range], Callable[[], "Lane"]],
        builder: ThreadPoolExecutor,
    ) -> None:
        """Starts the first lane.

        Args:
            stretches: the runs of each lane.
            build: builds what makes such runs, and gives a function that starts them.
            builder: where the lanes to come are built.
        """
        self._to_build = list(stretches[1:])
        self._build, self._builder = build, builder
        self._built: Future[Callable[[], Lane]] | None = None
        self._lane = build(stretches[0])()
        self._next: Lane | None = None

    def take(self) -> tuple[Sequence[Any], Columns | None]:
        """The next run, as `Lane.take` gives it."""
        if self._lane.all_taken:
            self._lane, self._next = self._next or self._start_next(), None
        taken = self._lane.take()
        if self._lane.all_started and self._next is None and self._built is not None:
            self._next = self._start_next()
        if self._built is None and self._to_build:
            self._built = self._builder.submit(self._build, self._to_build.pop(0))
        return taken

    def _start_next(self) -> "Lane":
        assert self._built is not None, "there is no further run to take"
        start, self._built = self._built.result(), None
        return start()


def stretches(turns: range, *, first: int, length: int) -> list[range]:
    """The turns, cut into parts of this length where they are more; the first part is shorter then."""
    if len(turns) <= length:
        return [turns]
    cuts = [0, *range(min(first, length), len(turns), length), len(turns)]
    return [turns[start:stop] for start, stop in pairwise(cuts)]
