"""Training as a user meets it: a cohort in, a run folder with the best and the last weights out."""

import csv
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import (
    AugmentConfig,
    Config,
    FeedConfig,
    NetworkConfig,
    OfflineConfig,
    RuntimeConfig,
    TrainConfig,
    load_config,
    to_toml,
)
from clotseg.console import PlainProgress
from clotseg.dashboard import EpochFacts, PlainTrainingView
from clotseg.errors import ConfigError, CorruptArtifactError, Interrupted
from clotseg.prep.cohorts import read_cohorts
from clotseg.prep.stages import run_prep
from clotseg.project import Project, Run
from clotseg.train.checkpoint import find_checkpoint, load_checkpoint
from clotseg.train.loop import train, train_or_reuse, volume_dice
from clotseg.train.optimizer import learning_rate
from clotseg.train.session import input_size
from tests.conftest import copy_of

SETTINGS = Config(
    feed=FeedConfig(size=32),
    augment=AugmentConfig(probability=0.5, selection="independent", vertical_flip=0),
    network=NetworkConfig(filters=4, depth=2, initial_probability=0.5),
    train=TrainConfig(
        epochs=2, batch_size=5, learning_rate=1e-3, seed=5, schedule="constant", warmup_epochs=0
    ),
    runtime=RuntimeConfig(gpus=0),
)


@pytest.mark.parametrize(
    ("counts", "dice"),
    [
        ([(2, 3, 5)], 4 / 8),
        ([(2, 3, 5), (0, 0, 4), (7, 7, 7)], (0.5 + 0 + 1) / 3),
        ([(2, 3, 5), (0, 9, 0), (0, 0, 0)], 0.5),
        ([(0, 9, 0), (0, 0, 0)], 0.5),
        ([(0, 0, 0)], 1.0),
    ],
    ids=["one", "mean", "volumes without clot left out", "no clot anywhere", "nothing at all"],
)
def test_dice_of_volumes_counted_by_hand(counts: list[tuple[int, int, int]], dice: float) -> None:
    assert volume_dice(np.array(counts, np.int64)) == pytest.approx(dice)


@pytest.fixture(scope="module")
def trained(
    sliced_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, dict[str, Any]]:
    """A project with one short run, and what training said of it.

    The last slice of the validation cohort has a clot, so that it shows where it is counted again.
    """
    project = copy_of(sliced_project, tmp_path_factory.mktemp("trained") / "project")
    last = read_cohorts(project).members["Validation"][-1]
    mask_file, cta_file = (
        project.masks / f"{last}_seg_corrected_binary.npy",
        project.volumes / f"{last}_CTA_Binary.npy",
    )
    mask = np.load(mask_file)
    mask[..., -1] = mask.any(axis=2)
    np.save(mask_file, mask)
    np.save(cta_file, np.where(mask == 1, 340, np.load(cta_file)).astype(np.int16))
    run_prep(project, SETTINGS, PlainProgress())
    return project, train(project, SETTINGS, PlainTrainingView())


def run_of(trained: tuple[Project, dict[str, Any]]) -> Run:
    project, result = trained
    return Run(project.root / result["run"])


def history_of(run: Run) -> list[dict[str, float]]:
    with run.history.open(newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


@pytest.mark.slow
def test_a_run_leaves_its_weights_its_history_and_its_records(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    run = run_of(trained)
    found = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    weights = {name for name in found if name.endswith(".weights.h5")}
    last_two = ["Checkpoint_Files/epoch-0001-step-000000", "Checkpoint_Files/epoch-0002-step-000000"]
    assert {Path(name).parent.as_posix() for name in weights} == {"Best_Model", *last_two}
    assert found - weights == {
        "Best_Model/network.json",
        *(
            f"{folder}/{name}"
            for folder in last_two
            for name in ("network.json", "state.npz", "training.json")
        ),
        "Relevant_Files/.lock",
        "Relevant_Files/clotseg.toml",
        "Relevant_Files/environment.json",
        "Relevant_Files/history.csv",
        "Relevant_Files/run.json",
        "Relevant_Files/split.json",
        *(
            f"TensorBoard/events.out.tfevents.{epoch:06d}.{kind}"
            for epoch in (1, 2)
            for kind in ("scalars", "slices")
        ),
    }
    assert json.loads(run.record.read_text())["state"] == "finished"
    assert json.loads((run.best / "network.json").read_text())["flips"] == ["horizontal"]


@pytest.mark.slow
def test_the_result_names_the_run_its_best_weights_and_their_dice(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    project, result = trained
    assert set(result) == {"run", "best", "epochs", "val_dice"}
    assert (project.root / result["run"]).parent == project.trainings
    assert result["best"] == f"{result['run']}/Best_Model"
    assert result["epochs"] == 2
    assert result["val_dice"] == max(row["val_dice"] for row in history_of(run_of(trained)))


@pytest.mark.slow
def test_the_history_has_a_line_an_epoch_with_possible_values(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    rows = history_of(run_of(trained))
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["loss"] < 3
        assert 0 <= row["val_dice"] <= 1
        assert 0 <= row["waiting"] <= 1
        assert row["learning_rate"] == pytest.approx(1e-3)
        assert row["seconds"] > 0
        assert 36 / row["slices_per_s"] <= row["seconds"]


@pytest.mark.slow
def test_best_model_is_the_epoch_of_the_best_dice_and_checkpoint_files_the_last(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    run = run_of(trained)
    dice = [row["val_dice"] for row in history_of(run)]
    assert load_checkpoint(find_checkpoint(run.checkpoints))[1].epoch == 2
    best = load_checkpoint(run.best)[1]
    assert (best.epoch, best.val_dice) == (1 + int(np.argmax(dice)), max(dice))
    assert (best.size, best.network) == (32, SETTINGS.network)


def window(hu: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """HU to fractions of the window, through whole grey levels."""
    return (np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255) / 255).astype(np.float32)


def dice_by_hand(project: Project, model: Any, names: list[str], *, repeats: int = 0) -> float:
    """Mean Dice of whole volumes from the input files, by NumPy.

    The very last slice counts `repeats` times more than once.
    """
    values = []
    for name in names:
        cta = np.load(project.volumes / f"{name}_CTA_Binary.npy").astype(float)
        ncct = np.load(project.volumes / f"{name}_NCCT_Reg_Binary.npy").astype(float)
        mask = np.load(project.masks / f"{name}_seg_corrected_binary.npy")
        volumes = [window(cta, -50, 450), window(ncct, 0, 100), mask]
        rows, columns, slices = mask.shape
        top, left = (32 - rows) // 2, (32 - columns) // 2
        padded = np.zeros((slices, 32, 32, 3), np.float32)
        padded[:, top : top + rows, left : left + columns] = np.moveaxis(np.stack(volumes, axis=-1), 2, 0)
        predicted = model(padded[..., :2], training=False).numpy()[..., 0] >= 0.5
        truth = padded[..., 2] == 1
        times = np.ones((slices, 1, 1), np.int64)
        times[-1] += repeats if name == names[-1] else 0
        assert truth.any()
        values.append(2 * (times * (predicted & truth)).sum() / (times * (1 * predicted + truth)).sum())
    return float(np.mean(values))


@pytest.mark.slow
def test_validation_counts_every_slice_of_whole_volumes_exactly_once(
    trained: tuple[Project, dict[str, Any]],
) -> None:
    project, run = trained[0], run_of(trained)
    names = json.loads((run.relevant / "split.json").read_text())["cohorts"]["Validation"]
    for folder in (run.best, find_checkpoint(run.checkpoints)):
        model, said = load_checkpoint(folder)
        assert said.val_dice == pytest.approx(dice_by_hand(project, model, names), abs=1e-6)
    slices = sum(np.load(project.masks / f"{name}_seg_corrected_binary.npy").shape[2] for name in names)
    repeats = -slices % SETTINGS.train.batch_size
    model, best = load_checkpoint(run.best)
    wrong = dice_by_hand(project, model, names, repeats=repeats)
    assert best.val_dice != pytest.approx(wrong, abs=1e-4), "repeats that fill the last batch would show"


@pytest.mark.slow
def test_a_finished_run_of_the_same_settings_is_reused(
    trained: tuple[Project, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    project, result = trained
    elsewhere = replace(SETTINGS, runtime=RuntimeConfig(gpus=0, threads=1, prefetch=1))
    assert train_or_reuse(project, elsewhere, PlainProgress(), PlainTrainingView()) == result
    assert f"event=train state=reused run={run_of(trained).folder.name}" in capsys.readouterr().err
    assert len(list(project.trainings.iterdir())) == 1


class Watching(PlainTrainingView):
    """Remembers how many steps the last epoch had."""

    def epoch_begins(self, epoch: int, steps: int) -> None:
        super().epoch_begins(epoch, steps)
        self.steps = steps


def weights_of(project: Project, result: dict[str, Any]) -> list[NDArray[np.float32]]:
    return [np.array(weight) for weight in load_checkpoint(project.root / result["best"])[0].get_weights()]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others(
    trained: tuple[Project, dict[str, Any]], tmp_path: Path
) -> None:
    project = copy_of(trained[0], tmp_path / "project")
    shutil.rmtree(project.trainings)
    again = train(project, replace(SETTINGS, runtime=RuntimeConfig(gpus=0, threads=1)), PlainTrainingView())
    first = weights_of(*trained)
    for one, other in zip(first, weights_of(project, again), strict=True):
        np.testing.assert_array_equal(one, other)
    reseeded = replace(SETTINGS, train=replace(SETTINGS.train, seed=6))
    result = train_or_reuse(project, reseeded, PlainProgress(), PlainTrainingView())
    assert result["run"] != again["run"], "other settings are another run"
    assert any((one != other).any() for one, other in zip(first, weights_of(project, result), strict=True))


def test_the_cosine_schedule_is_that_of_keras() -> None:
    import keras

    config = TrainConfig(epochs=20, learning_rate=2e-3, schedule="cosine", warmup_epochs=4)
    oracle = keras.optimizers.schedules.CosineDecay(2e-5, decay_steps=16, warmup_target=2e-3, warmup_steps=4)
    ours = [learning_rate(config, epochs_done) for epochs_done in range(20)]
    np.testing.assert_allclose(ours, [float(oracle(step)) for step in range(20)], rtol=1e-5)


def test_the_polynomial_schedule_is_that_of_keras_and_the_constant_one_stays() -> None:
    import keras

    config = TrainConfig(epochs=20, learning_rate=2e-3, schedule="polynomial", warmup_epochs=0)
    oracle = keras.optimizers.schedules.PolynomialDecay(2e-3, 20, end_learning_rate=0.0, power=0.9)
    ours = [learning_rate(config, part / 2) for part in range(40)]
    np.testing.assert_allclose(ours, [float(oracle(part / 2)) for part in range(40)], rtol=1e-5)
    assert {learning_rate(replace(config, schedule="constant"), epoch) for epoch in range(20)} == {2e-3}


def test_the_learning_rate_is_at_its_end_when_the_epochs_are_done_or_the_time_is_up() -> None:
    config = TrainConfig(epochs=100, learning_rate=2e-3, schedule="cosine", warmup_epochs=1)
    assert learning_rate(config, 10, time_gone=0.5) == pytest.approx(1e-3)
    assert learning_rate(config, 10, time_gone=1.0) == pytest.approx(0)
    assert learning_rate(config, 50.5, time_gone=0.1) == pytest.approx(1e-3), "the epochs are further"
    assert learning_rate(config, 0.5, time_gone=0.5) == learning_rate(config, 0.5), "it rises first"


@pytest.mark.slow
def test_training_follows_the_schedule(trained: tuple[Project, dict[str, Any]], tmp_path: Path) -> None:
    project = copy_of(trained[0], tmp_path / "project")
    cosine = replace(SETTINGS, train=replace(SETTINGS.train, schedule="cosine"))
    result = train(project, cosine, PlainTrainingView())
    falling = history_of(Run(project.root / result["run"]))
    # Of the last of 7 batches of each epoch, along half a cosine over 14.
    expected = [1e-3 * (1 + np.cos(np.pi * batches / 14)) / 2 for batches in (6, 13)]
    assert [row["learning_rate"] for row in falling] == pytest.approx(expected, rel=1e-5)
    last = Run(project.root / result["run"]).checkpoints, Run(project.root / trained[1]["run"]).checkpoints
    falling_weights, steady_weights = (
        load_checkpoint(find_checkpoint(folder))[0].get_weights() for folder in last
    )
    assert any((one != other).any() for one, other in zip(falling_weights, steady_weights, strict=True))


class Stopping(PlainTrainingView):
    """Ends the training after its first epoch, as a signal would."""

    def epoch_done(self, row: EpochFacts) -> None:
        super().epoch_done(row)
        raise Interrupted(signal.SIGTERM)


@pytest.mark.slow
def test_a_run_that_was_stopped_is_gone_on_with(
    trained: tuple[Project, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_of(trained[0], tmp_path / "project")
    shutil.rmtree(project.trainings)
    project.config_file.write_text(to_toml(replace(SETTINGS, feed=replace(SETTINGS.feed, size="auto"))))
    automatic = load_config(project.config_file)
    with pytest.raises(Interrupted):
        train(project, automatic, Stopping())
    (stopped,) = project.trainings.iterdir()
    capsys.readouterr()
    result = train_or_reuse(project, automatic, PlainProgress(), PlainTrainingView())
    assert project.root / result["run"] == stopped
    assert "resumed in epoch 2, step 0" in capsys.readouterr().err
    for one, other in zip(weights_of(project, result), weights_of(*trained), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_on_an_easy_cohort_the_loss_falls_and_validation_dice_rises(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    longer = replace(SETTINGS, train=replace(SETTINGS.train, epochs=40, learning_rate=1e-2))
    result = train(project, longer, PlainTrainingView())
    rows = history_of(Run(project.root / result["run"]))
    assert np.mean([row["loss"] for row in rows[-5:]]) < rows[0]["loss"] - 0.5
    assert result["val_dice"] > 0.9


@pytest.mark.slow
def test_train_samples_decides_how_many_slices_an_epoch_has(sliced_project: Project, tmp_path: Path) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    few = replace(SETTINGS, train=replace(SETTINGS.train, epochs=1, train_samples=7))
    view = Watching()
    train(project, few, view)
    assert view.steps == 2


@pytest.mark.slow
def test_the_first_samples_of_each_epoch_are_logged_where_a_run_is_asked_to(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    logging = replace(SETTINGS, runtime=replace(SETTINGS.runtime, log_augment=7))
    run = Run(project.root / train(project, logging, PlainTrainingView())["run"])
    lines = [json.loads(line) for line in run.augmentations.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1] * 7 + [2] * 7
    assert len({line["uid"] for line in lines[:7]}) == 7
    off = (False, False, 1.0, 0.0, 1.0, None, None)
    names = ("hflip", "vflip", "alpha", "beta", "gamma", "blur_kernel", "clahe_clip")
    changed = [tuple(line[name] for name in names) != off for line in lines]
    assert any(changed), "with probability 0.5, some slice of 14 is augmented"
    assert not all(changed)


@pytest.mark.slow
def test_slices_augmented_offline_are_trained_on_as_they_are(
    sliced_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    offline = replace(
        SETTINGS,
        offline=OfflineConfig(target_train=30),
        train=replace(SETTINGS.train, epochs=1, source="augmented"),
    )
    run_prep(project, offline, PlainProgress(), augment="auto")
    view = Watching()
    first = train(project, offline, view)
    assert view.steps == 6, "30 samples in batches of 5"
    assert "no clot_share" in capsys.readouterr().err
    strong = AugmentConfig(probability=1.0, selection="independent", vertical_flip=1.0)
    second = train(project, replace(offline, augment=strong), PlainTrainingView())
    for one, other in zip(weights_of(project, first), weights_of(project, second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_square_holds_the_largest_slice_or_the_setting_is_refused(sliced_project: Project) -> None:
    cohorts = read_cohorts(sliced_project)
    assert input_size(replace(SETTINGS, feed=FeedConfig(size=64)), cohorts) == 64
    with pytest.raises(ConfigError, match="the largest slice has 32 pixels a side, more than 16") as caught:
        input_size(replace(SETTINGS, feed=FeedConfig(size=16)), cohorts)
    assert "--size 32" in str(caught.value)


def test_without_slices_training_says_to_run_prep_and_makes_no_run(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    shutil.rmtree(project.sliced)
    with pytest.raises(CorruptArtifactError, match="run `clotseg prep` first"):
        train(project, SETTINGS, PlainTrainingView())
    assert not project.trainings.exists()
