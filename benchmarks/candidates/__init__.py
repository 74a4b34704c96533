"""Changes to a recipe: settings, or code put in place of clotseg's, by name; `time_to_dice.py` tries them.

A recipe is written as `NAME+CHANGE+CHANGE`, where NAME is a recipe of clotseg's or a TOML file. What proved
worth it has gone into clotseg itself and stands in `docs/recipes.md` with what did not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that is tried.

    Attributes:
        settings: by dotted name.
        shape: of the network, see `networks.Shape`.
        loss: see `losses`.
        more: any other change of code, made before the command runs.
        tested: flags of `clotseg test`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    loss: str = ""
    more: Callable[[], None] | None = None
    tested: tuple[str, ...] = ()


def _muon() -> None:
    """Muon (Jordan et al. 2024) for kernels of convolutions, Adam for all else, as Keras has it."""
    import keras

    keras.optimizers.Adam = partial(keras.optimizers.Muon, adam_weight_decay=0.0)


def _half_precision() -> None:
    from clotseg.train.devices import Devices

    Devices.have_bfloat16 = property(lambda _: True)


def _hard_slices() -> None:
    from .hard import draw_hard_slices

    draw_hard_slices()


def _patches(side: int) -> None:
    from .patches import train_on_patches

    train_on_patches(side)


CHANGES: dict[str, Change] = {
    "context1": Change(settings={"slice.context": 1}),
    "context2": Change(settings={"slice.context": 2}),
    "fold2": Change(settings={"network.fold": 2}),
    "fold4": Change(settings={"network.fold": 4}),
    "refined": Change(shape={"refined": 8}),
    "standard": Change(shape={"block": "standard"}),
    "residual": Change(shape={"block": "residual"}),
    "convnext": Change(shape={"block": "convnext"}),
    "leaky": Change(shape={"leaky": True}),
    "instance": Change(settings={"network.norm": "instance"}),
    "batch-norm": Change(settings={"network.norm": "batch"}),
    "group": Change(shape={"group_norm": True}),
    "narrow": Change(shape={"up": "narrow"}),
    "add": Change(shape={"up": "add"}),
    "mirror": Change(shape={"mirror": "input"}),
    "mirror-centre": Change(shape={"mirror": "centre"}),
    "nnunet": Change(
        shape={"block": "standard", "leaky": True, "supervised": 2},
        settings={"network.norm": "instance"},
        loss="Dice and entropy",
    ),
    "difference": Change(shape={"difference": True}),
    "no-windows": Change(settings={"network.cta_windows_hu": ()}),
    "ncct-window": Change(settings={"network.ncct_windows_hu": "auto"}),
    "two-stage": Change(shape={"stages": 2}, loss="Dice and entropy"),
    "crop32": Change(shape={"stages": 2, "crop": 32}, loss="Dice and entropy"),
    "crop48": Change(shape={"stages": 2, "crop": 48}, loss="Dice and entropy"),
    "supervised": Change(shape={"supervised": 2}, loss="Dice and entropy"),
    "focal-tversky": Change(loss="focal Tversky"),
    "focal-entropy": Change(loss="focal entropy"),
    "boundary": Change(loss="boundary"),
    "slice-dice": Change(loss="slice Dice"),
    "entropy10": Change(loss="ten times the entropy"),
    "hard-slices": Change(more=_hard_slices),
    "patches48": Change(more=partial(_patches, 48)),
    "patches64": Change(more=partial(_patches, 64)),
    "constant-rate": Change(settings={"train.schedule": "constant"}),
    "muon": Change(more=_muon),
    "bfloat16": Change(settings={"train.precision": "bfloat16"}, more=_half_precision),
    "xla": Change(settings={"train.xla": True}),
    "no-flips": Change(tested=("--no-tta",)),
    "no-ema": Change(settings={"train.ema_decay": 0.0}),
    "sgd": Change(
        settings={"train.optimizer": "sgd", "train.learning_rate": 0.01, "train.schedule": "polynomial"}
    ),
    "no-augment": Change(settings={"augment.probability": 0.0}),
    "warp": Change(settings={"augment.warp": 0.5}),
    "noise16": Change(settings={"augment.noise_gaussian_sd": (1.0, 16.0)}),
    "milder": Change(
        settings={
            "augment.brightness_limit": (-0.05, 0.05),
            "augment.contrast_limit": (-0.1, 0.1),
            "augment.gamma_limit": (0.9, 1.1),
        }
    ),
    "no-noise": Change(settings={"augment.noise_gaussian": 0.0}),
    "blurred": Change(settings={"augment.blur": 0.5, "augment.clahe": 0.5}),
    "balanced": Change(settings={"slice.slices": "balanced"}),
    "clots-half": Change(settings={"train.clot_share": 0.5}),
    "clots-as-come": Change(settings={"train.clot_share": 0.0}),
}
for _count in (8, 12, 16, 24, 32):
    CHANGES[f"filters{_count}"] = Change(settings={"network.filters": _count})
for _count in (2, 3, 4, 5):
    CHANGES[f"depth{_count}"] = Change(settings={"network.depth": _count})
for _count in (4, 8, 16, 32):
    CHANGES[f"batch{_count}"] = Change(settings={"train.batch_size": _count})
for _rate in ("5e-4", "1e-3", "2e-3", "4e-3", "8e-3"):
    CHANGES[f"rate{_rate}"] = Change(settings={"train.learning_rate": float(_rate)})
for _count in (5, 10, 15, 20, 30, 40, 60, 80):
    CHANGES[f"epochs{_count}"] = Change(settings={"train.epochs": _count})
for _share in ("0", "0.1", "0.2"):
    CHANGES[f"dropout{_share}"] = Change(settings={"network.dropout": float(_share)})


def settings_of(names: Sequence[str]) -> dict[str, Any]:
    """The settings of changes, by dotted name."""
    return {key: value for name in names for key, value in CHANGES[name].settings.items()}


def flags_of(names: Sequence[str]) -> list[str]:
    """What `clotseg test` is called with beside the checkpoint."""
    return [flag for name in names for flag in CHANGES[name].tested]


def apply(names: Sequence[str]) -> None:
    """Changes the code of clotseg in this process; no network has been built before."""
    shape: dict[str, Any] = {}
    loss = ""
    for name in names:
        change = CHANGES[name]
        shape |= change.shape
        loss = change.loss or loss
        if change.more is not None:
            change.more()
    if shape:
        _put_network(shape)
    if loss:
        _put_loss(loss)


def _put_network(shape: dict[str, Any]) -> None:
    from clotseg.train import checkpoint, session

    from . import networks

    build = partial(networks.build, shape=replace(networks.Shape(), **shape))
    session.build_unet = checkpoint.build_unet = build


def _put_loss(kind: str) -> None:
    from clotseg.train import step

    from . import losses

    step.batch_sums = partial(losses.batch_sums, kind=kind)
    step.loss_of = partial(losses.loss_of, kind=kind)
