"""Rules that tie several settings together: a configuration in; a line for each that is broken out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clotseg.config import Config

LIMITS = (
    *("brightness_limit", "contrast_limit", "gamma_limit", "clahe_limit"),
    *("rotation_degrees", "scale_limit", "shift_pixels", "elastic_period_pixels"),
    *("noise_gaussian_sd", "noise_poisson_factor"),
)
"""Of [augment]: the lowest and the highest that is drawn."""
ABOVE_ZERO = (
    "gamma_limit",
    "clahe_limit",
    "scale_limit",
    "elastic_period_pixels",
    "noise_gaussian_sd",
    "noise_poisson_factor",
)
"""Those of them that are of no use at 0 or below."""


def broken_rules(config: "Config") -> list[str]:
    """What does not go together, a line each, with the settings by their dotted names."""
    return [line for rule in (_cohorts, _windows, _limits, _halvings, _batches) for line in rule(config)]


def nearest_batches(batch_size: int, replicas: int) -> str:
    """The batch sizes below and above that replicas can share evenly, for people."""
    below = batch_size // replicas * replicas
    return " or ".join(str(size) for size in (below, below + replicas) if size)


def _cohorts(config: "Config") -> Iterator[str]:
    split = config.split
    if not split.folds and split.train_perc + split.val_perc >= 1:
        yield "split: train_perc + val_perc must leave something for the test cohort (below 1)"
    if split.folds == 1 or split.fold > max(split.folds, 1):
        yield (
            f"split.fold = {split.fold} of split.folds = {split.folds}: "
            "there must be 2 folds or more, and fold is one of 1 to folds"
        )
    if split.file and (split.folds or split.stratify):
        yield "split.file says who belongs where: it cannot go with split.folds or split.stratify"
    if len(set(split.stratify)) != len(split.stratify):
        yield "split.stratify: names a property twice"


def _windows(config: "Config") -> Iterator[str]:
    for name in ("cta_window_hu", "ncct_window_hu"):
        low, high = getattr(config.slice, name)
        if not low < high:
            yield f"slice.{name}: the low end {low} must lie below the high end {high}"
        further = name.replace("window", "windows")
        windows = getattr(config.network, further)
        for first, last in () if windows == "auto" else windows:
            if not low <= first < last <= high:
                window = f"network.{further}: [{first}, {last}]"
                yield f"{window} must rise, and lie within slice.{name} = [{low}, {high}]"


def _limits(config: "Config") -> Iterator[str]:
    for name in LIMITS:
        low, high = getattr(config.augment, name)
        if not low <= high:
            yield f"augment.{name}: the low end {low} must not lie above the high end {high}"
        if name in ABOVE_ZERO and low <= 0:
            yield f"augment.{name}: must be above 0"


def _halvings(config: "Config") -> Iterator[str]:
    size, depth, fold = config.feed.size, config.network.depth, config.network.fold
    step = 2 * fold if depth == "auto" else 2**depth
    if size != "auto" and size % step:
        times = f"{'at least ' if depth == 'auto' else ''}{step.bit_length() - 1} times"
        yield f"feed.size = {size}: slices are halved {times}, so the size must be a multiple of {step}"
    if depth != "auto" and 2**depth <= fold:
        yield f"network.fold = {fold} leaves no level of network.depth = {depth}"


def _batches(config: "Config") -> Iterator[str]:
    batch, replicas = config.train.batch_size, config.runtime.replicas
    if batch != "auto" and batch % replicas:
        uneven = f"train.batch_size = {batch} cannot be shared evenly by {replicas} replicas"
        yield f"{uneven}; nearest: {nearest_batches(batch, replicas)}"
