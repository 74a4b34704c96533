"""Losses that might take the place of soft Dice + cross-entropy: sums of a batch, and what is made of them.

Each has the signature of `clotseg.train.losses`: sums over slices come first, as replicas add them up. The
channels of `probability` behind the first are the answers of coarser levels (see `networks.Shape`).
"""

from typing import Any

import tensorflow as tf

from clotseg.config import TrainConfig

Tensor = Any  # TensorFlow ships no types

PARTS = 8
SMALLEST = 1e-7
FURTHEST = 8
"""Pixels; distances beyond count as this one."""


def batch_sums(probability: Tensor, masks: Tensor, weights: Tensor, *, kind: str) -> Tensor:
    """float32 [answers · PARTS]: for each answer overlap, predicted, truth, cross-entropy, focal
    cross-entropy, the soft Dice of slices with clot, their number, and probability times distance from the
    clot, where the kind of loss needs that; at the very end the pixels."""
    sums = []
    distance = _distance(masks) if kind == "boundary" else tf.zeros_like(masks)
    for answer in tf.split(probability, probability.shape[-1], -1):
        over = (1, 2, 3)
        overlap, predicted = tf.reduce_sum(answer * masks, over), tf.reduce_sum(answer, over)
        truth = tf.reduce_sum(masks, over)
        right = right_probability(answer, masks)
        entropy = -tf.math.log(right)
        has_clot = tf.cast(truth > 0, tf.float32)
        dice = has_clot * (2 * overlap + 1) / (predicted + truth + 1)
        focal = tf.reduce_sum((1 - right) ** 2 * entropy, over)
        away = has_clot * tf.reduce_sum(answer * distance, over)
        parts = (overlap, predicted, truth, tf.reduce_sum(entropy, over), focal, dice, has_clot, away)
        sums += [tf.reduce_sum(part * weights) for part in parts]
    return tf.stack([*sums, tf.reduce_sum(weights) * tf.cast(tf.size(masks[0]), tf.float32)])


def right_probability(probability: Tensor, masks: Tensor) -> Tensor:
    """What each pixel was given for what it is; its negative logarithm is the cross-entropy."""
    return tf.clip_by_value(masks * probability + (1 - masks) * (1 - probability), SMALLEST, 1 - SMALLEST)


def _distance(masks: Tensor) -> Tensor:
    """Signed distance from the clot's border in chessboard pixels over `FURTHEST`, negative inside."""
    wider, narrower, distance = masks, masks, tf.zeros_like(masks)
    for _ in range(FURTHEST):
        distance += (1 - wider - narrower) / FURTHEST
        wider = tf.nn.max_pool2d(wider, 3, 1, "SAME")
        narrower = 1 - tf.nn.max_pool2d(1 - narrower, 3, 1, "SAME")
    return distance


def _loss(parts: Tensor, pixels: Tensor, config: TrainConfig, kind: str) -> Tensor:
    overlap, predicted, truth, entropy, focal, slice_dice, clots, away = tf.unstack(parts)
    entropy, focal = tf.math.divide_no_nan(entropy, pixels), tf.math.divide_no_nan(focal, pixels)
    dice = 1 - (2 * overlap + config.dice_smooth) / (predicted + truth + config.dice_smooth)
    if kind == "focal Tversky":
        # Abraham & Khan 2019, with their alpha (misses) 0.7, beta 0.3 and gamma 4/3.
        missed, false = truth - overlap, predicted - overlap
        index = (overlap + 1) / (overlap + 0.7 * missed + 0.3 * false + 1)
        return (1 - index) ** 0.75 + entropy
    if kind == "focal entropy":
        return dice + focal
    if kind == "slice Dice":
        return 0.5 * dice + 0.5 * (1 - tf.math.divide_no_nan(slice_dice, clots)) + entropy
    if kind == "boundary":
        # Kervadec et al. 2019, with a weight that stays as it is; the mean is over all pixels, as theirs.
        return dice + entropy + tf.math.divide_no_nan(away, pixels)
    if kind == "ten times the entropy":
        return dice + 10 * entropy
    return dice + entropy


def loss_of(sums: Tensor, config: TrainConfig, *, kind: str) -> Tensor:
    """The loss: of the first answer, and each coarser one counting half as much as the one before."""
    answers = (sums.shape[0] - 1) // PARTS
    pixels = sums[answers * PARTS]
    shares = [0.5**level for level in range(answers)]
    losses = [
        share * _loss(sums[level * PARTS : (level + 1) * PARTS], pixels, config, kind)
        for level, share in enumerate(shares)
    ]
    return tf.add_n(losses) / sum(shares)
