"""`clotseg prep` killed, interrupted or refused at every change it makes to the disk."""

import json
import os
import subprocess
import sys
from errno import EIO, ENOSPC
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
EVERYTHING = "Processed/Original, Processed/Sliced/Training, Processed/Sliced/Validation"

pytestmark = pytest.mark.slow


def strike(folder: Path, library: Path, way: str, kind: int, *, every: int = 1) -> Any:
    """Runs `struck_prep`, which holds each outcome against the promise; gives what it counted."""
    program = [sys.executable, "-m", "tests.faults.struck_prep"]
    done = subprocess.run(
        [*program, *map(str, (folder, library, way, int(kind), every))],
        cwd=REPOSITORY,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_killed_before_any_of_its_changes_a_first_prep_leaves_whole_stages_and_runs_again(
    quick_disk: Path, faults_library: Path
) -> None:
    seen = strike(quick_disk, faults_library, "fresh", SIGKILL, every=2)
    assert seen["codes"] == {str(-SIGKILL): -(-seen["changes"] // 2)}
    assert seen["changes"] > 80
    assert seen["found"].keys() >= {"nothing", "Processed/Original"}


def test_killed_before_any_of_its_changes_a_later_prep_leaves_the_old_or_the_new_stages(
    quick_disk: Path, faults_library: Path
) -> None:
    seen = strike(quick_disk, faults_library, "replace", SIGKILL)
    assert seen["codes"] == {str(-SIGKILL): seen["changes"]}
    assert seen["changes"] > 100
    assert seen["found"] == {EVERYTHING: seen["changes"]}, "what was published is there at every moment"


def test_killed_at_random_moments_prep_leaves_whole_stages_and_runs_again(
    quick_disk: Path, faults_library: Path
) -> None:
    seen = strike(quick_disk, faults_library, "random", SIGKILL)
    assert sum(seen["codes"].values()) == 20
    assert seen["codes"][str(-SIGKILL)] >= 10


@pytest.mark.parametrize("refusal", [EIO, ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_change_that_the_disk_refuses_ends_in_an_environment_problem_and_leaves_the_old_stages(
    quick_disk: Path, faults_library: Path, refusal: int
) -> None:
    seen = strike(quick_disk, faults_library, "replace", -refusal, every=11)
    assert set(seen["codes"]) <= {"0", "5"}, (
        "0 where it could do without: a link, an exchange, the lock's note"
    )
    assert seen["codes"]["5"] > seen["codes"].get("0", 0)


def test_interrupted_before_any_of_its_changes_prep_tidies_up_and_says_so(
    quick_disk: Path, faults_library: Path
) -> None:
    seen = strike(quick_disk, faults_library, "fresh", SIGINT, every=7)
    assert set(seen["codes"]) == {"130"}
