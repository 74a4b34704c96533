"""Writing a cohort: the format, sameness, and what happens to a folder that is not empty."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clotseg.errors import ConfigError, DataError
from clotseg.phantom import cohort, write_cohort
from tests.conftest import contents
from tests.phantom.conftest import CASES, Written, read_cohort

SMALL = {"cases": 3, "size": 40, "slices": 8, "seed": 100}

WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from clotseg.phantom import write_cohort

def on_case(name):
    print(name, flush=True)
    if name == sys.argv[2]:
        sys.stdin.read()

write_cohort(Path(sys.argv[1]), cases=3, size=40, slices=8, seed=100, on_case=on_case)
"""


def write_and_kill(folder: Path, after: str) -> None:
    """Writes the small cohort in another process, and kills it once the case `after` is written."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED, str(folder), after],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != after:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_cases_are_in_the_input_format(cohort_folder: Path, written: list[Written]) -> None:
    names = [f"case_{index:03d}" for index in range(CASES)]
    assert [case.name for case in written] == names
    assert {path.name for path in (cohort_folder / "DL_vol_files" / "binary").iterdir()} == {
        f"{name}_{kind}_Binary.npy" for name in names for kind in ("CTA", "NCCT_Reg")
    }
    for index, case in enumerate(written):
        assert case.cta.shape == case.ncct.shape == case.mask.shape == (96, 96, 24)
        assert (case.cta.dtype, case.ncct.dtype, case.mask.dtype) == (np.int16, np.int16, np.uint8)
        assert set(np.unique(case.mask)) <= {0, 1}
        assert case.row["patient"] == f"patient_{index:03d}"
    assert {case.row["site"] for case in written} == {"site-a", "site-b"}


def test_the_field_of_view_does_not_depend_on_the_number_of_voxels(
    tmp_path: Path, written: list[Written]
) -> None:
    write_cohort(tmp_path, **SMALL)
    for case in (written[0], read_cohort(tmp_path)[0]):
        spacing = [float(case.row[f"spacing_{axis}_mm"]) for axis in ("row", "col", "slice")]
        assert np.multiply(spacing, case.mask.shape) == pytest.approx((112, 112, 36), abs=0.01)


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    write_cohort(tmp_path / "one", **SMALL)
    write_cohort(tmp_path / "two", **SMALL)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_several_processes_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing: set[int | None] = set()

    def on_case(_name: str) -> None:
        drawing.update(process.pid for process in multiprocessing.active_children())

    write_cohort(tmp_path / "one", **SMALL, on_case=on_case)
    assert not drawing
    monkeypatch.setattr(cohort, "VOXELS_WORTH_A_PROCESS", 1)
    write_cohort(tmp_path / "two", **SMALL, on_case=on_case)
    assert len(drawing) > 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_case_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    write_cohort(tmp_path / "few", **SMALL)
    write_cohort(tmp_path / "more", **{**SMALL, "cases": 5})
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    volumes = [name for name in few if name.endswith(".npy")]
    assert len(volumes) == 9
    assert all(few[name] == more[name] for name in volumes)


def test_another_seed_gives_other_cases(tmp_path: Path) -> None:
    write_cohort(tmp_path / "one", **SMALL)
    write_cohort(tmp_path / "two", **{**SMALL, "seed": 101})
    for one, two in zip(read_cohort(tmp_path / "one"), read_cohort(tmp_path / "two"), strict=True):
        assert not np.array_equal(one.cta, two.cta)
        assert not np.array_equal(one.ncct, two.ncct)


def test_the_record_tells_what_the_masks_hold(written: list[Written]) -> None:
    for case in written:
        assert case.truth["voxels"] == case.mask.sum()
        assert (case.truth["branch"] is not None) == case.mask.any()
        if case.mask.any():
            assert case.truth["ncct_hu"] == pytest.approx(case.ncct[case.mask == 1].mean(), abs=0.01)
            assert 7 <= case.truth["length_mm"] <= 18


def test_a_whole_cohort_is_reused(tmp_path: Path) -> None:
    told: list[str] = []
    assert write_cohort(tmp_path, **SMALL, on_case=told.append) == "made"
    assert told == ["case_000", "case_001", "case_002"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert write_cohort(tmp_path, **SMALL, on_case=told.append) == "reused"
    assert len(told) == 3
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}


def test_other_arguments_do_not_overwrite_a_cohort(tmp_path: Path) -> None:
    write_cohort(tmp_path, **SMALL)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="choose another folder") as caught:
        write_cohort(tmp_path, **{**SMALL, "seed": 101})
    assert str(tmp_path) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("folder", ["DL_vol_files", "DL_seg_files"])
def test_a_users_cases_are_left_alone(tmp_path: Path, folder: str) -> None:
    own = tmp_path / folder / "binary" / "case_000_CTA_Binary.npy"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a patient")
    with pytest.raises(DataError, match="choose another folder"):
        write_cohort(tmp_path, **SMALL)
    assert contents(tmp_path) == {own.relative_to(tmp_path).as_posix(): b"a patient"}


def test_a_changed_cohort_is_neither_reused_nor_overwritten(tmp_path: Path) -> None:
    write_cohort(tmp_path, **SMALL)
    (tmp_path / "DL_seg_files" / "binary" / "case_001_seg_corrected_binary.npy").unlink()
    before = contents(tmp_path)
    with pytest.raises(DataError, match="not the ones asked for"):
        write_cohort(tmp_path, **SMALL)
    assert contents(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("last", ["case_000", "case_002"])
def test_a_killed_write_is_repaired_by_running_again(tmp_path: Path, last: str) -> None:
    write_and_kill(tmp_path / "killed", after=last)
    assert (tmp_path / "killed" / "DL_vol_files").exists()
    assert not (tmp_path / "killed" / "phantom.json").exists()
    assert write_cohort(tmp_path / "killed", **SMALL) == "made"
    write_cohort(tmp_path / "whole", **SMALL)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_write_may_be_followed_by_a_smaller_cohort(tmp_path: Path) -> None:
    write_and_kill(tmp_path / "killed", after="case_002")
    write_cohort(tmp_path / "killed", **{**SMALL, "cases": 1})
    write_cohort(tmp_path / "whole", **{**SMALL, "cases": 1})
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_files_put_beside_a_killed_write_are_left_alone(tmp_path: Path) -> None:
    write_and_kill(tmp_path, after="case_001")
    own = tmp_path / "DL_vol_files" / "binary" / "patient7_CTA_Binary.npy"
    own.write_bytes(b"a patient")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"patient7_CTA_Binary\.npy"):
        write_cohort(tmp_path, **SMALL)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "bad", [{"cases": 0}, {"size": 31}, {"size": 513}, {"slices": 7}, {"seed": -1}], ids=lambda bad: str(bad)
)
def test_arguments_out_of_range_are_named(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} = {next(iter(bad.values()))}"):
        write_cohort(tmp_path / "out", **{**SMALL, **bad})
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("notes")
    with pytest.raises(DataError, match="choose another folder"):
        write_cohort(tmp_path / "out", **SMALL)
    assert (tmp_path / "out").read_text() == "notes"


def test_the_coarsest_grid_still_shows_each_clot(tmp_path: Path) -> None:
    write_cohort(tmp_path, cases=14, size=32, slices=8, seed=100)
    record = json.loads((tmp_path / "phantom.json").read_text())["cases"]
    assert [case["voxels"] > 0 for case in record] == [case["branch"] is not None for case in record]
