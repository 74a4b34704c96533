"""clotseg: its feed as training opens it, a feed an epoch, with its default augmentation and threads."""

import itertools
from collections.abc import Iterator
from typing import Any

from clotseg.config import AugmentConfig, RuntimeConfig
from clotseg.dali.feed import Feed as EpochFeed
from clotseg.dali.feed import FeedSettings
from clotseg.dali.order import plan_training
from clotseg.train.devices import open_devices

from . import Data, Feed, Setting
from .cohort import sliced_cohort

TITLE = "clotseg"
NEEDS = ()


def settings(cores: int) -> list[Setting]:
    """What training takes by default; nothing is searched."""
    return [{"threads": cores, "prefetch": RuntimeConfig().prefetch}]


def open_feed(
    data: Data, batch: int, setting: Setting, *, augmented: bool, device: str, samples: int | None = None
) -> Feed:
    """A pass is an epoch: of all slices, or of so many samples, where slices come up again and again."""
    devices = open_devices(
        RuntimeConfig(gpus=int(device == "gpu"), threads=setting["threads"], prefetch=setting["prefetch"])
    )
    cohort = sliced_cohort(data)
    feed_settings = FeedSettings(
        size=data.size,
        channels=2,
        gpus=devices.gpus,
        threads=devices.threads,
        prefetch=setting["prefetch"],
    )
    epochs = itertools.count(1)

    def take_pass() -> Iterator[tuple[Any, Any]]:
        epoch = next(epochs)
        plan = plan_training(
            cohort,
            samples=(samples or data.slices) // batch * batch,
            batch_size=batch,
            replicas=1,
            seed=1,
            epoch=epoch,
        )
        augment = AugmentConfig() if augmented else None
        for (replica,) in EpochFeed(cohort, plan, feed_settings, augment=augment, seed=1, epoch=epoch):
            yield replica.images, replica.masks

    # Batches come in order, so when a pixel of the last has come to the host, all have been made.
    return Feed(take_pass=take_pass, finish=lambda images: images[0, 0, 0, 0].numpy())
