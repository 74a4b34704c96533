"""Draws augmentation parameters in the DALI graph: which transforms are on, then how much of each."""

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
SIGMA = (0.2, 1.0)
ANGLE = (-np.pi / 2, np.pi / 2)
KERNEL_NOISE = (0.9, 1.1)


def draw_many(config: AugmentConfig, *, count: int, seed: int, threads: int = 1) -> Columns:
    """Draws the parameters of `count` slices; the number of threads changes nothing."""
    pipeline = _draw_pipeline(
        batch_size=count,
        num_threads=threads,
        device_id=None,
        seed=seed,
        prefetch_queue_depth=1,
        config=config,
    )
    pipeline.build()
    drawn = (np.array(batch.as_tensor()) for batch in pipeline.run())
    return dict(zip(PARAMETER_TYPES, drawn, strict=True))


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _draw_pipeline(config: AugmentConfig) -> tuple[DataNode, ...]:
    return in_order(draw(config))


def draw(config: AugmentConfig) -> Parameters:
    """Draws the parameters of a batch: whether a slice is augmented at all, the switches, the amounts.

    The amounts are distributed as those of albumentations 2.0.8; what is off has its neutral value. On small
    slices an operator costs more to start than to run, so there are as few as can be.
    """
    on = _draw_switches(config)
    alpha = on["brightness_contrast"] * _uniform(config.contrast_limit) + 1.0
    beta = on["brightness_contrast"] * _uniform(config.brightness_limit, scale=LARGEST_GREY)
    gamma = on["gamma"] * _uniform(config.gamma_limit, shift=-1.0) + 1.0
    return Parameters(
        hflip=on["horizontal_flip"],
        vflip=on["vertical_flip"],
        levels=on["brightness_contrast"] | on["gamma"],
        alpha=alpha,
        beta=beta,
        gamma=fn.cast(gamma, dtype=types.FLOAT64),
        blur=on["blur"],
        kernel=_draw_kernel(),
        clahe_clip=fn.cast(on["clahe"] * _uniform(config.clahe_limit), dtype=types.FLOAT64),
        warp=_draw_warp(config),
        elastic=_draw_waves(config),
        ncct_shift=_draw_shift(config),
        noise_sd=_draw_noise(config, config.noise_gaussian, config.noise_gaussian_sd),
        noise_factor=_draw_noise(config, config.noise_poisson, config.noise_poisson_factor),
        noise_seed=_draw_noise_seed(config),
        dropped=_draw_dropped(config),
    )


def _draw_warp(config: AugmentConfig) -> DataNode:
    if config.warp == 0:
        return _constant(NO_WARP)
    on = fn.random.coin_flip(probability=config.probability * config.warp)
    turned = fn.transforms.rotation(angle=on * _uniform(config.rotation_degrees))
    factor = on * (1.0 / _uniform(config.scale_limit) - 1.0) + 1.0
    scaled = fn.transforms.scale(turned, scale=fn.stack(factor, factor))
    right, down = on * _uniform(config.shift_pixels), on * _uniform(config.shift_pixels)
    return fn.transforms.translation(scaled, offset=fn.stack(right, down))


def _draw_waves(config: AugmentConfig) -> DataNode:
    """For each direction an amplitude up to the limit, a period within its limits, and any phase."""
    if config.elastic == 0:
        return _constant(NO_WAVES)
    on = fn.random.coin_flip(probability=config.probability * config.elastic)
    waves = []
    for _ in ("right", "down"):
        amplitude = on * _uniform((0.0, config.elastic_pixels))
        frequency = FULL_TURN / _uniform(config.elastic_period_pixels)
        waves.append(fn.stack(amplitude, on * frequency, on * _uniform((0.0, FULL_TURN))))
    return fn.stack(*waves)


def _draw_shift(config: AugmentConfig) -> DataNode:
    if config.misregistration == 0:
        return _constant(np.zeros(2, np.float32))
    on = fn.random.coin_flip(probability=config.probability * config.misregistration)
    most = config.misregistration_pixels
    return on * fn.random.uniform(range=[-most, most], shape=[2])


def _draw_noise(config: AugmentConfig, switch: float, limits: tuple[float, float]) -> DataNode:
    if switch == 0:
        return types.Constant(np.float32(0), device="cpu")
    return fn.random.coin_flip(probability=config.probability * switch) * _uniform(limits)


def _draw_noise_seed(config: AugmentConfig) -> DataNode:
    if config.noise_gaussian == config.noise_poisson == 0:
        return types.Constant(np.int32(0), device="cpu")
    return fn.random.uniform(range=[0.0, float(LARGEST_SEED)], dtype=types.INT32)


def _draw_dropped(config: AugmentConfig) -> DataNode:
    if config.drop_modality == 0:
        return types.Constant(np.int32(0), device="cpu")
    on = fn.random.coin_flip(probability=config.probability * config.drop_modality)
    return on * (1 + fn.random.coin_flip(probability=0.5))


def _draw_switches(config: AugmentConfig) -> dict[str, DataNode]:
    """Which transforms are on: int32, 0 or 1."""
    augmented = fn.random.coin_flip(probability=config.probability)
    if config.selection == "key8":
        key = augmented * _draw_key()
        return {name: key[slot] for name, slot in SLOT_OF.items()}
    return {name: augmented * fn.random.coin_flip(probability=getattr(config, name)) for name in SLOT_OF}


def _draw_key() -> DataNode:
    """int32 [8]: k zeros and 8 - k ones, k from 0 to 7 with even odds, shuffled.

    A slot's place in the shuffled order is how many of eight random numbers lie below its own.
    """
    zeros = fn.random.uniform(values=[float(k) for k in range(KEY_SLOTS)])
    order = fn.random.uniform(range=[0.0, 1.0], shape=[KEY_SLOTS])
    below = fn.reshape(order, shape=[1, KEY_SLOTS]) < fn.reshape(order, shape=[KEY_SLOTS, 1])
    place = fn.reductions.sum(fn.cast(below, dtype=types.FLOAT), axes=[1])
    return fn.cast(place >= zeros, dtype=types.INT32)


def _uniform(limits: tuple[float, float], *, shift: float = 0.0, scale: float = 1.0) -> DataNode:
    low, high = ((limit + shift) * scale for limit in limits)
    # DALI refuses a range whose ends are equal.
    return fn.random.uniform(range=[low, high]) if low < high else low


def _draw_kernel() -> DataNode:
    """A generalised Gaussian, turned, with noise on each cell, of 3, 5 or 7 cells a side, amid zeros.

    As `AdvancedBlur` of albumentations draws it, after Wang et al. 2021, Real-ESRGAN, section 3.1.
    """
    side = np.arange(KERNEL_SIDE, dtype=np.float32) - KERNEL_SIDE // 2
    across, down = np.meshgrid(side, side)
    direction = _constant(np.arctan2(down, across)) - fn.random.uniform(range=list(ANGLE))
    along = math.cos(direction) / fn.random.uniform(range=list(SIGMA))
    athwart = math.sin(direction) / fn.random.uniform(range=list(SIGMA))
    squared = (along * along + athwart * athwart) * _constant(across**2 + down**2)
    weight = math.exp(math.pow(squared, _draw_shape()) * -0.5)
    cells = weight * fn.random.uniform(range=list(KERNEL_NOISE), shape=[KERNEL_SIDE, KERNEL_SIDE])
    reach = fn.random.uniform(values=[1.0, 2.0, 3.0])
    cells = cells * (_constant(np.maximum(np.abs(across), np.abs(down))) <= reach)
    return cells / fn.reductions.sum(cells)


def _draw_shape() -> DataNode:
    """With even odds from 0.5…1 or from 1…8."""
    side = fn.random.uniform(range=[-1.0, 1.0])
    return math.max(side * 0.5, side * 7.0) + 1.0


def _constant(values: NDArray[np.float32]) -> DataNode:
    return types.Constant(values, device="cpu")
