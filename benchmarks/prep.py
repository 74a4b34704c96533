"""How fast is `clotseg prep`, held against `cp` and against a .npy file for each slice?

    python benchmarks/prep.py [--gigabytes 2] [--repeats 3] [--folder DIR]

Makes a cohort of volumes of noise, then in turns, so that all meet the same machine: writes its shards with
one process and with all cores (digests and flushing to disk included), copies the very same shards with `cp`
and `fsync`, and writes each slice as .npy files of its CTA, NCCT and mask. Each is given as bytes of shards a
second, median and range over the repeats. Then where the time of one process goes, and how long a rerun
takes that has nothing to do, for 1000 cases.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from clotseg.config import Config, RuntimeConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.prep.cases import Case, CheckedCase, open_volume, survey_cases
from clotseg.prep.shards import encode_slice, plan_shards, write_shard
from clotseg.prep.slices import mask_slices, window_to_uint8, windowed_slices
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.tasks import LocalProcesses, ThisProcess, Workers

SHAPE = (256, 256, 128)
VOXELS = int(np.prod(SHAPE))
CASE_BYTES = 5 * VOXELS
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Parses, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the volumes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="clotseg-bench-") as name:
        folder = Path(name)
        cases = make_volumes(folder / "cohort", max(2 * CORES, round(options.gigabytes * 1e9 / CASE_BYTES)))
        print(f"{len(cases)} cases of {SHAPE}: {len(cases) * CASE_BYTES / 1e9:.2f} GB; {CORES} cores")
        compare_writers(folder, cases, options.repeats)
        where_time_goes(cases[0])
        shutil.rmtree(folder / "cohort")
        rerun(folder / "many", options.repeats)


def make_volumes(root: Path, count: int) -> list[Case]:
    """Noise in int16 HU, and masks with a block of clot."""
    project, random = Project(root), np.random.default_rng(0)
    for folder in (project.volumes, project.masks):
        folder.mkdir(parents=True)
    mask = np.zeros(SHAPE, np.uint8)
    mask[100:120, 100:120, 60:70] = 1
    for number in range(count):
        for suffix in ("CTA", "NCCT_Reg"):
            volume = random.integers(-200, 600, SHAPE, np.int16)
            np.save(project.volumes / f"case_{number:03d}_{suffix}_Binary.npy", volume)
        np.save(project.masks / f"case_{number:03d}_seg_corrected_binary.npy", mask)
    os.sync()
    return survey_cases(project)[0]


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A folder for one writer; what others left to be flushed is flushed before its time begins."""
    folder.mkdir(parents=True)
    os.sync()
    yield folder
    shutil.rmtree(folder)


def compare_writers(folder: Path, cases: list[Case], repeats: int) -> None:
    """Alternates the writers, prints bytes a second and ratios."""
    checked = [CheckedCase(case=case, shape=SHAPE, clot_voxels=4000) for case in cases]
    everything = {case.name: tuple(range(SHAPE[2])) for case in cases}
    shards = plan_shards(checked, SliceConfig().slices_per_shard, everything)

    def sharded(workers: Workers) -> Callable[[Path], None]:
        tasks = [(shard, SliceConfig()) for shard in shards]
        return lambda target: (
            workers.run(write_shard, [(target, *task) for task in tasks], lambda _: None) and None
        )

    # What `cp` copies is written once and stays.
    (folder / "written").mkdir()
    sharded(ThisProcess())(folder / "written")
    size = sum(path.stat().st_size for path in (folder / "written").iterdir())
    writers: dict[str, Callable[[Path], None]] = {
        "shards, 1 process": sharded(ThisProcess()),
        f"shards, {CORES} processes": sharded(LocalProcesses(CORES)),
        "cp and fsync": lambda target: copy(folder / "written", target),
        "npy per slice": lambda target: npy_per_slice(cases, target),
    }
    rates: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(repeats):
        for name, writer in writers.items():
            with emptied(folder / "target") as target:
                started = time.perf_counter()
                writer(target)
                rates[name].append(size / (time.perf_counter() - started) / 1e6)
    shutil.rmtree(folder / "written")
    copied, loose = (statistics.median(rates[name]) for name in ("cp and fsync", "npy per slice"))
    print(f"{size / 1e9:.2f} GB of shards; MB/s: median (lowest to highest), and ratios of medians")
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"  {name:22} {middle:7.0f} ({min(found):.0f} to {max(found):.0f})"
            f"   {middle / copied:5.2f} × cp   {middle / loose:5.1f} × npy"
        )


def copy(source: Path, target: Path) -> None:
    """Plain `cp`, flushed to disk as shards are."""
    subprocess.run(["cp", "-r", f"{source}/.", str(target)], check=True)
    for path in target.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def npy_per_slice(cases: list[Case], target: Path) -> None:
    """As the original wrote: a file for each slice of each volume, [row, column, slice] being read whole."""
    for folder in ("images", "masks"):
        (target / folder).mkdir()
    windows = SliceConfig()
    for case in cases:
        cta = window_to_uint8(open_volume(case.cta), windows.cta_window_hu)
        ncct = window_to_uint8(open_volume(case.ncct), windows.ncct_window_hu)
        mask = open_volume(case.mask)
        for number in range(SHAPE[2]):
            np.save(target / "images" / f"{case.name}_CTA_{number}.npy", cta[:, :, number])
            np.save(target / "images" / f"{case.name}_NCCT_{number}.npy", ncct[:, :, number])
            np.save(target / "masks" / f"{case.name}_{number}.npy", mask[:, :, number])
    os.sync()


def where_time_goes(case: Case) -> None:
    """Times each step of one case by itself, the best of three."""
    images, masks = windowed_slices(case, SliceConfig()), mask_slices(case)

    def encode() -> list[bytes]:
        return [
            encode_slice(image, mask, case=case.name, number=number, uid=number)
            for number, (image, mask) in enumerate(zip(images, masks, strict=True))
        ]

    records = encode()
    size = sum(map(len, records))

    def whole_volumes() -> list[Any]:
        return [window_to_uint8(open_volume(path), (-50.0, 450.0)) for path in (case.cta, case.ncct)]

    def digest() -> str:
        total = hashlib.sha256()
        for record in records:
            total.update(record)
        return total.hexdigest()

    def write() -> None:
        with tempfile.TemporaryFile(dir=case.cta.parent, buffering=2**20) as stream:
            stream.writelines(records)
            stream.flush()
            os.fsync(stream.fileno())

    steps: dict[str, Callable[[], Any]] = {
        "window and turn": lambda: windowed_slices(case, SliceConfig()),
        "turn masks": lambda: mask_slices(case),
        "encode": encode,
        "CRC-32C": lambda: [google_crc32c.value(record) for record in records],
        "SHA-256": digest,
        "write and flush": write,
        "(windowing whole volumes in float64, for comparison)": whole_volumes,
    }
    print(f"where the time of one process goes, for a case of {size / 1e6:.0f} MB of records:")
    for name, step in steps.items():
        took = []
        for _ in range(3):
            started = time.perf_counter()
            step()
            took.append(time.perf_counter() - started)
        print(f"  {name:22} {1000 * min(took):6.0f} ms  {size / min(took) / 1e6:6.0f} MB/s")


def rerun(root: Path, repeats: int) -> None:
    """The time of a `prep` that finds nothing changed in 1000 small cases; stderr gets its progress."""
    project, random = Project(root), np.random.default_rng(0)
    for folder in (project.volumes, project.masks):
        folder.mkdir(parents=True)
    for number in range(1000):
        volume = random.integers(-200, 600, (4, 4, 2), np.int16)
        for suffix in ("CTA", "NCCT_Reg"):
            np.save(project.volumes / f"case_{number:04d}_{suffix}_Binary.npy", volume)
        mask = (volume > 500).astype(np.uint8)
        np.save(project.masks / f"case_{number:04d}_seg_corrected_binary.npy", mask)
    config = Config(runtime=RuntimeConfig(workers=1))
    run_prep(project, config, PlainProgress())
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run_prep(project, config, PlainProgress())
        took.append(time.perf_counter() - started)
    if set(result["stages"].values()) != {"reused"}:
        sys.exit("the rerun was not one")
    print(
        f"nothing to do, 1000 cases: {statistics.median(took):.2f} s ({min(took):.2f} to {max(took):.2f}) "
        "without starting Python"
    )


if __name__ == "__main__":
    main()
