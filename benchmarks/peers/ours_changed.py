"""clotseg with one thing changed, to see what that one thing is worth: what its own settings do not offer."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nvidia.dali import fn, types

from clotseg.config import RuntimeConfig
from clotseg.dali import feed, padding, pipeline
from clotseg.dali.augment import transforms

from . import Data, Feed, Setting, ours

TITLE = "clotseg, changed"
NEEDS = ()

AS_IT_IS = "as it is"
FLOAT_ON_ARRIVAL = "bytes to TensorFlow, floats made there"


def _made_together(slices: int) -> None:
    """So many slices at once, for whatever augmentation."""

    def steps_a_run(_bounds: Any, _settings: Any, batch: int, steps: int) -> int:
        return max(1, min(slices // batch, steps))

    feed._steps_a_run = steps_a_run


def _reader(**options: Any) -> None:
    fn.readers.tfrecord = partial(fn.readers.tfrecord, **options)


def _no_pool() -> None:
    os.environ["DALI_MALLOC_POOL_THRESHOLD"] = "0"


def _bound_to_cores() -> None:
    pipeline._pipeline = partial(pipeline._pipeline, set_affinity=True)


def _as_bytes(images: Any, masks: Any, size: int) -> tuple[Any, Any]:
    crop = partial(fn.crop, crop=(size, size), out_of_bounds_policy="pad", rounding="truncate")
    return crop(images), crop(masks)


def _in_half(images: Any, masks: Any, size: int) -> tuple[Any, Any]:
    images, masks = _as_bytes(images, masks, size)
    return fn.cast(images * (1.0 / 255.0), dtype=types.FLOAT16), fn.cast(masks, dtype=types.FLOAT16)


CHANGES: dict[str, Callable[[], Any]] = {
    AS_IT_IS: lambda: None,
    "DALI's operators for the six": lambda: setattr(
        pipeline, "transform", partial(transforms.transform, compiled=False)
    ),
    "DALI's operators for padding": lambda: setattr(
        pipeline, "placed", partial(padding.placed, compiled=False)
    ),
    "memory given back": _no_pool,
    "runs of up to 64 slices": lambda: _made_together(64),
    "runs of up to 128 slices": lambda: _made_together(128),
    "prefetch 1": lambda: None,
    "prefetch 8": lambda: None,
    "threads bound to cores": _bound_to_cores,
    "records read, not mapped": lambda: _reader(dont_use_mmap=True),
    "files read ahead": lambda: _reader(read_ahead=True),
    "reader 4 batches ahead": lambda: _reader(prefetch_queue_depth=4),
    FLOAT_ON_ARRIVAL: lambda: setattr(pipeline, "placed", _as_bytes),
    "half precision": lambda: setattr(pipeline, "placed", _in_half),
}
"""What is changed in the process that feeds, before it opens anything."""


def settings(cores: int) -> list[Setting]:
    """One for each change."""
    (default,) = ours.settings(cores)
    prefetches = {"prefetch 1": 1, "prefetch 8": 8}
    return [
        {**default, "prefetch": prefetches.get(change, RuntimeConfig().prefetch), "change": change}
        for change in CHANGES
    ]


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """That of `ours`, after the change."""
    CHANGES[setting["change"]]()
    opened = ours.open_feed(data, batch, setting, augmented=augmented, device=device)
    if setting["change"] != FLOAT_ON_ARRIVAL:
        return opened
    import tensorflow as tf

    def take_pass() -> Iterator[tuple[Any, Any]]:
        for images, masks in opened.take_pass():
            yield tf.cast(images, tf.float32) * (1 / 255), tf.cast(masks, tf.float32)

    return Feed(take_pass=take_pass, ahead=opened.ahead, finish=opened.finish)
