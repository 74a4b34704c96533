"""What is tested: checkpoints, or the runs of all folds, in; networks and the cases they never saw out.

A run is only asked about the test cohort of the split it was trained with, and its threshold is chosen on
that split's validation cohort, so no training patient can be among either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clotseg import artifact
from clotseg.config import load_config
from clotseg.errors import ConfigError, CorruptArtifactError, DataError
from clotseg.prep.cases import CheckedCase
from clotseg.prep.cohorts import SPLIT_FILE, Cohorts, split_stage
from clotseg.project import COHORTS, Project, Run
from clotseg.train.checkpoint import Description, find_checkpoint, read_description, run_of
from clotseg.train.records import read_record, runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Networks that answer together, and the cases they may be asked about.

    Attributes:
        checkpoints: a checkpoint folder for each network.
        descriptions: what each says of its network.
        split_key: of the split they were trained with.
        training: its training cohort.
        validation: its validation cohort.
        testing: its test cohort.
    """

    checkpoints: tuple[Path, ...]
    descriptions: tuple[Description, ...]
    split_key: str
    training: tuple[CheckedCase, ...]
    validation: tuple[CheckedCase, ...]
    testing: tuple[CheckedCase, ...]

    @property
    def run(self) -> Run:
        """The run of the first network."""
        return run_of(self.checkpoints[0])

    @property
    def weights(self) -> tuple[str, ...]:
        """SHA-256 of each network's weights."""
        return tuple(description.sha256 for description in self.descriptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is tested.

    Attributes:
        arms: one, or one for each fold; no case is tested by two.
        target: the folder for the results, in the run of the first network.
    """

    arms: tuple[Arm, ...]
    target: Path

    @property
    def tested(self) -> list[CheckedCase]:
        """The cases of all arms."""
        return [entry for arm in self.arms for entry in arm.testing]


def find_subject(
    project: Project, cohorts: Cohorts, *, checkpoints: Sequence[Path], folds: Sequence[Path]
) -> Subject:
    """What the user's paths mean.

    Args:
        project: whose runs.
        cohorts: the present split.
        checkpoints: runs, checkpoint folders or weights files that answer together; none for the newest run.
        folds: runs of a cross-validation instead; each is asked about its own test cohort.

    Raises:
        ConfigError: both checkpoints and folds are named, or one is named twice.
        DataError: there is no such checkpoint, or the folds do not test every case once.
        CorruptArtifactError: a run was trained with another split, or on other volumes.
    """
    if checkpoints and folds:
        raise ConfigError(
            "an ensemble answers together, folds answer each for its own cases; name one or the other",
            where="--ckpt, --folds",
        )
    if folds:
        arms = tuple(_fold(project, cohorts, path) for path in folds)
        _require_each_case_once(cohorts, arms)
    else:
        arms = (_together(cohorts, checkpoints or [newest_best(project)]),)
    weights = [digest for arm in arms for digest in arm.weights]
    if len(set(weights)) < len(weights):
        raise ConfigError("the same weights are named twice", where="--folds" if folds else "--ckpt")
    name = arms[0].checkpoints[0].name
    if len(weights) > 1:
        kind = "Folds" if folds else "Ensemble"
        name = f"{kind}-{artifact.stage_key('subject', 1, kind, weights)[:8]}"
    return Subject(arms=arms, target=arms[0].run.testing(name))


def newest_best(project: Project) -> Path:
    """The checkpoint folder of the newest run's best weights.

    Raises:
        DataError: there is no run with weights.
    """
    trained = [run for run in runs(project) if (run.best / "network.json").is_file()]
    if not trained:
        raise DataError("has no trained run yet", where=project.trainings, fix="run `clotseg train` first")
    return trained[-1].best


def _together(cohorts: Cohorts, paths: Sequence[Path]) -> Arm:
    folders = [find_checkpoint(path) for path in paths]
    for folder in folders:
        run = run_of(folder)
        if read_record(run)["split_key"] != cohorts.key:
            raise CorruptArtifactError(
                "this run was trained with another split than the one in Processed/Original, so the present "
                "test cohort may hold its training patients",
                where=run.folder,
                fix="run `clotseg prep` with the run's own split settings, or train again",
            )
    return _arm(folders, cohorts, cohorts.members, cohorts.key)


def _fold(project: Project, cohorts: Cohorts, path: Path) -> Arm:
    """A run with the cohorts of its own split, made from the very volumes that are there now."""
    folder = find_checkpoint(path)
    run = run_of(folder)
    config = load_config(run.relevant / "clotseg.toml").split
    try:
        listed: Any = artifact.read_json(run.relevant / SPLIT_FILE)["cohorts"]
        members = {cohort: tuple(map(str, listed[cohort])) for cohort in COHORTS}
    except (KeyError, TypeError) as error:
        raise CorruptArtifactError(f"lacks {error}", where=run.relevant / SPLIT_FILE) from error
    cases = [cohorts.cases[name].case for name in sorted(cohorts.cases)]
    inputs = artifact.require_manifest(project.original, fix="run `clotseg prep` first")["inputs"]
    key = split_stage(project, config, cases, inputs, members if config.file else None).key
    if key != read_record(run)["split_key"] or not set().union(*members.values()) <= set(cohorts.cases):
        raise CorruptArtifactError(
            "this run was trained on other cases, or other volumes of them, than those in Processed/Original",
            where=run.folder,
            fix="run `clotseg prep` on the volumes that it was trained on, or train it again",
        )
    return _arm([folder], cohorts, members, key)


def _arm(folders: Sequence[Path], cohorts: Cohorts, members: Mapping[str, Sequence[str]], key: str) -> Arm:
    return Arm(
        checkpoints=tuple(folders),
        descriptions=tuple(read_description(folder) for folder in folders),
        split_key=key,
        training=tuple(cohorts.cases[name] for name in members["Training"]),
        validation=tuple(cohorts.cases[name] for name in members["Validation"]),
        testing=tuple(cohorts.cases[name] for name in members["Testing"]),
    )


def _require_each_case_once(cohorts: Cohorts, arms: Sequence[Arm]) -> None:
    tested = [entry.case.name for arm in arms for entry in arm.testing]
    faults = [
        f"{name} is tested by {tested.count(name)} of the runs"
        for name in sorted(set(tested))
        if tested.count(name) > 1
    ]
    faults += [f"{name} is tested by none" for name in sorted(set(cohorts.cases) - set(tested))]
    if faults:
        raise DataError(
            f"these {len(arms)} runs do not test every case once",
            where="--folds",
            details=faults[:10],
            fix="name the run of every fold of one cross-validation, each once",
        )
