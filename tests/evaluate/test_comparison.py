"""Two runs side by side: paired by case, refused where they cannot be."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import stats

from clotseg import artifact
from clotseg.config import TestConfig
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.comparison import compare_runs
from clotseg.evaluate.metrics import score_case, summarise
from clotseg.project import Project
from clotseg.results import compare_table
from tests.conftest import run_clotseg
from tests.test_results import shown

CONFIG = TestConfig(bootstrap_samples=500)


def rod(length, *, start=0):
    """A mask with a rod along the slices."""
    mask = np.zeros((8, 8, 24), np.uint8)
    mask[3:5, 3:5, start : start + length] = 1
    return mask


@cache
def scores_of(lengths):
    """Cases of one true rod each, of which so many slices were predicted; the last case has no clot."""
    cases = [(rod(length), rod(12)) for length in lengths] + [(rod(0), rod(0))]
    return [
        score_case(
            predicted,
            truth,
            case=f"case_{number:02d}",
            patient=f"p{number // 2}",
            site="north",
            spacing_mm=(0.5, 0.5, 1.0),
        )
        for number, (predicted, truth) in enumerate(cases)
    ]


def write_results(root, name, scores, *, split="split", digests=None):
    """A run with test results as `clotseg test` writes them."""
    run = root / "Trainings" / name
    folder = run / "Testing" / "Best_Model"
    for made in (folder, run / "Relevant_Files", run / "Best_Model"):
        made.mkdir(parents=True)
    artifact.write_json(
        run / "Relevant_Files" / "run.json",
        {"format": artifact.FORMAT, "split_key": split},
    )
    rows = [score.as_row() for score in scores]
    summary = summarise(scores, bootstrap_samples=20, seed=1)
    artifact.write_json(
        folder / "summary.json", {"format": artifact.FORMAT, "cases": rows, "summary": summary}
    )
    inputs = {score.case: {"mask": "0" * 64} for score in scores} | (digests or {})
    outputs = artifact.describe_outputs(folder, ["summary.json"])
    artifact.write_manifest(
        folder, {"format": artifact.FORMAT, "inputs": {"weights": name, **inputs}, "outputs": outputs}
    )
    return run


FIRST, SECOND = (3, 4, 5, 6, 7, 8, 9, 0), (6, 6, 8, 8, 9, 11, 9, 3)


@pytest.fixture
def runs(tmp_path):
    return (
        write_results(tmp_path, "20240101-000000", scores_of(FIRST)),
        write_results(tmp_path, "20240102-000000", scores_of(SECOND)),
    )


def metric(result, name):
    return next(found for found in result["metrics"] if found["metric"] == name)


def test_differences_are_of_the_same_case_in_both_runs(runs, tmp_path):
    """Dice of a rod of n slices and one of 12 is 2n / (n + 12)."""
    result = compare_runs(Project(tmp_path), *runs, CONFIG)
    first, second = (np.array([2 * n / (n + 12) for n in lengths]) for lengths in (FIRST, SECOND))
    dice = metric(result, "dice")
    assert dice["first"] == pytest.approx(first.mean())
    assert dice["second"] == pytest.approx(second.mean())
    assert dice["difference"] == pytest.approx((second - first).mean())
    assert dice["wilcoxon_p"] == pytest.approx(stats.wilcoxon(second, first).pvalue)
    assert dice["ci95"][0] < dice["difference"] < dice["ci95"][1]
    assert (dice["cases"], dice["better"]) == (8, "second")
    assert result["missed"] == [1, 0]
    assert (result["cases"], result["cases_with_clot"]) == (9, 8)


def test_the_interval_is_of_differences_and_so_narrower_than_that_of_either_run(runs, tmp_path):
    result = compare_runs(Project(tmp_path), *runs, CONFIG)
    alone = summarise(scores_of(FIRST), bootstrap_samples=500, seed=1)["dice_ci95"]
    low, high = metric(result, "dice")["ci95"]
    assert high - low < 0.6 * (alone[1] - alone[0])


def test_a_smaller_distance_is_the_better_one_and_a_missed_clot_has_none(runs, tmp_path):
    distance = metric(compare_runs(Project(tmp_path), *runs, CONFIG), "hd95_mm")
    assert distance["cases"] == 7
    assert distance["difference"] < 0
    assert distance["better"] == "second"


def test_a_run_does_not_differ_from_itself(runs, tmp_path):
    result = compare_runs(Project(tmp_path), runs[0], runs[0], CONFIG)
    assert {found["difference"] for found in result["metrics"]} == {0}
    assert {found["better"] for found in result["metrics"]} == {None}
    assert {found["wilcoxon_p"] for found in result["metrics"]} == {None}


def test_exchanging_the_runs_changes_the_signs(runs, tmp_path):
    there, back = (compare_runs(Project(tmp_path), *pair, CONFIG) for pair in (runs, runs[::-1]))
    assert metric(there, "dice")["difference"] == pytest.approx(-metric(back, "dice")["difference"])
    assert metric(back, "dice")["better"] == "first"


def test_runs_tested_on_different_cases_are_refused_by_name(runs, tmp_path):
    renamed = [replace(score, case=f"new_{score.case}") for score in scores_of(SECOND)]
    other = write_results(tmp_path, "20240103-000000", renamed)
    with pytest.raises(DataError, match="not tested on the same cases") as caught:
        compare_runs(Project(tmp_path), runs[0], other, CONFIG)
    assert "case_03" in str(caught.value)
    assert "new_case_03" in str(caught.value)


def test_a_case_whose_mask_was_redrawn_is_not_the_same_case(runs, tmp_path):
    digests = {"case_04": {"mask": "1" * 64}}
    other = write_results(tmp_path, "20240103-000000", scores_of(SECOND), digests=digests)
    with pytest.raises(DataError, match="case_04: its volumes or mask differ"):
        compare_runs(Project(tmp_path), runs[0], other, CONFIG)


def test_runs_of_different_splits_are_refused(runs, tmp_path):
    other = write_results(tmp_path, "20240103-000000", scores_of(SECOND), split="another")
    with pytest.raises(DataError, match="different splits"):
        compare_runs(Project(tmp_path), runs[0], other, CONFIG)


def test_a_run_that_was_never_tested_is_told_how(runs, tmp_path):
    with pytest.raises(DataError, match="clotseg test"):
        compare_runs(Project(tmp_path), runs[0], tmp_path / "Trainings", CONFIG)


def test_changed_results_are_not_compared(runs, tmp_path):
    summary = runs[1] / "Testing" / "Best_Model" / "summary.json"
    summary.write_text(summary.read_text().replace("0.5", "0.9"))
    with pytest.raises(CorruptArtifactError, match="not as it was written"):
        compare_runs(Project(tmp_path), *runs, CONFIG)


@pytest.mark.parametrize("part", ["", "Best_Model", "Testing/Best_Model"])
def test_a_run_can_be_named_in_several_ways(runs, tmp_path, part):
    named = compare_runs(Project(tmp_path), runs[0] / part, runs[1], CONFIG)
    assert named == compare_runs(Project(tmp_path), *runs, CONFIG)


def test_a_checkpoint_of_an_epoch_is_found_where_test_writes_its_results(runs, tmp_path):
    epoch = "epoch-0021-step-000000"
    (runs[0] / "Checkpoint_Files" / epoch).mkdir(parents=True)
    (runs[0] / "Testing" / "Best_Model").rename(runs[0] / "Testing" / epoch)
    named = compare_runs(Project(tmp_path), runs[0] / "Checkpoint_Files" / epoch, runs[1], CONFIG)
    assert named["runs"][0].endswith(f"Testing/{epoch}")


@pytest.mark.slow
def test_the_command_prints_a_table_for_people_and_json_for_machines(runs, tmp_path):
    names = [run.relative_to(tmp_path) for run in runs]
    done = run_clotseg("-C", tmp_path, "compare", *names, "--json")
    result = json.loads(done.stdout)
    assert result == compare_runs(Project(tmp_path), *runs, TestConfig())
    text = shown(compare_table(result))
    dice = metric(result, "dice")
    assert f"{dice['first']:.3f}" in text
    assert f"{dice['difference']:+.3f}" in text
    assert "1 and 0 of 8 cases with a clot" in text
    refused = run_clotseg("-C", tmp_path, "compare", names[0], "nowhere")
    assert (refused.returncode, "clotseg test" in refused.stderr) == (3, True)
