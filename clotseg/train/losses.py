"""Losses: probabilities and masks in; a scalar to minimise out. Sums come first: replicas can add them up."""

from typing import Any

from clotseg.config import TrainConfig

Tensor = Any  # TensorFlow ships no types

SMALLEST_PROBABILITY = 1e-7
"""Below it the logarithm is cut off."""


def batch_sums(probability: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """What the losses need of a batch, summed over its slices.

    Args:
        probability: float32 [N, H, W, 1].
        masks: float32 [N, H, W, 1] of 0 and 1.
        weights: float32 [N]; a slice of weight 0 does not count.

    Returns:
        float32 [4]: overlap of probability and mask, total of both, cross-entropy, pixels.
    """
    import tensorflow as tf

    over_pixels = (1, 2, 3)
    overlap = tf.reduce_sum(probability * masks, over_pixels)
    total = tf.reduce_sum(probability, over_pixels) + tf.reduce_sum(masks, over_pixels)
    within = tf.clip_by_value(probability, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    entropy = -tf.reduce_sum(masks * tf.math.log(within) + (1 - masks) * tf.math.log(1 - within), over_pixels)
    pixels = tf.fill(tf.shape(weights), tf.cast(tf.size(masks[0]), tf.float32))
    return tf.stack([tf.reduce_sum(part * weights) for part in (overlap, total, entropy, pixels)])


def loss_of(sums: Tensor, config: TrainConfig) -> Tensor:
    """The loss of all slices of the sums together.

    Soft Dice is 1 − (2 · overlap + smooth) / (total + smooth), as in Milletari et al. 2016 (V-Net), with
    plain rather than squared probabilities; without any clot and with nothing predicted it is 0. Where the
    settings ask for it the mean cross-entropy of a pixel is added, in nats (as in nnU-Net, Isensee et al.
    2021); with no slice that counts that is 0.
    """
    import tensorflow as tf

    dice = 1.0 - (2.0 * sums[0] + config.dice_smooth) / (sums[1] + config.dice_smooth)
    if config.loss == "dice":
        return dice
    return dice + tf.math.divide_no_nan(sums[2], sums[3])
