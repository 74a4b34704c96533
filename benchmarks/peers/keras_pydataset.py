"""A Keras PyDataset over a .npy file a slice, with albumentations, iterated over as `fit` does."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from clotseg.quiet import load_tensorflow

from . import Data, Feed, Setting
from .transforms import finished

TITLE = "Keras PyDataset + albumentations"
NEEDS = ()


def settings(cores: int) -> list[Setting]:
    """One thread, which is Keras's default; several; and processes, forked from one that holds TensorFlow."""
    return [
        {"workers": 1, "processes": False},
        *({"workers": count, "processes": False} for count in sorted({2, cores, 2 * cores})),
        {"workers": cores, "processes": True},
    ]


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """A pass is an epoch."""
    del device
    load_tensorflow()
    import keras

    # What `fit` reads a PyDataset through: there is no public name for it.
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    class Slices(keras.utils.PyDataset):  # type: ignore[misc]
        """A batch an item, in an order that is drawn anew after each epoch."""

        def __init__(self) -> None:
            super().__init__(
                workers=setting["workers"], use_multiprocessing=setting["processes"], max_queue_size=10
            )
            self._random = np.random.default_rng(1)
            self.on_epoch_end()

        def __len__(self) -> int:
            return data.slices // batch

        def __getitem__(self, number: int) -> tuple[Any, Any]:
            pairs = [
                finished(np.load(data.images[uid]), np.load(data.masks[uid]), data.size, augmented=augmented)
                for uid in self._order[number * batch : (number + 1) * batch]
            ]
            return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

        def on_epoch_end(self) -> None:
            self._order = self._random.permutation(data.slices)

    adapter = PyDatasetAdapter(Slices(), shuffle=True)
    batches = adapter.get_tf_dataset()

    def take_pass() -> Iterator[tuple[Any, Any]]:
        adapter.on_epoch_begin()
        yield from batches
        adapter.on_epoch_end()

    return Feed(take_pass=take_pass)
