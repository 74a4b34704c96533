"""Shards: cases in; TFRecord files with their DALI index, one record a slice, and their digests out.

Each record is a plain `tf.train.Example`, so any TensorFlow program can read it:

    image        raw uint8, rows · columns · channels, CTA then NCCT, windowed
    mask         raw uint8 0/1, rows · columns
    shape        int64[3]: rows, columns, channels
    case, slice  where the slice comes from
    uid          int64, counts the records of a cohort from 0, in file order
    clot_pixels  int64, ones in the mask

Record k of a cohort has uid k, and a case is never shared out between shards. Both formats are written here
without TensorFlow, whose import takes a process longer than most shards and much of its memory.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from clotseg.config import SliceConfig
from clotseg.prep.cases import Case, CheckedCase
from clotseg.prep.slices import Bytes, mask_slices, windowed_slices, with_context

FRAMING_BYTES = 16
WRITE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One TFRecord file that is to be written.

    Attributes:
        name: file name, `slices-00000-of-00008.tfrecord`.
        cases: the cases it holds, in order.
        numbers: which slices of each.
        first_uid: uid of its first record.
    """

    name: str
    cases: tuple[Case, ...]
    numbers: tuple[tuple[int, ...], ...]
    first_uid: int

    @property
    def records(self) -> int:
        """How many records it holds."""
        return sum(len(numbers) for numbers in self.numbers)

    @property
    def index_name(self) -> str:
        """File name of the DALI index, `offset size` a line."""
        return index_name(self.name)


def shard_name(number: int, count: int) -> str:
    """The file name of a shard, `slices-00000-of-00008.tfrecord`."""
    return f"slices-{number:05d}-of-{count:05d}.tfrecord"


def index_name(shard_name: str) -> str:
    """The name of a shard's DALI index."""
    return shard_name.removesuffix(".tfrecord") + ".idx"


def plan_shards(
    cases: Sequence[CheckedCase], slices_per_shard: int, numbers_of: Mapping[str, tuple[int, ...]]
) -> list[Shard]:
    """Shares whole cases out, in order: a shard is closed when it holds `slices_per_shard` or more.

    Args:
        cases: the cases of a cohort; those of which no slice is taken are left out.
        slices_per_shard: rounded up to whole cases.
        numbers_of: which slices of each case are taken.
    """
    groups: list[list[Case]] = [[]]
    for case in (entry.case for entry in cases if numbers_of[entry.case.name]):
        if sum(len(numbers_of[member.name]) for member in groups[-1]) >= slices_per_shard:
            groups.append([])
        groups[-1].append(case)
    shards: list[Shard] = []
    for number, group in enumerate(groups):
        shards.append(
            Shard(
                name=shard_name(number, len(groups)),
                cases=tuple(group),
                numbers=tuple(numbers_of[case.name] for case in group),
                first_uid=shards[-1].first_uid + shards[-1].records if shards else 0,
            )
        )
    return shards


def write_shard(folder: Path, shard: Shard, config: SliceConfig) -> dict[str, dict[str, Any]]:
    """Writes a shard and its index into `folder`, one case in memory at a time.

    Returns:
        Size and SHA-256 of both files by name, as manifests carry them.

    Raises:
        OSError: the disk is full or refuses the write.
    """
    return write_records(folder, shard.name, _encoded(shard, config))


def _encoded(shard: Shard, config: SliceConfig) -> Iterator[bytes]:
    uid = shard.first_uid
    for case, numbers in zip(shard.cases, shard.numbers, strict=True):
        # A generator of its own, so that a case is let go before the next is read.
        yield from _encoded_case(case, numbers, uid, config)
        uid += len(numbers)


def _encoded_case(case: Case, numbers: Sequence[int], first_uid: int, config: SliceConfig) -> Iterator[bytes]:
    slices, masks = windowed_slices(case, config), mask_slices(case)
    for uid, number in enumerate(numbers, first_uid):
        image = with_context(slices, [number], config.context)[0]
        yield encode_slice(image, masks[number], case=case.name, number=number, uid=uid)


def write_records(folder: Path, name: str, records: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """Writes records as one TFRecord file with its DALI index, both flushed to disk.

    Args:
        folder: where to.
        name: file name of the shard.
        records: serialised records, in order.

    Returns:
        Size and SHA-256 of both files by name, taken while they are written.

    Raises:
        OSError: the disk is full or refuses the write.
    """
    digest, lines, offset = hashlib.sha256(), [], 0
    with (folder / name).open("wb", buffering=WRITE_BYTES) as stream:
        for record in records:
            for part in framed(record):
                stream.write(part)
                digest.update(part)
            lines.append(f"{offset} {len(record) + FRAMING_BYTES}\n")
            offset += len(record) + FRAMING_BYTES
        _flush(stream)
    index = "".join(lines).encode()
    with (folder / index_name(name)).open("wb") as stream:
        stream.write(index)
        _flush(stream)
    return {
        name: {"bytes": offset, "sha256": digest.hexdigest()},
        index_name(name): {"bytes": len(index), "sha256": hashlib.sha256(index).hexdigest()},
    }


def framed(record: bytes) -> tuple[bytes, ...]:
    """A record as it stands in a TFRecord file, in parts: its length and its bytes, each with its CRC."""
    length = struct.pack("<Q", len(record))
    return length, _masked_crc(length), record, _masked_crc(record)


def _flush(stream: Any) -> None:
    """To disk here, since whoever publishes the file may be another machine."""
    stream.flush()
    os.fsync(stream.fileno())


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as TFRecord has it, since a CRC of data with CRCs in it is weak."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def encode_slice(
    image: Bytes,
    mask: Bytes,
    *,
    case: str,
    number: int,
    uid: int,
    source_uid: int | None = None,
    parameters: str | None = None,
) -> bytes:
    """One slice as a serialised `tf.train.Example`; equal slices give equal bytes.

    Args:
        image: uint8 [row, column, channel].
        mask: uint8 0/1 [row, column].
        case: name of the case.
        number: which slice of the case, from 0.
        uid: number of the record in its cohort.
        source_uid: of an augmented slice, the uid of the slice it was made from.
        parameters: of an augmented slice, what was done to it, as JSON.
    """
    features = {
        b"case": _raw(case.encode()),
        b"clot_pixels": _whole(int(np.count_nonzero(mask))),
        b"image": _raw(image.tobytes()),
        b"mask": _raw(mask.tobytes()),
        b"shape": _whole(*image.shape),
        b"slice": _whole(number),
        b"uid": _whole(uid),
    }
    if source_uid is not None:
        features[b"source_uid"] = _whole(source_uid)
    if parameters is not None:
        features[b"parameters"] = _raw(parameters.encode())
    # Example.features = 1; Features.feature = 1, a map, each entry a message of key = 1 and value = 2.
    # They come in order of name, as deterministic serialisation has them.
    entries = (_field(1, _field(1, [name]) + _field(2, features[name])) for name in sorted(features))
    return b"".join(_field(1, [part for entry in entries for part in entry]))


def _raw(value: bytes) -> list[bytes]:
    """Feature.bytes_list = 1; BytesList.value = 1."""
    return _field(1, _field(1, [value]))


def _whole(*values: int) -> list[bytes]:
    """Feature.int64_list = 3; Int64List.value = 1, packed; none of ours is negative."""
    return _field(3, _field(1, [_varint(value) for value in values]))


def _field(number: int, content: list[bytes]) -> list[bytes]:
    """A protocol-buffer field of type LEN: https://protobuf.dev/programming-guides/encoding/.

    In parts, which are joined once at the end: pixels are not copied at each level.
    """
    return [_varint(number << 3 | 2), _varint(sum(map(len, content))), *content]


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that another follows."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
