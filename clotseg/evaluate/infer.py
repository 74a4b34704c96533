"""Inference: trained networks and the volumes of a case in; clot probability on the volumes' own grid out.

Volumes are windowed and given to the networks a block of slices at a time, the next block while the networks
are at work, so what is held beside the result does not grow with the volume. What several passes say, of
several networks or of flipped slices, is averaged.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.config import Flip, SliceConfig
from clotseg.errors import ConfigError, DataError
from clotseg.prep.cases import Case, Volume, open_volume
from clotseg.prep.slices import Bytes, channel_count, window_volumes, with_context
from clotseg.train.checkpoint import load_checkpoint

Model = Any  # TensorFlow and Keras ship no types
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

SLICES_AT_ONCE = 16
SLICES_PER_BLOCK = 4 * SLICES_AT_ONCE
FLIPPED_AXIS: dict[Flip, int] = {"horizontal": 2, "vertical": 1}
"""Axis of [N, row, column, …] that a flip turns round."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volumes:
    """What is known of a case without its mask.

    Attributes:
        name: of the case.
        cta: HU [row, column, slice], or None where there is none: its channels are black.
        ncct: the same; one of the two is there, and where both are they have one shape.
    """

    name: str
    cta: Volume | None
    ncct: Volume | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, columns, slices)."""
        rows, columns, slices = next(v for v in (self.cta, self.ncct) if v is not None).shape
        return rows, columns, slices


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """What the passes say of a few neighbouring slices.

    Attributes:
        numbers: which slices.
        probability: float32 [row, column, slice], the mean over all passes.
        spread: float32 of the same shape, the standard deviation over the passes; None where there is one.
    """

    numbers: slice
    probability: Floats
    spread: Floats | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Network:
    """A network of an ensemble.

    Attributes:
        model: takes float32 [N, size, size, channels] in 0…1.
        size: side of its input square, in pixels.
        flips: those it was trained with.
    """

    model: Model
    size: int
    flips: tuple[Flip, ...] = ()


def open_case(case: Case) -> Volumes:
    """The volumes of a case, mapped, not read."""
    return Volumes(name=case.name, cta=open_volume(case.cta), ncct=open_volume(case.ncct))


class Predictor:
    """Networks ready to run on whole volumes.

    Args:
        networks: one, or those of an ensemble.
        slicing: the windows and the context they were trained with.
        tta: whether each also sees the slices flipped as in training (test-time augmentation): one pass for a
            network trained without flips, two for one trained with one of them, four with both.
    """

    def __init__(self, networks: Sequence[Network], slicing: SliceConfig, *, tta: bool = False) -> None:
        channels = channel_count(slicing)
        self._calls = [
            (_compiled(net.model, net.size, channels), net.size, views_of(net.flips if tta else ()))
            for net in networks
        ]
        self._slicing = slicing

    @property
    def passes(self) -> int:
        """How many probabilities are averaged."""
        return sum(len(views) for *_, views in self._calls)

    def probability(self, volumes: Volumes) -> Floats:
        """Clot probability of every voxel, float32 [row, column, slice], on the grid of the volumes.

        Raises:
            DataError: a slice is larger than a network's input.
        """
        whole = np.empty(volumes.shape, np.float32)
        for block in self.blocks(volumes):
            whole[:, :, block.numbers] = block.probability
        return whole

    def blocks(self, volumes: Volumes) -> Iterator[Block]:
        """The same, and the spread over the passes, a block of slices at a time, from the first to the last.

        Raises:
            DataError: a slice is larger than a network's input.
        """
        rows, columns, slices = volumes.shape
        smallest = min(size for _, size, _ in self._calls)
        if max(rows, columns) > smallest:
            raise DataError(
                f"has slices of {rows}×{columns} pixels; the network takes {smallest}×{smallest}",
                where=volumes.name,
                fix="crop the volume, or train with a larger --size",
            )
        starts = range(0, slices, SLICES_PER_BLOCK)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._windowed, volumes, starts[0])
            for start in starts:
                block = ahead.result()
                if start + SLICES_PER_BLOCK < slices:
                    ahead = reader.submit(self._windowed, volumes, start + SLICES_PER_BLOCK)
                yield self._predict(block, slice(start, start + len(block)))

    def _windowed(self, volumes: Volumes, start: int) -> Bytes:
        """The slices of a block, uint8 [slice, row, column, channel], with their neighbours as channels."""
        context, slices = self._slicing.context, volumes.shape[2]
        stop = min(start + SLICES_PER_BLOCK, slices)
        low, high = max(start - context, 0), min(stop + context, slices)
        cut = [None if volume is None else volume[:, :, low:high] for volume in (volumes.cta, volumes.ncct)]
        windowed = window_volumes(cut[0], cut[1], self._slicing)
        return with_context(windowed, range(start - low, stop - low), context)

    def _predict(self, slices: Bytes, numbers: slice) -> Block:
        total = np.zeros(slices.shape[:3], np.float32)
        squares = np.zeros_like(total) if self.passes > 1 else None
        for call, size, views in self._calls:
            for turned in views:
                predicted = _whole_block(call, slices, size, turned)
                total += predicted
                if squares is not None:
                    squares += predicted * predicted
        passes = np.float32(self.passes)
        mean = total / passes
        return Block(
            numbers=numbers,
            probability=np.moveaxis(mean, 0, 2),
            spread=None if squares is None else np.moveaxis(_deviation(mean, squares / passes), 0, 2),
        )


def load_predictor(checkpoints: Sequence[Path], *, tta: bool) -> Predictor:
    """The networks of checkpoint folders, ready to run together.

    Raises:
        CorruptArtifactError: one of them is damaged.
        ConfigError: they were trained on slices of different windows or context.
    """
    loaded = [load_checkpoint(folder) for folder in checkpoints]
    slicing = loaded[0][1].slicing
    for folder, (_, description) in zip(checkpoints, loaded, strict=True):
        if _seen(description.slicing) != _seen(slicing):
            raise ConfigError(
                f"was trained on other windows or neighbours than {checkpoints[0]}, "
                "so the two cannot look at the same slices",
                where=folder,
                fix="test them one by one",
            )
    networks = [Network(model=net, size=told.size, flips=told.flips) for net, told in loaded]
    return Predictor(networks, slicing, tta=tta)


def views_of(flips: Sequence[Flip]) -> list[tuple[int, ...]]:
    """The axes that each pass turns round: every choice among the flips, none of them first."""
    axes = [FLIPPED_AXIS[flip] for flip in flips]
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def _seen(slicing: SliceConfig) -> tuple[object, ...]:
    return slicing.cta_window_hu, slicing.ncct_window_hu, slicing.context


def _compiled(model: Model, size: int, channels: int) -> Callable[[Bytes], Any]:
    """The network behind the cast to 0…1, which so happens on the device, for batches of any length."""
    import tensorflow as tf

    batch = tf.TensorSpec((None, size, size, channels), tf.uint8)

    def scaled(slices: Any) -> Any:
        return model(tf.cast(slices, tf.float32) * (1 / 255), training=False)

    compiled: Callable[[Bytes], Any] = tf.function(scaled, input_signature=[batch])
    return compiled


def _whole_block(call: Callable[[Bytes], Any], slices: Bytes, size: int, turned: tuple[int, ...]) -> Floats:
    """One pass over a block, turned round along these axes: float32 [slice, row, column].

    Slices are flipped before they are padded, as in training: an odd pixel of padding stays where it was.
    """
    rows, columns = slices.shape[1:3]
    predicted = np.empty(slices.shape[:3], np.float32)
    for start in range(0, len(slices), SLICES_AT_ONCE):
        batch = np.flip(slices[start : start + SLICES_AT_ONCE], turned)
        answer = centre_crop(call(centre_pad(batch, size)).numpy(), rows, columns)[..., 0]
        predicted[start : start + SLICES_AT_ONCE] = np.flip(answer, turned)
    return predicted


def _deviation(mean: Floats, mean_square: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(mean_square - mean * mean, 0)), np.float32)


def centre_pad(slices: NDArray[Any], size: int) -> NDArray[Any]:
    """Zeros around [N, row, column, …] up to size × size; an odd pixel goes to the bottom or right.

    The rule is that of the training pipeline.
    """
    before = [(size - side) // 2 for side in slices.shape[1:3]]
    padded = np.zeros((len(slices), size, size, *slices.shape[3:]), slices.dtype)
    padded[:, before[0] : before[0] + slices.shape[1], before[1] : before[1] + slices.shape[2]] = slices
    return padded


def centre_crop(slices: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Undoes `centre_pad`."""
    before = [(side - wanted) // 2 for side, wanted in zip(slices.shape[1:3], (rows, columns), strict=True)]
    return slices[:, before[0] : before[0] + rows, before[1] : before[1] + columns]
