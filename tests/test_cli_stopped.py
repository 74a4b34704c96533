"""Commands stopped by signals: the shell's exit codes, quiet ends, and nothing published half."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from clotseg.project import Project
from tests.conftest import clotseg_command, run_clotseg, write_cohort


def start_and_signal(number: signal.Signals, there: Path, *arguments: object) -> tuple[int, str]:
    """Sends a signal to a command once a file is there; gives its exit code and stderr."""
    with subprocess.Popen(
        clotseg_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not there.exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_stopped_phantom_ends_with_the_shells_code(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    first = tmp_path / "DL_seg_files" / "binary" / "case_000_seg_corrected_binary.npy"
    returned, said = start_and_signal(number, first, "phantom", tmp_path, "--cases", 500)
    assert returned == code
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "phantom.json").exists()


def test_a_train_stopped_while_tensorflow_loads_ends_quietly(cohort: Project) -> None:
    slices = cohort.sliced / "Training" / "manifest.json"
    returned, said = start_and_signal(signal.SIGINT, slices, "-C", cohort.root, "train", "--size", "auto")
    assert returned == 130
    assert said.splitlines()[-1].startswith("clotseg: stopped by SIGINT")
    assert "Traceback" not in said
    assert not [line for line in said.splitlines() if not line.startswith(("event=", "clotseg: "))]
    assert not cohort.trainings.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
def test_a_prep_stopped_with_workers_ends_with_the_shells_code_and_publishes_nothing_half(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    project = write_cohort(tmp_path / "project", 30, shape=(128, 128, 40))
    arguments = ("-C", project.root, "prep", "--workers", 2)
    # Neighbours make for more to write, so that the signal comes well before the end.
    (project.root / "clotseg.toml").write_text("[slice]\nslices_per_shard = 40\ncontext = 4\n")
    building = project.processed / ".Sliced.building" / "Training"
    returned, said = start_and_signal(number, building, *arguments)
    assert returned == code
    assert said.splitlines()[-1].startswith(f"clotseg: stopped by {number.name}")
    assert "Traceback" not in said
    assert {path.name for path in project.processed.iterdir()} == {"Original", ".lock", ".digests.json"}
    assert run_clotseg(*arguments).returncode == 0
