"""A run's records: how it went, on what, and how it ended."""

import json
import signal
import tomllib
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clotseg.config import (
    AugmentConfig,
    Config,
    FeedConfig,
    NetworkConfig,
    RuntimeConfig,
    TestConfig,
    TrainConfig,
    load_config,
)
from clotseg.errors import CorruptArtifactError, DataError, EnvironmentProblem, Interrupted
from clotseg.project import Project, Run
from clotseg.train import records
from clotseg.train.records import (
    open_run,
    read_history,
    read_record,
    reopen_run,
    runs,
    training_key,
    trim_augmentations,
    write_history,
)
from tests.train.conftest import ROW


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with no more than a split."""
    made = Project(tmp_path)
    made.original.mkdir(parents=True)
    (made.original / "split.json").write_text('{"cohorts": "as they were"}')
    return made


def opened(project: Project, config: Config | None = None) -> Any:
    return open_run(
        project, config or Config(), "CPU", key="run-key", asked_key="asked-key", split_key="split-key"
    )


def test_the_history_comes_back_line_by_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.relevant.mkdir()
    assert read_history(run) == []
    write_history(run, [ROW, replace(ROW, epoch=2, loss=0.1 + 0.2)])
    lines = run.history.read_text().splitlines()
    assert lines[0] == "epoch,loss,val_dice,learning_rate,seconds,slices_per_s,waiting"
    assert lines[1] == "1,0.75,0.125,0.0005,2.5,20.0,0.25"
    assert [row["epoch"] for row in read_history(run)] == [1, 2]
    assert read_history(run)[1]["loss"] == 0.1 + 0.2


@pytest.mark.parametrize("text", ["epoch,loss\n1,high\n", "epoch,loss\n1\n", "epoch\n1,2\n", "epoch\n\xff\n"])
def test_a_history_that_is_no_table_of_numbers_is_corrupt(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    run.relevant.mkdir()
    run.history.write_text(text, encoding="latin-1")
    with pytest.raises(CorruptArtifactError, match="is not a history"):
        read_history(run)


def test_a_run_is_running_and_then_finished(project: Project) -> None:
    with opened(project) as run:
        assert read_record(run)["state"] == "running"
    record = read_record(run)
    assert record["state"] == "finished"
    assert (record["key"], record["split_key"]) == ("run-key", "split-key")
    assert datetime.fromisoformat(record["started"]) <= datetime.fromisoformat(record["ended"])


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("no more"), "failed"),
        (DataError("no more"), "failed"),
        (KeyboardInterrupt("no more"), "stopped"),
        (Interrupted(signal.SIGTERM), "stopped"),
    ],
    ids=["error", "clotseg's", "interrupt", "signal"],
)
def test_a_run_that_breaks_off_says_how_and_why(project: Project, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), opened(project) as run:
        raise error
    record = read_record(run)
    assert (record["state"], record["reason"]) == (state, str(error))


def test_a_run_that_is_gone_on_with_keeps_its_beginning(project: Project) -> None:
    with pytest.raises(ValueError, match="once"), opened(project) as run:
        raise ValueError("once")
    begun = read_record(run)
    with reopen_run(run, "2 GPU(s)"):
        during = read_record(run)
        assert (during["state"], "reason" in during) == ("running", False)
        with pytest.raises(EnvironmentProblem, match="is writing here"), reopen_run(run, "CPU"):
            pass
    record = read_record(run)
    assert record["state"] == "finished"
    assert (record["key"], record["started"]) == (begun["key"], begun["started"])
    assert len(record["resumed"]) == 1
    assert json.loads((run.relevant / "environment.json").read_text())["devices"] == "2 GPU(s)"


def test_a_resumed_log_of_augmentations_loses_what_will_be_written_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.relevant.mkdir()
    trim_augmentations(run, 1, 0)
    lines = [json.dumps({"epoch": epoch, "uid": uid}) + "\n" for epoch in (1, 2, 3) for uid in range(4)]
    run.augmentations.write_text("".join(lines) + '{"epoch": 3, "ui')
    trim_augmentations(run, 2, 3)
    assert run.augmentations.read_text() == "".join(lines[:7])


def test_a_run_keeps_its_settings_its_split_and_what_it_ran_on(project: Project) -> None:
    config = Config(train=TrainConfig(epochs=7, batch_size=4))
    with opened(project, config) as run:
        pass
    assert load_config(run.relevant / "clotseg.toml") == config
    assert tomllib.loads((run.relevant / "clotseg.toml").read_text())["train"]["epochs"] == 7
    assert (run.relevant / "split.json").read_text() == '{"cohorts": "as they were"}'
    environment = json.loads((run.relevant / "environment.json").read_text())
    assert environment["devices"] == "CPU"
    assert environment["tensorflow"].startswith("2.")
    assert {"clotseg", "python", "platform", "cpus", "keras", "numpy"} <= set(environment)


def test_runs_begun_in_the_same_second_get_names_of_their_own_in_order(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 2, 28, 23, 59, 59, tzinfo=tz)

    monkeypatch.setattr(records, "datetime", Stopped)
    folders = []
    for _ in range(3):
        with opened(project) as run:
            folders.append(run.folder)
    assert [folder.name for folder in folders] == ["20260228-235959", "20260301-000000", "20260301-000001"]
    assert [run.folder for run in runs(project)] == folders


def test_folders_without_a_record_are_no_runs(project: Project) -> None:
    assert runs(project) == []
    (project.trainings / "20200101-000000").mkdir(parents=True)
    with opened(project) as run:
        assert runs(project) == [run]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"state": "finished"}'])
def test_a_damaged_record_is_corrupt(project: Project, text: str) -> None:
    with opened(project) as run:
        pass
    run.record.write_text(text)
    with pytest.raises(CorruptArtifactError, match=r"run\.json"):
        read_record(run)


def test_all_that_decides_the_weights_is_in_the_key_and_nothing_else() -> None:
    base = training_key(Config(), "slices")
    others = [
        training_key(Config(feed=FeedConfig(size=128)), "slices"),
        training_key(Config(augment=AugmentConfig(gamma=0.25)), "slices"),
        training_key(Config(network=NetworkConfig(filters=16)), "slices"),
        training_key(Config(train=TrainConfig(seed=2)), "slices"),
        training_key(Config(), "other slices"),
    ]
    assert len({base, *others}) == 6
    same = Config(runtime=RuntimeConfig(replicas=2, threads=3, prefetch=4), test=TestConfig(threshold=0.25))
    assert training_key(same, "slices") == base
