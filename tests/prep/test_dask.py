"""Prep on a Dask cluster: a real scheduler and workers, started on this machine as processes of their own."""

import operator
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clotseg.config import Config, FeedConfig, RuntimeConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.errors import DataError, EnvironmentProblem
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.tasks import open_workers
from tests.conftest import contents, run_clotseg
from tests.prep.worker_tasks import refuse

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_cluster(folder: Path, workers: int) -> Iterator[str]:
    """The address of a scheduler with workers of one thread each."""
    address = f"tcp://127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
    worker = ("worker", address, "--nworkers", "1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    processes = []
    with (folder / "log").open("w") as log:
        for kind, *options in (scheduler, *(worker for _ in range(workers))):
            program = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
            processes.append(subprocess.Popen(program, cwd=folder, env=environment, stdout=log, stderr=log))
    try:
        from distributed import Client

        with Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)
        yield address
    finally:
        for process in reversed(processes):  # A worker takes its leave of the scheduler.
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with running_cluster(tmp_path_factory.mktemp("dask"), workers=2) as address:
        yield address


def test_a_cluster_whose_workers_die_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clotseg.tasks.LOOK_FOR_WORKERS_S", 0.5)
    with (
        running_cluster(tmp_path, workers=1) as address,
        open_workers(RuntimeConfig(dask=address), tmp_path, 0) as workers,
        pytest.raises(EnvironmentProblem, match="has no worker") as caught,
    ):
        workers.run(os._exit, [(9,)] * 3, print)
    assert address in str(caught.value)


def test_results_errors_and_progress_are_those_of_a_local_run(cluster: str, tmp_path: Path) -> None:
    done: list[int] = []
    with open_workers(RuntimeConfig(dask=cluster), tmp_path, 0) as workers:
        squares = workers.run(operator.mul, [(n, n) for n in range(9)], done.append)
        assert squares == [n * n for n in range(9)]
        assert sorted(done) == list(range(9))
        with pytest.raises(DataError, match="case_7: is bad") as caught:
            workers.run(refuse, [("case_7",)] * 5, print)
        assert caught.value.details == ("case_7: a finding",)


def test_prep_on_the_cluster_gives_the_bytes_of_a_local_prep(
    cluster: str, sliced_project: Project, cohort_copy: Project
) -> None:
    config = Config(
        slice=SliceConfig(slices_per_shard=8), feed=FeedConfig(size=32), runtime=RuntimeConfig(dask=cluster)
    )
    assert run_prep(cohort_copy, config, PlainProgress())["stages"] == {"split": "made", "slice": "made"}
    assert contents(cohort_copy.sliced) == contents(sliced_project.sliced)
    assert contents(cohort_copy.original) == contents(sliced_project.original)


def test_a_cluster_that_does_not_answer_is_an_environment_problem(
    cohort: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clotseg.tasks.CONNECT_TIMEOUT_S", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(EnvironmentProblem, match="no Dask scheduler answers") as caught,
        open_workers(RuntimeConfig(dask=address), cohort.root, 0),
    ):
        pass
    assert address in str(caught.value)


def test_workers_that_do_not_see_the_folder_are_named(cluster: str, tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentProblem, match="do not see") as caught,
        open_workers(RuntimeConfig(dask=cluster), tmp_path / "nowhere", 0),
    ):
        pass
    assert str(caught.value).count("tcp://127.0.0.1") == 3


def test_two_hundred_cases_give_the_same_digests_here_in_two_processes_and_on_dask(
    cluster: str, tmp_path: Path
) -> None:
    made = run_clotseg("phantom", tmp_path, "--cases", 200, "--size", 32, "--slices", 8)
    assert made.returncode == 0, made.stderr
    found = {}
    for name, options in {
        "one": ("--workers", 1),
        "two": ("--workers", 2),
        "dask": ("--dask", cluster),
    }.items():
        (tmp_path / "clotseg.toml").write_text("[slice]\nslices_per_shard = 64\n[feed]\nsize = 'auto'\n")
        done = run_clotseg(
            "-C", tmp_path, "prep", "--split", "force", "--slice", "force", "--context", 1, *options
        )
        assert done.returncode == 0, done.stderr
        found[name] = contents(tmp_path / "Processed")
    assert found["one"] == found["two"] == found["dask"]
    assert len([name for name in found["one"] if name.endswith(".tfrecord")]) > 10
