"""Results as a person reads them: each number of the result is in the table, beside what it belongs to."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from clotseg.doctor import Finding
from clotseg.results import (
    demo_panel,
    dice_with_interval,
    dicom_seg_table,
    doctor_table,
    export_table,
    predict_table,
    prep_table,
    print_result,
    train_table,
)
from clotseg.results import test_table as table_of_test

TRAINED = {"run": "Trainings/20240229-101500", "best": "Trainings/20240229-101500/Best_Model", "epochs": 7}
SUMMARY = {
    "dice_mean": 0.61234,
    "dice_ci95": [0.5512, 0.6698],
    "missed": 3,
    "cases_with_clot": 17,
    "false_clots": 5,
    "clot_free_cases": 2,
}
TESTED: dict[str, Any] = {
    "run": TRAINED["run"],
    "cases": [
        {
            "case": "case_one",
            "has_clot": True,
            "dice": 0.8125,
            "found": True,
            "false_clots": 4,
            "volume_true": 1234,
            "volume_predicted": 1300,
        },
        {
            "case": "case_two",
            "has_clot": True,
            "dice": 0.0,
            "found": False,
            "false_clots": 0,
            "volume_true": 77,
            "volume_predicted": 0,
        },
        {
            "case": "case_three",
            "has_clot": False,
            "dice": 1.0,
            "found": None,
            "false_clots": 0,
            "volume_true": 0,
            "volume_predicted": 0,
        },
    ],
    "summary": SUMMARY,
    "operating_points": [{"in_force": {"temperature": 0.7, "threshold": 0.4375, "smallest_component": 10}}],
    "report": "Trainings/20240229-101500/Testing/Best_Model/report.html",
    "masks": "Trainings/20240229-101500/Testing/Best_Model/masks",
}

DEMO = {
    "train": TRAINED,
    "test": TESTED,
    "seconds": {"phantom": 10.2, "prep": 0.9, "train": 321.4, "test": 5.0},
}


def shown(result: RenderableType, *, width: int = 100) -> str:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(result)
    text: str = screen.file.getvalue()
    return text


def cells(text: str, first: str) -> list[str]:
    """The cells of the row that begins with `first`."""
    row = next(line for line in text.splitlines() if re.match(rf"[│┃ ]*{re.escape(first)}\b", line))
    return [cell.strip() for cell in re.split(r"[│┃]|  +", row) if cell.strip()]


def test_prep_shows_what_each_cohort_holds() -> None:
    text = shown(
        prep_table(
            {
                "stages": {"split": "reused", "slice": "made"},
                "cohorts": {
                    "Training": {"cases": list("abcdef"), "slices": 1440, "shards": ["one", "two"]},
                    "Validation": {"cases": ["g", "h"], "slices": 480, "shards": ["one"]},
                    "Testing": {"cases": ["i"], "slices": 240, "shards": []},
                },
            }
        )
    )
    assert cells(text, "cohort") == ["cohort", "cases", "slices", "shards"]
    assert cells(text, "Training") == ["Training", "6", "1440", "2"]
    assert cells(text, "Validation") == ["Validation", "2", "480", "1"]
    assert cells(text, "Testing") == ["Testing", "1", "240", "0"]
    assert "split reused, slice made" in text


def test_train_shows_where_the_weights_are_and_how_good() -> None:
    text = shown(train_table({**TRAINED, "val_dice": 0.71249}))
    assert cells(text, "run") == ["run", TRAINED["run"]]
    assert cells(text, "best weights") == ["best weights", TRAINED["best"]]
    assert cells(text, "epochs") == ["epochs", "7"]
    assert cells(text, "validation Dice") == ["validation Dice", "0.712"]


def test_test_shows_every_case() -> None:
    text = shown(table_of_test(TESTED))
    assert cells(text, "case_one") == ["case_one", "0.812", "yes", "4", "1234", "1300"]
    assert cells(text, "case_two") == ["case_two", "0.000", "missed", "0", "77", "0"]


def test_dice_of_a_case_without_a_clot_is_not_shown_as_a_score() -> None:
    assert cells(shown(table_of_test(TESTED)), "case_three") == ["case_three", "–", "no clot", "0", "0", "0"]


def test_test_shows_where_the_masks_were_cut() -> None:
    text = shown(table_of_test(TESTED))
    assert cells(text, "threshold") == ["threshold", "0.438, components below 10 voxels removed"]


def test_predict_shows_every_case_and_what_is_not_known_of_a_failed_one() -> None:
    cases = [
        {"case": "case_one", "state": "reused", "clots": 2, "doubt": 0.2514, "problem": None},
        {"case": "case_two", "state": "failed", "clots": None, "doubt": None, "problem": "has no NCCT"},
    ]
    cut = {"temperature": 1.0, "threshold": 0.5, "smallest_component": 0}
    text = shown(predict_table({"cases": cases, "cut": cut, "table": "found/predictions.csv"}))
    assert cells(text, "case_one") == ["case_one", "reused", "2", "0.251"]
    assert cells(text, "case_two") == ["case_two", "failed", "–", "–"]
    assert cells(text, "threshold") == ["threshold", "0.500"]
    assert cells(text, "table") == ["table", "found/predictions.csv"]


def test_export_shows_what_was_written_and_how_near_it_is() -> None:
    result = {
        "saved_model": "out/saved_model",
        "onnx": None,
        "compared_on": "case_one",
        "largest_difference": {"saved_model": 1.2e-7},
    }
    text = shown(export_table(result))
    assert cells(text, "saved_model") == ["saved_model", "out/saved_model"]
    assert "onnx" not in text
    assert cells(text, "largest difference") == ["largest difference", "saved_model 1.2e-07"]


def test_dicom_seg_shows_where_it_is_and_how_much_clot_is_in_it() -> None:
    result = {
        "segmentation": "out.dcm",
        "series": "1.2.3",
        "slices": 28,
        "slices_with_clot": 2,
        "voxels": 57,
    }
    text = shown(dicom_seg_table(result))
    assert cells(text, "segmentation") == ["segmentation", "out.dcm"]
    assert cells(text, "of series") == ["of series", "1.2.3"]
    assert cells(text, "clot") == ["clot", "57 voxels in 2 of 28 slices"]
    empty = shown(dicom_seg_table({**result, "voxels": 0, "slices_with_clot": 0}))
    assert cells(empty, "clot") == ["clot", "none: the mask is empty"]


def test_test_shows_the_cohort_in_numbers() -> None:
    text = shown(table_of_test(TESTED))
    assert cells(text, "mean Dice") == ["mean Dice", "0.612 (95 % interval 0.551–0.670)"]
    assert cells(text, "missed") == ["missed", "3 of 17 cases with a clot"]
    assert cells(text, "false clots") == ["false clots", "5 in 2 cases without"]
    assert cells(text, "report") == ["report", TESTED["report"]]
    assert cells(text, "masks") == ["masks", TESTED["masks"]]


def test_a_narrow_terminal_loses_no_part_of_a_path() -> None:
    assert TESTED["report"] in re.sub(r"\s", "", shown(table_of_test(TESTED), width=50))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "0.612 (95 % interval 0.551–0.670)"),
        ({"dice_ci95": None}, "0.612"),
        ({"dice_mean": None, "dice_ci95": None}, "none: no case has a clot"),
        ({"dice_mean": 0.0, "dice_ci95": [0.0, 0.0]}, "0.000 (95 % interval 0.000–0.000)"),
    ],
    ids=["interval", "one patient", "no clot", "all missed"],
)
def test_mean_dice_has_its_interval_where_there_is_one(changes: dict[str, Any], text: str) -> None:
    assert dice_with_interval({**SUMMARY, **changes}) == text


def test_doctor_shows_advice_under_what_it_is_about() -> None:
    findings = [
        Finding(what="CPU", found="2 cores usable"),
        Finding(what="Disk", found="1 GB free", advice="free some space"),
        Finding(what="DALI", found="does not run ([Errno 2])", advice="install it", blocks=True),
    ]
    lines = [line.split() for line in shown(doctor_table(findings)).splitlines()]
    assert lines == [
        ["✓", "CPU", "2", "cores", "usable"],
        ["!", "Disk", "1", "GB", "free"],
        ["→", "free", "some", "space"],
        ["✗", "DALI", "does", "not", "run", "([Errno", "2])"],
        ["→", "install", "it"],
    ]


def test_the_demo_says_where_everything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = shown(demo_panel(tmp_path / "demo", DEMO), width=120)
    assert cells(text, "cases") == ["cases", "demo/DL_vol_files, demo/DL_seg_files"]
    assert cells(text, "shards") == ["shards", "demo/Processed/Sliced"]
    assert cells(text, "network") == ["network", f"demo/{TRAINED['best']}"]
    assert cells(text, "masks") == ["masks", f"demo/{TESTED['masks']}"]
    assert cells(text, "report") == ["report", f"demo/{TESTED['report']}"]
    assert "0.612 (95 % interval 0.551–0.670) on synthetic clots" in text
    assert "not a medical device" in text


def test_the_demo_says_how_long_each_stage_took(tmp_path: Path) -> None:
    text = shown(demo_panel(tmp_path, DEMO), width=120)
    assert "phantom 10 s, prep 1 s, train 321 s, test 5 s" in text


@pytest.mark.parametrize("installed", [True, False], ids=["on the path", "in a virtual environment"])
def test_the_demo_gives_commands_that_work_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    script = tmp_path / ".venv" / "bin" / "clotseg"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", str(script.parent) if installed else str(tmp_path))
    text = shown(demo_panel(tmp_path / "demo", DEMO), width=120)
    command = "clotseg" if installed else ".venv/bin/clotseg"
    for words in ("prep --train-perc 0.6 --val-perc 0.2", "train --size auto", "test"):
        assert f" {command} -C PROJECT {words}" in text


def test_the_demo_names_a_folder_elsewhere_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = shown(demo_panel(tmp_path / "there", DEMO), width=300)
    assert cells(text, "shards") == ["shards", f"{tmp_path / 'there'}/Processed/Sliced"]


def test_results_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(train_table({**TRAINED, "val_dice": 0.5}))
    printed = capsys.readouterr()
    assert "0.500" in printed.out
    assert printed.err == ""
