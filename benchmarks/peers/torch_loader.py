"""PyTorch's DataLoader over a .npy file a slice, albumentations in its worker processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import Data, Feed, Setting
from .transforms import augment, centred, finished

TITLE = "PyTorch DataLoader + albumentations"
NEEDS = ("torch",)


def settings(cores: int) -> list[Setting]:
    """Worker processes, batches that each makes ahead, and where pixels become floats.

    PyTorch advises against more workers than cores.
    """
    return [
        {"workers": cores, "ahead": 2, "cast": "main"},
        {"workers": cores, "ahead": 4, "cast": "main"},
        {"workers": max(1, cores - 1), "ahead": 2, "cast": "main"},
        {"workers": cores, "ahead": 2, "cast": "worker"},
    ]


class Slices:
    """A map-style dataset: DataLoader needs no more than the two methods."""

    def __init__(self, data: Data, *, augmented: bool, as_bytes: bool) -> None:
        """`as_bytes` leaves it to the main process to make floats."""
        self._data, self._augmented, self._as_bytes = data, augmented, as_bytes

    def __len__(self) -> int:
        return self._data.slices

    def __getitem__(self, uid: int) -> tuple[Any, Any]:
        import torch

        image, mask = np.load(self._data.images[uid]), np.load(self._data.masks[uid])
        if not self._as_bytes:
            pair = finished(image, mask, self._data.size, augmented=self._augmented)
            return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])
        if self._augmented:
            image, mask = augment(image, mask)
        image, mask = (np.ascontiguousarray(centred(part, self._data.size)) for part in (image, mask))
        return torch.from_numpy(image), torch.from_numpy(mask)


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """A pass is one iteration; the workers stay from pass to pass."""
    del device
    import torch
    from torch.utils.data import DataLoader

    as_bytes = setting["cast"] == "main"
    loader = DataLoader(
        Slices(data, augmented=augmented, as_bytes=as_bytes),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=setting["workers"],
        prefetch_factor=setting["ahead"],
        persistent_workers=True,
    )

    def take_pass() -> Iterator[tuple[Any, Any]]:
        for images, masks in loader:
            if as_bytes:
                yield images.to(torch.float32).mul_(1 / 255), masks.to(torch.float32).unsqueeze_(-1)
            else:
                yield images, masks

    return Feed(take_pass=take_pass)
