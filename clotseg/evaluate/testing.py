"""`clotseg test`: a checkpoint and the untouched test cohort in; masks, metrics and a report out.

Everything goes into one folder of the run, published in one step. A run is only scored on the split it was
trained with, so no training patient can be among the test cases.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.config import Config, TestConfig, plain
from clotseg.console import Progress
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.infer import load_predictor, open_case
from clotseg.evaluate.metrics import CaseScore, score_case, summarise
from clotseg.evaluate.report import Picture, ReportContent, choose_pictured, pick_slice, write_report
from clotseg.prep.cases import CheckedCase, open_mask, open_volume
from clotseg.prep.cohorts import Cohorts, read_cohorts
from clotseg.project import COHORTS, Project, Run
from clotseg.train.checkpoint import Description, find_checkpoint, read_description
from clotseg.train.devices import open_devices
from clotseg.train.records import read_history, read_record, runs

TEST_CODE_VERSION = 1
METRICS = "metrics.csv"
SUMMARY = "summary.json"
REPORT = "report.html"
MASKS = "masks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is being tested: a checkpoint of a run, and the folder its results go to."""

    run: Run
    checkpoint: Path
    description: Description
    target: Path


def score_test_cohort(
    project: Project,
    config: Config,
    progress: Progress,
    *,
    checkpoint: Path | None = None,
    reuse: bool = False,
) -> dict[str, Any]:
    """Scores the test cohort.

    Args:
        project: whose test cohort.
        config: threshold and bootstrap; devices.
        progress: told of each case.
        checkpoint: a run, checkpoint folder or weights file; None for the newest run's best.
        reuse: whether results of the same weights, settings and cases are taken as they are.

    Returns:
        `{"run", "cases", "summary", "report", "masks"}`, paths as `Project.shown` gives them.

    Raises:
        DataError: there is no such checkpoint.
        CorruptArtifactError: it is damaged, or was trained with another split than the present one.
    """
    cohorts = read_cohorts(project)
    subject = _subject(project, cohorts, checkpoint)
    key = _key(config.test, subject, cohorts)
    if reuse and artifact.reusable(subject.target, key):
        progress.say("test", state="reused")
        return _result(project, subject)
    open_devices(config.runtime)
    with artifact.publish(subject.target) as folder:
        scores = list(_score_cohort(folder, subject, cohorts, config.test, progress))
        summary = summarise(scores, bootstrap_samples=config.test.bootstrap_samples, seed=config.test.seed)
        rows = [score.as_row() for score in scores]
        _write_csv(folder / METRICS, rows)
        artifact.write_json(folder / SUMMARY, {"format": artifact.FORMAT, "cases": rows, "summary": summary})
        content = _report_content(project, folder, subject, cohorts, scores, summary)
        write_report(folder / REPORT, content=content)
        _write_manifest(folder, key, config.test, subject, cohorts)
    return _result(project, subject)


def _subject(project: Project, cohorts: Cohorts, checkpoint: Path | None) -> Subject:
    if checkpoint is None:
        tested = [run for run in runs(project) if (run.best / "network.json").is_file()]
        if not tested:
            raise DataError(
                "has no trained run yet", where=project.trainings, fix="run `clotseg train` first"
            )
        checkpoint = tested[-1].best
    folder = find_checkpoint(checkpoint)
    run = Run(folder.parent)
    if read_record(run)["split_key"] != cohorts.key:
        raise CorruptArtifactError(
            "this run was trained with another split than the one in Processed/Original, so the present test "
            "cohort may hold its training patients",
            where=run.folder,
            fix="run `clotseg prep` with the run's own split settings, or train again",
        )
    return Subject(
        run=run,
        checkpoint=folder,
        description=read_description(folder),
        target=run.testing(folder.name),
    )


def _key(config: TestConfig, subject: Subject, cohorts: Cohorts) -> str:
    inputs = [subject.description.sha256, cohorts.key]
    return artifact.stage_key("test", TEST_CODE_VERSION, plain(config), inputs)


def _score_cohort(
    folder: Path, subject: Subject, cohorts: Cohorts, config: TestConfig, progress: Progress
) -> Iterator[CaseScore]:
    """Predicts, writes and scores one case after the other; one volume is held at a time."""
    predictor = load_predictor([subject.checkpoint], tta=False)
    (folder / MASKS).mkdir()
    members = cohorts.of("Testing")
    with progress.bar("test", len(members), "cases") as advance:
        for entry in members:
            case = entry.case
            # The mask is cut from what is stored, so that anyone who cuts again gets the same mask.
            probability = predictor.probability(open_case(case)).astype(np.float16)
            predicted = (probability >= config.threshold).astype(np.uint8)
            np.save(folder / MASKS / f"{case.name}_prob.npy", probability)
            np.save(folder / MASKS / f"{case.name}_pred.npy", predicted)
            yield score_case(
                predicted,
                open_mask(case.mask),
                case=case.name,
                patient=case.patient,
                site=case.site,
                spacing_mm=case.spacing_mm,
            )
            advance()


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _report_content(
    project: Project,
    folder: Path,
    subject: Subject,
    cohorts: Cohorts,
    scores: list[CaseScore],
    summary: dict[str, Any],
) -> ReportContent:
    environment = artifact.read_json(subject.run.relevant / "environment.json")
    pictures = []
    for role, name in choose_pictured(scores).items():
        score = next(score for score in scores if score.case == name)
        pictures.append(_picture(folder, cohorts.cases[name], score, role))
    return ReportContent(
        title=f"Clot segmentation: test of run {subject.run.folder.name}",
        synthetic=project.phantom_record.exists(),
        scores=scores,
        summary=summary,
        history=read_history(subject.run),
        pictures=pictures,
        cohort={
            cohort: {
                "cases": len(cohorts.members[cohort]),
                "cases_with_clot": sum(entry.clot_voxels > 0 for entry in cohorts.of(cohort)),
                "slices": sum(entry.shape[2] for entry in cohorts.of(cohort)),
            }
            for cohort in COHORTS
        },
        configuration_toml=(subject.run.relevant / "clotseg.toml").read_text(encoding="utf-8"),
        provenance={
            "run": subject.run.folder.name,
            "checkpoint": f"{subject.checkpoint.name}, epoch {subject.description.epoch}",
            "weights SHA-256": subject.description.sha256,
            "split key": cohorts.key,
            **{name: str(value) for name, value in environment.items()},
        },
    )


def _picture(folder: Path, entry: CheckedCase, score: CaseScore, role: Any) -> Picture:
    truth = open_mask(entry.case.mask)
    predicted = open_volume(folder / MASKS / f"{entry.case.name}_pred.npy")
    at = pick_slice(truth, predicted)

    def slice_of(path: Path) -> NDArray[Any]:
        return np.asarray(open_volume(path)[:, :, at])

    return Picture(
        role=role,
        score=score,
        slice_index=at,
        cta_hu=slice_of(entry.case.cta),
        ncct_hu=slice_of(entry.case.ncct),
        truth=np.asarray(truth[:, :, at]),
        probability=slice_of(folder / MASKS / f"{entry.case.name}_prob.npy"),
        predicted=np.asarray(predicted[:, :, at]),
    )


def _write_manifest(folder: Path, key: str, config: TestConfig, subject: Subject, cohorts: Cohorts) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": artifact.FORMAT,
        "stage": "test",
        "code_version": TEST_CODE_VERSION,
        "key": key,
        "config": plain(config),
        "inputs": {
            "weights": subject.description.sha256,
            **{name: cohorts.digests[name] for name in cohorts.members["Testing"]},
        },
        "outputs": artifact.describe_outputs(folder, names),
    }
    artifact.write_manifest(folder, manifest)


def _result(project: Project, subject: Subject) -> dict[str, Any]:
    facts = artifact.read_json(subject.target / SUMMARY)
    return {
        "run": project.shown(subject.run.folder),
        "cases": facts["cases"],
        "summary": facts["summary"],
        "report": project.shown(subject.target / REPORT),
        "masks": project.shown(subject.target / MASKS),
    }
