"""`clotseg demo`: an empty folder in; a phantom cohort, its shards, a trained network and its report out.

Everything goes through the same functions as a user's own data; the folder is a project like any other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clotseg.config import load_config
from clotseg.console import Progress
from clotseg.dashboard import TrainingView
from clotseg.project import Project

CASES, SIZE, SLICES = 140, 96, 24

SETTINGS = """\
# The demo's settings: those of the recipe `default`, but for how many slices of this size make a file, and
# that training ends by the clock where a machine is too slow for all epochs.
# See `clotseg train --print-config` for all that is not said here.

[slice]
slices_per_shard = 192

[runtime]
minutes = 8
"""


class StopWatch:
    """Wall time of named blocks, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Times the block."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def run_demo(folder: Path, progress: Progress, view: TrainingView, *, seed: int) -> dict[str, Any]:
    """Phantom → prep → train → test; whatever is already there is reused.

    Args:
        folder: the project folder; made where it is not there.
        progress: told of phantom, prep and test.
        view: told of the training.
        seed: of the phantom cohort.

    Returns:
        The results of the stages, by name: `prep`, `train` and `test`; and `seconds`, the wall time of each.

    Raises:
        DataError: the folder holds cases that the demo did not make.
    """
    from clotseg.evaluate.testing import score_test_cohort
    from clotseg.phantom import write_cohort
    from clotseg.prep.stages import run_prep
    from clotseg.train.loop import train_or_reuse

    project = Project(folder)
    watch = StopWatch()
    with watch.time("phantom"), progress.bar("phantom", CASES, "cases") as advance:
        made = write_cohort(
            folder, cases=CASES, size=SIZE, slices=SLICES, seed=seed, on_case=lambda _: advance()
        )
    progress.say("phantom", state=made)
    if not project.config_file.exists():
        project.config_file.write_text(SETTINGS, encoding="utf-8")
    config = load_config(project.config_file)
    with watch.time("prep"):
        prepared = run_prep(project, config, progress)
    with watch.time("train"):
        trained = train_or_reuse(project, config, progress, view)
    with watch.time("test"):
        best = project.root / trained["best"]
        tested = score_test_cohort(project, config, progress, checkpoints=[best], reuse=True)
    return {"prep": prepared, "train": trained, "test": tested, "seconds": watch.seconds}
