"""Losses: probabilities and masks in; a scalar to minimise out. Sums come first: replicas can add them up."""

from typing import Any

Tensor = Any  # TensorFlow ships no types


def dice_sums(probability: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """What soft Dice needs of a batch, summed over its slices: float32 [2], overlap and total.

    Args:
        probability: float32 [N, H, W, 1].
        masks: float32 [N, H, W, 1] of 0 and 1.
        weights: float32 [N]; a slice of weight 0 does not count.
    """
    import tensorflow as tf

    over_pixels = (1, 2, 3)
    overlap = tf.reduce_sum(probability * masks, over_pixels)
    total = tf.reduce_sum(probability, over_pixels) + tf.reduce_sum(masks, over_pixels)
    return tf.stack([tf.reduce_sum(overlap * weights), tf.reduce_sum(total * weights)])


def soft_dice_loss(sums: Tensor, smooth: float) -> Tensor:
    """1 − (2 · overlap + smooth) / (total + smooth), over all slices of the sums together.

    Soft Dice as in Milletari et al. 2016 (V-Net), with plain rather than squared probabilities. Without any
    clot and with nothing predicted it is 0.
    """
    return 1.0 - (2.0 * sums[0] + smooth) / (sums[1] + smooth)
