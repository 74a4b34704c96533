"""`clotseg prep` struck at each change it makes to the disk, by `faults.c`, or at random moments.

One process loads TensorFlow and forks; each child is the command from its first line to its last. After each
strike what is published must verify whole, and the command, run again, must give the bytes of one that was
spared, and leave nothing lying about. Run it as a module with: a folder, the compiled library, the way
(`fresh`, `replace` or `random`), the signal or negative errno, and how many changes to go on by each time.
Prints one JSON object: how many changes there are, how often each exit code and each set of published
artifacts was found.
"""

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from clotseg.console import PlainProgress
from clotseg.prep.verify import verify_project
from clotseg.project import Project
from clotseg.quiet import load_tensorflow
from tests.conftest import write_cohort
from tests.faults.conftest import published

NO_FAULT = 2**40
RANDOM_MOMENTS = 20
WINDOW = "[slice]\ncta_window_hu = [0.0, 300.0]\nslices_per_shard = 4\n"
SHARDS = "[slice]\nslices_per_shard = 4\n"


def prep(project: Project, *flags: str) -> None:
    """This process becomes the command."""
    sys.argv = ["clotseg", "-C", str(project.root), "prep", *flags]
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    from clotseg.cli import main

    main()


def in_a_child(work: Callable[[], None], *, killed_after_s: float | None = None) -> int:
    """The exit code of a fork that does this, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            work()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    if killed_after_s is not None:
        time.sleep(killed_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Trial:
    """One project that is struck again and again, each time from the same start."""

    def __init__(self, folder: Path, library: str, way: str, kind: int) -> None:
        self.project = Project(folder / "project")
        self.pristine = write_cohort(folder / "pristine", 5, shape=(8, 8, 4))
        self.flags: tuple[str, ...] = ()
        self.kind = kind
        self.codes: Counter[int] = Counter()
        self.found: Counter[str] = Counter()
        self._faults = ctypes.CDLL(library)
        self._changes = folder / "changes"
        (self.pristine.root / "clotseg.toml").write_text(SHARDS)
        if way == "replace":
            assert in_a_child(lambda: prep(self.pristine)) == 0
            (self.pristine.root / "clotseg.toml").write_text(WINDOW)
            self.flags = ("--split", "force")
        started = time.monotonic()
        assert self._run(NO_FAULT) == 0
        self.seconds = time.monotonic() - started
        self.changes = int(self._changes.read_text())
        self.expected = published(self.project)

    def _run(self, number: int, killed_after_s: float | None = None) -> int:
        def work() -> None:
            self._faults.fault_arm(str(self.project.root).encode(), ctypes.c_long(number), self.kind)
            try:
                prep(self.project, *self.flags)
            finally:
                self._changes.write_text(str(self._faults.fault_seen()))

        shutil.rmtree(self.project.root, ignore_errors=True)
        shutil.copytree(self.pristine.root, self.project.root)
        return in_a_child(work, killed_after_s=killed_after_s)

    def strike(self, number: int = NO_FAULT, killed_after_s: float | None = None) -> None:
        """Strikes once, and holds what is left against the promise."""
        code = self._run(number, killed_after_s)
        self.codes[code] += 1
        if code == 0:
            assert published(self.project) == self.expected, (number, "said to be done, and is not")
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            result = verify_project(self.project, PlainProgress())
        assert result["whole"], (number, code, result["faults"])
        self.found[", ".join(result["artifacts"]) or "nothing"] += 1
        assert in_a_child(lambda: prep(self.project)) == 0
        assert published(self.project) == self.expected, (number, code)
        left = {path.name for path in self.project.processed.iterdir()}
        assert left == {"Original", "Sliced", ".lock", ".digests.json"}, (number, code, left)


def main(folder: Path, library: str, way: str, kind: int, stride: int) -> None:
    load_tensorflow()
    trial = Trial(folder, library, way, kind)
    if way == "random":
        moments = random.Random(20)
        for _ in range(RANDOM_MOMENTS):
            trial.strike(killed_after_s=moments.uniform(0, trial.seconds))
    else:
        for number in range(0, trial.changes, stride):
            trial.strike(number)
    print(json.dumps({"changes": trial.changes, "codes": trial.codes, "found": trial.found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
