"""Runs with small networks that were never trained, ready to be tested and to predict."""

import shutil
from typing import Any

import pytest

from clotseg.config import (
    Config,
    FeedConfig,
    NetworkConfig,
    RuntimeConfig,
    SliceConfig,
    SplitConfig,
    TestConfig,
)
from clotseg.prep.cohorts import read_cohorts
from clotseg.project import Project, Run
from clotseg.train.checkpoint import Description, save_checkpoint
from clotseg.train.records import EpochRow, append_history, open_run
from clotseg.train.unet import build_unet

NETWORK = NetworkConfig(filters=2, depth=1)
SIZE = 32


def settings(*, threshold: Any = "auto", smallest: Any = "auto", split: SplitConfig | None = None) -> Config:
    return Config(
        split=split or SplitConfig(),
        slice=SliceConfig(slices_per_shard=8),
        feed=FeedConfig(size=SIZE),
        network=NETWORK,
        test=TestConfig(threshold=threshold, smallest_component=smallest, bootstrap_samples=50),
        runtime=RuntimeConfig(gpus=0),
    )


def write_run(project: Project, *, seed: int = 1, config: Config | None = None) -> Run:
    """A finished run whose best and last weights are two networks that were never trained."""
    import keras

    keras.utils.set_random_seed(seed)
    with open_run(project, config or settings(), read_cohorts(project).key, "key", "CPU") as run:
        for epoch, folder in enumerate((run.best, run.checkpoints), 1):
            description = Description(
                network=NETWORK, slicing=settings().slice, size=SIZE, channels=2, epoch=epoch, val_dice=0.5
            )
            save_checkpoint(folder, build_unet(NETWORK, size=SIZE, channels=2), description)
        append_history(
            run,
            EpochRow(
                epoch=1, loss=0.9, val_dice=0.5, learning_rate=1e-3, seconds=1, slices_per_s=9, waiting=0.1
            ),
        )
    return run


@pytest.fixture(scope="module")
def run(sliced_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in a project of its own."""
    root = tmp_path_factory.mktemp("testing") / "project"
    shutil.copytree(sliced_project.root, root)
    return write_run(Project(root))


@pytest.fixture(scope="module")
def project(run: Run) -> Project:
    return Project(run.folder.parents[1])
