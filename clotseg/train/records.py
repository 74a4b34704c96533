"""A run's records: settings, split, environment and history in; `Relevant_Files`, to audit a run, out."""

import csv
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import version
from typing import Any

from clotseg import __version__, artifact
from clotseg.config import Config, plain, to_toml
from clotseg.dali.augment.parameters import ParameterRecord
from clotseg.errors import CorruptArtifactError
from clotseg.prep.cohorts import SPLIT_FILE
from clotseg.project import Project, Run

TRAIN_CODE_VERSION = 1
LIBRARIES = ("tensorflow", "keras", "nvidia-dali-cuda120", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One line of `history.csv`.

    Attributes:
        epoch: from 1.
        loss: mean soft Dice loss of the epoch's steps, on augmented slices.
        val_dice: mean Dice of the validation volumes, as `volume_dice` defines it.
        learning_rate: of the epoch.
        seconds: training and validation together.
        slices_per_s: trained slices a second, validation not counted.
        waiting: share of the training time spent waiting for input, 0…1.
    """

    epoch: int
    loss: float
    val_dice: float
    learning_rate: float
    seconds: float
    slices_per_s: float
    waiting: float


def training_key(config: Config, slice_key: str) -> str:
    """The hash of what decides a run's weights: its settings and the slices it is trained on."""
    sections = {name: plain(getattr(config, name)) for name in ("feed", "augment", "network", "train")}
    return artifact.stage_key("train", TRAIN_CODE_VERSION, sections, slice_key)


@contextmanager
def open_run(project: Project, config: Config, split_key: str, key: str, devices: str) -> Iterator[Run]:
    """Makes a run folder with all that is known beforehand; the record's `state` tells how the run ended.

    `running` becomes `finished` when the block ends well, `stopped` with the reason when it raises.
    """
    started = datetime.now().astimezone()
    run = _new_run(project, started)
    run.relevant.mkdir()
    shutil.copyfile(project.original / SPLIT_FILE, run.relevant / SPLIT_FILE)
    (run.relevant / "clotseg.toml").write_text(to_toml(config), encoding="utf-8")
    artifact.write_json(run.relevant / "environment.json", environment(devices))
    record = {
        "format": artifact.FORMAT,
        "key": key,
        "split_key": split_key,
        "started": started.isoformat(timespec="seconds"),
    }
    artifact.write_json(run.record, {**record, "state": "running"})
    try:
        yield run
    except BaseException as error:
        artifact.write_json(run.record, {**record, "state": "stopped", "reason": str(error)})
        raise
    ended = datetime.now().astimezone().isoformat(timespec="seconds")
    artifact.write_json(run.record, {**record, "state": "finished", "ended": ended})


def _new_run(project: Project, started: datetime) -> Run:
    """`Trainings/<YYYYMMDD-HHMMSS>`; where that second is taken, the next free one."""
    stamp = started.replace(microsecond=0)
    while True:
        folder = project.trainings / stamp.strftime("%Y%m%d-%H%M%S")
        try:
            folder.mkdir(parents=True)
            return Run(folder)
        except FileExistsError:
            stamp = datetime.fromtimestamp(stamp.timestamp() + 1).astimezone()


def environment(devices: str) -> dict[str, Any]:
    """What a run ran on: versions, platform and devices."""
    return {
        "clotseg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "devices": devices,
        **{name: version(name) for name in LIBRARIES},
    }


def append_history(run: Run, row: EpochRow) -> None:
    """Adds a line to `history.csv`, with a header before the first."""
    new = not run.history.exists()
    with run.history.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(EpochRow)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def append_augmentations(
    run: Run, epoch: int, uids: Sequence[int], parameters: Sequence[ParameterRecord]
) -> None:
    """Adds a line of JSON a sample: epoch, uid, and the parameters as `clotseg.dali.replay` takes them."""
    with run.augmentations.open("a", encoding="utf-8") as stream:
        for uid, record in zip(uids, parameters, strict=True):
            stream.write(json.dumps({"epoch": epoch, "uid": uid, **record}) + "\n")


def read_history(run: Run) -> list[dict[str, float]]:
    """The lines of `history.csv`; empty where there is none.

    Raises:
        CorruptArtifactError: it is not a table of numbers.
    """
    if not run.history.exists():
        return []
    try:
        with run.history.open(newline="", encoding="utf-8") as stream:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    except (ValueError, TypeError, OSError) as error:
        raise CorruptArtifactError(f"is not a history ({error})", where=run.history) from error


def runs(project: Project) -> list[Run]:
    """The runs of a project that have a record, oldest first."""
    found = (Run(folder) for folder in sorted(project.trainings.glob("*")))
    return [run for run in found if run.record.is_file()]


def read_record(run: Run) -> dict[str, Any]:
    """What `run.json` says.

    Raises:
        CorruptArtifactError: it is not there, or damaged.
    """
    record = artifact.read_json(run.record)
    if not isinstance(record, dict) or record.get("format") != artifact.FORMAT:
        raise CorruptArtifactError(f"is not a record of format {artifact.FORMAT}", where=run.record)
    return record
