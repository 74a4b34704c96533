"""Going on with a run, or from its weights: a run in; its settings, or what has changed since, out."""

from pathlib import Path
from typing import Any

from clotseg.config import Config, RuntimeConfig, load_config, plain, read_settings
from clotseg.errors import ConfigError, CorruptArtifactError, DataError
from clotseg.project import Project, Run
from clotseg.train.checkpoint import find_checkpoint, load_checkpoint
from clotseg.train.records import KEY_SECTIONS, read_record
from clotseg.train.session import Data, Session

SECTIONS = ("slice", *KEY_SECTIONS)
FORK = "put it back, or begin a new run from these weights with --fork"


def find_run(project: Project, path: Path) -> Run:
    """The run that a user's path means: its folder, or its name in Trainings.

    Raises:
        DataError: there is no run.
    """
    for folder in (path, project.trainings / path.name):
        if Run(folder).record.is_file():
            return Run(folder)
    raise DataError("is no run", where=path, fix="name a folder in Trainings; `clotseg runs` lists them")


def resumed_config(project: Project, run: Run, flags: dict[str, Any]) -> Config:
    """The settings of a run, with flags and changes of the project's file that only say how fast.

    Raises:
        ConfigError: flags or the project's settings are not those the run was begun with; all are named.
    """
    before, now = read_record(run).get("project_settings", {}), read_settings(project.config_file)
    then_runtime, now_runtime, defaults = (
        before.get("runtime", {}),
        now.get("runtime", {}),
        plain(RuntimeConfig()),
    )
    runtime = {
        f"runtime.{name}": now_runtime.get(name, defaults[name])
        for name in {*then_runtime, *now_runtime}
        if then_runtime.get(name) != now_runtime.get(name)
    }
    given = {name: value for name, value in flags.items() if value is not None}
    kept = load_config(run.settings)
    config = load_config(run.settings, {**runtime, **given})
    changes = differences(kept, config, "the run", "now")
    for section in ("split", *SECTIONS):
        then_section, now_section = before.get(section, {}), now.get(section, {})
        for name in sorted({*then_section, *now_section}):
            was, is_now = then_section.get(name, "not set"), now_section.get(name, "not set")
            # What a flag said is often written down later.
            if was != is_now and is_now != plain(getattr(kept, section))[name]:
                changes.append(f"{section}.{name} in clotseg.toml: {was} when the run began, {is_now} now")
    if changes:
        raise ConfigError(
            "the settings have changed since the run began", where=run.folder, details=changes, fix=FORK
        )
    return config


def differences(one: Config, other: Config, one_name: str, other_name: str) -> list[str]:
    """A line for each setting that decides weights and differs."""
    lines = []
    for section in SECTIONS:
        left, right = plain(getattr(one, section)), plain(getattr(other, section))
        lines += [
            f"{section}.{name}: {left[name]} in {one_name}, {right[name]} {other_name}"
            for name in left
            if left[name] != right[name]
        ]
    return lines


def require_unchanged(project: Project, run: Run, data: Data) -> None:
    """Refuses to go on with a run on other settings or slices than it was begun with.

    Raises:
        ConfigError: the settings are others; they are named.
        CorruptArtifactError: the split or the slices are others.
    """
    if read_record(run)["key"] == data.key:
        return
    changes = differences(load_config(run.settings), data.config, "the run", "now")
    if changes:
        raise ConfigError(
            "the settings have changed since the run began", where=run.folder, details=changes, fix=FORK
        )
    raise CorruptArtifactError(
        "the slices are not those that the run was begun with",
        where=project.shown(run.folder),
        fix="put back the cohort, or begin a new run; it may start from these weights with --fork where no "
        "patient that they have seen is tested now",
    )


def find_fork(path: Path) -> Path:
    """The checkpoint folder that a user's path means; of a run, its newest.

    Raises:
        DataError: there is no checkpoint.
    """
    run = Run(path)
    return find_checkpoint(run.checkpoints if run.checkpoints.is_dir() else path)


def load_fork(folder: Path, session: Session) -> None:
    """Gives the session's networks the weights of a checkpoint.

    Raises:
        CorruptArtifactError: it is damaged.
        ConfigError: it is of another network.
    """
    model, description = load_checkpoint(folder)
    kept, wanted = plain(description.network), plain(session.config.network)
    shape = ("filters", "depth", "fold", "norm")
    changes = [
        f"network.{name}: {kept[name]} there, {wanted[name]} here"
        for name in shape
        if kept[name] != wanted[name]
    ]
    if description.channels != session.feed.channels:
        changes.append(f"channels: {description.channels} there, {session.feed.channels} here")
    if changes:
        raise ConfigError("its weights are of another network", where=folder, details=changes)
    for network in {id(network): network for network in (session.model, session.evaluated)}.values():
        network.set_weights(model.get_weights())
