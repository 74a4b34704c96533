"""Predicting new patients: what goes in, what comes out, and what is left alone."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import expit, logit

from clotseg.config import AugmentConfig, Config, to_toml
from clotseg.console import PlainProgress
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.infer import Volumes, load_predictor
from clotseg.evaluate.operating_point import write_points
from clotseg.evaluate.predict import predict, require_all
from clotseg.prep.cases import open_volume
from clotseg.project import Project, Run
from clotseg.train.checkpoint import read_description
from tests.conftest import contents, modified_times, write_case, write_cases_csv
from tests.evaluate.conftest import nifti_pair, settings
from tests.evaluate.test_operating_point import point_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning:keras"
)

THRESHOLD = 0.02
"""Of networks that were never taught; about what they say of a clot."""
SPACING = (0.5, 0.4, 2.0)


@pytest.fixture(scope="module")
def first(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, three patients without masks, and what was predicted of them."""
    folder = tmp_path_factory.mktemp("first")
    checkpoint = Path(shutil.copytree(run.folder, folder / "run")) / "Best_Model"
    weights = read_description(checkpoint).sha256
    point = replace(point_of(weights, threshold=THRESHOLD), smallest_component=5)
    write_points(checkpoint, weights, [point])
    project = Project(folder / "made")
    for number, shape in enumerate(((32, 32, 6), (27, 30, 5), (31, 24, 7))):
        write_case(project, f"patient_{number}", shape=shape, seed=7)
    shutil.move(project.volumes, folder / "patients")
    result = predicted(checkpoint, folder / "patients", folder / "predicted")
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def world(first: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(first, tmp_path / "world"))


@pytest.fixture
def checkpoint(world: Path) -> Path:
    """The folder of weights for which a threshold was chosen."""
    return world / "run" / "Best_Model"


@pytest.fixture
def patients(world: Path) -> Path:
    """A folder of three patients without masks."""
    return world / "patients"


@pytest.fixture
def done(world: Path) -> Path:
    """A folder with the predictions of these patients."""
    return world / "predicted"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with nothing in it yet."""
    return tmp_path / "out"


def predicted(checkpoint: Path, inputs: Path | list[Path], out: Path, **named: Any) -> dict[str, Any]:
    paths = [inputs] if isinstance(inputs, Path) else inputs
    config = named.pop("config", settings())
    return predict(config, PlainProgress(), checkpoints=[checkpoint], inputs=paths, out=out, **named)


def states(result: dict[str, Any]) -> dict[str, str]:
    return {case["case"]: case["state"] for case in result["cases"]}


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_patient_gets_a_mask_a_probability_and_measurements(
    world: Path, patients: Path, done: Path
) -> None:
    result = json.loads((world / "result.json").read_text())
    assert states(result) == {f"patient_{number}": "done" for number in range(3)}
    for case in result["cases"]:
        folder, name = done / case["case"], case["case"]
        mask = np.load(folder / f"{name}_pred.npy")
        probability = np.load(folder / f"{name}_prob.npy")
        assert mask.shape == probability.shape == np.load(patients / f"{name}_CTA_Binary.npy").shape
        assert (mask.dtype, probability.dtype) == (np.uint8, np.float16)
        lines = [row for row in rows_of(done) if row["case"] == name]
        assert {int(row["clots"]) for row in lines} == {case["clots"]}
        assert sum(int(row["volume_voxels"] or 0) for row in lines) == mask.sum()
        assert all(row["volume_mm3"] == "" for row in lines), "no spacing was given"
    assert any(case["clots"] for case in result["cases"])


def test_the_mask_is_cut_at_the_operating_point_kept_with_the_weights(
    world: Path, checkpoint: Path, patients: Path, done: Path
) -> None:
    result = json.loads((world / "result.json").read_text())
    assert result["cut"] == {"temperature": 1.5, "threshold": THRESHOLD, "smallest_component": 5}
    predictor = load_predictor([checkpoint], tta=False)
    for name in states(result):
        cta, ncct = (open_volume(patients / f"{name}_{kind}_Binary.npy") for kind in ("CTA", "NCCT_Reg"))
        raw = predictor.probability(Volumes(name=name, cta=cta, ncct=ncct)).astype(np.float64)
        stored = np.load(done / name / f"{name}_prob.npy")
        np.testing.assert_allclose(stored, expit(logit(raw) / 1.5), rtol=2e-3)
        labels, count = ndimage.label(stored >= np.float16(THRESHOLD), np.ones((3, 3, 3)))
        kept = [number for number in range(1, count + 1) if np.sum(labels == number) >= 5]
        np.testing.assert_array_equal(np.load(done / name / f"{name}_pred.npy"), np.isin(labels, kept))


@pytest.mark.parametrize("tested", [True, False], ids=["with flips", "without"])
def test_flips_are_as_they_were_tested_unless_they_are_asked_for(
    checkpoint: Path, patients: Path, out: Path, tested: bool
) -> None:
    weights = read_description(checkpoint).sha256
    write_points(checkpoint, weights, [point_of(weights, tta=tested, threshold=THRESHOLD)])
    result = predicted(checkpoint, patients, out / "as tested", config=settings(tta=not tested))
    assert result["cut"]["threshold"] == THRESHOLD
    assert all((row["spread"] != "") is tested for row in rows_of(out / "as tested"))
    asked = predicted(checkpoint, patients, out / "asked", tta=not tested)
    assert asked["cut"]["threshold"] == 0.5, "none was chosen for these passes"
    assert all((row["spread"] != "") is not tested for row in rows_of(out / "asked"))


def test_weights_without_a_threshold_are_cut_at_a_half_and_that_is_told(
    checkpoint: Path, patients: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / "operating_point.json").unlink()
    result = predicted(checkpoint, patients, out)
    assert result["cut"] == {"temperature": 1.0, "threshold": 0.5, "smallest_component": 0}
    assert "no threshold was chosen" in capsys.readouterr().err


def test_a_case_without_a_clot_has_a_line_too(checkpoint: Path, patients: Path, out: Path) -> None:
    result = predicted(checkpoint, patients, out, config=settings(threshold=0.999))
    assert [case["clots"] for case in result["cases"]] == [0, 0, 0]
    assert [(row["case"], row["clots"], row["clot"]) for row in rows_of(out)] == [
        (f"patient_{number}", "0", "") for number in range(3)
    ]
    assert all(0 <= float(row["doubt"]) <= 1 for row in rows_of(out))


def test_what_is_done_is_not_done_twice(checkpoint: Path, patients: Path, done: Path) -> None:
    before, times = contents(done), modified_times(done / "patient_0")
    shutil.rmtree(done / "patient_1")
    result = predicted(checkpoint, patients, done)
    assert states(result) == {"patient_0": "reused", "patient_1": "done", "patient_2": "reused"}
    assert contents(done) == before
    assert modified_times(done / "patient_0") == times


def test_a_lost_mask_is_made_again(checkpoint: Path, patients: Path, done: Path) -> None:
    before = contents(done)
    (done / "patient_2" / "patient_2_pred.npy").unlink()
    assert states(predicted(checkpoint, patients, done))["patient_2"] == "done"
    assert contents(done) == before


def other_volume(patients: Path, checkpoint: Path) -> dict[str, Any]:
    path = patients / "patient_1_CTA_Binary.npy"
    np.save(path, np.load(path) + 5)
    return {}


def other_threshold(patients: Path, checkpoint: Path) -> dict[str, Any]:
    return {"config": settings(threshold=0.3)}


@pytest.mark.parametrize(("change", "failed"), [(other_volume, 1), (other_threshold, 3)])
def test_a_prediction_made_otherwise_is_only_replaced_on_demand(
    checkpoint: Path,
    patients: Path,
    done: Path,
    change: Callable[[Path, Path], dict[str, Any]],
    failed: int,
) -> None:
    before = contents(done)
    named = change(patients, checkpoint)
    result = predicted(checkpoint, patients, done, **named)
    assert list(states(result).values()).count("failed") == failed
    assert contents(done) == before
    with pytest.raises(DataError, match="--overwrite"):
        require_all(result)
    replaced = predicted(checkpoint, patients, done, overwrite=True, **named)
    assert list(states(replaced).values()).count("done") == failed
    assert contents(done) != before


def test_what_is_no_prediction_is_left_alone(checkpoint: Path, patients: Path, done: Path) -> None:
    shutil.rmtree(done / "patient_1")
    (done / "patient_1").mkdir()
    (done / "patient_1" / "thesis.txt").write_text("mine")
    result = predicted(checkpoint, patients, done, overwrite=True)
    assert states(result) == {"patient_0": "reused", "patient_1": "failed", "patient_2": "reused"}
    assert (done / "patient_1" / "thesis.txt").read_text() == "mine"


def test_bad_cases_are_told_and_the_others_predicted(checkpoint: Path, patients: Path, done: Path) -> None:
    np.save(patients / "a_CTA_Binary.npy", np.full((8, 8, 3), np.nan))
    np.save(patients / "a_NCCT_Reg_Binary.npy", np.zeros((8, 8, 4), np.int16))
    (patients / "b_CTA_Binary.npy").write_bytes(b"no array")
    np.save(patients / "b_NCCT_Reg_Binary.npy", np.full((8, 8, 4), 40, np.int16))
    np.save(patients / "c_CTA_Binary.npy", np.full((8, 8, 4), 40, np.int16))
    for kind in ("CTA", "NCCT_Reg"):
        np.save(patients / f"d_{kind}_Binary.npy", np.full((40, 8, 4), 40, np.int16))
    result = predicted(checkpoint, patients, done)
    assert states(result) == {
        **dict.fromkeys("abcd", "failed"),
        **{f"patient_{number}": "reused" for number in range(3)},
    }
    problems = {case["case"]: case["problem"] for case in result["cases"]}
    assert "NaN" in problems["a"]
    assert "differ in shape" in problems["a"]
    assert "not a readable .npy" in problems["b"]
    assert "no NCCT" in problems["c"]
    assert "drop_modality" in problems["c"]
    assert "40×8" in problems["d"]
    with pytest.raises(DataError, match="4 of 7") as caught:
        require_all(result)
    assert caught.value.exit_code == 3
    assert {row["case"] for row in rows_of(done)} == {f"patient_{number}" for number in range(3)}


def test_a_network_trained_on_missing_volumes_predicts_from_one(
    checkpoint: Path, patients: Path, done: Path
) -> None:
    """Black is what a missing volume was in training, and what air is in its window."""
    trained = Config(augment=AugmentConfig(drop_modality=0.2))
    (checkpoint.parent / "Relevant_Files" / "clotseg.toml").write_text(to_toml(trained))
    ncct = patients / "patient_0_NCCT_Reg_Binary.npy"
    hu = np.load(ncct)
    ncct.unlink()
    predicted(checkpoint, patients, done, overwrite=True)
    alone = np.load(done / "patient_0" / "patient_0_prob.npy")
    lines = [row for row in rows_of(done) if row["case"] == "patient_0"]
    assert lines[0]["ncct_hu_mean"] == ""
    np.save(ncct, np.full_like(hu, -1000))
    predicted(checkpoint, patients, done, overwrite=True)
    np.testing.assert_array_equal(np.load(done / "patient_0" / "patient_0_prob.npy"), alone)


def test_a_nifti_mask_is_that_of_the_same_patient_in_npy(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    """Stored along other axes than the network's: it sees the same, and the mask is turned back."""
    cta, ncct = nifti_pair(tmp_path / "in", "case", axes="LAS")
    np.save(tmp_path / "in" / "npy_CTA_Binary.npy", cta)
    np.save(tmp_path / "in" / "npy_NCCT_Reg_Binary.npy", ncct)
    predicted(checkpoint, tmp_path / "in", out)
    expected = np.load(out / "npy" / "npy_pred.npy")
    assert expected.any()
    given = nibabel.load(tmp_path / "in" / "case_CTA.nii.gz")
    mask = nibabel.load(out / "case" / "case_pred.nii.gz")
    assert (mask.shape, mask.get_data_dtype()) == (given.shape, np.uint8)
    np.testing.assert_array_equal(mask.affine, given.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj).transpose(1, 0, 2)[::-1], expected)
    probability = nibabel.load(out / "case" / "case_prob.nii.gz")
    assert probability.get_data_dtype() == np.float32
    highest = np.load(out / "npy" / "npy_prob.npy").max()
    assert np.asarray(probability.dataobj).max() == pytest.approx(float(highest))


def test_nifti_measurements_are_in_millimetres_and_patient_coordinates(
    checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    nifti_pair(tmp_path / "in", "case", axes="RAS")
    predicted(checkpoint, tmp_path / "in", out)
    mask = nibabel.load(out / "case" / "case_pred.nii.gz")
    places = np.argwhere(np.asarray(mask.dataobj)) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    lines = rows_of(out)
    volumes = [float(row["volume_mm3"]) for row in lines]
    assert sum(volumes) == pytest.approx(len(places) * 0.4 * 0.5 * 2.0)
    for axis, name in enumerate("xyz"):
        mean = np.average([float(row[f"centroid_{name}_mm"]) for row in lines], weights=volumes)
        assert mean == pytest.approx(places[:, axis].mean(), abs=1e-3)


def test_cta_and_ncct_may_be_stored_along_different_axes(checkpoint: Path, tmp_path: Path, out: Path) -> None:
    nifti_pair(tmp_path / "in", "case", axes="RAS")
    predicted(checkpoint, tmp_path / "in", out)
    expected = contents(out / "case")["case_pred.nii.gz"]
    nifti_pair(tmp_path / "other", "case", axes="SLA")
    shutil.copy(tmp_path / "other" / "case_NCCT.nii.gz", tmp_path / "in")
    predicted(checkpoint, tmp_path / "in", out, overwrite=True)
    assert contents(out / "case")["case_pred.nii.gz"] == expected


@pytest.mark.slow
def test_cases_come_from_tables_projects_and_files(checkpoint: Path, patients: Path, tmp_path: Path) -> None:
    table = patients / "list.csv"
    table.write_text(
        "case,cta,ncct,spacing_row_mm,spacing_col_mm,spacing_slice_mm\n"
        "mine,patient_0_CTA_Binary.npy,patient_0_NCCT_Reg_Binary.npy,0.5,0.4,2\n"
    )
    predicted(checkpoint, table, tmp_path / "from_table")
    (row, *_) = rows_of(tmp_path / "from_table")
    assert row["case"] == "mine"
    assert float(row["volume_mm3"]) == pytest.approx(0.4 * int(row["volume_voxels"]))

    project = Project(tmp_path / "project")
    shutil.copytree(patients, project.volumes)
    columns = ("spacing_row_mm", "spacing_col_mm", "spacing_slice_mm")
    write_cases_csv(
        project, [{"case": f"patient_{n}", **dict(zip(columns, SPACING, strict=True))} for n in range(3)]
    )
    result = predicted(checkpoint, project.root, tmp_path / "from_project")
    assert len(result["cases"]) == 3
    assert all(row["volume_mm3"] for row in rows_of(tmp_path / "from_project") if row["clot"])

    files = [patients / "patient_2_NCCT_Reg_Binary.npy", patients / "patient_1_CTA_Binary.npy"]
    assert states(predicted(checkpoint, files, tmp_path / "from_files")) == {
        "patient_1": "done",
        "patient_2": "done",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("case,cta\na,b\n", "no column `ncct`"),
        ("case,cta,ncct,age\n", "unknown column `age`"),
        ("case,cta,ncct\n../a,b,c\n", "cannot be the name"),
        ("case,cta,ncct\na,b,c\na,d,e\n", "listed twice"),
        ("case,cta,ncct\na,,\n", "neither CTA nor NCCT"),
        ("case,cta,ncct\n", "no case found"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, out: Path, text: str, told: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        predicted(checkpoint, tmp_path / "list.csv", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["nothing", "notes.txt", "empty"])
def test_an_input_that_is_none_says_how_volumes_are_named(
    checkpoint: Path, tmp_path: Path, out: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"_CTA\.nii\.gz") as caught:
        predicted(checkpoint, tmp_path / name, out)
    assert caught.value.where == tmp_path / name


def test_two_cases_of_one_name_are_refused(
    checkpoint: Path, patients: Path, tmp_path: Path, out: Path
) -> None:
    shutil.copytree(patients, tmp_path / "others")
    with pytest.raises(DataError, match="there twice"):
        predicted(checkpoint, [patients, tmp_path / "others"], out)


def test_a_tampered_threshold_ends_it_before_anything_is_written(
    checkpoint: Path, patients: Path, out: Path
) -> None:
    file = checkpoint / "operating_point.json"
    facts = json.loads(file.read_text())
    facts["points"][0]["threshold"] = 0.9
    file.write_text(json.dumps(facts))
    with pytest.raises(CorruptArtifactError, match="seal"):
        predicted(checkpoint, patients, out)
    assert not out.exists()
