"""Finished epochs, and a training that stands in the middle of one."""

from dataclasses import dataclass

import pytest

from clotseg.dashboard import TrainingState, TrainingView


@dataclass(frozen=True)
class Row:
    """A finished epoch, as the loop reports it."""

    epoch: int = 1
    loss: float = 0.75
    val_dice: float = 0.5
    learning_rate: float = 5e-4
    seconds: float = 12.34567
    slices_per_s: float = 52.0
    waiting: float = 0.04


DICES = [0.10 + 0.03 * number for number in range(22)] + [0.70]
HISTORY = [
    Row(epoch=number + 1, loss=0.9 - 0.03 * number, val_dice=dice, seconds=200.0)
    for number, dice in enumerate(DICES)
]


@pytest.fixture
def midway() -> TrainingState:
    """Epoch 24 of 100 began 12 s before time 5012, after 5000 s of 23 epochs; the last step took 2 s."""
    state = TrainingState()
    state.begin_run("20240229-101500", "CPU, 2 replicas", 100, 1, (), 0.0)
    for row in HISTORY:
        state.end_epoch(row)
    state.begin_epoch(24, 22500, 5000.0)
    state.step = 12342
    for now, slices in ((5004.0, 1000), (5010.0, 1000), (5012.0, 400)):
        state.end_step(1.234e-05, slices, 1.5, now)
    return state


def run_one_epoch(view: TrainingView, row: Row) -> None:
    """Two steps of 16 slices, one of validation."""
    with view.run("20240229-101500", "CPU", 3):
        view.epoch_begins(1, 2)
        view.step_done(0.8, 16, 0.1)
        view.step_done(0.7, 16, 0.2)
        view.validation_begins(1)
        view.validation_step_done()
        view.epoch_done(row)
