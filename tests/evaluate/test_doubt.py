"""Doubt, against SciPy's entropy and by hand."""

import numpy as np
import pytest
from scipy.stats import entropy

from clotseg.evaluate.doubt import doubt_of

SHAPE = (3, 4, 2)


def test_doubt_is_the_mean_entropy_of_the_predicted_clot() -> None:
    probability = np.random.default_rng(0).uniform(0.01, 0.99, SHAPE)
    predicted = (probability >= 0.6).astype(np.uint8)
    spread = np.random.default_rng(1).uniform(0, 0.5, SHAPE).astype(np.float16)
    clot = [(p, 1 - p) for p in probability[predicted == 1]]
    doubt = doubt_of(probability, predicted, spread)
    assert doubt.entropy == pytest.approx(np.mean([entropy(pair, base=2) for pair in clot]))
    assert doubt.spread == pytest.approx(spread[predicted == 1].astype(float).mean())


@pytest.mark.parametrize(("inside", "bits"), [(1.0, 0.0), (0.5, 1.0)])
def test_sure_of_every_voxel_is_no_doubt_and_a_half_is_a_whole_bit(inside: float, bits: float) -> None:
    probability = np.zeros(SHAPE, np.float16)
    probability[1] = inside
    doubt = doubt_of(probability, (probability > 0).astype(np.uint8), None)
    assert (doubt.entropy, doubt.spread) == (bits, None)


@pytest.mark.parametrize(
    ("highest", "bits"), [(0.0, 0.0), (0.1, 0.4690), (0.4, 0.9710), (0.7, 1.0), (1.0, 1.0)]
)
def test_an_empty_prediction_is_the_more_doubtful_the_nearer_it_came_to_a_clot(
    highest: float, bits: float
) -> None:
    probability = np.zeros(SHAPE)
    probability[1, 2, 1] = highest
    spread = np.zeros(SHAPE)
    spread[1, 2, 1] = 0.25
    doubt = doubt_of(probability, np.zeros(SHAPE, np.uint8), spread)
    assert doubt.entropy == pytest.approx(bits, abs=1e-4)
    assert doubt.spread == (0.25 if highest else 0.0)
