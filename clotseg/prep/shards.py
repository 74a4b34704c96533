"""Shards: cases in; TFRecord files with their DALI index, one record a slice, out.

Each record is a plain `tf.train.Example`, so any TensorFlow program can read it:

    image        raw uint8, rows · columns · channels, CTA then NCCT, windowed
    mask         raw uint8 0/1, rows · columns
    shape        int64[3]: rows, columns, channels
    case, slice  where the slice comes from
    uid          int64, counts the slices of a cohort from 0, in file order
    clot_pixels  int64, ones in the mask

Record k of a cohort has uid k, and a case is never shared out between shards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clotseg.config import SliceConfig
from clotseg.prep.cases import Case, CheckedCase
from clotseg.prep.slices import Bytes, mask_slices, windowed_slices

FRAMING_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One TFRecord file that is to be written.

    Attributes:
        name: file name, `slices-00000-of-00008.tfrecord`.
        cases: the cases it holds, in order.
        first_uid: uid of its first record.
        records: how many records it holds.
    """

    name: str
    cases: tuple[Case, ...]
    first_uid: int
    records: int

    @property
    def index_name(self) -> str:
        """File name of the DALI index, `offset size` a line."""
        return index_name(self.name)


def index_name(shard_name: str) -> str:
    """The name of a shard's DALI index."""
    return shard_name.removesuffix(".tfrecord") + ".idx"


def plan_shards(cases: Sequence[CheckedCase], slices_per_shard: int) -> list[Shard]:
    """Shares whole cases out, in order: a shard is closed when it holds `slices_per_shard` or more."""
    groups: list[list[CheckedCase]] = [[]]
    for case in cases:
        if sum(member.shape[2] for member in groups[-1]) >= slices_per_shard:
            groups.append([])
        groups[-1].append(case)
    shards, first_uid = [], 0
    for number, group in enumerate(groups):
        records = sum(member.shape[2] for member in group)
        shards.append(
            Shard(
                name=f"slices-{number:05d}-of-{len(groups):05d}.tfrecord",
                cases=tuple(member.case for member in group),
                first_uid=first_uid,
                records=records,
            )
        )
        first_uid += records
    return shards


def write_shard(folder: Path, shard: Shard, config: SliceConfig) -> Iterator[Case]:
    """Writes a shard and its index into `folder`; yields each case when its slices are written.

    One case is held in memory at a time.

    Raises:
        OSError: the disk is full or refuses the write.
    """
    uid, offset = shard.first_uid, 0
    with (
        _record_writer(folder / shard.name) as records,
        (folder / shard.index_name).open("w", encoding="ascii") as index,
    ):
        for case in shard.cases:
            images, masks = windowed_slices(case, config), mask_slices(case)
            for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
                record = encode_slice(image, mask, case=case.name, number=number, uid=uid)
                records.write(record)
                index.write(f"{offset} {len(record) + FRAMING_BYTES}\n")
                offset += len(record) + FRAMING_BYTES
                uid += 1
            yield case


@contextmanager
def _record_writer(file: Path) -> Iterator[Any]:
    """TensorFlow's writer, its own kinds of error told as the OSError that they stand for."""
    import tensorflow as tf

    try:
        with tf.io.TFRecordWriter(str(file)) as records:
            yield records
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def encode_slice(image: Bytes, mask: Bytes, *, case: str, number: int, uid: int) -> bytes:
    """One slice as a serialised `tf.train.Example`; equal slices give equal bytes.

    Args:
        image: uint8 [row, column, channel].
        mask: uint8 0/1 [row, column].
        case: name of the case.
        number: which slice of the case, from 0.
        uid: number of the slice in its cohort.
    """
    import tensorflow as tf

    def raw(*values: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def whole(*values: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        "image": raw(image.tobytes()),
        "mask": raw(mask.tobytes()),
        "shape": whole(*image.shape),
        "case": raw(case.encode()),
        "slice": whole(number),
        "uid": whole(uid),
        "clot_pixels": whole(int(mask.sum())),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))
