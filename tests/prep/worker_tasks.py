"""What tests have workers do; a worker finds its task by module and name."""

import os
import sys
import time
from pathlib import Path

from clotseg.config import SliceConfig
from clotseg.errors import DataError
from clotseg.prep.cases import Case
from clotseg.prep.inputs import inspect_case
from clotseg.prep.shards import Shard, write_shard


def heavy_modules_after_work(case: Case, folder: Path) -> list[str]:
    """Inspects a case and writes it as a shard; names what should not have been imported."""
    inspect_case(case, None, (None, None, None))
    write_shard(
        folder,
        Shard(name=f"{case.name}.tfrecord", cases=(case,), numbers=((0,),), first_uid=0),
        SliceConfig(),
    )
    return sorted({"tensorflow", "keras", "nvidia"} & set(sys.modules))


def refuse(name: str) -> None:
    """Fails as a bad case does."""
    raise DataError("is bad", where=name, fix="mend it", details=[f"{name}: a finding"])


def note_and_sleep(folder: Path, number: int) -> None:
    """Leaves its process id in the folder and works for a minute."""
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60)


def resident_peak_kib() -> int:
    """The most memory this process ever had in RAM, pages of mapped files among it, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
