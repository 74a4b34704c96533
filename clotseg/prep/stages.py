"""`clotseg prep`: cases in; what is in `Processed` out, each stage published in one step.

Every stage is planned before anything is written: reuse what is there, make it, or refuse. Nothing is written
before every case was checked, and the bytes do not depend on who makes them.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from clotseg import artifact
from clotseg.config import Config, SliceConfig, SplitConfig, plain
from clotseg.console import Progress
from clotseg.errors import ClotsegError, CorruptArtifactError, DataError
from clotseg.prep.cases import CheckedCase, survey_cases, tell_notices
from clotseg.prep.cohorts import (
    Cohorts,
    choose_members,
    publish_cohorts,
    read_cohorts,
    split_stage,
)
from clotseg.prep.flags import remember
from clotseg.prep.inputs import Inputs
from clotseg.prep.offline import augment_stage, make_augmented
from clotseg.prep.plan import Plan, Stage, Switch, plan_off, plan_stage, refused
from clotseg.prep.selection import slices_of_cohort
from clotseg.prep.shards import Shard, plan_shards, write_shard
from clotseg.prep.split import Members, read_split_file
from clotseg.project import COHORTS, SLICED_COHORTS, Project
from clotseg.tasks import open_workers

SLICE_CODE_VERSION = 2

VOXEL_BYTES = 5
"""Of CTA, NCCT and mask together, as they mostly come: two of 16 bits and one of 8."""


def run_prep(
    project: Project,
    config: Config,
    progress: Progress,
    *,
    split: Switch = "auto",
    slicing: Switch = "auto",
    augment: Switch = "off",
    flags: Mapping[str, Any] | None = None,
    split_key: str | None = None,
) -> dict[str, Any]:
    """Runs the stages that are not there yet.

    Args:
        project: where.
        config: all settings.
        progress: told of each stage.
        split, slicing: whether a stage reuses or makes, makes again, or takes what is there.
        augment: the same of the offline augmentation; nothing needs it, so `off` asks for nothing.
        flags: those that the settings hold, to be remembered, see `clotseg.prep.flags`; None leaves what is.
        split_key: that the split must come out with, as for a run that is gone on with; None for any.

    Returns:
        `{"stages": {"split": …, "slice": …}, "cohorts": {cohort: {"cases", "slices", "shards"}}}`, and the
        stage `augment` where it is not off.

    Raises:
        ConfigError: a transform is on that cannot be done offline.
        DataError: cases cannot be used, or a cohort would be empty; nothing was written.
        CorruptArtifactError: a stage is off and its output is missing, or the split would be another one.
        EnvironmentProblem: the disk refuses, a worker dies, or another prep runs here.
    """
    _recover(project, progress)
    work = _plan_split(project, config, progress, split)
    slice_plan = _plan_slice(project, config, work, slicing)
    augment_plan, to_augment = _plan_augment(project, config, work, slice_plan, augment)
    plans = [plan for plan in (work.plan, slice_plan, augment_plan) if plan is not None]
    for plan in plans:
        plan.require()
    if split_key is not None:
        _require_split(project, work, split_key)
    make = {plan.stage for plan in plans if plan.action == "make"}
    with _lock(project, progress) if make or (work.inputs and work.inputs.changed) else nullcontext():
        if flags is not None:
            remember(project, flags)
        if work.inputs is not None and work.inputs.changed:
            work.inputs.remember()
        if "split" in make and work.stage is not None:
            publish_cohorts(project, work.stage, work.checked, work.clot_slices, work.members)
        if "slice" in make:
            _make_slices(project, config, progress)
        if "augment" in make and to_augment is not None:
            cohorts = read_cohorts(project)
            slices = sliced_config(_read_sliced(project, "Training", cohorts.key))
            make_augmented(project, config, slices, to_augment, cohorts, progress)
    for plan in plans:
        why = {"because": plan.reason} if plan.action == "make" and plan.again else {}
        progress.say(plan.stage, state=plan.outcome, **why)
    return {"stages": {plan.stage: plan.outcome for plan in plans}, "cohorts": _cohort_facts(project)}


def _recover(project: Project, progress: Progress) -> None:
    """Ends a publication that a kill cut short, where one was."""
    published = (project.original, project.sliced, project.augmented)
    if any(artifact.interrupted(folder) for folder in published):
        with _lock(project, progress):
            for folder in published:
                artifact.recover(folder)


def _require_split(project: Project, work: "_SplitWork", key: str) -> None:
    """Refuses cases that would give another split, and a present split that would be replaced by that one."""
    if {work.key, _published_key(project) or key} != {key}:
        raise CorruptArtifactError(
            "the slices are not those that the run was begun with: cases, volumes or the split have changed",
            where=project.processed,
            fix="put the cohort back, `clotseg prep --dry-run` says what changed; or begin a new run",
        )


@contextmanager
def _lock(project: Project, progress: Progress) -> Iterator[None]:
    with artifact.project_lock(project.processed) as left_by:
        if left_by:
            progress.say("lock", state="taken over", left_by=left_by)
        yield


def plan_prep(
    project: Project,
    config: Config,
    progress: Progress,
    *,
    split: Switch = "auto",
    slicing: Switch = "auto",
    augment: Switch = "off",
) -> dict[str, Any]:
    """What `run_prep` would do, and why; writes nothing.

    Returns:
        `{"stages": {"split": {"action", "reason", "told"}, "slice": …}}`, actions being reuse, make and
        refuse; `told` is the whole sentence.
    """
    work = _plan_split(project, config, progress, split)
    slice_plan = _plan_slice(project, config, work, slicing)
    augment_plan, _ = _plan_augment(project, config, work, slice_plan, augment)
    return {
        "stages": {
            plan.stage: {"action": plan.action, "reason": plan.reason, "told": plan.told}
            for plan in (work.plan, slice_plan, augment_plan)
            if plan is not None
        }
    }


def read_sliced(project: Project, cohort: str, split_key: str | None = None) -> dict[str, Any]:
    """The manifest of a sliced cohort, held against the present split and the files' sizes.

    Args:
        project: where.
        cohort: its name.
        split_key: the key of the present split, where it was read already: that takes long in large projects.

    Raises:
        CorruptArtifactError: it is missing or damaged, or was made from another split.
    """
    return _read_sliced(project, cohort, split_key or read_cohorts(project).key)


def sliced_config(manifest: dict[str, Any]) -> SliceConfig:
    """The settings that a sliced cohort was made with."""
    config: SliceConfig = TypeAdapter(SliceConfig).validate_python(manifest["config"])
    return config


def _read_sliced(project: Project, cohort: str, split_key: str) -> dict[str, Any]:
    folder = project.sliced / cohort
    manifest = artifact.require_manifest(folder, fix="run `clotseg prep` first")
    if manifest["split_key"] != split_key:
        raise CorruptArtifactError(
            "these slices were made from another split than the one in Processed/Original",
            where=folder,
            fix="run `clotseg prep` again",
        )
    artifact.require_intact(folder, manifest, fix="run `clotseg prep --slice force`")
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class _SplitWork:
    """The planned split; what it is made from is there only where it will be made.

    Attributes:
        key: of the split that the slices will be made from; None where there will be none.
    """

    plan: Plan
    key: str | None
    inputs: Inputs | None = None
    stage: Stage | None = None
    checked: list[CheckedCase]
    clot_slices: dict[str, tuple[int, ...]]
    members: Members


def _plan_split(project: Project, config: Config, progress: Progress, switch: Switch) -> _SplitWork:
    nothing: dict[str, Any] = {"checked": [], "clot_slices": {}, "members": {}}
    if switch == "off":
        plan = plan_off("split", (project.original,))
        return _SplitWork(plan=plan, key=_published_key(project), **nothing)
    try:
        cases, findings = survey_cases(project)
        inputs = Inputs(project, config, progress, cases, findings)
        given = _given_members(project, config.split, inputs)
        stage = split_stage(project, config.split, inputs.cases, inputs.digests(), given)
        plan = plan_stage(stage, switch)
        if plan.action == "reuse":
            return _SplitWork(plan=plan, key=stage.key, inputs=inputs, **nothing)
        checked, clot_slices = inputs.checked()
        tell_notices(checked, progress)
        members = choose_members(checked, config.split, given)
    except DataError as error:
        return _SplitWork(plan=refused("split", error), key=None, **nothing)
    return _SplitWork(
        plan=plan,
        key=stage.key,
        inputs=inputs,
        stage=stage,
        checked=checked,
        clot_slices=clot_slices,
        members=members,
    )


def _given_members(project: Project, config: SplitConfig, inputs: Inputs) -> Members | None:
    if not config.file:
        return None
    return read_split_file(project.root / config.file, {case.name: case.patient for case in inputs.cases})


def _published_key(project: Project) -> str | None:
    with suppress(ClotsegError):
        return read_cohorts(project).key
    return None


def _slice_stage(project: Project, config: Config, split_key: str) -> Stage:
    return Stage(
        name="slice",
        code_version=SLICE_CODE_VERSION,
        config=plain(config.slice),
        facts={"Processed/Original": split_key},
        targets=tuple(project.sliced / cohort for cohort in SLICED_COHORTS),
    )


def _plan_slice(project: Project, config: Config, work: _SplitWork, switch: Switch) -> Plan:
    if switch == "off":
        return plan_off("slice", tuple(project.sliced / cohort for cohort in SLICED_COHORTS))
    if work.plan.error is not None or work.key is None:
        return refused("slice", work.plan.error or CorruptArtifactError("is damaged", where=project.original))
    plan = plan_stage(_slice_stage(project, config, work.key), switch)
    if plan.action == "make" and config.slice.slices != "all":
        clots, training = work.clot_slices, work.members.get("Training", ())
        if not training:
            cohorts = read_cohorts(project)
            clots, training = cohorts.clot_slices, cohorts.members["Training"]
        if not any(clots[case] for case in training):
            return refused("slice", _no_clot(config))
    return plan


def _plan_augment(
    project: Project, config: Config, work: _SplitWork, slice_plan: Plan, switch: Switch
) -> tuple[Plan | None, Stage | None]:
    """The plan, and what is made; neither where the stage is off."""
    if switch == "off":
        return None, None
    if slice_plan.error is not None:
        return refused("augment", slice_plan.error), None
    key = _slice_stage(project, config, work.key or "").key
    if slice_plan.switched_off:
        key = artifact.require_manifest(project.sliced / "Training", fix="run `clotseg prep` first")["key"]
    stage = augment_stage(project, config, key)
    return plan_stage(stage, switch), stage


def _no_clot(config: Config) -> DataError:
    return DataError(
        f"no training case has a clot, so slices = {config.slice.slices} leaves nothing; nothing was written",
        where="slice",
        fix="use --slices all, or --stratify clot",
    )


def _make_slices(project: Project, config: Config, progress: Progress) -> None:
    """One task a shard, whoever runs it; the manifests are written when all are there."""
    cohorts = read_cohorts(project)
    stage = _slice_stage(project, config, cohorts.key)
    planned = {
        cohort: plan_shards(
            cohorts.of(cohort), config.slice.slices_per_shard, slices_of_cohort(cohorts, cohort, config.slice)
        )
        for cohort in SLICED_COHORTS
    }
    with artifact.publish(project.sliced) as folder:
        for cohort in SLICED_COHORTS:
            (folder / cohort).mkdir()
        tasks = [
            (folder / cohort, shard, config.slice) for cohort, shards in planned.items() for shard in shards
        ]
        cases = [entry for cohort in SLICED_COHORTS for entry in cohorts.of(cohort)]
        to_read = sum(VOXEL_BYTES * prod(entry.shape) for entry in cases)
        with (
            progress.bar("slice", sum(len(shard.cases) for _, shard, _ in tasks), "cases") as advance,
            open_workers(config.runtime, project.root, to_read) as workers,
        ):
            written = workers.run(write_shard, tasks, lambda number: advance(len(tasks[number][1].cases)))
        for cohort in SLICED_COHORTS:
            done = [
                outputs
                for (target, _, _), outputs in zip(tasks, written, strict=True)
                if target.name == cohort
            ]
            _write_manifest(folder / cohort, stage, cohorts, planned[cohort], done)


def _write_manifest(
    folder: Path,
    stage: Stage,
    cohorts: Cohorts,
    shards: list[Shard],
    written: Iterable[dict[str, dict[str, Any]]],
) -> None:
    """`cases` tells how many slices the volume of each case has, and how many records it gave."""
    records = {
        case.name: len(numbers)
        for shard in shards
        for case, numbers in zip(shard.cases, shard.numbers, strict=True)
    }
    manifest = stage.manifest(
        cohort=folder.name,
        split_key=cohorts.key,
        inputs={name: cohorts.digests[name] for name in cohorts.members[folder.name]},
        outputs={name: facts for outputs in written for name, facts in outputs.items()},
        shards=[{"name": s.name, "records": s.records, "first_uid": s.first_uid} for s in shards],
        records=sum(shard.records for shard in shards),
        cases=[
            {"case": name, "slices": cohorts.cases[name].shape[2], "records": records.get(name, 0)}
            for name in cohorts.members[folder.name]
        ],
    )
    artifact.write_manifest(folder, manifest)


def _cohort_facts(project: Project) -> dict[str, Any]:
    cohorts = read_cohorts(project)
    facts: dict[str, Any] = {}
    for cohort in COHORTS:
        shards: list[str] = []
        slices = sum(entry.shape[2] for entry in cohorts.of(cohort))
        if cohort in SLICED_COHORTS:
            manifest = _read_sliced(project, cohort, cohorts.key)
            shards = [project.shown(project.sliced / cohort / shard["name"]) for shard in manifest["shards"]]
            slices = manifest["records"]
        facts[cohort] = {"cases": list(cohorts.members[cohort]), "slices": slices, "shards": shards}
    return facts
