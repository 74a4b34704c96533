"""The draws of an epoch: settings and seed in; for any stretch of the epoch's order, its parameters out.

What is drawn for a sample depends on the run's seed, the epoch, and the sample's position in the epoch's
global order, and on nothing else: not on replicas, workers, threads, nor on where an epoch that is taken up
again starts. Positions are drawn in chunks, each from a stream of its own, when they are first asked for, so
memory is bounded and a later position costs no more than the first.
"""

from collections import OrderedDict

import numpy as np

from clotseg.config import AugmentConfig
from clotseg.dali.augment.parameters import PARAMETER_TYPES, Columns

CHUNK = 2048


def stream_seed(seed: int, epoch: int, chunk: int) -> int:
    """The seed of one chunk. No two of a run are the same while epoch + chunk is less than 65 535.

    That is enough for epochs of 130 million samples. DALI heeds 32 bits of a seed, too few for hashes never
    to meet: so the run's seed is hashed, and from there on epoch and chunk are counted diagonal by diagonal,
    Cantor's way, which bounds neither by the other. DALI hashes what it is given.
    """
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    diagonal = epoch + chunk
    return (start + diagonal * (diagonal + 1) // 2 + chunk) % 2**31


class EpochDraws:
    """The parameters of an epoch's positions, drawn as they are asked for."""

    def __init__(self, config: AugmentConfig, *, seed: int, epoch: int, spread: int) -> None:
        """Nothing is drawn yet.

        Args:
            config: what to draw.
            seed: of the run.
            epoch: number of the epoch.
            spread: so many positions back from the furthest one asked for, none needs to be drawn again.
        """
        self._config = config
        self._seed = seed
        self._epoch = epoch
        self._most = 2 + -(-spread // CHUNK)
        self._chunks: OrderedDict[int, Columns] = OrderedDict()

    def columns(self, first: int, count: int) -> Columns:
        """Parameters of the positions from `first` on, by name, each an array with `count` entries."""
        last = first + count - 1
        chunks = [self._chunk(number) for number in range(first // CHUNK, last // CHUNK + 1)]
        start = first % CHUNK
        if len(chunks) == 1:
            return {name: values[start : start + count] for name, values in chunks[0].items()}
        return {
            name: np.concatenate([chunk[name] for chunk in chunks])[start : start + count]
            for name in PARAMETER_TYPES
        }

    def _chunk(self, number: int) -> Columns:
        if number in self._chunks:
            self._chunks.move_to_end(number)
            return self._chunks[number]
        from clotseg.dali.augment.sampler import draw_many

        drawn = draw_many(self._config, count=CHUNK, seed=stream_seed(self._seed, self._epoch, number))
        self._chunks[number] = drawn
        while len(self._chunks) > self._most:
            self._chunks.popitem(last=False)
        return drawn
