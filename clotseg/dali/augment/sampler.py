"""Draws augmentation parameters in a DALI graph: which transforms are on, then how much of each.

All slices are drawn as one tensor with an entry a slice: DALI calls an operator for each sample of a batch,
and for a thousand samples of one number each, the calls would be what takes the time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types

from clotseg.config import KEY_SLOTS, SLOT_OF, AugmentConfig
from clotseg.dali.augment.noise import LARGEST_SEED
from clotseg.dali.augment.parameters import (
    KERNEL_SIDE,
    NO_WARP,
    NO_WAVES,
    PARAMETER_TYPES,
    Columns,
    DataNode,
    Parameters,
    in_order,
)

LARGEST_GREY = 255.0

FULL_TURN = 2 * np.pi
DEGREE = FULL_TURN / 360
SIGMA = (0.2, 1.0)
ANGLE = (-np.pi / 2, np.pi / 2)
KERNEL_NOISE = (0.9, 1.1)


def draw_many(config: AugmentConfig, *, count: int, seed: int, threads: int = 1) -> Columns:
    """Draws the parameters of `count` slices; the number of threads changes nothing."""
    pipeline = _draw_pipeline(
        batch_size=1,
        num_threads=threads,
        device_id=None,
        seed=seed,
        prefetch_queue_depth=1,
        config=config,
        count=count,
    )
    pipeline.build()
    drawn = (np.array(batch.as_tensor())[0] for batch in pipeline.run())
    return dict(zip(PARAMETER_TYPES, drawn, strict=True))


@pipeline_def  # type: ignore[untyped-decorator]
def _draw_pipeline(config: AugmentConfig, count: int) -> tuple[DataNode, ...]:
    return in_order(draw(config, count))


def draw(config: AugmentConfig, count: int) -> Parameters:
    """Draws whether a slice is augmented at all, the switches, the amounts: nodes with `count` entries each.

    The amounts are distributed as those of albumentations 2.0.8; what is off has its neutral value.
    """
    on = _draw_switches(config, count)
    alpha = on["brightness_contrast"] * _uniform(config.contrast_limit, count) + 1.0
    beta = on["brightness_contrast"] * _uniform(config.brightness_limit, count, scale=LARGEST_GREY)
    gamma = on["gamma"] * _uniform(config.gamma_limit, count, shift=-1.0) + 1.0
    return Parameters(
        hflip=on["horizontal_flip"],
        vflip=on["vertical_flip"],
        levels=on["brightness_contrast"] | on["gamma"],
        alpha=alpha,
        beta=beta,
        gamma=fn.cast(gamma, dtype=types.FLOAT64),
        blur=on["blur"],
        kernel=_draw_kernels(count),
        clahe_clip=fn.cast(on["clahe"] * _uniform(config.clahe_limit, count), dtype=types.FLOAT64),
        warp=_draw_warps(config, count),
        elastic=_draw_waves(config, count),
        ncct_shift=_draw_shifts(config, count),
        noise_sd=_draw_noise(config, config.noise_gaussian, config.noise_gaussian_sd, count),
        noise_factor=_draw_noise(config, config.noise_poisson, config.noise_poisson_factor, count),
        noise_seed=_draw_noise_seeds(config, count),
        dropped=_draw_dropped(config, count),
    )


def _draw_warps(config: AugmentConfig, count: int) -> DataNode:
    """Turned, then scaled, then moved."""
    if config.warp == 0:
        return _same(NO_WARP, count)
    on = _coins(config.probability * config.warp, count)
    angle = on * _uniform(config.rotation_degrees, count) * DEGREE
    factor = on * (1.0 / _uniform(config.scale_limit, count) - 1.0) + 1.0
    right, down = on * _uniform(config.shift_pixels, count), on * _uniform(config.shift_pixels, count)
    cosine, sine = factor * math.cos(angle), factor * math.sin(angle)
    return fn.stack(
        fn.stack(cosine, sine * -1.0, right, axis=1), fn.stack(sine, cosine, down, axis=1), axis=1
    )


def _draw_waves(config: AugmentConfig, count: int) -> DataNode:
    """For each direction an amplitude up to the limit, a period within its limits, and any phase."""
    if config.elastic == 0:
        return _same(NO_WAVES, count)
    on = _coins(config.probability * config.elastic, count)
    waves = []
    for _ in ("right", "down"):
        amplitude = on * _uniform((0.0, config.elastic_pixels), count)
        frequency = FULL_TURN / _uniform(config.elastic_period_pixels, count)
        phase = on * _uniform((0.0, FULL_TURN), count)
        waves.append(fn.stack(amplitude, on * frequency, phase, axis=1))
    return fn.stack(*waves, axis=1)


def _draw_shifts(config: AugmentConfig, count: int) -> DataNode:
    if config.misregistration == 0:
        return _same(np.zeros(2, np.float32), count)
    on = _coins(config.probability * config.misregistration, count, 1)
    most = config.misregistration_pixels
    return on * _uniform((-most, most), count, 2)


def _draw_noise(config: AugmentConfig, switch: float, limits: tuple[float, float], count: int) -> DataNode:
    if switch == 0:
        return _same(np.float32(0), count)
    return _coins(config.probability * switch, count) * _uniform(limits, count)


def _draw_noise_seeds(config: AugmentConfig, count: int) -> DataNode:
    if config.noise_gaussian == config.noise_poisson == 0:
        return _same(np.int32(0), count)
    return fn.random.uniform(range=[0.0, float(LARGEST_SEED)], shape=[count], dtype=types.INT32)


def _draw_dropped(config: AugmentConfig, count: int) -> DataNode:
    if config.drop_modality == 0:
        return _same(np.int32(0), count)
    return _coins(config.probability * config.drop_modality, count) * (1 + _coins(0.5, count))


def _draw_switches(config: AugmentConfig, count: int) -> dict[str, DataNode]:
    """Which transforms are on: int32, 0 or 1."""
    if config.selection == "key8":
        keys = _coins(config.probability, count, 1) * _draw_keys(count)
        return {name: keys[:, slot] for name, slot in SLOT_OF.items()}
    augmented = _coins(config.probability, count)
    return {name: augmented * _coins(getattr(config, name), count) for name in SLOT_OF}


def _draw_keys(count: int) -> DataNode:
    """int32 [count, 8]: k zeros and 8 - k ones, k from 0 to 7 with even odds, shuffled.

    A slot's place in the shuffled order is how many of eight random numbers lie below its own.
    """
    zeros = fn.random.uniform(values=[float(k) for k in range(KEY_SLOTS)], shape=[count, 1])
    order = _uniform((0.0, 1.0), count, KEY_SLOTS)
    below = fn.reshape(order, shape=[count, 1, KEY_SLOTS]) < fn.reshape(order, shape=[count, KEY_SLOTS, 1])
    place = fn.reductions.sum(fn.cast(below, dtype=types.FLOAT), axes=[2])
    return fn.cast(place >= zeros, dtype=types.INT32)


def _coins(probability: float, *shape: int) -> DataNode:
    return fn.random.coin_flip(probability=probability, shape=list(shape))


def _uniform(limits: tuple[float, float], *shape: int, shift: float = 0.0, scale: float = 1.0) -> DataNode:
    low, high = ((limit + shift) * scale for limit in limits)
    # DALI refuses a range whose ends are equal.
    return fn.random.uniform(range=[low, high], shape=list(shape)) if low < high else low


def _draw_kernels(count: int) -> DataNode:
    """Generalised Gaussians, turned, with noise on each cell, of 3, 5 or 7 cells a side, amid zeros.

    As `AdvancedBlur` of albumentations draws them, after Wang et al. 2021, Real-ESRGAN, section 3.1.
    """
    one = (count, 1, 1)
    side = np.arange(KERNEL_SIDE, dtype=np.float32) - KERNEL_SIDE // 2
    across, down = np.meshgrid(side, side)
    direction = _constant(np.arctan2(down, across)[np.newaxis]) - _uniform(ANGLE, *one)
    along = math.cos(direction) / _uniform(SIGMA, *one)
    athwart = math.sin(direction) / _uniform(SIGMA, *one)
    squared = (along * along + athwart * athwart) * _constant((across**2 + down**2)[np.newaxis])
    weight = math.exp(math.pow(squared, _draw_shapes(*one)) * -0.5)
    cells = weight * _uniform(KERNEL_NOISE, count, KERNEL_SIDE, KERNEL_SIDE)
    reach = fn.random.uniform(values=[1.0, 2.0, 3.0], shape=list(one))
    cells = cells * (_constant(np.maximum(np.abs(across), np.abs(down))[np.newaxis]) <= reach)
    return cells / fn.reductions.sum(cells, axes=[1, 2], keep_dims=True)


def _draw_shapes(*shape: int) -> DataNode:
    """With even odds from 0.5…1 or from 1…8."""
    side = _uniform((-1.0, 1.0), *shape)
    return math.max(side * 0.5, side * 7.0) + 1.0


def _constant(values: NDArray[np.float32]) -> DataNode:
    return types.Constant(values, device="cpu")


def _same(value: Any, count: int) -> DataNode:
    """The neutral value for every slice."""
    return types.Constant(np.repeat(np.asarray(value)[np.newaxis], count, axis=0), device="cpu")
