"""A peer in a process of its own, which feeds when told to: orders in; time, processor time, memory out."""

import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from clotseg.bench.reading import drop_from_memory
from clotseg.quiet import load_tensorflow

from . import Data, Feed, Setting, load

START_S = 180.0
PASS_S = 300.0
QUIET_S, QUIET_CPU_S, QUIET_AT_MOST_S = 0.25, 0.025, 15.0
SAMPLE_S = 0.2


class Hung(Exception):
    """A peer has given no answer in time, or has failed; says which and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one pass took.

    Attributes:
        slices: how many came out.
        wall_s: seconds, from the order to the last batch.
        first_s: of these, to the first batch.
        cpu_s: processor seconds of the peer's process and all that it started.
        read_mib: what they read from the disk rather than the page cache.
    """

    slices: int
    wall_s: float
    first_s: float
    cpu_s: float
    read_mib: float


class Served:
    """A peer at work in a process of its own; a context manager, which ends it."""

    def __init__(
        self,
        name: str,
        data: Data,
        batch: int,
        setting: Setting,
        *,
        augmented: bool = True,
        device: str = "cpu",
    ) -> None:
        """Starts it, and waits for its first batch.

        Raises:
            Hung: that took longer than three minutes, or failed.
        """
        self._name = name
        # A program of its own, as a user would start one: no threads and libraries of this process in it, and
        # what the peer has shared between processes is cleared away when it ends.
        ours, theirs = socket.socketpair()
        self._orders = Connection(ours.detach())
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "PYTHONWARNINGS": "ignore:resource_tracker",
            },
        )
        theirs.close()
        self._orders.send((name, data, batch, setting, augmented, device))
        try:
            self.start_s: float = self._answer(START_S)
            """Seconds from opening to the first batch, imports not counted."""
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def turn(self, uncached: Iterable[Path] = ()) -> Turn:
        """Feeds one pass, when the peer has come to rest; files that are named are read from the disk.

        Raises:
            Hung: it took longer than five minutes, or failed.
        """
        self._come_to_rest()
        self._orders.send(("turn", [str(path) for path in uncached]))
        return Turn(**self._answer(PASS_S))

    def collect(self) -> tuple[np.ndarray, np.ndarray]:
        """A pass as arrays: images [N, size, size, 2] and masks [N, size, size, 1], as they came."""
        self._orders.send(("collect", []))
        images, masks = self._answer(PASS_S)
        return images, masks

    def watch_memory(self) -> float:
        """The most memory that is held during one pass, in MiB: shares of what is shared with others."""
        peak, stop = [0.0], threading.Event()

        def watch() -> None:
            while not stop.wait(SAMPLE_S):
                peak[0] = max(peak[0], sum(map(_held_mib, self._tree())))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.turn()
        finally:
            stop.set()
            watcher.join()
        return peak[0]

    def end(self) -> None:
        """Ends the process and all that it started."""
        started = self._tree()
        self._process.kill()
        for process in started:
            with suppress(psutil.Error):
                # What tracks shared memory is left to clear it away, which it does when all others are gone.
                if "multiprocessing.resource_tracker" not in " ".join(process.cmdline()):
                    process.kill()
        self._process.wait()
        self._orders.close()

    def _answer(self, seconds: float) -> Any:
        if not self._orders.poll(seconds):
            raise Hung(f"{self._name} gave no answer in {seconds:.0f} s")
        try:
            kind, answer = self._orders.recv()
        except EOFError:
            raise Hung(f"{self._name} has died") from None
        if kind == "failed":
            raise Hung(f"{self._name} failed: {answer}")
        return answer

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def _come_to_rest(self) -> None:
        """Waits until nothing is made ahead any more, which would disturb those whose turn it is."""
        until = time.monotonic() + QUIET_AT_MOST_S
        before = _cpu_s(self._tree())
        while time.monotonic() < until:
            time.sleep(QUIET_S)
            now = _cpu_s(self._tree())
            if now - before < QUIET_CPU_S:
                return
            before = now


def _held_mib(process: psutil.Process) -> float:
    """Proportional set size: mapped files count, each page shared out among those who map it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s(tree: Iterable[psutil.Process]) -> float:
    """Processor seconds of these processes and of those that they have waited for."""
    total = 0.0
    for process in tree:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class _AtWork:
    """A feed, and how its passes are taken."""

    def __init__(self, feed: Feed, *, batch: int, slices: int) -> None:
        self._feed = feed
        self._batch, self._steps = batch, slices // batch
        self._stream = self._endless()

    def _endless(self) -> Iterator[tuple[Any, Any]]:
        while True:
            yield from self._feed.take_pass()

    def one_pass(self) -> Iterator[tuple[Any, Any]]:
        """The batches of a pass, from its very beginning to its very end where nothing is made ahead."""
        return islice(self._stream, self._steps) if self._feed.ahead else self._feed.take_pass()

    def start(self) -> None:
        """Waits for the first batch."""
        batches = self.one_pass()
        images, _ = next(batches)
        self._feed.finish(images)
        self._started = batches

    def finish(self) -> None:
        """Takes what is left of the pass that was started."""
        for _ in self._started:
            pass

    def timed(self, uncached: list[str]) -> dict[str, Any]:
        """One `Turn`."""
        gc.collect()  # What a past epoch holds mapped would stay in the page cache.
        for _ in range(self._feed.ahead // self._batch):
            next(self._stream)
        for path in uncached:
            drop_from_memory(Path(path))
        itself = psutil.Process()
        before, read_before = _used(itself)
        started = time.perf_counter()
        batches = self.one_pass()
        images, _ = next(batches)
        first_s, steps = time.perf_counter() - started, 1
        for images, _ in batches:  # noqa: B007
            steps += 1
        self._feed.finish(images)
        wall_s = time.perf_counter() - started
        cpu_s, read_mib = _used(itself)
        return {
            "slices": steps * self._batch,
            "wall_s": wall_s,
            "first_s": first_s,
            "cpu_s": cpu_s - before,
            "read_mib": read_mib - read_before,
        }

    def collected(self) -> tuple[Any, Any]:
        """A pass as two arrays."""
        pairs = [(np.array(images), np.array(masks)) for images, masks in self.one_pass()]
        return np.concatenate([images for images, _ in pairs]), np.concatenate([masks for _, masks in pairs])


def _used(process: psutil.Process) -> tuple[float, float]:
    """Processor seconds of a process and all below it, and MiB that they have read from the disk."""
    tree = [process, *process.children(recursive=True)]
    read = 0
    for member in tree:
        with suppress(psutil.Error):
            read += member.io_counters().read_bytes
    return _cpu_s(tree), read / 2**20


def _serve(
    orders: Connection, name: str, data: Data, batch: int, setting: Setting, augmented: bool, device: str
) -> None:
    """The life of a peer's process, until it is killed."""
    try:
        peer = load(name)
        _import_all(peer.NEEDS)
        started = time.perf_counter()
        feed = peer.open_feed(data, batch, setting, augmented=augmented, device=device)
        work = _AtWork(feed, batch=batch, slices=data.slices)
        work.start()
        orders.send(("done", time.perf_counter() - started))
        work.finish()
        while True:
            order, uncached = orders.recv()
            orders.send(("done", work.timed(uncached) if order == "turn" else work.collected()))
    except Exception as error:
        with suppress(OSError):
            orders.send(("failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))
        os._exit(
            1
        )  # Libraries with threads and workers of their own may hang when Python ends in good order.


def _import_all(needed: Iterable[str]) -> None:
    """What takes seconds to import, so that start-up does not count it."""
    if "torch" in needed:
        import torch  # noqa: F401
        from nvidia.dali.plugin import pytorch  # noqa: F401
    elif "grain" in needed:
        import grain  # noqa: F401
    else:
        load_tensorflow()
        import clotseg.dali.pipeline  # noqa: F401


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as connection:
        _serve(connection, *connection.recv())
