"""Scans in, cases out: what is written, what is left out, what is done again, and what a kill leaves."""

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from clotseg.config import RuntimeConfig
from clotseg.console import PlainProgress
from clotseg.errors import ConfigError, DataError
from clotseg.importer.importing import plan_import, require_all, run_import
from clotseg.importer.published import withdraw
from clotseg.importer.settings import ImportSettings
from clotseg.phantom.case import PhantomCase
from clotseg.prep.cases import check_case, survey_cases
from clotseg.prep.verify import verify_project
from clotseg.project import Project
from clotseg.scans.resample import Grid, corners_mm
from tests.conftest import contents, run_clotseg, start_python, write_case
from tests.importer.conftest import GRID, MIDDLE_MM, affine_of, write_scan
from tests.importer.head_scans import head_pair, scanned, turned
from tests.scans.dicom_writing import write_dicom_series

SPACING_MM = 1.5
SETTINGS = ImportSettings(spacing_mm=SPACING_MM)


def imported(
    root: Path, source: Path, settings: ImportSettings = SETTINGS, workers: int = 1
) -> dict[str, Any]:
    runtime = RuntimeConfig(workers=workers)
    return run_import(Project(root), source, settings, runtime, PlainProgress())


def states(result: dict[str, Any]) -> dict[str, str]:
    return {case["case"]: case["state"] for case in result["cases"]}


def sidecar(root: Path, name: str) -> Any:
    return json.loads((Project(root).imported / name / "manifest.json").read_text())


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    """A project that both cases were imported into. Copy it to change it."""
    root = tmp_path_factory.mktemp("imported") / "project"
    result = imported(root, scans / "scans.csv")
    require_all(result)
    assert states(result) == {"c1": "done", "c2": "done"}
    return root


@pytest.fixture
def copied(tmp_path: Path, scans: Path) -> Path:
    return shutil.copytree(scans, tmp_path / "scans") / "scans.csv"


@pytest.fixture
def one(scans: Path) -> Path:
    return scans / "one.csv"


def test_what_is_written_is_what_prep_takes(made: Path) -> None:
    cases, findings = survey_cases(Project(made))
    assert not findings
    assert [(case.name, case.patient, case.site) for case in cases] == [
        (f"c{number}", f"p{number}", "north") for number in (1, 2)
    ]
    for case in cases:
        assert case.spacing_mm == (SPACING_MM,) * 3
        assert check_case(case, largest_slice=256).clot_voxels > 0


def test_a_scan_along_the_patients_axes_is_only_interpolated_within_its_slices(
    made: Path, phantoms: list[PhantomCase]
) -> None:
    volume = np.load(Project(made).volumes / "c1_CTA_Binary.npy")
    # The same by SciPy: the first new voxel lies on the first old one, along each axis.
    step = np.array([SPACING_MM] * 3) / GRID.spacing_mm
    expected = ndimage.affine_transform(
        phantoms[0].cta.astype(float), step, output_shape=volume.shape, order=1
    )
    assert volume.shape == (74, 74, 24)
    np.testing.assert_allclose(volume[:-1, :-1], expected[:-1, :-1], atol=0.51)


def test_a_clot_keeps_its_volume_and_its_place(made: Path, phantoms: list[PhantomCase]) -> None:
    for number, case in enumerate(phantoms, 1):
        mask = np.load(Project(made).masks / f"c{number}_seg_corrected_binary.npy")
        before = case.mask.sum() * np.prod(GRID.spacing_mm)
        assert mask.sum() * SPACING_MM**3 == pytest.approx(before, rel=0.05)
        grid = np.array(sidecar(made, f"c{number}")["grids"]["case"]["affine_ras_mm"])
        place = grid[:3, :3] @ ndimage.center_of_mass(mask) + grid[:3, 3]
        old = affine_of(GRID)
        expected = old[:3, :3] @ ndimage.center_of_mass(case.mask) + old[:3, 3]
        np.testing.assert_allclose(place, expected, atol=SPACING_MM / 2)


def test_the_sidecar_tells_grids_transforms_checks_and_digests(made: Path, scans: Path) -> None:
    told = sidecar(made, "c1")
    stored = nibabel.load(scans / "c1" / "cta.nii.gz")
    assert told["grids"]["cta"]["shape"] == list(stored.shape)
    np.testing.assert_array_equal(told["grids"]["cta"]["affine_ras_mm"], stored.affine)
    corners = np.c_[corners_mm(Grid(shape=GRID.shape, affine=affine_of(GRID))), np.ones(8)]
    moved = corners @ np.array(told["transforms"]["cta_to_ncct_ras_mm"]).T - corners
    assert (
        np.linalg.norm(moved, axis=1).mean() < 1.2
    )  # what phantoms are misregistered by, and a part of a voxel
    assert "registration gain" in {check["name"] for check in told["checks"]}
    assert set(told["outputs"]) == {
        "DL_vol_files/binary/c1_CTA_Binary.npy",
        "DL_vol_files/binary/c1_NCCT_Reg_Binary.npy",
        "DL_seg_files/binary/c1_seg_corrected_binary.npy",
        "DL_vol_files/import/c1/picture.png",
    }


def test_the_page_shows_every_case(made: Path) -> None:
    page = Project(made).import_page.read_text()
    assert page.count("<section") == page.count("data:image/png;base64,") == 2
    assert "not a medical device" in page


def test_verify_finds_a_changed_volume(made: Path, tmp_path: Path) -> None:
    project = Project(shutil.copytree(made, tmp_path / "project"))
    assert verify_project(project, PlainProgress())["whole"]
    volume = np.load(project.volumes / "c1_CTA_Binary.npy")
    volume[0, 0, 0] += 1
    np.save(project.volumes / "c1_CTA_Binary.npy", volume)
    faults = verify_project(project, PlainProgress())["faults"]
    assert [fault["file"] for fault in faults] == ["DL_vol_files/binary/c1_CTA_Binary.npy"]


def test_a_second_run_does_nothing(made: Path, scans: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "project")
    before = contents(root)
    assert set(states(imported(root, scans / "scans.csv")).values()) == {"reused"}
    assert contents(root) == before


@pytest.mark.slow
def test_another_folder_and_another_number_of_workers_give_the_same_bytes(
    made: Path, scans: Path, tmp_path: Path
) -> None:
    imported(tmp_path / "other", scans / "scans.csv", workers=2)
    assert contents(tmp_path / "other") == contents(made)


def test_only_what_changed_is_done_again(made: Path, copied: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "project")
    copied.write_text(copied.read_text().replace("c2,p2,north", "c2,p2,south"))
    assert states(imported(root, copied)) == {"c1": "reused", "c2": "done"}
    with Project(root).cases_csv.open() as stream:
        assert [row["site"] for row in csv.DictReader(stream)] == ["north", "south"]


@pytest.mark.slow
def test_a_case_that_cannot_be_read_is_left_out_and_the_others_are_written(
    copied: Path, tmp_path: Path
) -> None:
    (copied.parent / "c1" / "ncct.nii.gz").write_bytes(b"no scan")
    result = imported(tmp_path / "project", copied)
    assert states(result) == {"c1": "failed", "c2": "done"}
    with pytest.raises(DataError, match=r"1 of 2 cases were left out\n  - c1: NCCT: cannot be read"):
        require_all(result)
    assert [case.name for case in survey_cases(Project(tmp_path / "project"))[0]] == ["c2"]


@pytest.mark.slow
def test_a_case_that_fails_with_other_settings_does_not_stay_on_its_former_grid(
    made: Path, copied: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(made, tmp_path / "project")
    (copied.parent / "c1" / "ncct.nii.gz").write_bytes(b"no scan")
    before = contents(Project(root).imported / "c1")
    assert states(imported(root, copied)) == {"c1": "failed", "c2": "reused"}
    assert contents(Project(root).imported / "c1") == before, "made with these settings, it stays"
    table = copied.read_text()
    copied.write_text(table.replace("c1,p1,north", "c1,p1,south"))
    assert states(imported(root, copied)) == {"c1": "failed", "c2": "reused"}
    assert contents(Project(root).imported / "c1") == before, "whose it is says nothing of its grid"
    copied.write_text(table)
    result = imported(root, copied, ImportSettings(spacing_mm=2.0))
    assert states(result) == {"c1": "failed", "c2": "done"}
    assert "was taken away" in result["cases"][0]["problem"]
    assert [case.name for case in survey_cases(Project(root))[0]] == ["c2"]
    assert "c1" not in Project(root).cases_csv.read_text()
    same = {"config": sidecar(root, "c2")["config"], "atlas": None, "atlas_roi": None}
    assert not withdraw(Project(root), "c2", unless=same)
    assert verify_project(Project(root), PlainProgress())["whole"]
    assert withdraw(Project(root), "c2", unless={**same, "atlas_roi": "0" * 64}), (
        "another region, another grid"
    )
    assert verify_project(Project(root), PlainProgress())["whole"]


@pytest.mark.slow
def test_swapped_scans_are_found_and_the_page_shows_them(
    copied: Path, phantoms: list[PhantomCase], tmp_path: Path
) -> None:
    write_scan(copied.parent / "c1" / "cta.nii.gz", phantoms[0].ncct)
    write_scan(copied.parent / "c1" / "ncct.nii.gz", phantoms[0].cta)
    result = imported(tmp_path / "project", copied.with_name("one.csv"))
    assert states(result) == {"c1": "failed"}
    assert "swapped" in result["cases"][0]["problem"]
    assert not any(Project(tmp_path / "project").volumes.iterdir())
    assert 'class="fail"' in Project(tmp_path / "project").import_page.read_text()


@pytest.mark.slow
def test_a_case_without_a_mask_has_volumes_alone(copied: Path, tmp_path: Path) -> None:
    copied.write_text("case,patient,site,cta,ncct,mask\nc1,,,c1/cta.nii.gz,c1/ncct.nii.gz,\n")
    require_all(imported(tmp_path / "project", copied))
    project = Project(tmp_path / "project")
    assert sorted(path.name for path in project.volumes.iterdir()) == [
        "c1_CTA_Binary.npy",
        "c1_NCCT_Reg_Binary.npy",
    ]
    assert not any(project.masks.iterdir())


@pytest.mark.slow
def test_a_box_is_cut_out(one: Path, tmp_path: Path) -> None:
    x, y, z = MIDDLE_MM
    box = (x - 50, x + 50, y - 44, y + 52, z - 16, z + 16)
    require_all(imported(tmp_path / "project", one, ImportSettings(spacing_mm=2.0, box_mm=box)))
    told = sidecar(tmp_path / "project", "c1")["grids"]["case"]
    assert told["shape"] == [49, 51, 17]
    np.testing.assert_allclose(np.array(told["affine_ras_mm"])[:3, 3], [x + 50, y + 52, z - 16])


@pytest.mark.slow
def test_a_box_beside_the_head_is_refused(one: Path, tmp_path: Path) -> None:
    result = imported(
        tmp_path / "project", one, ImportSettings(spacing_mm=2.0, box_mm=(500, 560, 0, 60, 0, 60))
    )
    assert "beyond the CTA" in result["cases"][0]["problem"]


@pytest.mark.slow
def test_slices_are_cut_to_the_largest_size(one: Path, tmp_path: Path) -> None:
    result = imported(tmp_path / "project", one, ImportSettings(spacing_mm=1.5, largest_slice=64))
    assert sidecar(tmp_path / "project", "c1")["grids"]["case"]["shape"] == [64, 64, 24]
    assert "cut to" in result["cases"][0]["notices"][-1]


def test_other_cases_in_the_folder_are_refused_and_left_as_they_are(one: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    write_case(project, "mine")
    before = contents(project.root)
    with pytest.raises(DataError, match="holds 1 cases that were not imported: mine"):
        imported(project.root, one)
    assert contents(project.root) == before


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (ImportSettings(spacing_mm=0), "--spacing-mm 0"),
        (ImportSettings(atlas=Path("a.nii")), "go together"),
        (ImportSettings(atlas=Path("a.nii"), atlas_roi=Path("r.nii")), "--atlas a.nii: is no file"),
        (ImportSettings(box_mm=(1, 0, 0, 1, 0, 1)), "from a lower to a higher"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    one: Path, tmp_path: Path, settings: ImportSettings, fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        imported(tmp_path / "project", one, settings)


def test_a_dry_run_says_what_was_understood(scans: Path) -> None:
    plan = plan_import(scans / "scans.csv", SETTINGS)
    assert [case["case"] for case in plan["cases"]] == ["c1", "c2"]
    assert plan["cases"][0]["cta"].endswith("c1/cta.nii.gz")


@pytest.fixture(scope="module")
def made_one(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> Path:
    root = tmp_path_factory.mktemp("one") / "project"
    require_all(imported(root, scans / "one.csv"))
    return root


STRUCK = """
import os, signal, sys
from pathlib import Path
from clotseg.config import RuntimeConfig
from clotseg.console import PlainProgress
from clotseg.importer.importing import run_import
from clotseg.importer.settings import ImportSettings
from clotseg.project import Project
left = int(sys.argv[3])
def strike(event, _):
    global left
    if event == "os.rename":
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(strike)
run_import(Project(Path(sys.argv[1])), Path(sys.argv[2]), ImportSettings(spacing_mm=1.5),
           RuntimeConfig(workers=1), PlainProgress())
"""


@pytest.mark.slow
@pytest.mark.parametrize("rename", range(1, 8))
def test_killed_at_any_file_it_goes_on_to_the_same_bytes(
    made_one: Path, one: Path, tmp_path: Path, rename: int
) -> None:
    root = tmp_path / "project"
    with start_python(STRUCK, root, one, rename) as writer:
        assert writer.wait(120) == -signal.SIGKILL
    imported(root, one)
    assert contents(root) == contents(made_one)


CANARY = ("CANARY^NAME", "CANARY-ID", "19010203")


@pytest.mark.slow
def test_nothing_of_the_patient_gets_out(
    phantoms: list[PhantomCase], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    raw, root = tmp_path / "raw", tmp_path / "project"
    affine = affine_of(GRID)[:, [1, 0, 2, 3]]
    for kind, values in (("cta", phantoms[0].cta), ("ncct", phantoms[0].ncct)):
        write_dicom_series(
            raw / f"CANARY_{kind}",
            values.transpose(1, 0, 2),
            affine,
            patient_name=CANARY[0],
            patient_id=CANARY[1],
            name="CANARY",
        )
    (raw / "CANARY_broken").mkdir()
    lines = ["case,patient,site,cta,ncct,mask", "good,p1,s,CANARY_cta,CANARY_ncct,"]
    lines += ["bad,p2,s,CANARY_cta,CANARY_broken,"]
    (raw / "scans.csv").write_text("\n".join(lines))
    result = imported(root, raw / "scans.csv")
    assert states(result) == {"good": "done", "bad": "failed"}
    with pytest.raises(DataError) as caught:
        require_all(result)
    said = capfd.readouterr()
    texts = [str(caught.value), said.out, said.err, json.dumps(result)]
    written = b"\0".join(contents(root).values())
    for mark in ("CANARY", *CANARY):
        assert mark.encode() not in written
        assert not any(mark in text for text in texts)


@pytest.mark.slow
def test_the_region_of_an_atlas_is_found_in_the_head(atlas: Path, tmp_path: Path) -> None:
    pair = head_pair(atlas, 3, skull=True)
    stored = nibabel.load(atlas)
    roi = np.zeros(stored.shape, np.uint8)
    roi[50:161, 50:161, 45:101] = 1
    nibabel.Nifti1Image(roi, stored.affine).to_filename(tmp_path / "circle.nii.gz")
    for kind, scan in (("cta", pair.cta), ("ncct", pair.ncct)):
        nibabel.Nifti1Image(scan.values, scan.affine).to_filename(tmp_path / f"{kind}.nii.gz")
    (tmp_path / "scans.csv").write_text("case,patient,site,cta,ncct,mask\na,,,cta.nii.gz,ncct.nii.gz,\n")
    settings = ImportSettings(spacing_mm=1.0, atlas=atlas, atlas_roi=tmp_path / "circle.nii.gz")
    require_all(imported(tmp_path / "project", tmp_path / "scans.csv", settings))
    told = sidecar(tmp_path / "project", "a")
    # The CTA is the atlas with skull and arteries, scanned where it lies: so does the region.
    grid = told["grids"]["case"]
    corners = corners_mm(Grid(shape=tuple(grid["shape"]), affine=np.array(grid["affine_ras_mm"])))
    marked = stored.affine @ np.array([[50, 50, 45, 1], [160, 160, 100, 1]]).T
    np.testing.assert_allclose(corners.min(axis=0), marked[:3, 0], atol=4)
    np.testing.assert_allclose(corners.max(axis=0), marked[:3, 1], atol=4)


def test_the_command_says_what_it_understood_and_what_it_left_out(copied: Path, tmp_path: Path) -> None:
    (copied.parent / "c1" / "cta.nii.gz").write_bytes(b"no scan")
    project = tmp_path / "not" / "there"
    planned = run_clotseg("-C", project, "import", copied, "--dry-run", "--json")
    assert planned.returncode == 0
    assert [case["case"] for case in json.loads(planned.stdout)["cases"]] == ["c1", "c2"]
    assert not project.exists()
    ended = run_clotseg("-C", project, "import", copied.with_name("one.csv"), "--json")
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["cases"][0]["state"] == "failed"
    assert "1 of 1 cases were left out\n  - c1: CTA: cannot be read" in ended.stderr


@pytest.mark.slow
def test_scans_on_grids_of_their_own_are_brought_together_and_not_left_out(
    phantoms: list[PhantomCase], tmp_path: Path
) -> None:
    random, to_voxels = np.random.default_rng(4), np.linalg.inv(affine_of(GRID))
    lines = ["case,patient,site,cta,ncct,mask"]
    for number, case in enumerate(phantoms):
        for kind, volume, angle_deg in (("cta", case.cta, 4.0), ("ncct", case.ncct, -5.0)):
            shape, turn = (120, 125, 42), turned(random.normal(size=3), angle_deg)
            grid = np.eye(4)
            grid[:3, :3] = turn * np.array([-1.0, 0.95, 1.1])
            grid[:3, 3] = MIDDLE_MM - grid[:3, :3] @ ((np.array(shape) - 1) / 2)
            scan = scanned(random, volume.astype(np.float32), to_voxels, shape, grid, noise_hu=8.0)
            nibabel.Nifti1Image(scan.values, grid).to_filename(tmp_path / f"{number}{kind}.nii.gz")
        lines.append(f"{number},,,{number}cta.nii.gz,{number}ncct.nii.gz,")
    (tmp_path / "scans.csv").write_text("\n".join(lines))
    result = imported(tmp_path / "project", tmp_path / "scans.csv", ImportSettings(spacing_mm=7 / 6))
    assert states(result) == {"0": "done", "1": "done"}
