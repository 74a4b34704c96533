"""Is a training step sooner with oneDNN's convolutions than with those TensorFlow has beside them?

    python benchmarks/onednn.py [--recipe default] [--side 96] [--steps 8] [--turns 9]

TensorFlow takes oneDNN's by itself only where the processor has AVX-512 or better; clotseg asks for them on
every x86 processor. Two processes, one with each, take the steps of a recipe on one batch of a synthetic
cohort again and again, in turns. Prints milliseconds a slice, median and range of the turns, and the ratio of
turns that followed one another.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from feed import spread

from clotseg.bench.training import constant_turns
from clotseg.config import load_config
from clotseg.console import PlainProgress
from clotseg.phantom import write_cohort
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.train.devices import open_devices
from clotseg.train.session import open_data, open_session

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
CASES, SLICES = 10, 24
READY = "ready\n"


def serve(folder: Path, steps: int) -> None:
    """For each line on stdin so many steps, and how long a slice took, in ms, on stdout."""
    project = Project(folder)
    config = load_config(project.config_file)
    turns = constant_turns(open_session(open_data(project, config), open_devices(config.runtime)))
    sum(islice(turns, 2))
    print(READY, end="", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        slices = sum(islice(turns, steps))
        print(1000 * (time.perf_counter() - started) / slices, flush=True)


def make_project(folder: Path, recipe: str, side: int) -> None:
    """A synthetic cohort and its slices."""
    write_cohort(folder, cases=CASES, size=side, slices=SLICES, seed=1)
    project = Project(folder)
    settings = f'[runtime]\ngpus = 0\n[train]\nrecipe = "{recipe}"\n[feed]\nsize = "auto"\n'
    project.config_file.write_text(settings)
    run_prep(project, load_config(project.config_file), PlainProgress())


class Trainer:
    """A process that takes a turn of steps whenever it is told to."""

    def __init__(self, folder: Path, steps: int, *, onednn: bool) -> None:
        command = [sys.executable, __file__, "--serve", str(folder), "--steps", str(steps)]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, SWITCH: str(int(onednn))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def said(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process that trains has ended")
        return line

    def turn(self) -> float:
        """Takes a turn; milliseconds a slice."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self.said())


def compare(folder: Path, steps: int, turns: int) -> tuple[list[float], list[float]]:
    """Milliseconds a slice of each turn, without and with oneDNN."""
    with Trainer(folder, steps, onednn=False) as without, Trainer(folder, steps, onednn=True) as with_it:
        for trainer in (without, with_it):
            assert trainer.said() == READY
        taken = [(without.turn(), with_it.turn()) for _ in range(turns)]
    return [one for one, _ in taken], [other for _, other in taken]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--side", type=int, default=96, help="of a slice, in pixels")
    parser.add_argument("--steps", type=int, default=8, help="of a turn")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.steps)
        return
    with tempfile.TemporaryDirectory(prefix="clotseg-benchmark-") as scratch:
        make_project(Path(scratch), options.recipe, options.side)
        without, with_it = compare(Path(scratch), options.steps, options.turns)
    ratios = [one / other for one, other in zip(without, with_it, strict=True)]
    cores = len(os.sched_getaffinity(0))
    print(f"{options.recipe}, {options.side}², {cores} cores, ms a slice, {options.turns} turns")
    print("\n| TensorFlow's own | oneDNN's | ratio |\n| --- | --- | --- |")
    print(f"| {spread(without, 1)} | {spread(with_it, 1)} | {spread(ratios, 2)} |")


if __name__ == "__main__":
    main()
