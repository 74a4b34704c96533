"""One step: a batch for each replica in; updated weights and the loss, or pixel counts for Dice, out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import TrainConfig
from clotseg.dali.feed import ReplicaBatch
from clotseg.train.losses import dice_sums, soft_dice_loss
from clotseg.train.unet import Model

Tensor = Any  # TensorFlow ships no types
Strategy = Any

TrainStep = Callable[[Sequence[ReplicaBatch], NDArray[np.float32]], Tensor]
CountStep = Callable[[Sequence[ReplicaBatch]], NDArray[np.int64]]


def make_train_step(strategy: Strategy, model: Model, optimizer: Any, config: TrainConfig) -> TrainStep:
    """A function that takes one optimiser step on a global batch.

    The loss is soft Dice over the global batch: the replicas add up their sums before it is formed, so it
    does not depend on how many they are. Batch normalisation uses each replica's own statistics.

    Returns:
        A function of the replicas' batches and weights [replicas, N] that gives the soft Dice loss, a scalar
        tensor that may not have been computed yet.
    """
    import tensorflow as tf

    replicas = strategy.num_replicas_in_sync

    def on_replica(images: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            sums = dice_sums(model(images, training=True), masks, weights)
            sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
            loss = soft_dice_loss(sums, config.dice_smooth)
            # Each replica holds the whole loss, and the optimiser adds their gradients up.
            objective = (loss + tf.add_n(model.losses)) / replicas
        gradients = tape.gradient(objective, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function  # type: ignore[untyped-decorator]
    def on_all(images: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        losses = strategy.run(on_replica, args=(images, masks, weights))
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

    def step(batches: Sequence[ReplicaBatch], weights: NDArray[np.float32]) -> Tensor:
        return on_all(
            _distributed(strategy, [batch.images for batch in batches]),
            _distributed(strategy, [batch.masks for batch in batches]),
            _distributed(strategy, [tf.constant(row) for row in weights]),
        )

    return step


def make_count_step(strategy: Strategy, model: Model, threshold: float) -> CountStep:
    """A function that counts, for each slice, what Dice needs.

    Returns:
        A function of the replicas' batches that gives int64 [replicas · N, 3]: pixels in both prediction and
        mask, in the prediction, in the mask.
    """
    import tensorflow as tf

    def on_replica(images: Tensor, masks: Tensor) -> Tensor:
        predicted = model(images, training=False) >= threshold
        truth = masks > 0
        parts = (tf.logical_and(predicted, truth), predicted, truth)
        return tf.stack([tf.reduce_sum(tf.cast(part, tf.int64), (1, 2, 3)) for part in parts], axis=-1)

    @tf.function  # type: ignore[untyped-decorator]
    def on_all(images: Tensor, masks: Tensor) -> Tensor:
        return strategy.run(on_replica, args=(images, masks))

    def step(batches: Sequence[ReplicaBatch]) -> NDArray[np.int64]:
        counts = on_all(
            _distributed(strategy, [batch.images for batch in batches]),
            _distributed(strategy, [batch.masks for batch in batches]),
        )
        return np.concatenate([part.numpy() for part in strategy.experimental_local_results(counts)])

    return step


def _distributed(strategy: Strategy, tensors: Sequence[Tensor]) -> Any:
    """The tensors as one value with a part on each replica."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tensors[context.replica_id_in_sync_group]
    )
