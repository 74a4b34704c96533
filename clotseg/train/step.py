"""One step: a batch for each replica in; updated weights and the loss, or pixel counts for Dice, out.

What a step does depends on the global batch and the number of the step alone, but for rounding and for what
is local to a replica by choice: its batch statistics and its dropout.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clotseg.config import TrainConfig
from clotseg.dali.feed import ReplicaBatch
from clotseg.train.devices import Devices
from clotseg.train.losses import batch_sums, loss_of
from clotseg.train.unet import Model

Tensor = Any  # TensorFlow ships no types
Strategy = Any


class StepResult(NamedTuple):
    """What a step tells, the same on every worker.

    Attributes:
        loss: of the global batch, before the step.
        gradient_norm: of all gradients together, before they are cut.
        stops: how many replicas had been asked to stop.
    """

    loss: float
    gradient_norm: float
    stops: float

    @classmethod
    def of(cls, told: Tensor) -> "StepResult":
        """Waits for the step and reads what it told."""
        return cls(*(float(value) for value in told.numpy()))


class TrainStep:
    """Takes training steps on global batches.

    Gradients of all replicas are added up, and of `accumulate` batches averaged, before they are cut to
    `clip_norm` and applied. Dropout draws from a stream of its own for each step, layer and replica, so that
    nothing but the number of the step need be known to go on. Running batch statistics are averaged over
    replicas after each step.

    Args:
        devices: where.
        model: the network that learns.
        averaged: a network of the same shape that is given the moving average of all weights, or None.
        optimizer: whose variables are made.
        config: loss, accumulation, clipping, averaging.
    """

    def __init__(
        self, devices: Devices, model: Model, averaged: Model | None, optimizer: Any, config: TrainConfig
    ) -> None:
        import tensorflow as tf

        self._devices, self._config = devices, config
        self._model, self._averaged, self._optimizer = model, averaged, optimizer
        self._dropout = [layer.seed_generator for layer in model.layers if hasattr(layer, "seed_generator")]
        with devices.strategy.scope():
            self._gradients = [
                tf.Variable(tf.zeros(weight.shape), trainable=False)
                for weight in (model.trainable_variables if config.accumulate > 1 else [])
            ]
        compiled = tf.function(autograph=False, jit_compile=True if config.xla else None)
        self._on_all = compiled(self._run)

    @property
    def variables(self) -> list[Any]:
        """What it keeps from one batch to the next beside network and optimiser."""
        return list(self._gradients)

    def __call__(
        self,
        batches: Sequence[ReplicaBatch],
        weights: NDArray[np.float32],
        *,
        number: int,
        stop: bool = False,
    ) -> Tensor:
        """Takes a step, or adds a batch to one.

        Args:
            batches: one for each replica of this process.
            weights: float32 [replicas of this process, N], 0 for a slice that does not count.
            number: of the batch, counted from 0 over the whole training.
            stop: whether this process has been asked to stop.

        Returns:
            float32 [3], a tensor that may not have been computed yet: see `StepResult`.
        """
        import tensorflow as tf

        last = (number + 1) % self._config.accumulate == 0
        return self._on_all(
            _distributed(self._devices, [batch.images for batch in batches]),
            _distributed(self._devices, [batch.masks for batch in batches]),
            _distributed(self._devices, [tf.constant(row) for row in weights]),
            tf.constant(number, tf.int64),
            tf.constant(float(stop)),
            last,
        )

    def _run(
        self, images: Tensor, masks: Tensor, weights: Tensor, number: Tensor, stop: Tensor, last: bool
    ) -> Tensor:
        strategy = self._devices.strategy
        told = strategy.run(self._on_replica, args=(images, masks, weights, number, stop, last))
        return strategy.experimental_local_results(told)[0]

    def _on_replica(
        self, images: Tensor, masks: Tensor, weights: Tensor, number: Tensor, stop: Tensor, last: bool
    ) -> Tensor:
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        add_up = tf.distribute.ReduceOp.SUM
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        self._seed_dropout(number * context.num_replicas_in_sync + replica)
        with tf.GradientTape() as tape:
            sums = batch_sums(self._model(images, training=True), masks, weights)
            sums = context.all_reduce(add_up, tf.concat([sums, [stop]], axis=0))
            loss = loss_of(sums, self._config)
            # Each replica holds the whole loss, and their gradients are added up.
            decay = tf.add_n(self._model.losses) if self._model.losses else 0.0
            objective = (loss + decay) / context.num_replicas_in_sync
        gradients = context.all_reduce(add_up, tape.gradient(objective, self._model.trainable_variables))
        if self._gradients:
            gradients = [sofar + new for sofar, new in zip(self._gradients, gradients, strict=True)]
        statistics: list[Tensor] = []
        # A network without batch norm has none.
        if context.num_replicas_in_sync > 1 and self._model.non_trainable_weights:
            own = _values(self._model.non_trainable_weights)
            statistics = context.all_reduce(tf.distribute.ReduceOp.MEAN, own)
        if last and self._gradients:
            gradients = [gradient / self._config.accumulate for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        if last and self._config.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._config.clip_norm, use_norm=norm)
        context.merge_call(self._update, args=(gradients, statistics), kwargs={"last": last})
        return tf.stack([loss, norm, sums[-1]])

    def _seed_dropout(self, stream: Tensor) -> None:
        import tensorflow as tf

        for layer, generator in enumerate(self._dropout):
            state = tf.stack([tf.cast(layer, tf.int64) + self._config.seed, stream])
            generator.state.assign(tf.cast(state, generator.state.dtype))

    def _update(
        self, strategy: Strategy, gradients: list[Tensor], statistics: list[Tensor], *, last: bool
    ) -> None:
        """Applies gradients, and statistics where there are several replicas; they are the same on each."""
        update = strategy.extended.update
        averaged = self._model.non_trainable_weights if statistics else []
        for weight, value in zip(averaged, statistics, strict=True):
            update(weight.value, lambda variable, new: variable.assign(new), args=(value,))
        if not last:
            for sofar, value in zip(self._gradients, gradients, strict=True):
                update(sofar, lambda variable, new: variable.assign(new), args=(value,))
            return
        optimizer, decayed = self._optimizer, self._config.optimizer == "adamw"
        for weight, gradient in zip(self._model.trainable_variables, gradients, strict=True):
            decay = self._config.weight_decay if decayed and weight.path.endswith("kernel") else 0.0
            update(weight.value, partial(_apply, optimizer, decay), args=(gradient,), group=False)
        optimizer.iterations.assign_add(1)
        for sofar in self._gradients:
            update(sofar, lambda variable: variable.assign(variable * 0))
        if self._averaged is not None:
            self._average(update)

    def _average(self, update: Callable[..., Any]) -> None:
        """Moves the averaged network a part of the way to the one that learns.

        The part begins large, as in TensorFlow's ExponentialMovingAverage, so that the average soon leaves
        the fresh weights behind.
        """
        import tensorflow as tf

        assert self._averaged is not None
        steps = tf.cast(self._optimizer.iterations, tf.float32)
        part = 1 - tf.minimum(self._config.ema_decay, (1 + steps) / (10 + steps))
        for average, weight in zip(self._averaged.weights, self._model.weights, strict=True):
            update(
                average.value,
                lambda variable, new: variable.assign_sub(part * (variable - new)),
                args=(weight.value,),
            )


def _apply(optimizer: Any, decay: float, variable: Any, gradient: Tensor) -> None:
    """Updates a weight on one device.

    Keras's own `apply_gradients` would add up over the replicas what has been added up already. The decay is
    that of AdamW (Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization).
    """
    rate = optimizer.learning_rate.value
    if decay:
        variable.assign_sub(variable * (decay * rate))
    optimizer.update_step(gradient, variable, rate)


CountStep = Callable[[Sequence[ReplicaBatch]], NDArray[np.int64]]


def make_count_step(devices: Devices, model: Model, threshold: float) -> CountStep:
    """A function that counts, for each slice, what Dice needs.

    Returns:
        A function of the batches of this process's replicas that gives int64 [replicas · N, 3]: pixels in
        both prediction and mask, in the prediction, in the mask.
    """
    import tensorflow as tf

    strategy = devices.strategy

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
            _distributed(devices, [batch.images for batch in batches]),
            _distributed(devices, [batch.masks for batch in batches]),
        )
        return np.concatenate([part.numpy() for part in strategy.experimental_local_results(counts)])

    return step


def sum_over_workers(devices: Devices, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of what each worker has counted, of the same shape everywhere."""
    import tensorflow as tf

    if devices.workers == 1:
        return counts

    def on_replica(part: Tensor) -> Tensor:
        # Copied, as an argument has no device, and several workers could not add that up.
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(part))

    @tf.function  # type: ignore[untyped-decorator]
    def on_all(parts: Tensor) -> Tensor:
        return devices.strategy.run(on_replica, args=(parts,))

    # The first replica of a worker brings the worker's counts.
    parts = [counts, *[np.zeros_like(counts)] * (len(devices.gpus) - 1)]
    told = on_all(_distributed(devices, [tf.constant(part) for part in parts]))
    total: NDArray[np.int64] = devices.strategy.experimental_local_results(told)[0].numpy()
    return total


def _values(variables: Sequence[Any]) -> list[Tensor]:
    import tensorflow as tf

    # Copied, since what is read from a variable has no device, and several workers cannot add that up.
    return [tf.identity(tf.convert_to_tensor(variable.value)) for variable in variables]


def _distributed(devices: Devices, tensors: Sequence[Tensor]) -> Any:
    """The tensors as one value with a part on each replica of this process."""
    return devices.strategy.experimental_distribute_values_from_function(
        lambda context: tensors[context.replica_id_in_sync_group - devices.first_replica]
    )
