"""What feeds slices to a network: clotseg, and what a user would take instead, behind the same few lines.

All are given the same slices of one synthetic cohort and do the same: read, the six transforms of the
original under its probabilities, zeros around to a square, float32 image in 0…1 and float32 mask, shuffled,
batches in the framework's own tensor. Each is a module of this package with

    TITLE         what it is called in a table
    NEEDS         the modules it imports, beyond what clotseg itself depends on
    settings(cores)                                        what to try; the fastest is what is compared
    open_feed(data, batch, setting, augmented, device)     a Feed, ready to start

and is run in a process of its own (`peers.served`), since they take threads and memory from one another.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

Setting = dict[str, Any]
"""What can be chosen for a peer: workers, threads, what is made ahead."""

PEERS = (
    "ours",
    "tfdata_albumentations",
    "tfdata_native",
    "torch_loader",
    "keras_pydataset",
    "dali_npy",
    "grain_records",
)
"""The modules; the first is clotseg, which all others are held against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The slices of one cohort, the same in each form that somebody reads.

    Attributes:
        side: rows and columns of every slice.
        size: side of the square that they are padded to.
        shards: TFRecord files as clotseg writes them, each with its DALI index.
        images: .npy files, uint8 [side, side, 2], by uid.
        masks: .npy files, uint8 0/1 [side, side], by uid.
        array_record: uint8 [side, side, 3] a record, image and mask; None where the library is missing.
    """

    side: int
    size: int
    shards: tuple[Path, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    array_record: Path | None

    @property
    def slices(self) -> int:
        """How many there are."""
        return len(self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """A peer that is open.

    Attributes:
        take_pass: gives the batches of one pass, (images [N, size, size, 2], masks); all full, so slices that
            fill no batch are left out.
        ahead: slices that may lie ready when a pass begins. They are drawn before the clock is started,
            or else work would be counted that was done before.
        finish: waits until what was handed over has been made, where that is not so at once.
    """

    take_pass: Callable[[], Iterator[tuple[Any, Any]]]
    ahead: int = 0
    finish: Callable[[Any], None] = lambda _: None


def load(name: str) -> ModuleType:
    """The module of a peer."""
    return importlib.import_module(f"{__name__}.{name}")


def missing(name: str) -> list[str]:
    """The libraries that a peer needs and that are not installed."""
    return [library for library in load(name).NEEDS if importlib.util.find_spec(library) is None]
