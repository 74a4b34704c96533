"""Doubt, against SciPy's entropy, counted by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import entropy

from clotseg.evaluate.doubt import doubt_of

SHAPE = (12, 14, 3)


def of_boxes(*boxes: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
    mask = np.zeros(SHAPE, np.uint8)
    for box in boxes:
        mask[box] = 1
    return mask


LARGE = (slice(3, 6), slice(4, 8), slice(0, 2))
"""24 voxels; with two pixels on every side within each slice 7 · 8 · 2."""
SMALL = (slice(11, 12), slice(10, 13), slice(2, 3))


def bits(probability: NDArray[Any]) -> float:
    return float(sum(entropy([p, 1 - p], base=2) for p in probability.ravel()))


def test_unsure_voxels_of_the_largest_component_and_around_it_and_all_other_pieces_are_doubt() -> None:
    probability = np.random.default_rng(0).uniform(0.01, 0.99, SHAPE)
    spread = np.random.default_rng(1).uniform(0, 0.5, SHAPE).astype(np.float16)
    predicted = of_boxes(LARGE, SMALL)
    doubt = doubt_of(probability, predicted, spread)
    unsure = bits(probability[1:8, 2:10, 0:2])
    assert doubt.level == pytest.approx(1 - 24 / 27 * 24 / (24 + unsure))
    assert doubt.spread == pytest.approx(spread[predicted == 1].astype(float).mean())


def test_at_the_edge_of_the_volume_there_is_less_around() -> None:
    probability = np.full(SHAPE, 0.5)
    corner = (slice(0, 1), slice(13, 14), slice(0, 1))
    assert doubt_of(probability, of_boxes(corner), None).level == pytest.approx(1 - 1 / (1 + 9))


@pytest.mark.parametrize(
    ("outside", "pieces", "level"),
    [(0.0, (LARGE,), 0.0), (0.5, (LARGE,), 1 - 24 / (24 + 112 - 24)), (0.0, (LARGE, SMALL), 1 / 9)],
)
def test_one_sure_component_in_sure_surroundings_is_no_doubt(
    outside: float, pieces: tuple[tuple[slice, slice, slice], ...], level: float
) -> None:
    predicted = of_boxes(*pieces)
    probability = np.where(predicted, 1.0, outside).astype(np.float16)
    doubt = doubt_of(probability, predicted, None)
    assert doubt.level == pytest.approx(level)
    assert doubt.spread is None


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    predicted = of_boxes(LARGE, (slice(6, 7), slice(8, 9), slice(2, 3)))
    assert doubt_of(predicted.astype(np.float16), predicted, None).level == 0


@pytest.mark.parametrize(
    ("highest", "level"), [(0.0, 0.0), (0.1, 0.4690), (0.4, 0.9710), (0.7, 1.0), (1.0, 1.0)]
)
def test_an_empty_prediction_is_the_more_doubtful_the_nearer_it_came_to_a_clot(
    highest: float, level: float
) -> None:
    probability = np.zeros(SHAPE)
    probability[1, 2, 1] = highest
    spread = np.zeros(SHAPE)
    spread[1, 2, 1] = 0.25
    doubt = doubt_of(probability, np.zeros(SHAPE, np.uint8), spread)
    assert doubt.level == pytest.approx(level, abs=1e-4)
    assert doubt.spread == (0.25 if highest else 0.0)
