"""Reading shards back: TFRecord files, their index and manifest in; what does not fit, by record, out.

TensorFlow's own reader checks each record's length and data CRC. After a broken record the reading goes on at
the place of the next one, if the index tells it, so that one flipped bit hides no other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.quiet import load_tensorflow

Offsets = NDArray[np.int64]
Found = tuple[int | None, str]
"""A record's number in its shard, None where the fault is of the file; and what is wrong."""


@dataclass(kw_only=True, slots=True)
class CohortTally:
    """What was met so far in the records of a cohort, in file order.

    Attributes:
        members: the cases that may occur, each in one stretch with its slices in order; None where slices of
            any case may come in any order.
        next_uid: the uid that the next record must have.
        channels: of the first record; all others must have as many. 0 before the first.
        slices: numbers of the slices of each case, as they came.
    """

    members: frozenset[str] | None
    next_uid: int = 0
    channels: int = 0
    slices: dict[str, list[int]] = field(default_factory=dict)


def read_index(index: Path) -> Offsets | None:
    """Offset and size in bytes of each record, int64 [records, 2]; None where the file is no index."""
    try:
        text = index.read_bytes()
        offsets = np.array(text.decode("ascii").split(), np.int64).reshape(-1, 2)
    except (OSError, ValueError, OverflowError):
        return None
    as_written = "".join(f"{offset} {size}\n" for offset, size in offsets.tolist()).encode()
    return offsets if text == as_written else None


def index_faults(index: Path, shard: Path, records: int) -> list[str]:
    """What in a shard's index does not fit its size and number of records; no record is read."""
    if not index.is_file() or not shard.is_file():
        return []  # What is missing is told as missing.
    offsets = read_index(index)
    if offsets is None:
        return ["is not a DALI index of lines `offset size`"]
    if len(offsets) != records:
        return [f"has {len(offsets)} lines, where {shard.name} has {records} records"]
    ends = offsets.sum(axis=1)
    starts = np.concatenate([[0], ends[:-1]])
    if (wrong := np.flatnonzero(offsets[:, 0] != starts)).size:
        return [f"line {wrong[0] + 1} does not begin where the record before it ends"]
    if records and ends[-1] != shard.stat().st_size:
        return [f"ends at byte {ends[-1]}, where {shard.name} has {shard.stat().st_size}"]
    return []


def record_faults(shard: Path, offsets: Offsets | None, records: int, tally: CohortTally) -> Iterator[Found]:
    """Reads every record of a shard.

    Args:
        shard: the TFRecord file.
        offsets: its index, None where that cannot be used.
        records: how many there must be.
        tally: of the cohort; brought forward by this shard.
    """
    first_uid, count = tally.next_uid, 0
    for number, record, extent, fault in _records(shard, offsets):
        count = number + 1
        tally.next_uid = first_uid + number
        if fault:
            yield number, fault
            continue
        if offsets is not None and number < len(offsets) and extent != tuple(offsets[number]):
            yield number, f"lies at {extent} (offset, size), where the index says {tuple(offsets[number])}"
        yield from ((number, what) for what in _content_faults(record, tally))
    tally.next_uid = first_uid + records
    if count != records:
        yield None, f"{count} records could be reached, where the manifest names {records}"


def _records(shard: Path, offsets: Offsets | None) -> Iterator[tuple[int, bytes, tuple[int, int], str]]:
    """Number, bytes, (offset, size) and fault of each record that can be reached."""
    load_tensorflow()
    import tensorflow as tf
    from tensorflow.python.lib.io.tf_record import tf_record_random_reader

    reader = tf_record_random_reader(str(shard))
    try:
        number, offset = 0, 0
        while True:
            try:
                record, end = reader.read(offset)
            except IndexError:
                return
            except tf.errors.OpError as error:
                yield number, b"", (offset, 0), f"cannot be read: {error.message}"
                if offsets is None or number + 1 >= len(offsets):
                    return
                end = int(offsets[number + 1, 0])
            else:
                yield number, record, (offset, end - offset), ""
            number, offset = number + 1, end
    finally:
        reader.close()


def _content_faults(record: bytes, tally: CohortTally) -> Iterator[str]:
    """What a record's features say that cannot be, of itself or after the records before it."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        example = tf.train.Example.FromString(record)
    except DecodeError:
        yield "is no tf.train.Example"
        return
    try:
        content = _Content(example.features.feature)
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        yield f"lacks a feature, or has one of another kind ({error})"
        return
    if content.uid != tally.next_uid:
        yield f"has uid {content.uid}, where {tally.next_uid} is due"
    yield from _order_faults(content, tally)
    tally.channels = tally.channels or content.shape[2]
    if content.shape[2] != tally.channels:
        yield f"has {content.shape[2]} channels, where those before it have {tally.channels}"
    yield from content.faults()


def _order_faults(content: "_Content", tally: CohortTally) -> Iterator[str]:
    if tally.members is None:
        return
    if content.case not in tally.members:
        yield f"is of case {content.case}, which the manifest does not name"
    earlier = tally.slices.setdefault(content.case, [])
    if earlier and content.case != next(reversed(tally.slices)):
        yield f"is of case {content.case}, which had ended before"
    if content.slice <= (earlier[-1] if earlier else -1):
        yield f"is slice {content.slice} of case {content.case}, after slice {earlier[-1] if earlier else -1}"
    earlier.append(content.slice)


class _Content:
    """The features of one slice."""

    def __init__(self, features: Any) -> None:
        self.case = features["case"].bytes_list.value[0].decode()
        self.slice = features["slice"].int64_list.value[0]
        self.uid = features["uid"].int64_list.value[0]
        self.clot_pixels = features["clot_pixels"].int64_list.value[0]
        self.image_bytes = len(features["image"].bytes_list.value[0])
        self.mask = np.frombuffer(features["mask"].bytes_list.value[0], np.uint8)
        self.shape = tuple(features["shape"].int64_list.value)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape}")

    def faults(self) -> Iterator[str]:
        """What image, mask, shape and number of clot pixels say against each other."""
        rows, columns, channels = self.shape
        if self.image_bytes != rows * columns * channels:
            yield f"has an image of {self.image_bytes} bytes, where its shape is {self.shape}"
        if len(self.mask) != rows * columns:
            yield f"has a mask of {len(self.mask)} bytes, where its shape is {self.shape}"
        if self.mask.size and self.mask.max() > 1:
            yield "has a mask with other values than 0 and 1"
        elif (ones := int(np.count_nonzero(self.mask))) != self.clot_pixels:
            yield f"has {ones} pixels of clot in its mask, where clot_pixels says {self.clot_pixels}"
