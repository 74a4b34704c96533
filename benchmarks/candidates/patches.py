"""Training on patches: the network learns on squares out of slices, and is used on whole slices.

As in nnU-Net the squares lie anywhere, but those of slices with clot hold a part of it. A network of the
patch's size computes, with the weights of the one for whole slices.
"""

from functools import partial
from typing import Any

import tensorflow as tf

Tensor = Any  # TensorFlow ships no types
Model = Any


class OnPatches:
    """The network for whole slices to all who ask, but for what it computes, and the layers that do so."""

    def __init__(self, whole: Model, small: Model) -> None:
        self._whole, self._small = whole, small
        self.layers = small.layers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def __call__(self, patches: Tensor, training: bool) -> Tensor:
        weights = [weight.value for weight in self._whole.trainable_variables]
        state = [variable.value for variable in self._small.non_trainable_variables]
        return self._small.stateless_call(weights, state, patches, training=training)[0]


def cropped(images: Tensor, masks: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Squares [N, side, side, …] of slices [N, H, W, …] and their masks, at random."""
    count, height = tf.shape(masks)[0], masks.shape[1]
    clot = tf.reshape(masks[..., 0], (count, -1))
    # The largest of random numbers among the pixels with clot is that of any of them.
    pixel = tf.argmax(clot * tf.random.uniform(tf.shape(clot), 0.1), axis=1, output_type=tf.int32)
    place = tf.stack([pixel // height, pixel % height], axis=1)
    held = tf.random.uniform((count, 2), 0, side, tf.int32)
    anywhere = tf.random.uniform((count, 2), 0, height - side + 1, tf.int32)
    has_clot = tf.reduce_any(clot > 0, axis=1)[:, None]
    first = tf.where(has_clot, tf.clip_by_value(place - held, 0, height - side), anywhere)
    both = tf.concat([images, masks], -1)
    squares = tf.map_fn(
        lambda one: tf.slice(one[0], tf.concat([one[1], [0]], 0), (side, side, both.shape[-1])),
        (both, first),
        fn_output_signature=both.dtype,
    )
    squares = tf.ensure_shape(squares, (None, side, side, both.shape[-1]))
    return squares[..., :-1], squares[..., -1:]


def train_on_patches(side: int) -> None:
    """Puts it in the place of clotseg's steps; slices are `side` pixels or more."""
    from clotseg.train import session, step

    builds: list[Any] = []
    build, begin, take = session.build_unet, step.TrainStep.__init__, step.TrainStep._on_replica

    def remembered(config: Any, *, size: int, channels: int, slicing: Any) -> Model:
        builds.append(partial(build, config, size=side, channels=channels, slicing=slicing))
        return build(config, size=size, channels=channels, slicing=slicing)

    def on_patches(self: step.TrainStep, devices: Any, model: Model, *others: Any) -> None:
        begin(self, devices, OnPatches(model, builds[0]()), *others)

    def on_replica(self: step.TrainStep, images: Tensor, masks: Tensor, *others: Any) -> Tensor:
        return take(self, *cropped(images, masks, side), *others)

    session.build_unet = remembered
    step.TrainStep.__init__, step.TrainStep._on_replica = on_patches, on_replica
