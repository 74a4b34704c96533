"""What is tested: single networks, ensembles, and the runs of a cross-validation, each for its own cases."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clotseg.config import SplitConfig
from clotseg.console import PlainProgress
from clotseg.errors import ConfigError, CorruptArtifactError, DataError
from clotseg.evaluate.infer import load_predictor
from clotseg.evaluate.subject import Subject, find_subject
from clotseg.evaluate.testing import score_test_cohort
from clotseg.prep.cohorts import read_cohorts
from clotseg.prep.stages import run_prep
from clotseg.project import Project, Run
from tests.evaluate.conftest import settings, write_run

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning:keras"
)

FOLDS = 3


@pytest.fixture(scope="module")
def crossed(sliced_project: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[Run]]:
    """A project with a run for each of three folds; the last fold's split is the present one."""
    project = Project(tmp_path_factory.mktemp("crossed") / "project")
    shutil.copytree(sliced_project.root, project.root)
    found = []
    for fold in range(1, FOLDS + 1):
        config = settings(split=SplitConfig(folds=FOLDS, fold=fold))
        run_prep(project, config, PlainProgress())
        found.append(write_run(project, seed=fold, config=config))
    return project, found


def subject_of(project: Project, **named: Any) -> Subject:
    named = {"checkpoints": [], "folds": [], **named}
    return find_subject(project, read_cohorts(project), **named)


def folders(found: Sequence[Run]) -> list[Path]:
    return [run.folder for run in found]


def cases_by_run(subject: Subject) -> dict[str, str]:
    return {entry.case.name: arm.run.folder.name for arm in subject.arms for entry in arm.testing}


def test_each_case_is_tested_by_the_run_that_held_it_out(crossed: tuple[Project, list[Run]]) -> None:
    project, found = crossed
    subject = subject_of(project, folds=folders(found))
    expected = {}
    for run in found:
        split = json.loads((run.relevant / "split.json").read_text())["cohorts"]
        expected |= dict.fromkeys(split["Testing"], run.folder.name)
    assert cases_by_run(subject) == expected
    assert sorted(expected) == [f"case_{number:02d}" for number in range(10)]
    for arm in subject.arms:
        trained = {entry.case.name for entry in (*arm.training, *arm.validation)}
        assert trained.isdisjoint(entry.case.name for entry in arm.testing)


@pytest.mark.slow
def test_all_cases_are_scored_over_the_folds(crossed: tuple[Project, list[Run]]) -> None:
    project, found = crossed
    result = score_test_cohort(project, settings(), PlainProgress(), folds=folders(found))
    assert sorted(case["case"] for case in result["cases"]) == [f"case_{number:02d}" for number in range(10)]
    assert [point["run"] for point in result["operating_points"]] == [run.folder.name for run in found]
    assert all((run.best / "operating_point.json").is_file() for run in found)
    assert result["report"].startswith(f"Trainings/{found[0].folder.name}/Testing/Folds-")
    assert f"the {FOLDS} networks of a cross-validation" in (project.root / result["report"]).read_text()
    alone = score_test_cohort(project, settings(), PlainProgress(), checkpoints=[found[-1].folder])
    assert "one trained network" in (project.root / alone["report"]).read_text()
    by_fold = {case["case"]: case for case in result["cases"]}
    assert alone["cases"] == [by_fold[case["case"]] for case in alone["cases"]]


@pytest.mark.parametrize(("chosen", "told"), [([0, 1], "tested by none"), ([0, 1, 2, 0], "tested by 2")])
def test_folds_that_do_not_test_every_case_once_are_refused(
    crossed: tuple[Project, list[Run]], chosen: list[int], told: str
) -> None:
    project, found = crossed
    with pytest.raises(DataError, match=told):
        subject_of(project, folds=[found[number].folder for number in chosen])


def test_a_fold_trained_on_other_volumes_is_refused(
    crossed: tuple[Project, list[Run]], tmp_path: Path
) -> None:
    project = Project(shutil.copytree(crossed[0].root, tmp_path / "project"))
    volume = next(project.volumes.glob("case_03_CTA*"))
    hu = np.load(volume)
    hu[0, 0, 0] += 1
    np.save(volume, hu)
    run_prep(project, settings(split=SplitConfig(folds=FOLDS, fold=1)), PlainProgress())
    with pytest.raises(CorruptArtifactError, match="other volumes"):
        subject_of(project, folds=[project.trainings / run.folder.name for run in crossed[1]])


def test_folds_and_an_ensemble_exclude_each_other(crossed: tuple[Project, list[Run]]) -> None:
    project, found = crossed
    with pytest.raises(ConfigError, match="name one or the other"):
        subject_of(project, folds=folders(found), checkpoints=folders(found))


@pytest.mark.slow
def test_an_ensemble_has_a_folder_and_an_operating_point_of_its_own(
    crossed: tuple[Project, list[Run]],
) -> None:
    project, found = crossed
    run = found[-1]
    both = [run.best, run.checkpoints]
    results = {
        "alone": score_test_cohort(project, settings(), PlainProgress(), checkpoints=both[:1]),
        "both": score_test_cohort(project, settings(tta=True), PlainProgress(), checkpoints=both),
    }
    assert "/Testing/Ensemble-" in results["both"]["report"]
    assert all(case["spread"] is None for case in results["alone"]["cases"])
    assert all(0 <= case["spread"] <= 0.5 for case in results["both"]["cases"])
    pages = {name: (project.root / told["report"]).read_text() for name, told in results.items()}
    row = '<th scope="row">averaged over flips</th><td>'
    assert f"{row}none<" in pages["alone"]
    assert f"{row}horizontal and vertical; horizontal and vertical<" in pages["both"]
    kept = json.loads((run.best / "operating_point.json").read_text())["points"]
    assert [(len(point["weights"]), point["tta"]) for point in kept] == [(1, False), (2, True)]


def test_a_network_trained_without_flips_is_not_shown_any(
    crossed: tuple[Project, list[Run]], tmp_path: Path
) -> None:
    _, found = crossed
    best = Path(shutil.copytree(found[-1].best, tmp_path / "Best_Model"))
    told = json.loads((best / "network.json").read_text())
    (best / "network.json").write_text(json.dumps({**told, "flips": []}))
    assert load_predictor([best], tta=True).passes == 1
    assert load_predictor([found[-1].best, best], tta=True).passes == 4 + 1


def test_weights_that_are_named_twice_are_refused(crossed: tuple[Project, list[Run]]) -> None:
    project, found = crossed
    with pytest.raises(ConfigError, match="named twice"):
        subject_of(project, checkpoints=[found[-1].best, found[-1].folder])
