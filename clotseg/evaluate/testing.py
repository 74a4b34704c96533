"""`clotseg test`: a checkpoint and the untouched test cohort in; masks, metrics and a report out.

Everything goes into one folder of the run, published in one step. A run is only scored on the split it was
trained with, so no training patient can be among the test cases.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.config import Config, TestConfig, load_config, plain
from clotseg.console import Progress
from clotseg.evaluate.agreement import doubt_and_dice
from clotseg.evaluate.clot import CLOT_COLUMNS, clot_rows
from clotseg.evaluate.doubt import Doubt
from clotseg.evaluate.infer import Predictor, load_predictor, open_case
from clotseg.evaluate.metrics import CaseScore, score_case, summarise
from clotseg.evaluate.operating_point import CODE_VERSION as POINT_CODE_VERSION
from clotseg.evaluate.operating_point import cut_in_force, stored_or_chosen
from clotseg.evaluate.report import Picture, ReportContent, choose_pictured, pick_slice, write_report
from clotseg.evaluate.segment import Cut, segment
from clotseg.evaluate.strips import Strip, bytes_per_case, make_strip
from clotseg.evaluate.subject import Arm, Subject, find_subject
from clotseg.prep.cases import CheckedCase, open_mask, open_volume
from clotseg.prep.cohorts import Cohorts, read_cohorts
from clotseg.project import Project
from clotseg.train.checkpoint import run_of
from clotseg.train.devices import open_devices
from clotseg.train.records import read_history, read_record

TEST_CODE_VERSION = 3
METRICS = "metrics.csv"
CLOTS = "clots.csv"
SUMMARY = "summary.json"
REPORT = "report.html"
MASKS = "masks"


def score_test_cohort(
    project: Project,
    config: Config,
    progress: Progress,
    *,
    checkpoints: Sequence[Path] = (),
    folds: Sequence[Path] = (),
    reuse: bool = False,
) -> dict[str, Any]:
    """Scores the test cohort, or over the folds of a cross-validation every case.

    Threshold and temperature are chosen on the validation cohort, or taken as they were chosen before.

    Args:
        project: whose test cohort.
        config: threshold, flips and bootstrap; devices.
        progress: told of each case.
        checkpoints: runs, checkpoint folders or weights files; several are an ensemble. None of them for the
            newest run's best.
        folds: runs instead, each to be asked about its own test cohort.
        reuse: whether results of the same weights, settings and cases are taken as they are.

    Returns:
        `{"run", "cases", "summary", "operating_points", "report", "masks"}`, paths as `Project.shown` gives
        them.

    Raises:
        ConfigError: the checkpoints cannot answer together.
        DataError: there is no such checkpoint, or the folds do not test every case once.
        CorruptArtifactError: one is damaged, or was trained with another split than the present one.
    """
    cohorts = read_cohorts(project)
    subject = find_subject(project, cohorts, checkpoints=checkpoints, folds=folds)
    key = _key(config.test, subject, cohorts)
    if reuse and artifact.reusable(subject.target, key):
        progress.say("test", state="reused")
        return _result(project, subject)
    open_devices(config.runtime)
    with artifact.publish(subject.target) as folder:
        tested = _score_cohort(folder, subject, config.test, progress)
        scores = [score for score, _ in tested.scored]
        summary = summarise(scores, bootstrap_samples=config.test.bootstrap_samples, seed=config.test.seed)
        summary["doubt"] = _doubt_and_dice(tested, config.test)
        rows = [
            {**score.as_row(), "doubt": doubt.level, "spread": doubt.spread} for score, doubt in tested.scored
        ]
        _write_csv(folder / METRICS, list(rows[0]), rows)
        _write_csv(folder / CLOTS, CLOT_COLUMNS, _clot_rows(folder, subject))
        facts = {"cases": rows, "summary": summary, "operating_points": tested.operating_points}
        artifact.write_json(folder / SUMMARY, {"format": artifact.FORMAT, **facts})
        content = _report_content(project, folder, subject, cohorts, tested, summary)
        write_report(folder / REPORT, content=content)
        _write_manifest(folder, key, config.test, subject, cohorts)
    return _result(project, subject)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """What came out for the cohort.

    Attributes:
        scored: score and doubt of each case.
        operating_points: for each arm, what was chosen on its validation cohort, and the cut in force.
    """

    scored: list[tuple[CaseScore, Doubt]]
    operating_points: list[dict[str, Any]]


def _doubt_and_dice(tested: Tested, config: TestConfig) -> dict[str, Any]:
    """How well doubt foretells Dice, over the cases with a clot."""
    with_clot = [(score, doubt) for score, doubt in tested.scored if score.has_clot]
    return doubt_and_dice(
        [doubt.level for _, doubt in with_clot],
        [score.dice for score, _ in with_clot],
        [score.patient for score, _ in with_clot],
        samples=config.bootstrap_samples,
        seed=config.seed,
    )


def _key(config: TestConfig, subject: Subject, cohorts: Cohorts) -> str:
    weights = [arm.weights for arm in subject.arms]
    inputs = [weights, POINT_CODE_VERSION, cohorts.key]
    return artifact.stage_key("test", TEST_CODE_VERSION, plain(config), inputs)


def _score_cohort(folder: Path, subject: Subject, config: TestConfig, progress: Progress) -> Tested:
    (folder / MASKS).mkdir()
    tested = Tested(scored=[], operating_points=[])
    for arm in subject.arms:
        predictor = load_predictor(arm.checkpoints, tta=config.tta)
        point = stored_or_chosen(
            arm.checkpoints[0],
            predictor,
            arm.validation,
            progress,
            weights=arm.weights,
            tta=config.tta,
            split_key=arm.split_key,
        )
        cut = cut_in_force(config, point)
        chosen = {"run": arm.run.folder.name, "chosen": plain(point), "in_force": plain(cut)}
        tested.operating_points.append(chosen)
        tested.scored.extend(_score_arm(folder / MASKS, arm, predictor, cut, progress))
    return tested


def _score_arm(
    folder: Path, arm: Arm, predictor: Predictor, cut: Cut, progress: Progress
) -> Iterator[tuple[CaseScore, Doubt]]:
    """Predicts, writes and scores one case after the other; one volume is held at a time."""
    with progress.bar("test", len(arm.testing), "cases") as advance:
        for entry in arm.testing:
            case = entry.case
            found = segment(predictor, open_case(case), cut)
            np.save(folder / f"{case.name}_prob.npy", found.probability)
            np.save(folder / f"{case.name}_pred.npy", found.predicted)
            score = score_case(
                found.predicted,
                open_mask(case.mask),
                case=case.name,
                patient=case.patient,
                site=case.site,
                spacing_mm=case.spacing_mm,
            )
            yield score, found.doubt
            advance()


def _volumes(folder: Path, entry: CheckedCase) -> dict[str, NDArray[Any]]:
    """The volumes of a tested case, mapped, and its masks."""
    return {
        "cta_hu": open_volume(entry.case.cta),
        "ncct_hu": open_volume(entry.case.ncct),
        "truth": np.asarray(open_mask(entry.case.mask)),
        "predicted": np.asarray(open_volume(folder / MASKS / f"{entry.case.name}_pred.npy")),
    }


def _clot_rows(folder: Path, subject: Subject) -> Iterator[dict[str, Any]]:
    for entry in subject.tested:
        case = entry.case
        yield from clot_rows(**_volumes(folder, entry), case=case.name, spacing_mm=case.spacing_mm)


def _strips(folder: Path, subject: Subject) -> list[Strip]:
    members = subject.tested
    return [
        make_strip(
            **_volumes(folder, entry),
            case=entry.case.name,
            spacing_mm=entry.case.spacing_mm,
            most_bytes=bytes_per_case(len(members)),
        )
        for entry in sorted(members, key=lambda member: member.case.name)
    ]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def _report_content(
    project: Project,
    folder: Path,
    subject: Subject,
    cohorts: Cohorts,
    tested: Tested,
    summary: dict[str, Any],
) -> ReportContent:
    first = subject.arms[0]
    environment = artifact.read_json(first.run.relevant / "environment.json")
    scores = [score for score, _ in tested.scored]
    pictures = []
    for role, name in choose_pictured(scores).items():
        score = next(score for score in scores if score.case == name)
        pictures.append(_picture(folder, cohorts.cases[name], score, role))
    synthetic = project.phantom_record.exists()
    phantoms = artifact.read_json(project.phantom_record)["arguments"] if synthetic else {}
    return ReportContent(
        title=f"Clot segmentation: test of run {', '.join(arm.run.folder.name for arm in subject.arms)}",
        synthetic=synthetic,
        real_head=bool(phantoms.get("anatomy")),
        strips=_strips(folder, subject),
        scores=scores,
        summary=summary,
        history=read_history(first.run),
        pictures=pictures,
        networks=sum(len(arm.checkpoints) for arm in subject.arms),
        folds=len(subject.arms),
        split_file=bool(load_config(first.run.settings).split.file),
        cohort=_cohort_counts(subject),
        configuration_toml=first.run.settings.read_text(encoding="utf-8"),
        provenance={
            **_networks(subject),
            "averaged over flips": _flips(subject, tested),
            "split key": cohorts.key,
            **{name: str(value) for name, value in environment.items()},
        },
        doubt={score.case: doubt.level for score, doubt in tested.scored},
        **_point_of_one(tested),
    )


def _point_of_one(tested: Tested) -> dict[str, Any]:
    """Calibration and chosen cut for the report, where there is one of each; of folds every run has its own.

    A cut that the settings gave was not chosen.
    """
    if len(tested.operating_points) > 1:
        return {}
    (point,) = tested.operating_points
    chosen, in_force = point["chosen"], point["in_force"]
    was_chosen = all(chosen[name] == in_force[name] for name in ("threshold", "smallest_component"))
    return {
        "calibration": chosen["calibration"],
        "operating_point": in_force if was_chosen else None,
    }


def _cohort_counts(subject: Subject) -> dict[str, dict[str, int]]:
    """How many cases and slices there are in the cohorts; of folds only what was tested, over all of them."""
    arms = subject.arms
    cohorts = {"Testing": [entry for arm in arms for entry in arm.testing]}
    if len(arms) == 1:
        cohorts = {"Training": list(arms[0].training), "Validation": list(arms[0].validation), **cohorts}
    return {
        name: {
            "cases": len(entries),
            "cases_with_clot": sum(entry.clot_voxels > 0 for entry in entries),
            "slices": sum(entry.shape[2] for entry in entries),
        }
        for name, entries in cohorts.items()
    }


def _networks(subject: Subject) -> dict[str, str]:
    """What identifies the networks, a line for each thing however many they are."""
    networks = [
        (arm, folder, description)
        for arm in subject.arms
        for folder, description in zip(arm.checkpoints, arm.descriptions, strict=True)
    ]
    records = [read_record(run_of(folder)) for _, folder, _ in networks]
    origins = [record.get("ancestry", {}).get("forked_from") for record in records]
    facts = {
        "run": [run_of(folder).folder.name for _, folder, _ in networks],
        **({"began from the weights of": [origin or "none" for origin in origins]} if any(origins) else {}),
        "checkpoint": [f"{folder.name}, epoch {description.epoch}" for _, folder, description in networks],
        "weights SHA-256": [description.sha256 for _, _, description in networks],
    }
    return {name: "; ".join(values) for name, values in facts.items()}


def _flips(subject: Subject, tested: Tested) -> str:
    """The flips that each network was shown slices with, beside the slices as they are."""
    flips = [
        " and ".join(description.flips) if point["chosen"]["tta"] else ""
        for arm, point in zip(subject.arms, tested.operating_points, strict=True)
        for description in arm.descriptions
    ]
    return "; ".join(each or "none" for each in flips)


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
    tested = [entry.case.name for entry in subject.tested]
    manifest = {
        "format": artifact.FORMAT,
        "stage": "test",
        "code_version": TEST_CODE_VERSION,
        "key": key,
        "config": plain(config),
        "inputs": {
            "weights": [arm.weights for arm in subject.arms],
            **{name: cohorts.digests[name] for name in tested},
        },
        "outputs": artifact.describe_outputs(folder, names),
    }
    artifact.write_manifest(folder, manifest)


def _result(project: Project, subject: Subject) -> dict[str, Any]:
    facts = artifact.read_json(subject.target / SUMMARY)
    return {
        "run": project.shown(subject.arms[0].run.folder),
        "cases": facts["cases"],
        "summary": facts["summary"],
        "operating_points": facts["operating_points"],
        "report": project.shown(subject.target / REPORT),
        "masks": project.shown(subject.target / MASKS),
    }
