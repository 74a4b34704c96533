"""What a network's weights have learnt from: a forked run inherits the cases of the run it was forked from.

A case is known by its CTA, so that it is found again in another project; of runs of the same project the
patients are known too. Without this a run forked after a new split would be tested on patients it was
trained on.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clotseg.errors import CorruptArtifactError, DataError
from clotseg.prep.cohorts import Cohorts
from clotseg.project import Project, Run
from clotseg.train.checkpoint import DESCRIPTION, read_description, run_of
from clotseg.train.records import read_record

NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Cases that decided weights.

    Attributes:
        patients: of this project.
        volumes: SHA-256 of their CTA, whatever project they came from.
    """

    patients: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()

    def __or__(self, other: "Seen") -> "Seen":
        return Seen(patients=self.patients | other.patients, volumes=self.volumes | other.volumes)

    def among(self, cohorts: Cohorts, cohort: str) -> list[str]:
        """The patients of a cohort that were seen, in any of their cases."""
        known = self.patients | {
            entry.case.patient
            for name, entry in cohorts.cases.items()
            if cohorts.digests[name][0] in self.volumes
        }
        return sorted(known & {entry.case.patient for entry in cohorts.of(cohort)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Ancestry:
    """What weights come from.

    Attributes:
        trained: whose slices they were fitted to.
        validated: by whose Dice they were chosen.
        forked_from: the checkpoint that they began as, as a path; empty where they began at random.
        sha256: of its weights.
    """

    trained: Seen
    validated: Seen
    forked_from: str = ""
    sha256: str = ""

    def recorded(self) -> dict[str, Any]:
        """As `run.json` keeps it."""
        seen = {
            name: {kind: sorted(values) for kind, values in asdict(getattr(self, name)).items()}
            for name in ("trained", "validated")
        }
        return {**seen, "forked_from": self.forked_from, "sha256": self.sha256}


def ancestry(project: Project, cohorts: Cohorts, fork: Path | None) -> Ancestry:
    """What a new run's weights will have learnt from.

    Args:
        project: whose run it is.
        cohorts: its split.
        fork: the folder of the checkpoint that it begins from, or None.

    Raises:
        DataError: the weights it begins from have seen patients that it would be tested or validated on.
        CorruptArtifactError: the record of the run it begins from is damaged.
    """
    own = {cohort: _seen_in(cohorts, cohort) for cohort in ("Training", "Validation")}
    if fork is None:
        return Ancestry(trained=own["Training"], validated=own["Validation"])
    before = _recorded(project, fork)
    _refuse(before.trained | before.validated, cohorts, "Testing", fork)
    _refuse(before.trained, cohorts, "Validation", fork)
    return Ancestry(
        trained=before.trained | own["Training"],
        validated=before.validated | own["Validation"],
        forked_from=project.shown(fork),
        sha256=read_description(fork).sha256,
    )


def beginning(project: Project, run: Run) -> Path | None:
    """The folder of the checkpoint that a run began from; None where its weights began at random.

    Raises:
        CorruptArtifactError: it is not there any more, or holds other weights now.
    """
    kept: dict[str, Any] = read_record(run).get("ancestry", {})
    if not kept.get("forked_from"):
        return None
    folder: Path = project.root / kept["forked_from"]
    if not (folder / DESCRIPTION).is_file() or read_description(folder).sha256 != kept["sha256"]:
        raise CorruptArtifactError(
            "the weights that this run began from are gone, and it had kept no state yet",
            where=folder,
            fix="begin a new run",
        )
    return folder


def _seen_in(cohorts: Cohorts, cohort: str) -> Seen:
    members = cohorts.members[cohort]
    return Seen(
        patients=frozenset(cohorts.cases[name].case.patient for name in members),
        volumes=frozenset(cohorts.digests[name][0] for name in members),
    )


def _recorded(project: Project, folder: Path) -> Ancestry:
    """Of a checkpoint; empty where it lies in no run. Patients of another project are other patients."""
    run = run_of(folder)
    if not run.record.is_file():
        return Ancestry(trained=Seen(), validated=Seen())
    here = run.folder.resolve().parent == project.trainings.resolve()
    kept: dict[str, Any] = read_record(run).get("ancestry", {})

    def seen(name: str) -> Seen:
        facts = kept.get(name, {})
        return Seen(
            patients=frozenset(facts.get("patients", ()) if here else ()),
            volumes=frozenset(facts.get("volumes", ())),
        )

    return Ancestry(trained=seen("trained"), validated=seen("validated"))


def _refuse(seen: Seen, cohorts: Cohorts, cohort: str, folder: Path) -> None:
    if found := seen.among(cohorts, cohort):
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise DataError(
            f"these weights have seen {len(found)} patients of the present {cohort} cohort "
            f"({', '.join(found[:NAMED])}{more}), so what is measured there would be false",
            where=folder,
            fix="keep patients in their cohorts with `clotseg prep --split-file`, or train without --fork",
        )
