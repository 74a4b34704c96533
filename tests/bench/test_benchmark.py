"""`clotseg bench` as a shell sees it, and what its measuring rests on."""

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clotseg.bench.rate import measure
from clotseg.bench.reading import drop_from_memory, read_from_disk, read_from_memory
from clotseg.project import Project
from tests.conftest import contents, copy_of, run_clotseg

STAGES = ["disk", "memory", "plain", "augmented", "feed", "constant", "training"]
QUICK = ("--seconds", 0.2, "--filters", 4, "--depth", 2, "--batch-size", 8, "--gpus", 0)


def test_the_first_turn_which_makes_what_is_made_once_is_not_counted() -> None:
    assert measure(iter([1_000, 7, 7, 7]), seconds=0).slices == 21
    assert measure(iter([1_000, 7]), seconds=0).slices == 7


def test_a_stage_with_one_turn_is_measured_by_it() -> None:
    rate = measure(iter([64]), seconds=3600)
    assert rate.slices == 64
    assert rate.slices_per_s > 0


def test_no_more_turns_are_asked_for_than_the_time_needs() -> None:
    turns = iter(range(1_000_000))
    measure(turns, seconds=0)
    assert next(turns) == 4


def held_in_memory(file: Path) -> bool:
    """Whether the first page can be read without the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pytest.skip("this file system does not tell")
    finally:
        os.close(descriptor)
    return True


def test_a_file_that_is_to_be_read_from_the_disk_is_first_dropped_from_memory(tmp_path: Path) -> None:
    file, other = tmp_path / "shard", tmp_path / "other"
    for each in (file, other):
        each.write_bytes(bytes(2**20))
        assert held_in_memory(each)
    drop_from_memory(file)
    subprocess.run(["sync", other], check=True)
    subprocess.run(["dd", f"if={other}", "iflag=nocache", "count=0", "status=none"], check=True)
    if held_in_memory(other):
        pytest.skip("this file system keeps its files in memory")
    assert not held_in_memory(file)


@pytest.mark.parametrize("read", [read_from_disk, read_from_memory])
def test_what_is_read_is_counted_in_slices(tmp_path: Path, read: Any) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_bytes(bytes(3_000))
    rate = read(files, 1_000, seconds=0.01)
    assert rate.slices >= 3, "something is read, however slow the disk"
    assert rate.slices % 3 == 0, "whole files, as these are read at once"


def test_settings_come_from_recipe_file_and_flags_as_in_training(tmp_path: Path) -> None:
    (tmp_path / "clotseg.toml").write_text("[train]\nbatch_size = 12\n")
    for command in ("bench", "train"):
        done = run_clotseg(
            "-C", tmp_path, command, "--recipe", "ct-clotseg", "--filters", 8, "--print-config"
        )
        shown = tomllib.loads(done.stdout)
        assert shown["train"]["batch_size"] == 12
        assert shown["network"]["filters"] == 8
        assert shown["train"]["recipe"] == "ct-clotseg"


def test_a_setting_that_cannot_be_used_is_a_usage_error(tmp_path: Path) -> None:
    for flag in (("--seconds", 0), ("--prefetch", 0), ("--threads", "many")):
        done = run_clotseg("-C", tmp_path, "bench", *flag)
        assert done.returncode == 2
        assert flag[0].removeprefix("--") in done.stderr
        assert done.stdout == ""


@pytest.mark.slow
def test_a_projects_own_slices_are_measured_and_nothing_is_written(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    before = contents(project.root)
    done = run_clotseg("-C", project.root, "bench", *QUICK, "--size", "auto", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == {"data", "machine", "settings", "stages", "verdict"}
    assert said["data"]["source"] == "project"
    shards = list((project.sliced / "Training").glob("*.tfrecord"))
    assert said["data"]["bytes"] == sum(shard.stat().st_size for shard in shards)
    assert [stage["stage"] for stage in said["stages"]] == STAGES
    for stage in said["stages"]:
        assert stage.keys() == {"stage", "what", "slices_per_s", "mb_per_s", "slices", "seconds"}
        assert stage["slices_per_s"] == pytest.approx(stage["slices"] / stage["seconds"])
    assert said["verdict"].keys() == {"bottleneck", "told", "change", "notes"}
    assert contents(project.root) == before


@pytest.mark.slow
def test_without_slices_those_of_a_phantom_are_measured(tmp_path: Path) -> None:
    done = run_clotseg("-C", tmp_path, "bench", *QUICK, "--size", 64, "--recipe", "ct-clotseg")
    assert done.returncode == 0, done.stderr
    assert "a phantom's" in done.stdout
    assert "bottleneck" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_damaged_slices_are_told_as_in_training(sliced_project: Project, tmp_path: Path) -> None:
    project = copy_of(sliced_project, tmp_path / "project")
    next((project.sliced / "Training").glob("*.idx")).unlink()
    done = run_clotseg("-C", project.root, "bench", *QUICK, "--size", "auto")
    assert done.returncode == 4
    assert "run `clotseg prep --slice force`" in done.stderr
