"""Which folders of volumes are cases, and which are refused: with every finding, at once."""

import os
import pickle
import shutil
import subprocess
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clotseg.config import SliceConfig
from clotseg.console import PlainProgress
from clotseg.errors import DataError
from clotseg.prep.cases import EMPTY_MASK, MASK_OF_255, check_case, survey_cases, tell_notices
from clotseg.prep.slices import mask_slices, windowed_slices
from clotseg.project import Project
from tests.conftest import clotseg_command, contents, run_clotseg, write_case, write_cases_csv, write_cohort
from tests.prep.conftest import checked_cases, found_cases

CASE = "case_01"
SHAPE = (32, 32, 6)


class CreatesFile:
    """Unpickling this creates a file, as an attacker's pickle would run code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def path_of(project, kind, case=CASE):
    """The file of a case's CTA, NCCT or mask, by the documented name."""
    name, folder = {
        "cta": (f"{case}_CTA_Binary.npy", "DL_vol_files"),
        "ncct": (f"{case}_NCCT_Reg_Binary.npy", "DL_vol_files"),
        "mask": (f"{case}_seg_corrected_binary.npy", "DL_seg_files"),
    }[kind]
    return project.root / folder / "binary" / name


def change(project, kind, edit, case=CASE, dtype=None):
    """Rewrites one volume of a case after `edit` had it in hand."""
    path = path_of(project, kind, case)
    volume = np.load(path)
    volume = volume if dtype is None else volume.astype(dtype)
    edited = edit(volume)
    np.save(path, volume if edited is None else edited)


def put(value, voxel=(3, 4, 2)):
    """An edit that sets one voxel."""

    def edit(volume):
        volume[voxel] = value

    return edit


def pad_where_clot(project, cta):
    """Sets the CTA to padding in a corner and in two voxels of the clot; only the latter is a fault."""
    cta[:3, :3] = -1024
    cta[tuple(axis[:2] for axis in np.nonzero(np.load(path_of(project, "mask"))))] = [-1000, -1024]
    return cta


def claim_more(project):
    """A header that promises two slices more than the file holds."""
    path = path_of(project, "ncct")
    path.write_bytes(path.read_bytes().replace(b"(32, 32, 6)", b"(32, 32, 8)"))


def cut(project, kind):
    """Cuts the end of a file off, as a broken download does."""
    path = path_of(project, kind)
    path.write_bytes(path.read_bytes()[:-100])


def object_array(project):
    """A `.npy` that holds pickled objects."""
    objects = np.array([CreatesFile(project.root / "created"), None], dtype=object)
    np.save(path_of(project, "cta"), objects, allow_pickle=True)


def npz_archive(project):
    """A `.npz` under the name of a `.npy`."""
    with path_of(project, "mask").open("wb") as stream:
        np.savez(stream, mask=np.zeros(SHAPE, np.uint8))


BAD_VOLUMES = {
    "shape": (lambda p: change(p, "ncct", lambda v: v[:, :, :5]), "differ in shape"),
    "two axes": (lambda p: change(p, "ncct", lambda v: v[:, :, 0]), "[row, column, slice] is needed"),
    "four axes": (lambda p: change(p, "cta", lambda v: v[..., None]), "[row, column, slice] is needed"),
    "no slice": (lambda p: change(p, "cta", lambda v: v[:, :, :0]), "[row, column, slice] is needed"),
    "one NaN": (lambda p: change(p, "cta", put(np.nan), dtype=np.float32), "1 voxels are NaN or infinite"),
    "one +Inf": (lambda p: change(p, "ncct", put(np.inf), dtype=np.float16), "1 voxels are NaN or infinite"),
    "one -Inf": (lambda p: change(p, "ncct", put(-np.inf), dtype=np.float64), "1 voxels are NaN or infinite"),
    "HU as bool": (lambda p: change(p, "cta", lambda v: v > 0), "holds bool"),
    "complex HU": (lambda p: change(p, "cta", lambda v: v.astype(complex)), "complex128"),
    "text": (lambda p: change(p, "cta", lambda v: v.astype("U5")), "integers or floats"),
    "HU too low": (lambda p: change(p, "cta", put(-2049)), "-2049…"),
    "HU too high": (lambda p: change(p, "ncct", put(32768), dtype=np.int32), "…32768 cannot be HU"),
    "0…1": (lambda p: change(p, "cta", lambda v: (v - v.min()) / np.ptp(v)), "0.0…1.0: looks normalised"),
    "-1…1": (lambda p: change(p, "ncct", lambda v: (v - 35).clip(-9, 9) / 9), "looks normalised"),
    "mask as CTA": (lambda p: change(p, "cta", lambda v: (v > 40).astype(np.int16)), "looks normalised"),
    "mask of 0, 1 and 255": (lambda p: change(p, "mask", put(255)), "found 255 in 1 voxels"),
    "mask of 255 alone": (
        lambda p: change(p, "mask", lambda v: np.full_like(v, 255)),
        f"found 255 in {np.prod(SHAPE)} voxels",
    ),
    "clot in padding": (lambda p: change(p, "cta", lambda v: pad_where_clot(p, v)), "2 voxels of clot lie"),
    "mask of 2": (lambda p: change(p, "mask", put(2)), "found 2 in 1 voxels"),
    "soft mask": (lambda p: change(p, "mask", put(0.5), dtype=np.float32), "found 0.5 in 1 voxels"),
    "NaN in mask": (lambda p: change(p, "mask", put(np.nan), dtype=np.float32), "found nan in 1 voxels"),
    "negative mask": (lambda p: change(p, "mask", put(-1), dtype=np.int8), "found -1 in 1 voxels"),
    "grown file": (
        lambda p: path_of(p, "cta").write_bytes(path_of(p, "cta").read_bytes() + b"tail"),
        "4 bytes more than its header says",
    ),
    "header claims more": (claim_more, "not a readable .npy"),
    "cut file": (lambda p: cut(p, "cta"), "not a readable .npy"),
    "empty file": (lambda p: path_of(p, "cta").write_bytes(b""), "not a readable .npy"),
    "folder": (lambda p: (path_of(p, "cta").unlink(), path_of(p, "cta").mkdir()), "is not a file"),
    "link to nothing": (
        lambda p: (path_of(p, "cta").unlink(), path_of(p, "cta").symlink_to("gone.npy")),
        "is a link to gone.npy, which is no file",
    ),
    "objects": (object_array, "not a readable .npy"),
    "pickle": (
        lambda p: path_of(p, "cta").write_bytes(pickle.dumps(CreatesFile(p.root / "created"))),
        "not a readable .npy",
    ),
    "npz": (npz_archive, "not a readable .npy"),
}


def refused(project, largest_slice=256):
    """The error that these volumes raise."""
    with pytest.raises(DataError) as caught:
        checked_cases(project, largest_slice=largest_slice)
    return caught.value


@pytest.mark.parametrize(("spoil", "finding"), BAD_VOLUMES.values(), ids=BAD_VOLUMES)
def test_a_bad_volume_is_refused_and_named(cohort, spoil, finding):
    spoil(cohort)
    before = contents(cohort.root)
    error = refused(cohort)
    assert len(error.details) == 1
    assert finding in error.details[0]
    assert CASE in error.details[0]
    assert contents(cohort.root) == before


@pytest.mark.parametrize("spoil", ["objects", "pickle"])
def test_nothing_in_a_volume_is_ever_unpickled(cohort, spoil):
    path = path_of(cohort, "cta")
    BAD_VOLUMES[spoil][0](cohort)
    refused(cohort)
    assert not (cohort.root / "created").exists()
    if spoil == "objects":
        np.load(path, allow_pickle=True)[0].close()
    else:
        pickle.loads(path.read_bytes()).close()
    assert (cohort.root / "created").exists(), "the pickle must be one that does harm"


def test_all_bad_files_of_all_cases_are_listed_at_once(cohort):
    change(cohort, "cta", put(np.nan), "case_00", np.float32)
    change(cohort, "ncct", put(np.inf), "case_00", np.float32)
    change(cohort, "mask", put(7), "case_03")
    path_of(cohort, "cta", "case_05").write_bytes(b"")
    change(cohort, "mask", lambda v: v[:16], "case_09")
    error = refused(cohort)
    assert "4 of 10 cases" in str(error)
    assert [detail.split(":")[0].split("_CTA")[0] for detail in error.details] == [
        "case_00",
        "case_00_NCCT_Reg_Binary.npy",
        "case_03_seg_corrected_binary.npy",
        "case_05",
        "case_09",
    ]


def test_slices_larger_than_the_limit_are_refused_with_their_size(tmp_path):
    project = write_cohort(tmp_path, 2, shape=(32, 40, 3))
    assert len(checked_cases(project, largest_slice=40)) == 2
    assert len(checked_cases(project, largest_slice=None)) == 2
    error = refused(project, largest_slice=39)
    assert all("32×40 pixels, larger than 39" in detail for detail in error.details)
    assert len(error.details) == 6


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 127), st.sampled_from(list(b"'(){}[],:0129Lx\x00\xff #\n\\"))), min_size=1
    )
)
def test_a_garbled_header_is_refused_in_the_same_way_as_any_bad_volume(tmp_path, changes):
    project = write_cohort(tmp_path / "project", 1, shape=(4, 4, 2))
    path = path_of(project, "cta", "case_00")
    data = bytearray(path.read_bytes())
    for place, byte in changes:
        data[place] = byte
    path.write_bytes(data)
    with suppress(DataError):
        (checked,) = checked_cases(project)
        assert checked.shape == (4, 4, 2)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<i4", "<i8", "<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_hu_in_any_numeric_type_and_memory_order_are_the_same_slices(cohort, dtype, order):
    random = np.random.default_rng(5)
    for kind in ("cta", "ncct"):
        change(cohort, kind, lambda v: random.integers(0, 200, v.shape).astype(np.int16))
    (plain,) = [case for case in found_cases(cohort) if case.name == CASE]
    slices, masks = windowed_slices(plain, SliceConfig()), mask_slices(plain)
    for kind in ("cta", "ncct", "mask"):
        change(cohort, kind, lambda v: np.asarray(v.astype(dtype), order=order))
        stored = np.load(path_of(cohort, kind))
        assert stored.dtype == np.dtype(dtype)
        assert stored.flags.f_contiguous == (order == "F")
    checked = check_case(plain, largest_slice=256)
    assert checked.shape == SHAPE
    assert checked.clot_voxels == masks.sum() > 0
    np.testing.assert_array_equal(windowed_slices(plain, SliceConfig()), slices)
    np.testing.assert_array_equal(mask_slices(plain), masks)


def test_a_mask_of_bools_is_a_mask(cohort):
    before = checked_cases(cohort)
    for number in range(10):
        change(cohort, "mask", lambda v: v.astype(bool), f"case_{number:02d}")
    assert checked_cases(cohort) == before


def test_each_checked_case_is_reported_as_it_is_done(cohort, capsys):
    checked_cases(cohort)
    assert "event=check done=10/10 unit=cases" in capsys.readouterr().err


def test_cases_are_found_in_order_of_name_and_other_files_are_left_alone(cohort):
    (cohort.volumes / "notes.txt").write_text("not a case")
    np.save(cohort.volumes / "case_99_CTA.npy", np.zeros(SHAPE))
    cases = found_cases(cohort)
    assert [case.name for case in cases] == [f"case_{number:02d}" for number in range(10)]
    assert cases[1].files == tuple(path_of(cohort, kind) for kind in ("cta", "ncct", "mask"))
    assert (cases[1].patient, cases[1].site, cases[1].spacing_mm) == (CASE, "", None)


def test_a_folder_without_cases_is_told_where_they_are_looked_for(tmp_path):
    with pytest.raises(DataError, match="DL_vol_files"):
        survey_cases(Project(tmp_path))


def test_all_cases_that_lack_a_file_are_listed_at_once(cohort):
    path_of(cohort, "mask", "case_00").unlink()
    path_of(cohort, "cta", "case_04").unlink()
    path_of(cohort, "ncct", "case_04").unlink()
    with pytest.raises(DataError) as caught:
        checked_cases(cohort)
    assert caught.value.details == (
        "case_00: no mask volume; it would be case_00_seg_corrected_binary.npy",
        "case_04: no CTA volume; it would be case_04_CTA_Binary.npy",
        "case_04: no NCCT volume; it would be case_04_NCCT_Reg_Binary.npy",
    )


def test_missing_partners_table_faults_and_bad_voxels_come_in_one_error_and_nothing_is_written(cohort):
    path_of(cohort, "mask", "case_00").unlink()
    change(cohort, "cta", put(np.nan), "case_00", np.float32)
    change(cohort, "ncct", put(np.inf), "case_04", np.float32)
    write_cases_csv(cohort, [{"case": f"case_{number:02d}", "Patient": "p"} for number in range(9)])
    before = contents(cohort.root)
    done = run_clotseg("-C", cohort.root, "prep")
    assert done.returncode == 3
    assert "2 of 10 cases cannot be used; nothing was written" in done.stderr
    told = [line.removeprefix("  - ") for line in done.stderr.splitlines() if line.startswith("  - ")]
    assert [line.split(";")[0] for line in told] == [
        "cases.csv: unknown column `Patient`",
        "cases.csv: no line for case_09",
        "case_00: no mask volume",
        "case_00_CTA_Binary.npy: 1 voxels are NaN or infinite",
        "case_04_NCCT_Reg_Binary.npy: 1 voxels are NaN or infinite",
    ]
    assert contents(cohort.root) == before
    assert not cohort.processed.exists()


def test_a_link_out_of_the_project_is_refused_and_told_what_to_do(cohort):
    outside = cohort.root.parent / "elsewhere.npy"
    path_of(cohort, "cta").rename(outside)
    path_of(cohort, "cta").symlink_to(outside)
    (detail,) = refused(cohort).details
    assert detail.startswith(f"{CASE}_CTA_Binary.npy: links to {outside}")
    assert "copy the data in, or hard-link it" in detail
    path_of(cohort, "cta").unlink()
    path_of(cohort, "cta").hardlink_to(outside)
    assert len(found_cases(cohort)) == 10


def test_a_folder_that_is_a_link_out_of_the_project_is_told_once(cohort):
    outside = cohort.root.parent / "elsewhere"
    cohort.volumes.rename(outside)
    cohort.volumes.symlink_to(outside)
    (detail,) = refused(cohort).details
    assert detail.startswith(f"DL_vol_files/binary: {outside} is outside of the project")


def test_a_project_folder_that_is_itself_reached_by_a_link_is_no_link_out(cohort):
    (cohort.root.parent / "link").symlink_to(cohort.root)
    assert len(found_cases(Project(cohort.root.parent / "link"))) == 10


def test_cases_that_differ_by_letter_case_only_are_refused(cohort):
    write_case(cohort, "Case_01")
    (detail,) = refused(cohort).details
    assert "Case_01 and case_01 differ by letter case only" in detail


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
def test_a_file_that_may_not_be_read_is_refused_in_the_same_error_as_others(cohort):
    path_of(cohort, "cta").chmod(0)
    change(cohort, "mask", put(7), "case_05")
    # Without these capabilities a file's permissions hold for root too.
    no_override = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")
    unprivileged = no_override if os.geteuid() == 0 else ()
    done = subprocess.run(
        [*unprivileged, *clotseg_command("-C", cohort.root, "prep")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert f"{CASE}_CTA_Binary.npy: cannot be opened (Permission denied)" in done.stderr
    assert "case_05_seg_corrected_binary.npy: a mask holds 0 and 1" in done.stderr
    assert not cohort.processed.exists()


def test_an_empty_mask_is_accepted_and_told(cohort):
    checked = checked_cases(cohort)
    empty = [entry.case.name for entry in checked if EMPTY_MASK in entry.notices]
    assert empty == ["case_04", "case_09"]
    assert [entry.case.name for entry in checked if entry.clot_voxels == 0] == empty


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_a_mask_of_0_and_255_is_read_as_0_and_1_and_told_and_the_original_stays(cohort, dtype):
    plain = check_case(found_cases(cohort)[1], largest_slice=256)
    before = mask_slices(plain.case)
    change(cohort, "mask", lambda v: v * 255, dtype=dtype)
    stored = path_of(cohort, "mask").read_bytes()
    checked = check_case(plain.case, largest_slice=256)
    assert checked == plain
    assert checked.notices == (MASK_OF_255,)
    np.testing.assert_array_equal(mask_slices(checked.case), before)
    assert path_of(cohort, "mask").read_bytes() == stored


def test_a_notice_is_one_line_however_many_cases_it_is_about(tmp_path, capsys):
    project = Project(tmp_path)
    for number in range(12):
        write_case(project, f"case_{number:02d}", shape=(8, 8, 2), clot=False)
    checked = checked_cases(project)
    capsys.readouterr()
    tell_notices(checked, PlainProgress())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('event=notice what="the mask is empty" cases=12 names="case_00, case_01,')
    assert line.endswith('case_09 and 2 more"')


def test_a_check_holds_far_less_than_the_volume_in_memory(tmp_path):
    project = write_cohort(tmp_path, 1, shape=(256, 256, 160))
    for kind in ("cta", "ncct"):
        change(project, kind, lambda v: v.astype(np.float64), "case_00")
    (case,) = found_cases(project)
    tracemalloc.start()
    check_case(case, largest_slice=256)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path_of(project, "cta", "case_00").stat().st_size / 3


@pytest.mark.parametrize(
    "flags", [("--train-perc", 1.5), ("--val-perc", 0), ("--train-perc", 0.7, "--val-perc", 0.3)]
)
def test_shares_that_leave_no_cohort_are_a_usage_error(cohort, flags):
    done = run_clotseg("-C", cohort.root, "prep", *flags)
    assert done.returncode == 2
    assert "perc" in done.stderr
    assert not cohort.processed.exists()
