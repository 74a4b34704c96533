"""albumentations for whoever calls it from several threads or processes: a slice in, the augmented slice out.

Each thread of each process has transforms of its own, built once: albumentations keeps what it draws in its
objects, and workers that were forked with a copy would all draw the same.
"""

import os
import threading
from typing import Any

import numpy as np
from augment import albumentations_with_clahe, six
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SWITCHED_ON = 0.5625
"""How often each transform is on, where a slice is augmented at all: with probability 0.8."""

_own = threading.local()


def _transforms() -> Any:
    if getattr(_own, "process", None) != os.getpid():
        _own.process = os.getpid()
        _own.transforms = six(*albumentations_with_clahe(), [SWITCHED_ON] * 6)
    return _own.transforms


def augment(image: Bytes, mask: Bytes) -> tuple[Bytes, Bytes]:
    """The six transforms under the original's probabilities.

    Args:
        image: uint8 [rows, columns, channels].
        mask: uint8 [rows, columns].
    """
    changed = _transforms()(image=image, mask=mask)
    return changed["image"], changed["mask"]


def centred(picture: Bytes, size: int) -> Bytes:
    """The picture amid zeros, [size, size, …]; an odd pixel goes to the bottom or right."""
    rows, columns = picture.shape[:2]
    if (rows, columns) == (size, size):
        return picture
    canvas = np.zeros((size, size, *picture.shape[2:]), np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    canvas[top : top + rows, left : left + columns] = picture
    return canvas


def as_float(image: Bytes, mask: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """float32 image in 0…1, and float32 mask with an axis for its one channel at the end."""
    return np.multiply(image, np.float32(1 / 255), dtype=np.float32), mask.astype(np.float32)[..., np.newaxis]


def finished(
    image: Bytes, mask: Bytes, size: int, *, augmented: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A slice as it comes off the disk, as the network wants it."""
    if augmented:
        image, mask = augment(image, mask)
    return as_float(centred(image, size), centred(mask, size))
