"""The pipeline: records in the order of the index, centred amid zeros, as fractions of the largest grey."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def

from clotseg.config import AugmentConfig
from clotseg.dali.padding import placed
from clotseg.dali.pipeline import slice_pipeline
from clotseg.prep.shards import index_name
from tests.dali.conftest import NOTHING, SIZE, Recorded, drawn_by

Floats = NDArray[np.float32]
BATCH = 5


def run(
    recorded: Recorded,
    *,
    augment: AugmentConfig | None = None,
    seed: int = 1,
    size: int = SIZE,
    **changed: Any,
) -> tuple[Floats, Floats, list[int]]:
    """Every record once, in file order, but for an incomplete last batch."""
    shards = recorded.cohort.shards
    pipeline = slice_pipeline(
        **{
            "shards": shards,
            "indices": [path.with_name(index_name(path.name)) for path in shards],
            "size": size,
            "augment": augment and drawn_by(augment, batch=BATCH, seed=seed, size=size),
            "batch_size": BATCH,
            "threads": 1,
            "device_id": None,
            "prefetch": 2,
            **changed,
        }
    )
    batches = [pipeline.run() for _ in range(recorded.cohort.records // BATCH)]
    images, masks, uids = (
        np.concatenate([np.array(batch[part].as_array()) for batch in batches]) for part in range(3)
    )
    return images, masks, uids.ravel().tolist()


@pytest.fixture(scope="module")
def plain_run(recorded: Recorded) -> tuple[Floats, Floats, list[int]]:
    """What comes out without augmentation."""
    return run(recorded)


def test_records_come_in_the_order_of_the_index(plain_run: tuple[Floats, Floats, list[int]]) -> None:
    assert plain_run[2] == list(range(len(plain_run[2])))


def test_slices_of_any_size_are_centred_amid_zeros_with_an_odd_pixel_at_the_bottom_or_right(
    recorded: Recorded, plain_run: tuple[Floats, Floats, list[int]]
) -> None:
    images, masks, uids = plain_run
    together = [recorded.images[uid].shape for uid in uids]
    assert any(len(set(together[start : start + BATCH])) > 1 for start in range(0, len(uids), BATCH))
    assert any((SIZE - shape[0]) % 2 for shape in together)
    assert any((SIZE - shape[1]) % 2 for shape in together)
    expected_images, expected_masks = recorded.padded(np.array(uids))
    np.testing.assert_allclose(images, expected_images, rtol=2e-7, atol=0)
    np.testing.assert_array_equal(masks, expected_masks)


def test_padding_by_the_operators_of_a_gpu_gives_the_same_bits() -> None:
    random = np.random.default_rng(3)
    shapes = [(1, 1), (7, 5), (48, 48), (33, 48), (46, 31)]
    images = [random.integers(0, 256, (*shape, 2), np.uint8) for shape in shapes]
    masks = [random.integers(0, 2, (*shape, 1), np.uint8) for shape in shapes]

    @pipeline_def(batch_size=len(shapes), num_threads=1, device_id=None)
    def pipeline() -> tuple[Any, ...]:
        slices = fn.external_source(source=lambda: (images, masks), num_outputs=2, layout=["HWC", "HWC"])
        return (*placed(*slices, SIZE, compiled=True), *placed(*slices, SIZE, compiled=False))

    built = pipeline()
    built.build()
    compiled_images, compiled_masks, *by_operators = (np.array(part.as_array()) for part in built.run())
    assert compiled_images.any()
    assert compiled_masks.any()
    np.testing.assert_array_equal(compiled_images, by_operators[0])
    np.testing.assert_array_equal(compiled_masks, by_operators[1])


def test_images_are_fractions_of_255_and_masks_0_or_1(
    recorded: Recorded, plain_run: tuple[Floats, Floats, list[int]]
) -> None:
    images, masks, uids = plain_run
    assert images.dtype == masks.dtype == np.float32
    assert images.shape[1:] == (SIZE, SIZE, 2)
    assert masks.shape[1:] == (SIZE, SIZE, 1)
    assert images.min() == 0
    assert images.max() == pytest.approx(max(recorded.images[uid].max() for uid in uids) / 255)
    assert set(np.unique(masks)) == {0, 1}


def test_a_slice_as_large_as_the_square_is_left_whole(recorded: Recorded) -> None:
    images, _, uids = run(recorded, size=32)
    whole = [place for place, uid in enumerate(uids) if recorded.images[uid].shape == (32, 32, 2)]
    assert whole
    for place in whole:
        np.testing.assert_array_equal(np.rint(images[place] * 255), recorded.images[uids[place]])


def test_probability_0_leaves_every_slice_as_it_is(
    recorded: Recorded, plain_run: tuple[Floats, Floats, list[int]]
) -> None:
    images, masks, _ = run(recorded, augment=AugmentConfig(probability=0.0))
    np.testing.assert_array_equal(images, plain_run[0])
    np.testing.assert_array_equal(masks, plain_run[1])


@pytest.fixture(scope="module")
def augmented_run(recorded: Recorded) -> tuple[Floats, Floats, list[int]]:
    """What comes out with augmentation under seed 1."""
    return run(recorded, augment=AugmentConfig())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_slices_for_any_number_of_threads(
    recorded: Recorded,
    plain_run: tuple[Floats, Floats, list[int]],
    augmented_run: tuple[Floats, Floats, list[int]],
    threads: int,
) -> None:
    images, masks, uids = run(recorded, augment=AugmentConfig(), threads=threads, prefetch=threads)
    assert uids == plain_run[2]
    np.testing.assert_array_equal(images, augmented_run[0])
    np.testing.assert_array_equal(masks, augmented_run[1])
    assert (images != plain_run[0]).any()


def test_another_seed_augments_otherwise(
    recorded: Recorded, augmented_run: tuple[Floats, Floats, list[int]]
) -> None:
    images, _, _ = run(recorded, augment=AugmentConfig(), seed=2)
    assert (images != augmented_run[0]).any(axis=(1, 2, 3)).mean() > 0.5


def test_slices_are_augmented_at_their_own_size_so_the_margin_stays_0(recorded: Recorded) -> None:
    brighter = AugmentConfig(
        **{**NOTHING, "brightness_contrast": 1.0},
        brightness_limit=(0.2, 0.2),
        contrast_limit=(0.0, 0.0),
    )
    images, _, uids = run(recorded, augment=brighter)
    inside, _ = Recorded(
        recorded.cohort, [np.full_like(image, 255) for image in recorded.images], recorded.masks
    ).padded(np.array(uids))
    assert (images[inside == 0] == 0).all()
    assert images[inside == 1].min() >= np.float32(51 / 255)


def test_flips_move_the_mask_with_its_image(recorded: Recorded) -> None:
    mirror = AugmentConfig(**{**NOTHING, "horizontal_flip": 1.0})
    images, masks, uids = run(recorded, augment=mirror)
    mirrored = Recorded(
        recorded.cohort,
        [image[:, ::-1] for image in recorded.images],
        [mask[:, ::-1] for mask in recorded.masks],
    )
    expected_images, expected_masks = mirrored.padded(np.array(uids))
    np.testing.assert_allclose(images, expected_images, rtol=2e-7, atol=0)
    np.testing.assert_array_equal(masks, expected_masks)
