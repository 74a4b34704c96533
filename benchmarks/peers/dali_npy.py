"""DALI over a .npy file a slice, handed over by its PyTorch iterator, as NVIDIA's nnU-Net example does it.

Taken from the example: a NumPy reader each for images and masks with the same seed, no memory map, read
ahead; files shuffled anew after each epoch; DALI's own flip and Gaussian blur; brightness and contrast as
arithmetic; `DALIGenericIterator` that resets itself. Better than there: what is not drawn is not computed
(the example computes every transform for all and multiplies by 0 or 1). As near as DALI's operators come:
the blur is a round Gaussian of one σ, and the limit of CLAHE is fixed when the graph is built, here halfway
between the original's bounds. Each is applied to all slices whose coin says so.
"""

from collections.abc import Iterator
from typing import Any

from . import Data, Feed, Setting
from .transforms import SWITCHED_ON

TITLE = "DALI over .npy, its iterator"
NEEDS = ("torch",)

CLIP_LIMIT = 2.5


def settings(cores: int) -> list[Setting]:
    """Threads of the pipeline, and batches made ahead."""
    return [
        {"threads": threads, "ahead": ahead} for threads in sorted({cores, 2 * cores}) for ahead in (2, 4)
    ]


def six(image: Any, mask: Any) -> tuple[Any, Any]:
    """The transforms in their order; image uint8 HWC of two channels, mask uint8 HWC of one."""
    from nvidia.dali import fn, math, types

    def coin() -> Any:
        return fn.random.coin_flip(probability=SWITCHED_ON, dtype=types.BOOL)

    def between(low: float, high: float) -> Any:
        return fn.random.uniform(range=(low, high))

    def to_bytes(grey: Any) -> Any:
        return fn.cast(math.clamp(grey, 0.0, 255.0), dtype=types.UINT8)

    mirrored = {"horizontal": fn.random.coin_flip(probability=SWITCHED_ON)}
    mirrored["vertical"] = fn.random.coin_flip(probability=SWITCHED_ON)
    image, mask = fn.flip(image, **mirrored), fn.flip(mask, **mirrored)
    if coin():
        image = to_bytes(image * between(0.8, 1.2) + 255.0 * between(-0.2, 0.2))
    if coin():
        image = to_bytes(math.pow(image * (1 / 255), between(0.8, 1.2)) * 255.0)
    if coin():
        image = fn.gaussian_blur(image, sigma=between(0.2, 1))
    if coin():
        planes = [image[:, :, channel : channel + 1] for channel in range(2)]
        equalised = [fn.clahe(plane, tiles_x=8, tiles_y=8, clip_limit=CLIP_LIMIT) for plane in planes]
        image = fn.cat(*equalised, axis=2)
    return image, mask


def _pipeline(data: Data, batch: int, setting: Setting, *, augmented: bool, on_gpu: bool) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    def reader(files: tuple[Any, ...], name: str) -> Any:
        return fn.readers.numpy(
            files=[str(path) for path in files],
            name=name,
            dont_use_mmap=True,
            read_ahead=True,
            shuffle_after_epoch=True,
            seed=1,
        )

    @pipeline_def(
        batch_size=batch,
        num_threads=setting["threads"],
        device_id=0 if on_gpu else None,
        prefetch_queue_depth=setting["ahead"],
        enable_conditionals=True,
        seed=1,
    )
    def graph() -> Any:
        image, mask = reader(data.images, "images"), reader(data.masks, "masks")
        if on_gpu:
            image, mask = image.gpu(), mask.gpu()
        image = fn.reshape(image, layout="HWC")
        mask = fn.reshape(mask, shape=(data.side, data.side, 1), layout="HWC")
        if augmented and fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
            image, mask = six(image, mask)
        padded = [
            fn.crop(
                part,
                crop=(data.size, data.size),
                out_of_bounds_policy="pad",
                rounding="truncate",
                dtype=types.FLOAT,
            )
            for part in (image, mask)
        ]
        return padded[0] * (1 / 255), padded[1]

    return graph()


def open_feed(data: Data, batch: int, setting: Setting, *, augmented: bool, device: str) -> Feed:
    """A pass is an epoch of the iterator, which begins the next one by itself."""
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    on_gpu = device == "gpu"
    batches = DALIGenericIterator(
        [_pipeline(data, batch, setting, augmented=augmented, on_gpu=on_gpu)],
        output_map=["image", "mask"],
        reader_name="images",
        last_batch_policy=LastBatchPolicy.DROP,
        auto_reset=True,
    )

    def take_pass() -> Iterator[tuple[Any, Any]]:
        for (batch_of_both,) in batches:
            yield batch_of_both["image"], batch_of_both["mask"]

    return Feed(
        take_pass=take_pass,
        ahead=(setting["ahead"] + 2) * batch,
        finish=lambda images: images[0, 0, 0, 0].item(),
    )
