"""Feeding and training: a session in; turns of its feed, of its step alone, and of both together, out."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.dali.feed import Feed, ReplicaBatch
from clotseg.dali.order import EpochPlan, plan_training
from clotseg.train.session import Session
from clotseg.train.step import TrainStep

SAMPLES_A_REPLICA = 100_000


def open_feed(session: Session, *, augmented: bool) -> tuple[Feed, EpochPlan]:
    """The feed of a training's first epoch, but one that goes on for long, with or without augmentation."""
    config, replicas = session.config, session.devices.replicas
    plan = plan_training(
        session.data.training,
        samples=SAMPLES_A_REPLICA * replicas,
        batch_size=session.batch_size,
        replicas=replicas,
        seed=config.train.seed,
        epoch=1,
        clot_share=config.train.clot_share,
    )
    feed = Feed(
        session.data.training,
        plan,
        session.feed,
        augment=config.augment if augmented else None,
        seed=config.train.seed,
        epoch=1,
        replicas=session.local_replicas,
    )
    return feed, plan


def dali_turns(feed: Feed) -> Iterator[int]:
    """Takes what DALI makes and lets it go."""
    for _ in range(feed.runs):
        yield sum(len(outputs[2]) for outputs, _ in feed.take_run())


def feed_turns(feed: Feed) -> Iterator[int]:
    """Takes batches of tensors and lets them go; DALI makes several at a time, which are one turn."""
    slices = 0
    for number, batches in enumerate(feed, start=1):
        slices += sum(len(batch.uids) for batch in batches)
        if number % feed.steps_a_run == 0:
            yield slices
            slices = 0


def constant_turns(session: Session) -> Iterator[int]:
    """Steps on one batch again and again, which costs no input."""
    feed, plan = open_feed(session, augmented=False)
    kept = [keep(batch) for batch in next(iter(feed))]
    del feed
    slices = sum(len(batch.uids) for batch in kept)
    weights = plan.weights[0, session.local_part]
    for _ in take_steps(session.train_step, repeat(kept), repeat(weights)):
        yield slices


def training_turns(session: Session, *, augmented: bool) -> Iterator[int]:
    """Steps on the feed's batches, as training takes them."""
    feed, plan = open_feed(session, augmented=augmented)
    weights = plan.weights[:, session.local_part]
    for _ in take_steps(session.train_step, feed, weights):
        yield weights[0].size


def keep(batch: ReplicaBatch) -> ReplicaBatch:
    """A copy that does not hold on to DALI's memory."""
    import tensorflow as tf

    images, masks = tf.identity(batch.images), tf.identity(batch.masks)
    return ReplicaBatch(images=images, masks=masks, uids=batch.uids, parameters=[])


def take_steps(
    step: TrainStep, batches: Iterable[Sequence[ReplicaBatch]], weights: Iterable[NDArray[np.float32]]
) -> Iterator[None]:
    """Takes steps as the loop does: one is started before the loss of the one before is read.

    Args:
        step: takes them.
        batches: for each step one a replica.
        weights: for each step as `TrainStep` takes them.

    Yields:
        Whenever a step has been computed.
    """
    in_flight: list[tuple[Any, Any]] = []
    for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        in_flight.append((step(batch, weight, number=number), batch))
        if len(in_flight) > 1:
            in_flight.pop(0)[0].numpy()
            yield
    if in_flight:
        in_flight.pop()[0].numpy()
        yield
