"""What training keeps when things go wrong: a full disk, a loss that is no number, a kill in mid-write."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clotseg.config import (
    AugmentConfig,
    Config,
    FeedConfig,
    NetworkConfig,
    RuntimeConfig,
    SliceConfig,
    TrainConfig,
)
from clotseg.console import PlainProgress
from clotseg.dashboard import EpochFacts, PlainTrainingView
from clotseg.errors import ConfigError, DataError, EnvironmentProblem
from clotseg.prep.stages import run_prep
from clotseg.project import Project, Run
from clotseg.train.checkpoint import find_checkpoint, load_checkpoint
from clotseg.train.loop import train, train_or_reuse
from clotseg.train.records import read_history, read_record, runs
from clotseg.train.state import newest_state
from tests.conftest import copy_of, largest_file

REPOSITORY = Path(__file__).parents[2]
SETTINGS = Config(
    slice=SliceConfig(slices_per_shard=8),
    feed=FeedConfig(size=32),
    augment=AugmentConfig(probability=0.0),
    network=NetworkConfig(filters=4, depth=2, initial_probability=0.5),
    train=TrainConfig(epochs=4, batch_size=8, train_samples=8),
    runtime=RuntimeConfig(gpus=0, keep_checkpoints=9),
)
TOO_SMALL_BYTES = 20_000
"""Less than weights or a state need, more than JSON and history."""


@pytest.fixture
def project(sliced_project: Project, tmp_path: Path) -> Project:
    """A prepared project of its own."""
    return copy_of(sliced_project, tmp_path / "project")


class FullFor(PlainTrainingView):
    """The disk takes no large file from the end of one epoch to that of another."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.stack, self.messages = ExitStack(), list[str]()

    def epoch_done(self, row: EpochFacts) -> None:
        super().epoch_done(row)
        if row.epoch == self.first:
            self.stack.enter_context(largest_file(TOO_SMALL_BYTES))
        if row.epoch == self.last:
            self.stack.close()

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def full_disk(request: pytest.FixtureRequest) -> Iterator[FullFor]:
    """A view that fills the disk, which is free again in the end whatever happens."""
    view = FullFor(*request.param)
    yield view
    view.stack.close()


@pytest.mark.slow
@pytest.mark.parametrize("full_disk", [(1, 3)], indirect=True)
def test_with_a_full_disk_training_says_so_goes_on_and_writes_when_it_can(
    project: Project, full_disk: FullFor, tmp_path: Path
) -> None:
    copied = copy_of(project, tmp_path / "other")
    result = train(project, SETTINGS, full_disk)
    refused = [text for text in full_disk.messages if text.startswith("could not save, training goes on")]
    assert len(refused) == 2, "epochs 2 and 3"
    run = Run(project.root / result["run"])
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == [
        "epoch-0001-step-000000",
        "epoch-0004-step-000000",
    ]
    assert len(read_history(run)) == 4
    undisturbed = train(copied, SETTINGS, PlainTrainingView())
    other = Run(copied.root / undisturbed["run"])
    (best, said), (expected, expected_said) = (load_checkpoint(folder.best) for folder in (run, other))
    assert 1 < said.epoch == expected_said.epoch < 4, "the best weights were kept in memory"
    for one, same in zip(best.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.slow
@pytest.mark.parametrize("full_disk", [(2, 99)], indirect=True)
def test_a_disk_that_stays_full_ends_in_an_error_and_the_last_good_files_stay(
    project: Project, full_disk: FullFor
) -> None:
    with pytest.raises(EnvironmentProblem, match="could not be written") as caught:
        train(project, SETTINGS, full_disk)
    assert caught.value.exit_code == 5
    (run,) = runs(project)
    assert newest_state(run.checkpoints) == run.checkpoints / "epoch-0002-step-000000"
    assert load_checkpoint(find_checkpoint(run.checkpoints))[1].epoch == 2
    assert load_checkpoint(run.best)[1].epoch <= 2
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".")]
    full_disk.stack.close()
    train(project, SETTINGS, PlainTrainingView(), resume=run)
    assert read_record(run)["state"] == "finished"
    assert len(read_history(run)) == 4


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_training_names_the_batch_and_keeps_it(project: Project) -> None:
    wild = replace(
        SETTINGS,
        train=replace(
            SETTINGS.train,
            optimizer="sgd",
            learning_rate=1e38,
            clip_norm=0.0,
            warmup_epochs=0,
            schedule="constant",
        ),
    )
    with pytest.raises(
        DataError, match=r"became (nan|inf) in epoch \d, batch 1, of the slices with uids"
    ) as caught:
        train(project, wild, PlainTrainingView())
    (run,) = runs(project)
    (file,) = run.relevant.glob("nonfinite-epoch-*.npz")
    assert str(file) in str(caught.value)
    with np.load(file) as batch:
        assert batch["images"].shape == (8, 32, 32, 2)
        assert batch["masks"].shape == (8, 32, 32, 1)
        assert str(batch["uids"].tolist()) in str(caught.value)
        assert np.isfinite(batch["images"]).all()
    assert read_record(run)["state"] == "failed"
    last = newest_state(run.checkpoints)
    with np.load((last or run.checkpoints) / "state.npz") as kept:
        assert all(np.isfinite(kept[name]).all() for name in kept.files), "the last good state"


@pytest.mark.slow
def test_a_fork_begins_a_new_run_with_the_weights_of_another(project: Project) -> None:
    first = Run(project.root / train(project, SETTINGS, PlainTrainingView())["run"])
    still = replace(
        SETTINGS,
        train=replace(SETTINGS.train, epochs=1, learning_rate=1e-12, ema_decay=0.0, weight_decay=0.0),
    )
    forked = Run(project.root / train(project, still, PlainTrainingView(), fork=first.folder)["run"])
    assert forked != first
    newest, _ = load_checkpoint(find_checkpoint(first.checkpoints))
    begun, said = load_checkpoint(find_checkpoint(forked.checkpoints))
    assert said.epoch == 1
    trained = {weight.path.split("/")[-1] for weight in newest.trainable_variables}
    for one, other in zip(newest.trainable_variables, begun.trainable_variables, strict=True):
        np.testing.assert_allclose(other.numpy(), one.numpy(), atol=1e-6)
    assert trained == {"kernel", "bias", "gamma", "beta"}
    for name, there, here in (("filters", 4, 8), ("norm", "batch", "instance")):
        other_network = replace(still, network=replace(still.network, **{name: here}))
        with pytest.raises(ConfigError, match=rf"network\.{name}: {there} there, {here} here"):
            train(project, other_network, PlainTrainingView(), fork=first.best)
    split_anew = replace(still, split=replace(still.split, seed=still.split.seed + 1))
    run_prep(project, split_anew, PlainProgress())
    with pytest.raises(DataError, match=r"have seen \d patients of the present Testing cohort"):
        train(project, split_anew, PlainTrainingView(), fork=forked.folder)
    assert len(runs(project)) == 2


@pytest.mark.slow
def test_training_ends_early_when_the_validation_dice_no_longer_rises(project: Project) -> None:
    flat = replace(
        SETTINGS, train=replace(SETTINGS.train, epochs=20, patience=2, learning_rate=1e-12, warmup_epochs=0)
    )
    result = train(project, flat, PlainTrainingView())
    assert result["epochs"] < 20
    run = Run(project.root / result["run"])
    assert read_record(run)["state"] == "finished"
    dice = [row["val_dice"] for row in read_history(run)]
    assert max(dice[-2:]) <= max(dice[:-2])


@pytest.mark.slow
def test_a_time_limit_ends_the_training_with_its_best_weights_and_the_run_goes_on(project: Project) -> None:
    settings = replace(SETTINGS.train, epochs=2, train_samples=100_000, warmup_epochs=0)
    long = replace(SETTINGS, train=settings)
    limited = replace(long, runtime=replace(long.runtime, minutes=0.0001))
    result = train(project, limited, PlainTrainingView())
    run = Run(project.root / result["run"])
    record = read_record(run)
    assert (record["state"], result["epochs"]) == ("stopped", 1)
    assert "0.0001 min" in record["reason"]
    (row,) = read_history(run)
    assert row["val_dice"] == result["val_dice"]
    load_checkpoint(run.best)
    # Cut short, an epoch of 20 000 steps took no longer than its first ones.
    assert row["slices_per_s"] * row["seconds"] < 10_000
    assert row["learning_rate"] < 0.01 * long.train.learning_rate, "the schedule ends with the time"
    again = train(project, limited, PlainTrainingView(), resume=run)
    assert [row["epoch"] for row in read_history(run)] == [1, 2]
    assert again["epochs"] == 2
    assert read_record(run)["state"] == "finished", "the epochs asked for were done"


@pytest.mark.slow
def test_a_run_that_had_the_time_there_is_is_reused_and_goes_on_where_there_is_more(project: Project) -> None:
    settings = replace(SETTINGS.train, epochs=2, train_samples=100_000)
    limited, longer = (
        replace(SETTINGS, train=settings, runtime=replace(SETTINGS.runtime, minutes=minutes))
        for minutes in (0.0001, 0.0002)
    )
    result = train_or_reuse(project, limited, PlainProgress(), PlainTrainingView())
    assert result["epochs"] == 1
    assert train_or_reuse(project, limited, PlainProgress(), PlainTrainingView()) == result
    on = train_or_reuse(project, longer, PlainProgress(), PlainTrainingView())
    assert (on["run"], on["epochs"]) == (result["run"], 2)


@pytest.mark.slow
@pytest.mark.parametrize(("fold", "norm"), [(1, "batch"), (2, "instance")], ids=["plain", "as by default"])
def test_bfloat16_and_xla_train_too(project: Project, fold: Any, norm: Any) -> None:
    base = replace(SETTINGS, network=replace(SETTINGS.network, fold=fold, norm=norm))
    fast = replace(base, train=replace(base.train, epochs=1, precision="bfloat16", xla=True))
    result = train(project, fast, PlainTrainingView())
    network, _ = load_checkpoint(project.root / result["best"])
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert all(np.isfinite(weight.numpy()).all() for weight in network.weights)
    slow = replace(base, train=replace(base.train, epochs=1))
    reference = train(project, slow, PlainTrainingView())
    rows = [read_history(Run(project.root / facts["run"]))[0] for facts in (result, reference)]
    assert rows[0]["loss"] != rows[1]["loss"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.02)


@pytest.mark.slow
def test_a_kill_at_any_moment_of_writing_leaves_a_state_to_go_on_from(project: Project) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killed_states", str(project.root)],
        check=True,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    facts = json.loads(done.stdout)
    assert facts["killed"] >= 20
    assert facts["old"] > 0
    assert facts["new"] > 0
