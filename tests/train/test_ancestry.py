"""Weights that begin as another run's have seen its cases: none of these may be tested or validated on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clotseg.artifact import FORMAT, write_json
from clotseg.config import Config, plain
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.prep.cohorts import Cohorts, read_cohorts
from clotseg.project import Project
from clotseg.train.ancestry import Ancestry, Seen, ancestry, beginning
from clotseg.train.checkpoint import DESCRIPTION, run_of
from clotseg.train.records import open_run, read_record
from tests.conftest import copy_of
from tests.train.conftest import description


@pytest.fixture
def project(sliced_project: Project, tmp_path: Path) -> Project:
    """A prepared project of its own."""
    return copy_of(sliced_project, tmp_path / "project")


def rearranged(cohorts: Cohorts, **where: str) -> Cohorts:
    """The same cases, each cohort with the members of another."""
    members = {to: cohorts.members[of] for to, of in where.items()}
    return replace(cohorts, members={**cohorts.members, **members})


def begun(project: Project, cohorts: Cohorts, fork: Path | None = None) -> Path:
    """The checkpoint folder of a run on these cohorts; nothing is trained."""
    origin = ancestry(project, cohorts, fork)
    keys = {"key": "key", "asked_key": "asked", "split_key": "split"}
    with open_run(project, Config(), "CPU", known={"ancestry": origin.recorded()}, **keys) as run:
        assert read_record(run)["ancestry"]["forked_from"] == ("" if fork is None else project.shown(fork))
        return described(run.best)


def described(folder: Path) -> Path:
    """The folder of a checkpoint, as far as its description goes."""
    folder.mkdir(parents=True)
    facts = {**plain(description()), "weights": "some.weights.h5", "sha256": f"{len(str(folder)):064x}"}
    write_json(folder / DESCRIPTION, {"format": FORMAT, **facts})
    return folder


def test_a_run_of_the_same_split_may_be_gone_on_from(project: Project) -> None:
    cohorts = read_cohorts(project)
    first = ancestry(project, cohorts, None)
    forked = ancestry(project, cohorts, begun(project, cohorts))
    assert (forked.trained, forked.validated) == (first.trained, first.validated)
    assert first.trained.patients == {entry.case.patient for entry in cohorts.of("Training")}


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ({"Testing": "Training", "Training": "Testing"}, "Testing"),
        ({"Testing": "Validation", "Validation": "Testing"}, "Testing"),
        ({"Validation": "Training", "Training": "Validation"}, "Validation"),
    ],
    ids=["trained on", "chosen by", "validated on what was trained on"],
)
def test_weights_are_refused_where_they_have_seen_who_is_asked_about(
    project: Project, where: dict[str, str], named: str
) -> None:
    cohorts = read_cohorts(project)
    best = begun(project, cohorts)
    with pytest.raises(DataError, match=f"patients of the present {named} cohort") as caught:
        ancestry(project, rearranged(cohorts, **where), best)
    assert str(best) in str(caught.value)
    assert cohorts.of(where[named])[0].case.patient in str(caught.value)


def test_what_a_run_was_forked_from_is_inherited_by_forks_of_it(project: Project) -> None:
    cohorts = read_cohorts(project)
    first = begun(project, cohorts)
    # The first run's training cases are in no cohort of the second one.
    second = rearranged(cohorts, Training="Validation")
    grandchild = begun(project, second, first)
    with pytest.raises(DataError, match="present Testing cohort"):
        ancestry(project, rearranged(second, Testing="Training"), grandchild)
    third = replace(second, members={**second.members, "Testing": cohorts.members["Training"]})
    with pytest.raises(DataError, match="present Testing cohort"):
        ancestry(project, third, grandchild)


def test_cases_are_known_again_in_another_project_but_patients_of_the_same_name_are_others(
    project: Project, tmp_path: Path
) -> None:
    cohorts = read_cohorts(project)
    best = begun(project, cohorts)
    elsewhere = Project(tmp_path / "elsewhere")
    swapped = rearranged(cohorts, Testing="Training", Training="Testing")
    renamed = {
        name: replace(entry, case=replace(entry.case, patient=f"other {entry.case.patient}"))
        for name, entry in swapped.cases.items()
    }
    with pytest.raises(DataError, match="other "):
        ancestry(elsewhere, replace(swapped, cases=renamed), best)
    other_volumes = dict.fromkeys(swapped.digests, ("0" * 64, "1" * 64, "2" * 64))
    forked = ancestry(elsewhere, replace(swapped, digests=other_volumes), best)
    assert forked.trained.patients == {entry.case.patient for entry in swapped.of("Training")}


def test_another_case_of_a_seen_patient_counts_as_seen(project: Project) -> None:
    cohorts = read_cohorts(project)
    one, other = cohorts.members["Training"][0], cohorts.members["Testing"][0]
    patient = cohorts.cases[one].case.patient
    same = replace(cohorts.cases[other], case=replace(cohorts.cases[other].case, patient=patient))
    seen = Seen(volumes=frozenset({cohorts.digests[one][0]}))
    assert seen.among(cohorts, "Testing") == []
    assert seen.among(replace(cohorts, cases={**cohorts.cases, other: same}), "Testing") == [patient]


def test_weights_without_a_record_are_taken_as_having_seen_nothing(project: Project, tmp_path: Path) -> None:
    folder = described(tmp_path / "weights" / "Best_Model")
    found = ancestry(project, read_cohorts(project), folder)
    assert isinstance(found, Ancestry)
    assert found.forked_from == str(folder)


def test_a_forked_run_that_kept_no_state_begins_from_the_same_weights_or_not_at_all(project: Project) -> None:
    cohorts = read_cohorts(project)
    first = begun(project, cohorts)
    second = begun(project, cohorts, first)
    assert beginning(project, run_of(first)) is None
    assert beginning(project, run_of(second)) == first
    facts = json.loads((first / DESCRIPTION).read_text())
    write_json(first / DESCRIPTION, {**facts, "sha256": "f" * 64})
    with pytest.raises(CorruptArtifactError, match="began from are gone"):
        beginning(project, run_of(second))
    (first / DESCRIPTION).unlink()
    with pytest.raises(CorruptArtifactError, match="began from are gone"):
        beginning(project, run_of(second))
