"""What augmentation does to one slice: nodes of a graph while it runs, a plain record when written down.

Off means: no flip, alpha 1, beta 0, gamma 1, no kernel, no clip limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import ConfigError

DataNode = Any  # DALI ships no types
Columns = dict[str, NDArray[Any]]
"""One array a parameter, by name, with one entry a sample."""

Modality = Literal["CTA", "NCCT"]
MODALITIES: tuple[Modality, Modality] = ("CTA", "NCCT")
"""In the order of the channels: the first half are the CTA's, the second the NCCT's."""

NO_WARP = np.eye(2, 3, dtype=np.float32)
NO_WAVES = np.zeros((2, 3), np.float32)

KERNEL_SIDE = 7
"""Every kernel lies amid zeros in a square of this side: zeros change no sum, and OpenCV skips them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Nodes of the graph, or arrays with one entry a sample.

    Attributes:
        hflip, vflip: int32, 1 mirrors left to right, top to bottom.
        levels: int32, 1 changes grey levels by the next three.
        alpha, beta: float32, grey · alpha + beta, beta in grey levels.
        gamma: float64, exponent on grey / 255.
        blur: int32, 1 filters with `kernel`.
        kernel: float32 [7, 7], correlated with the image.
        clahe_clip: float64, OpenCV's clip limit for 8 × 8 tiles; 0 is off.
        warp: float32 [2, 3], leads from a point of the output, in pixels right and down of the centre, to
            where it comes from.
        elastic: float32 [2, 3], two waves: by how many pixels the source of a point lies further right, over
            its row, and further down, over its column; each an amplitude in pixels, radians a pixel, a phase.
        ncct_shift: float32 [2], how far the NCCT moves right and down, in pixels.
        noise_sd: float32, standard deviation of normal noise, in grey levels.
        noise_factor: float32, variance of further noise in multiples of the grey level.
        noise_seed: int32, what that noise is made from.
        dropped: int32, 1 blackens the CTA, 2 the NCCT.
    """

    hflip: DataNode
    vflip: DataNode
    levels: DataNode
    alpha: DataNode
    beta: DataNode
    gamma: DataNode
    blur: DataNode
    kernel: DataNode
    clahe_clip: DataNode
    warp: DataNode
    elastic: DataNode
    ncct_shift: DataNode
    noise_sd: DataNode
    noise_factor: DataNode
    noise_seed: DataNode
    dropped: DataNode


PARAMETER_TYPES: dict[str, type[np.generic]] = {
    "hflip": np.int32,
    "vflip": np.int32,
    "levels": np.int32,
    "alpha": np.float32,
    "beta": np.float32,
    "gamma": np.float64,
    "blur": np.int32,
    "kernel": np.float32,
    "clahe_clip": np.float64,
    "warp": np.float32,
    "elastic": np.float32,
    "ncct_shift": np.float32,
    "noise_sd": np.float32,
    "noise_factor": np.float32,
    "noise_seed": np.int32,
    "dropped": np.int32,
}


class ParameterRecord(TypedDict):
    """The parameters of one sample as plain values.

    `blur_kernel` has k rows of k cells, k odd and at most 7; None is no blur. `clahe_clip` None is no CLAHE.
    `warp` and `elastic` have two rows of three numbers, `ncct_shift` is [right, down] in pixels,
    `noise_gaussian` a standard deviation in grey levels, `noise_poisson` a factor on the grey level,
    `noise_seed` what both are made from, and `dropped` a modality; these are there only
    where they do something.
    """

    hflip: bool
    vflip: bool
    alpha: float
    beta: float
    gamma: float
    blur_kernel: list[list[float]] | None
    clahe_clip: float | None
    warp: NotRequired[list[list[float]]]
    elastic: NotRequired[list[list[float]]]
    ncct_shift: NotRequired[list[float]]
    noise_gaussian: NotRequired[float]
    noise_poisson: NotRequired[float]
    noise_seed: NotRequired[int]
    dropped: NotRequired[Modality]


def beside(images: DataNode, node: DataNode) -> DataNode:
    """The node on the device of the images."""
    return node.gpu() if images.device == "gpu" else node


def in_order(parameters: Parameters) -> tuple[Any, ...]:
    """The parameters one after the other, as a graph gives them out."""
    return tuple(getattr(parameters, field.name) for field in fields(Parameters))


def to_records(columns: Columns) -> list[ParameterRecord]:
    """One record a sample."""
    batch = Parameters(**columns)
    return [_to_record(batch, place) for place in range(len(batch.hflip))]


def _to_record(batch: Parameters, place: int) -> ParameterRecord:
    record = ParameterRecord(
        hflip=bool(batch.hflip[place]),
        vflip=bool(batch.vflip[place]),
        alpha=float(batch.alpha[place]),
        beta=float(batch.beta[place]),
        gamma=float(batch.gamma[place]),
        blur_kernel=_cells(batch.kernel[place]) if batch.blur[place] else None,
        clahe_clip=float(batch.clahe_clip[place]) or None,
    )
    if (batch.warp[place] != NO_WARP).any():
        record["warp"] = batch.warp[place].astype(float).tolist()
    if batch.elastic[place][:, 0].any():
        record["elastic"] = batch.elastic[place].astype(float).tolist()
    if batch.ncct_shift[place].any():
        record["ncct_shift"] = batch.ncct_shift[place].astype(float).tolist()
    if batch.noise_sd[place]:
        record["noise_gaussian"] = float(batch.noise_sd[place])
    if batch.noise_factor[place]:
        record["noise_poisson"] = float(batch.noise_factor[place])
    if batch.noise_sd[place] or batch.noise_factor[place]:
        record["noise_seed"] = int(batch.noise_seed[place])
    if batch.dropped[place]:
        record["dropped"] = MODALITIES[batch.dropped[place] - 1]
    return record


def from_records(records: Sequence[ParameterRecord]) -> Columns:
    """The records as columns.

    Raises:
        ConfigError: a kernel is not a square of odd side up to 7.
    """
    columns: dict[str, list[Any]] = {name: [] for name in PARAMETER_TYPES}
    for record in records:
        for name in ("hflip", "vflip", "alpha", "beta", "gamma"):
            columns[name].append(record[name])
        columns["levels"].append((record["alpha"], record["beta"], record["gamma"]) != (1, 0, 1))
        kernel = record["blur_kernel"]
        columns["blur"].append(kernel is not None)
        columns["kernel"].append(_amid_zeros([[0.0]] if kernel is None else kernel))
        columns["clahe_clip"].append(record["clahe_clip"] or 0.0)
        columns["warp"].append(record.get("warp", NO_WARP))
        columns["elastic"].append(record.get("elastic", NO_WAVES))
        columns["ncct_shift"].append(record.get("ncct_shift", [0.0, 0.0]))
        columns["noise_sd"].append(record.get("noise_gaussian", 0.0))
        columns["noise_factor"].append(record.get("noise_poisson", 0.0))
        columns["noise_seed"].append(record.get("noise_seed", 0))
        columns["dropped"].append(MODALITIES.index(record["dropped"]) + 1 if "dropped" in record else 0)
    return {name: np.asarray(columns[name], PARAMETER_TYPES[name]) for name in PARAMETER_TYPES}


def _cells(kernel: NDArray[np.float32]) -> list[list[float]]:
    """The kernel without the zeros it lies amid; the smallest has 3 × 3 cells."""
    centre = KERNEL_SIDE // 2
    distance = np.abs(np.arange(KERNEL_SIDE) - centre)
    used = np.maximum.outer(distance, distance)[kernel != 0]
    reach = max(1, int(used.max(initial=0)))
    inner = slice(centre - reach, centre + reach + 1)
    cells: list[list[float]] = kernel[inner, inner].astype(float).tolist()
    return cells


def _amid_zeros(cells: list[list[float]]) -> NDArray[np.float32]:
    kernel = np.asarray(cells, np.float32)
    side = len(kernel)
    if kernel.shape != (side, side) or side % 2 == 0 or side > KERNEL_SIDE:
        raise ConfigError(
            f"a blur kernel of shape {kernel.shape} cannot be applied",
            where="blur_kernel",
            fix=f"give k rows of k cells, k odd and at most {KERNEL_SIDE}",
        )
    return np.pad(kernel, (KERNEL_SIDE - side) // 2)
