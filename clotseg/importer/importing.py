"""`clotseg import`: a table or folder of scans in; a project of cases, their sidecars and `import.html` out.

Cases are made one by one, by as many processes as there are. A case that cannot be used, or fails its checks,
is left out and told; the others are written. Run again, only what is missing or changed is done.
"""

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clotseg import artifact
from clotseg.config import RuntimeConfig
from clotseg.console import Progress
from clotseg.errors import ConfigError, DataError, require_extra, require_none_failed
from clotseg.importer import published
from clotseg.importer.case import BuiltCase, build_case, naming
from clotseg.importer.entries import Entry, find_entries
from clotseg.importer.page import write_page
from clotseg.importer.pictures import draw_case
from clotseg.importer.settings import ImportSettings
from clotseg.importer.sources import digest_source
from clotseg.project import Project
from clotseg.tasks import open_workers

IMPORT_CODE_VERSION = 1
LIBRARIES = ("numpy", "scipy", "simpleitk", "nibabel", "pydicom")
LARGEST_SPACING_MM = 10.0


def plan_import(source: Path, settings: ImportSettings) -> dict[str, Any]:
    """What `source` was understood as; no scan is read and nothing is written.

    Raises:
        ConfigError, DataError: as for `run_import`.
    """
    check_settings(settings)
    entries, notices = find_entries(source)
    return {"source": str(source), "cases": [_told(entry) for entry in entries], "notices": notices}


def _told(entry: Entry) -> dict[str, Any]:
    return {name: None if value is None else str(value) for name, value in asdict(entry).items()}


def run_import(
    project: Project,
    source: Path,
    settings: ImportSettings,
    runtime: RuntimeConfig,
    progress: Progress,
) -> dict[str, Any]:
    """Imports every case, then writes `cases.csv` and `import.html` over all that the project holds.

    Args:
        project: to import into; made where it is not there.
        source: a table or a folder, see `find_entries`.
        settings: of the import.
        runtime: `workers`, `dask`.
        progress: told of each case.

    Returns:
        `{"project", "page", "cases"}`; each case with its `state`, one of `done`, `reused` and `failed`, its
        `verdict`, `notices`, the `problem`, and the `seconds` it took.

    Raises:
        ConfigError: settings that cannot be used together.
        DataError: nothing was found, or the project holds other cases. Bad cases are told in the result.
        EnvironmentProblem: the extra `dicom` is not installed, or the disk refuses a write.
    """
    require_extra("dicom", ("SimpleITK", "pydicom", "highdicom"), where="import")
    check_settings(settings)
    entries, notices = find_entries(source)
    for notice in notices:
        progress.say("notice", what=notice)
    with artifact.project_lock(project.volumes.parent):
        published.require_none_of_others(project)
        of_atlas = _digests({"atlas": settings.atlas, "atlas_roi": settings.atlas_roi})
        tasks = [(project.root, entry, settings, of_atlas) for entry in entries]
        size = sum(_bytes(source) for entry in entries for source in _sources(entry).values())
        try:
            with (
                progress.bar("import", len(tasks), "cases") as advance,
                open_workers(runtime, project.root, size) as workers,
            ):
                told = workers.run(import_case, tasks, lambda _: advance())
        finally:
            published.write_cases_csv(project)
            write_page(project)
    return {"project": str(project.root), "page": str(project.import_page), "cases": told}


def _bytes(source: str) -> int:
    """About how much there is to read; without looking which series of a folder is meant."""
    path = Path(source if Path(source).exists() else source.rpartition("#")[0])
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def check_settings(settings: ImportSettings) -> None:
    """Refuses what cannot be used.

    Raises:
        ConfigError: with a line for each finding.
    """
    findings = []
    if not 0 < settings.spacing_mm <= LARGEST_SPACING_MM:
        findings.append(f"--spacing-mm {settings.spacing_mm:g}: must be above 0 and at most 10")
    if (settings.atlas is None) != (settings.atlas_roi is None):
        findings.append("--atlas and --atlas-roi go together")
    for flag, file in (("--atlas", settings.atlas), ("--atlas-roi", settings.atlas_roi)):
        if file is not None and not file.is_file():
            findings.append(f"{flag} {file}: is no file")
    if settings.box_mm is not None and settings.atlas is not None:
        findings.append("--box-mm and --atlas both say where the region is; give one")
    if settings.box_mm is not None:
        low, high = settings.box_mm[::2], settings.box_mm[1::2]
        if any(one >= other for one, other in zip(low, high, strict=True)):
            findings.append("--box-mm: each axis goes from a lower to a higher number")
    if findings:
        raise ConfigError("cannot be used", where="import", details=findings)


def require_all(result: Mapping[str, Any]) -> None:
    """Raises for the cases that were left out.

    Raises:
        DataError: with a line for each.
    """
    fix = f"look at {result['page']}, mend these, then run the command again; the others are done"
    require_none_failed(result["cases"], outcome="were left out", fix=fix)


def _sources(entry: Entry) -> dict[str, str]:
    named = {"cta": entry.cta, "ncct": entry.ncct, "mask": entry.mask}
    return {kind: str(source) for kind, source in named.items() if source is not None}


def _digests(sources: Mapping[str, Path | str | None]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for kind, source in sources.items():
        with naming(kind):
            found[kind] = None if source is None else digest_source(Path(source))
    return found


def import_case(
    root: Path, entry: Entry, settings: ImportSettings, of_atlas: Mapping[str, str | None]
) -> dict[str, Any]:
    """Imports one case where that is not done; a case that cannot be used is told, not raised.

    Args:
        root: of the project.
        entry: the case.
        settings: of the import.
        of_atlas: digests of the atlas and its region.

    Returns:
        `case`, `state`, `verdict`, `notices`, `problem` and `seconds`.
    """
    project, started = Project(root), time.monotonic()
    try:
        sidecar, state = _imported(project, entry, settings, of_atlas)
    except DataError as error:
        fix = f" ({error.fix})" if error.fix else ""
        problem = "; ".join([error.what, *error.details]) + fix
        made_with = {"config": _config(settings), **of_atlas}
        if published.withdraw(project, entry.case, unless=artifact.as_json(made_with)):
            problem += "; what an import with other settings had made of it was taken away"
        told: dict[str, Any] = {"state": "failed", "verdict": None, "notices": [], "problem": problem}
    else:
        failed = [check["why"] for check in sidecar["checks"] if check["verdict"] == "fail"]
        told = {
            "state": "failed" if failed else state,
            "verdict": sidecar["verdict"],
            "notices": sidecar["notices"],
            "problem": "; ".join(failed) or None,
        }
    return {"case": entry.case, **told, "seconds": round(time.monotonic() - started, 2)}


def _imported(
    project: Project, entry: Entry, settings: ImportSettings, of_atlas: Mapping[str, str | None]
) -> tuple[dict[str, Any], str]:
    """A case's sidecar, and whether it was `done` or `reused`."""
    inputs = {**_digests(_sources(entry)), **of_atlas}
    config = _config(settings)
    about = {"patient": entry.patient, "site": entry.site}
    key = artifact.stage_key("import", IMPORT_CODE_VERSION, artifact.as_json([config, about]), inputs)
    state = "reused" if published.is_done(project, entry.case, key) else "done"
    if state == "done":
        case = build_case(entry, settings)
        facts = {
            "format": artifact.FORMAT,
            "stage": "import",
            "code_version": IMPORT_CODE_VERSION,
            "key": key,
            "config": config,
            "inputs": inputs,
            **about,
            **_found(case),
        }
        published.publish_case(project, entry.case, case, draw_case(case), facts)
    return artifact.require_manifest(project.imported / entry.case, fix="run `clotseg import`"), state


def _config(settings: ImportSettings) -> dict[str, Any]:
    """The settings as a sidecar carries them; of the atlas it has the digests, among its inputs."""
    return {name: value for name, value in asdict(settings).items() if name not in ("atlas", "atlas_roi")}


def _found(case: BuiltCase) -> dict[str, Any]:
    """What a sidecar says beside what was asked for."""
    return {
        "grids": published.grids_of(case),
        "transforms": {
            "cta_to_ncct_ras_mm": case.cta_to_ncct.tolist(),
            "cta_to_atlas_ras_mm": None if case.cta_to_atlas is None else case.cta_to_atlas.tolist(),
        },
        "clot_voxels": None if case.mask is None else int(case.mask.sum()),
        "checks": [asdict(check) for check in case.checks],
        "verdict": case.verdict,
        "notices": case.notices,
        "libraries": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
