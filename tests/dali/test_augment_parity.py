"""Parity: replayed parameters give the pixels of albumentations 2.0.8 and OpenCV, whatever the slice.

Prints, for each transform and size, how many pixels were compared, how many differ, and by how much: run with
`-s` to see it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
from albumentations.augmentations.pixel import functional
from numpy.typing import NDArray
from nvidia.dali import pipeline_def, types

from clotseg.dali import replay
from clotseg.dali.augment.clahe import fill_up
from clotseg.dali.augment.parameters import ParameterRecord
from tests.dali.conftest import parameters

Bytes = NDArray[np.uint8]

SIZES = ((1, 1), (7, 5), (96, 77), (96, 96), (131, 77), (256, 256))
LARGEST_DIFFERENCE = {"cpu": 0, "operators on cpu": 0, "gpu": 1}


def by_contents(shape: tuple[int, int, int], random: np.random.Generator) -> dict[str, Bytes]:
    """Slices of every kind: random, flat, saturated, noisy, a ramp of every level, and like a head CT."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    radius = np.hypot((rows - shape[0] / 2) / shape[0], (columns - shape[1] / 2) / shape[1])
    head = np.select([radius < 0.36, radius < 0.42], [90.0, 250.0], 0.0)[..., np.newaxis]
    ramp = np.arange(np.prod(shape)).reshape(shape) % 256
    return {
        "random": random.integers(0, 256, shape, np.uint8),
        "flat": np.full(shape, 97, np.uint8),
        "black": np.zeros(shape, np.uint8),
        "saturated": random.choice(np.array([0, 255], np.uint8), shape),
        "noisy": np.clip(random.normal(128, 20, shape), 0, 255).astype(np.uint8),
        "every level": ramp.astype(np.uint8),
        "like CT": np.clip(head + random.normal(0, 6, shape), 0, 255).astype(np.uint8),
    }


def some_params(transform: Any, random: np.random.Generator) -> dict[str, Any]:
    """Parameters as albumentations draws them."""
    transform.set_random_seed(int(random.integers(2**31)))
    drawn: dict[str, Any] = transform.get_params() | transform.get_params_dependent_on_data(
        {}, {"image": np.zeros((1, 1), np.uint8)}
    )
    return drawn


def flips(random: np.random.Generator) -> tuple[ParameterRecord, Callable[[Bytes], Bytes]]:
    """One flip or both."""
    hflip, vflip = [(True, False), (False, True), (True, True)][random.integers(3)]

    def expected(image: Bytes) -> Bytes:
        image = albumentations.HorizontalFlip(p=float(hflip))(image=image)["image"]
        return albumentations.VerticalFlip(p=float(vflip))(image=image)["image"]

    return parameters(hflip=hflip, vflip=vflip), expected


def brightness_contrast(random: np.random.Generator) -> tuple[ParameterRecord, Callable[[Bytes], Bytes]]:
    """RandomBrightnessContrast, closed on what was drawn."""
    contrast, brightness = random.uniform(-0.2, 0.2, 2)
    transform = albumentations.RandomBrightnessContrast(
        brightness_limit=(brightness,) * 2, contrast_limit=(contrast,) * 2, p=1
    )
    record = parameters(alpha=1 + contrast, beta=255 * brightness)
    return record, lambda image: transform(image=image)["image"]


def gamma(random: np.random.Generator) -> tuple[ParameterRecord, Callable[[Bytes], Bytes]]:
    """RandomGamma."""
    drawn = some_params(albumentations.RandomGamma(p=1), random)["gamma"]
    return parameters(gamma=drawn), lambda image: functional.gamma_transform(image, gamma=drawn)


def blur(random: np.random.Generator) -> tuple[ParameterRecord, Callable[[Bytes], Bytes]]:
    """AdvancedBlur."""
    kernel = some_params(albumentations.AdvancedBlur(p=1), random)["kernel"]
    return parameters(blur_kernel=kernel.tolist()), lambda image: functional.convolve(image, kernel=kernel)


def clahe(random: np.random.Generator) -> tuple[ParameterRecord, Callable[[Bytes], Bytes]]:
    """CLAHE, each channel by itself: albumentations itself has it for 1 or 3 channels only."""
    clip = some_params(albumentations.CLAHE(p=1), random)["clip_limit"]

    def expected(image: Bytes) -> Bytes:
        method = cv2.createCLAHE(clipLimit=clip, tileGridSize=(8, 8))
        planes = [method.apply(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, 2, 0)]
        return np.stack(planes, axis=-1)

    return parameters(clahe_clip=clip), expected


def together(random: np.random.Generator) -> tuple[ParameterRecord, Callable[[Bytes], Bytes]]:
    """All of them, in the order of the original's list."""
    parts = [make(random) for make in (flips, brightness_contrast, gamma, blur, clahe)]
    merged = parameters()
    for record, _ in parts:
        merged.update({name: value for name, value in record.items() if value != parameters()[name]})

    def expected(image: Bytes) -> Bytes:
        for _, part in parts:
            image = part(image)
        return image

    return merged, expected


TRANSFORMS = (flips, brightness_contrast, gamma, blur, clahe, together)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines of the table; printed when the module is done."""
    lines = [
        "| device | transform | slice | pixels compared | different | largest difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    yield lines
    print("", *lines, sep="\n")


@pytest.mark.parametrize("device", ["cpu", "operators on cpu", "gpu"], indirect=True)
@pytest.mark.parametrize("make", TRANSFORMS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "size",
    [pytest.param(size, marks=pytest.mark.slow) if size[0] > 96 else size for size in SIZES],
    ids=[f"{rows}x{columns}" for rows, columns in SIZES],
)
def test_every_pixel_is_that_of_albumentations_and_opencv(
    make: Callable[[np.random.Generator], tuple[ParameterRecord, Callable[[Bytes], Bytes]]],
    size: tuple[int, int],
    device: Any,
    table: list[str],
) -> None:
    random = np.random.default_rng([*size, TRANSFORMS.index(make)])
    contents = by_contents((*size, 2), random)
    images = np.stack([image for image in contents.values() for _ in range(6)])
    masks = random.integers(0, 2, images.shape[:3], np.uint8)
    drawn = [make(random) for _ in images]
    got, got_masks = replay(images, masks, [record for record, _ in drawn], device=device)
    expected = np.stack([apply(image) for (_, apply), image in zip(drawn, images, strict=True)])
    difference = np.abs(got.astype(int) - expected.astype(int))
    table.append(
        f"| {device} | {make.__name__} | {size[0]} × {size[1]} | {difference.size} "
        f"| {np.count_nonzero(difference)} | {difference.max()} |"
    )
    assert difference.max() <= LARGEST_DIFFERENCE[device]
    for mask, got_mask, (record, _) in zip(masks, got_masks, drawn, strict=True):
        axes = [axis for axis, on in ((0, record["vflip"]), (1, record["hflip"])) if on]
        np.testing.assert_array_equal(got_mask, np.flip(mask, axes))
    if min(size) > 7 and make is not flips:
        assert (got != images).any(axis=(1, 2, 3)).mean() > 0.3, "nothing was put to the test"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "operators on cpu"])
def test_clahe_is_exact_at_each_clip_limit_around_every_rounding(device: Any) -> None:
    """OpenCV rounds ⌊clip · area / 256⌋; the limits just below, at and just above each step."""
    random = np.random.default_rng(8)
    for side in (96, 100, 160, 250):
        tile = side // 8 if side % 8 == 0 else side // 8 + 1
        steps = np.arange(1, 4 * tile**2 // 256 + 1) * 256 / tile**2
        clips = np.concatenate([steps, steps * (1 - 1e-9), steps * (1 + 1e-9), [1.0, 4.0]])
        clips = clips[(clips >= 1) & (clips <= 4)]
        images = np.clip(random.normal(120, 12, (len(clips), side, side, 1)), 0, 255).astype(np.uint8)
        records = [parameters(clahe_clip=float(clip)) for clip in clips]
        got, _ = replay(images, images[..., 0], records, device=device)
        for clip, image, equalised in zip(clips, images, got, strict=True):
            expected = cv2.createCLAHE(clipLimit=float(clip), tileGridSize=(8, 8)).apply(image[..., 0])
            np.testing.assert_array_equal(equalised[..., 0], expected, err_msg=f"{side} {clip}")


def test_slices_of_different_sizes_go_through_one_graph() -> None:
    random = np.random.default_rng(5)
    images = [random.integers(0, 256, (*size, 2), np.uint8) for size in SIZES]
    drawn = [together(random) for _ in images]
    got, got_masks = replay(images, [image[..., 0] for image in images], [record for record, _ in drawn])
    for image, result, mask, (_, apply) in zip(images, got, got_masks, drawn, strict=True):
        np.testing.assert_array_equal(result, apply(image))
        assert mask.shape == image.shape[:2]


@pytest.mark.parametrize("channels", [1, 3, 6, 10])
def test_context_slices_are_channels_of_the_same_image(channels: int) -> None:
    random = np.random.default_rng(channels)
    images = random.integers(0, 256, (3, 40, 33, channels), np.uint8)
    drawn = [together(random) for _ in images]
    got, _ = replay(images, images[..., 0], [record for record, _ in drawn])
    for image, result, (_, apply) in zip(images, got, drawn, strict=True):
        by_channel = [apply(np.ascontiguousarray(image[..., [number] * 2])) for number in range(channels)]
        np.testing.assert_array_equal(result, np.stack([pair[..., 0] for pair in by_channel], axis=-1))


@pytest.mark.parametrize(("before", "after"), [((1, 1), (8, 8)), ((7, 5), (8, 8)), ((96, 77), (104, 80))])
def test_slices_are_filled_up_for_a_gpu_as_opencv_does(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    """The graph is the same on a CPU, where it need not be used but can be tried."""
    image = np.random.default_rng(1).integers(0, 256, (*before, 2), np.uint8)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, enable_conditionals=True)
    def pipeline() -> Any:
        return fill_up(
            types.Constant(image, device="cpu", layout="HWC"), types.Constant(np.array(after)), 200
        )

    built = pipeline()
    built.build()
    (filled,) = built.run()
    expected = cv2.copyMakeBorder(
        image, 0, after[0] - before[0], 0, after[1] - before[1], cv2.BORDER_REFLECT_101
    )
    np.testing.assert_array_equal(filled.as_array()[0], expected)
