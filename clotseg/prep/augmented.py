"""Offline augmentation: slices of a cohort in; shards of slices augmented once by albumentations out.

The transforms are built once a worker. What happens to a sample is decided by the seed, the slice and the
number of the copy, never by who makes it or when. Each record tells its source and its parameters, in the
form that `clotseg.dali.replay` takes. This is the only module that knows albumentations.
"""

import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clotseg.config import KEY_SLOTS, SLOT_OF, AugmentConfig, OfflineConfig, SliceConfig
from clotseg.prep.cases import Case, CheckedCase
from clotseg.prep.shards import encode_slice, shard_name, write_records
from clotseg.prep.slices import Bytes, mask_slices, windowed_slices, with_context


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSlice:
    """A slice and the copies of it that a shard holds.

    Attributes:
        number: which slice of its case.
        uid: of its record in the sliced cohort.
        copies: numbers of the copies.
    """

    number: int
    uid: int
    copies: range


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentedShard:
    """One TFRecord file that is to be written.

    Attributes:
        name: file name.
        sources: the cases it holds, each with its slices.
        first_uid: uid of its first record.
    """

    name: str
    sources: tuple[tuple[Case, tuple[SourceSlice, ...]], ...]
    first_uid: int

    @property
    def records(self) -> int:
        """How many records it holds."""
        return sum(len(source.copies) for _, slices in self.sources for source in slices)


def plan_augmented(
    cases: Sequence[CheckedCase],
    numbers_of: Mapping[str, tuple[int, ...]],
    *,
    target: int,
    per_shard: int,
    seed: int,
) -> list[AugmentedShard]:
    """Shares `target` samples out over the slices: no slice has two copies more than another.

    Args:
        cases: the cases of a cohort.
        numbers_of: which slices of each are in the sliced cohort; they have its uids in this order.
        target: how many samples.
        per_shard: samples of a shard; the last may hold fewer.
        seed: which slices have one copy more.
    """
    slices = [(entry.case, number) for entry in cases for number in numbers_of[entry.case.name]]
    copies, more = divmod(target, len(slices))
    favoured = set(np.random.default_rng(seed).permutation(len(slices))[:more].tolist())
    shards = -(-target // per_shard)
    groups: list[dict[Case, list[SourceSlice]]] = [{} for _ in range(shards)]
    made = 0
    for uid, (case, number) in enumerate(slices):
        first, left = 0, copies + (uid in favoured)
        while left:
            taken = min(left, per_shard - made % per_shard)
            source = SourceSlice(number=number, uid=uid, copies=range(first, first + taken))
            groups[made // per_shard].setdefault(case, []).append(source)
            first, left, made = first + taken, left - taken, made + taken
    return [
        AugmentedShard(
            name=shard_name(number, shards),
            sources=tuple((case, tuple(sources)) for case, sources in group.items()),
            first_uid=number * per_shard,
        )
        for number, group in enumerate(groups)
    ]


def write_augmented(
    folder: Path, shard: AugmentedShard, slicing: SliceConfig, augment: AugmentConfig, offline: OfflineConfig
) -> dict[str, dict[str, Any]]:
    """Writes a shard and its index into `folder`, one case in memory at a time.

    Returns:
        Size and SHA-256 of both files by name, as manifests carry them.

    Raises:
        OSError: the disk is full or refuses the write.
    """
    return write_records(folder, shard.name, _encoded(folder.name, shard, slicing, augment, offline))


def _encoded(
    cohort: str, shard: AugmentedShard, slicing: SliceConfig, augment: AugmentConfig, offline: OfflineConfig
) -> Iterator[bytes]:
    augmenter, uid = _augmenter(augment), shard.first_uid
    for case, sources in shard.sources:
        slices, masks = windowed_slices(case, slicing), mask_slices(case)
        for source in sources:
            original = with_context(slices, [source.number], slicing.context)[0]
            for copy in source.copies:
                seed_words = (offline.seed, *cohort.encode(), source.uid, copy)
                image, mask, record = augmenter.augment(original, masks[source.number], seed_words)
                yield encode_slice(
                    image,
                    mask,
                    case=case.name,
                    number=source.number,
                    uid=uid,
                    source_uid=source.uid,
                    parameters=json.dumps(record),
                )
                uid += 1


@lru_cache(maxsize=1)
def _augmenter(config: AugmentConfig) -> "Augmenter":
    """Kept from shard to shard: building the transforms costs as much as applying them a few times."""
    return Augmenter(config)


class Augmenter:
    """The six transforms of albumentations, built once.

    Args:
        config: probabilities and limits.
    """

    def __init__(self, config: AugmentConfig) -> None:
        # albumentations asks the network for updates when it is imported.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations

        self._config = config
        low, high = config.gamma_limit
        self._transforms: dict[str, Any] = {
            "horizontal_flip": albumentations.HorizontalFlip(),
            "vertical_flip": albumentations.VerticalFlip(),
            "brightness_contrast": albumentations.RandomBrightnessContrast(
                brightness_limit=config.brightness_limit, contrast_limit=config.contrast_limit
            ),
            "gamma": albumentations.RandomGamma(gamma_limit=(100 * low, 100 * high)),
            "blur": albumentations.AdvancedBlur(),
            "clahe": albumentations.CLAHE(clip_limit=config.clahe_limit),
        }

    def augment(
        self, image: Bytes, mask: Bytes, seed_words: Sequence[int]
    ) -> tuple[Bytes, Bytes, dict[str, Any]]:
        """Augments one slice; all channels get the same parameters, the mask the flips alone.

        Args:
            image: uint8 [row, column, channel].
            mask: uint8 [row, column].
            seed_words: the same give the same.

        Returns:
            Image and mask of the same shapes, and the parameters, in the form `clotseg.dali.replay` takes.
        """
        numpy_random = np.random.default_rng(seed_words)
        python_random = random.Random(int(numpy_random.integers(2**62)))
        on = self._draw_switches(numpy_random)
        drawn: dict[str, Any] = {}
        planes = [np.ascontiguousarray(image[..., channel]) for channel in range(image.shape[2])]
        for name in (name for name in SLOT_OF if on[name]):
            transform = self._transforms[name]
            transform.set_random_state(numpy_random, python_random)
            parameters = transform.get_params()
            parameters = parameters | transform.get_params_dependent_on_data(parameters, {"image": image})
            planes = [transform.apply(plane, **parameters) for plane in planes]
            if name.endswith("flip"):
                mask = transform.apply(mask)
            drawn |= parameters
        return np.stack(planes, axis=-1), mask, _record(on, drawn)

    def _draw_switches(self, numpy_random: np.random.Generator) -> dict[str, bool]:
        augmented = numpy_random.random() < self._config.probability
        if self._config.selection == "key8":
            zeros = numpy_random.integers(KEY_SLOTS)
            key = numpy_random.permutation(KEY_SLOTS) >= zeros
            return {name: bool(augmented and key[slot]) for name, slot in SLOT_OF.items()}
        chances = {name: numpy_random.random() < getattr(self._config, name) for name in SLOT_OF}
        return {name: bool(augmented and chance) for name, chance in chances.items()}


def _record(on: Mapping[str, bool], drawn: Mapping[str, Any]) -> dict[str, Any]:
    kernel = drawn.get("kernel")
    return {
        "hflip": on["horizontal_flip"],
        "vflip": on["vertical_flip"],
        "alpha": float(drawn.get("alpha", 1.0)),
        "beta": float(drawn.get("beta", 0.0)),
        "gamma": float(drawn.get("gamma", 1.0)),
        "blur_kernel": None if kernel is None else kernel.astype(float).tolist(),
        "clahe_clip": float(drawn["clip_limit"]) if "clip_limit" in drawn else None,
    }
