"""Saves that are killed at every step of the way, and at random: `python -m tests.train.killed_saves FOLDER`.

Each save runs in a forked child that ends by SIGKILL; after each the checkpoint must load and be the old or
the new one. Both are of the same epoch and Dice: only their weights differ. Prints how many saves
were killed, and how often the old and the new one was found.
"""

import itertools
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from clotseg.config import RuntimeConfig
from clotseg.train.checkpoint import load_checkpoint, save_checkpoint
from clotseg.train.devices import open_devices
from clotseg.train.unet import build_unet
from tests.train.conftest import SIZE, SMALL, description, random_weights

OLD, NEW = 1, 2
TIMED_KILLS = 12


def save(folder: Path, model: Any, seed: int) -> None:
    model.set_weights(random_weights(model, seed=seed))
    save_checkpoint(folder, model, description())


def kill_at(folder: Path, number: int) -> None:
    """This process dies at the n-th time it opens, renames or removes something in the folder."""
    touched = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("open", "os.rename", "os.remove")
        if changes and str(arguments[0]).startswith(str(folder)) and next(touched) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_save(folder: Path, model: Any, *, at: int | None = None, after_s: float = 0.0) -> bool:
    """Whether a save in a child died, at its n-th step or after some seconds of saving again and again."""
    child = os.fork()
    if child == 0:
        if at is not None:
            kill_at(folder, at)
            save(folder, model, NEW)
        while at is None:
            save(folder, model, NEW)
        os._exit(0)
    if at is None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the save itself failed"
    return os.WIFSIGNALED(status)


def found_weights(folder: Path, model: Any) -> int:
    """Which checkpoint is there, OLD or NEW; it must load."""
    loaded = load_checkpoint(folder)[0].get_weights()
    for seed in (OLD, NEW):
        if all(map(np.array_equal, loaded, random_weights(model, seed=seed))):
            return seed
    raise AssertionError("neither the old weights nor the new ones")


def main(folder: Path) -> None:
    open_devices(RuntimeConfig(gpus=0))
    model = build_unet(SMALL, size=SIZE, channels=2)
    kills: list[dict[str, Any]] = [{"after_s": 0.005 * number} for number in range(1, TIMED_KILLS + 1)]
    found: Counter[int] = Counter()
    for step in itertools.chain(kills, ({"at": number} for number in itertools.count(1))):
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, model, OLD)
        died = killed_save(folder, model, **step)
        if not died:
            break
        found[found_weights(folder, model)] += 1
        save(folder, model, NEW)
        assert found_weights(folder, model) == NEW
        assert sorted(path.suffix for path in folder.iterdir()) == [".h5", ".json"], "leftovers"
    print(found.total(), found[OLD], found[NEW])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
