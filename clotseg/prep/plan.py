"""Stages and what to do with them: what decides a stage's bytes in; reuse, make or refuse, and why, out.

A stage is described by data alone. Its key is the hash of all that decides its bytes; the manifest of what it
published repeats these, so that a difference can be named. Nothing here is written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clotseg import artifact
from clotseg.errors import ClotsegError, CorruptArtifactError

Switch = Literal["auto", "force", "off"]
Action = Literal["reuse", "make", "refuse"]
Outcome = Literal["made", "reused", "off"]

NAMED_DIFFERENCES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What decides the bytes of a stage's output, and where that lies.

    How many workers make it, on what device and in what folder must be in none of these.

    Attributes:
        name: of the stage, and of its switch on the command line.
        code_version: raised when the code gives other bytes for the same settings and inputs.
        config: the settings that decide the bytes, by name in the section of the stage's name.
        inputs: digest of each input file it reads itself, by its path in the project.
        facts: what else decides the bytes, by name: the keys of folders it reads, rows of a table.
        targets: the folders it publishes, each with a manifest.
    """

    name: str
    code_version: int
    config: Mapping[str, Any]
    targets: tuple[Path, ...]
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same key means the same bytes."""
        return artifact.stage_key(self.name, self.code_version, self.config, [self.inputs, self.facts])

    def manifest(self, **more: Any) -> dict[str, Any]:
        """The manifest of a target: all of the above, and what its readers need."""
        return {
            "format": artifact.FORMAT,
            "stage": self.name,
            "code_version": self.code_version,
            "key": self.key,
            "config": self.config,
            "inputs": self.inputs,
            "facts": self.facts,
            **more,  # A stage that reads folders lists the files beneath as its `inputs`.
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be done with a stage.

    Attributes:
        stage: its name.
        action: whether its output is taken, made or neither.
        reason: why, as the end of a sentence that begins with "because".
        again: whether something is there that will be replaced.
        switched_off: whether the user switched it off.
        error: what to raise where it is refused.
    """

    stage: str
    action: Action
    reason: str
    again: bool = False
    switched_off: bool = False
    error: ClotsegError | None = None

    @property
    def told(self) -> str:
        """The plan as a sentence."""
        return f"{self.action}{' again' if self.again else ''}, because {self.reason}"

    @property
    def outcome(self) -> Outcome:
        """What a run says it did."""
        return "off" if self.switched_off else "made" if self.action == "make" else "reused"

    def require(self) -> None:
        """Raises where the stage is refused."""
        if self.error is not None:
            raise self.error


def plan_stage(stage: Stage, switch: Switch) -> Plan:
    """Holds what is published against what the stage would make.

    Args:
        stage: what it would be made from.
        switch: `auto` reuses or makes, `force` makes, `off` takes what is there.
    """
    if switch == "off":
        return plan_off(stage.name, stage.targets)
    again = all(target.exists() for target in stage.targets)
    if switch == "force":
        return Plan(stage=stage.name, action="make", reason="it was asked for with force", again=again)
    for target in stage.targets:
        if reason := _outdated(stage, target):
            return Plan(stage=stage.name, action="make", reason=reason, again=again)
    return Plan(stage=stage.name, action="reuse", reason="nothing changed")


def plan_off(name: str, targets: tuple[Path, ...]) -> Plan:
    """Takes what is there, whatever it was made from; refuses where nothing is."""
    try:
        for target in targets:
            artifact.require_manifest(target, fix=f"run prep without `--{name} off`")
    except CorruptArtifactError as error:
        return refused(name, error, switched_off=True)
    return Plan(stage=name, action="reuse", reason="it is switched off", switched_off=True)


def refused(name: str, error: ClotsegError, *, switched_off: bool = False) -> Plan:
    """A stage that cannot be made."""
    return Plan(stage=name, action="refuse", reason=str(error), switched_off=switched_off, error=error)


def _outdated(stage: Stage, target: Path) -> str | None:
    """Why the published folder is not what the stage would make; None where it is."""
    try:
        manifest = artifact.read_manifest(target)
        if manifest is None:
            return f"{target.name} is not there yet"
        if manifest["key"] != stage.key:
            return _named(list(_differences(stage, manifest))) or "its key changed"
        lost = artifact.lost_outputs(target, manifest)
    except (CorruptArtifactError, KeyError, TypeError, AttributeError):
        return f"the manifest of {target.name} is damaged"
    return f"{_some(lost)} of {target.name} is missing or has another size" if lost else None


def _differences(stage: Stage, manifest: Mapping[str, Any]) -> Iterator[str]:
    if manifest["code_version"] != stage.code_version:
        yield f"its code version changed from {manifest['code_version']} to {stage.code_version}"
    yield from _changes(manifest.get("facts", {}), artifact.as_json(stage.facts))
    before, after = dict(_flat(manifest["config"])), dict(_flat(stage.config))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield f"{stage.name}.{name} changed from {_shown(before.get(name))} to {_shown(after.get(name))}"
    if stage.inputs:
        yield from (f"the input {change}" for change in _changes(manifest["inputs"], stage.inputs))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        if name not in before:
            yield f"{name} is new"
        elif name not in after:
            yield f"{name} is gone"
        elif before[name] != after[name]:
            yield f"{name} changed"


def _named(differences: list[str]) -> str:
    more = len(differences) - NAMED_DIFFERENCES
    return ", ".join(differences[:NAMED_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    """A setting as a user writes it: whole numbers without a decimal point."""
    if isinstance(value, list):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:g}" if isinstance(value, float) else "nothing" if value is None else str(value)
