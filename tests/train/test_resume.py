"""Stopping and going on: real processes, real signals, and the weights of a run that was never stopped."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clotseg.config import load_config
from clotseg.errors import ConfigError, DataError
from clotseg.prep.cohorts import read_cohorts
from clotseg.project import Project, Run
from clotseg.train.records import runs
from clotseg.train.resume import find_run, resumed_config
from tests.conftest import clotseg_command, contents, copy_of, run_clotseg, write_case
from tests.train.conftest import prepared_project

SETTINGS = """\
[feed]
size = 32
[slice]
slices_per_shard = 8
[network]
norm = "batch"
filters = 4
depth = 2
initial_probability = 0.5
[train]
epochs = 4
batch_size = 4
accumulate = 2
[runtime]
gpus = 0
log_augment = 6
"""
OFTEN = ("--checkpoint-minutes", "0.00001")
LAST = "epoch-0004-step-000000"


@pytest.fixture(scope="module")
def prepared(sliced_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that is ready to train."""
    return prepared_project(sliced_project, tmp_path_factory.mktemp("resume") / "project", SETTINGS)


def kept(run: Run) -> dict[str, object]:
    """What a run leaves, but for times: the bytes of its last state and best weights, and its history."""
    best = {path.name: path.read_bytes() for path in run.best.iterdir()}
    rows = [line.split(",")[:4] for line in run.history.read_text().splitlines()]
    return {
        "state": (run.checkpoints / LAST / "state.npz").read_bytes(),
        "best": best,
        "rows": rows,
        "augmentations": run.augmentations.read_bytes(),
    }


@pytest.fixture(scope="module")
def never_stopped(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the run leaves that nothing stops."""
    project = copy_of(prepared, tmp_path_factory.mktemp("whole") / "project")
    done = run_clotseg("-C", project.root, "train")
    assert done.returncode == 0, done.stderr
    return kept(runs(project)[0])


def start(project: Project, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        clotseg_command("-C", project.root, "train", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def await_checkpoint(
    project: Project, reached: Callable[[str], bool], process: "subprocess.Popen[bytes]"
) -> None:
    """Waits until a checkpoint is there that `reached` takes."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        assert process.poll() is None, "it was to be stopped before its end"
        if any(reached(folder.name) for folder in project.trainings.glob("*/Checkpoint_Files/epoch-*")):
            return
        time.sleep(0.002)
    raise AssertionError("no such checkpoint")


def stop(project: Project, number: int, reached: Callable[[str], bool], *arguments: object) -> int:
    """Trains until a checkpoint is there, and sends a signal then; gives the exit code."""
    process = start(project, *OFTEN, *arguments)
    await_checkpoint(project, reached, process)
    process.send_signal(number)
    return process.wait(timeout=120)


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_and_resumed_leaves_what_one_never_stopped_leaves(
    prepared: Project, never_stopped: dict[str, object], tmp_path: Path
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    code = stop(project, signal.SIGKILL, lambda name: "epoch-0001-step-000003" <= name < "epoch-0002")
    assert code == -signal.SIGKILL
    (run,) = runs(project)
    assert json.loads(run.record.read_text())["state"] == "running", "nobody was left to say otherwise"
    second = stop(
        project, signal.SIGKILL, lambda name: name >= "epoch-0002-step-000001", "--resume", run.folder.name
    )
    assert second == -signal.SIGKILL
    done = run_clotseg("-C", project.root, "train", "--resume", f"Trainings/{run.folder.name}")
    assert done.returncode == 0, done.stderr
    assert "resumed in epoch" in done.stderr
    assert [run] == runs(project), "it is one run"
    assert json.loads(run.record.read_text())["state"] == "finished"
    assert kept(run) == never_stopped


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_keeps_its_state_and_goes_on_from_it(
    prepared: Project, never_stopped: dict[str, object], tmp_path: Path, number: int, code: int
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    assert stop(project, number, lambda name: name >= "epoch-0001-step-000002") == code
    (run,) = runs(project)
    assert json.loads(run.record.read_text())["state"] == "stopped"
    done = run_clotseg("-C", project.root, "train", "--resume", run.folder)
    assert done.returncode == 0, done.stderr
    assert kept(run) == never_stopped


@pytest.mark.slow
def test_a_deterministic_run_is_on_a_cpu_the_run_that_it_is_anyway(
    prepared: Project, never_stopped: dict[str, object], tmp_path: Path
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    done = run_clotseg("-C", project.root, "train", "--deterministic")
    assert done.returncode == 0, done.stderr
    assert kept(runs(project)[0])["state"] == never_stopped["state"]


def begun(project: Project, *, key: str = "split", **flags: object) -> Run:
    """A run as it is right after its beginning."""
    from clotseg.train.records import open_run

    config = load_config(
        project.config_file, {name.replace("__", "."): value for name, value in flags.items()}
    )
    keys = {"key": "key", "asked_key": "key", "split_key": key}
    with pytest.raises(KeyboardInterrupt), open_run(project, config, "CPU", **keys) as run:
        raise KeyboardInterrupt
    return run


def test_a_run_goes_on_with_its_own_settings_flags_it_was_begun_with_among_them(
    prepared: Project, tmp_path: Path
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, train__epochs=9)
    assert resumed_config(project, run, {}).train.epochs == 9
    assert resumed_config(project, run, {"train.epochs": 9}).train.epochs == 9
    assert resumed_config(project, run, {"runtime.threads": 3}).runtime.threads == 3


def test_changed_settings_are_refused_by_name(prepared: Project, tmp_path: Path) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, train__epochs=9)
    with pytest.raises(ConfigError, match="have changed since the run began") as caught:
        resumed_config(project, run, {"train.learning_rate": 0.5, "network.filters": 8})
    assert "train.learning_rate: 0.002 in the run, 0.5 now" in str(caught.value)
    assert "network.filters: 4 in the run, 8 now" in str(caught.value)
    assert "--fork" in str(caught.value)
    changed = SETTINGS.replace("accumulate = 2\n", "").replace("depth = 2", "depth = 3")
    project.config_file.write_text(changed + "[split]\nseed = 9\n")
    with pytest.raises(ConfigError) as caught:
        resumed_config(project, run, {})
    assert "train.accumulate in clotseg.toml: 2 when the run began, not set now" in str(caught.value)
    assert "network.depth in clotseg.toml: 2 when the run began, 3 now" in str(caught.value)
    assert "split.seed in clotseg.toml: not set when the run began, 9 now" in str(caught.value)


def test_settings_that_only_say_how_fast_are_taken_from_the_file_where_they_changed(
    prepared: Project, tmp_path: Path
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, runtime__threads=2)
    assert resumed_config(project, run, {}).runtime.threads == 2
    changed = SETTINGS.replace("log_augment = 6\n", "")
    project.config_file.write_text(changed + "prefetch = 7\nkeep_checkpoints = 5\nthreads = 3\n")
    config = resumed_config(project, run, {"runtime.keep_checkpoints": 6, "runtime.gpus": None})
    assert config.runtime.prefetch == 7
    assert config.runtime.keep_checkpoints == 6, "a flag counts more than the file"
    assert config.runtime.threads == 3
    assert config.runtime.log_augment == 0, "what was taken out of the file is as by default"
    assert config.runtime.gpus == 0, "what the file has not changed is the run's"


def test_a_setting_that_a_flag_gave_may_be_written_down_later(prepared: Project, tmp_path: Path) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, split__seed=9, slice__context=0, train__epochs=9)
    project.config_file.write_text(
        SETTINGS.replace("epochs = 4", "epochs = 9") + "[split]\nseed = 9\nstratify = []\n"
    )
    assert resumed_config(project, run, {}).split.seed == 9
    project.config_file.write_text(SETTINGS + "[split]\nseed = 8\n")
    with pytest.raises(ConfigError, match=r"split\.seed in clotseg\.toml: not set when the run began, 8 now"):
        resumed_config(project, run, {})


@pytest.mark.slow
def test_other_cohorts_than_the_run_was_begun_with_are_refused_and_left(
    prepared: Project, tmp_path: Path
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, key=read_cohorts(project).key)
    assert run_clotseg("-C", project.root, "prep", "--seed", 9).returncode == 0
    before = contents(project.processed)
    done = run_clotseg("-C", project.root, "train", "--resume", run.folder.name)
    assert done.returncode == 4
    assert "the slices are not those that the run was begun with" in done.stderr
    assert contents(project.processed) == before


@pytest.mark.slow
def test_cases_that_changed_since_a_run_was_begun_are_refused_before_anything_is_made_of_them(
    prepared: Project, tmp_path: Path
) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, key=read_cohorts(project).key)
    write_case(project, "new", shape=(32, 32, 6))
    before = contents(project.original), contents(project.sliced)
    done = run_clotseg("-C", project.root, "train", "--resume", run.folder.name)
    assert done.returncode == 4
    assert "not those that the run was begun with" in done.stderr
    assert (contents(project.original), contents(project.sliced)) == before


@pytest.mark.slow
def test_other_slices_than_the_run_was_begun_with_are_refused(prepared: Project, tmp_path: Path) -> None:
    project = copy_of(prepared, tmp_path / "project")
    run = begun(project, key=read_cohorts(project).key)
    done = run_clotseg("-C", project.root, "train", "--resume", run.folder.name)
    assert done.returncode == 4
    assert "the slices are not those that the run was begun with" in done.stderr


def test_what_is_no_run_is_refused(prepared: Project) -> None:
    with pytest.raises(DataError, match="is no run"):
        find_run(prepared, prepared.root / "Trainings" / "20200101-000000")
    done = run_clotseg("-C", prepared.root, "train", "--resume", "nowhere")
    assert done.returncode == 3
    both = run_clotseg("-C", prepared.root, "train", "--resume", "one", "--fork", "other")
    assert both.returncode == 2
