"""How near the feed comes to its own bound: the sum of what its parts take, each alone.

    python benchmarks/feed_bound.py [--sides 96 160 256] [--batch 20] [--repeats 5] [--device gpu]

On the same slices, in turns, in one process with the threads that training takes:

    feed       what training opens: read, augment, pad to 256², cast, hand over to TensorFlow
    plain      the same without augmentation: read, pad, cast, hand over
    augment    the augmentation of training alone, on slices that lie in memory
    read       records read from the page cache, in the order of the files; a part of `plain`, to know

The bound is what `plain` and `augment` take one after the other, since each of them keeps all cores busy: 1 /
(1 / plain + 1 / augment) slices a second, and the sum of their processor seconds. A feed of 0.9 of it loses a
tenth to what holds the parts together. Opening an epoch counts in `feed` and `plain`, so --slices is to be as
large as epochs are; what it takes is told apart.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from augment import build_ours
from peers import Data
from peers.cohort import write_data
from peers.ours import open_feed, settings

SIZE = 256
RECORDS = 1280
PARTS = ("feed", "plain", "augment", "read")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What one part took for so many slices: wall and processor seconds."""

    slices: int
    wall_s: float
    cpu_s: float

    @property
    def speed(self) -> float:
        """Slices a second."""
        return self.slices / self.wall_s

    @property
    def cost_s(self) -> float:
        """Processor seconds for 1000 slices."""
        return 1000 * self.cpu_s / self.slices


def fed(data: Data, arguments: argparse.Namespace, *, augmented: bool) -> Callable[[], int]:
    """Feeds an epoch, batch by batch."""
    (setting,) = settings(len(os.sched_getaffinity(0)))
    feed = open_feed(
        data,
        arguments.batch,
        setting,
        augmented=augmented,
        device=arguments.device,
        samples=arguments.slices,
    )

    def take() -> int:
        count = 0
        for images, _ in feed.take_pass():
            count += len(images)
        feed.finish(images)
        return count

    return take


def read(data: Data, arguments: argparse.Namespace) -> Callable[[], int]:
    """Reads records with DALI's reader and does nothing with them."""
    import nvidia.dali.tfrecord as tfrecord
    from nvidia.dali import fn, pipeline_def

    from clotseg.prep.shards import index_name

    @pipeline_def(
        batch_size=arguments.batch,
        num_threads=len(os.sched_getaffinity(0)),
        device_id=None,
        prefetch_queue_depth=2,
    )
    def pipeline() -> Any:
        record = fn.readers.tfrecord(
            path=[str(path) for path in data.shards],
            index_path=[str(path.with_name(index_name(path.name))) for path in data.shards],
            features={name: tfrecord.FixedLenFeature((), tfrecord.string, "") for name in ("image", "mask")},
        )
        return record["image"], record["mask"]

    reader = pipeline()
    reader.build()

    def take() -> int:
        steps = arguments.slices // arguments.batch
        for _ in range(steps):
            reader.run()
        return steps * arguments.batch

    return take


def timed(take: Callable[[], int]) -> Pass:
    """One pass of a part; processor time is that of all threads of this process."""
    started, used = time.perf_counter(), time.process_time()
    slices = take()
    return Pass(slices=slices, wall_s=time.perf_counter() - started, cpu_s=time.process_time() - used)


def opening_s(data: Data, arguments: argparse.Namespace) -> float:
    """Seconds from opening an augmented epoch to its first batch."""
    (setting,) = settings(len(os.sched_getaffinity(0)))
    feed = open_feed(data, arguments.batch, setting, augmented=True, device=arguments.device)
    started = time.perf_counter()
    images, _ = next(feed.take_pass())
    feed.finish(images)
    return time.perf_counter() - started


def shares(passes: dict[str, list[Pass]]) -> tuple[list[float], list[float]]:
    """The feed's share of its bound in each round: in slices a second, and in processor seconds."""
    rounds = list(zip(passes["feed"], passes["plain"], passes["augment"], strict=True))
    speed = [whole.speed * (1 / plain.speed + 1 / augment.speed) for whole, plain, augment in rounds]
    return speed, [(plain.cost_s + augment.cost_s) / whole.cost_s for whole, plain, augment in rounds]


def measure(data: Data, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    parts = {
        "feed": fed(data, arguments, augmented=True),
        "plain": fed(data, arguments, augmented=False),
        "augment": partial(build_ours(data.side, arguments.batch, arguments.device), arguments.slices),
        "read": read(data, arguments),
    }
    opening = opening_s(data, arguments)
    for part in ("plain", "augment", "read"):
        parts[part]()
    passes: dict[str, list[Pass]] = {part: [] for part in parts}
    for _ in range(arguments.repeats):
        for part, take in parts.items():
            passes[part].append(timed(take))
    cells = [spread([one.speed for one in passes[part]], 0) for part in parts]
    cells += [spread([one.cost_s for one in passes[part]], 2) for part in parts]
    cells += [spread(share, 2) for share in shares(passes)]
    return f"| {data.side}² | {' | '.join(cells)} | {opening:.2f} |"


def spread(values: list[float], digits: int) -> str:
    """Median (lowest–highest)."""
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"


def main() -> None:
    """Measures every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 160, 256], help="of a slice, in pixels")
    parser.add_argument("--batch", type=int, default=20, help="slices a batch")
    parser.add_argument("--slices", type=int, default=5120, help="slices a pass, which is an epoch")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{date.today()}, {platform.machine()}, {cores} cores, {arguments.device}, "
        f"batches of {arguments.batch}; "
        f"median of {arguments.repeats} passes over {arguments.slices} slices (lowest–highest); slices/s, "
        "and processor seconds for 1000 slices\n"
    )
    columns = [*(f"{part}, slices/s" for part in PARTS), *(f"{part}, CPU s" for part in PARTS)]
    print(f"| slice | {' | '.join(columns)} | feed / bound, slices/s | bound / feed, CPU | opening, s |")
    print(f"| --- |{' --- |' * (len(columns) + 3)}")
    with tempfile.TemporaryDirectory(prefix="clotseg-benchmark-") as scratch:
        for side in arguments.sides:
            data = write_data(Path(scratch) / str(side), side=side, size=SIZE, slices=RECORDS)
            print(measure(data, arguments), flush=True)


if __name__ == "__main__":
    main()
