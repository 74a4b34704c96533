"""`clotseg demo`: from an empty folder to a report, and from a finished demo to the same report at once."""

import json
import shutil
from pathlib import Path

import pytest

from clotseg.config import load_config
from clotseg.demo import CASES, SETTINGS
from tests.conftest import modified_times, run_clotseg

QUICK = """
[slice]
slices_per_shard = 192
[feed]
size = "auto"
[network]
filters = 2
depth = 2
[train]
epochs = 1
batch_size = 32
train_samples = 64
"""
"""The demo keeps settings that are there already, so a test need not train for minutes."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished demo of a small network."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    folder.mkdir()
    (folder / "clotseg.toml").write_text(QUICK)
    done = run_clotseg("-C", folder.parent, "demo", "demo", COLUMNS="160")
    assert done.returncode == 0, done.stderr
    (folder.parent / "shown.txt").write_text(done.stdout)
    return folder


def without_times(shown: str) -> list[str]:
    """The lines of the closing panel but that of the wall times."""
    return [line for line in shown.splitlines() if "wall time" not in line]


def test_the_settings_it_writes_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "clotseg.toml"
    file.write_text(SETTINGS)
    config, default = load_config(file), load_config(tmp_path / "none.toml")
    assert (config.feed, config.network, config.train) == (default.feed, default.network, default.train)
    assert config.test == default.test
    assert 0 < config.runtime.minutes < 10, "the demo is to end within ten minutes on any machine"


@pytest.mark.slow
def test_it_goes_from_nothing_to_a_report(demo: Path) -> None:
    record = json.loads((demo / "phantom.json").read_text())
    assert len(record["cases"]) == CASES
    (run,) = (demo / "Trainings").iterdir()
    assert (run / "Best_Model" / "network.json").is_file()
    masks = list((run / "Testing" / "Best_Model" / "masks").glob("*_pred.npy"))
    split = json.loads((demo / "Processed" / "Original" / "split.json").read_text())
    assert {path.name for path in masks} == {f"{case}_pred.npy" for case in split["cohorts"]["Testing"]}
    shown = (demo.parent / "shown.txt").read_text()
    for path in (f"demo/Trainings/{run.name}/Testing/Best_Model/report.html", "demo/Processed/Sliced"):
        assert path in shown
        assert (demo.parent / path).exists()


@pytest.mark.slow
def test_settings_that_are_there_are_kept(demo: Path) -> None:
    assert (demo / "clotseg.toml").read_text() == QUICK
    (run,) = (demo / "Trainings").iterdir()
    assert load_config(run / "Relevant_Files" / "clotseg.toml").network.filters == 2


@pytest.mark.slow
def test_the_report_says_that_the_clots_are_synthetic(demo: Path) -> None:
    (report,) = demo.glob("Trainings/*/Testing/Best_Model/report.html")
    assert "synthetic" in report.read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_a_second_demo_reuses_everything(demo: Path) -> None:
    before = modified_times(demo)
    done = run_clotseg("-C", demo.parent, "demo", "demo", COLUMNS="160")
    assert done.returncode == 0, done.stderr
    changed = {name for name, when in modified_times(demo).items() if before.get(name) != when}
    assert changed <= {"Processed/.digests.json"}
    assert without_times(done.stdout) == without_times((demo.parent / "shown.txt").read_text())
    for stage in ("phantom", "split", "slice", "train", "test"):
        assert f"event={stage} state=reused" in done.stderr


@pytest.mark.slow
def test_a_demo_interrupted_before_its_test_trains_no_second_time(demo: Path) -> None:
    (testing,) = demo.glob("Trainings/*/Testing")
    testing.rename(demo.parent / "Testing-before")
    done = run_clotseg("-C", demo.parent, "demo", "demo", COLUMNS="160")
    assert done.returncode == 0, done.stderr
    assert without_times(done.stdout) == without_times((demo.parent / "shown.txt").read_text())
    assert len(list((demo / "Trainings").iterdir())) == 1


@pytest.mark.slow
def test_a_later_run_of_other_settings_is_not_taken_for_the_demos(demo: Path) -> None:
    (run,) = (demo / "Trainings").iterdir()
    later = shutil.copytree(run, run.with_name("29991231-235959"))
    record = json.loads((later / "Relevant_Files" / "run.json").read_text())
    (later / "Relevant_Files" / "run.json").write_text(json.dumps({**record, "asked_key": "0" * 64}))
    try:
        done = run_clotseg("-C", demo.parent, "demo", "demo", COLUMNS="160")
    finally:
        shutil.rmtree(later)
    assert done.returncode == 0, done.stderr
    assert without_times(done.stdout) == without_times((demo.parent / "shown.txt").read_text())


@pytest.mark.slow
def test_a_folder_with_a_users_cases_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "demo" / "DL_vol_files" / "binary" / "patient_CTA_Binary.npy"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a patient")
    done = run_clotseg("-C", tmp_path, "demo")
    assert done.returncode == 3
    assert "choose another folder" in done.stderr
    assert list((tmp_path / "demo").rglob("*.npy")) == [own]
