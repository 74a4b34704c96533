"""Checkpoints: what was saved comes back whole, and nothing else is trusted."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clotseg.config import NetworkConfig, SliceConfig
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.train.checkpoint import (
    DESCRIPTION,
    find_checkpoint,
    load_checkpoint,
    read_description,
    save_checkpoint,
)
from clotseg.train.devices import Devices
from clotseg.train.unet import build_unet
from tests.train.conftest import SMALL, description, random_slices, random_weights, small_model

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory: pytest.TempPathFactory, one_cpu: Devices) -> Path:
    """A checkpoint folder of a network like `model`; copy it to change it."""
    folder = tmp_path_factory.mktemp("saved") / "Best_Model"
    save_checkpoint(folder, small_model(), description(epoch=3, val_dice=0.25))
    return folder


@pytest.fixture
def saved(tmp_path: Path, saved_once: Path) -> Path:
    """A checkpoint folder of a network like `model`."""
    return Path(shutil.copytree(saved_once, tmp_path / "run" / "Best_Model"))


def weights_file(folder: Path) -> Path:
    (file,) = folder.glob("*.weights.h5")
    return file


def edit(folder: Path, **changed: Any) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_a_loaded_network_predicts_what_the_saved_one_did(saved: Path, model: Any) -> None:
    loaded, said = load_checkpoint(saved)
    slices = random_slices(3)
    np.testing.assert_array_equal(loaded(slices, training=False), model(slices, training=False))
    assert (said.network, said.epoch, said.val_dice) == (SMALL, 3, 0.25)


def test_a_loaded_network_is_shown_the_windows_that_the_saved_one_was(tmp_path: Path) -> None:
    """Further windows in HU are cut from slices whose own window is not the default one."""
    import keras

    keras.utils.set_random_seed(1)
    network = replace(SMALL, norm="instance", initial_probability=0.5, cta_windows_hu=((0.0, 200.0),))
    slicing = SliceConfig(cta_window_hu=(-20.0, 280.0))
    model = build_unet(network, size=16, channels=2, slicing=slicing)
    otherwise = build_unet(network, size=16, channels=2)
    otherwise.set_weights(model.get_weights())
    save_checkpoint(tmp_path / "Best_Model", model, replace(description(), network=network, slicing=slicing))
    loaded, _ = load_checkpoint(tmp_path / "Best_Model")
    slices = random_slices(3)
    np.testing.assert_array_equal(loaded(slices, training=False), model(slices, training=False))
    assert np.abs(otherwise(slices, training=False) - model(slices, training=False)).max() > 0.01


def test_the_weights_are_named_by_epoch_and_dice_and_the_description_is_plain_json(saved: Path) -> None:
    digest = hashlib.sha256(weights_file(saved).read_bytes()).hexdigest()
    assert weights_file(saved).name == f"epoch-0003-dice-0.2500-{digest[:8]}.weights.h5"
    facts = json.loads((saved / DESCRIPTION).read_text())
    assert facts["network"].items() >= {"filters": 4, "depth": 2, "dropout": 0.1, "l2": 0.0}.items()
    assert facts["slicing"]["cta_window_hu"] == [-50.0, 450.0]
    assert (facts["size"], facts["channels"]) == (16, 2)


def test_a_later_save_replaces_the_earlier_one(saved: Path, model: Any) -> None:
    model.set_weights(random_weights(model, seed=1))
    save_checkpoint(saved, model, description(epoch=4, val_dice=0.5))
    assert weights_file(saved).name.startswith("epoch-0004-dice-0.5000-")
    assert len(list(saved.iterdir())) == 2
    loaded, said = load_checkpoint(saved)
    assert said.epoch == 4
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_a_run_a_checkpoint_folder_or_its_weights_file_all_name_the_checkpoint(saved: Path) -> None:
    for path in (saved.parent, saved, weights_file(saved)):
        assert find_checkpoint(path) == saved


@pytest.mark.parametrize("name", ["Trainings", "Best_Model/missing.weights.h5"])
def test_a_path_without_a_checkpoint_is_refused(saved: Path, name: str) -> None:
    with pytest.raises(DataError, match="is no checkpoint") as caught:
        find_checkpoint(saved.parent / name)
    assert caught.value.exit_code == 3


def truncate(folder: Path) -> None:
    file = weights_file(folder)
    file.write_bytes(file.read_bytes()[:-100])


def tamper(folder: Path) -> None:
    file = weights_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replace_by(content: bytes) -> Callable[[Path], None]:
    """Another file with a digest to match: only the reading itself can find it out."""

    def spoil(folder: Path) -> None:
        weights_file(folder).write_bytes(content)
        edit(folder, sha256=hashlib.sha256(content).hexdigest())

    return spoil


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (truncate, "their digest differs"),
        (tamper, "their digest differs"),
        (lambda folder: weights_file(folder).unlink(), "the weights are missing"),
        (replace_by(b""), "do not fit the network"),
        (replace_by(b"\x80\x04 something foreign"), "do not fit the network"),
        (lambda folder: edit(folder, network={"filters": 8, "depth": 2}), "do not fit the network"),
        (lambda folder: edit(folder, network={"filters": 4, "depth": 1}), "do not fit the network"),
        (lambda folder: edit(folder, channels=3), "do not fit the network"),
    ],
    ids=["truncated", "tampered", "missing", "empty", "foreign", "filters", "depth", "channels"],
)
def test_weights_that_are_not_those_saved_are_corrupt(
    saved: Path, spoil: Callable[[Path], None], complaint: str
) -> None:
    spoil(saved)
    with pytest.raises(CorruptArtifactError, match=complaint) as caught:
        load_checkpoint(saved)
    assert caught.value.exit_code == 4
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "{}", '{"format": 1}', '{"format": 99}', "\N{SNOWMAN}"],
)
def test_a_malformed_description_is_corrupt(saved: Path, text: str) -> None:
    (saved / DESCRIPTION).write_text(text, encoding="utf-8")
    with pytest.raises(CorruptArtifactError, match=DESCRIPTION):
        read_description(saved)


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 0},
        {"size": "large"},
        {"channels": -1},
        {"epoch": 0},
        {"val_dice": 1.5},
        {"val_dice": None},
        {"network": {"filters": 0, "depth": 2}},
        {"network": None},
        {"weights": "../../elsewhere.weights.h5"},
        {"weights": "/etc/passwd"},
        {"weights": "model.keras"},
        {"format": 2},
    ],
    ids=str,
)
def test_a_description_that_says_what_cannot_be_is_corrupt(saved: Path, changed: dict[str, Any]) -> None:
    edit(saved, **changed)
    with pytest.raises(CorruptArtifactError, match=DESCRIPTION):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "changed", [{"size": 17}, {"network": {"filters": 4, "depth": 7}}], ids=["size", "depth"]
)
def test_a_description_of_a_network_that_cannot_be_built_is_corrupt(
    saved: Path, changed: dict[str, Any]
) -> None:
    edit(saved, **changed)
    with pytest.raises(CorruptArtifactError):
        load_checkpoint(saved)


def test_without_a_description_there_is_no_checkpoint(saved: Path) -> None:
    (saved / DESCRIPTION).unlink()
    with pytest.raises(CorruptArtifactError, match=DESCRIPTION):
        load_checkpoint(saved)


def test_defaults_of_the_network_may_be_left_out(saved: Path) -> None:
    edit(saved, network={"filters": 4, "depth": 2})
    assert load_checkpoint(saved)[1].network == NetworkConfig(filters=4, depth=2)


@pytest.mark.slow
def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killed_saves", str(tmp_path / "checkpoint")],
        check=True,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    killed, old, new = (int(number) for number in done.stdout.split())
    assert killed >= 16
    assert old > 0
    assert new > 0
