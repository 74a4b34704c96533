"""Commands on cases and slices: demo, phantom, prep, inspect, verify, doctor."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clotseg.cli.application import app, load, show
from clotseg.cli.options import (
    AugmentSwitch,
    AugmentValidation,
    Dask,
    DryRun,
    Fold,
    Folds,
    Json,
    Neighbours,
    PrintConfig,
    Size,
    Slices,
    SliceSwitch,
    SplitFile,
    SplitSwitch,
    Stratify,
    Switch,
    TargetTrain,
    TargetVal,
    Workers,
)
from clotseg.project import Project


@app.command()
def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the synthetic cohort.", min=0)] = 0,
) -> None:
    """Make a synthetic cohort, then prep, train, test and report on it."""
    from clotseg.console import open_progress
    from clotseg.dashboard import open_training_view
    from clotseg.demo import run_demo
    from clotseg.results import demo_panel, print_result

    folder = context.obj.root / folder
    progress = open_progress()
    result = run_demo(folder, progress, open_training_view(progress), seed=seed)
    print_result(demo_panel(folder, result))


@app.command()
def phantom(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Folder to write the cases into.")],
    cases: Annotated[int, typer.Option(help="How many.", min=1)] = 24,
    size: Annotated[int, typer.Option(help="Rows and columns of a slice.")] = 96,
    slices: Annotated[int, typer.Option(help="Slices of a volume.")] = 24,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    anatomy: Annotated[
        Path | None,
        typer.Option(help="A head CT (NIfTI) to grow vessels and clots in.", metavar="FILE.nii.gz"),
    ] = None,
    shift: Annotated[
        bool,
        typer.Option(
            "--shift", help="Other anatomy, vessels, clots and scanners than without: cases to hold out."
        ),
    ] = False,
) -> None:
    """Write a synthetic cohort in the case format."""
    from clotseg.console import open_progress
    from clotseg.phantom import write_cohort

    progress = open_progress()
    with progress.bar("phantom", cases, "cases") as advance:
        state = write_cohort(
            context.obj.root / out,
            cases=cases,
            size=size,
            slices=slices,
            seed=seed,
            anatomy=None if anatomy is None else context.obj.root / anatomy,
            shift=shift,
            on_case=lambda _: advance(),
        )
    progress.say("phantom", state=state, folder=out)


@app.command()
def prep(
    context: typer.Context,
    train_perc: Annotated[float | None, typer.Option(help="Share of patients to train on.")] = None,
    val_perc: Annotated[float | None, typer.Option(help="Share of patients to validate on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
    stratify: Stratify = None,
    folds: Folds = None,
    fold: Fold = None,
    split_file: SplitFile = None,
    slices: Slices = None,
    neighbours: Neighbours = None,
    size: Size = None,
    split: SplitSwitch = Switch.auto,
    slicing: SliceSwitch = Switch.auto,
    augment: AugmentSwitch = None,
    target_train: TargetTrain = None,
    target_val: TargetVal = None,
    augment_validation: AugmentValidation = None,
    workers: Workers = None,
    dask: Dask = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Split cases into cohorts by patient and write their slices as sharded TFRecords."""
    project: Project = context.obj
    flags = {
        "split.train_perc": train_perc,
        "split.val_perc": val_perc,
        "split.seed": seed,
        "split.stratify": None if stratify is None else [by.strip() for by in stratify.split(",")],
        "split.folds": folds,
        "split.fold": fold,
        "split.file": split_file,
        "slice.slices": slices,
        "slice.context": neighbours,
        "feed.size": size,
        "offline.target_train": target_train,
        "offline.target_val": target_val,
        "offline.validation": augment_validation,
        "runtime.workers": workers,
        "runtime.dask": dask,
    }
    config = load(project, flags, print_only=print_config)
    from clotseg.console import open_progress
    from clotseg.prep.flags import remembered
    from clotseg.prep.stages import plan_prep, run_prep
    from clotseg.results import plan_table, prep_table

    switches: dict[str, Any] = {
        "split": split.value,
        "slicing": slicing.value,
        "augment": "off" if augment is None else augment.value,
    }
    if dry_run:
        show(plan_prep(project, config, open_progress(), **switches), plan_table, as_json=as_json)
        return
    result = run_prep(project, config, open_progress(), **switches, flags=remembered(flags))
    show(result, prep_table, as_json=as_json)


@app.command()
def inspect(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A project, or the folder of a sliced cohort.")] = Path(),
    out: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE.html")] = Path("inspect.html"),
    slices: Annotated[int, typer.Option(help="How many to show, each from another case.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of the augmentation.", min=0)] = 1,
    as_json: Json = False,
) -> None:
    """Show slices before and after augmentation, each transform by itself and all together."""
    config = load(context.obj, {}, print_only=False)
    from clotseg.contact_sheet import write_contact_sheet
    from clotseg.results import inspect_table

    page = context.obj.root / out
    shown = write_contact_sheet(context.obj.root / path, page, config.augment, slices=slices, seed=seed)
    show({"page": context.obj.shown(page), "slices": shown}, inspect_table, as_json=as_json)


@app.command()
def verify(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A project, or a folder in it; the whole project.", metavar="PATH")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every digest, record, index and count of what clotseg published."""
    from clotseg.console import open_progress
    from clotseg.prep.verify import find_scope, require_something, require_whole, verify_project
    from clotseg.results import verify_table

    project, below = find_scope(context.obj, path)
    result = verify_project(project, open_progress(), below=below)
    require_something(result, project.root if path is None else path)
    show(result, verify_table, as_json=as_json)
    require_whole(result)


@app.command()
def doctor(context: typer.Context) -> None:
    """Say what this machine has, with one line of advice per problem."""
    from clotseg.doctor import examine, require_usable
    from clotseg.results import doctor_table, print_result

    findings = examine(context.obj.root)
    print_result(doctor_table(findings))
    require_usable(findings)
