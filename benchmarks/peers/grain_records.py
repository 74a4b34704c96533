"""Grain over array records, albumentations in its worker processes or threads; batches are NumPy arrays.

Grain hands over NumPy, which `torch.from_numpy` makes a tensor of without a copy; TensorFlow would copy it,
which is not counted here. Array records are compressed, so fewer bytes are read than by the others.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from . import Data, Feed, Setting
from .transforms import finished

TITLE = "Grain + albumentations"
NEEDS = ("grain", "array_record")


def settings(cores: int) -> list[Setting]:
    """Worker processes and batches that each makes ahead; or threads in this process."""
    return [
        {"workers": 0, "threads": cores, "ahead": 2},
        {"workers": cores, "threads": 1, "ahead": 4},
        *({"workers": count, "threads": 1, "ahead": 2} for count in sorted({1, cores, cores + 1})),
    ]


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """A pass is a part of one stream without end, so that worker processes stay from pass to pass."""
    del device
    import grain

    side, size = data.side, data.size

    def decoded(record: bytes) -> tuple[Any, Any]:
        pixels = np.frombuffer(record, np.uint8).reshape(side, side, 3)
        image, mask = (np.ascontiguousarray(part) for part in (pixels[..., :2], pixels[..., 2]))
        return finished(image, mask, size, augmented=augmented)

    steps = data.slices // batch
    records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(str(data.array_record)))
    slices = records.seed(1).shuffle()[: steps * batch].repeat().map(decoded)
    batches = slices.batch(batch, drop_remainder=True).to_iter_dataset(
        grain.ReadOptions(num_threads=setting["threads"], prefetch_buffer_size=setting["ahead"])
    )
    if setting["workers"]:
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=setting["workers"], per_worker_buffer_size=setting["ahead"]
            )
        )
    stream = iter(batches)

    def take_pass() -> Iterator[tuple[Any, Any]]:
        yield from islice(stream, steps)

    # A worker makes ahead in a thread, in the queue of its process, and in the thread that empties this.
    made_ahead = setting["workers"] * (3 * setting["ahead"] + 4) or setting["ahead"] + 2
    return Feed(take_pass=take_pass, ahead=made_ahead * batch)
