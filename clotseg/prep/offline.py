"""The augment stage: sliced cohorts in; `Processed/Augmented`, published in one step, out.

It is for those who want the files. Nothing needs it: training augments afresh in every epoch, unless it is
told to take these.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from math import prod
from typing import Any

from clotseg import artifact
from clotseg.config import AugmentConfig, Config, SliceConfig, plain
from clotseg.console import Progress
from clotseg.errors import CorruptArtifactError
from clotseg.prep.augmented import AugmentedShard, plan_augmented, write_augmented
from clotseg.prep.cohorts import Cohorts
from clotseg.prep.plan import Stage
from clotseg.prep.selection import slices_of_cohort
from clotseg.project import Project
from clotseg.tasks import open_workers

AUGMENT_CODE_VERSION = 1


def augment_stage(project: Project, config: Config, slice_key: str) -> Stage:
    """What decides the augmented slices: both sections of settings, and the slices they are made from."""
    return Stage(
        name="augment",
        code_version=AUGMENT_CODE_VERSION,
        config={**plain(_original(config.augment)), "offline": plain(config.offline)},
        inputs={},
        facts={"Processed/Sliced": slice_key},
        targets=tuple(project.augmented / cohort for cohort, _ in _targets(config)),
    )


def _targets(config: Config) -> Iterator[tuple[str, int]]:
    """Which cohorts are augmented, and how many samples each gets."""
    yield "Training", config.offline.target_train
    if config.offline.validation:
        yield "Validation", config.offline.target_val


def _extras(config: AugmentConfig) -> list[str]:
    """The transforms that are on and that the original does not have."""
    return [field.name for field in fields(config) if field.default == 0.0 and getattr(config, field.name)]


def _original(config: AugmentConfig) -> AugmentConfig:
    """The settings of the original's six transforms."""
    off: dict[str, Any] = dict.fromkeys(_extras(config), 0.0)
    return replace(config, **off)


def make_augmented(
    project: Project, config: Config, slicing: SliceConfig, stage: Stage, cohorts: Cohorts, progress: Progress
) -> None:
    """Writes the shards, one task each, and publishes them.

    Args:
        project: where to.
        config: augmentation, targets and workers.
        slicing: the settings that the sliced cohorts were made with.
        stage: what `augment_stage` gave.
        cohorts: the published split.
        progress: told of each shard.
    """
    if extras := _extras(config.augment):
        left_out = f"{' and '.join(extras)}: left out, offline there are the original's six transforms"
        progress.say("augment", warning=left_out)
    if config.offline.validation:
        progress.say("augment", warning="the validation cohort is augmented too; no score must rest on it")
    planned = {
        cohort: plan_augmented(
            cohorts.of(cohort),
            slices_of_cohort(cohorts, cohort, slicing),
            target=target,
            per_shard=slicing.slices_per_shard,
            seed=config.offline.seed,
        )
        for cohort, target in _targets(config)
    }
    with artifact.publish(project.augmented) as folder:
        for cohort in planned:
            (folder / cohort).mkdir()
        tasks = [
            (folder / cohort, shard, slicing, config.augment, config.offline)
            for cohort, shards in planned.items()
            for shard in shards
        ]
        voxels = sum(prod(entry.shape) for cohort in planned for entry in cohorts.of(cohort))
        with (
            progress.bar("augment", sum(shard.records for _, shard, *_ in tasks), "samples") as advance,
            open_workers(config.runtime, project.root, voxels) as workers,
        ):
            written = workers.run(write_augmented, tasks, lambda number: advance(tasks[number][1].records))
        for cohort, shards in planned.items():
            done = [outputs for task, outputs in zip(tasks, written, strict=True) if task[0].name == cohort]
            outputs = {name: facts for of_shard in done for name, facts in of_shard.items()}
            artifact.write_manifest(folder / cohort, _manifest(stage, cohort, shards, outputs))


def _manifest(
    stage: Stage, cohort: str, shards: list[AugmentedShard], outputs: dict[str, Any]
) -> dict[str, Any]:
    samples: dict[str, int] = {}
    for case, sources in (entry for shard in shards for entry in shard.sources):
        samples[case.name] = samples.get(case.name, 0) + sum(len(source.copies) for source in sources)
    return stage.manifest(
        cohort=cohort,
        outputs=outputs,
        shards=[{"name": s.name, "records": s.records, "first_uid": s.first_uid} for s in shards],
        records=sum(samples.values()),
        cases=[{"case": name, "records": count} for name, count in samples.items()],
    )


def read_augmented(project: Project) -> dict[str, Any]:
    """The manifest of the augmented training cohort, held against the present slices and the files' sizes.

    Raises:
        CorruptArtifactError: it is missing or damaged, or was made from other slices.
    """
    folder = project.augmented / "Training"
    fix = "run `clotseg prep --augment auto`"
    manifest = artifact.require_manifest(folder, fix=fix)
    sliced = artifact.require_manifest(project.sliced / "Training", fix="run `clotseg prep` first")
    if manifest["facts"]["Processed/Sliced"] != sliced["key"]:
        raise CorruptArtifactError("was made from other slices than the present ones", where=folder, fix=fix)
    artifact.require_intact(folder, manifest, fix="run `clotseg prep --augment force`")
    return manifest
