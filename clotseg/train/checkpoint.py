"""Checkpoints: a network's weights, and a validated description that is enough to rebuild it.

A checkpoint is a folder with `network.json` and the weights file it names, with digest. The description is
written last and names weights by epoch, Dice and digest: a killed save leaves the earlier checkpoint whole,
one of the same epoch too. Weights are read with `load_weights` alone: nothing in a checkpoint is ever run.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from clotseg import artifact
from clotseg.config import Flip, NetworkConfig, SliceConfig, plain
from clotseg.errors import ConfigError, CorruptArtifactError, DataError
from clotseg.project import CHECKPOINTS, Run
from clotseg.train.unet import Model, build_unet

DESCRIPTION = "network.json"
WEIGHTS_SUFFIX = ".weights.h5"
OPERATING_POINT = "operating_point.json"
"""Threshold and temperature that were chosen for the weights beside it; of no use to others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What a checkpoint says of its network.

    Attributes:
        network: filters, depth and so on.
        slicing: the windows its inputs were made with.
        size: side of the input square, in pixels.
        channels: input channels.
        flips: what it was trained with; a checkpoint that does not say so was with both.
        epoch: after which epoch, from 1.
        val_dice: mean validation Dice of that epoch.
        weights: file name of the weights.
        sha256: digest of the weights file.
    """

    network: NetworkConfig
    slicing: SliceConfig
    size: Annotated[int, Field(ge=1)]
    channels: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=1)]
    val_dice: Annotated[float, Field(ge=0, le=1)]
    flips: tuple[Flip, ...] = ("horizontal", "vertical")
    weights: Annotated[str, Field(pattern=r"^[\w.-]+\.weights\.h5$")] = ""
    sha256: str = ""


def save_checkpoint(folder: Path, model: Model, description: Description) -> None:
    """Replaces the checkpoint in `folder`; killed at any moment, the old or the new one is there.

    Args:
        folder: made where it is not there.
        model: whose weights are saved.
        description: its `weights` and `sha256` are filled in here.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    with artifact.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        weights = _weights_of(model)
        digest = hashlib.sha256(weights).hexdigest()
        # With the digest in its name, no file that the present description names is ever written over.
        stem = f"epoch-{description.epoch:04d}-dice-{description.val_dice:.4f}-{digest[:8]}"
        name = f"{stem}{WEIGHTS_SUFFIX}"
        artifact.write_file(folder / name, weights)
        (folder / OPERATING_POINT).unlink(missing_ok=True)
        facts = {**plain(description), "weights": name, "sha256": digest}
        artifact.write_json(folder / DESCRIPTION, {"format": artifact.FORMAT, **facts})
        for old in folder.glob(f"*{WEIGHTS_SUFFIX}"):
            if old.name != name:
                old.unlink()


class _Memory(io.BytesIO):
    """A file in memory whose name has the end by which Keras knows weights."""

    def __str__(self) -> str:
        return f"memory{WEIGHTS_SUFFIX}"


def _weights_of(model: Model) -> bytes:
    """The content of a weights file; made in memory, since HDF5 crashes the process where a disk is full."""
    memory = _Memory()
    model.save_weights(memory)
    return memory.getvalue()


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a user's path means: a run, a checkpoint folder, or a weights file in one.

    Of a run it is the best one, of `Checkpoint_Files` the newest.

    Raises:
        DataError: there is no checkpoint.
    """
    for folder in (path, path / "Best_Model", *sorted(path.glob("epoch-*"), reverse=True), path.parent):
        if (folder / DESCRIPTION).is_file() and (folder != path.parent or path.is_file()):
            return folder
    raise DataError(
        f"is no checkpoint: no {DESCRIPTION} there",
        where=path,
        fix="name a run in Trainings, its Best_Model or Checkpoint_Files folder, or the weights file in it",
    )


def run_of(folder: Path) -> Run:
    """The run that a checkpoint folder belongs to: `Best_Model` lies in it, others one folder deeper."""
    return Run(folder.parent.parent if folder.parent.name == CHECKPOINTS else folder.parent)


def read_description(folder: Path) -> Description:
    """The description of a checkpoint.

    Raises:
        CorruptArtifactError: it is not there, not JSON, or says something that cannot be.
    """
    path = folder / DESCRIPTION
    facts: Any = artifact.read_json(path)
    try:
        if facts.pop("format") != artifact.FORMAT:
            raise CorruptArtifactError(f"is not of format {artifact.FORMAT}", where=path)
        return TypeAdapter(Description).validate_python(facts)
    except (ValidationError, KeyError, AttributeError, TypeError) as error:
        raise CorruptArtifactError(f"does not describe a network ({error})", where=path) from error


def load_checkpoint(folder: Path) -> tuple[Model, Description]:
    """Rebuilds the network and reads its weights.

    Raises:
        CorruptArtifactError: the weights are missing, changed since they were saved, or of another network,
            or the description is of none.
    """
    description = read_description(folder)
    weights = folder / description.weights
    if not weights.is_file():
        raise CorruptArtifactError("the weights are missing", where=weights)
    if artifact.digest_file(weights) != description.sha256:
        raise CorruptArtifactError(
            "the weights are not the ones that were saved (their digest differs)",
            where=weights,
            fix="use another checkpoint, or train again",
        )
    try:
        model = build_unet(
            description.network,
            size=description.size,
            channels=description.channels,
            slicing=description.slicing,
        )
    except ConfigError as error:
        raise CorruptArtifactError(
            f"describes a network that cannot be built ({error.what})", where=folder / DESCRIPTION
        ) from error
    try:
        with warnings.catch_warnings():
            # Keras only warns where it leaves a layer with its fresh weights.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(weights)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise CorruptArtifactError(f"the weights do not fit the network ({error})", where=weights) from error
    return model, description
