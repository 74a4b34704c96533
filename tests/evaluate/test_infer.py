"""Inference on whole volumes, held against NumPy for networks whose answer is known in closed form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import Flip, SliceConfig
from clotseg.errors import DataError
from clotseg.evaluate.infer import Network, Predictor, Volumes, centre_crop, centre_pad, open_case
from clotseg.prep.cases import Case, open_volume, survey_cases
from clotseg.project import Project
from tests.conftest import write_case

SIZE = 32
WINDOWS = SliceConfig(cta_window_hu=(0.0, 400.0), ncct_window_hu=(20.0, 80.0))
CTA_WEIGHT, NCCT_WEIGHT, BIAS = 3.0, -2.0, -0.5
SHAPES = [(32, 32, 6), (31, 20, 5), (9, 32, 3), (15, 17, 35), (8, 7, 150)]
"""As large as the network, odd, narrow, and of more slices than a batch holds, and than a block."""


def one_case(folder: Path, shape: tuple[int, int, int]) -> Case:
    project = Project(folder)
    write_case(project, "case", shape=shape)
    return survey_cases(project)[0][0]


def predictor_of(model: Any, slicing: SliceConfig = WINDOWS) -> Predictor:
    """A single network, ready to run."""
    return Predictor([Network(model=model, size=SIZE)], slicing)


def windowed(volume: NDArray[Any], window_hu: tuple[float, float]) -> NDArray[np.float64]:
    """What the network sees of HU values: eight bits, 0…1."""
    low, high = window_hu
    grey = np.clip(np.rint((volume.astype(np.float64) - low) / (high - low) * 255), 0, 255)
    return np.asarray(grey / 255)


@pytest.fixture(scope="module")
def pixelwise() -> Any:
    """A logistic regression of the two grey values of a pixel, behind a dropout that must be off."""
    import keras

    image = keras.Input((SIZE, SIZE, 2))
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid")
    model = keras.Model(image, keras.layers.Dropout(0.5)(layer(image)))
    layer.set_weights([np.array([CTA_WEIGHT, NCCT_WEIGHT]).reshape(1, 1, 2, 1), np.array([BIAS])])
    return model


@pytest.fixture(scope="module")
def places() -> Any:
    """Answers with the number of each pixel of its input square, whatever the picture."""
    import keras

    image = keras.Input((SIZE, SIZE, 2))
    nothing = keras.layers.Conv2D(SIZE * SIZE, SIZE, kernel_initializer="zeros", name="numbers")(image)
    model = keras.Model(image, keras.layers.Reshape((SIZE, SIZE, 1))(nothing))
    kernel, _ = model.get_layer("numbers").get_weights()
    model.get_layer("numbers").set_weights([kernel, np.arange(SIZE * SIZE)])
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_probability_is_on_the_grid_of_the_volume(
    tmp_path: Path, pixelwise: Any, shape: tuple[int, int, int]
) -> None:
    case = one_case(tmp_path, shape)
    probability = predictor_of(pixelwise).probability(open_case(case))
    cta = windowed(np.load(case.cta), WINDOWS.cta_window_hu)
    ncct = windowed(np.load(case.ncct), WINDOWS.ncct_window_hu)
    expected = 1 / (1 + np.exp(-(CTA_WEIGHT * cta + NCCT_WEIGHT * ncct + BIAS)))
    assert probability.shape == shape
    assert probability.dtype == np.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(probability, expected, atol=1e-6)


def test_a_network_with_neighbours_gets_them_in_order_with_the_ends_repeated(tmp_path: Path) -> None:
    """CTA below, CTA, CTA above, then NCCT; 135 slices are three blocks and nine batches."""
    case = one_case(tmp_path, (15, 17, 135))
    context = SliceConfig(cta_window_hu=(0.0, 400.0), ncct_window_hu=(20.0, 80.0), context=1)
    cta = windowed(np.load(case.cta), context.cta_window_hu)
    ncct = windowed(np.load(case.ncct), context.ncct_window_hu)
    at = np.arange(135)
    for channel, volume, numbers in (
        (0, cta, np.maximum(at - 1, 0)),
        (2, cta, np.minimum(at + 1, 134)),
        (4, ncct, at),
        (5, ncct, np.minimum(at + 1, 134)),
    ):

        def only(slices: Any, *, training: bool, channel: int = channel) -> Any:
            assert not training
            return slices[..., channel : channel + 1]

        seen = predictor_of(only, context).probability(open_case(case))
        np.testing.assert_allclose(seen, volume[:, :, numbers], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_slice_lies_amid_the_input_square(tmp_path: Path, places: Any, shape: tuple[int, int, int]) -> None:
    """Where a pixel cannot be shared evenly, one row more of zeros is below, one column more at the right."""
    probability = predictor_of(places).probability(open_case(one_case(tmp_path, shape)))
    top, left = (SIZE - shape[0]) // 2, (SIZE - shape[1]) // 2
    numbers = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)[top : top + shape[0], left : left + shape[1]]
    np.testing.assert_array_equal(probability, np.repeat(numbers[..., np.newaxis], shape[2], axis=2))


@pytest.mark.parametrize("shape", [(33, 32, 3), (20, 40, 3)], ids=str)
def test_a_slice_larger_than_the_network_takes_is_refused(
    tmp_path: Path, pixelwise: Any, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(DataError, match=f"{shape[0]}×{shape[1]} pixels; the network takes 32×32") as caught:
        predictor_of(pixelwise).probability(open_case(one_case(tmp_path, shape)))
    assert caught.value.where == "case"
    assert "--size" in str(caught.value)


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (31, 20), (9, 32), (1, 15)])
def test_padding_is_that_of_the_training_pipeline(rows: int, columns: int) -> None:
    """DALI is what pads in training."""
    from nvidia.dali import fn, pipeline_def

    slices = np.random.default_rng(1).integers(1, 256, (3, rows, columns, 2)).astype(np.uint8)

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def padded() -> Any:
        given = fn.external_source(lambda: list(slices), batch=True, layout="HWC")
        return fn.crop(given, crop=(SIZE, SIZE), out_of_bounds_policy="pad", rounding="truncate")

    pipeline = padded()
    pipeline.build()
    (by_dali,) = pipeline.run()
    np.testing.assert_array_equal(centre_pad(slices, SIZE), by_dali.as_array())


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (31, 20), (9, 32), (1, 15)])
def test_cropping_undoes_padding(rows: int, columns: int) -> None:
    slices = np.random.default_rng(2).integers(1, 256, (3, rows, columns, 2)).astype(np.uint8)
    np.testing.assert_array_equal(centre_crop(centre_pad(slices, SIZE), rows, columns), slices)


def test_the_inputs_stay_as_they_are(tmp_path: Path, pixelwise: Any) -> None:
    case = one_case(tmp_path, (31, 20, 5))
    before = [path.read_bytes() for path in case.files]
    predictor_of(pixelwise).probability(open_case(case))
    assert [path.read_bytes() for path in case.files] == before
    assert open_volume(case.cta).shape == (31, 20, 5)


def numbered(slices: Any, *, training: bool) -> Any:
    """A network whose answer at a pixel tells where in the square it is, and how bright the pixel is."""
    import tensorflow as tf

    places = np.arange(SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE, 1)
    return slices[..., :1] / 2 + tf.constant(places / (2 * SIZE * SIZE))


def padded_place(rows: int, columns: int) -> NDArray[np.float64]:
    """Half of what `numbered` adds at each pixel of an unflipped slice of this size."""
    top, left = (SIZE - rows) // 2, (SIZE - columns) // 2
    numbers = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)[top : top + rows, left : left + columns]
    return np.asarray(numbers / (2 * SIZE * SIZE))


@pytest.mark.parametrize("flips", [("horizontal",), ("vertical",), ("horizontal", "vertical")], ids="+".join)
def test_slices_flipped_as_in_training_are_averaged_where_they_belong(
    tmp_path: Path, flips: tuple[Flip, ...]
) -> None:
    """Turned round, padded, seen, turned back: the picture stays, the place in the square is mirrored."""
    case = one_case(tmp_path, (31, 20, 5))
    predictor = Predictor([Network(model=numbered, size=SIZE, flips=flips)], WINDOWS, tta=True)
    views = [padded_place(31, 20)]
    if "horizontal" in flips:
        views += [view[:, ::-1] for view in views]
    if "vertical" in flips:
        views += [view[::-1] for view in views]
    picture = windowed(np.load(case.cta), WINDOWS.cta_window_hu) / 2
    assert predictor.passes == len(views) == 2 ** len(flips)
    (block,) = predictor.blocks(open_case(case))
    expected = picture + np.mean(views, axis=0)[..., np.newaxis]
    np.testing.assert_allclose(block.probability, expected, atol=1e-6)
    spread = np.broadcast_to(np.std(views, axis=0)[..., np.newaxis], expected.shape)
    assert block.spread is not None
    np.testing.assert_allclose(block.spread, spread, atol=5e-4)


def test_an_ensemble_gives_the_mean_of_its_networks(tmp_path: Path, pixelwise: Any) -> None:
    case = open_case(one_case(tmp_path, (31, 20, 5)))
    networks = [Network(model=pixelwise, size=SIZE), Network(model=numbered, size=SIZE)]
    one, other = (predictor_of(network.model).probability(case) for network in networks)
    (block,) = Predictor(networks, WINDOWS).blocks(case)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(block.probability, (one + other) / 2, atol=1e-6)
    np.testing.assert_allclose(block.spread, np.abs(one - other) / 2, atol=5e-4)
    assert next(Predictor(networks[:1], WINDOWS).blocks(case)).spread is None


def test_a_missing_volume_is_black(tmp_path: Path, pixelwise: Any) -> None:
    case = one_case(tmp_path, (31, 20, 5))
    predictor = predictor_of(pixelwise)
    without = predictor.probability(Volumes(name="case", cta=open_volume(case.cta), ncct=None))
    expected = 1 / (1 + np.exp(-(CTA_WEIGHT * windowed(np.load(case.cta), (0.0, 400.0)) + BIAS)))
    np.testing.assert_allclose(without, expected, atol=1e-6)


def test_no_more_of_a_volume_is_windowed_at_a_time_than_a_block(tmp_path: Path) -> None:
    """Counted by the allocator: ten times the slices take what some blocks take, beside the result."""
    import tracemalloc

    def constant(slices: Any, *, training: bool) -> Any:
        return slices[..., :1]

    predictor = predictor_of(constant)
    peaks = []
    for count in (960, 9600):  # So many blocks that both times some overlap as far as they ever do.
        volume = np.zeros((SIZE, SIZE, count), np.int16)
        case = Volumes(name="case", cta=volume, ncct=volume)
        tracemalloc.start()
        for _ in predictor.blocks(case):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 1920 * SIZE * SIZE * 2
