"""`--dry-run`: each stage is said to be reused, made or refused, and why; nothing is written."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from clotseg.config import Config, FeedConfig, RuntimeConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.prep.stages import plan_prep
from clotseg.project import Project
from tests.conftest import modified_times, start_python, write_case, write_cases_csv, write_cohort

CONFIG = Config(slice=SliceConfig(slices_per_shard=8), feed=FeedConfig(size=32))
LATER = "Processed/Original changed"


def changed(section: str, **settings: Any) -> Config:
    """CONFIG with other settings in one section."""
    return dataclasses.replace(CONFIG, **{section: dataclasses.replace(getattr(CONFIG, section), **settings)})


def planned(project: Project, config: Config = CONFIG, **switches: Any) -> tuple[str, str]:
    """What is told of the split and of the slices."""
    stages = plan_prep(project, config, PlainProgress(), **switches)["stages"]
    assert list(stages) == ["split", "slice"]
    for facts in stages.values():
        assert facts["told"].startswith(facts["action"])
        assert facts["told"].endswith(f", because {facts['reason']}")
    return stages["split"]["told"], stages["slice"]["told"]


@pytest.fixture
def prepared(sliced_project: Project, tmp_path: Path) -> Project:
    """A copy of a prepared project, to be changed."""
    shutil.copytree(sliced_project.root, tmp_path / "prepared")
    return Project(tmp_path / "prepared")


def test_a_new_project_makes_both_and_nothing_is_written(cohort: Project) -> None:
    assert planned(cohort) == (
        "make, because Original is not there yet",
        "make, because Training is not there yet",
    )
    assert not cohort.processed.exists()


def test_what_is_there_is_reused_even_on_other_machines_and_nothing_is_written(prepared: Project) -> None:
    before = modified_times(prepared.root)
    faster = dataclasses.replace(CONFIG, runtime=RuntimeConfig(workers=2, threads=1, gpus=0, prefetch=4))
    nothing = ("reuse, because nothing changed",) * 2
    assert planned(prepared) == planned(prepared, faster) == nothing
    assert modified_times(prepared.root) == before


@pytest.mark.parametrize(
    ("config", "split", "slices"),
    [
        (
            changed("slice", cta_window_hu=(0.0, 300.5)),
            "reuse, because nothing changed",
            "make again, because slice.cta_window_hu changed from (-50, 450) to (0, 300.5)",
        ),
        (
            changed("slice", context=1, slices="clot"),
            "reuse, because nothing changed",
            "make again, because slice.context changed from 0 to 1, slice.slices changed from all to clot",
        ),
        (
            changed("split", seed=2),
            "make again, because split.seed changed from 1 to 2",
            f"make again, because {LATER}",
        ),
        (
            changed("split", stratify=("clot", "site")),
            "make again, because split.stratify changed from () to (clot, site)",
            f"make again, because {LATER}",
        ),
        (
            changed("split", folds=3, fold=2),
            "make again, because split.fold changed from 1 to 2, split.folds changed from 0 to 3",
            f"make again, because {LATER}",
        ),
    ],
)
def test_another_setting_is_named_with_both_values(
    prepared: Project, config: Config, split: str, slices: str
) -> None:
    before = modified_times(prepared.root)
    assert planned(prepared, config) == (split, slices)
    assert modified_times(prepared.root) == before


def test_another_input_is_named(prepared: Project) -> None:
    write_case(prepared, "case_03", shape=(22, 29, 6), seed=9)
    split, slices = planned(prepared)
    files = [f"DL_vol_files/binary/case_03_{kind}_Binary.npy changed" for kind in ("CTA", "NCCT_Reg")]
    masks = "the input DL_seg_files/binary/case_03_seg_corrected_binary.npy changed"
    assert split == f"make again, because {masks}, the input {files[0]}, the input {files[1]}"
    assert slices == f"make again, because {LATER}"


def test_a_new_case_a_lost_case_and_a_new_line_of_the_table_are_named(prepared: Project) -> None:
    write_case(prepared, "case_10")
    assert "cases.csv on case_10 is new, the input" in planned(prepared)[0]
    assert planned(prepared)[0].endswith("and 1 more")
    for path in [*prepared.root.rglob("DL_*/**/case_10*"), *prepared.root.rglob("DL_*/**/case_00*")]:
        path.unlink()
    assert "cases.csv on case_00 is gone" in planned(prepared)[0]
    write_case(prepared, "case_00", shape=(32, 32, 6))
    write_cases_csv(
        prepared, [{"case": f"case_{n:02d}", "site": "south" if n == 4 else ""} for n in range(10)]
    )
    assert planned(prepared)[0] == "make again, because cases.csv on case_04 changed"


@pytest.mark.parametrize("kind", ["tfrecord", "idx"])
def test_a_lost_or_shortened_output_is_named(prepared: Project, kind: str) -> None:
    file = sorted((prepared.sliced / "Validation").glob(f"*.{kind}"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    told = f"make again, because {file.name} of Validation is missing or has another size"
    assert planned(prepared) == ("reuse, because nothing changed", told)
    file.unlink()
    assert planned(prepared)[1] == told


def test_other_code_and_a_damaged_manifest_are_named(
    prepared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("clotseg.prep.stages.SLICE_CODE_VERSION", 99)
        assert planned(prepared)[1].endswith("because its code version changed from 2 to 99")
    (prepared.sliced / "Training" / "manifest.json").write_text("{")
    assert planned(prepared)[1] == "make again, because the manifest of Training is damaged"


def test_switches_are_the_reason_where_they_decide(prepared: Project) -> None:
    forced = "make again, because it was asked for with force"
    off = "reuse, because it is switched off"
    assert planned(prepared, split="force", slicing="off") == (forced, off)
    assert planned(prepared, changed("split", seed=2), split="off", slicing="force") == (off, forced)


def test_what_cannot_be_made_is_refused_with_the_reason_and_what_depends_on_it_too(cohort: Project) -> None:
    split, slices = planned(cohort, split="off")
    assert split.startswith("refuse, because ")
    assert "is not there (no manifest)" in split
    assert slices.startswith("refuse, because ")
    write_case(cohort, "case_04", shape=(64, 64, 3))
    split, slices = planned(cohort)
    assert split == slices
    assert "1 of 10 cases cannot be used" in split
    assert not cohort.processed.exists()


def test_a_training_cohort_without_clot_is_refused_where_only_clot_is_wanted(tmp_path: Path) -> None:
    project = write_cohort(tmp_path / "project", 0)
    for number in range(10):
        write_case(project, f"case_{number}", clot=False)
    for slices in ("clot", "balanced"):
        told = planned(project, changed("slice", slices=slices))
        assert told[0] == "make, because Original is not there yet"
        assert "no training case has a clot" in told[1]
    assert not project.processed.exists()


# Prepares a project, and tells how many bytes were read for it; importing counts for nothing.
WATCHED = """
import sys
from pathlib import Path
from clotseg.config import load_config
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project

def read():
    return int(Path("/proc/self/io").read_text().split()[1])

project = Project(Path(sys.argv[1]))
run_prep(Project(Path(sys.argv[2])), load_config(project.config_file), PlainProgress())
before = read()
run_prep(project, load_config(project.config_file), PlainProgress())
print(read() - before)
"""


def test_where_there_is_nothing_to_do_no_volume_is_read(cohort: Project, tmp_path: Path) -> None:
    project = write_cohort(tmp_path / "larger", shape=(96, 96, 16))
    volumes = sum(path.stat().st_size for path in project.root.rglob("*.npy"))
    read = []
    for _ in range(2):
        process = start_python(WATCHED, project.root, cohort.root)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        read.append(int(said))
    assert read[0] > volumes, "each was digested"
    assert read[1] < volumes / 5, "headers and manifests"
