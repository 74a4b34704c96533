"""`clotseg runs`: the run folders of a project in; how far each is, how good, and how it ended, out.

Nothing is changed, and a run that is being trained does not notice. A damaged run is listed as such and keeps
no other from being listed.
"""

import math
import re
import tomllib
from datetime import datetime
from typing import Any

from clotseg.artifact import is_locked
from clotseg.errors import ClotsegError, CorruptArtifactError
from clotseg.project import Project, Run
from clotseg.train.records import read_history, read_record

RUN_NAME = re.compile(r"\d{8}-\d{6}")
STATES = ("finished", "stopped", "failed")
KILLED = "killed: it ended without a word"


def list_runs(project: Project) -> dict[str, Any]:
    """All runs of a project, oldest first.

    Returns:
        `{"runs": […]}`; of each run, `run` (its folder as `Project.shown` gives it), `state` (`running`,
        `finished`, `stopped`, `failed`, `damaged`), `reason` (why it did not finish), `started` (ISO 8601),
        `epochs` and `epochs_planned`, `best_dice` of validation and its `best_epoch`, and `seconds`, the time
        its epochs took. What is not known is None.
    """
    folders = sorted(folder for folder in project.trainings.glob("*") if folder.is_dir())
    runs = [
        Run(folder) for folder in folders if RUN_NAME.fullmatch(folder.name) or Run(folder).record.exists()
    ]
    return {"runs": [{"run": project.shown(run.folder), **_told(run)} for run in runs]}


def _told(run: Run) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("state", "reason", "started", "epochs", "epochs_planned", "best_dice", "best_epoch", "seconds")
    )
    try:
        return {**unknown, **_state(run), **_progress(run)}
    except ClotsegError as error:
        return {**unknown, "state": "damaged", "reason": f"{error.where}: {error.what}"}


def _state(run: Run) -> dict[str, Any]:
    # Looked at before and after the record: a run that begins or ends just now is not taken for killed.
    alive = is_locked(run.relevant)
    record = read_record(run)
    state, reason = record.get("state"), record.get("reason")
    if state == "running":
        state, reason = ("running", None) if alive or is_locked(run.relevant) else ("stopped", KILLED)
    elif state not in STATES:
        raise CorruptArtifactError(f"knows no state {state!r}", where=run.record)
    return {"state": state, "reason": reason, "started": _checked_time(run, record.get("started"))}


def _checked_time(run: Run, started: object) -> str:
    try:
        return datetime.fromisoformat(str(started)).isoformat()
    except ValueError as error:
        raise CorruptArtifactError(f"has no time of its start ({error})", where=run.record) from error


def _progress(run: Run) -> dict[str, Any]:
    rows = read_history(run)
    if any(not row.keys() >= {"epoch", "val_dice", "seconds"} for row in rows):
        raise CorruptArtifactError("lacks a column", where=run.history)
    scored = [row for row in rows if math.isfinite(row["val_dice"])]
    best = max(scored, key=lambda row: row["val_dice"], default=None)
    return {
        "epochs": len(rows),
        "epochs_planned": _planned(run),
        "best_dice": None if best is None else best["val_dice"],
        "best_epoch": None if best is None else int(best["epoch"]),
        "seconds": sum(row["seconds"] for row in rows),
    }


def _planned(run: Run) -> int:
    """How many epochs were asked for; other settings, which another version may have had, do not matter."""
    try:
        return int(tomllib.loads(run.settings.read_text(encoding="utf-8"))["train"]["epochs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(f"does not tell the epochs ({error})", where=run.settings) from error
