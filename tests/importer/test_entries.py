"""What a CSV or a folder of exports is understood to hold, and what is refused about it, all at once."""

from pathlib import Path

import pytest

from clotseg.errors import DataError
from clotseg.importer.entries import Entry, find_entries


def touch(root: Path, *names: str) -> Path:
    """Files at these paths, with nothing in them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def entry(root: Path, case: str, cta: str, ncct: str, mask: str | None = None, patient: str = "") -> Entry:
    return Entry(
        case=case,
        patient=patient,
        site="",
        cta=str(root / cta),
        ncct=str(root / ncct),
        mask=None if mask is None else str(root / mask),
    )


def table(root: Path, *lines: str, columns: str = "case,patient,site,cta,ncct,mask") -> Path:
    path = root / "table.csv"
    path.write_text("\n".join((columns, *lines)) + "\n")
    return path


def faults(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as told:
        find_entries(path)
    return told.value.details


def test_a_table_gives_files_series_and_cases_without_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "scans/a.nii.gz", "scans/b.nii", "dicom/1.dcm", "seg.dcm")
    csv = table(
        tmp_path,
        "two,P1,Bern,dicom#1.2.3,scans/b.nii,",
        f"one,P1,,scans/a.nii.gz,{tmp_path / 'dicom'},seg.dcm",
    )
    entries, notices = find_entries(csv)
    assert entries == [
        entry(tmp_path, "one", "scans/a.nii.gz", "dicom", "seg.dcm", patient="P1"),
        Entry(
            case="two",
            patient="P1",
            site="Bern",
            cta=str(tmp_path / "dicom#1.2.3"),
            ncct=str(tmp_path / "scans/b.nii"),
            mask=None,
        ),
    ]
    assert notices == []


def test_patient_site_and_mask_may_be_left_out_of_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    entries, _ = find_entries(table(tmp_path, "one,a.nii.gz,a.nii.gz", columns="case,cta,ncct"))
    assert entries == [entry(tmp_path, "one", "a.nii.gz", "a.nii.gz")]


def test_everything_wrong_with_a_table_is_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    csv = table(
        tmp_path,
        "one,,,a.nii.gz,absent.nii.gz,,x",
        "one,,,a.nii.gz,a.nii.gz,absent.nii.gz,x",
        "../up,,,a.nii.gz,a.nii.gz,,x",
        ".hidden,,,a.nii.gz,a.nii.gz,,x",
        ",,,a.nii.gz,,,x",
        "ONE,,,absent#1.2,a.nii.gz,,x,more",
        columns="case,patient,site,cta,ncct,mask,Sex",
    )
    assert faults(csv) == (
        "unknown column `Sex`; leave it out. Columns, with commas between: case,patient,site,cta,ncct,mask",
        "line 2: case one: what `ncct` names is not there",
        "line 3: case one: what `mask` names is not there",
        "line 3: case one is listed twice",
        "line 4: '../up' cannot be the name of a case and of its files",
        "line 5: '.hidden' cannot be the name of a case and of its files",
        "line 6: '' cannot be the name of a case and of its files",
        "line 6: case  has no `ncct`",
        "line 7: more cells than columns",
        "line 7: case ONE: what `cta` names is not there",
        "cases ONE and one differ by letter case only",
    )


def test_a_table_without_its_columns_is_told_which(tmp_path: Path) -> None:
    assert faults(table(tmp_path, "one,a", columns="case,CTA")) == (
        "unknown column `CTA`; did you mean `cta`? Columns, with commas between: "
        "case,patient,site,cta,ncct,mask",
        "no column `cta`",
        "no column `ncct`",
    )


@pytest.mark.parametrize(
    ("cta", "ncct", "mask"),
    [
        ("CTA.nii.gz", "NCCT.nii.gz", "mask.nii.gz"),
        ("cta.nii", "ct.nii", "Thrombus.nii"),
        ("seg-3_CTA.nii.gz", "seg-3_non-contrast.nii.gz", "seg-3_CTA_clot.nii.gz"),
        ("CTA_HEAD", "NECT", "label.nii.gz"),
        ("CT_angio", "CT", "SEG"),
        ("CTA", "noncontrast CT", "seg.dcm"),
    ],
)
def test_a_folder_for_each_case_holds_volumes_by_their_names(
    tmp_path: Path, cta: str, ncct: str, mask: str
) -> None:
    """The folder's own name, here one that sounds like a mask, says nothing about what is in it."""
    for name in (cta, ncct, mask):
        is_folder = "." not in name
        touch(tmp_path, f"seg-3/{name}/I10" if is_folder else f"seg-3/{name}")
    entries, notices = find_entries(tmp_path)
    assert entries == [entry(tmp_path, "seg-3", f"seg-3/{cta}", f"seg-3/{ncct}", f"seg-3/{mask}")]
    assert notices == []


def test_a_nifti_within_a_volumes_folder_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "a/CTA/series7.nii.gz", "a/CTA/series7.json", "a/NCCT/1.dcm")
    entries, _ = find_entries(tmp_path)
    assert entries == [entry(tmp_path, "a", "a/CTA/series7.nii.gz", "a/NCCT")]


def test_flat_files_are_put_together_by_what_their_names_begin_with(tmp_path: Path) -> None:
    touch(tmp_path, "a_1_CTA.nii.gz", "a_1_NCCT.nii.gz", "a_1_seg.nii.gz", "b_cta.nii", "b_ncct.nii")
    touch(tmp_path, "c_CTA.nii", "c_NCCT.nii", "c_CTA_mask.nii")
    entries, notices = find_entries(tmp_path)
    assert entries == [
        entry(tmp_path, "a_1", "a_1_CTA.nii.gz", "a_1_NCCT.nii.gz", "a_1_seg.nii.gz"),
        entry(tmp_path, "b", "b_cta.nii", "b_ncct.nii"),
        entry(tmp_path, "c", "c_CTA.nii", "c_NCCT.nii", "c_CTA_mask.nii"),
    ]
    assert notices == []


def test_bids_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01/ses-01/ct/sub-01_ses-01_acq-cta_ct.nii.gz",
        "sub-01/ses-01/ct/sub-01_ses-01_acq-cta_ct.json",
        "sub-01/ses-01/ct/sub-01_ses-01_ct.nii.gz",
        "sub-01/ses-02/ct/sub-01_ses-02_cta.nii.gz",
        "sub-01/ses-02/ct/sub-01_ses-02_ncct.nii.gz",
        "derivatives/clots/sub-01/ses-02/ct/sub-01_ses-02_space-cta_desc-clot_msk.nii.gz",
        "derivatives/clots/sub-01/ses-02/ct/sub-01_ses-02_desc-brain_mask.nii.gz",
        "derivatives/clots/sub-01/ses-02/ct/sub-01_ses-02_space-ncct_cta.nii.gz",
        "sub-02/sub-02_cta.nii.gz",
        "sub-02/sub-02_ncct.nii.gz",
        "sub-02/sub-02_acq-ctp_ct.nii.gz",
        "sub-02/sub-02_lesion.nii.gz",
        "participants.tsv",
        "dataset_description.json",
    )
    ct = "sub-01/ses-0{0}/ct/sub-01_ses-0{0}_"
    mask = "derivatives/clots/sub-01/ses-02/ct/sub-01_ses-02_space-cta_desc-clot_msk.nii.gz"
    entries, notices = find_entries(tmp_path)
    one, two = ct.format(1), ct.format(2)
    assert entries == [
        entry(tmp_path, "sub-01_ses-01", f"{one}acq-cta_ct.nii.gz", f"{one}ct.nii.gz", patient="01"),
        entry(tmp_path, "sub-01_ses-02", f"{two}cta.nii.gz", f"{two}ncct.nii.gz", mask, patient="01"),
        entry(
            tmp_path,
            "sub-02",
            "sub-02/sub-02_cta.nii.gz",
            "sub-02/sub-02_ncct.nii.gz",
            "sub-02/sub-02_lesion.nii.gz",
            patient="02",
        ),
    ]
    assert notices == ["passed over: 5 × file or folder that no name tells to be a volume"]


def test_a_mask_of_a_subject_belongs_to_its_only_session(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/ses-a/sub-1_ses-a_cta.nii.gz", "sub-1/ses-a/sub-1_ses-a_ncct.nii.gz")
    touch(tmp_path, "derivatives/sub-1_mask.nii.gz")
    entries, _ = find_entries(tmp_path)
    assert [found.mask for found in entries] == [str(tmp_path / "derivatives/sub-1_mask.nii.gz")]


def test_a_folder_named_as_a_subject_may_hold_exports_all_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/CTA/1.dcm", "sub-1/NCCT/1.dcm")
    assert find_entries(tmp_path)[0] == [entry(tmp_path, "sub-1", "sub-1/CTA", "sub-1/NCCT")]


def test_two_candidates_are_a_fault_that_names_both(tmp_path: Path) -> None:
    touch(tmp_path, "a/CTA.nii.gz", "a/CTA_thin.nii.gz", "a/NCCT.nii.gz")
    touch(tmp_path, "b_CTA.nii.gz", "b_NCCT.nii.gz", "b_NCCT.nii")
    touch(tmp_path, "sub-1/sub-1_cta.nii.gz", "sub-1/sub-1_ncct.nii.gz", "sub-1/sub-1_run-2_ncct.nii.gz")
    touch(tmp_path, "c_CTA.nii.gz", "c_NCCT.nii.gz", "c/CTA/1", "c/NCCT/1")
    assert faults(tmp_path) == (
        "case c is there in two ways",
        "case a has 2 candidates for the cta: a/CTA.nii.gz and a/CTA_thin.nii.gz",
        "case b has 2 candidates for the ncct: b_NCCT.nii and b_NCCT.nii.gz",
        "case sub-1 has 2 candidates for the ncct: sub-1/sub-1_ncct.nii.gz and sub-1/sub-1_run-2_ncct.nii.gz",
    )


def test_cases_without_a_volume_are_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/CTA.nii.gz", "b_mask.nii.gz", "c_CTA.nii.gz", "c_NCCT.nii.gz", "c/readme.txt", "x.pdf")
    entries, notices = find_entries(tmp_path)
    assert [found.case for found in entries] == ["c"]
    assert notices == [
        "case a left out: it has no NCCT",
        "case b left out: it has no CTA and no NCCT",
        "passed over: 2 × file or folder that no name tells to be a volume",
    ]


def test_where_no_case_is_the_naming_is_explained(tmp_path: Path) -> None:
    touch(tmp_path, "volume.nii.gz")
    with pytest.raises(DataError, match=r"no case found(.|\n)*\{case\}_CTA\.nii\.gz"):
        find_entries(tmp_path)
    with pytest.raises(DataError, match="is no folder and no CSV"):
        find_entries(tmp_path / "volume.nii.gz")
