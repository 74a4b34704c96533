"""The views as the loop uses them: a panel that follows it on a terminal, lines in a log."""

import io
import re
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from clotseg.console import PlainProgress, TerminalProgress
from clotseg.dashboard import LiveTrainingView, PlainTrainingView, TrainingView, open_training_view, views
from tests.dashboard.conftest import HISTORY, Row, run_one_epoch
from tests.dashboard.test_panel import value


def live_view(**options: object) -> tuple[LiveTrainingView, Console]:
    screen = Console(file=io.StringIO(), force_terminal=True, **{"width": 80, "height": 24, **options})  # type: ignore[arg-type]
    return LiveTrainingView(screen), screen


def last_panel(screen: Console) -> list[str]:
    """The lines of the panel that was drawn last, as they stay on the terminal."""
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    lines: list[str] = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown).rpartition("╭")[2].splitlines()
    return lines


def test_the_live_panel_follows_the_loop() -> None:
    view, screen = live_view()
    run_one_epoch(view, Row())
    last = last_panel(screen)
    assert re.search(r"epoch +━.* 1/3 │", last[1])
    assert re.search(r"validating +━.* 1/1 │", last[2])
    assert value(last, "loss") == "0.7 ▁"
    assert value(last, "val Dice") == "0.5 ▁"
    assert value(last, "time left") == "0:00:25"


def test_a_new_epoch_starts_its_counts_anew() -> None:
    view, _ = live_view()
    run_one_epoch(view, Row())
    view.epoch_begins(2, 2)
    assert (view.state.step, view.state.slices, view.state.waited_s) == (0, 0, 0.0)
    assert (view.state.epoch, view.state.phase, view.state.dices) == (2, "training", [0.5])


def test_the_live_panel_of_a_resumed_run_goes_on_where_it_was() -> None:
    view, screen = live_view()
    with view.run("run", "CPU", 30, 24, HISTORY):
        view.message("resumed after epoch 23")
    last = last_panel(screen)
    assert re.search(r"epoch +━.* 23/30 │", last[1])
    assert value(last, "best Dice") == "0.73 (epoch 22)"
    assert "resumed after epoch 23" in "".join(last)


def test_the_live_panel_shows_what_this_machine_does() -> None:
    view, screen = live_view()
    run_one_epoch(view, Row())
    assert re.fullmatch(r"(\d+%, )?\d+\.\d GB", value(last_panel(screen), "CPU, run"))


def test_a_starving_epoch_is_told_with_advice_on_the_panel() -> None:
    view, screen = live_view()
    run_one_epoch(view, Row(waiting=0.31))
    assert "training waited for input 31% of this epoch" in " ".join(last_panel(screen))


def test_the_panel_follows_the_terminal_when_it_is_resized() -> None:
    view, screen = live_view(width=120, height=40)
    with view.run("run", "CPU", 3):
        while "╭" not in screen.file.getvalue():  # type: ignore[attr-defined]
            time.sleep(0.01)
        screen.size = (44, 22)  # type: ignore[assignment]
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    before, cleared, after = shown.rpartition("\x1b[2J")
    assert cleared, "the lines of the wider panel are taken away"
    assert "╭" in before
    assert {len(line) for line in last_panel(screen)[1:]} == {44}
    assert after.count("╭") >= 1


def test_without_colour_the_panel_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    view, screen = live_view()
    run_one_epoch(view, Row(waiting=0.5))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "▁" in shown
    assert not re.search(r"\x1b\[[\d;]*[34]\d[;m]", shown)


def test_a_log_gets_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    run_one_epoch(PlainTrainingView(), Row())
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "event=train run=20240229-101500 devices=CPU epochs=3",
        "event=epoch epoch=1/3 loss=0.75 val_dice=0.5 learning_rate=0.0005 seconds=12.35 slices_per_s=52 "
        "waiting=0.04",
    ]
    assert shown.out == ""


def test_a_log_of_a_long_epoch_gets_lines_within_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PLAIN_INTERVAL_S", 0.0)
    run_one_epoch(PlainTrainingView(), Row())
    lines = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in capsys.readouterr().err.splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [(line["epoch"], line["step"], line["loss"]) for line in steps] == [
        ("1", "1/2", "0.8"),
        ("1", "2/2", "0.7"),
    ]
    for line in steps:
        assert float(line["slices_per_s"]) > 0
        assert float(line["run_gb"]) > 0
    assert [(line["epoch"], line["step"]) for line in lines if line["event"] == "validation"] == [
        ("1", "1/1")
    ]


def test_the_first_lines_of_a_log_wait_for_the_run_to_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PLAIN_INTERVAL_S", 0.2)
    view = PlainTrainingView()
    time.sleep(0.3)  # as preparing does
    run_one_epoch(view, Row())
    assert "event=step" not in capsys.readouterr().err


def test_a_log_tells_where_a_run_goes_on_and_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainTrainingView()
    with view.run("run", "CPU", 30, 24, HISTORY):
        view.message('could not write "last":\n  no space left')
    assert capsys.readouterr().err.splitlines() == [
        "event=train run=run devices=CPU epochs=30 first_epoch=24",
        r'event=message text="could not write \"last\":\n  no space left"',
    ]


def test_a_starving_epoch_is_told_with_advice_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    run_one_epoch(PlainTrainingView(), Row(waiting=0.31))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        'event=message text="training waited for input 31% of this epoch: raise [runtime] threads'
    )


@pytest.mark.parametrize(
    ("progress", "kind"),
    [
        (PlainProgress, PlainTrainingView),
        (lambda: TerminalProgress(Console(file=io.StringIO())), LiveTrainingView),
    ],
    ids=["log", "terminal"],
)
def test_the_view_is_of_the_same_kind_as_the_progress(
    progress: Callable[[], PlainProgress | TerminalProgress], kind: type[TrainingView]
) -> None:
    assert isinstance(open_training_view(progress()), kind)
