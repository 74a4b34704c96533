"""Shards in; augmented, centre-padded batches as TensorFlow tensors on the device out.

`replay` applies recorded augmentations to given slices: see `clotseg.dali.augment.rerun`.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clotseg.dali.augment.rerun import replay as replay

__all__ = ["replay"]

# From this size on DALI keeps the memory of one batch for another. Otherwise it goes back to the system, and
# every page of it has to be fetched and blanked anew. DALI looks at this when it first takes memory.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")


def __getattr__(name: str) -> Any:
    """Loads DALI only when somebody replays."""
    if name == "replay":
        from clotseg.dali.augment.rerun import replay

        return replay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
