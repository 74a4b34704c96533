"""How many slices a second are fed: by clotseg, and by what a user would take instead.

    pip install -e .[bench]         PyTorch and Grain, for the peers that need them
    python benchmarks/feed.py [--sides 96 160 256] [--batches 20 64] [--cache warm cold] [--json FILE]

All ways feed the same slices of a synthetic cohort, with the six transforms of the original, padded to 256²,
as float32, shuffled, in batches (see benchmarks/peers). Each runs in a process of its own. First a few
settings of each are tried on a small cohort, and the fastest is taken. Then all make a pass in turn, again
and again, so that whatever else runs on the machine disturbs all alike, and each only when the one before is
at rest. Cold: the files are put out of the page cache before each pass. Given are

    slices/s         of wall time, median of the passes (lowest–highest); opening an epoch counts
    CPU s            processor seconds for 1000 slices, of the process and all that it started
    ours / it        the ratio of passes that followed one another, in slices a second
    CPU, it / ours   how many times more processor time it takes
    first batch, s   from opening to the first batch, imports not counted; then the same of later passes
    MiB              the most memory held in a pass; pages that are shared with others count in part
    read MiB         what came from the disk in a pass; less than the files hold where a way is a stream
                     without end, whose passes begin and end in the midst of its shuffled rounds

With `--device gpu` ours and DALI over .npy run on the first GPU; the others hand over on the CPU as ever, and
the way from there to the GPU is not counted against them.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peers import PEERS, Data, Setting, load, missing
from peers.cohort import files_of, write_data
from peers.served import Hung, Served, Turn

OURS = PEERS[0]
LIBRARIES = ("numpy", "tensorflow", "keras", "nvidia-dali-cuda120", "albumentations", "torch", "grain")
SEARCH_SLICES = 640
SEARCH_TURNS = 2


@dataclass(kw_only=True)
class Measured:
    """One way under one size, batch and state of the cache."""

    side: int
    batch: int
    cache: str
    peer: str
    setting: Setting
    start_s: float
    peak_mib: float = 0.0
    turns: list[Turn] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Slices a second of each pass."""
        return [turn.slices / turn.wall_s for turn in self.turns]

    @property
    def costs(self) -> list[float]:
        """Processor seconds for 1000 slices, of each pass."""
        return [1000 * turn.cpu_s / turn.slices for turn in self.turns]


def main() -> None:
    """Measures every size, batch and state of the cache, and prints a table of each."""
    arguments = read_arguments()
    if importlib.util.find_spec("psutil") is None:
        sys.exit("benchmarks/feed.py needs psutil: pip install -e .[bench]")
    names = [OURS, *(name for name in arguments.peers if name != OURS)]
    print(heading(arguments))
    for name in [name for name in names if missing(name)]:
        needed = ", ".join(missing(name))
        print(f"Left out: {load(name).TITLE} needs {needed}: pip install -e .[bench]")
        names.remove(name)
    done: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="clotseg-benchmark-", dir=arguments.folder) as scratch:
        for side in arguments.sides:
            sizes = {"measured": arguments.slices, "searched": min(arguments.slices, SEARCH_SLICES)}
            written = [
                write_data(Path(scratch) / f"{side}-{use}", side=side, size=arguments.size, slices=slices)
                for use, slices in sizes.items()
            ]
            os.sync()  # What is not on the disk yet cannot be put out of the cache.
            for batch in arguments.batches:
                done += compare(*written, batch, names, arguments)
                if arguments.json:
                    write_json(arguments, done)


def read_arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where ours and DALI run")
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 160, 256], help="of a slice, in pixels")
    parser.add_argument("--size", type=int, default=256, help="of the square it is padded to")
    parser.add_argument("--batches", type=int, nargs="+", default=[20, 64], help="slices a batch")
    parser.add_argument("--slices", type=int, default=1280, help="slices of the cohort, and so of a pass")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="held against ours")
    parser.add_argument("--cache", nargs="+", choices=("warm", "cold"), default=["warm", "cold"])
    parser.add_argument("--no-search", action="store_true", help="take the first setting of each")
    parser.add_argument("--folder", type=Path, help="for the cohort, on the disk to be measured")
    parser.add_argument("--json", type=Path, help="write all passes to this file as well")
    return parser.parse_args()


def compare(
    data: Data, small: Data, batch: int, names: Iterable[str], arguments: argparse.Namespace
) -> list[Measured]:
    """All ways at one size and batch: searched, then in turns; prints the tables."""
    if small.slices < batch:
        sys.exit(f"{small.slices} slices fill no batch of {batch}: more --slices, or smaller --batches")
    print(f"\n## Slices of {data.side}² to {data.size}², batches of {batch}\n", flush=True)
    with ExitStack() as stack:
        served: dict[str, Served] = {}
        rows: list[Measured] = []
        for name in names:
            setting = search(name, small, batch, arguments)
            if setting is None:
                continue
            try:
                peer = stack.enter_context(Served(name, data, batch, setting, device=arguments.device))
            except Hung as error:
                give_up(name, error)
                continue
            print(f"- {load(name).TITLE}: {told(setting)}", flush=True)
            served[name] = peer
            rows += [
                Measured(
                    side=data.side,
                    batch=batch,
                    cache=cache,
                    peer=name,
                    setting=setting,
                    start_s=peer.start_s,
                )
                for cache in arguments.cache
            ]
        for cache in arguments.cache:
            of_cache = [row for row in rows if row.cache == cache]
            take_turns(served, of_cache * arguments.repeats, files_of(data) if cache == "cold" else [])
        peaks = watch_memory(served)
    rows = [row for row in rows if row.peer in peaks]
    for row in rows:
        row.peak_mib = peaks[row.peer]
    for cache in arguments.cache:
        print(table([row for row in rows if row.cache == cache]), flush=True)
    return rows


def take_turns(served: dict[str, Served], rows: Iterable[Measured], uncached: list[Path]) -> None:
    """A pass for each row, in order; a peer that fails or hangs is told of and taken out."""
    for row in rows:
        if row.peer not in served:
            continue
        try:
            row.turns.append(served[row.peer].turn(uncached))
        except Hung as error:
            give_up(row.peer, error)
            served.pop(row.peer)


def watch_memory(served: dict[str, Served]) -> dict[str, float]:
    """The most memory of each, in MiB; a peer that fails or hangs is told of and left out."""
    peaks: dict[str, float] = {}
    for name, peer in served.items():
        try:
            peaks[name] = peer.watch_memory()
        except Hung as error:
            give_up(name, error)
    return peaks


def give_up(name: str, error: Hung) -> None:
    """Tells why a peer is left out; without ours there is nothing to measure."""
    if name == OURS:
        raise error
    print(f"- Left out: {error}", flush=True)


def search(name: str, data: Data, batch: int, arguments: argparse.Namespace) -> Setting | None:
    """The fastest setting on a small cohort; None where all fail. One that hangs or fails is told of."""
    settings: list[Setting] = load(name).settings(len(os.sched_getaffinity(0)))
    if arguments.no_search or len(settings) == 1:
        return settings[0]
    speeds: list[tuple[float, int]] = []
    for number, setting in enumerate(settings):
        try:
            with Served(name, data, batch, setting, device=arguments.device) as served:
                turns = [served.turn() for _ in range(SEARCH_TURNS)]
            speeds.append((max(turn.slices / turn.wall_s for turn in turns), number))
        except Hung as error:
            print(f"- Not taken, {told(setting)}: {error}", flush=True)
    return settings[max(speeds)[1]] if speeds else None


def told(setting: Setting) -> str:
    """`workers 2, ahead 4`; None is left to the library."""
    return ", ".join(f"{name} {'auto' if value is None else value}" for name, value in setting.items())


def table(rows: list[Measured]) -> str:
    """Markdown of one size, batch and state of the cache; the first row is ours."""
    ours = rows[0]
    titles = ["slices/s", "CPU s", "ours / it", "CPU, it / ours", "first batch, s", "MiB", "read MiB"]
    lines = [
        f"\n| {ours.side}², batches of {ours.batch}, {ours.cache} cache | {' | '.join(titles)} |",
        f"| --- |{' --- |' * len(titles)}",
    ]
    for row in rows:
        read_mib = statistics.median(turn.read_mib for turn in row.turns)
        first_s = statistics.median(turn.first_s for turn in row.turns)
        cells = [
            load(row.peer).TITLE,
            spread(row.speeds, 0),
            spread(row.costs, 2),
            spread(times_faster(ours, row), 2),
            spread(times_cheaper(ours, row), 2),
            f"{row.start_s:.2f}, {first_s:.2f}",
            f"{row.peak_mib:.0f}",
            f"{read_mib:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if len(rows) > 1:
        faster = min(statistics.median(times_faster(ours, row)) for row in rows[1:])
        cheaper = min(statistics.median(times_cheaper(ours, row)) for row in rows[1:])
        lines.append(f"\nOurs to the best of the others: {faster:.2f} in slices/s, {cheaper:.2f} in CPU.")
    return "\n".join(lines)


def times_faster(ours: Measured, other: Measured) -> list[float]:
    """Ours in slices a second as a multiple of the other's, by passes that followed one another."""
    return [own / its for own, its in zip(ours.speeds, other.speeds, strict=True)]


def times_cheaper(ours: Measured, other: Measured) -> list[float]:
    """The other's processor time a slice as a multiple of ours, by passes that followed one another."""
    return [its / own for own, its in zip(ours.costs, other.costs, strict=True)]


def spread(values: list[float], digits: int) -> str:
    """Median (lowest–highest)."""
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}–{shown[2]})"


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """When, on what and with which versions this was measured."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "date": str(date.today()),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "device": arguments.device,
        "versions": found,
    }


def heading(arguments: argparse.Namespace) -> str:
    """The machine in a sentence."""
    facts = machine(arguments)
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, load {facts['load']:.1f} before, "
        f"ours on {arguments.device}; {versions}; median of {arguments.repeats} passes over "
        f"{arguments.slices} slices (lowest–highest)"
    )


def write_json(arguments: argparse.Namespace, rows: list[Measured]) -> None:
    """All passes, and what they were measured on."""
    told_of = {"machine": machine(arguments), "size": arguments.size, "ways": [asdict(row) for row in rows]}
    arguments.json.write_text(json.dumps(told_of, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
