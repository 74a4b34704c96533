"""Distances between surfaces: those of google-deepmind/surface-distance, and what can be counted by hand."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from surface_distance import metrics as reference

from clotseg.evaluate.metrics import score_case
from clotseg.evaluate.surface import surface_distances

pytestmark = pytest.mark.filterwarnings(
    "ignore:Please import `.*` from the `scipy.ndimage` namespace:DeprecationWarning"
)

SPACINGS_MM = st.tuples(*[st.floats(0.25, 4.0)] * 3) | st.sampled_from([(0.5, 0.5, 1.0), (1.0, 1.0, 1.0)])


@st.composite
def masks(draw, shape):
    """Nothing, a voxel (at the border as a rule, in volumes so small), a block, all, or scattered voxels."""
    mask = np.zeros(shape, bool)
    match draw(st.sampled_from(["empty", "voxel", "block", "full", "scattered"])):
        case "voxel":
            mask[tuple(draw(st.integers(0, side - 1)) for side in shape)] = True
        case "block":
            ends = [sorted(draw(st.tuples(*[st.integers(0, side)] * 2))) for side in shape]
            mask[tuple(slice(low, high) for low, high in ends)] = True
        case "full":
            mask[:] = True
        case "scattered":
            mask[:] = draw(hnp.arrays(bool, shape))
    return mask


@st.composite
def pairs(draw):
    """Two masks of one small shape, and a spacing that differs by axis."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    return draw(masks(shape)), draw(masks(shape)), draw(SPACINGS_MM)


def differences(predicted, truth, spacing_mm):
    """How far each metric lies from the reference's, over all metrics that both have.

    The reference says infinite, or nothing, where a mask is empty; what we say there is checked right here.
    """
    score = score_case(
        predicted.astype(np.uint8),
        truth.astype(np.uint8),
        case="a",
        patient="p",
        site=None,
        spacing_mm=spacing_mm,
    )
    ours = [score.surface_dice_1mm, score.surface_dice_2mm, score.hd95_mm, score.average_surface_distance_mm]
    if not (predicted.any() or truth.any()):
        assert ours == [1.0, 1.0, 0.0, 0.0]
        return [0.0]
    theirs = reference.compute_surface_distances(truth, predicted, spacing_mm)
    dice = [reference.compute_surface_dice_at_tolerance(theirs, tolerance) for tolerance in (1, 2)]
    volume = reference.compute_dice_coefficient(truth, predicted)
    if not (predicted.any() and truth.any()):
        assert np.isinf(reference.compute_robust_hausdorff(theirs, 95))
        assert ours == [0.0, 0.0, None, None]
        return [abs(score.dice - volume), *np.abs(dice)]
    areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    average = np.average(reference.compute_average_surface_distance(theirs), weights=areas)
    expected = [*dice, reference.compute_robust_hausdorff(theirs, 95), average]
    return [abs(score.dice - volume), *np.abs(np.subtract(ours, expected))]


@pytest.fixture
def _a_reference_that_knows_numpy_2(monkeypatch):
    """For an empty mask the reference asks for a name that NumPy 2 no longer has."""
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)


@pytest.mark.usefixtures("_a_reference_that_knows_numpy_2")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(pair=pairs())
def test_metrics_are_those_of_the_reference_implementation(pair):
    assert max(differences(*pair)) < 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("_a_reference_that_knows_numpy_2")
def test_metrics_of_a_thousand_mask_pairs_are_those_of_the_reference(capsys):
    seen = []

    @settings(max_examples=1000, deadline=None, database=None)
    @given(pair=pairs())
    def compare(pair):
        predicted, truth, _ = pair
        seen.append((max(differences(*pair)), int(predicted.sum()), int(truth.sum())))

    compare()
    largest = max(difference for difference, *_ in seen)
    empty = sum(0 in sizes for _, *sizes in seen)
    with capsys.disabled():
        print(f"\n{len(seen)} mask pairs, {empty} with an empty mask: largest difference {largest:.2e}")
    assert empty > 50
    assert largest < 1e-9


def test_two_voxels_three_apart():
    """The surface points of a voxel are its corners: 1 mm away on the near side, 1.5 mm on the far one."""
    a, b = np.zeros((1, 8, 1), bool), np.zeros((1, 8, 1), bool)
    a[0, 1, 0] = b[0, 4, 0] = True
    found = surface_distances(a, b, (1.0, 0.5, 1.0))
    assert sorted(set(found.truth.distance_mm)) == [1.0, 1.5]
    assert found.hausdorff_mm(95) == 1.5
    assert found.average_mm() == pytest.approx(1.25)
    assert (found.dice(0.99), found.dice(1.0), found.dice(1.5)) == (0.0, 0.5, 1.0)


def test_a_shifted_box_lies_as_far_as_it_was_shifted():
    a, b = np.zeros((30, 30, 12), bool), np.zeros((30, 30, 12), bool)
    a[5:20, 5:25, 3:8] = b[9:24, 5:25, 3:8] = True
    found = surface_distances(a, b, (0.5, 0.5, 2.0))
    assert found.hausdorff_mm(100) == pytest.approx(2.0)
    assert found.dice(2.0) == 1.0
    assert 0.5 < found.dice(1.0) < 1.0


def test_a_clot_cut_off_by_the_border_has_a_surface_there():
    """The same clot has the same distances, whether it lies at the border of the volume or amid it."""
    random = np.random.default_rng(1)
    a, b = random.random((4, 5, 3)) < 0.6, random.random((4, 5, 3)) < 0.6
    at_border = surface_distances(a, b, (0.5, 0.7, 1.5))
    amid = surface_distances(np.pad(a, 3), np.pad(b, 3), (0.5, 0.7, 1.5))
    np.testing.assert_array_equal(at_border.truth.distance_mm, amid.truth.distance_mm)
    np.testing.assert_array_equal(at_border.predicted.area_mm2, amid.predicted.area_mm2)


def test_a_large_volume_costs_no_more_than_its_clot():
    """The distances are worked out in the box around both masks: far less memory than the volume takes."""
    import tracemalloc

    clot = np.zeros((256, 256, 200), bool)
    clot[100:110, 100:120, 50:55] = True
    tracemalloc.start()
    surface_distances(clot, np.roll(clot, 2, axis=0), (0.5, 0.5, 0.5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * clot.nbytes
