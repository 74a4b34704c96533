"""Networks that might take the U-Net's place: settings and a shape in; a Keras model out.

Every model takes slices float32 [N, size, size, channels] and gives clot probability [N, size, size, 1], as
the U-Net does; with `supervised`, and while it is trained, the answers of coarser levels as further channels.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from clotseg.config import NetworkConfig, SliceConfig
from clotseg.train.unet import NORM_EPSILON, folded, in_further_windows, normed, unfolded

Tensor = Any  # TensorFlow and Keras ship no types


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a network is built of.

    Attributes:
        block: `plain` as the U-Net of ct-clotseg; `standard` two times convolution, norm, activation;
            `residual` the same with the input added; `convnext` after Liu et al. 2022.
        group_norm: normalises groups of eight channels, in the place of the norm of the settings.
        up: how a level takes in the one below: `concat` as it is, `narrow` after a 1×1 convolution to its
            own width, `add` after the same, added to what was skipped.
        mirror: where the slice mirrored left to right is looked at beside it: nowhere, `input`, or `centre`
            for the features of the coarsest level.
        supervised: on how many coarser levels an answer is asked for as well (deep supervision).
        leaky: activations are leaky ReLU with slope 0.01.
        refined: filters of a last convolution at full resolution, over what was unfolded and the slice.
        difference: whether CTA minus NCCT is a channel, too.
        stages: 2 for a network that says where the clot may be, from squares of four pixels a side, and a
            second one that is told; both are asked for an answer.
        crop: side in pixels of the square, around where the first network sees most, that the second one is
            given at full resolution; its answer holds there, and that of the first elsewhere. 0 for all.
    """

    block: str = "plain"
    group_norm: bool = False
    up: str = "concat"
    mirror: str = ""
    supervised: int = 0
    leaky: bool = False
    refined: int = 0
    difference: bool = False
    stages: int = 1
    crop: int = 0


class WithDifference(keras.layers.Layer):
    """CTA and NCCT, and as a third channel CTA minus NCCT."""

    def call(self, slices: Tensor) -> Tensor:
        return tf.concat([slices, slices[..., :1] - slices[..., 1:2]], -1)


class WithMirrored(keras.layers.Layer):
    """Features, and those of the other side at the same place as further channels."""

    def call(self, features: Tensor) -> Tensor:
        return tf.concat([features, tf.reverse(features, [2])], -1)


class SquareAround(keras.layers.Layer):
    """Where the square of a side with the most probability lies: `rows` and `columns`, int32 [N, side]."""

    def __init__(self, side: int, **options: Any) -> None:
        super().__init__(**options)
        self._side = side

    def call(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        # What lies in the middle of the square counts, not its rim: the clot may grow in the second stage.
        middle = self._side // 2
        near = tf.nn.avg_pool2d(tf.stop_gradient(tf.cast(probability, tf.float32)), middle, 1, "SAME")
        size = probability.shape[1]
        best = tf.argmax(tf.reshape(near, (-1, size * size)), -1, tf.int32)
        return self._steps(best // size, size), self._steps(best % size, size)

    def _steps(self, centre: Tensor, size: int) -> Tensor:
        first = tf.clip_by_value(centre - self._side // 2, 0, size - self._side)
        return first[:, None] + tf.range(self._side)


class Cut(keras.layers.Layer):
    """Slices [N, size, size, C] and where; what lies there, [N, side, side, C]."""

    def call(self, slices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return tf.gather(tf.gather(slices, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


class PutBack(keras.layers.Layer):
    """An answer for slices [N, size, size, 1], with that for squares [N, side, side, 1] in its place."""

    def call(self, whole: Tensor, square: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        of_rows, of_columns = (tf.one_hot(at, whole.shape[1]) for at in (rows, columns))
        put = tf.einsum("nrs,nrc,nct->nst", of_rows, square[..., 0], of_columns)[..., None]
        inside = tf.reduce_sum(of_rows, 1)[:, :, None, None] * tf.reduce_sum(of_columns, 1)[:, None, :, None]
        return whole * (1 - inside) + put


class OnlyFirst(keras.layers.Layer):
    """What is told outside of training: the first channel."""

    def call(self, answers: Tensor, training: bool = False) -> Tensor:
        return answers if training else answers[..., :1]


class Builder:
    """Adds layers as a shape and the settings want them."""

    def __init__(self, config: NetworkConfig, shape: Shape) -> None:
        self._config, self._shape = config, shape

    def network(self, size: int, channels: int, slicing: SliceConfig | None) -> Any:
        config, shape = self._config, self._shape
        image = keras.Input((size, size, channels), name="slices")
        features, answers = in_further_windows(image, config, slicing), []
        if shape.mirror == "input":
            features = WithMirrored()(features)
        if shape.difference:
            features = WithDifference()(features)
        if shape.stages == 2:
            coarse = self._decoded(features, 2 * config.fold, answers)
            answers.append(self._answer(coarse, 2 * config.fold))
            features = keras.layers.Concatenate()([features, answers[-1]])
            if shape.crop:
                answers.insert(0, self._refined_within(features, answers[-1]))
                return keras.Model(image, OnlyFirst()(keras.layers.Concatenate()(answers)), name="unet")
        decoded = self._decoded(features, config.fold, answers)
        if shape.refined:
            decoded = self._convolved(decoded, shape.refined * config.fold**2, 1)
            decoded = unfolded(decoded, config.fold)
            decoded = keras.layers.Concatenate()([decoded, image])
            decoded = self._activated(self._normed(self._convolved(decoded, shape.refined)))
        answer = self._answer(decoded, 1 if shape.refined else config.fold)
        if answers:
            answer = OnlyFirst()(keras.layers.Concatenate()([answer, *reversed(answers)]))
        return keras.Model(image, answer, name="unet")

    def _refined_within(self, features: Tensor, coarse: Tensor) -> Tensor:
        """The answer of the first stage, and within a square that of a second one at full resolution."""
        rows, columns = SquareAround(min(self._shape.crop, features.shape[1]))(coarse)
        square = self._answer(self._decoded(Cut()(features, rows, columns), 1, []))
        return PutBack(dtype="float32")(coarse, square, rows, columns)

    def _decoded(self, pixels: Tensor, fold: int, answers: list[Tensor]) -> Tensor:
        """Features of the first level, on the way up; adds the answers of coarser levels to the list."""
        config, shape = self._config, self._shape
        halvings = config.depth - int(math.log2(fold))
        features, skipped = folded(pixels, fold), []
        for level in range(halvings):
            features = self._level(features, config.filters * 2**level)
            skipped.append(features)
            features = keras.layers.MaxPooling2D()(features)
        if shape.mirror == "centre":
            features = WithMirrored()(features)
        features = self._centre(features, config.filters * 2**halvings)
        for level in reversed(range(halvings)):
            features = self._level(self._joined(features, skipped[level]), config.filters * 2**level)
            if 0 < level <= shape.supervised:
                answers.append(keras.layers.UpSampling2D(2**level * fold)(self._answer(features)))
        return features

    def _answer(self, features: Tensor, fold: int = 1) -> Tensor:
        odds = self._config.initial_probability / (1 - self._config.initial_probability)
        prior = keras.initializers.Constant(math.log(odds))
        logits = keras.layers.Conv2D(fold * fold, 1, bias_initializer=prior, dtype="float32")(features)
        return keras.layers.Activation("sigmoid", dtype="float32")(unfolded(logits, fold))

    def _joined(self, below: Tensor, skipped: Tensor) -> Tensor:
        if self._shape.up != "concat":
            below = self._convolved(below, skipped.shape[-1], 1)
        below = keras.layers.UpSampling2D()(below)
        if self._shape.up == "add":
            return keras.layers.Add()([below, skipped])
        return keras.layers.Concatenate()([below, skipped])

    def _level(self, features: Tensor, filters: int) -> Tensor:
        dropout = keras.layers.Dropout(self._config.dropout)
        block = self._shape.block
        if block == "plain":
            features = dropout(self._normed(self._activated(self._convolved(features, filters))))
            return self._normed(self._convolved(features, filters))
        if block == "convnext":
            if features.shape[-1] != filters:
                features = self._convolved(features, filters, 1)
            inner = keras.layers.DepthwiseConv2D(5, padding="same")(features)
            inner = keras.layers.LayerNormalization(epsilon=1e-6)(inner)
            inner = self._convolved(
                keras.layers.Activation("gelu")(self._convolved(inner, 4 * filters, 1)), filters, 1
            )
            return keras.layers.Add()([features, dropout(inner)])
        inner = dropout(self._activated(self._normed(self._convolved(features, filters))))
        inner = self._normed(self._convolved(inner, filters))
        if block == "residual":
            if features.shape[-1] != filters:
                features = self._convolved(features, filters, 1)
            inner = keras.layers.Add()([features, inner])
        return self._activated(inner)

    def _centre(self, features: Tensor, filters: int) -> Tensor:
        if self._shape.block != "plain":
            return self._level(features, filters)
        for kernel in (3, 3, 1, 1):
            features = self._normed(self._activated(self._convolved(features, filters, kernel)))
        return features

    def _convolved(self, features: Tensor, filters: int, kernel: int = 3) -> Tensor:
        decay = keras.regularizers.L2(self._config.l2) if self._config.l2 else None
        return keras.layers.Conv2D(filters, kernel, padding="same", kernel_regularizer=decay)(features)

    def _activated(self, features: Tensor) -> Tensor:
        layer = keras.layers.LeakyReLU(0.01) if self._shape.leaky else keras.layers.ReLU()
        return layer(features)

    def _normed(self, features: Tensor) -> Tensor:
        if self._shape.group_norm:
            groups = max(1, features.shape[-1] // 8)
            return keras.layers.GroupNormalization(groups, epsilon=NORM_EPSILON)(features)
        return normed(features, self._config)


def build(
    config: NetworkConfig, *, size: int, channels: int, shape: Shape, slicing: SliceConfig | None = None
) -> Any:
    """Takes the place of `build_unet`."""
    return Builder(config, shape).network(size, channels, slicing)
