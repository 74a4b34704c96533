"""Soft Dice and cross-entropy, held against sums made with NumPy and against Keras."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clotseg.config import TrainConfig
from clotseg.train.devices import Devices
from clotseg.train.losses import batch_sums, loss_of

Floats = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _cpu(one_cpu: Devices) -> None:
    """TensorFlow is there."""


def loss(probability: Floats, masks: Floats, weights: list[float], smooth: float = 1.0) -> float:
    config = TrainConfig(loss="dice", dice_smooth=smooth)
    return float(loss_of(batch_sums(probability, masks, np.float32(weights)), config))


def batch(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    probability = random.random((count, 6, 5, 1), np.float32)
    return probability, (random.random((count, 6, 5, 1)) < 0.3).astype(np.float32)


def test_two_pixels_by_hand() -> None:
    probability = np.float32([0.5, 0.25]).reshape(1, 1, 2, 1)
    masks = np.float32([1, 0]).reshape(1, 1, 2, 1)
    # overlap 0.5, total 0.75 + 1
    sums = batch_sums(probability, masks, np.float32([1])).numpy()
    np.testing.assert_allclose(sums, [0.5, 1.75, -np.log(0.5) - np.log(0.75), 2], rtol=1e-6)
    assert loss(probability, masks, [1], smooth=1) == pytest.approx(1 - (1 + 1) / (1.75 + 1))
    assert loss(probability, masks, [1], smooth=0.25) == pytest.approx(1 - 1.25 / 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 4), smooth=st.floats(0.01, 10))
def test_it_is_one_dice_over_all_slices_together(seed: int, count: int, smooth: float) -> None:
    probability, masks = batch(count, seed)
    overlap, total = (probability * masks).sum(dtype=float), (probability + masks).sum(dtype=float)
    expected = 1 - (2 * overlap + smooth) / (total + smooth)
    assert loss(probability, masks, [1] * count, smooth) == pytest.approx(expected, abs=1e-5)


def test_without_clot_and_with_nothing_predicted_it_is_0() -> None:
    empty = np.zeros((2, 6, 5, 1), np.float32)
    assert loss(empty, empty, [1, 1]) == 0


def test_a_perfect_prediction_loses_nothing_and_a_false_one_nearly_1() -> None:
    _, masks = batch(2)
    assert loss(masks, masks, [1, 1]) == 0
    assert loss(1 - masks, masks, [1, 1]) > 0.95


def test_a_repeat_of_weight_0_has_no_effect() -> None:
    probability, masks = batch(3)
    padded = [np.concatenate([part, part[-1:], part[:1]]) for part in (probability, masks)]
    alone = loss(probability, masks, [1, 1, 1])
    assert loss(padded[0], padded[1], [1, 1, 1, 0, 0]) == alone
    assert loss(padded[0], padded[1], [1, 1, 1, 1, 1]) != pytest.approx(alone, abs=1e-4)


def test_sums_of_the_parts_add_up_to_the_sums_of_the_whole() -> None:
    probability, masks = batch(4)
    weights = np.float32([1, 1, 1, 0])
    parts = [batch_sums(probability[part], masks[part], weights[part]) for part in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(parts[0] + parts[1], batch_sums(probability, masks, weights), rtol=1e-6)


def test_cross_entropy_is_that_of_keras_added_to_dice() -> None:
    import keras

    probability, masks = batch(3)
    sums = batch_sums(probability, masks, np.float32([1, 1, 1]))
    both = float(loss_of(sums, TrainConfig(loss="dice_cross_entropy")))
    entropy = float(keras.losses.BinaryCrossentropy()(masks, probability))
    assert both == pytest.approx(loss(probability, masks, [1, 1, 1]) + entropy, rel=1e-5)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_certainty_that_is_wrong_costs_much_but_stays_finite(certain: float) -> None:
    probability = np.full((1, 4, 4, 1), certain, np.float32)
    sums = batch_sums(probability, 1 - probability, np.float32([1]))
    assert 10 < float(loss_of(sums, TrainConfig())) < 20


def test_with_no_slice_that_counts_the_loss_is_0() -> None:
    probability, masks = batch(2)
    assert float(loss_of(batch_sums(probability, masks, np.float32([0, 0])), TrainConfig())) == 0
