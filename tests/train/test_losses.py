"""Soft Dice, held against sums made with NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clotseg.train.devices import Devices
from clotseg.train.losses import dice_sums, soft_dice_loss

Floats = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _cpu(one_cpu: Devices) -> None:
    """TensorFlow is there."""


def loss(probability: Floats, masks: Floats, weights: list[float], smooth: float = 1.0) -> float:
    return float(soft_dice_loss(dice_sums(probability, masks, np.float32(weights)), smooth))


def batch(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    probability = random.random((count, 6, 5, 1), np.float32)
    return probability, (random.random((count, 6, 5, 1)) < 0.3).astype(np.float32)


def test_two_pixels_by_hand() -> None:
    probability = np.float32([0.5, 0.25]).reshape(1, 1, 2, 1)
    masks = np.float32([1, 0]).reshape(1, 1, 2, 1)
    # overlap 0.5, total 0.75 + 1
    np.testing.assert_array_equal(dice_sums(probability, masks, np.float32([1])), np.float32([0.5, 1.75]))
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
    parts = [dice_sums(probability[part], masks[part], weights[part]) for part in (slice(2), slice(2, 4))]
    np.testing.assert_allclose(parts[0] + parts[1], dice_sums(probability, masks, weights), rtol=1e-6)
