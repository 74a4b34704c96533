"""A loss that is no number: what a step told and its batch in; nothing, or a file and an error, out."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.dali.feed import ReplicaBatch
from clotseg.errors import DataError, EnvironmentProblem
from clotseg.project import Run
from clotseg.train.session import Session
from clotseg.train.step import StepResult


def require_finite(
    result: StepResult,
    epoch: int,
    step: int,
    session: Session,
    batches: Sequence[ReplicaBatch],
    uids: NDArray[np.int64],
    run: Run | None,
) -> None:
    """Ends the training where loss or gradients are NaN or infinite; the last checkpoint is from before.

    Args:
        result: what the step told.
        epoch, step: which it is, from 1 and from 0.
        session: what trains.
        batches: of this process's replicas.
        uids: of the whole global batch, int64 [replicas, N].
        run: where the batch is written, in the one process that writes.

    Raises:
        DataError: loss or gradients are not finite. It names the batch's uids, and the file it is in.
    """
    if math.isfinite(result.loss) and math.isfinite(result.gradient_norm):
        return
    what = "loss" if not math.isfinite(result.loss) else "length of the gradients"
    value = result.loss if what == "loss" else result.gradient_norm
    place = f"epoch {epoch}, batch {step + 1}"
    file = None if run is None else _write_batch(run, f"epoch-{epoch:04d}-step-{step:06d}", batches)
    where = f"worker {session.devices.place.worker}" if run is None else run.folder
    raise DataError(
        f"the {what} became {value} in {place}, of the slices with uids {uids.ravel().tolist()}",
        where=where,
        fix=f"look at the batch{f' in {file}' if file else ''}; if it is sound, a lower --learning-rate or "
        "clip_norm may help, in a run forked from the last checkpoint with --fork",
    )


def _write_batch(run: Run, place: str, batches: Sequence[ReplicaBatch]) -> Path | None:
    file = run.relevant / f"nonfinite-{place}.npz"
    try:
        with artifact.writing(file):
            np.savez_compressed(
                file,
                images=np.concatenate([batch.images.numpy() for batch in batches]),
                masks=np.concatenate([batch.masks.numpy() for batch in batches]),
                uids=np.concatenate([batch.uids for batch in batches]),
            )
    except EnvironmentProblem:
        return None  # The reason why training ends matters more.
    return file
