"""Running tasks: a function and its arguments in; results out, from this process, several, or a Dask cluster.

A task is a function of a module with arguments that can be pickled; which worker runs it changes no result.
When `run` ends, well or not, nothing that it started is still writing.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from clotseg.config import RuntimeConfig
from clotseg.errors import EnvironmentProblem
from clotseg.quiet import held_back_signals

Result = TypeVar("Result")
Tasks = Sequence[tuple[Any, ...]]
OnDone = Callable[[int], object]

BYTES_WORTH_A_PROCESS = 64 * 2**20
"""With less to read, the default does not start another process: that takes longer than reading it."""

CONNECT_TIMEOUT_S = 20
LOOK_FOR_WORKERS_S = 5.0


class Workers(Protocol):
    """Whatever can run tasks."""

    def run(self, function: Callable[..., Result], tasks: Tasks, on_done: OnDone) -> list[Result]:
        """Runs a function once for each tuple of arguments.

        Args:
            function: of a module, not of a class or function.
            tasks: its arguments.
            on_done: called with the number of each task when it is done, in any order.

        Returns:
            What it returned, in the order of the tasks.

        Raises:
            EnvironmentProblem: a worker died or cannot be reached. What a task raises is raised here.
        """


@contextmanager
def open_workers(runtime: RuntimeConfig, shared_folder: Path, bytes_to_read: int) -> Iterator[Workers]:
    """Gives what the settings ask for: a cluster, several processes, or this one.

    Args:
        runtime: `workers` and `dask`.
        shared_folder: what all workers must see.
        bytes_to_read: how much the tasks read; `auto` goes by it.

    Raises:
        EnvironmentProblem: the cluster cannot be reached or does not see the folder.
    """
    if runtime.dask:
        with _open_dask(runtime.dask, shared_folder) as cluster:
            yield cluster
        return
    if runtime.workers == "auto":
        yield workers_worth(bytes_to_read // BYTES_WORTH_A_PROCESS)
    else:
        yield ThisProcess() if runtime.workers == 1 else LocalProcesses(runtime.workers)


def workers_worth(processes: int) -> Workers:
    """As many processes as the work is worth and there are cores; this one alone for less than two."""
    count = min(processes, len(os.sched_getaffinity(0)))
    return LocalProcesses(count) if count > 1 else ThisProcess()


class ThisProcess:
    """Runs tasks one after the other, here."""

    def run(self, function: Callable[..., Result], tasks: Tasks, on_done: OnDone) -> list[Result]:
        """See `Workers.run`."""
        results = []
        for number, task in enumerate(tasks):
            results.append(function(*task))
            on_done(number)
        return results


class LocalProcesses:
    """Runs tasks in fresh processes: none inherits TensorFlow's threads from this one, which may hold them.

    Args:
        count: how many at most.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def run(self, function: Callable[..., Result], tasks: Tasks, on_done: OnDone) -> list[Result]:
        """See `Workers.run`."""
        if len(tasks) < 2:
            return ThisProcess().run(function, tasks, on_done)
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(
            min(self._count, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
        )
        try:
            with held_back_signals(), _interrupts_blocked():
                futures = {pool.submit(function, *task): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                future.result()
                on_done(futures[future])
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise EnvironmentProblem(
                "a worker process ended before its task was done",
                where="worker process",
                fix="it may have run out of memory: close other programs, or give fewer --workers",
            ) from error
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Workers inherit the mask: Ctrl-C, which reaches them all, is answered by this process alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Lets a worker end at once when the process that started it was killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _open_dask(address: str, shared_folder: Path) -> Iterator["DaskCluster"]:
    try:
        from distributed import Client
    except ImportError as error:
        raise EnvironmentProblem(
            f"cannot be used: {error}", where="--dask", fix="install the extra, clotseg[dask]"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"no Dask scheduler answers ({error})",
            where=address,
            fix="start `dask scheduler` and `dask worker`, and give the address that the scheduler prints",
        ) from error
    with client:
        seen = client.run(os.path.isdir, str(shared_folder))
        if blind := sorted(worker for worker, found in seen.items() if not found):
            raise EnvironmentProblem(
                f"these workers do not see {shared_folder}: {', '.join(blind)}",
                where=address,
                fix="give all workers the same file system, under the same path",
            )
        yield DaskCluster(client, address)


class DaskCluster:
    """Runs tasks on the workers of an existing cluster, one on each of their threads at a time.

    Args:
        client: connected.
        address: of its scheduler, for messages.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self._address = address

    def run(self, function: Callable[..., Result], tasks: Tasks, on_done: OnDone) -> list[Result]:
        """See `Workers.run`. A running task cannot be stopped, so before an error those are waited for."""
        waiting = list(enumerate(tasks))[::-1]
        results: dict[int, Result] = {}
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._threads():
                    number, task = waiting.pop()
                    running[self._client.submit(function, *task, pure=False)] = number
                for future in self._finished(running):
                    number = running.pop(future)
                    results[number] = self._result(future)
                    on_done(number)
        except BaseException:
            while running and not self._lost():
                for future in self._finished(running):
                    del running[future]
            raise
        return [results[number] for number in range(len(tasks))]

    def _result(self, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker

        try:
            return future.result()
        except (KilledWorker, CancelledError) as error:
            raise EnvironmentProblem(
                f"a Dask worker ended before its task was done ({error})",
                where=self._address,
                fix="read the worker's log; it may have run out of memory",
            ) from error

    def _finished(self, running: dict[Any, int]) -> list[Any]:
        """Those that are done; waits for one, and looks now and then whether anyone is left to do them."""
        from distributed import wait

        try:
            with self._client.as_current():
                finished = wait(list(running), timeout=LOOK_FOR_WORKERS_S, return_when="FIRST_COMPLETED")
            return list(finished.done)
        except TimeoutError:
            self._threads()
            return []

    def _threads(self) -> int:
        threads = int(sum(self._client.nthreads().values()))
        if not threads:
            raise EnvironmentProblem(
                "the Dask cluster has no worker", where=self._address, fix="start `dask worker` for it"
            )
        return threads

    def _lost(self) -> bool:
        return self._client.status != "running" or not self._client.nthreads()
