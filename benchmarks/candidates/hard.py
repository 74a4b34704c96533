"""Slices that were hard the last time come up more often (Shrivastava et al. 2016 mine hard examples alike).

The first epoch is as it always is. From the second on, slices with clot that fill a batch up, and one in two
of those without, are drawn with a probability in proportion to the cross-entropy that they last had.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from .losses import right_probability

Tensor = Any  # TensorFlow ships no types

LEAST = 0.1
"""Of the mean: no slice is drawn more seldom than one that is so hard."""


class Hardness:
    """The cross-entropy that each record had when it was last trained on; one device only."""

    def __init__(self) -> None:
        self._of_batch = tf.Variable([0.0], shape=tf.TensorShape([None]), trainable=False)
        self._of_record: dict[int, float] = {}

    def see(self, probability: Tensor, masks: Tensor) -> None:
        """Within a step."""
        right = right_probability(probability, masks)
        self._of_batch.assign(-tf.reduce_sum(tf.math.log(right), (1, 2, 3)))

    def remember(self, uids: NDArray[np.int64]) -> None:
        """After it."""
        self._of_record.update(zip(uids.ravel().tolist(), self._of_batch.numpy().tolist(), strict=True))

    def drawn(self, uids: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
        """`count` of the records, the hard ones more often."""
        known = [self._of_record[uid] for uid in uids.tolist() if uid in self._of_record]
        mean = float(np.mean(known)) if known else 1.0
        weights = np.array([max(self._of_record.get(uid, mean), LEAST * mean) for uid in uids.tolist()])
        return random.choice(uids, count, p=weights / weights.sum())

    def order(
        self,
        plain: NDArray[np.int64],
        filled: NDArray[np.int64],
        has_clot: NDArray[np.bool_],
        random: np.random.Generator,
    ) -> NDArray[np.int64]:
        """The order that an epoch would have, with hard slices in it.

        Args:
            plain: before batches were filled up with clots.
            filled: after that.
            has_clot: of each record.
            random: what it is drawn from.
        """
        if not self._of_record:
            return filled
        harder = filled.copy()
        added = np.flatnonzero(filled != plain)
        harder[added] = self.drawn(np.flatnonzero(has_clot), len(added), random)
        free = np.flatnonzero(~has_clot[filled])
        free = free[random.random(len(free)) < 0.5]
        harder[free] = self.drawn(np.flatnonzero(~has_clot), len(free), random)
        return harder


def draw_hard_slices() -> None:
    """Puts it in the place of clotseg's order."""
    from clotseg.dali import order
    from clotseg.train import loop, step

    hardness = Hardness()
    filled, summed, walk = order._with_clot, step.batch_sums, loop.EpochUnderWay.__iter__

    def with_clot(
        plain: NDArray[np.int64], has_clot: NDArray[np.bool_], size: int, share: float, random: Any
    ) -> NDArray[np.int64]:
        return hardness.order(plain, filled(plain, has_clot, size, share, random), has_clot, random)

    def batch_sums(probability: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
        hardness.see(probability, masks)
        return summed(probability, masks, weights)

    def remembered(epoch: loop.EpochUnderWay) -> Iterator[Any]:
        for number, batches, weights, uids in walk(epoch):
            yield number, batches, weights, uids
            hardness.remember(uids)

    order._with_clot, step.batch_sums, loop.EpochUnderWay.__iter__ = with_clot, batch_sums, remembered
