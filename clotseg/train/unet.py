"""The network: slices float32 [N, size, size, channels] in 0…1 in; clot probability [N, size, size, 1] out.

A U-Net (Ronneberger et al. 2015) as the reference setting has it: at each level conv 3×3 + ReLU → norm →
dropout → conv 3×3 → norm, max-pooling down, up-sampling and concatenation up, and a centre of two 3×3 and two
1×1 convolutions. The norm is that of the batch or of each slice. With `fold`, pixels lie in channels from the
first level to the last.
"""

import math
from typing import Any

from clotseg.config import NetworkConfig, SliceConfig, settled
from clotseg.errors import ConfigError

Tensor = Any  # TensorFlow and Keras ship no types
Model = Any

NORM_EPSILON = 1e-4


def build_unet(
    config: NetworkConfig, *, size: int, channels: int, slicing: SliceConfig | None = None
) -> Model:
    """A Keras model with fresh weights.

    Args:
        config: filters, depth, further windows, dropout, L2.
        size: side of the input square in pixels, a multiple of 2**depth.
        channels: input channels, CTA then NCCT.
        slicing: the windows whose ends are 0 and 1, for further windows to go by; None for the default ones.

    Raises:
        ConfigError: the size cannot be halved `depth` times.
    """
    import keras

    filters, depth = settled(config.filters), settled(config.depth)
    levels = depth - int(math.log2(config.fold))
    if size % 2**depth:
        raise ConfigError(
            f"slices of {size} pixels cannot be halved {depth} times",
            where="network.depth",
            fix=f"choose a depth of {largest_depth(size)} or less, or another feed.size",
        )
    image = keras.Input((size, size, channels), name="slices")
    features, skipped = folded(in_further_windows(image, config, slicing), config.fold), []
    for level in range(levels):
        features = _level(features, filters * 2**level, config)
        skipped.append(features)
        features = keras.layers.MaxPooling2D()(features)
    features = _centre(features, filters * 2**levels, config)
    for level in reversed(range(levels)):
        features = keras.layers.UpSampling2D()(features)
        features = keras.layers.Concatenate()([features, skipped[level]])
        features = _level(features, filters * 2**level, config)
    odds = config.initial_probability / (1 - config.initial_probability)
    prior = keras.initializers.Constant(math.log(odds))
    head = _convolution(
        config.fold**2, 1, config, activation="sigmoid", dtype="float32", bias_initializer=prior
    )
    return keras.Model(image, unfolded(head(features), config.fold), name="unet")


def in_further_windows(slices: Tensor, config: NetworkConfig, slicing: SliceConfig | None) -> Tensor:
    """Slices [N, H, W, C] in 0…1, and behind them CTA and NCCT in each of the further windows of `config`.

    A window lies within the one that slices were cut to, so in it nothing is lost but what eight bits lost.
    """
    import keras

    cta_windows, ncct_windows = settled(config.cta_windows_hu), settled(config.ncct_windows_hu)
    if not cta_windows + ncct_windows:
        return slices
    slicing = slicing or SliceConfig()
    shown = [slices]
    cta, ncct = keras.ops.split(slices, 2, axis=-1)
    for channels, (low, high), windows in (
        (cta, slicing.cta_window_hu, cta_windows),
        (ncct, slicing.ncct_window_hu, ncct_windows),
    ):
        for first, last in windows:
            hu = channels * (high - low) + low
            shown.append(keras.ops.clip((hu - first) / (last - first), 0, 1))
    return keras.layers.Concatenate()(shown)


def folded(pixels: Tensor, side: int) -> Tensor:
    """[N, H, W, C] as [N, H / side, W / side, side² · C]: each square of pixels in one place.

    Shi et al. 2016, Real-Time Single Image and Video Super-Resolution, the other way round.
    """
    import keras

    if side == 1:
        return pixels
    _, rows, columns, channels = pixels.shape
    squares = keras.layers.Reshape((rows // side, side, columns // side, side * channels))(pixels)
    together = keras.layers.Permute((1, 3, 2, 4))(squares)
    return keras.layers.Reshape((rows // side, columns // side, side * side * channels))(together)


def unfolded(squares: Tensor, side: int) -> Tensor:
    """The way back; in the precision that the squares have, whatever the network computes in."""
    import keras

    if side == 1:
        return squares
    _, rows, columns, together = squares.shape
    kept = {"dtype": squares.dtype}
    apart = keras.layers.Reshape((rows, columns, side, together // side), **kept)(squares)
    in_rows = keras.layers.Permute((1, 3, 2, 4), **kept)(apart)
    return keras.layers.Reshape((rows * side, columns * side, together // side**2), **kept)(in_rows)


def _level(features: Tensor, filters: int, config: NetworkConfig) -> Tensor:
    import keras

    features = _convolution(filters, 3, config, activation="relu")(features)
    features = normed(features, config)
    features = keras.layers.Dropout(config.dropout)(features)
    features = _convolution(filters, 3, config)(features)
    return normed(features, config)


def _centre(features: Tensor, filters: int, config: NetworkConfig) -> Tensor:
    for kernel in (3, 3, 1, 1):
        features = _convolution(filters, kernel, config, activation="relu")(features)
        features = normed(features, config)
    return features


def _convolution(filters: int, kernel: int, config: NetworkConfig, **options: Any) -> Any:
    import keras

    decay = keras.regularizers.L2(config.l2) if config.l2 else None
    return keras.layers.Conv2D(filters, kernel, padding="same", kernel_regularizer=decay, **options)


def normed(features: Tensor, config: NetworkConfig) -> Tensor:
    """Features [N, H, W, C] after the norm that the settings ask for."""
    import keras

    if config.norm == "instance":
        return keras.layers.GroupNormalization(groups=-1, epsilon=NORM_EPSILON)(features)
    norm = keras.layers.BatchNormalization(
        momentum=config.batch_norm_momentum,
        epsilon=NORM_EPSILON,
        synchronized=config.batch_norm == "synchronised",
    )
    return norm(features)


def largest_depth(size: int) -> int:
    """How often a size can be halved."""
    return (size & -size).bit_length() - 1
