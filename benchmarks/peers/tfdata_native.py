"""tf.data from clotseg's shards with TensorFlow's own image operators: no Python for a slice.

What differs from albumentations: between the transforms pixels stay float32 and are not cut to whole greys;
the blur is a depthwise convolution. TensorFlow has no CLAHE, so OpenCV's is written here from histograms,
running sums and gathers.
"""

from collections.abc import Callable, Iterator
from typing import Any

from clotseg.quiet import load_tensorflow

from . import Data, Feed, Setting
from .tfdata_albumentations import as_float, decoded, records
from .transforms import SWITCHED_ON

TITLE = "tf.data, native operators"
NEEDS = ()

TILES, BINS = 8, 256
Tensor = Any


def settings(cores: int) -> list[Setting]:
    """How many slices at once."""
    return [{"parallel_calls": count} for count in (None, *sorted({1, cores, 2 * cores}))]


def uniform(low: float, high: float) -> Tensor:
    """A number drawn evenly."""
    import tensorflow as tf

    return tf.random.uniform((), low, high)


def sometimes(probability: float, change: Callable[..., Any], *parts: Tensor) -> Any:
    """The parts changed with that probability, and else as they are."""
    import tensorflow as tf

    given = parts if len(parts) > 1 else parts[0]
    return tf.cond(uniform(0, 1) < probability, lambda: change(*parts), lambda: given)


def blur(image: Tensor) -> Tensor:
    """A turned generalised Gaussian with noise, of 3, 5 or 7 cells a side; border reflect-101."""
    import tensorflow as tf

    reach = tf.random.uniform((), 1, 4, tf.int32)
    steps = tf.cast(tf.range(-reach, reach + 1), tf.float32)
    x, y = tf.meshgrid(steps, steps)
    angle = uniform(-1.5707963, 1.5707963)
    along, across = tf.cos(angle) * x + tf.sin(angle) * y, tf.cos(angle) * y - tf.sin(angle) * x
    shape = tf.cond(uniform(0, 1) < 0.5, lambda: uniform(0.5, 1), lambda: uniform(1, 8))
    distance = (along / uniform(0.2, 1)) ** 2 + (across / uniform(0.2, 1)) ** 2
    kernel = tf.exp(-0.5 * distance**shape) * tf.random.uniform(tf.shape(x), 0.9, 1.1)
    kernel = tf.repeat((kernel / tf.reduce_sum(kernel))[..., tf.newaxis, tf.newaxis], 2, axis=2)
    margin = tf.stack([reach, reach])
    framed = tf.pad(image, [margin, margin, (0, 0)], "REFLECT")[tf.newaxis]
    return tf.round(tf.nn.depthwise_conv2d(framed, kernel, (1, 1, 1, 1), "VALID")[0])


def clahe(image: Tensor, clip: Tensor) -> Tensor:
    """Contrast-limited equalisation on 8 × 8 tiles, each channel by itself.

    Args:
        image: float32 [rows, columns, channels], 0…255, each side a multiple of 8.
        clip: how often a grey may come up in a tile, as a multiple of what is even.
    """
    import tensorflow as tf

    rows, columns, channels = image.shape
    high, wide = rows // TILES, columns // TILES
    grey = tf.transpose(tf.cast(image, tf.int32), (2, 0, 1))
    by_tile = tf.transpose(tf.reshape(grey, (channels, TILES, high, TILES, wide)), (0, 1, 3, 2, 4))
    counts = tf.math.bincount(
        tf.reshape(by_tile, (-1, high * wide)), minlength=BINS, maxlength=BINS, axis=-1, dtype=tf.float32
    )
    limit = tf.maximum(tf.floor(clip * high * wide / BINS), 1.0)
    cut = tf.minimum(counts, limit)
    excess = tf.reduce_sum(counts - cut, axis=-1, keepdims=True)
    rest = tf.math.floormod(excess, BINS)
    step = tf.maximum(tf.math.floordiv(float(BINS), rest), 1.0)  # One over 0 is endless, and takes no part.
    bins = tf.range(BINS, dtype=tf.float32)
    filled = (tf.math.floormod(bins, step) == 0) & (tf.math.floordiv(bins, step) < rest)
    cut += tf.math.floordiv(excess, BINS) + tf.cast(filled, tf.float32)
    tables = tf.reshape(tf.round(tf.cumsum(cut, axis=-1) * (255.0 / (high * wide))), (-1,))

    def neighbours(side: int, tile: int) -> tuple[Tensor, Tensor, Tensor]:
        """The two tiles nearest to each row or column, and how much the second counts."""
        place = (tf.range(side, dtype=tf.float32)) / tile - 0.5
        first = tf.floor(place)
        near = [tf.cast(tf.clip_by_value(first + step, 0, TILES - 1), tf.int32) for step in (0, 1)]
        return near[0], near[1], place - first

    upper, lower, down = neighbours(rows, high)
    left, right, across = neighbours(columns, wide)
    of_channel = tf.range(channels)[:, tf.newaxis, tf.newaxis] * TILES

    def looked_up(tile_row: Tensor, tile_column: Tensor) -> Tensor:
        tile = (of_channel + tile_row[:, tf.newaxis]) * TILES + tile_column
        return tf.gather(tables, tile * BINS + grey)

    down = down[:, tf.newaxis]
    top = looked_up(upper, left) * (1 - across) + looked_up(upper, right) * across
    bottom = looked_up(lower, left) * (1 - across) + looked_up(lower, right) * across
    return tf.transpose(tf.round(top * (1 - down) + bottom * down), (1, 2, 0))


def six(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The transforms in their order; image float32 [rows, columns, 2] in 0…255, mask [rows, columns, 1]."""
    import tensorflow as tf

    def cut(grey: Tensor) -> Tensor:
        return tf.clip_by_value(grey, 0, 255)

    for flip in (tf.image.flip_left_right, tf.image.flip_up_down):
        image, mask = sometimes(SWITCHED_ON, lambda *both, flip=flip: tuple(map(flip, both)), image, mask)
    image = sometimes(
        SWITCHED_ON, lambda grey: cut(grey * uniform(0.8, 1.2) + 255 * uniform(-0.2, 0.2)), image
    )
    image = sometimes(
        SWITCHED_ON, lambda grey: tf.image.adjust_gamma(grey / 255, uniform(0.8, 1.2)) * 255, image
    )
    image = sometimes(SWITCHED_ON, lambda grey: tf.ensure_shape(blur(grey), grey.shape), image)
    return sometimes(SWITCHED_ON, lambda grey: clahe(grey, uniform(1, 4)), image), mask


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """A pass is one iteration over a dataset that ends."""
    del device
    load_tensorflow()
    import tensorflow as tf

    def finished(record: Any) -> tuple[Any, Any]:
        image, mask = decoded(record, data.side)
        if augmented:
            image, mask = sometimes(0.8, six, tf.cast(image, tf.float32), mask)
        image, mask = as_float(image, mask)
        return tuple(tf.image.resize_with_crop_or_pad(part, data.size, data.size) for part in (image, mask))

    batches = (
        records(data)
        .map(finished, num_parallel_calls=setting["parallel_calls"] or tf.data.AUTOTUNE, deterministic=False)
        .batch(batch, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )

    def take_pass() -> Iterator[tuple[Any, Any]]:
        yield from batches

    return Feed(take_pass=take_pass)
