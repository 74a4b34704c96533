"""What `prep` was told by flags holds for the training that comes after it."""

import json
from pathlib import Path
from typing import Any

import pytest

from clotseg.config import load_config
from clotseg.console import PlainProgress
from clotseg.errors import ConfigError, CorruptArtifactError
from clotseg.prep.flags import recall, remembered
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.train.records import runs
from tests.conftest import run_clotseg

TINY = ("--epochs", 1, "--filters", 4, "--depth", 2, "--batch-size", 8, "--size", "auto", "--gpus", 0)
FLAGS = {"split.folds": 2, "split.fold": 1, "split.stratify": ["clot"], "slice.context": 1}


def prepared(project: Project, flags: dict[str, Any]) -> dict[str, Any]:
    """As the command prepares it."""
    config = load_config(project.config_file, flags)
    stages: dict[str, Any] = run_prep(project, config, PlainProgress(), flags=remembered(flags))["stages"]
    return stages


def test_only_flags_that_say_what_prep_makes_are_remembered() -> None:
    given = {
        "split.seed": 3,
        "split.fold": None,
        "feed.size": 64,
        "runtime.workers": 2,
        "offline.target_val": 0,
    }
    assert remembered(given) == {"split.seed": 3, "offline.target_val": 0}


def test_the_flags_of_the_last_prep_hold(cohort: Project) -> None:
    assert recall(cohort) == {}
    prepared(cohort, {**FLAGS, "runtime.workers": 1})
    assert recall(cohort) == FLAGS
    made_with = load_config(cohort.config_file, recall(cohort))
    assert run_prep(cohort, made_with, PlainProgress())["stages"] == {"split": "reused", "slice": "reused"}
    assert recall(cohort) == FLAGS, "a training changes nothing"
    prepared(cohort, {"slice.context": 0})
    assert recall(cohort) == {"slice.context": 0}
    assert prepared(cohort, {}) == {"split": "reused", "slice": "reused"}
    assert recall(cohort) == {}


def test_a_prep_that_is_refused_leaves_the_flags_as_they_were(cohort: Project) -> None:
    prepared(cohort, FLAGS)
    next(cohort.masks.iterdir()).write_bytes(b"no array")
    with pytest.raises(Exception, match="cannot be used"):
        prepared(cohort, {"split.seed": 5})
    assert recall(cohort) == FLAGS


def test_a_file_that_says_something_else_than_the_flags_is_refused(cohort: Project) -> None:
    prepared(cohort, FLAGS)
    cohort.config_file.write_text("[slice]\ncontext = 1\n[split]\nval_perc = 0.25\n")
    assert recall(cohort) == FLAGS, "what says the same, or of something else, is no conflict"
    cohort.config_file.write_text("[slice]\ncontext = 2\n[split]\nfolds = 3\n")
    with pytest.raises(ConfigError, match="do not go with the file") as caught:
        recall(cohort)
    assert "slice.context: 2 in the file, 1 by the flag" in str(caught.value)
    assert "split.folds: 3 in the file, 2 by the flag" in str(caught.value)
    assert "run `clotseg prep`" in str(caught.value)
    cohort.config_file.write_text('[split]\nfile = "split.json"\n')
    with pytest.raises(ConfigError, match="do not go with the file") as caught:
        recall(cohort)
    assert "split.file" in str(caught.value)
    cohort.config_file.write_text("[split]\nval_perc = 7\n")
    with pytest.raises(ConfigError, match="some settings cannot be used"):
        recall(cohort)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"flags": {"train.epochs": 3}}', '{"flags": 3}'])
def test_damaged_flags_are_told(cohort: Project, content: str) -> None:
    prepared(cohort, FLAGS)
    cohort.prep_flags.write_text(content)
    with pytest.raises(CorruptArtifactError, match=str(cohort.prep_flags)):
        recall(cohort)
    prepared(cohort, FLAGS)
    assert recall(cohort) == FLAGS, "the next prep mends it"


@pytest.mark.slow
def test_folds_given_as_flags_make_a_cross_validation(cohort: Project, tmp_path: Path) -> None:
    for fold in (1, 2):
        done = run_clotseg("-C", cohort.root, "prep", "--folds", 2, "--fold", fold, "--stratify", "clot")
        assert done.returncode == 0, done.stderr
        split = (cohort.original / "split.json").read_bytes()
        done = run_clotseg("-C", cohort.root, "train", *TINY)
        assert done.returncode == 0, done.stderr
        assert "event=split state=reused" in done.stderr
        assert (cohort.original / "split.json").read_bytes() == split
    folds = [argument for run in runs(cohort) for argument in ("--folds", f"Trainings/{run.folder.name}")]
    done = run_clotseg("-C", cohort.root, "test", *folds, "--gpus", 0, "--json")
    assert done.returncode == 0, done.stderr
    tested = [case["case"] for case in json.loads(done.stdout)["cases"]]
    assert sorted(tested) == sorted(f"case_{number:02d}" for number in range(10))
