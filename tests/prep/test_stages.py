"""`clotseg prep` as a whole: what it makes, reuses and refuses, and what a kill or a full disk leaves."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest

from clotseg.artifact import project_lock
from clotseg.config import Config, FeedConfig, SliceConfig, SplitConfig
from clotseg.console import PlainProgress
from clotseg.errors import CorruptArtifactError, DataError, EnvironmentProblem
from clotseg.prep.cohorts import read_cohorts
from clotseg.prep.stages import read_sliced, run_prep
from clotseg.project import Project
from tests.conftest import (
    contents,
    largest_file,
    modified_times,
    start_python,
    write_case,
    write_cases_csv,
    write_cohort,
)

CONFIG = Config(slice=SliceConfig(slices_per_shard=8), feed=FeedConfig(size=32))
OTHER_WINDOW = dataclasses.replace(CONFIG, slice=SliceConfig(slices_per_shard=8, cta_window_hu=(0.0, 300.0)))
OTHER_SEED = dataclasses.replace(CONFIG, split=SplitConfig(seed=2))

# Slices anew, and is killed by SIGKILL when two training cases or more are in their shards.
KILLED_WHILE_SLICING = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from clotseg.config import Config, FeedConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project

class Killer(PlainProgress):
    @contextmanager
    def bar(self, label, total, unit):
        def advance_and_die(count=1):
            self.done += count
            if label == "slice" and self.done >= 2:
                os.kill(os.getpid(), signal.SIGKILL)
        self.done = 0
        yield advance_and_die

config = Config(
    slice=SliceConfig(slices_per_shard=8, cta_window_hu=(0.0, 300.0)), feed=FeedConfig(size=32)
)
run_prep(Project(Path(sys.argv[1])), config, Killer())
"""


def prep(project, config=CONFIG, **switches):
    """Runs prep with lines for progress."""
    return run_prep(project, config, PlainProgress(), **switches)


def outcomes(project, config=CONFIG, **switches):
    """What prep did for the split and the slices."""
    stages = prep(project, config, **switches)["stages"]
    return stages["split"], stages["slice"]


@pytest.fixture
def prepared(sliced_project, tmp_path):
    """A copy of a prepared project, to be changed; its inputs have the times they had."""
    shutil.copytree(sliced_project.root, tmp_path / "prepared")
    project = Project(tmp_path / "prepared")
    prep(project)
    return project


@pytest.fixture
def unprepared(cohort_copy):
    """The same cases, with nothing prepared."""
    return cohort_copy


def tfrecords(project):
    """The bytes of every shard, index and manifest below Sliced."""
    return contents(project.root / "Processed" / "Sliced")


def test_the_result_tells_what_was_done_and_who_is_where(unprepared):
    result = prep(unprepared)
    assert result["stages"] == {"split": "made", "slice": "made"}
    assert list(result["cohorts"]) == ["Training", "Validation", "Testing"]
    everyone = [case for facts in result["cohorts"].values() for case in facts["cases"]]
    assert sorted(everyone) == [f"case_{number:02d}" for number in range(10)]
    for cohort, facts in result["cohorts"].items():
        assert set(facts) == {"cases", "slices", "shards"}
        volumes = [np.load(unprepared.volumes / f"{case}_CTA_Binary.npy") for case in facts["cases"]]
        assert facts["slices"] == sum(volume.shape[2] for volume in volumes)
        found = sorted((unprepared.root / "Processed" / "Sliced" / cohort).glob("*.tfrecord"))
        assert facts["shards"] == [path.relative_to(unprepared.root).as_posix() for path in found]
    assert [len(facts["cases"]) for facts in result["cohorts"].values()] == [6, 2, 2]
    assert len(result["cohorts"]["Training"]["shards"]) > 1
    assert result["cohorts"]["Testing"]["shards"] == []


def test_the_test_cohort_is_linked_but_never_sliced(unprepared):
    result = prep(unprepared)
    assert sorted(path.name for path in unprepared.sliced.iterdir()) == ["Training", "Validation"]
    shards = b"".join(path.read_bytes() for path in unprepared.sliced.rglob("*.tfrecord"))
    for case in result["cohorts"]["Training"]["cases"] + result["cohorts"]["Validation"]["cases"]:
        assert case.encode() in shards
    for case in result["cohorts"]["Testing"]["cases"]:
        assert case.encode() not in shards
        assert (unprepared.original / "Testing" / "masks" / f"{case}_seg_corrected_binary.npy").exists()


def test_cohort_folders_hold_hard_links_that_take_no_space(unprepared):
    result = prep(unprepared)
    linked = 0
    for cohort, facts in result["cohorts"].items():
        for case in facts["cases"]:
            for folder, kind, name in (
                (unprepared.volumes, "images", f"{case}_CTA_Binary.npy"),
                (unprepared.volumes, "images", f"{case}_NCCT_Reg_Binary.npy"),
                (unprepared.masks, "masks", f"{case}_seg_corrected_binary.npy"),
            ):
                assert (unprepared.original / cohort / kind / name).samefile(folder / name)
                linked += 1
    assert len(list(unprepared.original.rglob("*.npy"))) == linked == 30


def test_inputs_that_are_relative_symbolic_links_are_followed(unprepared):
    elsewhere = unprepared.root / "elsewhere"
    elsewhere.mkdir()
    for path in [*unprepared.volumes.glob("*.npy"), *unprepared.masks.glob("*.npy")]:
        path.rename(elsewhere / path.name)
        path.symlink_to(os.path.relpath(elsewhere / path.name, path.parent))
    assert outcomes(unprepared) == ("made", "made")
    for path in unprepared.original.rglob("*.npy"):
        assert path.samefile(elsewhere / path.name)


def test_a_second_run_reuses_everything_and_writes_no_artifact(prepared):
    before = modified_times(prepared.original) | modified_times(prepared.sliced)
    assert outcomes(prepared) == ("reused", "reused")
    assert modified_times(prepared.original) | modified_times(prepared.sliced) == before


def test_what_only_decides_the_speed_makes_nothing_again(prepared):
    runtime = dataclasses.replace(CONFIG.runtime, threads=1, gpus=0)
    assert outcomes(prepared, dataclasses.replace(CONFIG, runtime=runtime)) == ("reused", "reused")


def test_another_window_makes_the_slices_again_and_keeps_the_split(prepared):
    split, slices = contents(prepared.original), tfrecords(prepared)
    times = modified_times(prepared.original)
    assert outcomes(prepared, OTHER_WINDOW) == ("reused", "made")
    assert modified_times(prepared.original) == times
    assert contents(prepared.original) == split
    assert tfrecords(prepared) != slices
    assert outcomes(prepared, CONFIG) == ("reused", "made")
    assert tfrecords(prepared) == slices


def test_another_seed_makes_split_and_slices_again(prepared):
    before = read_cohorts(prepared).members
    assert outcomes(prepared, OTHER_SEED) == ("made", "made")
    assert read_cohorts(prepared).members != before


def test_a_changed_volume_makes_everything_again(prepared):
    write_case(prepared, "case_03", seed=99)
    assert outcomes(prepared) == ("made", "made")
    assert outcomes(prepared) == ("reused", "reused")


def test_a_case_that_came_or_went_makes_everything_again(prepared):
    write_case(prepared, "case_10")
    assert outcomes(prepared) == ("made", "made")
    (prepared.masks / "case_10_seg_corrected_binary.npy").unlink()
    for path in prepared.volumes.glob("case_10*"):
        path.unlink()
    assert outcomes(prepared) == ("made", "made")


def test_patients_named_in_a_table_stay_in_one_cohort(prepared):
    rows = [{"case": f"case_{number:02d}", "patient": f"p{number // 2}"} for number in range(10)]
    write_cases_csv(prepared, rows)
    assert outcomes(prepared) == ("made", "made")
    cohorts = [{int(case[-2:]) // 2 for case in cases} for cases in read_cohorts(prepared).members.values()]
    assert sum(map(len, cohorts)) == len(set().union(*cohorts)) == 5


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"split": "force"}, ("made", "reused")),
        ({"slicing": "force"}, ("reused", "made")),
        ({"split": "force", "slicing": "force"}, ("made", "made")),
        ({"split": "off"}, ("off", "reused")),
        ({"slicing": "off"}, ("reused", "off")),
        ({"split": "off", "slicing": "force"}, ("off", "made")),
    ],
)
def test_switches_make_a_stage_again_or_leave_it_alone_with_the_same_bytes(prepared, switches, expected):
    before = contents(prepared.processed)
    inode = {name: (prepared.processed / name).stat().st_ino for name in ("Original", "Sliced")}
    assert outcomes(prepared, **switches) == expected
    after = contents(prepared.processed)
    assert after == before
    for name, outcome in zip(("Original", "Sliced"), expected, strict=True):
        assert ((prepared.processed / name).stat().st_ino != inode[name]) == (outcome == "made")


@pytest.mark.parametrize(("stage", "missing"), [("split", "Original"), ("slicing", "Sliced")])
def test_a_stage_that_is_off_needs_what_an_earlier_run_made(prepared, stage, missing):
    shutil.rmtree(prepared.processed / missing)
    with pytest.raises(CorruptArtifactError, match=missing):
        prep(prepared, **{stage: "off"})


def test_slices_of_another_split_are_not_taken_for_those_of_this_one(prepared):
    with pytest.raises(CorruptArtifactError, match="another split"):
        prep(prepared, OTHER_SEED, slicing="off")
    with pytest.raises(CorruptArtifactError, match="another split"):
        read_sliced(prepared, "Training")
    assert outcomes(prepared, OTHER_SEED) == ("reused", "made")
    assert read_sliced(prepared, "Training")["cohort"] == "Training"


@pytest.mark.parametrize("pattern", ["*.tfrecord", "*.idx", "manifest.json"])
def test_a_lost_or_shortened_shard_is_noticed_and_made_again(prepared, pattern):
    whole = tfrecords(prepared)
    file = sorted((prepared.sliced / "Validation").glob(pattern))[0]
    file.write_bytes(file.read_bytes()[:-1])
    if pattern == "manifest.json":
        file.unlink()
    with pytest.raises(CorruptArtifactError, match="Validation"):
        read_sliced(prepared, "Validation")
    assert outcomes(prepared) == ("reused", "made")
    assert tfrecords(prepared) == whole


def test_a_garbled_split_is_told_with_its_cure(prepared):
    manifest = prepared.original / "manifest.json"
    manifest.write_text('{"format": 1, "key": "k"}')
    with pytest.raises(CorruptArtifactError, match="--split force"):
        read_cohorts(prepared)
    assert outcomes(prepared) == ("made", "reused")


def test_the_published_split_gives_back_what_was_checked(prepared):
    rows = [
        {"case": f"case_{number:02d}", "patient": f"p{number}", "site": "north"}
        | {"spacing_row_mm": 0.5, "spacing_col_mm": 0.4, "spacing_slice_mm": 0.75}
        for number in range(10)
    ]
    write_cases_csv(prepared, rows)
    prep(prepared)
    entry = read_cohorts(prepared).cases["case_03"]
    mask = np.load(prepared.masks / "case_03_seg_corrected_binary.npy")
    assert (entry.shape, entry.clot_voxels) == (mask.shape, mask.sum())
    assert (entry.case.patient, entry.case.site, entry.case.spacing_mm) == ("p3", "north", (0.5, 0.4, 0.75))
    np.testing.assert_array_equal(np.load(entry.case.mask), mask)
    assert read_cohorts(prepared).largest_slice == 32


def test_bad_cases_are_all_listed_and_nothing_is_written(unprepared):
    for case in ("case_02", "case_07"):
        volume = np.load(unprepared.volumes / f"{case}_CTA_Binary.npy").astype(np.float32)
        volume[0, 0, 0] = np.nan
        np.save(unprepared.volumes / f"{case}_CTA_Binary.npy", volume)
    before = contents(unprepared.root)
    with pytest.raises(DataError) as caught:
        prep(unprepared)
    assert [detail[:7] for detail in caught.value.details] == ["case_02", "case_07"]
    assert contents(unprepared.root) == before
    assert not unprepared.processed.exists()


def test_a_bad_case_that_comes_later_leaves_what_was_prepared(prepared):
    before = contents(prepared.processed)
    write_case(prepared, "case_10", shape=(64, 64, 4))
    with pytest.raises(DataError, match="larger than 32"):
        prep(prepared)
    assert contents(prepared.processed) == before


def test_too_few_patients_leave_nothing_behind(unprepared):
    for path in [*unprepared.volumes.iterdir(), *unprepared.masks.iterdir()]:
        if not path.name.startswith(("case_00", "case_01")):
            path.unlink()
    with pytest.raises(DataError, match="2 patient"):
        prep(unprepared)
    assert not unprepared.processed.exists()


def test_the_same_cases_in_another_folder_give_the_same_bytes(sliced_project, unprepared):
    prep(unprepared)
    assert tfrecords(unprepared) == tfrecords(sliced_project)
    assert contents(unprepared.original) == contents(sliced_project.original)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_change_a_byte(sliced_project, unprepared, workers):
    runtime = dataclasses.replace(CONFIG.runtime, workers=workers)
    assert outcomes(unprepared, dataclasses.replace(CONFIG, runtime=runtime)) == ("made", "made")
    assert contents(unprepared.sliced) == contents(sliced_project.sliced)
    assert contents(unprepared.original) == contents(sliced_project.original)


def test_a_disk_that_fills_up_under_workers_leaves_the_earlier_slices(prepared):
    before = tfrecords(prepared)
    config = dataclasses.replace(OTHER_WINDOW, runtime=dataclasses.replace(CONFIG.runtime, workers=2))
    with largest_file(12_000), pytest.raises(EnvironmentProblem, match="free disk space"):
        prep(prepared, config)
    assert tfrecords(prepared) == before
    assert {path.name for path in prepared.processed.iterdir()} == {
        "Original",
        "Sliced",
        ".lock",
        ".digests.json",
    }


def test_findings_of_all_workers_are_listed_in_order(unprepared):
    for case in ("case_02", "case_07"):
        (unprepared.volumes / f"{case}_CTA_Binary.npy").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prep(unprepared, dataclasses.replace(CONFIG, runtime=dataclasses.replace(CONFIG.runtime, workers=2)))
    assert [detail[:7] for detail in caught.value.details] == ["case_02", "case_07"]
    assert not unprepared.processed.exists()


def test_with_a_split_file_a_colleagues_cohorts_are_taken_wherever_the_file_lies(prepared, tmp_path):
    first = json.loads((prepared.original / "split.json").read_text())["cohorts"]
    turned = dict(zip(first, [first["Training"], first["Testing"], first["Validation"]], strict=True))
    keys = set()
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps({"cohorts": turned}))
        split = SplitConfig(file=str(tmp_path / name))
        made = outcomes(prepared, dataclasses.replace(CONFIG, split=split))
        assert made == (("made", "made") if name == "one.json" else ("reused", "reused"))
        assert {k: list(v) for k, v in read_cohorts(prepared).members.items()} == turned
        keys.add(read_cohorts(prepared).key)
    assert len(keys) == 1
    (prepared.original / "split.json").rename(tmp_path / "shared.json")
    split = SplitConfig(file=str(tmp_path / "shared.json"))
    assert outcomes(prepared, dataclasses.replace(CONFIG, split=split)) == ("made", "reused")


def test_cohorts_can_be_given_their_share_of_sites_and_clots(prepared):
    rows = [{"case": f"case_{n:02d}", "site": "north" if n < 5 else "south"} for n in range(10)]
    write_cases_csv(prepared, rows)
    prep(prepared, dataclasses.replace(CONFIG, split=SplitConfig(stratify=("site",))))
    sites = {
        cohort: [entry.case.site for entry in read_cohorts(prepared).of(cohort)]
        for cohort in ("Training", "Validation", "Testing")
    }
    assert sorted(sites["Training"]) == ["north"] * 3 + ["south"] * 3
    assert sorted(sites["Validation"]) == sorted(sites["Testing"]) == ["north", "south"]


def test_switched_off_in_an_empty_folder_nothing_is_made_at_all(tmp_path):
    with pytest.raises(CorruptArtifactError, match="Original"):
        prep(Project(tmp_path), split="off", slicing="off")
    assert not list(tmp_path.iterdir())


PEAK_OF_PREP = """
import sys
from pathlib import Path
from clotseg.config import Config, FeedConfig, RuntimeConfig
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from tests.prep.worker_tasks import resident_peak_kib

before = resident_peak_kib()
run_prep(Project(Path(sys.argv[1])), Config(runtime=RuntimeConfig(workers=1)), PlainProgress())
print(resident_peak_kib() - before)
"""


@pytest.mark.slow
def test_memory_grows_with_the_largest_volume_and_not_with_the_cohort(tmp_path):
    shape, peaks = (192, 192, 64), {}
    for cases in (6, 24):
        project = write_cohort(tmp_path / str(cases), cases, shape=shape)
        said, errors = start_python(PEAK_OF_PREP, project.root).communicate(timeout=120)
        peaks[cases] = 1024 * int(said or errors)
    voxels = int(np.prod(shape))
    # The volumes of a case as they lie on disk, its slices, and little more: no 8 bytes a voxel anywhere.
    assert peaks[24] < 10 * voxels
    assert peaks[24] < peaks[6] + 2 * voxels


def test_a_project_that_moved_reuses_what_it_has(prepared):
    moved = Project(prepared.root.rename(prepared.root.with_name("moved")))
    assert outcomes(moved) == ("reused", "reused")


def test_prep_killed_while_slicing_leaves_the_earlier_slices_and_runs_again_to_the_same_bytes(
    prepared, unprepared
):
    before = tfrecords(prepared)
    process = start_python(KILLED_WHILE_SLICING, prepared.root)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    half = list(prepared.processed.glob(".Sliced*/Training/*.tfrecord"))
    assert half, "the kill must fall while shards are being written"
    assert tfrecords(prepared) == before
    assert read_sliced(prepared, "Training")
    assert outcomes(prepared, OTHER_WINDOW) == ("reused", "made")
    prep(unprepared, OTHER_WINDOW)
    assert tfrecords(prepared) == tfrecords(unprepared) != before
    visible = {path.name for path in prepared.processed.iterdir()} - {".lock", ".digests.json"}
    assert visible == {"Original", "Sliced"}


def test_two_preps_do_not_write_to_one_project_at_once(prepared):
    with project_lock(prepared.processed):
        with pytest.raises(EnvironmentProblem, match="another clotseg"):
            prep(prepared, OTHER_WINDOW)
        assert outcomes(prepared) == ("reused", "reused"), "what only reads need not wait"


def test_a_disk_that_fills_up_leaves_the_earlier_slices(prepared):
    before = tfrecords(prepared)
    with largest_file(12_000), pytest.raises(EnvironmentProblem, match="free disk space"):
        prep(prepared, OTHER_WINDOW)
    assert tfrecords(prepared) == before
    assert outcomes(prepared) == ("reused", "reused")
