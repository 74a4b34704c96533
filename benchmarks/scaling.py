"""How the feed scales: its start and its memory by the size of the cohort, its speed by shards and replicas.

Cohorts are synthetic volumes, made into shards by `clotseg prep`'s own functions in a temporary folder. Every
line is measured in processes of their own, one after the other. What counts of a start runs from the first
look at the project to the first augmented batch in TensorFlow, in the order of training, without imports.

    start     volumes of 8 × 8 pixels, 200 slices each: what counts is how many records and cases there are
    shards    the same slices in few shards or many
    replicas  one feed that serves so many replicas on the CPU, with a global batch that stays the same

Prints three tables.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from clotseg.config import Config, FeedConfig, SliceConfig, SplitConfig
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.telemetry import resident_bytes

SLICES_A_CASE = 200
BATCH = 64
AHEAD = 48
"""More steps than any feed here makes ahead."""

PARTS = ("cohorts", "manifest", "indices", "which hold clot", "order", "feed", "first batch")


def make_project(root: Path, slices: int, side: int, slices_a_case: int = SLICES_A_CASE) -> Project:
    """Volumes of noise, a fifth of whose slices hold a clot: so many slices to train on, and a few more."""
    project = Project(root)
    for folder in (project.volumes, project.masks):
        folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    shape = (side, side, slices_a_case)
    volume = random.normal(60, 30, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[side // 3 : side // 2, side // 3 : side // 2, : slices_a_case // 5] = 1
    cases = [f"case_{number:06d}" for number in range(slices // slices_a_case + 2)]
    for case in cases:
        np.save(project.volumes / f"{case}_CTA_Binary.npy", volume)
        np.save(project.volumes / f"{case}_NCCT_Reg_Binary.npy", volume)
        np.save(project.masks / f"{case}_seg_corrected_binary.npy", mask)
    cohorts = {"Training": cases[:-2], "Validation": cases[-2:-1], "Testing": cases[-1:]}
    split = {"format": 1, "cohorts": cohorts, "patients": {case: case for case in cases}}
    (root / "split.json").write_text(json.dumps(split))
    return project


def settings(slices_per_shard: int = SliceConfig().slices_per_shard) -> Config:
    """The defaults, with the split that `make_project` wrote."""
    return Config(
        split=SplitConfig(file="split.json"),
        slice=SliceConfig(slices_per_shard=slices_per_shard),
        feed=FeedConfig(size="auto"),
    )


class Watch:
    """Seconds from one call to the next."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Since it was made, or since the last call."""
        now = time.perf_counter()
        took, self._last = now - self._last, now
        return took


def load_libraries() -> None:
    """What a training imports when it has opened its data."""
    import clotseg.dali.augment.sampler
    import clotseg.dali.pipeline  # noqa: F401
    from clotseg.quiet import load_tensorflow

    load_tensorflow()


def feed_settings(size: int, replicas: int, threads: int) -> Any:
    """Of a feed for replicas on the CPU."""
    from clotseg.config import RuntimeConfig
    from clotseg.dali.feed import FeedSettings

    prefetch = RuntimeConfig().prefetch
    return FeedSettings(size=size, channels=2, gpus=(None,) * replicas, threads=threads, prefetch=prefetch)


def open_feed(training: Any, settings: Any, *, samples: int, epoch: int = 1) -> Any:
    """The feed of an epoch as training opens it; and the seconds that its order took."""
    from clotseg.config import AugmentConfig, TrainConfig
    from clotseg.dali.feed import Feed
    from clotseg.dali.order import plan_training

    watch = Watch()
    plan = plan_training(
        training,
        samples=samples,
        batch_size=BATCH,
        replicas=len(settings.gpus),
        seed=1,
        epoch=epoch,
        clot_share=TrainConfig().clot_share,
    )
    order_s = watch.lap()
    return Feed(training, plan, settings, augment=AugmentConfig(), seed=1, epoch=epoch), order_s


def start(project: Project) -> dict[str, float]:
    """From the project to the first batch, as `clotseg train` does it: seconds, and bytes at their peak."""
    from clotseg.train.session import input_size, open_data

    watch = Watch()
    data = open_data(project, settings())
    seconds = watch.lap()
    load_libraries()
    loaded = resident_bytes() or 0
    watch.lap()
    feed, _ = open_feed(
        data.training,
        feed_settings(input_size(data.config, data.cohorts), 1, len(os.sched_getaffinity(0))),
        samples=data.training.records,
    )
    next(iter(feed))
    seconds += watch.lap()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"all": seconds, "loaded": loaded, "peak": peak}


def parts(project: Project) -> dict[str, float]:
    """What each part of the start takes by itself, in seconds."""
    from clotseg.dali.feed import open_cohort
    from clotseg.prep.cohorts import read_cohorts
    from clotseg.train.session import _clots_of, input_size, training_slices

    watch = Watch()
    cohorts = read_cohorts(project)
    took = {"cohorts": watch.lap()}
    folder, manifest = training_slices(project, settings(), cohorts.key)
    took["manifest"] = watch.lap()
    training = open_cohort(folder, manifest)
    took["indices"] = watch.lap()
    training = replace(training, has_clot=_clots_of(training, cohorts, settings().slice))
    took["which hold clot"] = watch.lap()
    load_libraries()
    opened = feed_settings(input_size(settings(), cohorts), 1, len(os.sched_getaffinity(0)))
    watch.lap()
    feed, took["order"] = open_feed(training, opened, samples=training.records)
    took["feed"] = watch.lap() - took["order"]
    next(iter(feed))
    took["first batch"] = watch.lap()
    return took


def speed(project: Project, replicas: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """Slices a second of a warm feed, for each repeat, and seconds to the first batch.

    The first steps are not counted: they take what was made while the feed was opened.
    """
    from clotseg.train.session import input_size, open_data

    data = open_data(project, settings())
    load_libraries()
    threads = max(1, len(os.sched_getaffinity(0)) // replicas)
    opened = feed_settings(input_size(data.config, data.cohorts), replicas, threads)
    found: dict[str, list[float]] = {"slices_per_s": [], "seconds": []}
    for epoch in range(1, repeats + 2):
        watch = Watch()
        feed, _ = open_feed(data.training, opened, samples=(AHEAD + steps) * BATCH, epoch=epoch)
        batches = iter(feed)
        next(batches)
        opening_s = watch.lap()
        for _ in range(AHEAD - 1):
            next(batches)
        watch.lap()
        for _ in batches:
            pass
        if epoch > 1:  # The first epoch warms up.
            found["slices_per_s"].append(steps * BATCH / watch.lap())
            found["seconds"].append(opening_s)
    return found


def alone(name: str, project: Project, *arguments: int) -> Any:
    """What a function of this program gives in a process of its own."""
    words = [sys.executable, __file__, "--alone", name, str(project.root), *map(str, arguments)]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)


def shard_count(project: Project) -> int:
    """How many training shards there are."""
    return len(list((project.sliced / "Training").glob("*.tfrecord")))


def table_of_starts(cohorts: list[int], repeats: int) -> None:
    """A line a cohort."""
    print(
        f"| slices | shards | to the first batch, s | {' | '.join(PARTS)} | peak MiB | of which libraries |"
    )
    print(f"| {' | '.join(['---'] * (len(PARTS) + 5))} |", flush=True)
    for slices in cohorts:
        with tempfile.TemporaryDirectory(prefix="clotseg-scaling-") as scratch:
            project = make_project(Path(scratch), slices, side=8)
            run_prep(project, settings(), PlainProgress())
            starts = [alone("start", project) for _ in range(repeats)]
            by_part = [alone("parts", project) for _ in range(repeats)]
            cells = [f"{slices}", f"{shard_count(project)}"]
            cells += [f"{statistics.median(each['all'] for each in starts):.2f}"]
            cells += [f"{statistics.median(each[part] for each in by_part):.3f}" for part in PARTS]
            cells += [
                f"{statistics.median(each[name] for each in starts) / 2**20:.0f}"
                for name in ("peak", "loaded")
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def table_of_speeds(arguments: argparse.Namespace) -> None:
    """A line for each number of shards, then one for each number of replicas."""
    header = "slices a second | seconds to the first batch of an epoch |\n| --- | --- | --- | --- |"
    cases = max(arguments.shards)
    with tempfile.TemporaryDirectory(prefix="clotseg-scaling-") as scratch:
        slices = cases * arguments.slices_a_case
        project = make_project(Path(scratch), slices, arguments.side, arguments.slices_a_case)
        print(f"\n{slices} slices of {arguments.side}², batches of {BATCH}\n\n| shards | replicas | {header}")
        for shards in arguments.shards:
            run_prep(project, settings(slices // shards), PlainProgress())
            line(project, 1, arguments)
        print(f"\n| shards | replicas | {header}")
        run_prep(project, settings(slices // 16), PlainProgress())
        for replicas in arguments.replicas:
            line(project, replicas, arguments)


def line(project: Project, replicas: int, arguments: argparse.Namespace) -> None:
    """One line: median, and range."""
    found = alone("speed", project, replicas, arguments.steps, arguments.repeats)
    cells = [
        f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
        for values, digits in ((found["slices_per_s"], 0), (found["seconds"], 2))
    ]
    print(f"| {shard_count(project)} | {replicas} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measures all, or one line where this is the process that it is measured in."""
    if sys.argv[1:2] == ["--alone"]:
        functions: dict[str, Any] = {"start": start, "parts": parts, "speed": speed}
        name, folder, *numbers = sys.argv[2:]
        print(json.dumps(functions[name](Project(Path(folder)), *map(int, numbers))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cohorts", type=int, nargs="*", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 4, 16, 64, 256])
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--side", type=int, default=96, help="of the slices that speeds are measured on")
    parser.add_argument("--slices-a-case", type=int, default=80, help="of those, and so a shard at most")
    parser.add_argument("--steps", type=int, default=200, help="that are timed in a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, medians of {arguments.repeats} repeats\n")
    table_of_starts(arguments.cohorts, arguments.repeats)
    if arguments.shards:
        table_of_speeds(arguments)


if __name__ == "__main__":
    main()
