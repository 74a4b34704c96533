"""Flags that `clotseg prep` was given: remembered, so that a training goes by them too.

Without this, `prep --folds 5 --fold 1` and then `train` would split the cases anew by the settings alone. The
flags of the last `prep` hold; one without flags lets none hold.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from clotseg import artifact
from clotseg.config import load_config, read_settings
from clotseg.errors import ConfigError, CorruptArtifactError
from clotseg.project import Project

SECTIONS = ("split", "slice", "offline")


def remembered(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Of flags by dotted name, those that say what `prep` makes; None is not given."""
    return {
        name: value for name, value in flags.items() if value is not None and name.split(".")[0] in SECTIONS
    }


def remember(project: Project, flags: Mapping[str, Any]) -> None:
    """Keeps the flags in the place of those of an earlier `prep`.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    if not flags:
        with artifact.writing(project.prep_flags):
            project.prep_flags.unlink(missing_ok=True)
        return
    kept = None
    with suppress(CorruptArtifactError):
        kept = _read(project) if project.prep_flags.exists() else None
    if kept != flags:
        artifact.write_json(project.prep_flags, {"format": artifact.FORMAT, "flags": dict(flags)})


def recall(project: Project) -> dict[str, Any]:
    """The flags of the last `prep`, by dotted name.

    Raises:
        ConfigError: `clotseg.toml` says something else, so that it is not clear what is wanted.
        CorruptArtifactError: the file is damaged.
    """
    if not project.prep_flags.exists():
        return {}
    flags, in_file = _read(project), read_settings(project.config_file)
    conflicts = []
    for name, value in flags.items():
        section, key = name.split(".")
        said = in_file.get(section, {}).get(key, value)
        if said != value:
            conflicts.append(f"{name}: {said} in the file, {value} by the flag")
    load_config(project.config_file)  # What is wrong with the file alone is told as such.
    try:
        load_config(project.config_file, flags)
    except ConfigError as error:
        conflicts += error.details or (error.what,)
    if conflicts:
        raise ConfigError(
            "the flags that `clotseg prep` was last given do not go with the file",
            where=project.config_file,
            details=conflicts,
            fix="run `clotseg prep` to go by the file, or write there what the flags said",
        )
    return flags


def _read(project: Project) -> dict[str, Any]:
    try:
        flags: dict[str, Any] = artifact.read_json(project.prep_flags)["flags"]
        if set(flags) == set(remembered(flags)):
            return flags
    except (KeyError, TypeError, AttributeError):
        pass
    raise CorruptArtifactError(
        "is not as it was written", where=project.prep_flags, fix="run `clotseg prep` again"
    )
