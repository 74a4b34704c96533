"""`clotseg verify`: what clotseg published in; every fault of it, by file and record, out; nothing written.

`quick` looks at manifests, sizes, indices and the chain of keys, and reads no volume or record. `full` also
takes every digest and reads every record. Counts are held against what the manifest says, never against the
shapes of volumes, since a cohort may have been sliced in part.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clotseg import artifact
from clotseg.console import Progress
from clotseg.errors import ClotsegError, CorruptArtifactError, DataError
from clotseg.prep.cohorts import SPLIT_FILE
from clotseg.prep.shard_check import CohortTally, index_faults, read_index, record_faults
from clotseg.prep.shards import index_name
from clotseg.project import SLICED_COHORTS, Project, Run

Level = Literal["full", "quick", "off"]

LISTED_FAULTS = 100
LISTED_FAULTS_OF_A_FILE = 10
NETWORK = "network.json"
STATE, STATE_VALUES = "training.json", "state.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        file: relative to the project.
        record: number of the record in its shard, from 0; None where the fault is of the whole file.
    """

    file: str
    record: int | None
    what: str

    def __str__(self) -> str:
        place = self.file if self.record is None else f"{self.file}, record {self.record}"
        return f"{place}: {self.what}"


@dataclass(kw_only=True, slots=True)
class _Check:
    """A verification under way: what was looked at, and what was found."""

    project: Project
    full: bool
    faults: list[Fault] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    files: int = 0
    bytes: int = 0
    records: int = 0
    digests: dict[tuple[int, int], str] = field(default_factory=dict)

    def fault(self, path: Path, what: str, record: int | None = None) -> None:
        file = self.project.shown(path)
        self.found[file] += 1
        if self.found[file] <= LISTED_FAULTS_OF_A_FILE and len(self.faults) < LISTED_FAULTS:
            self.faults.append(Fault(file=file, record=record, what=what))

    def digest(self, path: Path) -> str:
        """SHA-256 of a file; hard links to one file are read once."""
        status = path.stat()
        place = (status.st_dev, status.st_ino)
        if place not in self.digests:
            self.digests[place] = artifact.digest_file(path)
            self.bytes += status.st_size
        return self.digests[place]

    def file(self, path: Path, size: int | None, sha256: str) -> None:
        """Holds a file against its size, where that is known, and in full against its digest."""
        self.files += 1
        try:
            if not path.is_file():
                self.fault(path, "is missing")
            elif size is not None and path.stat().st_size != size:
                self.fault(path, f"has {path.stat().st_size} bytes, where {size} were written")
            elif self.full and self.digest(path) != sha256:
                self.fault(path, "is not as it was: its SHA-256 differs")
        except (ClotsegError, OSError) as error:
            self.fault(path, f"cannot be read ({error})")


def find_scope(project: Project, path: Path | None) -> tuple[Project, tuple[Path, ...] | None]:
    """What a path means to `clotseg verify`: a project, or a part of one.

    Raises:
        DataError: there is no such path, or it lies in no project that has anything.
    """
    if path is None:
        return project, None
    place = (project.root / path).resolve()
    for root in (place, *place.parents) if place.exists() else ():
        if Project(root).processed.is_dir() or Project(root).trainings.is_dir():
            return Project(root), (place,)
    raise DataError(
        "lies in no project with anything published" if place.exists() else "is not there",
        where=place,
        fix="name a project, or a folder in one, such as Processed/Sliced",
    )


def verify_project(
    project: Project,
    progress: Progress,
    *,
    level: Level = "full",
    below: tuple[Path, ...] | None = None,
) -> dict[str, Any]:
    """Checks what clotseg published in a project.

    Args:
        project: the project.
        progress: told of each artifact.
        level: `quick` or `full`; `off` checks nothing.
        below: folders to keep to; None for the whole project.

    Returns:
        `{"level", "whole", "artifacts", "files", "records", "bytes", "faults", "faults_found"}`; faults are
        `{"file", "record", "what"}`, those of a long list left out, and `faults_found` counts them all.
    """
    check = _Check(project=project, full=level == "full")
    folders = [] if level == "off" else list(_artifacts(project, below))
    if folders:
        with progress.bar("verify", len(folders), "artifacts") as advance:
            for folder in folders:
                _verify_folder(check, folder)
                advance()
    return {
        "level": level,
        "whole": not check.found,
        "artifacts": [project.shown(folder) for folder in folders],
        "files": check.files,
        "records": check.records,
        "bytes": check.bytes,
        "faults": [
            {"file": fault.file, "record": fault.record, "what": fault.what} for fault in check.faults
        ],
        "faults_found": check.found.total(),
    }


def require_whole(result: dict[str, Any]) -> None:
    """Raises what `verify_project` found.

    Raises:
        CorruptArtifactError: with one line for each fault, up to a hundred.
    """
    if result["whole"]:
        return
    faults = [str(Fault(**fault)) for fault in result["faults"]]
    more = result["faults_found"] - len(faults)
    raise CorruptArtifactError(
        f"{result['faults_found']} fault(s) in what clotseg made here",
        details=[*faults, *([f"and {more} more"] if more else [])],
        fix="restore changed inputs; make the rest again with `clotseg prep --split force --slice force`, "
        "`clotseg train` or `clotseg test`",
    )


def require_something(result: dict[str, Any], where: Path) -> None:
    """Refuses to call a place whole where nothing was published.

    Raises:
        CorruptArtifactError: nothing was.
    """
    if not result["artifacts"]:
        raise CorruptArtifactError(
            "holds nothing that clotseg published", where=where, fix="run `clotseg prep` first"
        )


def _artifacts(project: Project, below: tuple[Path, ...] | None) -> Iterator[Path]:
    """Folders to verify, in the order data passes through them."""
    places = sorted(project.imported.glob("[!.]*/"))
    if project.original.exists() or project.sliced.exists():
        places.append(project.original)
    if project.sliced.exists():
        places += [project.sliced / cohort for cohort in SLICED_COHORTS]
    others = {manifest.parent for manifest in project.processed.glob("[!.]*/*/" + artifact.MANIFEST)}
    places += sorted(others - set(places))
    for folder in sorted(project.trainings.glob("[!.]*/")):
        run = Run(folder)
        checkpoints = (run.best, *sorted(run.checkpoints.glob("epoch-*/")))
        places += [place for place in checkpoints if _is_checkpoint(place)]
        places += sorted(run.testing("").glob("[!.]*/"))
    if below is None or not all(top.is_relative_to(project.processed) for top in below):
        places += sorted(set(_handed_out(project)) - set(places))
    for place in places:
        if below is None or any(place.is_relative_to(top) or top.is_relative_to(place) for top in below):
            yield place


def _handed_out(project: Project) -> Iterator[Path]:
    """Predictions and exports, which lie where the user wanted them in the project; damaged ones, too."""
    others = {project.volumes.parent, project.masks.parent, project.processed}
    for folder, below, files in os.walk(project.root):
        below[:] = [name for name in below if not name.startswith(".") and Path(folder, name) not in others]
        if artifact.MANIFEST in files:
            try:
                manifest = artifact.read_json(Path(folder, artifact.MANIFEST))
            except CorruptArtifactError:
                yield Path(folder)
            else:
                if isinstance(manifest, dict) and manifest.get("stage") in ("predict", "export"):
                    yield Path(folder)


def _verify_folder(check: _Check, folder: Path) -> None:
    if _is_checkpoint(folder):
        _verify_checkpoint(check, folder)
        return
    manifest = _manifest(check, folder)
    if manifest is None:
        return
    try:
        # An imported case lies in the project's input folders, its manifest beside them.
        base = check.project.root if manifest["stage"] == "import" else folder
        for name, entry in manifest["outputs"].items():
            check.file(base / name, entry["bytes"], entry["sha256"])
        if folder == check.project.original:
            _verify_split(check, folder, manifest)
        if manifest["stage"] == "slice":
            _verify_chain(check, folder, manifest)
        if manifest["stage"] == "slice" or "shards" in manifest:
            _verify_shards(check, folder, manifest)
    except KeyError as error:
        check.fault(folder / artifact.MANIFEST, f"lacks {error}")


def _manifest(check: _Check, folder: Path) -> dict[str, Any] | None:
    check.files += 1
    try:
        return artifact.require_manifest(folder, fix="")
    except CorruptArtifactError as error:
        check.fault(folder / artifact.MANIFEST, error.what)
        return None


def _verify_split(check: _Check, folder: Path, manifest: dict[str, Any]) -> None:
    """Inputs as they were, cohorts disjoint by case and patient, and `split.json` of the same opinion."""
    for name, digest in manifest["inputs"].items():
        check.file(check.project.root / name, None, digest)
    said = folder / artifact.MANIFEST
    patient_of = {name: facts["patient"] for name, facts in manifest["cases"].items()}
    cohorts_of_case: dict[str, list[str]] = {}
    cohorts_of_patient: dict[str, set[str]] = {}
    for cohort, names in manifest["cohorts"].items():
        for name in names:
            cohorts_of_case.setdefault(name, []).append(cohort)
            cohorts_of_patient.setdefault(patient_of[name], set()).add(cohort)
    for name, cohorts in cohorts_of_case.items():
        if len(cohorts) > 1:
            check.fault(said, f"case {name} is in {' and '.join(sorted(cohorts))}")
    for patient, among in cohorts_of_patient.items():
        if len(among) > 1:
            check.fault(said, f"patient {patient} is in {' and '.join(sorted(among))}")
    if cohorts_of_case.keys() != patient_of.keys():
        check.fault(said, "its cohorts and its cases do not name the same cases")
    for name, facts in manifest["cases"].items():
        if not all(file.startswith(f"{facts['cohort']}/") for file in facts["files"]):
            check.fault(said, f"the files of case {name} are not in its cohort {facts['cohort']}")
    try:
        split = artifact.read_json(folder / SPLIT_FILE)
    except CorruptArtifactError:
        check.fault(folder / SPLIT_FILE, "is not a readable JSON file")
        return
    if split.get("cohorts") != manifest["cohorts"] or split.get("patients") != patient_of:
        check.fault(folder / SPLIT_FILE, "does not say the same cohorts and patients as the manifest")


def _verify_chain(check: _Check, folder: Path, manifest: dict[str, Any]) -> None:
    """Slices made from the present split: its key, its cases and their digests."""
    said = folder / artifact.MANIFEST
    try:
        split = artifact.read_manifest(check.project.original)
    except CorruptArtifactError:
        return  # Told where the split itself is verified.
    if split is None or "split_key" not in manifest:
        return
    if manifest["split_key"] != split["key"]:
        check.fault(said, "was made from another split than the one in Processed/Original; run prep again")
        return
    if sorted(manifest["inputs"]) != sorted(split["cohorts"][manifest["cohort"]]):
        check.fault(said, f"does not name the cases of cohort {manifest['cohort']}")
    for name, digests in manifest["inputs"].items():
        files = split["cases"][name]["files"]
        if list(digests) != [split["outputs"][file]["sha256"] for file in files]:
            check.fault(said, f"was made from other volumes of case {name} than those in the split")


def _verify_shards(check: _Check, folder: Path, manifest: dict[str, Any]) -> None:
    said = folder / artifact.MANIFEST
    sliced = manifest["stage"] == "slice"
    tally = CohortTally(members=frozenset(entry["case"] for entry in manifest["cases"]) if sliced else None)
    named = {file for shard in manifest["shards"] for file in (shard["name"], index_name(shard["name"]))}
    if missing := sorted(named - manifest["outputs"].keys()):
        check.fault(said, f"has no digest of {', '.join(missing)}")
    for stray in sorted(path for path in folder.iterdir() if path.name not in {*named, artifact.MANIFEST}):
        check.fault(stray, "is not named by the manifest")
    due = 0
    for shard in manifest["shards"]:
        if shard["first_uid"] != due:
            check.fault(said, f"{shard['name']} begins at uid {shard['first_uid']}, where {due} is due")
        due = shard["first_uid"] + shard["records"]
        path, index = folder / shard["name"], folder / index_name(shard["name"])
        broken = index_faults(index, path, shard["records"])
        for what in broken:
            check.fault(index, what)
        if check.full and path.is_file():
            check.records += shard["records"]
            offsets = None if broken else read_index(index)
            tally.next_uid = shard["first_uid"]
            for number, what in record_faults(path, offsets, shard["records"], tally):
                check.fault(path, what, number)
    if due != manifest["records"]:
        check.fault(said, f"names {manifest['records']} records, where its shards have {due}")
    if sliced and check.full and not any(check.project.shown(folder / name) in check.found for name in named):
        for entry in manifest["cases"]:
            counted, due = len(tally.slices.get(entry["case"], ())), entry.get("records", entry["slices"])
            if counted != due:
                check.fault(said, f"names {due} records of case {entry['case']}, where {counted} are there")


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / description).exists() for description in (NETWORK, STATE))


def _verify_checkpoint(check: _Check, folder: Path) -> None:
    """Weights and state that the descriptions name are there, as they were saved."""
    for description in (folder / NETWORK, folder / STATE):
        if not description.exists():
            continue
        check.files += 1
        try:
            described = artifact.read_json(description)
            name = STATE_VALUES if description.name == STATE else described["weights"]
            sha256 = described["sha256"]
            if Path(name).name != name:
                raise ValueError(name)
        except CorruptArtifactError as error:
            check.fault(description, error.what)
        except (KeyError, TypeError, ValueError):
            check.fault(description, "does not name its weights and their digest")
        else:
            check.file(folder / name, None, sha256)
