"""One training step and one count, for one replica or several.

How many replicas the CPU is shared out to is settled once a process, so several run in a process of their
own: `python -m tests.train.replica_steps REPLICAS OUT.npz`.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import NetworkConfig, RuntimeConfig, TrainConfig
from clotseg.dali.feed import ReplicaBatch
from clotseg.train.devices import Devices, open_devices
from clotseg.train.step import StepResult, TrainStep, make_count_step
from clotseg.train.unet import build_unet
from tests.train.conftest import SIZE, random_slices

SLICES = 4
WEIGHTS = np.float32([1, 1, 1, 0])
THRESHOLD = 0.5
PLAIN = TrainConfig(optimizer="sgd", loss="dice", clip_norm=0, ema_decay=0)
"""Steps of plain descent on soft Dice alone."""


def masks() -> NDArray[np.float32]:
    """The first half of the batch has much clot, the second little: replicas that kept their Dice to
    themselves would lose otherwise."""
    random = np.random.default_rng(2).random((SLICES, SIZE, SIZE, 1))
    return (random < np.array([0.5, 0.4, 0.02, 0.3]).reshape(-1, 1, 1, 1)).astype(np.float32)


def images(*, twins: bool) -> NDArray[np.float32]:
    """Four slices; twins have the first half again as the second.

    Batch norm takes each replica's own statistics. Only where both halves have the same, as twins do, can
    two replicas be held against one that sees them all.
    """
    halves = random_slices(SLICES)
    return np.concatenate([halves[:2]] * 2) if twins else halves


def batches(replicas: int, slices: NDArray[np.float32]) -> list[ReplicaBatch]:
    """The global batch, shared out."""
    import tensorflow as tf

    return [
        ReplicaBatch(
            images=tf.constant(part), masks=tf.constant(mask), uids=np.arange(len(part)), parameters=[]
        )
        for part, mask in zip(np.split(slices, replicas), np.split(masks(), replicas), strict=True)
    ]


def observe(devices: Devices) -> dict[str, NDArray[Any]]:
    """Loss and weights of one step without dropout, and counts with the probabilities they come from."""
    import keras

    replicas = devices.replicas
    keras.utils.set_random_seed(3)
    with devices.strategy.scope():
        model = build_unet(
            NetworkConfig(initial_probability=0.5, filters=4, depth=2, dropout=0), size=SIZE, channels=2
        )
        # Plain descent: Adam's first step has the sign of each gradient, however small, so rounding shows.
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
    different = images(twins=False)
    counts = make_count_step(devices, model, THRESHOLD)(batches(replicas, different))
    probability = np.concatenate(
        [np.asarray(model(part, training=False)) for part in np.split(different, replicas)]
    )
    before = [np.array(weight) for weight in model.get_weights()]
    step = TrainStep(devices, model, None, optimizer, PLAIN)
    told = step(batches(replicas, images(twins=True)), WEIGHTS.reshape(replicas, -1), number=0)
    loss = StepResult.of(told).loss
    after = {f"after-{number:03d}": np.array(weight) for number, weight in enumerate(model.get_weights())}
    moved = max(np.abs(after[f"after-{n:03d}"] - weight).max() for n, weight in enumerate(before))
    return {
        "loss": np.asarray(loss),
        "counts": counts,
        "probability": probability,
        "moved": np.asarray(moved),
        **after,
    }


if __name__ == "__main__":
    devices = open_devices(RuntimeConfig(gpus=0, replicas=int(sys.argv[1])))
    facts = {"devices": np.asarray(str(devices)), "replicas": np.asarray(devices.replicas)}
    np.savez(sys.argv[2], **facts, **observe(devices))
