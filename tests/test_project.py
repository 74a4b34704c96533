"""Where everything lies in a project folder: the layout is a format that users' scripts rely on."""

from pathlib import Path

import pytest

from clotseg.project import COHORTS, SLICED_COHORTS, Project, Run

ROOT = Path("/somewhere/stroke")


@pytest.mark.parametrize(
    ("place", "relative"),
    [
        ("volumes", "DL_vol_files/binary"),
        ("masks", "DL_seg_files/binary"),
        ("cases_csv", "DL_vol_files/cases.csv"),
        ("config_file", "clotseg.toml"),
        ("phantom_record", "phantom.json"),
        ("processed", "Processed"),
        ("original", "Processed/Original"),
        ("sliced", "Processed/Sliced"),
        ("trainings", "Trainings"),
    ],
)
def test_a_project_lays_its_files_out_as_documented(place, relative):
    assert getattr(Project(ROOT), place) == ROOT / relative


@pytest.mark.parametrize(
    ("place", "relative"),
    [
        ("best", "Best_Model"),
        ("checkpoints", "Checkpoint_Files"),
        ("relevant", "Relevant_Files"),
        ("history", "Relevant_Files/history.csv"),
        ("record", "Relevant_Files/run.json"),
        ("settings", "Relevant_Files/clotseg.toml"),
        ("tensorboard", "TensorBoard"),
    ],
)
def test_a_run_lays_its_files_out_as_documented(place, relative):
    folder = ROOT / "Trainings" / "20260102-030405"
    assert getattr(Run(folder), place) == folder / relative


def test_each_checkpoint_of_a_run_has_its_own_test_results():
    run = Run(ROOT / "Trainings" / "20260102-030405")
    assert run.testing("Best_Model") == run.folder / "Testing" / "Best_Model"
    assert run.testing("Best_Model") != run.testing("Checkpoint_Files")


def test_the_test_cohort_is_never_among_those_that_are_sliced():
    assert COHORTS == ("Training", "Validation", "Testing")
    assert SLICED_COHORTS == ("Training", "Validation")


def test_paths_inside_the_project_are_shown_without_its_place_and_others_in_full():
    project = Project(ROOT)
    assert project.shown(project.sliced / "Training") == "Processed/Sliced/Training"
    assert project.shown(Path("/elsewhere/a.npy")) == "/elsewhere/a.npy"
    assert project.shown(Path("/somewhere/stroke-2/a.npy")) == "/somewhere/stroke-2/a.npy"
