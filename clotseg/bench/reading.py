"""Reading: shards in; how fast their bytes come from the disk, and from memory, out. Nothing is written."""

import os
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from clotseg.bench.rate import Rate

CHUNK_BYTES = 2**22
MOST_IN_MEMORY = 2**28
"""Of so many bytes it is safe to say that the page cache holds them."""


def read_from_disk(files: Sequence[Path], bytes_a_slice: float, seconds: float) -> Rate:
    """Reads file after file, each dropped from the page cache before.

    Args:
        files: not all empty.
        bytes_a_slice: what a slice takes in them.
        seconds: for how long.
    """
    read, took = 0, 0.0
    for file in cycle(files):
        drop_from_memory(file)
        part, part_s = _read(file, seconds - took)
        read, took = read + part, took + part_s
        if took >= seconds:
            break
    return Rate(slices=read / bytes_a_slice, seconds=took)


def read_from_memory(files: Sequence[Path], bytes_a_slice: float, seconds: float) -> Rate:
    """Reads the first files over and over; the arguments are those of `read_from_disk`."""
    held: list[Path] = []
    for file in files:
        held.append(file)
        _read(file, float("inf"))
        if sum(each.stat().st_size for each in held) >= MOST_IN_MEMORY:
            break
    read, took = 0, 0.0
    for file in cycle(held):
        part, part_s = _read(file, seconds - took)
        read, took = read + part, took + part_s
        if took >= seconds:
            break
    return Rate(slices=read / bytes_a_slice, seconds=took)


def drop_from_memory(file: Path) -> None:
    """Asks the system to forget what it holds of a file, which not every file system heeds."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # What is not on the disk yet cannot be forgotten.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _read(file: Path, most_s: float) -> tuple[int, float]:
    """Bytes and seconds, to the end of the file or of the time."""
    started = time.perf_counter()
    read = sum(_chunks(file, started + most_s))
    return read, time.perf_counter() - started


def _chunks(file: Path, until: float) -> Iterator[int]:
    buffer = bytearray(CHUNK_BYTES)
    with file.open("rb", buffering=0) as stream:
        while read := stream.readinto(buffer):
            yield read
            if time.perf_counter() >= until:
                break
