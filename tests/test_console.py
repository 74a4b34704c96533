"""Progress as its reader meets it: plain lines in a log, moving bars on a terminal, colour where wanted."""

import io
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from clotseg import console
from clotseg.console import PlainProgress, TerminalProgress, plain_line
from tests.conftest import clotseg_command, run_clotseg

PHANTOM = ("phantom", "out", "--cases", 2, "--size", 32, "--slices", 8)
BAR = re.compile(r"phantom.*━.*2/2.*cases")
COLOUR = re.compile(r"\x1b\[[\d;]*3\dm")


def phantom_on_a_terminal(folder: Path, **environment: str) -> str:
    """Makes a cohort with stderr on a real terminal of 100 columns, and returns what arrived there."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    with subprocess.Popen(
        clotseg_command("-C", folder, *PHANTOM),
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            pass  # Linux reports the end of a terminal whose last user is gone as an error.
        finally:
            os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_text_with_spaces_is_quoted_and_floats_are_short() -> None:
    line = plain_line(event="epoch", loss=0.123456789, devices="CPU, 2 replicas", site="", count=123456)
    assert line == 'event=epoch loss=0.1235 devices="CPU, 2 replicas" site="" count=123456'


def test_a_log_gets_one_line_when_a_stage_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().bar("check", 3, "cases") as advance:
        advance()
        advance(2)
        assert capsys.readouterr().err == ""
    shown = capsys.readouterr()
    assert re.fullmatch(r"event=check done=3/3 unit=cases seconds=[\d.]+\n", shown.err)
    assert shown.out == ""


def test_a_long_stage_tells_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    with PlainProgress().bar("check", 3, "cases") as advance:
        for _ in range(3):
            advance()
    done = re.findall(r"done=(\S+)", capsys.readouterr().err)
    assert done == ["1/3", "2/3", "3/3"]


def test_a_failed_stage_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="bad case"), PlainProgress().bar("check", 3, "cases"):
        raise RuntimeError("bad case")
    assert capsys.readouterr().err == ""


def test_facts_are_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress().say("train", run="20240229-101500", devices="1 GPU(s)")
    shown = capsys.readouterr()
    assert shown.err == 'event=train run=20240229-101500 devices="1 GPU(s)"\n'
    assert shown.out == ""


def test_a_terminal_shows_a_bar_with_what_is_done() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with TerminalProgress(screen).bar("phantom", 4, "cases") as advance:
        advance(3)
    shown = screen.file.getvalue()
    assert re.search(r"phantom\s+━.*3/4 cases", shown)
    assert "event=" not in shown


def test_a_terminal_shows_paths_as_they_are() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    folder = "/data/[red]/" + "long/" * 20
    TerminalProgress(screen).say("phantom", state="made", folder=folder)
    assert f"state made, folder {folder}\n" in screen.file.getvalue()


def test_a_command_in_a_pipe_writes_plain_lines(tmp_path: Path) -> None:
    done = run_clotseg("-C", tmp_path, *PHANTOM)
    assert done.returncode == 0
    assert re.fullmatch(
        r"event=phantom done=2/2 unit=cases seconds=\S+\nevent=phantom state=made folder=out\n", done.stderr
    )
    assert done.stdout == ""


def test_a_command_on_a_terminal_draws_a_coloured_bar(tmp_path: Path) -> None:
    shown = phantom_on_a_terminal(tmp_path)
    assert BAR.search(re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown))
    assert COLOUR.search(shown)
    assert "event=" not in shown


def test_no_color_is_respected(tmp_path: Path) -> None:
    shown = phantom_on_a_terminal(tmp_path, NO_COLOR="1")
    assert BAR.search(re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown))
    assert not COLOUR.search(shown)


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(tmp_path: Path) -> None:
    assert "event=phantom done=2/2" in phantom_on_a_terminal(tmp_path, TERM="dumb")
