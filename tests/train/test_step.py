"""One step: the loss and weights it must give, for one replica and for two."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import NetworkConfig, TrainConfig
from clotseg.train.devices import Devices
from clotseg.train.optimizer import make_optimizer
from clotseg.train.step import StepResult, TrainStep
from clotseg.train.unet import build_unet
from tests.train.conftest import SIZE
from tests.train.replica_steps import PLAIN, THRESHOLD, WEIGHTS, batches, images, masks, observe

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def one(one_cpu: Devices) -> dict[str, NDArray[Any]]:
    """What a single replica does."""
    return observe(one_cpu)


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


def fresh(devices: Devices, *, l2: float = 0.0, dropout: float = 0.0) -> tuple[Any, Any]:
    import keras

    keras.utils.set_random_seed(4)
    with devices.strategy.scope():
        model = build_unet(NetworkConfig(filters=4, depth=1, dropout=dropout, l2=l2), size=SIZE, channels=2)
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
    return model, optimizer


def take(
    devices: Devices,
    model: Any,
    optimizer: Any,
    config: TrainConfig,
    *,
    number: int = 0,
    weights: Any = WEIGHTS,
) -> StepResult:
    """One step on the same four slices."""
    step = TrainStep(devices, model, None, optimizer, config)
    told = step(batches(1, images(twins=False)), np.float32(weights).reshape(1, -1), number=number)
    return StepResult.of(told)


def test_the_loss_told_is_soft_dice_of_the_batch_before_the_step(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu, l2=0.1)
    probability = model(images(twins=False), training=True).numpy()[:3]
    truth = masks()[:3]
    overlap, total = (probability * truth).sum(dtype=float), (probability + truth).sum(dtype=float)
    told = take(one_cpu, model, optimizer, replace(PLAIN, dice_smooth=2.0))
    assert told.loss == pytest.approx(1 - (2 * overlap + 2) / (total + 2), abs=1e-6)


def test_steps_lower_the_loss(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu)
    step = TrainStep(one_cpu, model, None, optimizer, PLAIN)
    losses = [
        float(step(batches(1, images(twins=False)), WEIGHTS.reshape(1, -1), number=number)[0])
        for number in range(8)
    ]
    assert losses[-1] < losses[0] - 0.05


def test_slices_of_weight_0_teach_nothing_and_kernels_decay_by_l2(one_cpu: Devices) -> None:
    """With no slice that counts only the decay is left: its gradient is 2 · l2 · kernel."""
    model, optimizer = fresh(one_cpu, l2=0.1)
    before = {weight.path: weight.numpy() for weight in model.trainable_variables}
    told = take(one_cpu, model, optimizer, PLAIN, weights=np.zeros(4))
    assert told.loss == 0
    for weight in model.trainable_variables:
        factor = 1 - 0.5 * 2 * 0.1 if weight.path.endswith("kernel") else 1
        np.testing.assert_allclose(
            weight.numpy(), before[weight.path] * factor, rtol=1e-5, err_msg=weight.path
        )


def test_adamw_decays_kernels_by_the_rate_times_the_decay(one_cpu: Devices) -> None:
    """With no slice that counts Adam's own step is 0."""
    model, _ = fresh(one_cpu)
    config = replace(PLAIN, optimizer="adamw", learning_rate=0.1, weight_decay=0.3)
    optimizer = make_optimizer(config, model)
    before = {weight.path: weight.numpy() for weight in model.trainable_variables}
    take(one_cpu, model, optimizer, config, weights=np.zeros(4))
    for weight in model.trainable_variables:
        factor = 1 - 0.1 * 0.3 if weight.path.endswith("kernel") else 1
        np.testing.assert_allclose(
            weight.numpy(), before[weight.path] * factor, rtol=1e-5, err_msg=weight.path
        )


def moved(model: Any, before: list[NDArray[Any]]) -> NDArray[np.float64]:
    """By how much all trained weights have moved, in one row."""
    pairs = zip(model.trainable_variables, before, strict=True)
    return np.concatenate([(weight.numpy() - old).ravel() for weight, old in pairs]).astype(float)


def test_gradients_are_cut_to_a_length_together_and_their_own_length_is_told(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu)
    start = [weight.numpy() for weight in model.trainable_variables]
    weights = model.get_weights()
    free = take(one_cpu, model, optimizer, PLAIN)
    long = moved(model, start)
    model.set_weights(weights)
    cut = take(one_cpu, model, optimizer, replace(PLAIN, clip_norm=0.01))
    short = moved(model, start)
    assert np.linalg.norm(long) == pytest.approx(0.5 * free.gradient_norm, rel=1e-4)
    assert cut.gradient_norm == pytest.approx(free.gradient_norm, rel=1e-5)
    np.testing.assert_allclose(short, long * 0.01 / free.gradient_norm, rtol=1e-3, atol=1e-7)


def test_accumulated_batches_take_one_step_along_their_mean_gradient(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu)
    start, weights = [weight.numpy() for weight in model.trainable_variables], model.get_weights()
    take(one_cpu, model, optimizer, PLAIN)
    single = moved(model, start)
    model.set_weights(weights)
    step = TrainStep(one_cpu, model, None, optimizer, replace(PLAIN, accumulate=3))
    batch = batches(1, images(twins=False))
    for number, weight in enumerate((WEIGHTS, np.zeros(4, np.float32), WEIGHTS)):
        assert not moved(model, start).any(), "no step before the last batch"
        step(batch, weight.reshape(1, -1), number=number)
    np.testing.assert_allclose(moved(model, start), single * 2 / 3, rtol=1e-3, atol=1e-6)


def test_the_averaged_network_follows_as_tensorflows_moving_average_does(one_cpu: Devices) -> None:
    import tensorflow as tf

    model, optimizer = fresh(one_cpu)
    averaged, _ = fresh(one_cpu)
    averaged.set_weights(model.get_weights())
    shadow = [tf.Variable(weight) for weight in model.get_weights()]
    oracle = tf.train.ExponentialMovingAverage(0.9, num_updates=tf.Variable(0.0))
    oracle.apply(shadow)
    step = TrainStep(one_cpu, model, averaged, optimizer, replace(PLAIN, ema_decay=0.9))
    for number in range(4):
        step(batches(1, images(twins=False)), WEIGHTS.reshape(1, -1), number=number)
        oracle._num_updates.assign(number + 1.0)
        for variable, weight in zip(shadow, model.get_weights(), strict=True):
            variable.assign(weight)
        oracle.apply(shadow)
    for variable, average in zip(shadow, averaged.get_weights(), strict=True):
        np.testing.assert_allclose(average, oracle.average(variable).numpy(), rtol=1e-4, atol=1e-6)
    assert any((a != b).any() for a, b in zip(averaged.get_weights(), model.get_weights(), strict=True))


def test_dropout_depends_on_the_number_of_the_step_and_on_nothing_else(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu, dropout=0.5)
    weights = model.get_weights()

    def loss(number: int) -> float:
        model.set_weights(weights)
        return take(one_cpu, model, optimizer, PLAIN, number=number).loss

    first, second, again = loss(3), loss(4), loss(3)
    assert first == again
    assert first != second


def test_a_request_to_stop_is_told_with_the_step(one_cpu: Devices) -> None:
    model, optimizer = fresh(one_cpu)
    step = TrainStep(one_cpu, model, None, optimizer, PLAIN)
    batch, weights = batches(1, images(twins=False)), WEIGHTS.reshape(1, -1)
    assert StepResult.of(step(batch, weights, number=0)).stops == 0
    assert StepResult.of(step(batch, weights, number=1, stop=True)).stops == 1
