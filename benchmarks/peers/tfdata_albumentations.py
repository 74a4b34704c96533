"""tf.data from clotseg's shards, albumentations in a `numpy_function`: what most do with TFRecords."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.quiet import load_tensorflow

from . import Data, Feed, Setting
from .transforms import augment

TITLE = "tf.data + albumentations"
NEEDS = ()

SHUFFLED = 1000
"""Slices that TensorFlow draws the next one from."""


def settings(cores: int) -> list[Setting]:
    """How many slices at once, and whether pixels become floats slice by slice or batch by batch."""
    calls = sorted({1, cores, 2 * cores})
    return [
        {"parallel_calls": None, "cast": "slice"},
        *({"parallel_calls": count, "cast": "batch"} for count in (None, *calls)),
    ]


def records(data: Data) -> Any:
    """Examples of all shards, several read in turn, shuffled anew each time it is iterated over."""
    import tensorflow as tf

    files = tf.data.Dataset.from_tensor_slices([str(path) for path in data.shards])
    return (
        files.shuffle(len(data.shards))
        .interleave(
            tf.data.TFRecordDataset,
            cycle_length=4,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        .shuffle(SHUFFLED)
    )


def decoded(record: Any, side: int) -> tuple[Any, Any]:
    """The image [side, side, 2] and the mask [side, side, 1] of an Example, both uint8."""
    import tensorflow as tf

    features = {name: tf.io.FixedLenFeature((), tf.string) for name in ("image", "mask")}
    parsed = tf.io.parse_single_example(record, features)
    image = tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), (side, side, 2))
    return image, tf.reshape(tf.io.decode_raw(parsed["mask"], tf.uint8), (side, side, 1))


def as_float(image: Any, mask: Any) -> tuple[Any, Any]:
    """float32 image in 0…1 and float32 mask, of one slice or of a batch."""
    import tensorflow as tf

    return tf.cast(image, tf.float32) * (1 / 255), tf.cast(mask, tf.float32)


def _albumentations(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[Any, Any]:
    changed, its_mask = augment(image, mask[..., 0])
    return changed, its_mask[..., np.newaxis]


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """A pass is one iteration over a dataset that ends."""
    del device
    load_tensorflow()
    import tensorflow as tf

    by_slice = setting["cast"] == "slice"

    def finished(record: Any) -> tuple[Any, Any]:
        image, mask = decoded(record, data.side)
        if augmented:
            image, mask = tf.numpy_function(_albumentations, [image, mask], (tf.uint8, tf.uint8))
            image.set_shape((data.side, data.side, 2))
            mask.set_shape((data.side, data.side, 1))
        image, mask = (tf.image.resize_with_crop_or_pad(part, data.size, data.size) for part in (image, mask))
        return as_float(image, mask) if by_slice else (image, mask)

    calls = setting["parallel_calls"] or tf.data.AUTOTUNE
    batches = (
        records(data)
        .map(finished, num_parallel_calls=calls, deterministic=False)
        .batch(batch, drop_remainder=True)
    )
    if not by_slice:
        batches = batches.map(as_float, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.prefetch(tf.data.AUTOTUNE)

    def take_pass() -> Iterator[tuple[Any, Any]]:
        yield from batches

    return Feed(take_pass=take_pass)
