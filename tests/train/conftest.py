"""Small networks, made batches, and what one CPU gives to train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import NetworkConfig, RuntimeConfig, SliceConfig, load_config
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.train.checkpoint import Description
from clotseg.train.devices import Devices, open_devices
from clotseg.train.records import EpochRow
from clotseg.train.unet import build_unet
from tests.conftest import copy_of

ROW = EpochRow(
    epoch=1, loss=0.75, val_dice=0.125, learning_rate=5e-4, seconds=2.5, slices_per_s=20.0, waiting=0.25
)
"""A finished epoch."""

SMALL = NetworkConfig(filters=4, depth=2)
SIZE = 16


@pytest.fixture(scope="session")
def one_cpu() -> Devices:
    """The CPU as a single replica."""
    return open_devices(RuntimeConfig(gpus=0))


@pytest.fixture
def model(one_cpu: Devices) -> Any:
    """A network as `small_model` makes it."""
    return small_model()


def small_model() -> Any:
    """A small network with random weights everywhere, batch norm's statistics among them."""
    import keras

    keras.utils.set_random_seed(8)
    built = build_unet(SMALL, size=SIZE, channels=2)
    built.set_weights(random_weights(built, seed=0))
    return built


def random_weights(model: Any, seed: int) -> list[NDArray[np.float32]]:
    """Weights that a network of this shape could have; variances are positive."""
    random = np.random.default_rng(seed)
    return [random.uniform(0.1, 0.4, weight.shape).astype(np.float32) for weight in model.get_weights()]


def random_slices(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Slices float32 [count, SIZE, SIZE, 2] in 0…1."""
    return np.random.default_rng(seed).random((count, SIZE, SIZE, 2), np.float32)


def description(epoch: int = 1, val_dice: float = 0.5) -> Description:
    """What a checkpoint of `model` says."""
    return Description(
        network=SMALL, slicing=SliceConfig(), size=SIZE, channels=2, epoch=epoch, val_dice=val_dice
    )


def prepared_project(source: Project, folder: Path, settings: str) -> Project:
    """A copy of a project that is ready to train on these settings, the text of a `clotseg.toml`."""
    project = copy_of(source, folder)
    project.config_file.write_text(settings)
    run_prep(project, load_config(project.config_file), PlainProgress())
    return project
