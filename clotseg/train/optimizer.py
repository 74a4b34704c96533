"""The optimiser: settings in; a Keras optimiser and the learning rate at each point of the training out."""

import math
from typing import Any

from clotseg.config import TrainConfig, settled

Optimizer = Any  # Keras ships no types
Model = Any

WARMUP_FROM = 0.01
POLYNOMIAL_POWER = 0.9
"""As in nnU-Net (Isensee et al. 2021, Nature Methods 18, supplementary note 4)."""


def make_optimizer(config: TrainConfig, model: Model) -> Optimizer:
    """An optimiser for the network, with its variables made; call it within the strategy's scope.

    SGD has Nesterov's momentum. AdamW is Adam here: its decay is a part of the step.
    """
    import keras

    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(config.learning_rate, momentum=config.momentum, nesterov=True)
    else:
        optimizer = keras.optimizers.Adam(config.learning_rate)
    optimizer.build(model.trainable_variables)
    return optimizer


def learning_rate(config: TrainConfig, epochs_done: float, time_gone: float = 0.0) -> float:
    """The learning rate of a step.

    It rises in a straight line over `warmup_epochs`, from a hundredth, and then follows the schedule over the
    epochs left, or over the time where that will be up sooner.

    Args:
        config: schedule, epochs and highest rate.
        epochs_done: before this step, counted from 0, in fractions.
        time_gone: part of the time limit that is over, 0 to 1; 0 where there is none.
    """
    if epochs_done < config.warmup_epochs:
        return config.learning_rate * (WARMUP_FROM + (1 - WARMUP_FROM) * epochs_done / config.warmup_epochs)
    left = max(settled(config.epochs) - config.warmup_epochs, 1e-9)
    part = min(max((epochs_done - config.warmup_epochs) / left, time_gone), 1.0)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * part)) / 2
    if config.schedule == "polynomial":
        return float(config.learning_rate * (1 - part) ** POLYNOMIAL_POWER)
    return config.learning_rate
