"""The state of a training: it comes back bit for bit, and nothing else is taken for one."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clotseg.errors import CorruptArtifactError
from clotseg.train.devices import Devices
from clotseg.train.records import EpochRow
from clotseg.train.state import Position, newest_state, read_state, thin_out, write_state

ROW = EpochRow(
    epoch=1, loss=0.1 + 0.2, val_dice=0.5, learning_rate=5e-4, seconds=2.5, slices_per_s=20.0, waiting=0.25
)
POSITION = Position(epoch=2, step=3, losses=(0.1, 1 / 3, 0.7), seconds=1.5, waited_s=0.1, rows=(ROW,))


@pytest.fixture
def variables(one_cpu: Devices) -> list[Any]:
    """A weight, a count and a seed, as TensorFlow and Keras have them."""
    import keras
    import tensorflow as tf

    random = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    return [keras.Variable(random), tf.Variable(7, dtype=tf.int64), keras.Variable(random[0] * 2)]


@pytest.fixture
def saved(tmp_path: Path, variables: list[Any]) -> Path:
    """A folder with the state of `variables`."""
    write_state(tmp_path, POSITION, variables)
    return tmp_path


def values(variables: list[Any]) -> list[Any]:
    return [variable.numpy().copy() for variable in variables]


def test_values_and_position_come_back_bit_for_bit(saved: Path, variables: list[Any]) -> None:
    before = values(variables)
    for variable in variables:
        variable.assign(variable * 0)
    assert read_state(saved, variables) == POSITION
    for one, other in zip(values(variables), before, strict=True):
        np.testing.assert_array_equal(one, other)


def spoil(file: Path, change: Callable[[bytes], bytes], *, digest: bool = False) -> None:
    """Changes a file; with `digest` the recorded digest is made to match."""
    file.write_bytes(change(file.read_bytes()))
    if digest:
        described = file.with_name("training.json")
        facts = json.loads(described.read_text())
        facts["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        described.write_text(json.dumps(facts))


def pickled(_: bytes) -> bytes:
    import io

    stream = io.BytesIO()
    np.savez(stream, **{"0000": np.array([print], dtype=object)})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "digest", "complaint"),
    [
        (lambda content: content[:-50], False, "is not the state that was saved"),
        (lambda content: content[:200] + b"x" + content[201:], False, "is not the state that was saved"),
        (lambda content: content[:-50], True, "is no state"),
        (lambda _: b"", True, "is no state"),
        (lambda _: b"something foreign", True, "is no state"),
        (lambda _: pickle.dumps([1.0]), True, "is no state"),
        (pickled, True, "is no state"),
    ],
    ids=["truncated", "tampered", "truncated, digest", "empty", "foreign", "pickle", "pickle within"],
)
def test_values_that_are_not_those_saved_are_corrupt_and_change_nothing(
    saved: Path, variables: list[Any], change: Callable[[bytes], bytes], digest: bool, complaint: str
) -> None:
    before = values(variables)
    spoil(saved / "state.npz", change, digest=digest)
    with pytest.raises(CorruptArtifactError, match=complaint) as caught:
        read_state(saved, variables)
    assert caught.value.exit_code == 4
    assert str(saved) in str(caught.value)
    for one, other in zip(values(variables), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_state_of_another_network_is_refused(saved: Path, variables: list[Any]) -> None:
    import tensorflow as tf

    for others in (
        variables[:2],
        [*variables, variables[0]],
        [tf.Variable(tf.zeros((4, 3))), *variables[1:]],
        [variables[0], tf.Variable(7.0), variables[2]],
    ):
        with pytest.raises(CorruptArtifactError, match="another network or optimiser"):
            read_state(saved, others)


@pytest.mark.parametrize(
    "changed",
    [
        {"epoch": 0},
        {"step": -1},
        {"losses": "none"},
        {"rows": [{"epoch": 1}]},
        {"rows": None},
        {"seconds": -1.0},
    ],
    ids=str,
)
def test_a_position_that_cannot_be_is_corrupt(
    saved: Path, variables: list[Any], changed: dict[str, Any]
) -> None:
    file = saved / "training.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "position": {**facts["position"], **changed}}))
    with pytest.raises(CorruptArtifactError, match="does not say how far a training is"):
        read_state(saved, variables)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format": 99}'])
def test_a_malformed_description_is_corrupt(saved: Path, variables: list[Any], text: str) -> None:
    (saved / "training.json").write_text(text)
    with pytest.raises(CorruptArtifactError, match=r"training\.json"):
        read_state(saved, variables)


def rows(*dices: float) -> Position:
    return Position(
        epoch=len(dices) + 1,
        rows=tuple(replace(ROW, epoch=n, val_dice=dice) for n, dice in enumerate(dices, start=1)),
    )


@pytest.mark.parametrize(
    ("dices", "stale"),
    [
        ((), 0),
        ((0.5,), 0),
        ((0.5, 0.5), 1),
        ((0.5, 0.4, 0.6), 0),
        ((0.5, 0.505, 0.509), 2),
        ((0.5, 0.505, 0.511), 0),
        ((0.0, 0.0, 0.0), 2),
    ],
)
def test_epochs_without_a_clear_improvement_are_counted(dices: tuple[float, ...], stale: int) -> None:
    assert rows(*dices).stale(min_improvement=0.01) == stale


def test_the_best_epoch_is_the_first_of_equals() -> None:
    best = rows(0.25, 0.75, 0.75).best
    assert best is not None
    assert best.epoch == 2
    assert Position().best is None


def test_the_newest_state_is_the_furthest_and_only_the_last_few_are_kept(
    tmp_path: Path, variables: list[Any]
) -> None:
    assert newest_state(tmp_path) is None
    evaluated = {"epoch-0001-step-000000", "epoch-0002-step-000000"}
    for name in (*evaluated, "epoch-0002-step-000004", "epoch-0002-step-000008"):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name, POSITION, variables)
        if name in evaluated:
            (tmp_path / name / "network.json").write_text("{}")
    for leftover in (".epoch-0002-step-000009.building", "epoch-0000-step-000001"):
        (tmp_path / leftover).mkdir()
    thin_out(tmp_path, keep=2)
    assert {folder.name for folder in tmp_path.iterdir()} == {
        "epoch-0002-step-000000",
        "epoch-0002-step-000004",
        "epoch-0002-step-000008",
    }
    assert newest_state(tmp_path) == tmp_path / "epoch-0002-step-000008"
