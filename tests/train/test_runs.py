"""The list of runs: what each says of itself, and what its lock says, whatever state its files are in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clotseg.artifact import write_json
from clotseg.config import Config, TrainConfig, to_toml
from clotseg.project import Project, Run
from clotseg.train.records import write_history
from clotseg.train.runs import list_runs
from tests.conftest import contents, run_clotseg, start_lock_holder
from tests.train.conftest import ROW


def make_run(project: Project, name: str, dices: list[float], **record: Any) -> Run:
    """A run folder of a run of 5 epochs, as training leaves it."""
    run = Run(project.trainings / name)
    run.relevant.mkdir(parents=True)
    run.settings.write_text(to_toml(Config(train=TrainConfig(epochs=5))))
    write_json(run.record, {"format": 1, "key": "k", "started": "2026-02-28T10:00:00+01:00", **record})
    if dices:
        write_history(run, [replace(ROW, epoch=epoch, val_dice=dice) for epoch, dice in enumerate(dices, 1)])
    return run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def listed(project: Project) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = list_runs(project)["runs"]
    return told


def test_a_run_tells_how_far_how_good_and_how_long(project: Project) -> None:
    make_run(project, "20260228-100000", [0.2, 0.7, 0.7, float("nan")], state="finished")
    assert listed(project) == [
        {
            "run": "Trainings/20260228-100000",
            "state": "finished",
            "reason": None,
            "started": "2026-02-28T10:00:00+01:00",
            "epochs": 4,
            "epochs_planned": 5,
            "best_dice": 0.7,
            "best_epoch": 2,
            "seconds": 4 * 2.5,
        }
    ]


def test_runs_are_listed_oldest_first_with_how_each_ended(project: Project) -> None:
    make_run(project, "20260303-000000", [0.5], state="failed", reason="the loss is nan")
    make_run(project, "20260301-000000", [], state="stopped", reason="stopped by SIGINT")
    make_run(project, "20260302-000000", [0.5], state="finished")
    told = [(run["run"][-15:], run["state"], run["reason"]) for run in listed(project)]
    assert told == [
        ("20260301-000000", "stopped", "stopped by SIGINT"),
        ("20260302-000000", "finished", None),
        ("20260303-000000", "failed", "the loss is nan"),
    ]
    assert (listed(project)[0]["best_dice"], listed(project)[0]["epochs"]) == (None, 0)


def test_a_run_is_running_as_long_as_its_process_lives(project: Project) -> None:
    run = make_run(project, "20260228-100000", [0.5], state="running")
    trainer = start_lock_holder(run.relevant)
    assert [(run["state"], run["reason"]) for run in listed(project)] == [("running", None)]
    trainer.kill()
    trainer.communicate(timeout=30)
    (killed,) = listed(project)
    assert killed["state"] == "stopped"
    assert killed["reason"].startswith("killed")
    assert killed["best_dice"] == 0.5, "what it had reached is told"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("record", None, "run.json"),
        ("record", b'{"format"', "run.json"),
        ("record", b"[]", "run.json"),
        ("record", b'{"format": 1, "state": "asleep", "started": "2026-02-28T10:00:00"}', "asleep"),
        ("record", b'{"format": 1, "state": "finished"}', "start"),
        ("history", b"epoch,loss\n1,high\n", "history.csv"),
        ("history", b"epoch,loss\n1,0.5\n", "lacks a column"),
        ("history", b"\xff\xfe", "history.csv"),
        ("settings", None, "clotseg.toml"),
        ("settings", b"[train]\nepochs = [", "clotseg.toml"),
        ("settings", b"train = 3", "clotseg.toml"),
    ],
)
def test_a_damaged_run_is_listed_with_the_reason_beside_the_others(
    project: Project, file: str, content: bytes | None, reason: str
) -> None:
    make_run(project, "20260301-000000", [0.25], state="finished")
    broken: Path = getattr(make_run(project, "20260302-000000", [0.5], state="finished"), file)
    if content is None:
        broken.unlink()
    else:
        broken.write_bytes(content)
    make_run(project, "20260303-000000", [0.75], state="finished")
    first, damaged, last = listed(project)
    assert (first["best_dice"], last["best_dice"]) == (0.25, 0.75)
    assert damaged["state"] == "damaged"
    assert reason in damaged["reason"]
    assert damaged.keys() == first.keys()


def test_settings_that_another_version_had_do_not_make_a_run_damaged(project: Project) -> None:
    run = make_run(project, "20260301-000000", [0.25], state="finished")
    run.settings.write_text("[train]\nepochs = 7\nunheard_of = true\n")
    assert [(run["state"], run["epochs_planned"]) for run in listed(project)] == [("finished", 7)]


def test_what_is_no_run_is_not_listed(project: Project) -> None:
    assert listed(project) == []
    (project.trainings / "notes").mkdir(parents=True)
    (project.trainings / "20260301-000000.txt").write_text("not a folder")
    assert listed(project) == []


def test_the_command_prints_a_table_or_json_and_changes_nothing(project: Project) -> None:
    make_run(project, "20260301-000000", [0.25, 0.7123], state="finished")
    make_run(project, "20260302-000000", [0.5], state="running")
    make_run(project, "20260303-000000", [0.5], state="finished").record.write_text("{")
    before = contents(project.root)
    table = run_clotseg("-C", project.root, "runs", COLUMNS="80")
    assert table.returncode == 0
    rows = [line.split("│")[1:-1] for line in table.stdout.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["20260301-000000", "finished", "2/5", "0.712", "2", "0:00:05"],
        ["20260302-000000", "stopped", "1/5", "0.500", "1", "0:00:02"],
        ["20260303-000000", "damaged", "–/–", "–", "–", "–"],
    ]
    assert "20260302-000000 stopped: killed" in table.stdout
    assert "20260303-000000 damaged: " in table.stdout
    said = json.loads(run_clotseg("-C", project.root, "runs", "--json").stdout)
    assert said == list_runs(project)
    assert contents(project.root) == before


def test_a_project_without_runs_says_what_makes_one(project: Project) -> None:
    done = run_clotseg("-C", project.root, "runs")
    assert (done.returncode, done.stdout) == (0, "no run yet: `clotseg train` makes one\n")
