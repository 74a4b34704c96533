"""`clotseg compare`: two tested runs in; how much better one is than the other, case by case, out.

What always holds: both were tested on the very same cases (by digest) of the same split, else they are
refused; a difference is the second run's number minus the first's, on cases that have both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from clotseg import artifact
from clotseg.config import TestConfig
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.agreement import mean_interval
from clotseg.evaluate.testing import SUMMARY
from clotseg.project import Project, Run
from clotseg.train.checkpoint import run_of
from clotseg.train.records import read_record

HIGHER_IS_BETTER = {
    "dice": True,
    "surface_dice_1mm": True,
    "surface_dice_2mm": True,
    "hd95_mm": False,
    "average_surface_distance_mm": False,
    "precision": True,
    "recall": True,
    "absolute_volume_error_percent": False,
}
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """The results of one test.

    Attributes:
        folder: `Testing/<checkpoint>` of a run.
        rows: the scores, by case.
        digests: of the files of each case.
        split_key: of the split the run was trained with.
    """

    folder: Path
    rows: Mapping[str, Row]
    digests: Mapping[str, Any]
    split_key: str


def compare_runs(project: Project, first: Path, second: Path, config: TestConfig) -> dict[str, Any]:
    """Compares two tested runs on the same cases.

    Args:
        project: paths are shown as seen from it; the runs may lie in others.
        first: a run, its checkpoint folder, or a folder of test results.
        second: the same.
        config: resamples and seed of the bootstrap.

    Returns:
        `runs`: both folders of results; `cases`, `patients`, `cases_with_clot`; `missed` and
        `clot_free_with_false`: of both runs;
        `metrics`, over cases with a clot: a list of `metric`, `cases` (that have it in both), `first` and
        `second` (means), `difference` (of the means), `ci95` (paired bootstrap by patient; None below two
        patients), `wilcoxon_p` (signed-rank test, two-sided, cases as independent; None where no case
        differs), `better`: `first`, `second`, or None where the interval holds 0 or there is none.

    Raises:
        DataError: a run was not tested, or they were tested on different cases or splits.
        CorruptArtifactError: results are damaged.
    """
    a, b = (_read(_find(path)) for path in (first, second))
    _require_same_cases(a, b)
    cases = sorted(a.rows)
    with_clot = [case for case in cases if a.rows[case]["has_clot"]]
    free = [case for case in cases if not a.rows[case]["has_clot"]]
    metrics = [_paired(name, a.rows, b.rows, with_clot, config) for name in HIGHER_IS_BETTER]
    return {
        "runs": [project.shown(tested.folder) for tested in (a, b)],
        "cases": len(cases),
        "patients": len({a.rows[case]["patient"] for case in cases}),
        "cases_with_clot": len(with_clot),
        "missed": [sum(not tested.rows[case]["found"] for case in with_clot) for tested in (a, b)],
        "clot_free_with_false": [
            sum(tested.rows[case]["false_clots"] > 0 for case in free) for tested in (a, b)
        ],
        "metrics": [found for found in metrics if found["cases"]],
    }


def _find(path: Path) -> Path:
    """The folder of results that a user's path means."""
    folders = (path, path / "Testing" / "Best_Model", run_of(path).testing(path.name))
    for folder in folders:
        if (folder / SUMMARY).is_file():
            return folder.resolve()
    raise DataError(
        "has no test results", where=path, fix="run `clotseg test --ckpt` with it first, or name another run"
    )


def _read(folder: Path) -> Tested:
    manifest = artifact.require_manifest(folder, fix="run `clotseg test` again")
    if artifact.digest_file(folder / SUMMARY) != manifest["outputs"][SUMMARY]["sha256"]:
        raise CorruptArtifactError(
            "is not as it was written", where=folder / SUMMARY, fix="run `clotseg test` again"
        )
    rows = {row["case"]: row for row in artifact.read_json(folder / SUMMARY)["cases"]}
    return Tested(
        folder=folder,
        rows=rows,
        digests={case: manifest["inputs"][case] for case in rows},
        split_key=str(read_record(Run(folder.parents[1]))["split_key"]),
    )


def _require_same_cases(a: Tested, b: Tested) -> None:
    """Refuses what cannot be compared, and says why."""
    lacking = [
        f"{case}: only in {tested.folder}"
        for tested, other in ((a, b), (b, a))
        for case in sorted(set(tested.rows) - set(other.rows))
    ]
    changed = [
        f"{case}: its volumes or mask differ"
        for case in sorted(set(a.rows) & set(b.rows))
        if a.digests[case] != b.digests[case]
    ]
    if lacking or changed:
        raise DataError(
            "the two runs were not tested on the same cases, so their scores cannot be paired",
            where=b.folder,
            fix="compare runs of one split, or test both on the same cohort",
            details=lacking + changed,
        )
    if a.split_key != b.split_key:
        raise DataError(
            "the two runs were trained with different splits, so one may have learned from other patients",
            where=b.folder,
            fix="train both with the same split: `clotseg prep --split-file`",
        )


def _paired(
    name: str, first: Mapping[str, Row], second: Mapping[str, Row], cases: Sequence[str], config: TestConfig
) -> dict[str, Any]:
    """One metric in both runs, on the cases that have it in both."""
    pairs = {case: (_value(name, first[case]), _value(name, second[case])) for case in cases}
    both = {case: (a, b) for case, (a, b) in pairs.items() if a is not None and b is not None}
    differences = [b - a for a, b in both.values()]
    patients = [first[case]["patient"] for case in both]
    interval = mean_interval(differences, patients, samples=config.bootstrap_samples, seed=config.seed)
    better = None
    if interval is not None and not interval[0] <= 0 <= interval[1]:
        better = "second" if (interval[0] > 0) is HIGHER_IS_BETTER[name] else "first"
    count = len(both)
    return {
        "metric": name,
        "cases": count,
        "first": sum(a for a, _ in both.values()) / count if count else None,
        "second": sum(b for _, b in both.values()) / count if count else None,
        "difference": sum(differences) / count if count else None,
        "ci95": interval,
        "wilcoxon_p": float(stats.wilcoxon(differences).pvalue) if any(differences) else None,
        "better": better,
    }


def _value(name: str, row: Row) -> float | None:
    if name == "absolute_volume_error_percent":
        error = row.get("volume_error_percent")
        return None if error is None else abs(float(error))
    value = row.get(name)
    return None if value is None else float(value)
