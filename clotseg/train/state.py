"""The state of a training: networks, optimiser and how far it is in; a folder to go on from out, and back.

Nothing else has to be known: the order of slices, their augmentation and dropout follow from the settings and
the position alone. A state is numbers in an .npz that is read without pickle, and JSON that is validated:
nothing in it can run.
"""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from clotseg import artifact
from clotseg.config import plain
from clotseg.errors import CorruptArtifactError
from clotseg.train.checkpoint import DESCRIPTION
from clotseg.train.records import EpochRow

Variable = Any  # TensorFlow and Keras ship no types

VALUES = "state.npz"
POSITION = "training.json"
BEFORE_THIS = "remove this folder to go on from the checkpoint before it, or start a new run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far a training is.

    Attributes:
        epoch: the one under way, from 1.
        step: how many of its batches are done.
        losses: of these batches.
        seconds: spent on them.
        waited_s: of which waiting for input.
        rows: the epochs that are done.
    """

    epoch: Annotated[int, Field(ge=1)] = 1
    step: Annotated[int, Field(ge=0)] = 0
    losses: tuple[float, ...] = ()
    seconds: Annotated[float, Field(ge=0)] = 0.0
    waited_s: Annotated[float, Field(ge=0)] = 0.0
    rows: tuple[EpochRow, ...] = ()

    @property
    def best(self) -> EpochRow | None:
        """The epoch with the highest validation Dice, the first of equals."""
        return max(self.rows, key=lambda row: row.val_dice, default=None)

    @property
    def name(self) -> str:
        """The name of a checkpoint of this position; names sort as positions do."""
        return f"epoch-{len(self.rows):04d}-step-{self.step:06d}"

    def stale(self, min_improvement: float) -> int:
        """How many epochs have passed since the validation Dice last rose by more than `min_improvement`."""
        best, since = -np.inf, 0
        for row in self.rows:
            improved = row.val_dice > best + min_improvement
            best, since = (row.val_dice, 0) if improved else (best, since + 1)
        return since


def write_state(folder: Path, position: Position, variables: Sequence[Variable]) -> None:
    """Writes a state into a folder that is being built.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    file = folder / VALUES
    with artifact.writing(file):
        np.savez(file, **{f"{number:04d}": variable.numpy() for number, variable in enumerate(variables)})
        digest = artifact.digest_file(file)
    facts = {"format": artifact.FORMAT, "sha256": digest, "position": artifact.as_json(plain(position))}
    artifact.write_json(folder / POSITION, facts)


def read_state(folder: Path, variables: Sequence[Variable]) -> Position:
    """Gives the variables the values they had; returns how far the training was.

    Raises:
        CorruptArtifactError: the state is missing, damaged, or of another network or optimiser. No variable
            has been changed then.
    """
    position, digest = _read_position(folder / POSITION)
    file = folder / VALUES
    if not file.is_file() or artifact.digest_file(file) != digest:
        raise CorruptArtifactError("is not the state that was saved", where=file, fix=BEFORE_THIS)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            values = [kept[name] for name in sorted(kept.files)]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise CorruptArtifactError(f"is no state ({error})", where=file, fix=BEFORE_THIS) from error
    here = [(tuple(variable.shape), variable.numpy().dtype) for variable in variables]
    if [(value.shape, value.dtype) for value in values] != here:
        raise CorruptArtifactError(
            "is the state of another network or optimiser: their variables differ in number, shape or type",
            where=file,
            fix=BEFORE_THIS,
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return position


def _read_position(file: Path) -> tuple[Position, str]:
    facts: Any = artifact.read_json(file)
    try:
        if facts["format"] != artifact.FORMAT:
            raise CorruptArtifactError(f"is not of format {artifact.FORMAT}", where=file, fix=BEFORE_THIS)
        return TypeAdapter(Position).validate_python(facts["position"]), str(facts["sha256"])
    except (ValidationError, KeyError, TypeError) as error:
        raise CorruptArtifactError(
            f"does not say how far a training is ({error})", where=file, fix=BEFORE_THIS
        ) from error


def newest_state(checkpoints: Path) -> Path | None:
    """The checkpoint that got furthest; None where there is none."""
    return max(_states(checkpoints), default=None)


def _states(checkpoints: Path) -> list[Path]:
    """The checkpoints, from the first to the furthest."""
    return sorted(path.parent for path in checkpoints.glob(f"epoch-*/{POSITION}"))


def thin_out(checkpoints: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints, and what killed writes and removals have left.

    The last one with evaluated weights stays as well.
    """
    states = _states(checkpoints)
    evaluated = [folder for folder in states if (folder / DESCRIPTION).is_file()]
    kept = {*states[-keep:], *evaluated[-1:]}
    for folder in checkpoints.iterdir():
        if folder.is_dir() and folder not in kept:
            shutil.rmtree(folder)
