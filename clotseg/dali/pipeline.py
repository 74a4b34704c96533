"""The DALI pipeline: shards in; batches of augmented, centre-padded slices out. One definition, CPU and GPU.

Order: read, decode, augment at native size, pad with 0, cast to float. The pipeline visits records in exactly
the order of the index files it is given, so who wants another order, or a part, writes other index files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nvidia.dali.tfrecord as tfrecord
from nvidia.dali import fn, pipeline_def, types

from clotseg.dali.augment.parameters import Columns, DataNode
from clotseg.dali.augment.transforms import Bounds, transform
from clotseg.dali.padding import placed


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What is done to the slices of a pipeline.

    Attributes:
        bounds: what all parameters keep to.
        parameters: those of each batch, by its number, from 0.
    """

    bounds: Bounds
    parameters: Callable[[int], Columns]


def slice_pipeline(
    *,
    shards: Sequence[Path],
    indices: Sequence[Path],
    size: int,
    augment: Augmentation | None,
    batch_size: int,
    threads: int,
    device_id: int | None,
    prefetch: int,
) -> Any:
    """A built DALI pipeline over the records of the indices, in their order.

    Args:
        shards: TFRecord files; a file may come up more than once.
        indices: the index of each, `offset size` a line.
        size: side of the output square, in pixels; no slice may be larger.
        augment: how training slices are augmented; None leaves them as they are.
        batch_size: slices a batch.
        threads: CPU threads; their number does not change the output.
        device_id: the GPU, or None for the CPU.
        prefetch: batches made ahead.

    Returns:
        A pipeline whose run gives images float32 [N, size, size, C] in 0…1, masks float32
        [N, size, size, 1] of 0 and 1, and uids int64 [N, 1].
    """
    pipeline = _pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        paths=[str(path) for path in shards],
        indices=[str(path) for path in indices],
        size=size,
        augment=augment,
        on_gpu=device_id is not None,
    )
    pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _pipeline(
    paths: list[str],
    indices: list[str],
    size: int,
    augment: Augmentation | None,
    on_gpu: bool,
) -> tuple[DataNode, DataNode, DataNode]:
    record = fn.readers.tfrecord(
        path=paths,
        index_path=indices,
        features={
            "image": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "mask": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "shape": tfrecord.FixedLenFeature([3], tfrecord.int64, 0),
            "uid": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        },
    )
    shape = record["shape"]
    images = fn.reshape(record["image"], shape=shape, layout="HWC")
    masks = fn.reshape(
        record["mask"], shape=fn.cat(shape[:2], types.Constant([1], dtype=types.INT64)), layout="HWC"
    )
    if on_gpu:
        images, masks = images.gpu(), masks.gpu()
    if augment is not None:
        images, masks = transform(images, masks, augment.parameters, augment.bounds)
    images, masks = placed(images, masks, size)
    return images, masks, record["uid"]
