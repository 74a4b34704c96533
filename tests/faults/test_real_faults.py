"""Full disks, read-only folders, signals and second processes, each done to the real command."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clotseg.config import load_config
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from tests.conftest import clotseg_command, run_clotseg, write_cohort
from tests.faults.conftest import published, require_nothing_half_made

pytestmark = pytest.mark.slow

Mount = Callable[..., Path]


def undisturbed(project: Project, tmp_path: Path) -> dict[str, bytes]:
    """What `prep` publishes where nothing befalls it."""
    twin = Project(tmp_path / "undisturbed")
    shutil.copytree(project.root, twin.root, ignore=shutil.ignore_patterns("Processed"))
    run_prep(twin, load_config(twin.config_file), PlainProgress())
    return published(twin)


def start(project: Project, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        clotseg_command("-C", project.root, "prep", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits until something is so, while a process runs."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def being_sliced(project: Project) -> bool:
    return any((project.processed / ".Sliced.building" / "Training").glob("*.tfrecord"))


@pytest.mark.parametrize("free_bytes", [0, 60_000, 200_000])
def test_a_full_disk_ends_prep_with_code_5_and_room_lets_it_finish(
    mount: Mount, tmp_path: Path, free_bytes: int
) -> None:
    disk = mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    project = write_cohort(disk / "project")
    (project.root / "clotseg.toml").write_text("[slice]\nslices_per_shard = 12\n")
    status = os.statvfs(disk)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    mount(disk, "-o", f"remount,size={used + free_bytes}")
    done = run_clotseg("-C", project.root, "prep")
    assert done.returncode == 5
    assert "could not be written (No space left on device)" in done.stderr
    assert "free disk space" in done.stderr
    require_nothing_half_made(project)
    mount(disk, "-o", "remount,size=64m")
    run_prep(project, load_config(project.config_file), PlainProgress())
    assert published(project) == undisturbed(project, tmp_path)


def test_a_folder_that_became_read_only_ends_prep_with_code_5_and_stays_as_it_is(
    mount: Mount, cohort: Project
) -> None:
    run_prep(cohort, load_config(cohort.config_file), PlainProgress())
    before = published(cohort)
    mount(cohort.processed, "--bind", cohort.processed)
    mount(cohort.processed, "-o", "remount,ro,bind")
    done = run_clotseg("-C", cohort.root, "prep", "--slice", "force")
    assert done.returncode == 5
    assert "Read-only file system" in done.stderr
    assert "mend the folder's permissions" in done.stderr
    assert published(cohort) == before
    require_nothing_half_made(cohort)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_prep_stopped_while_it_slices_leaves_nothing_half_made(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    project = write_cohort(tmp_path / "project", shape=(32, 32, 400))
    process = start(project)
    wait_for(lambda: being_sliced(project), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"clotseg: stopped by {number.name}" in said
    assert "Traceback" not in said
    assert not project.sliced.exists()
    require_nothing_half_made(project)


def test_a_real_prep_killed_while_it_slices_is_named_by_the_next_which_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    project = write_cohort(tmp_path / "project", shape=(32, 32, 200))
    killed = start(project)
    wait_for(lambda: being_sliced(project), killed)
    killed.kill()
    killed.communicate(timeout=60)
    assert being_sliced(project), "the kill must fall while shards are being written"
    again = run_clotseg("-C", project.root, "prep")
    assert again.returncode == 0
    host = socket.gethostname()
    assert f'event=lock state="taken over" left_by="process {killed.pid} on {host}"' in again.stderr
    require_nothing_half_made(project)
    assert published(project) == undisturbed(project, tmp_path)


def test_of_two_preps_at_once_one_wins_and_the_other_names_it(tmp_path: Path) -> None:
    project = write_cohort(tmp_path / "project")
    lock = project.processed / ".lock"
    first = start(project)
    wait_for(lambda: lock.exists() and lock.read_text(), first)
    first.send_signal(signal.SIGSTOP)  # Held up, so that it is still at work when the second gives up.
    second = run_clotseg("-C", project.root, "prep")
    assert first.poll() is None
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 5
    assert f"another clotseg, process {first.pid} on {socket.gethostname()}, is writing here" in second.stderr
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    require_nothing_half_made(project)
    assert published(project) == undisturbed(project, tmp_path)
