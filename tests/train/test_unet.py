"""The network: the layers of the reference setting, counted by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import NetworkConfig, SliceConfig
from clotseg.errors import ConfigError
from clotseg.train.devices import Devices
from clotseg.train.unet import build_unet, in_further_windows
from tests.train.conftest import random_slices


@pytest.fixture(scope="module")
def reference(one_cpu: Devices) -> Any:
    """The network in its default setting; the weights do not depend on the size."""
    return build_unet(NetworkConfig(filters=32, depth=4, l2=1e-4), size=32, channels=2)


def layers(model: Any, kind: str) -> list[Any]:
    return [layer for layer in model.layers if type(layer).__name__ == kind]


def test_convolutions_have_the_filters_and_kernels_of_the_reference(reference: Any) -> None:
    down = [filters for filters in (32, 64, 128, 256) for _ in range(2)]
    centre = [512] * 4
    convolutions = layers(reference, "Conv2D")
    assert [layer.filters for layer in convolutions] == [*down, *centre, *down[::-1], 1]
    kernels = [3] * 8 + [3, 3, 1, 1] + [3] * 8 + [1]
    assert [layer.kernel_size for layer in convolutions] == [(kernel, kernel) for kernel in kernels]
    assert {layer.padding for layer in convolutions} == {"same"}


def test_a_level_is_convolution_with_relu_then_norm_dropout_convolution_norm(reference: Any) -> None:
    level = ["Conv2D", "BatchNormalization", "Dropout", "Conv2D", "BatchNormalization"]
    expected = (
        ["InputLayer"]
        + [*level, "MaxPooling2D"] * 4
        + ["Conv2D", "BatchNormalization"] * 4
        + ["UpSampling2D", "Concatenate", *level] * 4
        + ["Conv2D"]
    )
    assert [type(layer).__name__ for layer in reference.layers] == expected
    activations = [layer.activation.__name__ for layer in layers(reference, "Conv2D")]
    assert activations == ["relu", "linear"] * 4 + ["relu"] * 4 + ["relu", "linear"] * 4 + ["sigmoid"]


def test_norm_dropout_and_weight_decay_are_those_of_the_reference(reference: Any) -> None:
    assert {layer.epsilon for layer in layers(reference, "BatchNormalization")} == {1e-4}
    assert {layer.rate for layer in layers(reference, "Dropout")} == {0.1}
    decays = [layer.kernel_regularizer for layer in layers(reference, "Conv2D")]
    assert {type(decay).__name__ for decay in decays} == {"L2"}
    np.testing.assert_allclose([float(decay.l2) for decay in decays], 1e-4, rtol=1e-6)


def test_the_untrained_head_expects_clot_with_the_initial_probability(one_cpu: Devices) -> None:
    config = NetworkConfig(filters=2, depth=1, initial_probability=0.02, batch_norm_momentum=0.75)
    model = build_unet(config, size=32, channels=2)
    assert float(model.layers[-1].bias[0]) == pytest.approx(-3.8918203)  # ln(0.02 / 0.98)
    blank = model.predict(np.zeros((1, 32, 32, 2), np.float32), verbose=0)
    np.testing.assert_allclose(blank, 0.02, rtol=1e-5)
    assert {layer.momentum for layer in layers(model, "BatchNormalization")} == {0.75}


def test_further_windows_are_shown_as_a_slice_would_be_cut_to_them() -> None:
    """HU in a window are clip((HU − low) / (high − low)); of three slices each, CTA first, as slices are."""
    config = NetworkConfig(cta_windows_hu=((0, 200), (100, 300)), ncct_windows_hu=((30, 80),))
    slicing = SliceConfig(cta_window_hu=(-50, 450), ncct_window_hu=(0, 120), context=1)
    random = np.random.default_rng(3)
    cta, ncct = random.uniform(-100, 500, (1, 8, 8, 3)), random.uniform(-20, 150, (1, 8, 8, 3))

    def within(hu: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
        return np.clip((hu - low) / (high - low), 0, 1)

    slices = np.concatenate([within(cta, -50, 450), within(ncct, 0, 120)], axis=-1)
    shown = np.asarray(in_further_windows(slices.astype(np.float32), config, slicing))
    further = [within(cta, 0, 200), within(cta, 100, 300), within(ncct, 30, 80)]
    np.testing.assert_allclose(shown, np.concatenate([slices, *further], axis=-1), atol=1e-5)


def test_a_network_is_shown_its_further_windows() -> None:
    """One that looks at NCCT from 30 to 80 HU alone does not see what happens below 30."""
    import keras

    keras.utils.set_random_seed(1)
    config = NetworkConfig(filters=8, depth=1, norm="instance", ncct_windows_hu=((30, 80),))
    model = build_unet(replace(config, initial_probability=0.5), size=8, channels=2)
    first = layers(model, "Conv2D")[0]
    kernel, bias = first.get_weights()
    assert kernel.shape[2] == 3
    kernel[:, :, :2] = 0
    first.set_weights([kernel, bias])
    slices = np.random.default_rng(4).uniform(0.35, 0.75, (1, 8, 8, 2)).astype(np.float32)
    slices[0, 2:5, 2:5, 1] = 0.2
    darker, brighter = slices.copy(), slices.copy()
    darker[0, 2:5, 2:5, 1], brighter[0, 2:5, 2:5, 1] = 0.1, 0.5
    seen, seen_darker, seen_brighter = (model(each).numpy() for each in (slices, darker, brighter))
    np.testing.assert_array_equal(seen, seen_darker)
    assert np.abs(seen - seen_brighter).max() > 0.01


def test_levels_on_the_way_up_see_the_same_level_of_the_way_down(reference: Any) -> None:
    joined = [
        [tuple(tensor.shape[1:]) for tensor in layer.input] for layer in layers(reference, "Concatenate")
    ]
    assert joined == [
        [(4, 4, 512), (4, 4, 256)],
        [(8, 8, 256), (8, 8, 128)],
        [(16, 16, 128), (16, 16, 64)],
        [(32, 32, 64), (32, 32, 32)],
    ]


def test_parameters_of_a_small_network_are_those_counted_by_hand(one_cpu: Devices) -> None:
    # kernel · kernel · inputs · filters + filters for a convolution, 4 · filters for a batch norm
    down = (9 * 2 * 2 + 2) + 8 + (9 * 2 * 2 + 2) + 8
    centre = (9 * 2 * 4 + 4) + (9 * 4 * 4 + 4) + 2 * (4 * 4 + 4) + 4 * 16
    up = (9 * (4 + 2) * 2 + 2) + 8 + (9 * 2 * 2 + 2) + 8
    head = 2 * 1 + 1
    model = build_unet(NetworkConfig(filters=2, depth=1), size=8, channels=2)
    assert model.count_params() == down + centre + up + head == 587


def test_instance_norm_looks_at_no_other_slice_of_the_batch(one_cpu: Devices) -> None:
    config = NetworkConfig(filters=2, depth=1, norm="instance", dropout=0.0)
    instance = build_unet(config, size=8, channels=2)
    batch = build_unet(replace(config, norm="batch"), size=8, channels=2)
    assert not instance.non_trainable_weights
    assert not layers(instance, "BatchNormalization")
    slices = np.random.default_rng(1).random((4, 8, 8, 2), np.float32)
    alone = instance(slices[:1], training=True)
    np.testing.assert_allclose(instance(slices, training=True)[:1], alone, rtol=1e-5)
    assert np.abs(batch(slices, training=True)[:1] - batch(slices[:1], training=True)).max() > 1e-4


def test_instance_norm_is_the_mean_and_spread_of_each_channel_of_a_slice(one_cpu: Devices) -> None:
    model = build_unet(NetworkConfig(filters=2, depth=1, norm="instance"), size=8, channels=2)
    norm = layers(model, "GroupNormalization")[0]
    features = np.random.default_rng(1).normal(3.0, 5.0, (2, 8, 8, 2)).astype(np.float32)
    mean, variance = features.mean((1, 2), keepdims=True), features.var((1, 2), keepdims=True)
    np.testing.assert_allclose(norm(features), (features - mean) / np.sqrt(variance + 1e-4), atol=1e-5)


@pytest.mark.parametrize(("size", "channels"), [(16, 2), (24, 1)])
def test_every_pixel_gets_a_probability(one_cpu: Devices, size: int, channels: int) -> None:
    model = build_unet(NetworkConfig(filters=2, depth=3), size=size, channels=channels)
    slices = np.random.default_rng(1).random((3, size, size, channels), np.float32)
    probability = model(slices, training=False).numpy()
    assert probability.shape == (3, size, size, 1)
    assert probability.dtype == np.float32
    assert ((probability > 0) & (probability < 1)).all()
    assert len(np.unique(probability)) > 1


def test_dropout_acts_in_training_alone(model: Any) -> None:
    slices = random_slices(2)
    np.testing.assert_array_equal(model(slices, training=False), model(slices, training=False))
    assert (model(slices, training=True).numpy() != model(slices, training=True).numpy()).any()


@pytest.mark.parametrize(("size", "depth", "largest"), [(40, 4, 3), (30, 2, 1), (33, 1, 0), (96, 6, 5)])
def test_a_size_that_cannot_be_halved_so_often_is_refused_with_the_depth_that_can(
    size: int, depth: int, largest: int
) -> None:
    with pytest.raises(ConfigError, match=f"a depth of {largest} or less") as caught:
        build_unet(NetworkConfig(filters=8, depth=depth), size=size, channels=2)
    assert caught.value.exit_code == 2
    assert f"slices of {size} pixels cannot be halved {depth} times" in str(caught.value)


@pytest.mark.parametrize("side", [2, 4])
def test_folded_pixels_are_those_of_tensorflow_and_come_back(one_cpu: Devices, side: int) -> None:
    import tensorflow as tf

    from clotseg.train.unet import folded, unfolded

    pixels = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
    np.testing.assert_array_equal(folded(tf.constant(pixels), side), tf.nn.space_to_depth(pixels, side))
    for some in (pixels[..., :1], pixels):
        np.testing.assert_array_equal(unfolded(folded(tf.constant(some), side), side), some)


@pytest.mark.parametrize("fold", [1, 2, 4])
def test_a_network_that_computes_in_bfloat16_answers_in_float32(one_cpu: Devices, fold: Any) -> None:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = build_unet(NetworkConfig(filters=4, depth=3, fold=fold), size=32, channels=2)
    finally:
        keras.config.set_dtype_policy(before)
    slices = np.random.default_rng(1).random((2, 32, 32, 2), np.float32)
    probability = network(slices).numpy()
    assert probability.dtype == np.float32
    # bfloat16 has 8 bits: rounded to them, no more than some hundred values would be left.
    assert len(np.unique(probability)) > 1500
    assert layers(network, "Conv2D")[0].compute_dtype == "bfloat16"


def test_a_folded_network_has_a_level_less_and_full_resolution(one_cpu: Devices) -> None:
    whole, folded = (
        build_unet(NetworkConfig(filters=4, depth=3, fold=fold), size=32, channels=2) for fold in (1, 2)
    )
    assert folded.output_shape == whole.output_shape == (None, 32, 32, 1)
    assert len(layers(folded, "MaxPooling2D")) == 2
    assert [layer.filters for layer in layers(folded, "Conv2D")][-1] == 4, (
        "a value for each pixel of a square"
    )
    slices = np.zeros((1, 32, 32, 2), np.float32)
    moved = slices.copy()
    moved[0, 5, 7, 0] = 1
    changed = np.argwhere(folded(moved).numpy() != folded(slices).numpy())
    assert {(5, 7), (5, 6), (4, 7)} <= {(row, column) for _, row, column, _ in changed}
