"""Epochs that are killed at every step of keeping them: `python -m tests.train.killed_states PROJECT`.

Each epoch is kept in a forked child that ends by SIGKILL; after each the newest state must load, be the old
or the new one, and name the best weights that are there. Prints as JSON how many were killed, and how often
the old and the new state was found.
"""

import itertools
import json
import os
import shutil
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from clotseg.dashboard import PlainTrainingView
from clotseg.project import Project, Run
from clotseg.train.checkpoint import load_checkpoint
from clotseg.train.devices import open_devices
from clotseg.train.keeper import Keeper
from clotseg.train.records import EpochRow
from clotseg.train.session import Session, open_data, open_session
from clotseg.train.state import Position, newest_state, read_state
from tests.train.killed_saves import kill_at
from tests.train.test_keeping import SETTINGS

ROW = EpochRow(
    epoch=1, loss=0.5, val_dice=0.25, learning_rate=5e-4, seconds=2.5, slices_per_s=20.0, waiting=0.25
)
OLD = Position(epoch=2, rows=(ROW,))
NEW = Position(epoch=3, rows=(ROW, replace(ROW, epoch=2, val_dice=0.5)))


def keep(session: Session, run: Run, position: Position) -> None:
    session.model.set_weights([weight * 0 + len(position.rows) for weight in session.model.get_weights()])
    session.evaluated.set_weights(session.model.get_weights())
    Keeper(session, run, PlainTrainingView()).epoch_done(position)


def killed(session: Session, run: Run, at: int) -> bool:
    """Whether a child died while it kept the new position, at the n-th file it touched."""
    child = os.fork()
    if child == 0:
        kill_at(run.folder, at)
        keep(session, run, NEW)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the keeping itself failed"
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFSIGNALED(status)


def found(session: Session, run: Run) -> Position:
    """The position to go on from, with its weights and the best."""
    folder = newest_state(run.checkpoints)
    assert folder is not None
    position = read_state(folder, session.variables)
    assert position in (OLD, NEW)
    assert session.model.get_weights()[0].flat[0] == len(position.rows)
    assert load_checkpoint(folder)[1].epoch == len(position.rows)
    best = load_checkpoint(run.best)[1].epoch
    assert best in (1, 2)
    assert best >= len(position.rows), "never older than the state says"
    return position


def main(root: Path) -> None:
    data = open_data(Project(root), replace(SETTINGS, runtime=replace(SETTINGS.runtime, keep_checkpoints=1)))
    session = open_session(data, open_devices(SETTINGS.runtime))
    run = Run(root / "Trainings" / "killed")
    counted: Counter[str] = Counter()
    for at in itertools.count(1):
        shutil.rmtree(run.folder, ignore_errors=True)
        run.relevant.mkdir(parents=True)
        keep(session, run, OLD)
        if not killed(session, run, at):
            break
        counted["old" if found(session, run) == OLD else "new"] += 1
        keep(session, run, NEW)
        assert found(session, run) == NEW
        left: list[Any] = [path.name for path in run.checkpoints.iterdir()]
        assert left == [NEW.name], "leftovers"
    print(json.dumps({"killed": counted.total(), **counted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
