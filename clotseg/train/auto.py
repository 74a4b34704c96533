"""Settings that are `auto`: slices, clots, devices and memory in; values out, each with the reason for it.

What is chosen goes into the run's record, and a run that is gone on with takes it from there: another machine
would choose otherwise.
"""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clotseg.config import Config, TrainConfig, WindowHU, settled
from clotseg.dali.feed import SlicedCohort, padded_size
from clotseg.prep.cohorts import Cohorts
from clotseg.telemetry import available_bytes
from clotseg.train.devices import Devices
from clotseg.train.unet import largest_depth

Value = int | tuple[WindowHU, ...]

COARSEST_SIDE = 6
"""Pixels a side that the coarsest level keeps; nnU-Net halves down to 4 to 7 (Isensee et al. 2021)."""
DEEPEST = 5
FILTERS_ON_GPU, FILTERS_ON_CPU = 32, 16
BATCH = 16
SMALLEST_BATCH = 2
SHARE_OF_SLICES = 0.05
"""Of the cohort that a batch is at most, as in nnU-Net."""
SHARE_OF_MEMORY = 0.5
FLOATS_A_PIXEL = 34
"""A training keeps for each pixel and filter: 17 maps at full resolution, as much on all levels below."""
FURTHER_CTA_HU, FURTHER_NCCT_HU = (0.0, 200.0), (30.0, 80.0)
"""Where tissue and clot lie in CTA, and a window for strokes in NCCT; docs/recipes.md has what they give."""
STEPS_ON_GPU, STEPS_ON_CPU = 25_000, 3_000
FEWEST_EPOCHS, MOST_EPOCHS = 10, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the choices rest on.

    Attributes:
        largest_slice: longest side of a slice in any cohort, pixels.
        slices: of the training cohort.
        slices_an_epoch: that are drawn.
        pixel_mm: median side of a pixel, mm; None where spacings are unknown.
        on_gpu: whether the network is trained on GPUs.
        memory_bytes: that a replica can have; None where it is unknown.
        replicas: that share a batch.
    """

    largest_slice: int
    slices: int
    slices_an_epoch: int
    pixel_mm: float | None
    on_gpu: bool
    memory_bytes: int | None
    replicas: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A setting by its dotted name, what it was set to, and why."""

    setting: str
    value: Value
    reason: str

    def __str__(self) -> str:
        return f"{self.setting} = {json.dumps(self.value)}: {self.reason}"


def slices_an_epoch(config: TrainConfig, training: SlicedCohort) -> int:
    """How many slices of the cohort are drawn."""
    return training.records if config.train_samples == "all" else config.train_samples


def facts_of(config: Config, cohorts: Cohorts, training: SlicedCohort, devices: Devices) -> Facts:
    """Looks the facts up.

    Several workers are told of no memory: each would see its own, and all must choose the same.
    """
    spacings = [entry.case.spacing_mm for entry in cohorts.cases.values() if entry.case.spacing_mm]
    return Facts(
        largest_slice=cohorts.largest_slice,
        slices=training.records,
        slices_an_epoch=slices_an_epoch(config.train, training),
        pixel_mm=statistics.median(math.sqrt(row * column) for row, column, _ in spacings)
        if spacings
        else None,
        on_gpu=not devices.on_cpu,
        memory_bytes=available_bytes(devices.gpus) if devices.workers == 1 else None,
        replicas=devices.replicas,
    )


def choose(config: Config, facts: Facts) -> tuple[Choice, ...]:
    """A choice for each setting that is `auto`."""
    choices: list[Choice] = []
    for setting, rule in RULES:
        section, name = setting.split(".")
        if getattr(getattr(config, section), name) == "auto":
            value, reason = rule(config, facts)
            choices.append(Choice(setting=setting, value=value, reason=reason))
            config = settled_by(config, choices[-1:])
    return tuple(choices)


def settled_by(config: Config, choices: Sequence[Choice]) -> Config:
    """The settings with choices in the place of `auto`."""
    for choice in choices:
        section, name = choice.setting.split(".")
        changed = replace(getattr(config, section), **{name: choice.value})
        config = replace(config, **{section: changed})
    return config


def _depth(config: Config, facts: Facts) -> tuple[int, str]:
    shallowest = 1 + int(math.log2(config.network.fold))
    depth = int(math.log2(max(facts.largest_slice, 2) / COARSEST_SIDE))
    depth = max(shallowest, min(DEEPEST, depth))
    size, seen = config.feed.size, ""
    if size != "auto" and size % 2**depth:
        halvings = max(shallowest, largest_depth(size))
        return halvings, f"{size} pixels can be halved no more than {halvings} times"
    if facts.pixel_mm is not None:
        seen = f", so that it sees pixels of {facts.pixel_mm * 2**depth:.3g} mm there"
    return (
        depth,
        f"slices of {facts.largest_slice} pixels keep {COARSEST_SIDE} or more at the coarsest level{seen}",
    )


def _size(config: Config, facts: Facts) -> tuple[int, str]:
    step = 2 ** settled(config.network.depth)
    return padded_size(facts.largest_slice, step), f"the smallest multiple of {step} that holds all slices"


def _filters(_config: Config, facts: Facts) -> tuple[int, str]:
    if facts.on_gpu:
        return FILTERS_ON_GPU, "as usual on a GPU"
    return FILTERS_ON_CPU, "half of what is usual on a GPU, as a step then takes about a third of the time"


def _batch(config: Config, facts: Facts) -> tuple[int, str]:
    side, filters = settled(config.feed.size) // config.network.fold, settled(config.network.filters)
    batch, reason = BATCH, "as usual"
    if facts.on_gpu and facts.replicas > 1:
        batch, reason = BATCH * facts.replicas, f"{BATCH} for each of {facts.replicas} GPUs"
    share = max(SMALLEST_BATCH, int(facts.slices * SHARE_OF_SLICES))
    if share < batch:
        batch, reason = share, f"{SHARE_OF_SLICES:.0%} of {facts.slices} slices"
    if facts.memory_bytes is not None:
        slice_bytes = 4 * FLOATS_A_PIXEL * filters * side * side
        room = facts.replicas * int(SHARE_OF_MEMORY * facts.memory_bytes / slice_bytes)
        if room < batch:
            of = f"{facts.memory_bytes / 2**30:.3g} GiB at {slice_bytes / 2**20:.3g} MiB a slice"
            batch, reason = room, f"what {SHARE_OF_MEMORY:.0%} of {of} holds"
    even = max(1, batch // facts.replicas) * facts.replicas
    return even, reason if even == batch else f"{reason}, shared evenly by {facts.replicas} replicas"


def _cta_windows(config: Config, _facts: Facts) -> tuple[Value, str]:
    return _further("CTA", FURTHER_CTA_HU, config.slice.cta_window_hu)


def _ncct_windows(config: Config, _facts: Facts) -> tuple[Value, str]:
    return _further("NCCT", FURTHER_NCCT_HU, config.slice.ncct_window_hu)


def _further(volume: str, usual: WindowHU, sliced: WindowHU) -> tuple[Value, str]:
    """The usual further window as far as slices reach, unless it would show nothing that they do not."""
    low, high = max(usual[0], sliced[0]), min(usual[1], sliced[1])
    whole = f"{volume} from {sliced[0]:g} to {sliced[1]:g} HU"
    if low >= high or (low, high) == sliced:
        return (), f"slices have {whole}, and {usual[0]:g} to {usual[1]:g} HU would show nothing more"
    return ((low, high),), f"where clot and tissue lie, beside {whole}"


def _epochs(config: Config, facts: Facts) -> tuple[int, str]:
    steps = STEPS_ON_GPU if facts.on_gpu else STEPS_ON_CPU
    an_epoch = -(-facts.slices_an_epoch // settled(config.train.batch_size))
    epochs = min(max(-(-steps // an_epoch), FEWEST_EPOCHS), MOST_EPOCHS)
    return epochs, f"{steps} steps, of which an epoch has {an_epoch}; at least {FEWEST_EPOCHS}"


RULES: tuple[tuple[str, Callable[[Config, Facts], tuple[Value, str]]], ...] = (
    ("network.cta_windows_hu", _cta_windows),
    ("network.ncct_windows_hu", _ncct_windows),
    ("network.depth", _depth),
    ("feed.size", _size),
    ("network.filters", _filters),
    ("train.batch_size", _batch),
    ("train.epochs", _epochs),
)
"""Each needs those before it."""
