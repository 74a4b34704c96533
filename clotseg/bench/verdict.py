"""The verdict: how fast each stage is in, which holds training up and what to change out.

On a GPU input is made while the step before is computed, so the slower of the two sets the pace. On the CPU
both take turns at the same cores, so their times add up, and what takes the largest part of a slice's time is
what holds training up.
"""

from dataclasses import dataclass
from typing import Literal

CLOSE = 0.95
"""What differs by less than a twentieth is taken as equal: repeats differ by as much."""

Bottleneck = Literal["step", "disk", "reading", "augmentation", "hand-over", "waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Slices a second of each stage, and what else the verdict rests on.

    Attributes:
        disk, memory: shards read from the disk and from the page cache.
        plain: DALI alone, without augmentation.
        augmented: the same with it; None where training does not augment.
        feed: batches handed to TensorFlow, augmented if training does.
        constant: the step on one batch.
        training: the step on the feed.
        on_cpu: whether network and input share the processor.
        spare_threads: cores that DALI has no thread for.
        prefetch: batches made ahead for each replica.
        cohort_bytes: of all training shards.
        memory_bytes: of the machine.
    """

    disk: float
    memory: float
    plain: float
    augmented: float | None
    feed: float
    constant: float
    training: float
    on_cpu: bool
    spare_threads: int
    prefetch: int
    cohort_bytes: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What holds training up.

    Attributes:
        bottleneck: the stage.
        told: why, with the figures.
        change: which setting to change; None where none follows from the figures.
        notes: what else the figures say.
    """

    bottleneck: Bottleneck
    told: str
    change: str | None
    notes: tuple[str, ...] = ()


def judge(figures: Figures) -> Verdict:
    """Finds the bottleneck."""
    bottleneck = _bottleneck(figures)
    return Verdict(
        bottleneck=bottleneck,
        told=_told(bottleneck, figures),
        change=_change(bottleneck, figures),
        notes=tuple(_notes(figures)),
    )


def _bottleneck(figures: Figures) -> Bottleneck:
    if figures.training >= CLOSE * figures.constant:
        return "step"
    if _outgrows_memory(figures) and figures.disk < min(figures.constant, figures.feed):
        return "disk"
    costs = _input_costs(figures)
    dearest = max(costs, key=lambda stage: costs[stage])
    if figures.on_cpu:
        return dearest if costs[dearest] > 1 / figures.constant else "step"
    return dearest if figures.feed < CLOSE * figures.constant else "waiting"


def _input_costs(figures: Figures) -> dict[Bottleneck, float]:
    """Seconds that each part of the input adds to a slice."""
    last = figures.augmented or figures.plain
    return {
        "reading": 1 / figures.plain,
        "augmentation": max(0.0, 1 / last - 1 / figures.plain),
        "hand-over": max(0.0, 1 / figures.feed - 1 / last),
    }


def _outgrows_memory(figures: Figures) -> bool:
    return figures.cohort_bytes > figures.memory_bytes


def _told(bottleneck: Bottleneck, figures: Figures) -> str:
    share = f"training runs at {min(1, figures.training / figures.constant):.0%} of its step's speed"
    pace = f"the feed gives {figures.feed:.0f} slices/s, the step takes {figures.constant:.0f}"
    without = f"{figures.plain:.0f} slices/s come without augmentation, {figures.feed:.0f} with it"
    own = 1 / figures.constant / (1 / figures.constant + 1 / figures.feed)
    waits = figures.training < CLOSE * figures.constant
    return {
        "step": f"{share}: the network's own arithmetic "
        + (f"takes {own:.0%} of a slice's time, its input the rest" if waits else "sets the pace"),
        "disk": f"{share}: the shards outgrow the memory, and the disk gives {figures.disk:.0f} slices/s",
        "reading": f"{share}: reading, decoding and padding take most of the input's time; {pace}",
        "augmentation": f"{share}: augmentation takes most of the input's time; {without}",
        "hand-over": f"{share}: handing batches to TensorFlow takes most of the input's time; {pace}",
        "waiting": f"{share}, though {pace}: each alone is fast enough, but they wait for one another",
    }[bottleneck]


def _change(bottleneck: Bottleneck, figures: Figures) -> str | None:
    threads = "give DALI more threads: `[runtime] threads`" if figures.spare_threads > 0 else None
    if bottleneck == "reading":
        return threads
    if bottleneck == "augmentation":
        gain = f"switch transforms off in `[augment]`: at most {_without(figures):.0f} slices/s follow"
        return (threads if figures.on_cpu else None) or gain  # A GPU augments without these threads.
    if bottleneck == "waiting":
        return f"make more batches ahead: `[runtime] prefetch`, now {figures.prefetch}"
    if bottleneck == "disk":
        return "none: a faster disk, or more memory than the shards take"
    return None


def _without(figures: Figures) -> float:
    """How fast training could be at most without augmentation."""
    if figures.on_cpu:
        return 1 / (1 / figures.plain + 1 / figures.constant)
    return min(figures.plain, figures.constant)


def _notes(figures: Figures) -> list[str]:
    notes = []
    if figures.disk >= CLOSE * figures.memory:
        notes.append("the disk reads as fast as memory: its file system may have kept the files there")
    elif figures.disk < figures.training and not _outgrows_memory(figures):
        notes.append(
            f"the first epoch reads from the disk, {figures.disk:.0f} slices/s; later ones find the shards "
            "in memory, if nothing else needs it"
        )
    if not figures.on_cpu and figures.feed > figures.constant:
        notes.append(
            f"the feed could keep up with a step {figures.feed / figures.constant:.1f} times as fast"
        )
    return notes
