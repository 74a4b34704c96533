"""`clotseg bench`: a project in; the speed of every stage from disk to training, and the bottleneck, out.

Nothing is written to the project; the network that is trained is thrown away. Where the project has no
slices, those of a phantom in a temporary folder take their place.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clotseg import artifact
from clotseg.bench.rate import Rate, measure
from clotseg.bench.reading import read_from_disk, read_from_memory
from clotseg.bench.training import constant_turns, dali_turns, feed_turns, open_feed, training_turns
from clotseg.bench.verdict import Figures, judge
from clotseg.config import Config, SliceConfig
from clotseg.console import Progress
from clotseg.project import Project
from clotseg.train.devices import Devices, open_devices
from clotseg.train.session import Session, open_data, open_session

PHANTOM_CASES, PHANTOM_SLICES, PHANTOM_SIDE = 10, 24, 256

STAGES = {
    "disk": "shards read from the disk",
    "memory": "shards read from memory",
    "plain": "DALI alone, without augmentation",
    "augmented": "DALI alone, with augmentation",
    "feed": "batches in TensorFlow",
    "constant": "the step alone, on one batch",
    "training": "training",
}
"""In the order that they are measured in."""


def run_bench(project: Project, config: Config, progress: Progress, *, seconds: float) -> dict[str, Any]:
    """Measures the stages one after the other.

    Args:
        project: whose slices are used, if it has any.
        config: the settings that it would be trained on.
        progress: told of each stage.
        seconds: for how long each stage is measured, at least.

    Returns:
        `{"data", "machine", "settings", "stages", "verdict"}`; `stages` has for each, in order, `stage`,
        `what`, `slices_per_s`, `mb_per_s` (of the shards' bytes), `slices` and `seconds`.

    Raises:
        CorruptArtifactError: the project's slices are damaged or of another split.
        ConfigError: the settings do not fit the slices or the devices.
        EnvironmentProblem: devices are missing.
    """
    with _project_with_slices(project, config, progress) as (measured, settings):
        data = open_data(measured, settings)
        shards = data.training.shards
        cohort_bytes = sum(path.stat().st_size for path in shards)
        bytes_a_slice = cohort_bytes / data.training.records
        rates: dict[str, Rate] = {}
        with progress.bar("bench", len(STAGES), "stages") as advance:
            for name, read in (("disk", read_from_disk), ("memory", read_from_memory)):
                rates[name] = read(shards, bytes_a_slice, seconds)
                advance()
            devices = open_devices(settings.runtime)
            session = open_session(data, devices)
            for name, turns in _turns(session).items():
                rates[name] = measure(turns(), seconds)
                advance()
    figures = _figures(rates, devices, settings, cohort_bytes)
    return {
        "data": {
            "source": "project" if measured is project else "phantom",
            "slices": data.training.records,
            "shards": len(shards),
            "bytes": cohort_bytes,
            "bytes_a_slice": bytes_a_slice,
        },
        "machine": {
            "devices": str(devices),
            "cores": _cores(),
            "threads": devices.threads * len(devices.gpus),
            "memory_bytes": figures.memory_bytes,
        },
        "settings": _settings(session, seconds),
        "stages": [_stage(name, rates[name], bytes_a_slice) for name in STAGES if name in rates],
        "verdict": asdict(judge(figures)),
    }


@contextmanager
def _project_with_slices(
    project: Project, config: Config, progress: Progress
) -> Iterator[tuple[Project, Config]]:
    """The project, or one with a phantom's slices, and the settings to train on it."""
    if (project.sliced / "Training" / artifact.MANIFEST).exists():
        yield project, config
        return
    from clotseg.phantom import write_cohort
    from clotseg.prep.stages import run_prep

    side = config.feed.size if isinstance(config.feed.size, int) else PHANTOM_SIDE
    settings = replace(
        config,
        split=type(config.split)(),
        slice=SliceConfig(context=config.slice.context),
        train=replace(config.train, source="sliced"),
    )
    with tempfile.TemporaryDirectory(prefix="clotseg-bench-") as scratch:
        phantom = Project(Path(scratch))
        with progress.bar("phantom", PHANTOM_CASES, "cases") as advance:
            write_cohort(
                phantom.root,
                cases=PHANTOM_CASES,
                size=side,
                slices=PHANTOM_SLICES,
                seed=1,
                on_case=lambda _: advance(),
            )
        run_prep(phantom, settings, progress)
        yield phantom, settings


def _turns(session: Session) -> dict[str, Callable[[], Iterator[int]]]:
    """The stages after reading; without augmentation in training there is none to measure."""
    augments = session.config.train.source == "sliced"
    stages: dict[str, Callable[[], Iterator[int]]] = {
        "plain": lambda: dali_turns(open_feed(session, augmented=False)[0]),
        "augmented": lambda: dali_turns(open_feed(session, augmented=True)[0]),
        "feed": lambda: feed_turns(open_feed(session, augmented=augments)[0]),
        "constant": lambda: constant_turns(session),
        "training": lambda: training_turns(session, augmented=augments),
    }
    if not augments:
        del stages["augmented"]
    return stages


def _figures(rates: dict[str, Rate], devices: Devices, config: Config, cohort_bytes: int) -> Figures:
    augmented = rates.get("augmented")
    return Figures(
        **{name: rate.slices_per_s for name, rate in rates.items() if name != "augmented"},
        augmented=None if augmented is None else augmented.slices_per_s,
        on_cpu=devices.on_cpu,
        spare_threads=_cores() - devices.threads * len(devices.gpus),
        prefetch=config.runtime.prefetch,
        cohort_bytes=cohort_bytes,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _settings(session: Session, seconds: float) -> dict[str, Any]:
    """Those that the figures depend on most."""
    config = session.config
    return {
        "recipe": config.train.recipe,
        "batch_size": config.train.batch_size,
        "size": session.feed.size,
        "channels": session.feed.channels,
        "filters": config.network.filters,
        "depth": config.network.depth,
        "precision": config.train.precision,
        "seconds": seconds,
    }


def _stage(name: str, rate: Rate, bytes_a_slice: float) -> dict[str, Any]:
    return {
        "stage": name,
        "what": STAGES[name],
        "slices_per_s": rate.slices_per_s,
        "mb_per_s": rate.slices_per_s * bytes_a_slice / 1e6,
        "slices": rate.slices,
        "seconds": rate.seconds,
    }
