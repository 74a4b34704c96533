"""The lock of a project: two writers never meet, and a dead one is in nobody's way."""

import signal
import socket

import pytest

from clotseg.artifact import project_lock
from clotseg.errors import EnvironmentProblem
from tests.conftest import start_python

HOLD_LOCK = """
import sys
from pathlib import Path
from clotseg.artifact import project_lock
with project_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_only_one_process_at_a_time_writes_to_a_project_and_the_other_is_told_who(tmp_path):
    holder = start_python(HOLD_LOCK, tmp_path)
    assert holder.stdout.readline() == "held\n"
    named = f"another clotseg, process {holder.pid} on {socket.gethostname()}, is writing here"
    for _ in range(2):
        with pytest.raises(EnvironmentProblem, match=named), project_lock(tmp_path):
            pass
    holder.communicate("", timeout=30)
    with project_lock(tmp_path) as left_by:
        assert left_by is None


def test_a_killed_process_does_not_keep_a_project_locked_and_is_named_to_the_next(tmp_path):
    holder = start_python(HOLD_LOCK, tmp_path)
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=30)
    with project_lock(tmp_path) as left_by:
        assert left_by == f"process {holder.pid} on {socket.gethostname()}"
    with project_lock(tmp_path) as left_by:
        assert left_by is None


def test_a_lock_is_freed_when_the_work_fails(tmp_path):
    with pytest.raises(ValueError, match="work"), project_lock(tmp_path):
        raise ValueError("work")
    with project_lock(tmp_path):
        pass
