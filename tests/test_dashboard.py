"""The training dashboard: all that is promised is on the panel, whole, on a narrow and on a wide terminal."""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import pytest
from rich.console import Console

from clotseg import dashboard
from clotseg.console import PlainProgress, TerminalProgress
from clotseg.dashboard import (
    LiveTrainingView,
    PlainTrainingView,
    TrainingState,
    TrainingView,
    draw_training,
    open_training_view,
    sparkline,
)

ELEVEN = datetime(2024, 2, 29, 11, 0, 0)
MIDWAY = TrainingState(
    name="20240229-101500",
    devices="CPU, 2 replicas",
    epochs=100,
    epoch=24,
    phase="training",
    step=12345,
    steps=22500,
    slices=2400,
    waited_s=1.5,
    loss=1.234e-05,
    learning_rate=5e-4,
    run_started=0.0,
    train_started=5000.0,
    losses=[0.9 - 0.03 * number for number in range(23)],
    dices=[0.10 + 0.03 * number for number in range(22)] + [0.70],
    seconds=[200.0] * 23,
)
WIDTHS = pytest.mark.parametrize("width", [80, 200])


@dataclass(frozen=True)
class Row:
    """A finished epoch, as the loop reports it."""

    epoch: int = 1
    loss: float = 0.75
    val_dice: float = 0.5
    learning_rate: float = 5e-4
    seconds: float = 12.34567
    slices_per_s: float = 52.0
    waiting: float = 0.125


def panel(state: TrainingState, *, now: float = 5012.0, width: int = 80) -> list[str]:
    """The lines of the panel, 12 s after the start of its epoch, at eleven o'clock."""
    screen = Console(file=io.StringIO(), width=width)
    screen.print(draw_training(state, now, ELEVEN))
    lines: list[str] = screen.file.getvalue().splitlines()
    return lines


def value(lines: list[str], name: str) -> str:
    """What the panel shows beside a name, up to the next column."""
    found = re.search(rf"[│ ]{re.escape(name)} +(.+?)(?:  |│)", "\n".join(lines))
    assert found is not None, f"{name} is not on the panel"
    return found[1].strip()


def run_one_epoch(view: TrainingView, row: Row) -> None:
    with view.run("20240229-101500", "CPU", 3):
        view.epoch_begins(1, 2)
        view.step_done(0.8, 16, 0.1)
        view.step_done(0.7, 16, 0.2)
        view.validation_begins(1)
        view.validation_step_done()
        view.epoch_done(row)


@WIDTHS
def test_epoch_and_step_are_shown_whole(width: int) -> None:
    lines = panel(MIDWAY, width=width)
    assert re.search(r"epoch +━.* 23/100 │", lines[1])
    assert re.search(r"training +━.* 12345/22500 │", lines[2])
    assert "20240229-101500 on CPU, 2 replicas" in lines[0]


@WIDTHS
def test_loss_and_dice_are_shown_whole_up_to_their_newest_block(width: int) -> None:
    lines = panel(MIDWAY, width=width)
    assert value(lines, "loss") == f"1.234e-05 {sparkline(MIDWAY.losses)}"
    assert value(lines, "val Dice") == f"0.7 {sparkline(MIDWAY.dices)}"
    assert value(lines, "learning rate") == "0.0005"


@WIDTHS
def test_the_best_dice_is_shown_with_its_epoch(width: int) -> None:
    assert value(panel(MIDWAY, width=width), "best Dice") == "0.73 (epoch 22)"


@WIDTHS
def test_speed_and_waiting_share_are_those_of_this_epoch(width: int) -> None:
    lines = panel(MIDWAY, width=width)
    assert value(lines, "slices/s") == "200.0"
    assert value(lines, "waiting") == "12.5% of the time"


@WIDTHS
def test_time_left_and_end_follow_from_the_mean_epoch(width: int) -> None:
    lines = panel(MIDWAY, width=width)
    left_s = 77 * 200 - 12
    assert value(lines, "time left") == f"{left_s // 3600}:{left_s % 3600 // 60}:{left_s % 60}" == "4:16:28"
    assert value(lines, "ends at") == "15:16:28"
    assert value(lines, "elapsed") == "1:23:32"


@WIDTHS
def test_nothing_is_cut_off(width: int) -> None:
    lines = panel(MIDWAY, width=width)
    assert "…" not in "".join(lines)
    assert {len(line) for line in lines} == {width}


def test_more_than_a_day_is_shown_whole() -> None:
    lines = panel(replace(MIDWAY, seconds=[7200.0] * 23))
    assert value(lines, "time left") == "6 days, 9:59:48"


def test_before_the_first_epoch_there_are_dashes() -> None:
    lines = panel(TrainingState(name="run", devices="CPU", epochs=3, run_started=5000.0))
    told_later = (
        "loss",
        "val Dice",
        "best Dice",
        "learning rate",
        "slices/s",
        "waiting",
        "time left",
        "ends at",
    )
    for name in told_later:
        assert value(lines, name) == "–"
    assert "0/3" in lines[1]


def test_validation_is_no_training_speed() -> None:
    lines = panel(replace(MIDWAY, phase="validating", step=3, steps=7))
    assert re.search(r"validating +━.* 3/7 │", lines[2])
    assert value(lines, "slices/s") == value(lines, "waiting") == "–"


def test_a_diverged_run_still_has_a_panel() -> None:
    lines = panel(replace(MIDWAY, loss=math.nan, losses=[0.5, math.nan, math.inf, 0.9]))
    assert value(lines, "loss") == "nan ▁××█"


@pytest.mark.parametrize(
    ("values", "blocks"),
    [([], ""), ([0.3], "▁"), ([0.3, 0.3], "▁▁"), ([0, 1], "▁█"), ([7, 0, 3, 7], "█▁▄█"), ([math.nan], "×")],
)
def test_a_sparkline_spans_lowest_to_highest(values: list[float], blocks: str) -> None:
    assert sparkline(values) == blocks


def test_a_sparkline_keeps_the_newest_values() -> None:
    assert sparkline([100.0, *range(8)], width=8) == "▁▂▃▄▅▆▇█"


def test_the_live_panel_follows_the_loop() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    view = LiveTrainingView(screen)
    run_one_epoch(view, Row())
    last = screen.file.getvalue().rpartition("╭")[2].splitlines()
    assert re.search(r"epoch +━.* 1/3 │", last[1])
    assert re.search(r"validating +━.* 1/1 │", last[2])
    assert value(last, "loss") == "0.7 ▁"
    assert value(last, "val Dice") == "0.5 ▁"
    assert value(last, "time left") == "0:00:25"


def test_a_new_epoch_starts_its_counts_anew() -> None:
    view = LiveTrainingView(Console(file=io.StringIO(), width=80))
    run_one_epoch(view, Row())
    view.epoch_begins(2, 2)
    assert (view.state.step, view.state.slices, view.state.waited_s) == (0, 0, 0.0)
    assert (view.state.epoch, view.state.phase, view.state.dices) == (2, "training", [0.5])


def test_a_log_gets_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    run_one_epoch(PlainTrainingView(), Row())
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "event=train run=20240229-101500 devices=CPU epochs=3",
        "event=epoch epoch=1/3 loss=0.75 val_dice=0.5 learning_rate=0.0005 seconds=12.35 slices_per_s=52 "
        "waiting=0.125",
    ]
    assert shown.out == ""


def test_a_log_of_a_long_epoch_gets_lines_within_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "PLAIN_INTERVAL_S", 0.0)
    run_one_epoch(PlainTrainingView(), Row())
    steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("event=step")]
    assert steps == ["event=step epoch=1 step=1/2 loss=0.8", "event=step epoch=1 step=2/2 loss=0.7"]


@pytest.mark.parametrize(
    ("progress", "kind"),
    [
        (PlainProgress, PlainTrainingView),
        (lambda: TerminalProgress(Console(file=io.StringIO())), LiveTrainingView),
    ],
    ids=["log", "terminal"],
)
def test_the_view_is_of_the_same_kind_as_the_progress(progress: Callable[[], object], kind: type) -> None:
    assert isinstance(open_training_view(progress()), kind)  # type: ignore[arg-type]
