"""A run's records: settings, split, environment and history in; `Relevant_Files`, to audit a run, out."""

import csv
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import version
from typing import Any

from clotseg import __version__, artifact
from clotseg.config import Config, plain, read_settings, to_toml
from clotseg.dali.augment.parameters import ParameterRecord
from clotseg.errors import CorruptArtifactError, EnvironmentProblem
from clotseg.prep.cohorts import SPLIT_FILE
from clotseg.project import Project, Run
from clotseg.train.stopping import TimeIsUp

TRAIN_CODE_VERSION = 2
KEY_SECTIONS = ("feed", "augment", "network", "train")
ENDING = ("state", "reason", "ended")
LIBRARIES = ("tensorflow", "keras", "nvidia-dali-cuda120", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRow:
    """One line of `history.csv`.

    Attributes:
        epoch: from 1.
        loss: mean loss of the epoch's batches, on augmented slices.
        val_dice: mean Dice of the validation volumes, as `volume_dice` defines it.
        learning_rate: of its last step.
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
    sections = {name: plain(getattr(config, name)) for name in KEY_SECTIONS}
    del sections["train"]["recipe"]  # A name for the settings, which are all here.
    return artifact.stage_key("train", TRAIN_CODE_VERSION, sections, slice_key)


@contextmanager
def open_run(
    project: Project,
    config: Config,
    devices: str,
    *,
    key: str,
    asked_key: str,
    split_key: str,
    known: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Makes a run folder with all that is known beforehand; see `_recorded` for its record.

    Args:
        project: whose.
        config: settings, none of them `auto`.
        devices: for people.
        key: of settings and slices.
        asked_key: the same before settings that were `auto` were chosen.
        split_key: of the cohorts.
        known: what else the record says: `chosen`, the reason for each setting that was `auto`, by its dotted
            name, and `ancestry`, see `clotseg.train.ancestry`.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    started = datetime.now().astimezone()
    with artifact.writing(project.trainings):
        run = _new_run(project, started)
        run.relevant.mkdir()
        shutil.copyfile(project.original / SPLIT_FILE, run.relevant / SPLIT_FILE)
        (run.relevant / "clotseg.toml").write_text(to_toml(config), encoding="utf-8")
    artifact.write_json(run.relevant / "environment.json", environment(devices))
    record = {
        "format": artifact.FORMAT,
        "key": key,
        "asked_key": asked_key,
        "split_key": split_key,
        **(known or {}),
        "started": started.isoformat(timespec="seconds"),
        "epochs": config.train.epochs,
        "project_settings": read_settings(project.config_file),
    }
    with _recorded(run, record):
        yield run


@contextmanager
def reopen_run(run: Run, devices: str) -> Iterator[Run]:
    """Goes on with a run that has not finished; see `_recorded` for its record.

    Raises:
        CorruptArtifactError: its record is damaged.
        EnvironmentProblem: another process is training it, or the disk refuses.
    """
    record = {name: value for name, value in read_record(run).items() if name not in ENDING}
    with _recorded(run, {**record, "resumed": [*record.get("resumed", []), _now()]}):
        artifact.write_json(run.relevant / "environment.json", environment(devices))
        yield run


@contextmanager
def _recorded(run: Run, record: dict[str, Any]) -> Iterator[None]:
    """Holds the run's lock and keeps its record: its `state` tells how the run ended.

    `running` becomes `finished` when the block ends well, `stopped` when it was interrupted or its time was
    up, and `failed` when it raised anything else; these two with the reason. A killed run stays `running`,
    without a lock.
    """
    with artifact.project_lock(run.relevant):
        artifact.write_json(run.record, {**record, "state": "running"})
        try:
            yield
        except BaseException as error:
            state = "stopped" if isinstance(error, KeyboardInterrupt | TimeIsUp) else "failed"
            with suppress(EnvironmentProblem):  # What ended the run is what must be told.
                ending = {"state": state, "reason": str(error), "ended": _now()}
                artifact.write_json(run.record, {**record, **ending})
            raise
        artifact.write_json(run.record, {**record, "state": "finished", "ended": _now()})


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


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


def write_history(run: Run, rows: Sequence[EpochRow]) -> None:
    """Writes `history.csv`, in one step.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(EpochRow)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    artifact.write_file(run.history, text.getvalue().encode())


def append_augmentations(run: Run, epoch: int, samples: Sequence[tuple[int, ParameterRecord]]) -> None:
    """Adds a line of JSON a sample: epoch, uid, and the parameters as `clotseg.dali.replay` takes them.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    with artifact.writing(run.augmentations), run.augmentations.open("a", encoding="utf-8") as stream:
        for uid, record in samples:
            stream.write(json.dumps({"epoch": epoch, "uid": uid, **record}) + "\n")


def trim_augmentations(run: Run, epoch: int, samples: int) -> None:
    """Takes out what a resumed run will write again: of `epoch` all but the first `samples`, and all later.

    A line that a kill has cut off goes as well.
    """
    if not run.augmentations.exists():
        return
    kept, of_epoch = [], 0
    for line in run.augmentations.read_text(encoding="utf-8").splitlines(keepends=True):
        with suppress(ValueError):
            written = json.loads(line)["epoch"]
            of_epoch += written == epoch
            if line.endswith("\n") and (written < epoch or (written == epoch and of_epoch <= samples)):
                kept.append(line)
    artifact.write_file(run.augmentations, "".join(kept).encode())


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
