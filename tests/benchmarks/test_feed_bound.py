"""The feed against its own bound."""

import subprocess
import sys
from pathlib import Path

import feed_bound
import pytest
from feed_bound import Pass, shares


def part(speed: float, cost_s: float) -> Pass:
    """1000 slices at so many a second, for so many processor seconds."""
    return Pass(slices=1000, wall_s=1000 / speed, cpu_s=cost_s)


def test_a_feed_that_takes_as_long_as_its_parts_one_after_the_other_is_at_its_bound() -> None:
    parts = {"plain": [part(3000, 0.5)] * 2, "augment": [part(1500, 1.5)] * 2}
    speed, cost = shares({"feed": [part(1000, 2.0), part(500, 4.0)], **parts})
    assert speed == pytest.approx([1, 0.5])
    assert cost == pytest.approx([1, 0.5])


@pytest.mark.slow
def test_one_command_prints_the_share_of_the_bound() -> None:
    program, small = str(Path(feed_bound.__file__)), "--sides 32 --batch 4 --slices 64 --repeats 2"
    done = subprocess.run(
        [sys.executable, program, *small.split()], capture_output=True, text=True, check=True
    )
    last = done.stdout.splitlines()[-1].split(" | ")
    assert last[0] == "| 32²"
    assert float(last[9].split()[0]) > 0
    assert len(last) == len(done.stdout.splitlines()[-3].split(" | "))
