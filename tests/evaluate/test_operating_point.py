"""The operating point: chosen on validation cases alone, kept with the weights, and read with suspicion."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clotseg.config import TestConfig
from clotseg.console import PlainProgress
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.calibration import Calibration
from clotseg.evaluate.infer import load_predictor
from clotseg.evaluate.operating_point import (
    CODE_VERSION,
    SMALLEST_COMPONENTS,
    THRESHOLDS,
    OperatingPoint,
    choose_cut,
    cut_in_force,
    cuts_after,
    dice_table,
    find_point,
    read_points,
    sizes_allowed,
    stored_or_chosen,
    write_points,
)
from clotseg.evaluate.segment import Cut, cut_mask
from clotseg.evaluate.subject import find_subject
from clotseg.evaluate.testing import score_test_cohort
from clotseg.prep.cohorts import read_cohorts
from clotseg.project import Project, Run
from clotseg.train.checkpoint import OPERATING_POINT, load_checkpoint, read_description, save_checkpoint
from tests.conftest import write_case
from tests.evaluate.conftest import settings

WEIGHTS, OTHER = "a" * 64, "b" * 64


def point_of(weights: str = WEIGHTS, *, tta: bool = False, threshold: float = 0.25) -> OperatingPoint:
    calibration = Calibration(
        temperature=1.5, ece_before=0.2, ece_after=0.1, bins_before=((0.3, 0.5, 7),), bins_after=()
    )
    return OperatingPoint(
        code_version=CODE_VERSION,
        weights=(weights,),
        tta=tta,
        split_key="c" * 64,
        cases=4,
        calibration=calibration,
        threshold=threshold,
        smallest_component=20,
        val_dice=0.75,
    )


@pytest.fixture
def own(project: Project, run: Run, tmp_path: Path) -> tuple[Project, Run]:
    """A project with a run, to be changed."""
    shutil.copytree(project.root, tmp_path / "project", ignore=shutil.ignore_patterns(OPERATING_POINT))
    return Project(tmp_path / "project"), Run(tmp_path / "project" / "Trainings" / run.folder.name)


def point_kept(project: Project, run: Run) -> OperatingPoint:
    """What `clotseg test` would take for the best weights of a run, before it looks at a test case."""
    (arm,) = find_subject(project, read_cohorts(project), checkpoints=[run.best], folds=[]).arms
    return stored_or_chosen(
        run.best,
        load_predictor(arm.checkpoints, tta=False),
        arm.validation,
        PlainProgress(),
        weights=arm.weights,
        tta=False,
        split_key=arm.split_key,
    )


def spoil(project: Project, cohort: str) -> None:
    """Leaves nothing of a cohort's volumes and masks that could be read."""
    for path in (project.original / cohort).rglob("*.npy"):
        path.unlink()
        path.write_bytes(b"no array")


def volume_with_two_blobs() -> tuple[Any, Any]:
    """A clot of 12 voxels, of which the network is surer inside, and a false blob of 6 far from it."""
    truth = np.zeros((12, 12, 6), np.uint8)
    truth[2:4, 2:5, 1:3] = 1
    probability = np.zeros(truth.shape, np.float16)
    probability[2:4, 2:5, 1:3] = 0.8
    probability[2:4, 2:5, 3] = 0.3
    probability[8:10, 8:11, 4] = 0.6
    return probability, truth


def test_the_dice_of_each_cut_is_as_counted_by_hand() -> None:
    table = dice_table(*volume_with_two_blobs())
    at = dict(zip(THRESHOLDS, table, strict=True))
    size = {smallest: column for column, smallest in enumerate(SMALLEST_COMPONENTS)}
    assert at[0.2][size[0]] == pytest.approx(2 * 12 / (24 + 12))
    assert at[0.2][size[10]] == pytest.approx(2 * 12 / (18 + 12))
    assert at[0.5][size[5]] == pytest.approx(2 * 12 / (18 + 12))
    assert at[0.5][size[10]] == 1.0
    assert at[0.7][size[0]] == 1.0
    assert at[0.7][size[20]] == 0.0
    assert at[0.9][size[0]] == 0.0


def test_a_case_without_a_clot_counts_one_where_nothing_is_predicted() -> None:
    probability, truth = volume_with_two_blobs()
    table = dice_table(probability, np.zeros_like(truth))
    assert table[THRESHOLDS.index(0.5), SMALLEST_COMPONENTS.index(0)] == 0.0
    assert table[THRESHOLDS.index(0.5), SMALLEST_COMPONENTS.index(20)] == 1.0
    assert table[THRESHOLDS.index(0.9)].tolist() == [1.0] * len(SMALLEST_COMPONENTS)


def test_what_the_table_promises_is_what_the_cut_gives() -> None:
    random = np.random.default_rng(0)
    probability = random.random((20, 20, 8)).astype(np.float16) ** 2
    truth = (random.random((20, 20, 8)) < 0.1).astype(np.uint8)
    table = dice_table(probability, truth)
    for at, threshold in enumerate(THRESHOLDS):
        for column, smallest in enumerate(SMALLEST_COMPONENTS):
            mask = cut_mask(probability, Cut(threshold=threshold, smallest_component=smallest))
            dice = 2 * np.sum(mask & truth) / (mask.sum() + truth.sum())
            assert table[at, column] == pytest.approx(dice)


def dice_of_cases(worst: float, **dice: list[float]) -> Any:
    """Dice [case, threshold, size], `worst` but for the cuts that are named `t<percent>_<voxels>`."""
    cases = len(next(iter(dice.values())))
    table = np.full((cases, len(THRESHOLDS), len(SMALLEST_COMPONENTS)), worst)
    for name, values in dice.items():
        percent, voxels = map(int, name[1:].split("_"))
        table[:, THRESHOLDS.index(percent / 100), SMALLEST_COMPONENTS.index(voxels)] = values
    return table


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ({"t30_50": [0.9]}, (0.3, 50)),
        ({"t10_0": [0.9], "t40_20": [0.9], "t40_5": [0.9]}, (0.4, 20)),
        ({"t40_0": [0.9], "t60_0": [0.9]}, (0.4, 0)),
        ({"t45_0": [0.9], "t5_500": [0.9]}, (0.05, 500)),
        # Lower by 0.002 with a standard error of 0.002 is no worse ...
        ({"t5_10": [0.804, 0.9], "t50_20": [0.8, 0.9]}, (0.5, 20)),
        # ... lower by 0.002 in every case is, ...
        ({"t5_10": [0.802, 0.902], "t50_20": [0.8, 0.9]}, (0.05, 10)),
        # ... and so is lower by 0.4 where chance could do as much: a clot was missed.
        ({"t5_10": [0.8, 0.9], "t50_20": [0.0, 0.9]}, (0.05, 10)),
        # One case tells nothing of chance.
        ({"t5_10": [0.901], "t50_20": [0.9]}, (0.05, 10)),
    ],
)
def test_of_cuts_that_are_no_worse_the_largest_size_is_taken_and_then_the_threshold_nearest_a_half(
    dice: dict[str, list[float]], expected: tuple[float, int]
) -> None:
    at, size = choose_cut(dice_of_cases(0.2, **dice), cuts_after(1.0))
    assert (THRESHOLDS[at], SMALLEST_COMPONENTS[size]) == expected


@pytest.mark.parametrize("temperature", [0.1, 0.3, 0.71, 1.0, 2.5])
def test_a_threshold_is_cut_at_where_it_was_chosen_or_not_chosen(temperature: float) -> None:
    cuts = cuts_after(temperature)
    possible = ~np.isnan(cuts)
    assert possible[THRESHOLDS.index(0.5)]
    assert (np.diff(np.float16(cuts[possible])) > 0).all(), "no two of them are the same cut"
    odds = np.log(cuts[possible] / (1 - cuts[possible]))
    chosen = np.array(THRESHOLDS)[possible]
    np.testing.assert_allclose(odds * temperature, np.log(chosen / (1 - chosen)), atol=1e-3)
    # The more extreme, the better: the most extreme that can be cut at is taken.
    extreme = np.abs(np.array(THRESHOLDS) - 0.5)
    at, _ = choose_cut(extreme[None, :, None], cuts)
    assert extreme[at] == extreme[possible].max()


def test_components_touch_at_corners_and_small_ones_go() -> None:
    probability = np.zeros((6, 6, 3), np.float16)
    for place in ((0, 0, 0), (1, 1, 1), (2, 2, 2), (5, 5, 0)):
        probability[place] = 0.9
    kept = cut_mask(probability, Cut(smallest_component=3))
    assert kept.dtype == np.uint8
    assert kept.sum() == 3
    assert kept[5, 5, 0] == 0
    assert cut_mask(probability, Cut(smallest_component=4)).sum() == 0
    assert cut_mask(probability, Cut(threshold=0.95, smallest_component=3)).sum() == 0


@pytest.mark.parametrize(
    ("clots", "largest"),
    [([0, 73, 200], 10), ([80, 81], 20), ([79], 10), ([0, 3], 0), ([20], 5), ([4000, 0], 500)],
)
def test_no_component_is_dropped_that_is_larger_than_a_quarter_of_the_smallest_clot(
    clots: list[int], largest: int
) -> None:
    assert SMALLEST_COMPONENTS[sizes_allowed(clots) - 1] == largest


@pytest.mark.parametrize(
    ("config", "threshold", "smallest"),
    [
        (TestConfig(), 0.25, 20),
        (TestConfig(threshold=0.6), 0.6, 0),
        (TestConfig(threshold=0.6, smallest_component=7), 0.6, 7),
        (TestConfig(smallest_component=7), 0.25, 7),
    ],
)
def test_settings_of_the_users_own_go_before_what_was_chosen(
    config: TestConfig, threshold: float, smallest: int
) -> None:
    cut = cut_in_force(config, point_of())
    assert cut == Cut(temperature=1.5, threshold=threshold, smallest_component=smallest)


def test_what_is_kept_comes_back_for_these_weights_and_passes(tmp_path: Path) -> None:
    points = [point_of(), point_of(tta=True, threshold=0.4)]
    write_points(tmp_path, WEIGHTS, points)
    assert read_points(tmp_path, WEIGHTS) == points
    assert find_point(tmp_path, [WEIGHTS], tta=True) == points[1]
    assert find_point(tmp_path, [WEIGHTS], tta=False) == points[0]
    assert find_point(tmp_path, [WEIGHTS, OTHER], tta=True) is None


def test_of_points_with_flips_and_without_the_one_with_flips_is_taken(tmp_path: Path) -> None:
    points = [point_of(tta=True, threshold=0.4), point_of()]
    write_points(tmp_path, WEIGHTS, points)
    assert find_point(tmp_path, [WEIGHTS], tta=None) == points[0]
    write_points(tmp_path, WEIGHTS, points[1:])
    assert find_point(tmp_path, [WEIGHTS], tta=None) == points[1]


def test_the_point_of_other_weights_is_refused(tmp_path: Path) -> None:
    write_points(tmp_path, OTHER, [point_of(OTHER)])
    with pytest.raises(CorruptArtifactError, match="belongs to other weights") as caught:
        read_points(tmp_path, WEIGHTS)
    assert caught.value.exit_code == 4
    assert "clotseg test" in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"threshold": 0.25', '"threshold": 0.26'),
        (WEIGHTS, OTHER),
        ('"format": 1', '"format": 2'),
        ('"seal"', '"sea"'),
        ("{", "["),
    ],
)
def test_a_point_that_was_changed_is_refused(tmp_path: Path, before: str, after: str) -> None:
    write_points(tmp_path, WEIGHTS, [point_of()])
    file = tmp_path / OPERATING_POINT
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    with pytest.raises(CorruptArtifactError):
        read_points(tmp_path, WEIGHTS)


def test_a_sealed_point_that_cannot_be_is_refused(tmp_path: Path) -> None:
    write_points(tmp_path, WEIGHTS, [point_of(threshold=1.5)])
    with pytest.raises(CorruptArtifactError, match="no operating point"):
        read_points(tmp_path, WEIGHTS)


def test_nothing_of_the_test_cohort_is_read_while_choosing(own: tuple[Project, Run]) -> None:
    """With every test volume and mask unreadable, the very same point is chosen, before testing fails."""
    project, run = own
    expected = point_kept(project, run)
    (run.best / OPERATING_POINT).unlink()
    spoil(project, "Testing")
    with pytest.raises(DataError, match="not a readable"):
        score_test_cohort(project, settings(), PlainProgress())
    assert read_points(run.best, read_description(run.best).sha256) == [expected]


def test_a_point_that_was_chosen_is_taken_without_reading_the_validation_cohort(
    own: tuple[Project, Run],
) -> None:
    project, run = own
    first = point_kept(project, run)
    spoil(project, "Validation")
    assert point_kept(project, run) == first
    (run.best / OPERATING_POINT).unlink()
    with pytest.raises(DataError, match="not a readable"):
        point_kept(project, run)


def test_a_point_that_older_code_chose_is_chosen_again(own: tuple[Project, Run]) -> None:
    project, run = own
    first = point_kept(project, run)
    older = replace(first, code_version=CODE_VERSION + 1, threshold=0.125)
    write_points(run.best, first.weights[0], [older])
    assert point_kept(project, run) == first
    assert read_points(run.best, first.weights[0]) == [first]


def test_the_validation_masks_decide(own: tuple[Project, Run]) -> None:
    project, run = own
    before = point_kept(project, run)
    (run.best / OPERATING_POINT).unlink()
    for path in (project.original / "Validation" / "masks").glob("*.npy"):
        mask = np.load(path)
        path.unlink()
        np.save(path, 1 - mask)
    after = point_kept(project, run)
    assert after.calibration != before.calibration
    assert after.val_dice > before.val_dice, "nearly all is clot now, which is easily found"


def test_without_a_clot_in_the_validation_cohort_a_half_it_is(own: tuple[Project, Run]) -> None:
    project, run = own
    for path in (project.original / "Validation" / "masks").glob("*.npy"):
        mask = np.load(path)
        path.unlink()
        np.save(path, 0 * mask)
    point = point_kept(project, run)
    assert (point.calibration.temperature, point.threshold, point.smallest_component) == (1, 0.5, 0)


def test_saving_other_weights_leaves_no_point_behind(own: tuple[Project, Run]) -> None:
    _, run = own
    weights = read_description(run.best).sha256
    write_points(run.best, weights, [point_of(weights)])
    model, description = load_checkpoint(run.best)
    save_checkpoint(run.best, model, description)
    assert not (run.best / OPERATING_POINT).exists()


def test_the_chosen_cut_finds_a_clot_that_the_network_is_unsure_of(tmp_path: Path) -> None:
    """A network that gives the true clot no more than 0.2 would miss it at a half."""
    project = Project(tmp_path)
    write_case(project, "case")
    truth = np.load(project.masks / "case_seg_corrected_binary.npy")
    probability = np.where(truth, np.float16(0.2), np.float16(0.02))
    at, size = choose_cut(dice_table(probability, truth)[None], cuts_after(1.0))
    assert dice_table(probability, truth)[at, size] == 1.0
    assert 0.02 < THRESHOLDS[at] <= 0.2
