"""Applies augmentation parameters in the DALI graph: uint8 HWC images and masks in, the same out.

In the order of the original: flips, brightness and contrast, gamma, blur, CLAHE; then what the original
lacks, but for warp and elastic, which come after the flips. All channels of an image, CTA, NCCT and their
neighbours alike, share the parameters of the original's six; the mask gets flips, warp and elastic alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import do_not_convert

from clotseg.config import AugmentConfig
from clotseg.dali.augment.clahe import equalise
from clotseg.dali.augment.noise import add_noise
from clotseg.dali.augment.on_cpu import altered
from clotseg.dali.augment.packed import packed
from clotseg.dali.augment.parameters import (
    NO_WARP,
    PARAMETER_TYPES,
    Columns,
    DataNode,
    Parameters,
    beside,
)
from clotseg.dali.augment.sampler import LARGEST_GREY

PACKED = "packed"
"""Stands for all parameters of the original's six, which the compiled function takes in one piece."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What must be known of slices and parameters when a graph is built; what is off everywhere is left out.

    Attributes:
        channels: C of every image.
        largest_side: no slice has more rows or columns.
        flips: whether some slice is mirrored.
        grades: whether some slice's grey levels are changed.
        blurs: whether some slice is filtered.
        clahe_clips: every clip limit lies between these two; None is no CLAHE.
        warps: whether some slice is turned, scaled or moved.
        bends: whether some slice is bent along waves.
        shifts: whether some NCCT is moved.
        noises: whether some slice gets noise.
        drops: whether some modality is blackened.
    """

    channels: int
    largest_side: int
    flips: bool = False
    grades: bool = False
    blurs: bool = False
    clahe_clips: tuple[float, float] | None = None
    warps: bool = False
    bends: bool = False
    shifts: bool = False
    noises: bool = False
    drops: bool = False

    @property
    def moves(self) -> bool:
        """Whether slices are turned or bent, which comes between the flips and the rest of the six."""
        return self.warps or self.bends

    @property
    def more_than_six(self) -> bool:
        """Whether something is done that the original lacks, for which there are DALI's operators alone."""
        return self.moves or self.shifts or self.noises or self.drops

    def parameters(self, *, compiled: bool) -> tuple[str, ...]:
        """Names of the parameters that such a graph makes use of, `PACKED` for those that are packed."""
        six = self.flips or self.grades or self.blurs or self.clahe_clips is not None
        used = {
            (PACKED,): compiled and six,
            ("hflip", "vflip"): self.flips and (self.moves or not compiled),
            ("levels", "alpha", "beta", "gamma"): self.grades and not compiled,
            ("blur", "kernel"): self.blurs and not compiled,
            ("clahe_clip",): self.clahe_clips is not None and not compiled,
            ("warp",): self.warps,
            ("elastic",): self.bends,
            ("ncct_shift",): self.shifts,
            ("noise_sd", "noise_factor", "noise_seed"): self.noises,
            ("dropped",): self.drops,
        }
        return tuple(name for names, on in used.items() if on for name in names)


def bounds_of(config: AugmentConfig, *, channels: int, largest_side: int) -> Bounds:
    """The bounds of what `draw` draws for slices of up to this side."""
    if config.probability == 0:
        return Bounds(channels=channels, largest_side=largest_side)
    by_key = config.selection == "key8"
    return Bounds(
        channels=channels,
        largest_side=largest_side,
        flips=bool(config.flips),
        grades=by_key or config.brightness_contrast + config.gamma > 0,
        blurs=by_key or config.blur > 0,
        clahe_clips=config.clahe_limit if by_key or config.clahe > 0 else None,
        warps=config.warp > 0,
        bends=config.elastic > 0,
        shifts=config.misregistration > 0,
        noises=config.noise_gaussian > 0 or config.noise_poisson > 0,
        drops=config.drop_modality > 0,
    )


def transform(
    images: DataNode,
    masks: DataNode,
    source: Callable[[int], Columns],
    bounds: Bounds,
    *,
    compiled: bool | None = None,
) -> tuple[DataNode, DataNode]:
    """Applies parameters. Must be called under `pipeline_def(enable_conditionals=True)`.

    Args:
        images, masks: uint8 HWC.
        source: gives the parameters of each batch by its number, from 0.
        bounds: what they keep to.
        compiled: whether the original's six are compiled functions instead of operators, which only a CPU
            can run; None is where it can.
    """
    if compiled is None:
        compiled = images.device == "cpu"
    parameters, packed_parameters = _given(source, bounds, compiled)
    if parameters.hflip is not None:
        images = fn.flip(images, horizontal=parameters.hflip, vertical=parameters.vflip)
        masks = fn.flip(masks, horizontal=parameters.hflip, vertical=parameters.vflip)
    if bounds.warps:
        images, masks = _warp(images, masks, parameters.warp)
    if bounds.bends:
        images, masks = _bend(images, masks, parameters.elastic, bounds.largest_side)
    if packed_parameters is not None:
        images, masks = altered(images, masks, packed_parameters)
    if not compiled:
        images = _change_and_filter(images, parameters, bounds)
    if bounds.shifts:
        images = _move_ncct(images, parameters.ncct_shift, bounds.channels // 2)
    if bounds.noises:
        images = _make_noisy(images, parameters, bounds)
    if bounds.drops:
        images = _blacken(images, parameters.dropped, bounds.channels // 2)
    return images, masks


@do_not_convert  # type: ignore[untyped-decorator]
def _given(
    source: Callable[[int], Columns], bounds: Bounds, compiled: bool
) -> tuple[Parameters, DataNode | None]:
    """Nodes for the parameters that the graph makes use of, and one for those that are packed, if any."""
    names = bounds.parameters(compiled=compiled)

    def batch(number: int) -> tuple[NDArray[Any], ...]:
        columns = source(number)
        return tuple(
            packed(columns, flips=not bounds.moves) if name == PACKED else columns[name] for name in names
        )

    nodes = fn.external_source(source=batch, num_outputs=len(names)) if names else ()
    by_name = dict(zip(names, nodes, strict=True))
    packed_parameters = by_name.pop(PACKED, None)
    return Parameters(**{**dict.fromkeys(PARAMETER_TYPES), **by_name}), packed_parameters


def _change_and_filter(images: DataNode, parameters: Parameters, bounds: Bounds) -> DataNode:
    if bounds.grades:
        images = _change_levels(images, parameters)
    if bounds.blurs:
        images = _blur(images, parameters)
    if bounds.clahe_clips is not None:
        images = _equalise(images, parameters.clahe_clip, bounds, bounds.clahe_clips)
    return images


def _blur(images: DataNode, parameters: Parameters) -> DataNode:
    blurred = images
    if parameters.blur == 1:
        blurred = fn.filter(images, beside(images, parameters.kernel))
    return blurred


def _equalise(images: DataNode, clip: DataNode, bounds: Bounds, clips: tuple[float, float]) -> DataNode:
    equalised = images
    if clip > 0.0:
        equalised = equalise(
            images,
            clip,
            channels=bounds.channels,
            largest_side=bounds.largest_side,
            clips=clips,
        )
    return equalised


def _warp(images: DataNode, masks: DataNode, matrix: DataNode) -> tuple[DataNode, DataNode]:
    """Linear for the image, nearest for the mask; black comes in at the edge."""
    warped, warped_masks = images, masks
    if fn.reductions.max(math.abs(matrix - types.Constant(NO_WARP, device="cpu"))) > 0.0:
        sides = fn.cast(images.shape()[:2], dtype=types.FLOAT)
        centre = fn.stack(sides[1], sides[0]) * 0.5
        whole = fn.transforms.combine(fn.transforms.translation(offset=centre * -1.0), matrix)
        whole = fn.transforms.translation(whole, offset=centre)
        warped = fn.warp_affine(images, matrix=whole, fill_value=0.0)
        nearest = types.DALIInterpType.INTERP_NN
        warped_masks = fn.warp_affine(masks, matrix=whole, fill_value=0.0, interp_type=nearest)
    return warped, warped_masks


def _bend(images: DataNode, masks: DataNode, waves: DataNode, largest_side: int) -> tuple[DataNode, DataNode]:
    """Shears rows, then columns: linear for the image, nearest for the mask; black comes in at the edge.

    Shears keep areas and never fold, whatever the waves. The image is rounded once, after both.
    """
    bent, bent_masks = images, masks
    if fn.reductions.max(math.abs(waves[:, 0])) > 0.0:
        linear, nearest = types.DALIInterpType.INTERP_LINEAR, types.DALIInterpType.INTERP_NN
        bent = _shear_rows(images, waves[0], largest_side, linear, types.FLOAT)
        bent = _transposed(_shear_rows(_transposed(bent), waves[1], largest_side, linear, types.UINT8))
        bent_masks = _shear_rows(masks, waves[0], largest_side, nearest, types.UINT8)
        bent_masks = _shear_rows(_transposed(bent_masks), waves[1], largest_side, nearest, types.UINT8)
        bent_masks = _transposed(bent_masks)
    return bent, bent_masks


def _shear_rows(
    images: DataNode,
    wave: DataNode,
    largest_side: int,
    interpolation: types.DALIInterpType,
    dtype: types.DALIDataType,
) -> DataNode:
    """Moves each row along itself by what the wave is there: as a video, each row a frame of one row.

    DALI's `water`, which would bend a slice at once, takes one wave for all slices, and `remap` needs a GPU.
    """
    rows = types.Constant(np.arange(largest_side, dtype=np.float32), device="cpu")[: images.shape()[0]]
    along = fn.reshape(wave[0] * math.sin(rows * wave[1] + wave[2]), shape=[-1, 1, 1])
    to_the_right = np.array([[[0, 0, 1], [0, 0, 0]]], np.float32)
    matrices = along * types.Constant(to_the_right, device="cpu") + types.Constant(
        NO_WARP[np.newaxis], device="cpu"
    )
    frames = fn.reshape(fn.expand_dims(images, axes=[1], new_axis_names="F"), layout="FHWC")
    sheared = fn.warp_affine(
        frames, matrix=fn.per_frame(matrices), fill_value=0.0, interp_type=interpolation, dtype=dtype
    )
    return fn.reshape(fn.squeeze(sheared, axes=[1]), layout="HWC")


def _transposed(images: DataNode) -> DataNode:
    return fn.transpose(images, perm=[1, 0, 2], transpose_layout=False)


def _move_ncct(images: DataNode, shift: DataNode, half: int) -> DataNode:
    """By fractions of a pixel, linearly between neighbours; black comes in at the edge."""
    moved = images
    if fn.reductions.max(math.abs(shift)) > 0.0:
        back = fn.transforms.translation(offset=shift * -1.0)
        ncct = fn.warp_affine(images[:, :, half:], matrix=back, fill_value=0.0)
        moved = fn.cat(images[:, :, :half], ncct, axis=2)
    return moved


def _make_noisy(images: DataNode, parameters: Parameters, bounds: Bounds) -> DataNode:
    noisy = images
    if parameters.noise_sd + parameters.noise_factor > 0.0:
        noisy = add_noise(
            images,
            parameters.noise_sd,
            parameters.noise_factor,
            parameters.noise_seed,
            channels=bounds.channels,
            largest_side=bounds.largest_side,
        )
    return noisy


def _blacken(images: DataNode, dropped: DataNode, half: int) -> DataNode:
    first_half = np.repeat(np.array([1, 0], np.uint8), half).reshape(1, 1, -1)
    kept = images
    if dropped == 1:
        kept = images * beside(images, types.Constant(1 - first_half, device="cpu"))
    elif dropped == 2:
        kept = images * beside(images, types.Constant(first_half, device="cpu"))
    return kept


def _change_levels(images: DataNode, parameters: Parameters) -> DataNode:
    changed = images
    if parameters.levels == 1:
        changed = _levels(images, parameters)
    return changed


def _levels(grey: DataNode, parameters: Parameters) -> DataNode:
    """Brightness and contrast in single, then gamma in double precision, as albumentations has them.

    With gamma 1 the second changes no level; in single precision it would tip a few over. DALI holds
    constants in single precision, which is exact for 255 but not for 1/255.
    """
    alpha, beta, gamma = (
        beside(grey, node) for node in (parameters.alpha, parameters.beta, parameters.gamma)
    )
    linear = math.floor(math.clamp(grey * alpha + beta, 0.0, LARGEST_GREY))
    power = math.pow(fn.cast(linear, dtype=types.FLOAT64) / LARGEST_GREY, gamma) * LARGEST_GREY
    return fn.cast(math.floor(power), dtype=types.UINT8)
