"""The slices that all peers are given: side and number in; TFRecord shards, .npy files, array records out."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.dali.feed import SlicedCohort, open_cohort
from clotseg.prep.shards import encode_slice, shard_name, write_records

from . import Data

Bytes = NDArray[np.uint8]

SHARDS = 8


def make_slices(side: int, count: int) -> Iterator[tuple[Bytes, Bytes]]:
    """Heads with skull, brain and noise, uint8 [side, side, 2], each with a clot, uint8 0/1 [side, side].

    No two are alike: the noise is another, and the head and the clot lie elsewhere.
    """
    rng = np.random.default_rng(side)
    rows, columns = np.ogrid[:side, :side]
    for _ in range(count):
        middle, clot = rng.uniform(0.46, 0.54, 2), rng.uniform(0.35, 0.65, 2)
        radius = np.hypot(rows / side - middle[0], columns / side - middle[1])
        head = np.select([radius < 0.38, radius < 0.44], [90.0, 250.0], 0.0)[..., np.newaxis]
        image = np.clip(head + rng.normal(0, 8, (side, side, 2)), 0, 255).astype(np.uint8)
        yield image, (np.hypot(rows / side - clot[0], columns / side - clot[1]) < 0.05).astype(np.uint8)


def write_data(folder: Path, *, side: int, size: int, slices: int) -> Data:
    """Writes a cohort in every form.

    Args:
        folder: where to; it is made.
        side: rows and columns of a slice.
        size: side of the square that slices are padded to.
        slices: how many; 8 at least, for each shard to hold one.
    """
    pictures = folder / "npy"
    pictures.mkdir(parents=True)
    images = tuple(pictures / f"{uid:06d}_image.npy" for uid in range(slices))
    masks = tuple(pictures / f"{uid:06d}_mask.npy" for uid in range(slices))
    uids = np.array_split(np.arange(slices), SHARDS)
    writer = _array_record_writer(folder / "slices.array_record")
    made = enumerate(make_slices(side, slices))

    def encoded(shard: int) -> Iterator[bytes]:
        for _ in uids[shard]:
            uid, (image, mask) = next(made)
            np.save(images[uid], image)
            np.save(masks[uid], mask)
            if writer is not None:
                writer.write(np.dstack([image, mask]).tobytes())
            yield encode_slice(image, mask, case=f"case_{shard}", number=uid, uid=uid)

    for number in range(SHARDS):
        write_records(folder, shard_name(number, SHARDS), encoded(number))
    if writer is not None:
        writer.close()
    return Data(
        side=side,
        size=size,
        shards=tuple(folder / shard_name(number, SHARDS) for number in range(SHARDS)),
        images=images,
        masks=masks,
        array_record=None if writer is None else folder / "slices.array_record",
    )


def _array_record_writer(path: Path) -> Any:
    """Groups of one record, as those who read at random are told to take."""
    if importlib.util.find_spec("array_record") is None:
        return None
    from array_record.python.array_record_module import ArrayRecordWriter

    return ArrayRecordWriter(str(path), "group_size:1")


def sliced_cohort(data: Data) -> SlicedCohort:
    """The shards as training opens them."""
    records = [len(part) for part in np.array_split(np.arange(data.slices), SHARDS)]
    manifest = {
        "shards": [
            {"name": path.name, "records": count} for path, count in zip(data.shards, records, strict=True)
        ],
        "cases": [{"case": f"case_{shard}", "records": count} for shard, count in enumerate(records)],
    }
    return open_cohort(data.shards[0].parent, manifest)


def files_of(data: Data) -> list[Path]:
    """All files that hold slices."""
    return [*data.shards, *data.images, *data.masks, *([data.array_record] if data.array_record else [])]
