"""The lock of a project: two writers never meet, and a dead one is in nobody's way."""

import signal
import socket
import threading

import pytest

from clotseg.artifact import is_locked, project_lock
from clotseg.errors import EnvironmentProblem
from tests.conftest import start_lock_holder


def test_only_one_process_at_a_time_writes_to_a_project_and_the_other_is_told_who(tmp_path):
    holder = start_lock_holder(tmp_path)
    named = f"another clotseg, process {holder.pid} on {socket.gethostname()}, is writing here"
    for _ in range(2):
        with pytest.raises(EnvironmentProblem, match=named), project_lock(tmp_path):
            pass
    holder.communicate("", timeout=30)
    with project_lock(tmp_path) as left_by:
        assert left_by is None


def test_a_killed_process_does_not_keep_a_project_locked_and_is_named_to_the_next(tmp_path):
    holder = start_lock_holder(tmp_path)
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


def test_a_lock_can_be_looked_at_without_its_holder_noticing(tmp_path):
    assert not is_locked(tmp_path / "nowhere")
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"
    holder = start_lock_holder(tmp_path)
    assert all(is_locked(tmp_path) for _ in range(3))
    with pytest.raises(EnvironmentProblem), project_lock(tmp_path):
        pass
    holder.communicate("", timeout=30)
    assert not is_locked(tmp_path)


def test_the_lock_of_a_killed_process_is_seen_to_be_free(tmp_path):
    holder = start_lock_holder(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate(timeout=30)
    assert not is_locked(tmp_path)


def test_this_process_sees_its_own_lock(tmp_path):
    with project_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_who_wants_a_lock_is_not_turned_away_by_those_who_only_look(tmp_path):
    with project_lock(tmp_path):
        pass
    looking = threading.Event()

    def look() -> None:
        while not looking.is_set():
            is_locked(tmp_path)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(20):
            with project_lock(tmp_path):
                pass
    finally:
        looking.set()
        for watcher in watchers:
            watcher.join()
