"""`Processed/Original`: checked cases and their split in; a published folder of links out."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clotseg import artifact
from clotseg.config import SplitConfig, plain
from clotseg.errors import CorruptArtifactError
from clotseg.prep.cases import Case, CheckedCase
from clotseg.prep.plan import Stage
from clotseg.prep.split import Members, split_cases
from clotseg.project import COHORTS, Project

SPLIT_CODE_VERSION = 2
SPLIT_FILE = "split.json"
KIND_OF_FILE = ("images", "images", "masks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohorts:
    """The published split: who belongs where, and what was found in each case.

    Attributes:
        key: the split stage's key.
        members: case names of each cohort, in order.
        cases: each case by name, its files being those under `Processed/Original`.
        digests: SHA-256 of each case's CTA, NCCT and mask, by case name.
        clot_slices: numbers of the slices with clot, by case name.
        seed: that of the split; it also draws slices.
    """

    key: str
    members: dict[str, tuple[str, ...]]
    cases: dict[str, CheckedCase]
    digests: dict[str, tuple[str, str, str]]
    clot_slices: dict[str, tuple[int, ...]]
    seed: int

    def of(self, cohort: str) -> list[CheckedCase]:
        """The cases of a cohort, in order."""
        return [self.cases[name] for name in self.members[cohort]]

    @property
    def largest_slice(self) -> int:
        """The longest slice side of any cohort, in pixels."""
        return max(max(case.shape[:2]) for case in self.cases.values())


def split_stage(
    project: Project, config: SplitConfig, cases: list[Case], digests: dict[str, str], given: Members | None
) -> Stage:
    """What decides the cohorts: settings, rows of the table, the volumes, and the content of a split file.

    Args:
        project: where it is published.
        config: the settings. Where a split file lies is no part of the key.
        cases: every case.
        digests: SHA-256 of each input file, by its path in the project.
        given: the cohorts of a split file.
    """
    settings = plain(config)
    del settings["file"]
    facts: dict[str, Any] = {
        f"cases.csv on {case.name}": [case.patient, case.site, case.spacing_mm] for case in cases
    }
    if given is not None:
        settings = {"seed": config.seed}
        facts["the split file"] = given
    return Stage(
        name="split",
        code_version=SPLIT_CODE_VERSION,
        config=settings,
        inputs=digests,
        facts=artifact.as_json(facts),
        targets=(project.original,),
    )


def choose_members(checked: list[CheckedCase], config: SplitConfig, given: Members | None) -> Members:
    """Who belongs where: as given, or shared out by patient, by site and clot where the settings ask for it.

    Raises:
        DataError: a cohort would come out empty.
    """
    if given is not None:
        return given
    patient_of = {entry.case.name: entry.case.patient for entry in checked}
    if not config.stratify:
        return split_cases(patient_of, config)
    with_clot = {entry.case.patient for entry in checked if entry.clot_voxels}
    stratum_of = {
        entry.case.name: ", ".join(
            {
                "site": f"site {entry.case.site}",
                "clot": "clot" if entry.case.patient in with_clot else "no clot",
            }[by]
            for by in config.stratify
        )
        for entry in checked
    }
    return split_cases(patient_of, config, stratum_of)


def publish_cohorts(
    project: Project,
    stage: Stage,
    checked: list[CheckedCase],
    clot_slices: dict[str, tuple[int, ...]],
    members: Members,
) -> None:
    """Links every case into its cohort's folder and publishes them with `split.json` and the manifest.

    Args:
        project: where to.
        stage: what the split was made from.
        checked: every case.
        clot_slices: numbers of the slices with clot, by case name.
        members: case names of each cohort.
    """
    cohort_of = {name: cohort for cohort, names in members.items() for name in names}
    outputs: dict[str, Any] = {}
    cases: dict[str, Any] = {}
    with artifact.publish(project.original) as folder:
        for entry in checked:
            case, cohort = entry.case, cohort_of[entry.case.name]
            names = [f"{cohort}/{kind}/{p.name}" for kind, p in zip(KIND_OF_FILE, case.files, strict=True)]
            for name, path in zip(names, case.files, strict=True):
                _link(path, folder / name)
                digest = stage.inputs[project.shown(path)]
                outputs[name] = {"bytes": path.stat().st_size, "sha256": digest}
            cases[case.name] = {
                "cohort": cohort,
                "patient": case.patient,
                "site": case.site,
                "spacing_mm": case.spacing_mm,
                "shape": entry.shape,
                "clot_voxels": entry.clot_voxels,
                "clot_slices": clot_slices[case.name],
                "files": names,
            }
        patients = {name: facts["patient"] for name, facts in cases.items()}
        artifact.write_json(
            folder / SPLIT_FILE,
            {"format": artifact.FORMAT, **stage.config, "cohorts": members, "patients": patients},
        )
        outputs |= artifact.describe_outputs(folder, [SPLIT_FILE])
        artifact.write_manifest(folder, stage.manifest(outputs=outputs, cohorts=members, cases=cases))


def read_cohorts(project: Project) -> Cohorts:
    """The published split.

    Raises:
        CorruptArtifactError: there is none, or it is damaged.
    """
    manifest = artifact.require_manifest(project.original, fix="run `clotseg prep` first")
    try:
        return Cohorts(
            key=manifest["key"],
            members={cohort: tuple(manifest["cohorts"][cohort]) for cohort in COHORTS},
            cases={name: _case(project.original, name, facts) for name, facts in manifest["cases"].items()},
            digests={
                name: tuple(manifest["outputs"][file]["sha256"] for file in facts["files"])
                for name, facts in manifest["cases"].items()
            },
            clot_slices={name: tuple(facts["clot_slices"]) for name, facts in manifest["cases"].items()},
            seed=manifest["config"]["seed"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            f"lacks or garbles {error}",
            where=project.original / artifact.MANIFEST,
            fix="run `clotseg prep --split force`",
        ) from error


def _case(folder: Path, name: str, facts: dict[str, Any]) -> CheckedCase:
    cta, ncct, mask = (folder / file for file in facts["files"])
    rows, columns, slices = facts["shape"]
    case = Case(
        name=name,
        patient=facts["patient"],
        site=facts["site"],
        spacing_mm=None if facts["spacing_mm"] is None else tuple(facts["spacing_mm"]),
        cta=cta,
        ncct=ncct,
        mask=mask,
    )
    return CheckedCase(case=case, shape=(rows, columns, slices), clot_voxels=facts["clot_voxels"])


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system refuses links; of a symbolic link, to what it names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
