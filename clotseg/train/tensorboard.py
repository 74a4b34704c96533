"""Events for TensorBoard: an epoch's row, and slices with truth and prediction, in; files it can show out.

Each epoch has a file of its own for its numbers and one for its pictures, written whole and renamed into
place. So a run killed at any moment leaves only whole files, and a resumed one goes on in the same folder:
files of epochs that will be done again are taken away, files that are lacking are written from the history.
Event files are TFRecord files of `Event` messages; TensorBoard itself is not needed to write them.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.dali.feed import Feed, FeedSettings, SlicedCohort
from clotseg.dali.order import EpochPlan
from clotseg.dashboard import EpochFacts
from clotseg.prep.shards import framed
from clotseg.project import Run

SCALARS = ("loss", "val_dice", "learning_rate", "slices_per_s", "waiting", "seconds")
EVENT_VERSION = "brain.Event:2"
UNFINISHED = ".unfinished"
"""What a file is called until it is whole; TensorBoard reads whatever has `tfevents` in its name."""

TRUTH_COLOUR = (0, 220, 90)
PREDICTION_COLOUR = (255, 60, 200)
BOTH_COLOUR = (255, 225, 0)

Pictures = NDArray[np.uint8]


class Events:
    """The events of one run.

    Args:
        run: its folder; `TensorBoard` in it is made where it is not there.
        history: the epochs that are done already; above them there are no events afterwards.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """

    def __init__(self, run: Run, history: Sequence[EpochFacts] = ()) -> None:
        self._folder = run.tensorboard
        self._refused: dict[str, bytes] = {}
        with artifact.writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            done = {row.epoch for row in history}
            (self._folder / UNFINISHED).unlink(missing_ok=True)
            for file in self._folder.glob("events.out.tfevents.*"):
                if _epoch_of(file.name) not in done:
                    file.unlink()
        for row in history:
            if not (self._folder / _file_name(row.epoch, "scalars")).exists():
                self.epoch(row)

    def epoch(self, row: EpochFacts) -> None:
        """Writes the numbers of an epoch.

        Raises:
            EnvironmentProblem: the disk is full or refuses the write; the next call tries again.
        """
        values = [{"tag": name, "simple_value": float(getattr(row, name))} for name in SCALARS]
        self._write(_file_name(row.epoch, "scalars"), row.epoch, values)

    def overlays(self, epoch: int, images: Pictures) -> None:
        """Writes pictures of an epoch, after its numbers; the k-th of each epoch is one series.

        Args:
            epoch: from 1.
            images: uint8 [pictures, row, column, RGB]; where there is none, nothing is written.

        Raises:
            EnvironmentProblem: the disk is full or refuses the write; the next call tries again.
        """
        if not len(images):
            return
        values = [
            {"tag": f"validation/{number}", "image": _encoded(image)} for number, image in enumerate(images)
        ]
        self._write(_file_name(epoch, "slices"), epoch, values)

    def close(self) -> None:
        """Writes what was refused before, where there is anything.

        Raises:
            EnvironmentProblem: it is refused again.
        """
        for name in list(self._refused):
            unfinished = self._folder / UNFINISHED
            artifact.write_file(self._folder / name, self._refused[name], temporary=unfinished)
            del self._refused[name]

    def _write(self, name: str, epoch: int, values: list[dict[str, Any]]) -> None:
        from tensorflow.core.util.event_pb2 import Event

        now = time.time()
        events = (
            Event(wall_time=now, file_version=EVENT_VERSION),
            Event(wall_time=now, step=epoch, summary={"value": values}),
        )
        self._refused[name] = b"".join(part for event in events for part in framed(event.SerializeToString()))
        self.close()


def _file_name(epoch: int, kind: str) -> str:
    """TensorBoard knows event files by the middle of their names, and reads them in order of their names."""
    return f"events.out.tfevents.{epoch:06d}.{kind}"


def _epoch_of(file_name: str) -> int | None:
    """The epoch in an event file's name; None where it is none of ours."""
    number = file_name.split(".")[3]
    return int(number) if number.isdecimal() else None


def _encoded(image: Pictures) -> dict[str, Any]:
    import tensorflow as tf

    height, width, channels = image.shape
    picture = tf.io.encode_png(image).numpy()
    return {"height": height, "width": width, "colorspace": channels, "encoded_image_string": picture}


def slices_to_show(
    clot_pixels: NDArray[np.int64], case_of: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Which slices of a cohort tell most: of each case the one with most clot, the largest clots first.

    Args:
        clot_pixels: int64 [slices], of the truth.
        case_of: int64 [slices], the number of each slice's case.
        count: how many at most; cases without a clot are left out.

    Returns:
        int64 [slices to show], places in `clot_pixels`.
    """
    by_clot = np.argsort(-clot_pixels, kind="stable")
    by_clot = by_clot[clot_pixels[by_clot] > 0]
    _, firsts = np.unique(case_of[by_clot], return_index=True)
    return by_clot[np.sort(firsts)][:count]


def read_slices(
    cohort: SlicedCohort, uids: NDArray[np.int64], settings: FeedSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slices of a cohort as the network sees them in validation, read once for the pictures of all epochs.

    Args:
        cohort: with `uids` among its records.
        uids: int64 [n], which slices.
        settings: of the run; the first replica reads.

    Returns:
        Images float32 [n, size, size, C] in 0…1, masks float32 [n, size, size, 1].
    """
    if not len(uids):
        side = (0, settings.size, settings.size)
        return np.zeros((*side, settings.channels), np.float32), np.zeros((*side, 1), np.float32)
    plan = EpochPlan(uids=uids.reshape(1, 1, -1), weights=np.ones((1, 1, len(uids)), np.float32))
    ((batch,),) = Feed(cohort, plan, replace(settings, gpus=settings.gpus[:1]))
    return batch.images.numpy(), batch.masks.numpy()


def draw_overlays(
    slices: NDArray[Any],
    masks: NDArray[Any],
    probabilities: NDArray[Any],
    *,
    threshold: float = 0.5,
    channel: int = 0,
    zoom: int = 3,
) -> Pictures:
    """Slices in grey with the truth outlined in green, the prediction in magenta, and yellow where both run.

    Args:
        slices: [slices, row, column, channel], uint8 or float in 0…1.
        masks: [slices, row, column] or with one channel; above 0 is clot.
        probabilities: of the same shape as the masks, 0…1.
        threshold: from which probability on a pixel is clot.
        channel: which channel is shown.
        zoom: how many pixels a side each pixel becomes, so that outlines hide little.

    Returns:
        uint8 [slices, row · zoom, column · zoom, RGB].
    """
    grey = slices[..., channel]
    if grey.dtype != np.uint8:
        grey = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    shape = grey.shape
    truth, predicted = (
        _outlines(_enlarged(clot.reshape(shape), zoom)) for clot in (masks > 0, probabilities >= threshold)
    )
    pictures = np.repeat(_enlarged(grey, zoom)[..., np.newaxis], 3, axis=-1)
    pictures[truth] = TRUTH_COLOUR
    pictures[predicted] = PREDICTION_COLOUR
    pictures[truth & predicted] = BOTH_COLOUR
    return pictures


def _enlarged(images: NDArray[Any], zoom: int) -> NDArray[Any]:
    return images.repeat(zoom, axis=1).repeat(zoom, axis=2)


def _outlines(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of each mask [slice, row, column] of which one of the four neighbours is not in it."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    inner = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return masks & ~inner
