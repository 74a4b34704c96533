"""Testing a run: what is written is what the network says of the test cohort, and only of it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit

from clotseg.config import (
    Config,
    SplitConfig,
)
from clotseg.console import PlainProgress
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.doubt import doubt_of
from clotseg.evaluate.infer import load_predictor, open_case
from clotseg.evaluate.testing import score_test_cohort
from clotseg.prep.cohorts import read_cohorts
from clotseg.prep.stages import run_prep
from clotseg.project import Project, Run
from tests.conftest import contents, modified_times
from tests.evaluate.conftest import settings

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning:keras"
)


@pytest.fixture(scope="module")
def chosen(project: Project, run: Run) -> dict[str, Any]:
    """What testing chooses for the best weights where it is left to choose."""
    tested = score_test_cohort(project, settings(), PlainProgress())
    shutil.rmtree(run.folder / "Testing")
    point: dict[str, Any] = tested["operating_points"][0]
    return point


@pytest.fixture(scope="module")
def probabilities(project: Project, run: Run, chosen: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """What the best weights say of each test case, the log-odds divided by the temperature."""
    predictor = load_predictor([run.best], tta=False)
    cases = [entry.case for entry in read_cohorts(project).of("Testing")]
    odds = {case.name: logit(predictor.probability(open_case(case)).astype(np.float64)) for case in cases}
    temperature = chosen["chosen"]["calibration"]["temperature"]
    return {name: expit(values / temperature) for name, values in odds.items()}


@pytest.fixture(scope="module")
def threshold(probabilities: dict[str, NDArray[np.float64]]) -> float:
    """One that a fifth of the voxels reach, since nobody taught the network where a half lies."""
    every = np.concatenate([probability.ravel() for probability in probabilities.values()])
    return float(np.quantile(every, 0.8))


@pytest.fixture(scope="module")
def result(project: Project, threshold: float) -> dict[str, Any]:
    """What testing the newest run's best gave."""
    return score_test_cohort(project, settings(threshold=threshold), PlainProgress())


@pytest.fixture
def copied(project: Project, run: Run, result: dict[str, Any], tmp_path: Path) -> tuple[Project, Run]:
    """The tested project, to be changed."""
    shutil.copytree(project.root, tmp_path / "project")
    return Project(tmp_path / "project"), Run(tmp_path / "project" / "Trainings" / run.folder.name)


def masks_of(project: Project, result: dict[str, Any], case: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The mask that was written, and the truth as the user gave it."""
    predicted = np.load(project.root / result["masks"] / f"{case}_pred.npy")
    return predicted, np.load(project.masks / f"{case}_seg_corrected_binary.npy")


def test_every_test_case_is_scored_and_no_other(project: Project, result: dict[str, Any]) -> None:
    split = json.loads((project.original / "split.json").read_text())
    testing = split["cohorts"]["Testing"]
    assert [case["case"] for case in result["cases"]] == testing
    assert {path.name for path in (project.root / result["masks"]).iterdir()} == {
        f"{case}_{kind}.npy" for case in testing for kind in ("pred", "prob")
    }


def test_masks_are_on_the_grid_of_the_volumes(project: Project, result: dict[str, Any]) -> None:
    for case in result["cases"]:
        cta = np.load(project.volumes / f"{case['case']}_CTA_Binary.npy")
        predicted, _ = masks_of(project, result, case["case"])
        probability = np.load(project.root / result["masks"] / f"{case['case']}_prob.npy")
        assert predicted.shape == probability.shape == cta.shape
        assert predicted.dtype == np.uint8
        assert probability.dtype in (np.float16, np.float32)
        assert probability.min() >= 0
        assert probability.max() <= 1


def test_a_mask_can_be_cut_again_from_what_is_stored(
    project: Project, result: dict[str, Any], threshold: float
) -> None:
    for case in result["cases"]:
        predicted, _ = masks_of(project, result, case["case"])
        probability = np.load(project.root / result["masks"] / f"{case['case']}_prob.npy")
        np.testing.assert_array_equal(predicted, probability >= threshold)


def test_probabilities_are_those_of_the_best_weights(
    project: Project, result: dict[str, Any], probabilities: dict[str, NDArray[np.float64]]
) -> None:
    for case, expected in probabilities.items():
        stored = np.load(project.root / result["masks"] / f"{case}_prob.npy")
        np.testing.assert_allclose(stored, expected, atol=1e-3)


def test_metrics_are_those_of_the_written_masks(project: Project, result: dict[str, Any]) -> None:
    with (project.root / result["report"]).with_name("metrics.csv").open(newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert list(rows) == [case["case"] for case in result["cases"]]
    partial = 0
    for case in result["cases"]:
        predicted, truth = masks_of(project, result, case["case"])
        overlap = int(np.sum(predicted * truth))
        dice = 2 * overlap / (int(predicted.sum()) + int(truth.sum()))
        partial += 0 < dice < 1
        row = rows[case["case"]]
        assert float(row["dice"]) == case["dice"] == pytest.approx(dice)
        assert int(row["volume_true"]) == case["volume_true"] == truth.sum()
        assert int(row["volume_predicted"]) == case["volume_predicted"] == predicted.sum()
        assert case["found"] is (overlap > 0 if truth.any() else None)
    assert partial, "some mask must overlap its truth for this to mean anything"


def test_every_clot_of_both_masks_is_measured(project: Project, result: dict[str, Any]) -> None:
    with (project.root / result["report"]).with_name("clots.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for case in result["cases"]:
        predicted, truth = masks_of(project, result, case["case"])
        cta = np.load(project.volumes / f"{case['case']}_CTA_Binary.npy")
        for name, mask in (("true", truth), ("predicted", predicted)):
            labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
            clots = [row for row in rows if (row["case"], row["mask"]) == (case["case"], name)]
            sizes = [int(np.sum(labels == number)) for number in range(1, count + 1)]
            assert [int(clot["volume_voxels"]) for clot in clots] == sizes
            for number, clot in enumerate(clots, 1):
                assert float(clot["cta_hu_mean"]) == pytest.approx(cta[labels == number].mean())
                assert clot["volume_mm3"] == clot["length_mm"] == ""
    assert {row["mask"] for row in rows} == {"true", "predicted"}


def test_the_summary_is_of_the_cases_with_a_clot(project: Project, result: dict[str, Any]) -> None:
    with_clot = [case for case in result["cases"] if masks_of(project, result, case["case"])[1].any()]
    summary = result["summary"]
    assert summary["dice_mean"] == pytest.approx(np.mean([case["dice"] for case in with_clot]))
    assert summary["missed"] == sum(case["found"] is False for case in with_clot)
    assert summary["cases_with_clot"] == len(with_clot)
    if len(with_clot) > 1:
        assert summary["dice_ci95"][0] <= summary["dice_mean"] <= summary["dice_ci95"][1]


def test_the_summary_says_how_it_was_calibrated_and_cut(
    project: Project, result: dict[str, Any], threshold: float
) -> None:
    summary = json.loads((project.root / result["report"]).with_name("summary.json").read_text())
    (point,) = summary["operating_points"]
    assert point["in_force"]["threshold"] == threshold
    assert point["in_force"]["temperature"] == point["chosen"]["calibration"]["temperature"]
    calibration = point["chosen"]["calibration"]
    assert 0 <= calibration["ece_after"] <= calibration["ece_before"] + 1e-3
    validation = read_cohorts(project).of("Validation")
    voxels = sum(int(np.prod(entry.shape)) for entry in validation)
    for bins in (calibration["bins_before"], calibration["bins_after"]):
        assert sum(count for _, _, count in bins) == voxels
        clot = sum(share * count for _, share, count in bins)
        assert clot == pytest.approx(sum(entry.clot_voxels for entry in validation))


def test_each_case_has_its_doubt(project: Project, result: dict[str, Any]) -> None:
    for case in result["cases"]:
        probability = np.load(project.root / result["masks"] / f"{case['case']}_prob.npy")
        predicted, _ = masks_of(project, result, case["case"])
        assert predicted.any()
        assert case["doubt"] == doubt_of(probability, predicted, None).level
        assert case["spread"] is None, "a single network in a single pass"
    page = (project.root / result["report"]).read_text(encoding="utf-8")
    assert "Review list" in page
    assert result["summary"]["doubt"]["cases"] == result["summary"]["cases_with_clot"]


def test_paths_are_given_from_the_project_folder(project: Project, run: Run, result: dict[str, Any]) -> None:
    at = f"Trainings/{run.folder.name}"
    assert result["run"] == at
    assert result["report"] == f"{at}/Testing/Best_Model/report.html"
    assert result["masks"] == f"{at}/Testing/Best_Model/masks"
    page = (project.root / result["report"]).read_text(encoding="utf-8")
    assert all(case["case"] in page for case in result["cases"])


def test_the_manifest_vouches_for_every_file(project: Project, result: dict[str, Any]) -> None:
    folder = (project.root / result["report"]).parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["outputs"]) == set(contents(folder)) - {"manifest.json"}


def test_testing_again_gives_the_same_bytes(
    copied: tuple[Project, Run], result: dict[str, Any], threshold: float
) -> None:
    project, run = copied
    """The operating point included, which is chosen again."""
    before = contents(run.folder)
    shutil.rmtree(run.folder / "Testing")
    (run.best / "operating_point.json").unlink()
    assert score_test_cohort(project, settings(threshold=threshold), PlainProgress()) == result
    assert contents(run.folder) == before


def test_results_are_reused_where_that_is_asked_for(
    copied: tuple[Project, Run], result: dict[str, Any], threshold: float, capsys: pytest.CaptureFixture[str]
) -> None:
    project, run = copied
    before = modified_times(run.folder)
    config = settings(threshold=threshold)
    assert score_test_cohort(project, config, PlainProgress(), reuse=True) == result
    assert modified_times(run.folder) == before
    assert "event=test state=reused" in capsys.readouterr().err


def test_results_of_another_threshold_are_not_reused(copied: tuple[Project, Run], threshold: float) -> None:
    project, _ = copied
    lower = score_test_cohort(project, settings(threshold=threshold / 2), PlainProgress(), reuse=True)
    for case in lower["cases"]:
        probability = np.load(project.root / lower["masks"] / f"{case['case']}_prob.npy")
        assert case["volume_predicted"] == np.sum(probability >= threshold / 2)


def test_a_lost_mask_is_not_taken_for_a_result(
    copied: tuple[Project, Run], result: dict[str, Any], threshold: float
) -> None:
    project, run = copied
    before = contents(run.testing("Best_Model"))
    next(iter((run.testing("Best_Model") / "masks").glob("*_pred.npy"))).unlink()
    score_test_cohort(project, settings(threshold=threshold), PlainProgress(), reuse=True)
    assert contents(run.testing("Best_Model")) == before


@pytest.mark.parametrize(
    ("name", "tested"),
    [
        (lambda run: run.folder, "Best_Model"),
        (lambda run: run.best, "Best_Model"),
        (lambda run: next(run.best.glob("*.weights.h5")), "Best_Model"),
        (lambda run: run.checkpoints, "Checkpoint_Files"),
    ],
    ids=["run", "best", "weights file", "last"],
)
def test_a_checkpoint_can_be_named_in_several_ways(
    copied: tuple[Project, Run],
    result: dict[str, Any],
    threshold: float,
    name: Callable[[Run], Path],
    tested: str,
) -> None:
    project, run = copied
    reused = score_test_cohort(
        project, settings(threshold=threshold), PlainProgress(), checkpoints=[name(run)], reuse=True
    )
    assert reused["report"] == f"Trainings/{run.folder.name}/Testing/{tested}/report.html"
    assert (reused == result) is (tested == "Best_Model")


def test_the_newest_run_is_tested_where_none_is_named(copied: tuple[Project, Run], threshold: float) -> None:
    project, run = copied
    newer = shutil.copytree(run.folder, project.trainings / "29991231-235959")
    result = score_test_cohort(project, settings(threshold=threshold), PlainProgress(), reuse=True)
    assert result["run"] == project.shown(newer)


@pytest.mark.parametrize("name", ["Trainings", "Trainings/20000101-000000", "DL_vol_files/cases.csv", ".."])
def test_what_is_no_checkpoint_is_named(project: Project, run: Run, name: str) -> None:
    with pytest.raises(DataError, match="no checkpoint") as caught:
        score_test_cohort(project, settings(), PlainProgress(), checkpoints=[project.root / name])
    assert caught.value.where == project.root / name
    assert "Best_Model" in str(caught.value)


def test_without_a_run_the_way_to_one_is_told(sliced_project: Project) -> None:
    with pytest.raises(DataError, match="run `clotseg train` first"):
        score_test_cohort(sliced_project, settings(), PlainProgress())


def test_a_run_of_another_split_is_refused(copied: tuple[Project, Run]) -> None:
    project, run = copied
    before = contents(run.folder)
    other = Config(split=SplitConfig(seed=2), slice=settings().slice, feed=settings().feed)
    run_prep(project, other, PlainProgress())
    with pytest.raises(CorruptArtifactError, match="training patients") as caught:
        score_test_cohort(project, settings(), PlainProgress())
    assert caught.value.where == run.folder
    assert contents(run.folder) == before


def test_damaged_weights_leave_earlier_results_whole(copied: tuple[Project, Run]) -> None:
    project, run = copied
    before = contents(run.testing("Best_Model"))
    weights = next(run.best.glob("*.weights.h5"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match="not the ones that were saved"):
        score_test_cohort(project, settings(), PlainProgress())
    assert contents(run.testing("Best_Model")) == before
