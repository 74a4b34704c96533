"""Which recipe gives the better masks, and which the sooner, at equal wall time on equal cores?

    python benchmarks/time_to_dice.py default my.toml default+mirror --minutes 15 [--seeds 0 1 2] [--json]

Recipes are names of clotseg's or TOML files of settings, each with changes that `benchmarks/candidates`
lists; the reference, `ct-clotseg` unless `--against` names another, is added where it is not named. Slices
are padded as little as the network allows under all named recipes, the reference included; `--as-written`
pads them to what the recipe says. All train on the same phantoms with `clotseg train --minutes`, each in a
process of its own, the recipes taking turns seed by seed, the order turned round from seed to seed. One runs
at a time, on all cores, or several `--at-once`, each on its share of them. The minutes count from the start
of training in that process; loading the program comes on top, as does the last validation; preparing slices
is not timed. A schedule that falls is at its end when the time is up.

`clotseg test` then scores the checkpoint that had the best validation Dice so far, at the shares of the
time that `--marks` gives, on three cohorts that share no case with the training: `usual` phantoms,
`shifted` ones (`clotseg phantom --shift`), and `head`, grown in the real brain CT under CLOTSEG_SHARED.
Their seeds are those of a development cohort. `--final` takes others, which nothing may be tuned on.

With `--kept FILE` each training's outcome is written down as it ends, and what the file has already, under
the same options, is not trained again: three recipes with three seeds take hours. Use one file for one
machine and one state of the code.

A checkpoint's clock time runs from the start of its process to when it was written. Dice counts as 0 at a
mark before the first checkpoint. "Reached" is the clock time of the first tested checkpoint that has the
final mean Dice of the reference of the same seed: close marks make it exact. The interval of a difference
is that of `clotseg compare`, paired and resampled by patient, here over the cases of all seeds together.
"Doubt against Dice" is Spearman's correlation over the cases with a clot, the median of the seeds.
"""

import argparse
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from candidates import CHANGES, flags_of, settings_of

from clotseg.config import load_config, to_toml
from clotseg.evaluate.agreement import mean_interval
from clotseg.phantom import write_cohort
from clotseg.project import Project, Run
from clotseg.recipes import recipe_names
from clotseg.train.checkpoint import read_description

ATLAS = "data/brain_ct_atlas_1mm.nii.gz"
TRAINING_SEED = 1000
HELD_OUT_SEEDS = {
    "development": {"usual": 2000, "shifted": 2001, "head": 2002},
    "final": {"usual": 7100, "shifted": 7101, "head": 7102},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A recipe with one seed at one mark; `clock_s` is None where there was no checkpoint yet."""

    recipe: str
    seed: int
    mark: float
    clock_s: float | None
    epoch: int | None
    cases: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe as it was written: NAME, or NAME+CHANGE+CHANGE."""

    written: str

    @property
    def base(self) -> str:
        """A name, or a path."""
        return self.written.split("+")[0]

    @property
    def changes(self) -> list[str]:
        return self.written.split("+")[1:]

    @property
    def shown(self) -> str:
        return "+".join([Path(self.base).name, *self.changes])


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A recipe with a seed: where, and on which cores."""

    recipe: Recipe
    seed: int
    folder: Path
    cores: tuple[int, ...]

    def clotseg(self, *arguments: object) -> Any:
        """The command's `--json` output; ends the program where the command fails."""
        program = ["candidates", ",".join(self.recipe.changes)] if self.recipe.changes else ["clotseg"]
        command = ["taskset", "--cpu-list", ",".join(map(str, self.cores))]
        command += [sys.executable, "-m", *program, "-C", str(self.folder), *map(str, arguments), "--json"]
        paths = [str(Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout)


def make_cases(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Writes one project's cases: training and held-out; returns the reason for each cohort left out."""
    seeds = HELD_OUT_SEEDS["final" if options.final else "development"]
    anatomy = Path(os.environ.get("CLOTSEG_SHARED", "")) / ATLAS
    split: dict[str, list[str]] = {"Training": [], "Validation": [], "Testing": []}
    lines, left_out = [], {}
    for kind, seed, count in (
        ("train", TRAINING_SEED, options.cases),
        *((kind, seed, options.held_out) for kind, seed in seeds.items()),
    ):
        if kind == "head" and not anatomy.is_file():
            left_out[kind] = f"there is no {ATLAS} in the folder that CLOTSEG_SHARED names"
            continue
        made = Project(folder / "made" / kind)
        head = anatomy if kind == "head" else None
        size = {"size": options.size, "slices": options.slices}
        write_cohort(made.root, cases=count, seed=seed, shift=kind == "shifted", anatomy=head, **size)
        header, *rows = made.cases_csv.read_text().splitlines()
        lines += [f"{kind}_{row}".replace(",patient_", f",{kind}_patient_", 1) for row in rows]
        names = [f"{kind}_{row.split(',')[0]}" for row in rows]
        validation = max(2, count // 5) if kind == "train" else 0
        split["Validation"] += names[:validation]
        split["Training" if kind == "train" else "Testing"] += names[validation:]
        for whole, part in ((Project(folder).volumes, made.volumes), (Project(folder).masks, made.masks)):
            whole.mkdir(parents=True, exist_ok=True)
            for path in part.glob("case_*"):
                path.rename(whole / f"{kind}_{path.name}")
    Project(folder).cases_csv.write_text("\n".join([header, *lines]) + "\n")
    shutil.rmtree(folder / "made")
    (folder / "split.json").write_text(json.dumps({"cohorts": split}))
    return left_out


def make_project(cases: Path, job: Job, *, as_written: bool) -> None:
    """A project of the same cases with the settings of a recipe, its slices made."""
    shutil.copytree(cases, job.folder, copy_function=os.link)
    chosen, base = job.folder / "chosen.toml", job.recipe.base
    if base in recipe_names():
        # Phantoms are smaller than patients' slices; padding them to 256 would only cost time.
        padding = "" if as_written else '[feed]\nsize = "auto"\n'
        chosen.write_text(f'[train]\nrecipe = "{base}"\n\n{padding}')
    else:
        shutil.copyfile(base, chosen)
    kept = {"split.file": "split.json", "runtime.keep_checkpoints": 100_000}
    settings = to_toml(load_config(chosen, {**kept, **settings_of(job.recipe.changes)}))
    (job.folder / "clotseg.toml").write_text(settings)
    job.clotseg("prep")


def train(job: Job, minutes: float) -> tuple[Run, list[tuple[float, Path]]]:
    """A run, and its checkpoints after whole epochs with their clock times in seconds."""
    started = time.time()
    result = job.clotseg("train", "--seed", job.seed, "--minutes", minutes)
    run = Run(job.folder / result["run"])
    found = [
        (path.stat().st_mtime - started, path) for path in sorted(run.checkpoints.glob("epoch-*-step-000000"))
    ]
    return run, sorted(found)


def measure(cases: Path, job: Job, options: argparse.Namespace) -> list[Measured]:
    """Trains once and tests the best checkpoint at each mark."""
    make_project(cases, job, as_written=options.as_written)
    _, checkpoints = train(job, options.minutes)
    split = json.loads((job.folder / "split.json").read_text())["cohorts"]
    measured, tested = [], {}
    for mark in options.marks:
        # What the last mark takes was ended by the clock; only its validation came after.
        in_time = [(at, path) for at, path in checkpoints if mark == 1 or at <= 60 * options.minutes * mark]
        best = max(in_time, key=lambda entry: read_description(entry[1]).val_dice, default=None)
        of_job = {"recipe": job.recipe.written, "seed": job.seed, "mark": mark}
        if best is None:
            measured.append(Measured(**of_job, clock_s=None, epoch=None, cases=[]))
            continue
        if best[1] not in tested:
            tested[best[1]] = job.clotseg("test", "--ckpt", best[1], *flags_of(job.recipe.changes))["cases"]
        kept = ("case", "patient", "dice", "has_clot", "found", "false_clots", "doubt")
        measured.append(
            Measured(
                **of_job,
                clock_s=round(best[0], 1),
                epoch=read_description(best[1]).epoch,
                cases=[{name: case[name] for name in kept} for case in tested[best[1]]],
            )
        )
    assert all(len(entry.cases) in (0, len(split["Testing"])) for entry in measured)
    shutil.rmtree(job.folder)
    return measured


def circumstances(options: argparse.Namespace, recipe: str, seed: int) -> dict[str, Any]:
    """All that an outcome depends on, beside the code and the machine."""
    names = ("minutes", "marks", "cases", "held_out", "size", "slices", "at_once", "final", "as_written")
    path = Path(Recipe(written=recipe).base)
    return {
        "recipe": Recipe(written=recipe).shown,
        "settings": path.read_text() if path.is_file() else None,
        "seed": seed,
        "cores": len(os.sched_getaffinity(0)),
        **{name: getattr(options, name) for name in names},
    }


def recall(kept: Path | None, of: dict[str, Any]) -> list[Measured] | None:
    """What was written down under the same circumstances, if anything was.

    Raises:
        ValueError: a line of the file is not one that `note` wrote.
    """
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    found = next((entry for entry in map(json.loads, lines) if entry["of"] == of), None)
    return None if found is None else [Measured(**measured) for measured in found["measured"]]


def note(kept: Path | None, of: dict[str, Any], measured: list[Measured]) -> None:
    """Writes an outcome down, where that is asked for."""
    if kept is not None:
        with kept.open("a") as file:
            file.write(json.dumps({"of": of, "measured": [asdict(entry) for entry in measured]}) + "\n")


def with_clot(entry: Measured, cohort: str) -> list[dict[str, Any]]:
    return [case for case in entry.cases if case["case"].startswith(cohort) and case["has_clot"]]


def mean_dice(entry: Measured, cohort: str) -> float:
    """Over the cases with a clot; 0 where nothing was learnt in time."""
    dice = [case["dice"] for case in with_clot(entry, cohort)]
    return statistics.fmean(dice) if dice else 0.0


def difference(ours: list[Measured], theirs: list[Measured], cohort: str) -> dict[str, Any]:
    """Mean and paired interval of the final Dice of a recipe minus that of the reference."""
    apart, patients = [], []
    for one, other in zip(ours, theirs, strict=True):
        first = {case["case"]: case["dice"] for case in with_clot(one, cohort)}
        second = {case["case"]: case["dice"] for case in with_clot(other, cohort)}
        patient = {case["case"]: case["patient"] for case in [*one.cases, *other.cases]}
        for case in sorted({*first, *second}):
            apart.append(first.get(case, 0.0) - second.get(case, 0.0))
            patients.append(patient[case])
    interval = mean_interval(apart, patients, samples=2000, seed=0) if apart else None
    return {"mean": statistics.fmean(apart) if apart else 0.0, "ci95": interval}


def doubt_and_dice(entry: Measured, cohort: str) -> float:
    """Spearman's correlation of doubt and Dice over the cases with a clot; NaN where nothing was learnt."""
    from scipy.stats import spearmanr

    cases = with_clot(entry, cohort)
    if not cases:
        return float("nan")
    return float(spearmanr([case["doubt"] for case in cases], [case["dice"] for case in cases]).statistic)


def time_to_reach(entries: list[Measured], target: float, cohort: str) -> float | None:
    """Clock time of the first checkpoint tested that has the Dice, s; None where none has."""
    return next(
        (entry.clock_s for entry in entries if entry.clock_s and mean_dice(entry, cohort) >= target > 0), None
    )


def summarise(
    measured: list[Measured], recipe: str, cohort: str, *, against: str, seeds: list[int]
) -> dict[str, Any]:
    """A recipe on a cohort: over the seeds."""

    def of(name: str, seed: int) -> list[Measured]:
        return [entry for entry in measured if (entry.recipe, entry.seed) == (name, seed)]

    last = [of(recipe, seed)[-1] for seed in seeds]
    reference = [of(against, seed)[-1] for seed in seeds]
    marks = [entry.mark for entry in of(recipe, seeds[0])]
    clots = [case for entry in last for case in with_clot(entry, cohort)]
    free = [
        case
        for entry in last
        for case in entry.cases
        if case["case"].startswith(cohort) and not case["has_clot"]
    ]
    return {
        "recipe": recipe,
        "cohort": cohort,
        "dice_at": {
            str(mark): statistics.median(mean_dice(of(recipe, seed)[at], cohort) for seed in seeds)
            for at, mark in enumerate(marks)
        },
        "final_dice": [mean_dice(entry, cohort) for entry in last],
        "missed": [sum(not case["found"] for case in clots), len(clots)],
        "with_false_clot": [sum(case["false_clots"] > 0 for case in free), len(free)],
        "doubt_and_dice": statistics.median(doubt_and_dice(entry, cohort) for entry in last),
        "reached_s": [
            time_to_reach(of(recipe, seed), mean_dice(aim, cohort), cohort)
            for seed, aim in zip(seeds, reference, strict=True)
        ],
        "difference": None if recipe == against else difference(last, reference, cohort),
    }


def table(rows: list[dict[str, Any]], minutes: float, against: str) -> str:
    """The summary in Markdown."""
    marks = list(rows[0]["dice_at"])
    heads = ["cohort", "recipe", *(f"Dice, {float(mark) * minutes:.3g} min" for mark in marks)]
    heads += [
        "Dice of each seed",
        f"minus {Recipe(written=against).shown}",
        "clots missed",
        "clot-free with a false clot",
        "doubt against Dice",
        "its Dice reached after",
    ]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row in rows:
        apart = row["difference"]
        interval = apart and apart["ci95"] and "{:+.3f} to {:+.3f}".format(*apart["ci95"])
        cells = [
            row["cohort"],
            Recipe(written=row["recipe"]).shown,
            *(f"{dice:.3f}" for dice in row["dice_at"].values()),
        ]
        cells += [
            ", ".join(f"{dice:.3f}" for dice in row["final_dice"]),
            f"{apart['mean']:+.3f} ({interval or 'no interval'})" if apart else "–",
            "{} of {}".format(*row["missed"]),
            "{} of {}".format(*row["with_false_clot"]),
            f"{row['doubt_and_dice']:+.2f}",
            ", ".join("never" if at is None else f"{at:.0f} s" for at in row["reached_s"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+", help="names, or TOML files of settings, with +CHANGES")
    parser.add_argument("--against", default="ct-clotseg", help="the recipe that all are held against")
    parser.add_argument("--minutes", type=float, default=15.0, help="wall time of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--marks", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--cases", type=int, default=60, help="to train and validate on")
    parser.add_argument("--held-out", type=int, default=42, help="cases of each held-out cohort")
    parser.add_argument("--size", type=int, default=96, help="rows and columns of a slice")
    parser.add_argument("--slices", type=int, default=24, help="of a volume")
    parser.add_argument("--cores", type=int, help="how many may be used; all that there are")
    parser.add_argument("--at-once", type=int, default=1, help="trainings that share the cores")
    parser.add_argument("--final", action="store_true", help="the held-out seeds; never tune on them")
    parser.add_argument("--as-written", action="store_true", help="pad slices as the named recipes say")
    parser.add_argument("--kept", type=Path, help="a file of outcomes, read and added to")
    parser.add_argument("--folder", type=Path, help="empty, to work in, kept; else a temporary one")
    parser.add_argument("--json", action="store_true", help="everything, case by case, instead of the table")
    options = parser.parse_args()
    options.marks = sorted({*options.marks, 1.0})
    options.recipes = list(dict.fromkeys([options.against, *options.recipes]))
    for recipe in (Recipe(written=written) for written in options.recipes):
        if recipe.base not in recipe_names() and not Path(recipe.base).is_file():
            parser.error(f"{recipe.base}: neither a file nor one of {', '.join(recipe_names())}")
        if unknown := [name for name in recipe.changes if name not in CHANGES]:
            parser.error(f"{', '.join(unknown)}: no change; there are {', '.join(CHANGES)}")
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder {options.folder}: is not empty")
    if options.minutes <= 0 or not all(0 < mark <= 1 for mark in options.marks):
        parser.error("--minutes must be more than 0, and --marks from 0 to 1")
    return options


def run_all(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every recipe with every seed, and what came out."""
    left_out = make_cases(folder / "cases", options)
    cohorts = [kind for kind in HELD_OUT_SEEDS["final"] if kind not in left_out]
    shares = queue.SimpleQueue[tuple[int, ...]]()
    cores = sorted(os.sched_getaffinity(0))
    for share in range(options.at_once):
        shares.put(tuple(cores[share :: options.at_once]))

    def done(number: int, recipe: str, seed: int) -> list[Measured]:
        of = circumstances(options, recipe, seed)
        if kept := recall(options.kept, of):
            return kept
        share = shares.get()
        place = folder / f"training-{number}"
        job = Job(recipe=Recipe(written=recipe), seed=seed, folder=place, cores=share)
        try:
            entries = measure(folder / "cases", job, options)
        finally:
            shares.put(share)
        note(options.kept, of, entries)
        dice = ", ".join(f"{cohort} {mean_dice(entries[-1], cohort):.3f}" for cohort in cohorts)
        print(f"seed {seed}, {job.recipe.shown}: {entries[-1].epoch} epochs, Dice {dice}", file=sys.stderr)
        return entries

    turns = [
        (recipe, seed)
        for turn, seed in enumerate(options.seeds)
        for recipe in options.recipes[:: -1 if turn % 2 else 1]
    ]
    with ThreadPoolExecutor(options.at_once) as pool:
        found = [pool.submit(done, number, *turn) for number, turn in enumerate(turns)]
        measured = [entry for training in found for entry in training.result()]
    rows = [
        summarise(measured, recipe, cohort, against=options.against, seeds=options.seeds)
        for cohort in cohorts
        for recipe in options.recipes
    ]
    return {
        "cohorts": "final" if options.final else "development",
        "cores": len(os.sched_getaffinity(0)),
        "minutes": options.minutes,
        "seeds": options.seeds,
        "left_out": left_out,
        "rows": rows,
        "measured": [asdict(entry) for entry in measured],
    }


def main() -> None:
    options = parsed()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as temporary:
        found = run_all((options.folder or Path(temporary)).resolve(), options)
    if options.json:
        print(json.dumps(found))
        return
    cores, seeds = found["cores"], found["seeds"]
    print(f"{found['cohorts']} cohorts, {cores} cores, {options.minutes:g} min, seeds {seeds}\n")
    print(table(found["rows"], options.minutes, options.against))
    for cohort, reason in found["left_out"].items():
        print(f"\n{cohort} was left out: {reason}")


if __name__ == "__main__":
    main()
