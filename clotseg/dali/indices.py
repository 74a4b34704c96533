"""Index files: those of the shards in; offsets, and index files that lead DALI through records in order, out.

A line has offset and size of one record, in bytes. DALI visits records in the order of the index files that
it is given, each with a path. So an order takes as many index files as it has stretches in one shard.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clotseg.errors import CorruptArtifactError

if TYPE_CHECKING:
    from clotseg.dali.feed import SlicedCohort

IN_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory. An index is read once and is as short as a record where cases change
from slice to slice: on a disk, making the files would take longer than all else."""


def read_index(index: Path, shard: Path, records: int) -> NDArray[np.int64]:
    """Where the records of a shard lie, int64 [records, 2] of (offset, size) in bytes.

    Raises:
        CorruptArtifactError: it is no index, or not that of a shard of this size with so many records.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # How NumPy tells that it met no number.
            numbers = np.fromstring(index.read_text(encoding="ascii"), np.int64, sep=" ")
        offsets = numbers.reshape(-1, 2)
    except (OSError, ValueError, DeprecationWarning) as error:
        raise CorruptArtifactError(f"is not a DALI index ({error})", where=index) from error
    ends = offsets.sum(axis=1)
    contiguous = len(offsets) and offsets[0, 0] == 0 and np.array_equal(offsets[1:, 0], ends[:-1])
    if not contiguous or len(offsets) != records or ends[-1] != shard.stat().st_size:
        raise CorruptArtifactError(
            f"does not describe {shard.name} with its {records} records",
            where=index,
            fix="run `clotseg prep --slice force`",
        )
    return offsets


@contextmanager
def index_files(cohort: "SlicedCohort", uids: NDArray[np.int64]) -> Iterator[tuple[list[Path], list[Path]]]:
    """Shards and index files that lead through `uids` in order; the files are there within the block."""
    with ExitStack() as stack:
        try:
            written = _write_indices(cohort, uids, Path(stack.enter_context(_folder(IN_MEMORY))))
        except OSError:  # There is no such place, or too little of it.
            stack.close()
            written = _write_indices(cohort, uids, Path(stack.enter_context(_folder(None))))
        yield written


def _folder(place: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="clotseg-index-", dir=place)


def _write_indices(
    cohort: "SlicedCohort", uids: NDArray[np.int64], folder: Path
) -> tuple[list[Path], list[Path]]:
    """One index file for each stretch of records in the same shard, beside that shard."""
    starts = cohort.first_uids
    shard_of = np.searchsorted(starts, uids, side="right") - 1
    offsets = np.empty((len(uids), 2), np.int64)
    for shard in np.unique(shard_of):
        here = shard_of == shard
        offsets[here] = cohort.offsets[shard][uids[here] - starts[shard]]
    lines = [f"{offset} {size}\n" for offset, size in offsets.tolist()]
    cuts = [0, *(np.flatnonzero(np.diff(shard_of)) + 1).tolist(), len(uids)]
    shards, indices = [], []
    for first, last in pairwise(cuts):
        index = folder / f"{first}.idx"
        index.write_bytes("".join(lines[first:last]).encode())
        shards.append(cohort.shards[shard_of[first]])
        indices.append(index)
    return shards, indices
