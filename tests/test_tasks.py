"""Tasks in other processes: the same results as here, clear errors, and nobody left behind."""

import math
import operator
import os
import signal
import time
from pathlib import Path

import pytest

from clotseg.config import RuntimeConfig
from clotseg.errors import DataError, EnvironmentProblem
from clotseg.project import Project
from clotseg.tasks import LocalProcesses, ThisProcess, Workers, open_workers
from tests.conftest import start_python
from tests.prep.conftest import found_cases
from tests.prep.worker_tasks import heavy_modules_after_work, refuse

# Has two workers at work when a signal comes; ends as the command line does.
WITH_WORKERS = """
import signal, sys
from pathlib import Path
from clotseg.cli import _interrupt
from clotseg.errors import Interrupted
from clotseg.tasks import LocalProcesses
from tests.prep.worker_tasks import note_and_sleep

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, _interrupt)
try:
    LocalProcesses(2).run(note_and_sleep, [(Path(sys.argv[1]), n) for n in range(5)], print)
except Interrupted as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.fixture(params=[ThisProcess(), LocalProcesses(2)], ids=["here", "processes"])
def workers(request: pytest.FixtureRequest) -> Workers:
    """This process, and two others."""
    chosen: Workers = request.param
    return chosen


def test_results_come_in_the_order_of_the_tasks_and_each_is_told_once(workers: Workers) -> None:
    done: list[int] = []
    assert workers.run(operator.mul, [(n, n) for n in range(20)], done.append) == [n * n for n in range(20)]
    assert sorted(done) == list(range(20))


def test_without_tasks_there_are_no_results(workers: Workers) -> None:
    assert workers.run(operator.mul, [], print) == []


def test_what_a_task_raises_is_raised_with_all_it_says(workers: Workers) -> None:
    with pytest.raises(DataError, match="case_7: is bad") as caught:
        workers.run(refuse, [("case_7",), ("case_7",)], print)
    assert caught.value.details == ("case_7: a finding",)
    assert (caught.value.fix, caught.value.exit_code) == ("mend it", 3)
    with pytest.raises(ValueError, match="factorial"):
        workers.run(math.factorial, [(-1,), (-1,)], print)


def test_a_worker_that_dies_is_told_with_what_to_do() -> None:
    with pytest.raises(EnvironmentProblem, match="worker process ended") as caught:
        LocalProcesses(2).run(os._exit, [(9,), (9,)], print)
    assert "--workers" in str(caught.value)


def test_workers_that_check_and_write_do_not_load_tensorflow(cohort: Project, tmp_path: Path) -> None:
    tasks = [(case, tmp_path) for case in found_cases(cohort)[:2]]
    assert LocalProcesses(2).run(heavy_modules_after_work, tasks, print) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
    ids=str,
)
def test_a_stopped_command_leaves_no_worker_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start_python(WITH_WORKERS, tmp_path)
    pids = wait_for_pids(tmp_path, 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    until = time.monotonic() + 10
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.01)
    assert len(list(tmp_path.glob("*.pid"))) == 2, "no task may begin after the signal"


def wait_for_pids(folder: Path, count: int) -> list[int]:
    """Process ids of the workers, once so many have begun."""
    until = time.monotonic() + 30
    while True:
        texts = [path.read_text() for path in folder.glob("*.pid")]
        if len(texts) >= count and all(texts):
            return [int(text) for text in texts]
        assert time.monotonic() < until, "the workers did not begin"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("runtime", "to_read", "expected"),
    [
        (RuntimeConfig(workers=1), 2**40, ThisProcess),
        (RuntimeConfig(workers=3), 0, LocalProcesses),
        (RuntimeConfig(), 0, ThisProcess),
    ],
)
def test_processes_are_started_where_asked_for_and_never_for_a_few_bytes(
    tmp_path: Path, runtime: RuntimeConfig, to_read: int, expected: type
) -> None:
    with open_workers(runtime, tmp_path, to_read) as opened:
        assert isinstance(opened, expected)


def test_the_default_uses_all_cores_for_much_data(tmp_path: Path) -> None:
    several = len(os.sched_getaffinity(0)) > 1
    with open_workers(RuntimeConfig(), tmp_path, 2**40) as opened:
        assert isinstance(opened, LocalProcesses if several else ThisProcess)
