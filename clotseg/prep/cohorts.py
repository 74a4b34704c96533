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
from clotseg.project import COHORTS, Project

SPLIT_CODE_VERSION = 1
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
    """

    key: str
    members: dict[str, tuple[str, ...]]
    cases: dict[str, CheckedCase]
    digests: dict[str, tuple[str, str, str]]

    def of(self, cohort: str) -> list[CheckedCase]:
        """The cases of a cohort, in order."""
        return [self.cases[name] for name in self.members[cohort]]

    @property
    def largest_slice(self) -> int:
        """The longest slice side of any cohort, in pixels."""
        return max(max(case.shape[:2]) for case in self.cases.values())


def cohorts_key(cases: list[Case], digests: dict[str, str], config: SplitConfig) -> str:
    """The key of the split stage: its configuration, and each case's table row and file digests."""
    facts = {case.name: [case.patient, case.site, case.spacing_mm] for case in cases}
    return artifact.stage_key("split", SPLIT_CODE_VERSION, plain(config), [digests, facts])


def publish_cohorts(
    project: Project,
    checked: list[CheckedCase],
    members: dict[str, tuple[str, ...]],
    config: SplitConfig,
    digests: dict[str, str],
) -> None:
    """Links every case into its cohort's folder and publishes them with `split.json` and the manifest.

    Args:
        project: where to.
        checked: every case.
        members: case names of each cohort.
        config: what made the split.
        digests: SHA-256 of each input file, by its path in the project.
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
                outputs[name] = {"bytes": path.stat().st_size, "sha256": digests[project.shown(path)]}
            cases[case.name] = {
                "cohort": cohort,
                "patient": case.patient,
                "site": case.site,
                "spacing_mm": case.spacing_mm,
                "shape": entry.shape,
                "clot_voxels": entry.clot_voxels,
                "files": names,
            }
        patients = {name: facts["patient"] for name, facts in cases.items()}
        artifact.write_json(
            folder / SPLIT_FILE,
            {"format": artifact.FORMAT, **plain(config), "cohorts": members, "patients": patients},
        )
        outputs |= artifact.describe_outputs(folder, [SPLIT_FILE])
        manifest = {
            "format": artifact.FORMAT,
            "stage": "split",
            "code_version": SPLIT_CODE_VERSION,
            "key": cohorts_key([entry.case for entry in checked], digests, config),
            "config": plain(config),
            "inputs": digests,
            "outputs": outputs,
            "cohorts": members,
            "cases": cases,
        }
        artifact.write_manifest(folder, manifest)


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
