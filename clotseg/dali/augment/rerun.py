"""Draws records, and applies them to given slices, through the graphs that training uses."""

from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from clotseg.config import AugmentConfig
from clotseg.dali.augment.parameters import (
    Columns,
    DataNode,
    ParameterRecord,
    from_records,
    to_records,
)
from clotseg.dali.augment.sampler import draw_many
from clotseg.dali.augment.transforms import Bounds, transform
from clotseg.errors import ConfigError

Bytes = NDArray[np.uint8]
Device = Literal["cpu", "gpu", "operators on cpu"]


@overload
def replay(
    images: Bytes, masks: Bytes, parameters: Sequence[ParameterRecord], device: Device = "cpu"
) -> tuple[Bytes, Bytes]: ...


@overload
def replay(
    images: list[Bytes], masks: list[Bytes], parameters: Sequence[ParameterRecord], device: Device = "cpu"
) -> tuple[list[Bytes], list[Bytes]]: ...


def replay(
    images: Bytes | list[Bytes],
    masks: Bytes | list[Bytes],
    parameters: Sequence[ParameterRecord],
    device: Device = "cpu",
) -> tuple[Bytes | list[Bytes], Bytes | list[Bytes]]:
    """Runs `transform`, as training does, on given slices with given parameters.

    Args:
        images: uint8 [N, H, W, C], or a list of N slices [H, W, C] of any size and one C.
        masks: uint8 [N, H, W], or a list of N masks [H, W].
        parameters: N records.
        device: where the graph runs; the last is the graph of a GPU, run on a CPU.

    Returns:
        Images and masks of the same shapes; lists where `images` is one.

    Raises:
        ConfigError: the three do not have the same N, slices differ in channels, a record is out of bounds.
    """
    count = len(images)
    if not count == len(masks) == len(parameters):
        raise ConfigError(f"{count} images, {len(masks)} masks and {len(parameters)} records do not pair up")
    if len({image.shape[2] for image in images}) != 1:
        raise ConfigError("the slices do not all have the same number of channels, or there is none")
    pipeline = _replay_pipeline(
        batch_size=count,
        num_threads=1,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
        on_gpu=device == "gpu",
        compiled=device == "cpu",
        bounds=_bounds(images, parameters),
        columns=from_records(parameters),
    )
    pipeline.build()
    outputs = pipeline.run(
        images=[np.ascontiguousarray(image) for image in images],
        masks=[np.ascontiguousarray(mask)[..., np.newaxis] for mask in masks],
    )
    new_images, new_masks = ([np.array(sample) for sample in batch.as_cpu()] for batch in outputs)
    flat_masks = [mask[..., 0] for mask in new_masks]
    if isinstance(images, list):
        return new_images, flat_masks
    return np.stack(new_images), np.stack(flat_masks)


def sample(config: AugmentConfig, *, count: int, seed: int) -> list[ParameterRecord]:
    """Draws the parameters of `count` slices, as training does; the same seed draws the same."""
    return to_records(draw_many(config, count=count, seed=seed))


def _bounds(images: Bytes | list[Bytes], parameters: Sequence[ParameterRecord]) -> Bounds:
    clips = [record["clahe_clip"] for record in parameters if record["clahe_clip"] is not None]
    if any(clip <= 0 for clip in clips):
        raise ConfigError("a clip limit must be above 0", where="clahe_clip", fix="use null for no CLAHE")
    return Bounds(
        channels=images[0].shape[2],
        largest_side=max(max(image.shape[:2]) for image in images),
        flips=any(record["hflip"] or record["vflip"] for record in parameters),
        grades=any((record["alpha"], record["beta"], record["gamma"]) != (1, 0, 1) for record in parameters),
        blurs=any(record["blur_kernel"] is not None for record in parameters),
        clahe_clips=(min(clips), max(clips)) if clips else None,
        warps=any("warp" in record for record in parameters),
        bends=any("elastic" in record for record in parameters),
        shifts=any("ncct_shift" in record for record in parameters),
        noises=any("noise_gaussian" in record or "noise_poisson" in record for record in parameters),
        drops=any("dropped" in record for record in parameters),
    )


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _replay_pipeline(
    on_gpu: bool, compiled: bool, bounds: Bounds, columns: Columns
) -> tuple[DataNode, DataNode]:
    images = fn.external_source(name="images", layout="HWC", dtype=types.UINT8)
    masks = fn.external_source(name="masks", layout="HWC", dtype=types.UINT8)
    if on_gpu:
        images, masks = images.gpu(), masks.gpu()
    return transform(images, masks, lambda _: columns, bounds, compiled=compiled)
