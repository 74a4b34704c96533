"""Which folders of volumes are cases, and which are refused: with every finding, at once."""

import pickle
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clotseg.config import SliceConfig
from clotseg.errors import DataError
from clotseg.prep.cases import check_cases, find_cases
from clotseg.prep.slices import mask_slices, windowed_slices
from clotseg.project import Project
from tests.conftest import contents, write_cases_csv, write_cohort

CASE = "case_01"
SHAPE = (32, 32, 6)
COLUMNS = "case,patient,site,spacing_row_mm,spacing_col_mm,spacing_slice_mm"


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
    "mask of 255": (lambda p: change(p, "mask", put(255)), "0 and 1 only; found 255 in 1 voxels"),
    "mask of 2": (lambda p: change(p, "mask", put(2)), "found 2 in 1 voxels"),
    "soft mask": (lambda p: change(p, "mask", put(0.5), dtype=np.float32), "found 0.5 in 1 voxels"),
    "NaN in mask": (lambda p: change(p, "mask", put(np.nan), dtype=np.float32), "found nan in 1 voxels"),
    "negative mask": (lambda p: change(p, "mask", put(-1), dtype=np.int8), "found -1 in 1 voxels"),
    "cut file": (lambda p: cut(p, "cta"), "not a readable .npy"),
    "empty file": (lambda p: path_of(p, "cta").write_bytes(b""), "not a readable .npy"),
    "folder": (lambda p: (path_of(p, "cta").unlink(), path_of(p, "cta").mkdir()), "not a readable .npy"),
    "objects": (object_array, "not a readable .npy"),
    "pickle": (
        lambda p: path_of(p, "cta").write_bytes(pickle.dumps(CreatesFile(p.root / "created"))),
        "not a readable .npy",
    ),
    "npz": (npz_archive, "not a readable .npy"),
}


def refused(project, largest_slice=256):
    """The error that these volumes raise."""
    cases = find_cases(project)
    with pytest.raises(DataError) as caught:
        check_cases(cases, largest_slice=largest_slice)
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
    assert len(check_cases(find_cases(project), largest_slice=40)) == 2
    assert len(check_cases(find_cases(project), largest_slice=None)) == 2
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
        (checked,) = check_cases(find_cases(project), largest_slice=256)
        assert checked.shape == (4, 4, 2)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<i4", "<i8", "<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_hu_in_any_numeric_type_and_memory_order_are_the_same_slices(cohort, dtype, order):
    random = np.random.default_rng(5)
    for kind in ("cta", "ncct"):
        change(cohort, kind, lambda v: random.integers(0, 200, v.shape).astype(np.int16))
    (plain,) = [case for case in find_cases(cohort) if case.name == CASE]
    slices, masks = windowed_slices(plain, SliceConfig()), mask_slices(plain)
    for kind in ("cta", "ncct", "mask"):
        change(cohort, kind, lambda v: np.asarray(v.astype(dtype), order=order))
        stored = np.load(path_of(cohort, kind))
        assert stored.dtype == np.dtype(dtype)
        assert stored.flags.f_contiguous == (order == "F")
    (checked,) = check_cases([plain], largest_slice=256)
    assert checked.shape == SHAPE
    assert checked.clot_voxels == masks.sum() > 0
    np.testing.assert_array_equal(windowed_slices(plain, SliceConfig()), slices)
    np.testing.assert_array_equal(mask_slices(plain), masks)


def test_a_mask_of_bools_is_a_mask(cohort):
    before = check_cases(find_cases(cohort), largest_slice=256)
    for number in range(10):
        change(cohort, "mask", lambda v: v.astype(bool), f"case_{number:02d}")
    assert check_cases(find_cases(cohort), largest_slice=256) == before


def test_each_checked_case_is_reported_as_it_is_done(cohort):
    done = []
    check_cases(find_cases(cohort), largest_slice=256, on_case=lambda: done.append(1))
    assert len(done) == 10


def test_cases_are_found_in_order_of_name_and_other_files_are_left_alone(cohort):
    (cohort.volumes / "notes.txt").write_text("not a case")
    np.save(cohort.volumes / "case_99_CTA.npy", np.zeros(SHAPE))
    cases = find_cases(cohort)
    assert [case.name for case in cases] == [f"case_{number:02d}" for number in range(10)]
    assert cases[1].files == tuple(path_of(cohort, kind) for kind in ("cta", "ncct", "mask"))
    assert (cases[1].patient, cases[1].site, cases[1].spacing_mm) == (CASE, "", None)


def test_a_folder_without_cases_is_told_where_they_are_looked_for(tmp_path):
    with pytest.raises(DataError, match="DL_vol_files"):
        find_cases(Project(tmp_path))


def test_all_cases_that_lack_a_file_are_listed_at_once(cohort):
    path_of(cohort, "mask", "case_00").unlink()
    path_of(cohort, "cta", "case_04").unlink()
    path_of(cohort, "ncct", "case_04").unlink()
    with pytest.raises(DataError) as caught:
        find_cases(cohort)
    assert caught.value.details == (
        "case_00: no mask volume",
        "case_04: no CTA volume",
        "case_04: no NCCT volume",
    )


def table(project, *, leave_out=(), **first_row):
    """Writes a `cases.csv` with a line a case; `first_row` overrides the line of case_00."""
    rows = [
        {
            "case": f"case_{number:02d}",
            "patient": f"p{number // 2}",
            "site": "north",
            "spacing_row_mm": 0.5,
            "spacing_col_mm": 0.4,
            "spacing_slice_mm": 0.6,
        }
        for number in range(10)
    ]
    rows[0].update(first_row)
    write_cases_csv(project, [row for row in rows if row["case"] not in leave_out])


def table_refused(project):
    """The error that this `cases.csv` raises."""
    with pytest.raises(DataError, match=r"cases\.csv") as caught:
        find_cases(project)
    return caught.value


def test_the_table_gives_patient_site_and_spacing(cohort):
    table(cohort)
    case = find_cases(cohort)[1]
    assert (case.patient, case.site, case.spacing_mm) == ("p0", "north", (0.5, 0.4, 0.6))


def test_a_case_without_patient_is_its_own_and_without_spacing_has_none(cohort):
    table(cohort, patient="", spacing_row_mm="", spacing_col_mm="", spacing_slice_mm="")
    case = find_cases(cohort)[0]
    assert (case.patient, case.spacing_mm) == ("case_00", None)


def test_stray_spaces_do_not_make_two_patients_of_one(cohort):
    lines = [f"case_{number:02d}, p{number // 2}{' ' * (number % 2)}, north " for number in range(10)]
    cohort.cases_csv.write_text("\n".join(["case, patient, site", *lines]) + "\n")
    cases = find_cases(cohort)
    assert [case.patient for case in cases] == [f"p{number // 2}" for number in range(10)]
    assert {case.site for case in cases} == {"north"}


def test_a_table_saved_by_a_spreadsheet_with_a_byte_order_mark_is_read(cohort):
    table(cohort)
    cohort.cases_csv.write_bytes(b"\xef\xbb\xbf" + cohort.cases_csv.read_bytes())
    assert find_cases(cohort)[1].patient == "p0"


def test_lines_for_cases_that_are_not_here_are_no_harm(cohort):
    table(cohort)
    with cohort.cases_csv.open("a") as stream:
        stream.write("case_77,p9,north,1,1,1\n")
    assert len(find_cases(cohort)) == 10


@pytest.mark.parametrize("text", [b"", b"name,patient\ncase_00,p0\n", b"case;patient\ncase_00;p0\n"])
def test_a_table_without_a_case_column_is_told_its_columns(cohort, text):
    cohort.cases_csv.write_bytes(text)
    assert COLUMNS in str(table_refused(cohort))


def test_a_table_that_is_not_text_is_refused(cohort):
    cohort.cases_csv.write_bytes(b"case\n\xff\xfe\n")
    assert "CSV" in str(table_refused(cohort))


@pytest.mark.parametrize(
    ("spacing", "finding"),
    [
        ("half", "not three numbers"),
        ("", "not three numbers"),
        ("0", "above 0 mm"),
        ("-0.5", "above 0 mm"),
        ("nan", "above 0 mm"),
        ("inf", "above 0 mm"),
    ],
)
def test_a_spacing_that_is_none_is_refused_with_its_line(cohort, spacing, finding):
    table(cohort, spacing_col_mm=spacing)
    (detail,) = table_refused(cohort).details
    assert detail.startswith("line 2:")
    assert finding in detail


def test_all_findings_in_the_table_are_listed_at_once(cohort):
    table(cohort, leave_out=("case_05", "case_08"), spacing_row_mm="?")
    with cohort.cases_csv.open("a") as stream:
        stream.write("case_03,p1,north,1,1,1\n")
    assert table_refused(cohort).details == (
        "line 2: spacing ['?', '0.4', '0.6'] is not three numbers",
        "line 10: case case_03 is listed twice",
        "no line for case_05, case_08",
    )
