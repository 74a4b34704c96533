"""`clotseg prep`: cases in; `Processed/Original` and `Processed/Sliced` out, each published in one step.

Both stages have a key. Where the key and the files of an earlier output agree, it is reused; nothing is
written before every case was checked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clotseg import artifact
from clotseg.artifact import DigestCache
from clotseg.config import Config, plain
from clotseg.console import Progress
from clotseg.errors import CorruptArtifactError
from clotseg.prep.cases import CheckedCase, check_cases, survey_cases, tell_notices
from clotseg.prep.cohorts import Cohorts, cohorts_key, publish_cohorts, read_cohorts
from clotseg.prep.shards import plan_shards, write_shard
from clotseg.prep.split import split_cases
from clotseg.project import COHORTS, SLICED_COHORTS, Project
from clotseg.quiet import load_tensorflow

SLICE_CODE_VERSION = 1

Switch = Literal["auto", "force", "off"]
Outcome = Literal["made", "reused", "off"]


def run_prep(
    project: Project, config: Config, progress: Progress, *, split: Switch = "auto", slicing: Switch = "auto"
) -> dict[str, Any]:
    """Runs the stages that are not there yet.

    Returns:
        `{"stages": {"split": …, "slice": …}, "cohorts": {cohort: {"cases", "slices", "shards"}}}`.

    Raises:
        DataError: cases cannot be used, or a cohort would be empty; nothing was written.
        CorruptArtifactError: a stage is off and its output is missing.
        EnvironmentProblem: the disk refuses, or another prep runs here.
    """
    plan = None if split == "off" else _plan_split(project, config, progress, split)
    with artifact.project_lock(project.processed) as left_by:
        if left_by:
            progress.say("lock", state="taken over", left_by=left_by)
        for stage_folder in (project.original, project.sliced):
            artifact.recover(stage_folder)
        outcomes: dict[str, Outcome] = {
            "split": _split_stage(project, config, plan),
            "slice": _slice_stage(project, config, progress, slicing),
        }
    for stage, outcome in outcomes.items():
        progress.say(stage, state=outcome)
    return {"stages": outcomes, "cohorts": _cohort_facts(project)}


def read_sliced(project: Project, cohort: str) -> dict[str, Any]:
    """The manifest of a sliced cohort, held against the present split and the files' sizes.

    Raises:
        CorruptArtifactError: it is missing or damaged, or was made from another split.
    """
    folder = project.sliced / cohort
    manifest = artifact.require_manifest(folder, fix="run `clotseg prep` first")
    if manifest["split_key"] != read_cohorts(project).key:
        raise CorruptArtifactError(
            "these slices were made from another split than the one in Processed/Original",
            where=folder,
            fix="run `clotseg prep` again",
        )
    if not artifact.outputs_intact(folder, manifest):
        raise CorruptArtifactError(
            "shards are missing or have another size than when they were written",
            where=folder,
            fix="run `clotseg prep --slice force`",
        )
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class _SplitPlan:
    """What the split stage will do, decided before anything is written; `checked` is None to reuse."""

    inputs: DigestCache
    checked: list[CheckedCase] | None
    members: dict[str, tuple[str, ...]]


def _plan_split(project: Project, config: Config, progress: Progress, switch: Switch) -> _SplitPlan:
    cases, findings = survey_cases(project)
    limit = config.feed.size if isinstance(config.feed.size, int) else None
    if findings:
        with progress.bar("check", len(cases), "cases") as advance:
            check_cases(cases, largest_slice=limit, on_case=advance, findings=findings)
    inputs = DigestCache(project.processed / ".digests.json")
    with progress.bar("fingerprint", len(cases), "cases") as advance:
        for case in cases:
            for path in case.files:
                inputs.add(path, project.shown(path))
            advance()
    key = cohorts_key(cases, inputs.digests, config.split)
    if switch == "auto" and artifact.reusable(project.original, key):
        return _SplitPlan(inputs=inputs, checked=None, members={})
    with progress.bar("check", len(cases), "cases") as advance:
        checked = check_cases(cases, largest_slice=limit, on_case=advance)
    tell_notices(checked, progress)
    members = split_cases({case.name: case.patient for case in cases}, config.split)
    return _SplitPlan(inputs=inputs, checked=checked, members=members)


def _split_stage(project: Project, config: Config, plan: _SplitPlan | None) -> Outcome:
    if plan is None:
        artifact.require_manifest(project.original, fix="run prep without `--split off`")
        return "off"
    plan.inputs.save()
    if plan.checked is None:
        return "reused"
    publish_cohorts(project, plan.checked, plan.members, config.split, plan.inputs.digests)
    return "made"


def _slice_stage(project: Project, config: Config, progress: Progress, switch: Switch) -> Outcome:
    if switch == "off":
        for cohort in SLICED_COHORTS:
            artifact.require_manifest(project.sliced / cohort, fix="run prep without `--slice off`")
        return "off"
    cohorts = read_cohorts(project)
    key = artifact.stage_key("slice", SLICE_CODE_VERSION, plain(config.slice), cohorts.key)
    if switch == "auto" and all(artifact.reusable(project.sliced / cohort, key) for cohort in SLICED_COHORTS):
        return "reused"
    load_tensorflow()
    with artifact.publish(project.sliced) as folder:
        for cohort in SLICED_COHORTS:
            (folder / cohort).mkdir()
            _write_sliced(folder / cohort, cohorts, cohort, config, key, progress)
    return "made"


def _write_sliced(
    folder: Path, cohorts: Cohorts, cohort: str, config: Config, key: str, progress: Progress
) -> None:
    members = cohorts.of(cohort)
    shards = plan_shards(members, config.slice.slices_per_shard)
    with progress.bar(f"slice {cohort}", len(members), "cases") as advance:
        for shard in shards:
            for _ in write_shard(folder, shard, config.slice):
                advance()
    names = cohorts.members[cohort]
    manifest = {
        "format": artifact.FORMAT,
        "stage": "slice",
        "cohort": cohort,
        "code_version": SLICE_CODE_VERSION,
        "key": key,
        "split_key": cohorts.key,
        "config": plain(config.slice),
        "inputs": {name: cohorts.digests[name] for name in names},
        "outputs": artifact.describe_outputs(
            folder, [file for s in shards for file in (s.name, s.index_name)]
        ),
        "shards": [{"name": s.name, "records": s.records, "first_uid": s.first_uid} for s in shards],
        "records": sum(shard.records for shard in shards),
        "cases": [{"case": entry.case.name, "slices": entry.shape[2]} for entry in members],
    }
    artifact.write_manifest(folder, manifest)


def _cohort_facts(project: Project) -> dict[str, Any]:
    cohorts = read_cohorts(project)
    facts: dict[str, Any] = {}
    for cohort in COHORTS:
        shards: list[str] = []
        if cohort in SLICED_COHORTS:
            folder = project.sliced / cohort
            shards = [
                project.shown(folder / shard["name"]) for shard in read_sliced(project, cohort)["shards"]
            ]
        facts[cohort] = {
            "cases": list(cohorts.members[cohort]),
            "slices": sum(entry.shape[2] for entry in cohorts.of(cohort)),
            "shards": shards,
        }
    return facts
