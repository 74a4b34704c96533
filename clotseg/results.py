"""Results for people: what a command returns in; a Rich table on stdout out."""

import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clotseg.doctor import Finding


def print_result(result: RenderableType) -> None:
    """Prints on stdout."""
    Console().print(result)


def import_table(result: dict[str, Any]) -> RenderableType:
    """What `run_import` returned; problems are told on stderr."""
    table = _table("case", "state", "checks", "seconds")
    for case in result["cases"]:
        table.add_row(case["case"], case["state"], case["verdict"] or "–", f"{case['seconds']:.1f}")
    notices = [Text(f"{case['case']}: {notice}") for case in result["cases"] for notice in case["notices"]]
    return Group(table, *notices, _facts({"page": result["page"]}))


def import_plan_table(result: dict[str, Any]) -> RenderableType:
    """What `plan_import` returned: what each case was understood to be made of."""
    table = _table("case", "patient", "site", "CTA", "NCCT", "mask")
    for case in result["cases"]:
        texts = (case[name] or "–" for name in ("case", "patient", "site", "cta", "ncct", "mask"))
        table.add_row(*texts)
    return Group(table, *map(Text, result["notices"]))


def prep_table(result: dict[str, Any]) -> RenderableType:
    """What `run_prep` returned."""
    table = _table("cohort", "cases", "slices", "shards")
    for cohort, facts in result["cohorts"].items():
        table.add_row(cohort, str(len(facts["cases"])), str(facts["slices"]), str(len(facts["shards"])))
    stages = ", ".join(f"{stage} {outcome}" for stage, outcome in result["stages"].items())
    return Group(table, Text(f"stages: {stages}"))


def plan_table(result: dict[str, Any]) -> RenderableType:
    """What `plan_prep` returned: a sentence a stage."""
    return Group(*(Text(f"{stage}: {facts['told']}") for stage, facts in result["stages"].items()))


def train_table(result: dict[str, Any]) -> RenderableType:
    """What `train` returned."""
    return _facts(
        {
            "run": result["run"],
            "best weights": result["best"],
            "epochs": result["epochs"],
            "validation Dice": f"{result['val_dice']:.3f}",
        }
    )


def runs_table(result: dict[str, Any]) -> RenderableType:
    """What `list_runs` returned; why a run did not finish stands below, so that the table stays narrow."""
    if not result["runs"]:
        return Text("no run yet: `clotseg train` makes one")
    table = _table("run", "state", "epochs", "best Dice", "at epoch", "time")
    reasons = []
    for run in result["runs"]:
        name = Path(run["run"]).name
        done, planned = _or_dash(run["epochs"]), _or_dash(run["epochs_planned"])
        table.add_row(
            name,
            run["state"],
            f"{done}/{planned}",
            _or_dash(run["best_dice"], "{:.3f}"),
            _or_dash(run["best_epoch"]),
            "–" if run["seconds"] is None else str(timedelta(seconds=round(run["seconds"]))),
        )
        if run["reason"]:
            reasons.append(Text(f"{name} {run['state']}: {run['reason']}", overflow="fold"))
    return Group(table, *reasons)


def _or_dash(value: object, pattern: str = "{}") -> str:
    return "–" if value is None else pattern.format(value)


def bench_table(result: dict[str, Any]) -> RenderableType:
    """What `run_bench` returned; the bottleneck and what to change stand below."""
    table = _table("stage", "slices/s", "MB/s of shards")
    for stage in result["stages"]:
        table.add_row(stage["what"], f"{stage['slices_per_s']:,.1f}", f"{stage['mb_per_s']:,.1f}")
    data, settings, verdict = result["data"], result["settings"], result["verdict"]
    source = "the project's" if data["source"] == "project" else "a phantom's: the project has none yet"
    facts = {
        "slices": f"{data['slices']}, {source}",
        "on": f"{result['machine']['devices']}, {result['machine']['cores']} cores",
        "network": f"{settings['filters']} filters, depth {settings['depth']}, {settings['size']}², "
        f"batches of {settings['batch_size']}",
        "bottleneck": verdict["told"],
        "change": verdict["change"] or "nothing: no setting follows from these figures",
    }
    return Group(table, _facts(facts), *(Text(note) for note in verdict["notes"]))


def test_table(result: dict[str, Any]) -> RenderableType:
    """What `score_test_cohort` returned."""
    table = _table("case", "Dice", "found", "false clots", "voxels true", "voxels predicted")
    for case in result["cases"]:
        table.add_row(
            case["case"],
            f"{case['dice']:.3f}" if case["has_clot"] else "–",
            {True: "yes", False: "missed", None: "no clot"}[case["found"]],
            str(case["false_clots"]),
            str(case["volume_true"]),
            str(case["volume_predicted"]),
        )
    summary = result["summary"]
    facts = {
        "mean Dice": dice_with_interval(summary),
        "missed": f"{summary['missed']} of {summary['cases_with_clot']} cases with a clot",
        "false clots": f"{summary['false_clots']} in {summary['clot_free_cases']} cases without",
        "threshold": ", ".join(_cut(point["in_force"]) for point in result["operating_points"]),
        "report": result["report"],
        "masks": result["masks"],
    }
    return Group(table, _facts(facts))


def predict_table(result: dict[str, Any]) -> RenderableType:
    """What `predict` returned; problems are told on stderr."""
    table = _table("case", "state", "clots", "doubt")
    for case in result["cases"]:
        doubt = "–" if case["doubt"] is None else f"{case['doubt']:.3f}"
        clots = "–" if case["clots"] is None else str(case["clots"])
        table.add_row(case["case"], case["state"], clots, doubt)
    return Group(table, _facts({"threshold": _cut(result["cut"]), "table": result["table"]}))


def export_table(result: dict[str, Any]) -> RenderableType:
    """What `export` returned."""
    facts = {name: result[name] for name in ("saved_model", "onnx") if result[name]}
    parity = ", ".join(f"{name} {value:.1e}" for name, value in result["largest_difference"].items())
    return _facts({**facts, "compared on": result["compared_on"], "largest difference": parity})


def dicom_seg_table(result: dict[str, Any]) -> RenderableType:
    """What `write_segmentation` returned."""
    clot = f"{result['voxels']} voxels in {result['slices_with_clot']} of {result['slices']} slices"
    facts = {"segmentation": result["segmentation"], "of series": result["series"]}
    return _facts({**facts, "clot": clot if result["voxels"] else "none: the mask is empty"})


def _cut(cut: dict[str, Any]) -> str:
    removed = f", components below {cut['smallest_component']} voxels removed"
    return f"{cut['threshold']:.3f}{removed if cut['smallest_component'] > 1 else ''}"


def compare_table(result: dict[str, Any]) -> RenderableType:
    """What `compare_runs` returned."""
    table = _table("metric", "cases", "first", "second", "difference (95 % interval)", "Wilcoxon p", "better")
    for found in result["metrics"]:
        interval = found["ci95"]
        bounds = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
        table.add_row(
            found["metric"].replace("_", " "),
            str(found["cases"]),
            f"{found['first']:.3f}",
            f"{found['second']:.3f}",
            f"{found['difference']:+.3f}{bounds}",
            "–" if found["wilcoxon_p"] is None else f"{found['wilcoxon_p']:.3g}",
            found["better"] or "undecided",
        )
    facts = {
        "first": result["runs"][0],
        "second": result["runs"][1],
        "cases": f"{result['cases']} from {result['patients']} patients",
        "missed": "{} and {}".format(*result["missed"])
        + f" of {result['cases_with_clot']} cases with a clot",
        "false alarms": "{} and {}".format(*result["clot_free_with_false"]) + " of the cases without",
    }
    return Group(table, _facts(facts))


def inspect_table(result: dict[str, Any]) -> RenderableType:
    """Where the contact sheet is."""
    return _facts({"page": result["page"], "slices": result["slices"]})


def verify_table(result: dict[str, Any]) -> RenderableType:
    """What `verify_project` returned."""
    return _facts(
        {
            "artifacts": ", ".join(result["artifacts"]),
            "files": result["files"],
            "records": result["records"],
            "read": f"{result['bytes'] / 1e6:.1f} MB",
            "faults": result["faults_found"] or "none: all is as it was written",
        }
    )


def doctor_table(findings: list[Finding]) -> RenderableType:
    """What `examine` found."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = "[red]✗" if finding.blocks else "[yellow]![/]" if finding.advice else "[green]✓"
        table.add_row(mark, Text(finding.what, style="bold"), Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"→ {finding.advice}", style="yellow"))
    return table


def demo_panel(folder: Path, result: dict[str, Any]) -> RenderableType:
    """What the demo made, where it is, and what to try next."""
    test = result["test"]
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    made = _facts(
        {
            "cases": f"{shown}/DL_vol_files, {shown}/DL_seg_files",
            "shards": f"{shown}/Processed/Sliced",
            "network": f"{shown}/{result['train']['best']}",
            "masks": f"{shown}/{test['masks']}",
            "report": f"{shown}/{test['report']}",
            "test Dice": f"{dice_with_interval(test['summary'])} on synthetic clots",
            "wall time": ", ".join(f"{stage} {taken:.0f} s" for stage, taken in result["seconds"].items()),
        }
    )
    command = _command()
    then = Text(
        "With your own volumes in PROJECT/DL_vol_files/binary and PROJECT/DL_seg_files/binary, try next"
    )
    for words in ("prep --train-perc 0.6 --val-perc 0.2", "train --size auto", "test"):
        then.append(f"\n  {command} -C PROJECT {words}", style="bold")
    notice = Text("Research software, not a medical device.", style="dim")
    return Panel(Group(made, Text(), then, Text(), notice), title="The demo is done", title_align="left")


def _command() -> str:
    """How the reader can call clotseg from here: by name where the shell finds it, else by path."""
    if shutil.which("clotseg"):
        return "clotseg"
    script = Path(sys.argv[0]).absolute()
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def dice_with_interval(summary: dict[str, Any]) -> str:
    """Mean Dice over the cases with a clot, with its interval where there is one."""
    if summary["dice_mean"] is None:
        return "none: no case has a clot"
    interval = summary["dice_ci95"]
    bounds = f" (95 % interval {interval[0]:.3f}–{interval[1]:.3f})" if interval else ""
    return f"{summary['dice_mean']:.3f}{bounds}"


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _facts(facts: dict[str, object]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(str(value), overflow="fold"))
    return table
