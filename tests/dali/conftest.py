"""What the shards hold, as TensorFlow's own reader gives it, and slices for augmentation."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import AugmentConfig
from clotseg.dali.augment.draws import EpochDraws
from clotseg.dali.augment.parameters import ParameterRecord
from clotseg.dali.augment.transforms import bounds_of
from clotseg.dali.feed import FeedSettings, SlicedCohort, open_cohort
from clotseg.dali.pipeline import Augmentation
from clotseg.prep.stages import read_sliced
from clotseg.project import Project

# albumentations asks the network for updates when it is imported without this.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

SIZE = 48

NOTHING = {
    "probability": 1.0,
    "selection": "independent",
    "horizontal_flip": 0.0,
    "vertical_flip": 0.0,
    "brightness_contrast": 0.0,
    "gamma": 0.0,
    "blur": 0.0,
    "clahe": 0.0,
}
"""Settings under which every slice is augmented by no transform: switch on what a test is about."""


def parameters(**changed: Any) -> ParameterRecord:
    """Nothing on but what is named."""
    off = {
        "hflip": False,
        "vflip": False,
        "alpha": 1.0,
        "beta": 0.0,
        "gamma": 1.0,
        "blur_kernel": None,
        "clahe_clip": None,
    }
    return ParameterRecord(**{**off, **changed})  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class Recorded:
    """A training cohort, and the slices its records hold by uid, in the order of the files."""

    cohort: SlicedCohort
    images: list[NDArray[np.uint8]]
    masks: list[NDArray[np.uint8]]

    def padded(self, uids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What a batch of these records must be without augmentation, made with NumPy."""
        images = np.stack([centred(self.images[uid]) for uid in uids]).astype(np.float32) / 255
        masks = np.stack([centred(self.masks[uid][..., np.newaxis]) for uid in uids]).astype(np.float32)
        return images, masks


def centred(picture: NDArray[np.uint8], size: int = SIZE) -> NDArray[np.uint8]:
    """The picture amid zeros; where it cannot be amid, it lies one pixel nearer to the top or left."""
    canvas = np.zeros((size, size, picture.shape[2]), np.uint8)
    top, left = (size - picture.shape[0]) // 2, (size - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def settings(replicas: int = 1, *, size: int = SIZE, threads: int = 1) -> FeedSettings:
    """A feed on the CPU."""
    return FeedSettings(size=size, channels=2, gpus=(None,) * replicas, threads=threads, prefetch=2)


def drawn_by(config: AugmentConfig, *, batch: int, seed: int = 1, size: int = SIZE) -> Augmentation:
    """What the first epoch of a run does to the batches of its one replica."""
    draws = EpochDraws(config, seed=seed, epoch=1, spread=0)
    return Augmentation(
        bounds=bounds_of(config, channels=2, largest_side=size),
        parameters=lambda number: draws.columns(number * batch, batch),
    )


def read_records(shards: list[Path]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Images [row, column, channel] and masks [row, column] as TensorFlow's own reader finds them."""
    import tensorflow as tf

    images, masks = [], []
    for record in tf.data.TFRecordDataset([str(shard) for shard in shards]):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        shape = feature["shape"].int64_list.value
        assert feature["uid"].int64_list.value == [len(images)]
        images.append(np.frombuffer(feature["image"].bytes_list.value[0], np.uint8).reshape(shape))
        masks.append(np.frombuffer(feature["mask"].bytes_list.value[0], np.uint8).reshape(shape[:2]))
    return images, masks


@pytest.fixture(scope="session")
def recorded(sliced_project: Project) -> Recorded:
    """The training cohort of `sliced_project`."""
    cohort = open_cohort(sliced_project.sliced / "Training", read_sliced(sliced_project, "Training"))
    images, masks = read_records(list(cohort.shards))
    assert len({image.shape for image in images}) > 1
    assert len(cohort.shards) > 1
    return Recorded(cohort, images, masks)
