"""Augmentation in the DALI graph, on CPU and GPU: `draw` chooses parameters, `transform` applies given ones.

The arithmetic on uint8 is that of albumentations 2.0.8, to the pixel. CTA and NCCT are channels of one image
and so share their parameters; the mask gets the flips alone. Off means: no flip, alpha 1, beta 0, gamma 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types

from clotseg.config import AugmentConfig
from clotseg.errors import ConfigError

DataNode = Any  # DALI ships no types

LARGEST_GREY = 255.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Nodes of the graph, one scalar a sample.

    Attributes:
        hflip, vflip: int32, 1 mirrors left to right, top to bottom.
        alpha, beta: float32, grey · alpha + beta, beta in grey levels.
        gamma: float32, exponent on grey / 255.
    """

    hflip: DataNode
    vflip: DataNode
    alpha: DataNode
    beta: DataNode
    gamma: DataNode


class ParameterRecord(TypedDict):
    """The parameters of one sample as plain values, for `replay`."""

    hflip: bool
    vflip: bool
    alpha: float
    beta: float
    gamma: float


def draw(config: AugmentConfig) -> Parameters:
    """Draws parameters in the graph: whether the slice is augmented at all, then each transform by itself."""
    augmented = fn.random.coin_flip(probability=config.probability)

    def switch(probability: float) -> DataNode:
        return augmented * fn.random.coin_flip(probability=probability)

    def amount(on: DataNode, limits: tuple[float, float], neutral: float) -> DataNode:
        # Scaled here, since DALI refuses a range whose ends are equal.
        drawn = limits[0] + (limits[1] - limits[0]) * fn.random.uniform(range=[0.0, 1.0])
        return fn.cast(neutral + on * (drawn - neutral), dtype=types.FLOAT)

    changes_levels = switch(config.brightness_contrast)
    return Parameters(
        hflip=switch(config.horizontal_flip),
        vflip=switch(config.vertical_flip),
        alpha=1 + amount(changes_levels, config.contrast_limit, 0.0),
        beta=LARGEST_GREY * amount(changes_levels, config.brightness_limit, 0.0),
        gamma=amount(switch(config.gamma), config.gamma_limit, 1.0),
    )


def transform(images: DataNode, masks: DataNode, parameters: Parameters) -> tuple[DataNode, DataNode]:
    """Applies parameters to uint8 HWC images and masks, in the order flips, brightness and contrast, gamma.

    Must be called under `pipeline_def(enable_conditionals=True)`.
    """
    images = fn.flip(images, horizontal=parameters.hflip, vertical=parameters.vflip)
    masks = fn.flip(masks, horizontal=parameters.hflip, vertical=parameters.vflip)
    levels = math.clamp(images * parameters.alpha + parameters.beta, 0.0, LARGEST_GREY)
    images = fn.cast(math.floor(levels), dtype=types.UINT8)
    if parameters.gamma != 1.0:
        # Double precision, as NumPy's: in single precision the truncation would tip a few pixels by a level.
        # DALI holds constants in single precision, which is exact for 255 but not for 1/255.
        relative = fn.cast(images, dtype=types.FLOAT64) / LARGEST_GREY
        levels = math.pow(relative, fn.cast(parameters.gamma, dtype=types.FLOAT64)) * LARGEST_GREY
        images = fn.cast(math.floor(levels), dtype=types.UINT8)
    return images, masks


def replay(
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    parameters: Sequence[ParameterRecord],
    device: Literal["cpu", "gpu"] = "cpu",
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Runs `transform`, as training does, on given slices with given parameters.

    Args:
        images: uint8 [N, H, W, C].
        masks: uint8 [N, H, W].
        parameters: N records.
        device: where the graph runs.

    Returns:
        Images and masks of the same shapes.

    Raises:
        ConfigError: the three do not have the same N.
    """
    count = len(images)
    if not count == len(masks) == len(parameters):
        raise ConfigError(f"{count} images, {len(masks)} masks and {len(parameters)} records do not pair up")
    pipeline = _replay_pipeline(
        batch_size=count,
        num_threads=1,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
        on_device=device,
    )
    pipeline.build()
    given = {
        name: np.asarray([record[name] for record in parameters], dtype)  # type: ignore[literal-required]
        for name, dtype in _PARAMETER_TYPES.items()
    }
    moved = [
        batch.as_cpu().as_array()
        for batch in pipeline.run(images=images, masks=masks[..., np.newaxis], **given)
    ]
    return moved[0], moved[1][..., 0]


_PARAMETER_TYPES = {
    "hflip": np.int32,
    "vflip": np.int32,
    "alpha": np.float32,
    "beta": np.float32,
    "gamma": np.float32,
}


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _replay_pipeline(on_device: str) -> tuple[DataNode, DataNode]:
    images = fn.external_source(name="images", layout="HWC", dtype=types.UINT8)
    masks = fn.external_source(name="masks", layout="HWC", dtype=types.UINT8)
    parameters = Parameters(**{name: fn.external_source(name=name) for name in _PARAMETER_TYPES})
    if on_device == "gpu":
        images, masks = images.gpu(), masks.gpu()
    return transform(images, masks, parameters)
