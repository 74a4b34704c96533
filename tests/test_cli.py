"""The command line as a shell sees it: exit codes, messages on stderr, and JSON on stdout for machines."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clotseg.config import Config, load_config
from clotseg.project import Project
from tests.conftest import clotseg_command, run_clotseg, start_python, write_cohort

COMMANDS = (
    "demo",
    "phantom",
    "prep",
    "train",
    "launch",
    "runs",
    "bench",
    "test",
    "predict",
    "export",
    "dicom-seg",
    "compare",
    "verify",
    "doctor",
)
TINY = ("--epochs", 1, "--filters", 4, "--depth", 2, "--batch-size", 8, "--size", "auto", "--gpus", 0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, subprocess.CompletedProcess[str]]:
    """A project of ten cases, and what `prep --json` said when it made it."""
    project = write_cohort(tmp_path_factory.mktemp("prepared") / "project")
    return project, run_clotseg("-C", project.root, "prep", "--json")


def modules_loaded(*arguments: object) -> set[str]:
    """Names of the packages that a command imports until it ends."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *clotseg_command(*arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def test_help_lists_the_commands() -> None:
    done = run_clotseg("--help")
    assert done.returncode == 0
    listed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ")}
    assert listed >= set(COMMANDS)
    assert "not a medical device" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    done = run_clotseg(command, "--help")
    assert done.returncode == 0
    assert f"clotseg {command}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("train", "--help"), ("train",), ("prep", "--seed", "first"), ("test",), ("runs",)],
    ids=str,
)
def test_help_and_errors_do_not_wait_for_tensorflow(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    loaded = modules_loaded("-C", tmp_path, *arguments)
    assert {"typer", "clotseg"} <= loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "nvidia"})


def test_print_config_shows_the_settings_in_force(tmp_path: Path) -> None:
    (tmp_path / "clotseg.toml").write_text("[train]\nepochs = 7\nbatch_size = 10\n")
    done = run_clotseg("-C", tmp_path, "train", "--batch-size", 30, "--size", "auto", "--print-config")
    assert done.returncode == 0
    shown = tomllib.loads(done.stdout)
    assert shown["train"]["epochs"] == 7
    assert shown["train"]["batch_size"] == 30
    assert shown["feed"]["size"] == "auto"
    assert shown["train"]["learning_rate"] == Config().train.learning_rate
    assert not (tmp_path / "Trainings").exists()
    (tmp_path / "clotseg.toml").write_text(done.stdout)
    assert load_config(tmp_path / "clotseg.toml").train.batch_size == 30


def test_an_unknown_setting_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "clotseg.toml").write_text("[train]\nepoch = 7\n")
    done = run_clotseg("-C", tmp_path, "prep")
    assert done.returncode == 2
    assert "unknown setting `train.epoch`" in done.stderr
    assert "did you mean `train.epochs`?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", [("--epochs", 0), ("--epochs", "many"), ("--size", 102)], ids=str)
def test_a_flag_that_cannot_be_used_is_a_usage_error(tmp_path: Path, flag: tuple[str, object]) -> None:
    done = run_clotseg("-C", tmp_path, "train", *flag)
    assert done.returncode == 2
    assert flag[0].removeprefix("--") in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_folder_without_cases_is_a_data_error(tmp_path: Path) -> None:
    done = run_clotseg("-C", tmp_path, "prep")
    assert done.returncode == 3
    assert str(tmp_path) in done.stderr
    assert "no case found" in done.stderr
    assert "-C" in done.stderr


def test_all_bad_cases_are_listed_without_a_traceback(cohort: Project) -> None:
    for number in (1, 4):
        np.save(
            cohort.masks / f"case_{number:02d}_seg_corrected_binary.npy", np.full((32, 32, 6), 3, np.uint8)
        )
    done = run_clotseg("-C", cohort.root, "prep")
    assert done.returncode == 3
    assert "2 of 10 cases cannot be used" in done.stderr
    assert all(f"case_{number:02d}_seg_corrected_binary.npy" in done.stderr for number in (1, 4))
    assert "Traceback" not in done.stderr
    assert not cohort.original.exists()
    debugged = run_clotseg("--debug", "-C", cohort.root, "prep")
    assert debugged.returncode == 3, "the code of an error does not depend on how much is told of it"
    assert "Traceback" in debugged.stderr
    assert "2 of 10 cases cannot be used" in debugged.stderr


def test_what_comes_too_early_says_what_comes_first(cohort: Project) -> None:
    assert run_clotseg("-C", cohort.root, "prep", "--slice", "off").returncode == 4
    done = run_clotseg("-C", cohort.root, "test")
    assert done.returncode == 4
    assert "run `clotseg prep` first" in done.stderr
    assert "Traceback" not in done.stderr


def test_prep_never_loads_tensorflow(cohort: Project) -> None:
    loaded = modules_loaded("-C", cohort.root, "prep")
    assert (cohort.sliced / "Training" / "manifest.json").exists()
    assert loaded.isdisjoint({"tensorflow", "keras", "nvidia"})


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(cohort: Project) -> None:
    done = run_clotseg("-C", cohort.root, "prep", "--dry-run", "--context", 1, COLUMNS="200")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "split: make, because Original is not there yet",
        "slice: make, because Training is not there yet",
    ]
    said = json.loads(run_clotseg("-C", cohort.root, "prep", "--dry-run", "--json").stdout)
    assert {stage: facts["action"] for stage, facts in said["stages"].items()} == {
        "split": "make",
        "slice": "make",
    }
    assert not cohort.processed.exists()


@pytest.mark.parametrize(
    ("flags", "section", "setting", "value"),
    [
        (("--stratify", "site, clot"), "split", "stratify", ["site", "clot"]),
        (("--folds", 5, "--fold", 2), "split", "fold", 2),
        (("--split-file", "theirs.json"), "split", "file", "theirs.json"),
        (("--slices", "balanced"), "slice", "slices", "balanced"),
        (("--context", 2), "slice", "context", 2),
        (("--workers", 3), "runtime", "workers", 3),
        (("--dask", "tcp://10.0.0.1:8786"), "runtime", "dask", "tcp://10.0.0.1:8786"),
    ],
    ids=str,
)
def test_prep_has_a_flag_for_each_of_these_settings(
    tmp_path: Path, flags: tuple[object, ...], section: str, setting: str, value: object
) -> None:
    done = run_clotseg("-C", tmp_path, "prep", *flags, "--print-config")
    assert tomllib.loads(done.stdout)[section][setting] == value


def test_a_bad_flag_is_not_blamed_on_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "clotseg.toml").write_text("[train]\nepochs = 7\n")
    done = run_clotseg("-C", tmp_path, "prep", "--stratify", "hospital")
    assert done.returncode == 2
    assert "command line" in done.stderr
    assert "clotseg.toml" not in done.stderr


# A library whose loading was interrupted, and which tells that in its own way.
INTERRUPTED_IMPORT = """
import sys
from clotseg import cli
from clotseg.errors import Interrupted

@cli.app.command()
def load():
    try:
        raise Interrupted(15)
    except Interrupted:
        raise ImportError("numpy failed to import")

sys.argv = ["clotseg", *sys.argv[1:], "load"]
cli.main()
"""


@pytest.mark.parametrize("flags", [(), ("--debug",)], ids=["plain", "debug"])
def test_an_interruption_that_a_library_turned_into_its_own_error_is_told_as_one(
    flags: tuple[str, ...],
) -> None:
    process = start_python(INTERRUPTED_IMPORT, *flags)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("clotseg: stopped by SIGTERM")
    assert ("Traceback" in said) == bool(flags)


def test_json_is_all_that_prep_writes_on_stdout(
    prepared: tuple[Project, subprocess.CompletedProcess[str]],
) -> None:
    project, done = prepared
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == {"stages", "cohorts"}
    assert said["stages"] == {"split": "made", "slice": "made"}
    split = json.loads((project.original / "split.json").read_text())
    assert {name: facts["cases"] for name, facts in said["cohorts"].items()} == split["cohorts"]
    assert [facts["slices"] for facts in said["cohorts"].values()] == [36, 12, 12]
    assert said["cohorts"]["Testing"]["shards"] == []
    for cohort in ("Training", "Validation"):
        assert said["cohorts"][cohort]["shards"]
        assert all((project.root / shard).is_file() for shard in said["cohorts"][cohort]["shards"])


def test_progress_goes_to_stderr(prepared: tuple[Project, subprocess.CompletedProcess[str]]) -> None:
    lines = prepared[1].stderr.splitlines()
    assert all(line.startswith("event=") for line in lines)
    assert any(line.startswith("event=check done=10/10 unit=cases") for line in lines)
    assert lines[-2:] == ["event=split state=made", "event=slice state=made"]


@pytest.mark.slow
def test_more_gpus_than_there_are_is_an_environment_problem(
    prepared: tuple[Project, subprocess.CompletedProcess[str]],
) -> None:
    done = run_clotseg("-C", prepared[0].root, "train", "--size", "auto", "--batch-size", 18, "--gpus", 9)
    assert done.returncode == 5
    assert "9 GPU(s) asked for" in done.stderr
    assert "clotseg doctor" in done.stderr
    assert not prepared[0].trainings.exists()


def said_by(folder: Path, *arguments: object) -> Any:
    """The JSON a command printed."""
    done = run_clotseg("-C", folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert "event=" in done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_train_makes_what_is_missing_and_a_network_with_neighbours_tests_on_them(cohort: Project) -> None:
    (cohort.root / "clotseg.toml").write_text("[slice]\ncontext = 1\nslices = 'balanced'\n")
    off = run_clotseg("-C", cohort.root, "train", *TINY, "--slice", "off")
    assert off.returncode == 4
    assert "--slice off" in off.stderr
    trained = said_by(cohort.root, "train", *TINY, "--workers", 2)
    network = json.loads((cohort.root / trained["best"] / "network.json").read_text())
    assert (network["channels"], network["slicing"]["context"]) == (6, 1)
    assert trained["epochs"] == 1
    tested = said_by(cohort.root, "test", "--gpus", 0)
    assert len(tested["cases"]) == 2
    for case in tested["cases"]:
        check_masks(cohort.root, tested["masks"], case)
    again = run_clotseg("-C", cohort.root, "prep")
    assert "split reused, slice reused" in again.stdout


@pytest.mark.slow
def test_slices_are_augmented_offline_where_asked_for_and_trained_on(cohort: Project) -> None:
    assert run_clotseg("-C", cohort.root, "prep").returncode == 0
    assert not cohort.augmented.exists()
    told = run_clotseg("-C", cohort.root, "prep", "--augment", "auto", "--target-train", 40, "--dry-run")
    assert "Training is not there yet" in told.stdout
    assert not cohort.augmented.exists()
    made = said_by(cohort.root, "prep", "--augment", "auto", "--target-train", 40)
    assert made["stages"] == {"split": "reused", "slice": "reused", "augment": "made"}
    checked = said_by(cohort.root, "verify")
    assert "Processed/Augmented/Training" in checked["artifacts"]
    (cohort.root / "clotseg.toml").write_text("[offline]\ntarget_train = 40\n")
    assert said_by(cohort.root, "train", *TINY, "--from", "augmented")["epochs"] == 1
    shard = next((cohort.augmented / "Training").glob("*.tfrecord"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    broken = run_clotseg("-C", cohort.root, "train", *TINY, "--from", "augmented", "--verify", "full")
    assert broken.returncode == 4
    assert shard.name in broken.stderr


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_from_a_phantom_to_scored_masks(tmp_path: Path, replicas: int) -> None:
    assert run_clotseg("phantom", tmp_path, "--cases", 8, "--size", 32, "--slices", 8).returncode == 0
    cases = said_by(tmp_path, "prep")["cohorts"]["Testing"]["cases"]
    trained = said_by(tmp_path, "train", *TINY, "--replicas", replicas)
    assert trained.keys() == {"run", "best", "epochs", "val_dice"}
    assert trained["best"] == f"{trained['run']}/Best_Model"
    assert (tmp_path / trained["best"] / "network.json").is_file()
    assert trained["epochs"] == 1
    assert 0 <= trained["val_dice"] <= 1
    environment = json.loads((tmp_path / trained["run"] / "Relevant_Files" / "environment.json").read_text())
    assert environment["devices"] == ("CPU" if replicas == 1 else "CPU, 2 replicas")

    tested = said_by(tmp_path, "test", "--gpus", 0, "--ckpt", trained["run"])
    assert tested.keys() == {"run", "cases", "summary", "operating_points", "report", "masks"}
    assert tested["run"] == trained["run"]
    assert [case["case"] for case in tested["cases"]] == cases
    assert tested["cases"][0].keys() >= {"case", "dice", "found", "volume_true", "volume_predicted"}
    assert tested["summary"].keys() >= {"dice_mean", "dice_ci95", "missed", "false_clots"}
    assert (tmp_path / tested["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    for case in tested["cases"]:
        check_masks(tmp_path, tested["masks"], case)


def check_masks(folder: Path, masks: str, case: dict[str, Any]) -> None:
    truth = np.load(Project(folder).masks / f"{case['case']}_seg_corrected_binary.npy")
    predicted = np.load(folder / masks / f"{case['case']}_pred.npy")
    probability = np.load(folder / masks / f"{case['case']}_prob.npy")
    assert predicted.shape == probability.shape == truth.shape
    assert predicted.dtype == np.uint8
    assert probability.dtype in (np.float16, np.float32)
    total = int(predicted.sum()) + int(truth.sum())
    assert case["dice"] == pytest.approx(2 * np.sum(predicted & truth) / total if total else 1)
    assert (case["volume_true"], case["volume_predicted"]) == (truth.sum(), predicted.sum())


@pytest.mark.slow
def test_people_get_a_table(prepared: tuple[Project, subprocess.CompletedProcess[str]]) -> None:
    done = run_clotseg("-C", prepared[0].root, "prep")
    assert done.returncode == 0
    assert [line.split("│")[1].split() for line in done.stdout.splitlines() if line.startswith("│")] == [
        ["Training"],
        ["Validation"],
        ["Testing"],
    ]
    assert "split reused, slice reused" in done.stdout


@pytest.mark.slow
def test_new_patients_are_predicted_a_bad_one_is_told_and_the_network_exported(tmp_path: Path) -> None:
    """phantom → train → test → predict → export, as processes of their own."""
    assert run_clotseg("phantom", tmp_path, "--cases", 8, "--size", 32, "--slices", 8).returncode == 0
    trained = said_by(tmp_path, "train", *TINY)
    flipped = said_by(tmp_path, "test", "--gpus", 0)
    assert all(case["spread"] >= 0 for case in flipped["cases"])
    plain = said_by(tmp_path, "test", "--gpus", 0, "--no-tta")
    assert all(case["spread"] is None for case in plain["cases"])
    patients = tmp_path / "new"
    patients.mkdir()
    volumes = Project(tmp_path).volumes
    for name in ("case_000", "case_001"):
        for path in volumes.glob(f"{name}_*"):
            (patients / path.name).write_bytes(path.read_bytes())
    (patients / "case_001_CTA_Binary.npy").write_bytes(b"no array")
    command = ("-C", tmp_path, "predict", "--ckpt", trained["run"], "new", "--out", "found", "--json")
    done = run_clotseg(*command)
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert {case["case"]: case["state"] for case in told["cases"]} == {
        "case_000": "done",
        "case_001": "failed",
    }
    assert "1 of 2 cases could not be predicted" in done.stderr
    assert "case_001_CTA_Binary.npy" in done.stderr
    assert "Traceback" not in done.stderr
    (patients / "case_001_CTA_Binary.npy").write_bytes((volumes / "case_001_CTA_Binary.npy").read_bytes())
    resumed = run_clotseg(*command)
    assert resumed.returncode == 0, resumed.stderr
    states = [case["state"] for case in json.loads(resumed.stdout)["cases"]]
    assert states == ["reused", "done"]
    assert np.load(tmp_path / "found" / "case_001" / "case_001_pred.npy").shape == (32, 32, 8)
    assert (tmp_path / "found" / "predictions.csv").is_file()
    exported = said_by(tmp_path, "export", "exported")
    assert exported["largest_difference"]["saved_model"] <= 1e-5
    assert (tmp_path / exported["saved_model"] / "saved_model.pb").is_file()
    tampered = tmp_path / trained["best"] / "operating_point.json"
    facts = json.loads(tampered.read_text())
    facts["points"][0]["threshold"] /= 2
    tampered.write_text(json.dumps(facts))
    assert run_clotseg(*command, "--overwrite").returncode == 4
