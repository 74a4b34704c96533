"""One step: the loss and weights it must give, for one replica and for two."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import NetworkConfig, TrainConfig
from clotseg.train.devices import Devices
from clotseg.train.step import make_train_step
from clotseg.train.unet import build_unet
from tests.train.conftest import SIZE
from tests.train.replica_steps import THRESHOLD, WEIGHTS, batches, images, masks, observe

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def one(one_cpu: Devices) -> dict[str, NDArray[Any]]:
    """What a single replica does."""
    return observe(one_cpu.strategy, 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[Any]]:
    """What two replicas do, in a process of their own."""
    out = tmp_path_factory.mktemp("replicas") / "two.npz"
    subprocess.run(
        [sys.executable, "-m", "tests.train.replica_steps", "2", str(out)], check=True, cwd=REPOSITORY
    )
    with np.load(out) as kept:
        return dict(kept)


def counted(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    """Pixels in both, in the prediction, in the mask, for each slice, by NumPy."""
    assert np.abs(probability - THRESHOLD).min() > 1e-6, "no pixel may hang on rounding"
    predicted, truth = probability >= THRESHOLD, masks() == 1
    return np.stack([part.sum(axis=(1, 2, 3)) for part in (predicted & truth, predicted, truth)], axis=-1)


def test_counts_are_those_of_numpy_slice_by_slice(one: dict[str, NDArray[Any]]) -> None:
    expected = counted(one["probability"])
    assert (expected[:, 0] > 0).any()
    np.testing.assert_array_equal(one["counts"], expected)


@pytest.mark.slow
def test_two_replicas_count_the_slices_in_the_order_of_the_global_batch(two: dict[str, NDArray[Any]]) -> None:
    assert two["replicas"] == 2
    assert two["devices"] == "CPU, 2 replicas"
    np.testing.assert_array_equal(two["counts"], counted(two["probability"]))


@pytest.mark.slow
def test_two_replicas_take_the_step_that_one_takes(
    one: dict[str, NDArray[Any]], two: dict[str, NDArray[Any]]
) -> None:
    """Within rounding, without dropout, and with the same batch statistics on both (see `images`)."""
    assert two["loss"] == pytest.approx(float(one["loss"]), abs=1e-6)
    assert one["moved"] > 0.01
    for name in (name for name in one if name.startswith("after")):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6, err_msg=name)


def fresh(devices: Devices, *, l2: float) -> tuple[Any, Any]:
    import keras

    with devices.strategy.scope():
        model = build_unet(NetworkConfig(filters=4, depth=1, dropout=0, l2=l2), size=SIZE, channels=2)
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
    return model, optimizer


def test_the_loss_told_is_soft_dice_of_the_batch_before_the_step(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu, l2=0.1)
    probability = model(images(twins=False), training=True).numpy()[:3]
    truth = masks()[:3]
    overlap, total = (probability * truth).sum(dtype=float), (probability + truth).sum(dtype=float)
    step = make_train_step(one_cpu.strategy, model, optimizer, TrainConfig(dice_smooth=2.0))
    told = step(batches(1, images(twins=False)), WEIGHTS.reshape(1, -1))
    assert float(told) == pytest.approx(1 - (2 * overlap + 2) / (total + 2), abs=1e-6)


def test_steps_lower_the_loss(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu, l2=0.0)
    step = make_train_step(one_cpu.strategy, model, optimizer, TrainConfig())
    losses = [float(step(batches(1, images(twins=False)), WEIGHTS.reshape(1, -1))) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.05


def test_slices_of_weight_0_teach_nothing_and_kernels_decay_by_l2(one_cpu: Devices) -> None:
    """With no slice that counts only the decay is left: its gradient is 2 · l2 · kernel."""
    model, optimizer = fresh(one_cpu, l2=0.1)
    before = {weight.path: weight.numpy() for weight in model.trainable_variables}
    step = make_train_step(one_cpu.strategy, model, optimizer, TrainConfig())
    loss = step(batches(1, images(twins=False)), np.zeros((1, 4), np.float32))
    assert float(loss) == 0
    for weight in model.trainable_variables:
        factor = 1 - 0.5 * 2 * 0.1 if weight.path.endswith("kernel") else 1
        np.testing.assert_allclose(
            weight.numpy(), before[weight.path] * factor, rtol=1e-5, err_msg=weight.path
        )
