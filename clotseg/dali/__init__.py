"""Shards in; augmented, centre-padded batches as TensorFlow tensors on the device out.

`replay` applies recorded augmentations to given slices: see `clotseg.dali.augment.rerun`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clotseg.dali.augment.rerun import replay as replay

__all__ = ["replay"]


def __getattr__(name: str) -> Any:
    """Loads DALI only when somebody replays."""
    if name == "replay":
        from clotseg.dali.augment.rerun import replay

        return replay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
