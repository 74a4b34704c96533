"""The command line: parse, call, print. stdout carries results, stderr progress and messages.

Heavy imports happen inside commands, so that help and errors never wait for TensorFlow.
"""

import json
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from clotseg.cli_options import (
    AugmentSwitch,
    AugmentValidation,
    Checkpoint,
    Checkpoints,
    Dask,
    DryRun,
    Fold,
    FoldRuns,
    Folds,
    Gpus,
    Inputs,
    Json,
    Level,
    LogAugment,
    Neighbours,
    Onnx,
    Out,
    Overwrite,
    PrintConfig,
    Replicas,
    Size,
    Slices,
    SliceSwitch,
    Source,
    SplitFile,
    SplitSwitch,
    Stratify,
    Switch,
    TargetTrain,
    TargetVal,
    Threshold,
    TrainSamples,
    Tta,
    Verify,
    Workers,
)
from clotseg.errors import Interrupted, root_of
from clotseg.project import Project

app = typer.Typer(
    name="clotseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From folders of CT angiograms to a trained clot-segmentation network and an honest report.\n\n"
    "Research software, not a medical device.",
)


def main() -> NoReturn:
    """Runs a command and ends the process with the exit code of its outcome."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except Exception as error:
        sys.exit(_tell(error, debug="--debug" in sys.argv[1:]))
    sys.exit(0)


def _tell(error: Exception, *, debug: bool) -> int:
    """Prints what ended a command, in full when debugging; gives its exit code."""
    if debug:
        traceback.print_exception(error)
    known = root_of(error)
    if known is not None:
        print(f"clotseg: {known}", file=sys.stderr)
        return known.exit_code
    print(f"clotseg: unexpected {type(error).__name__}: {error}", file=sys.stderr)
    if not debug:
        print("  To mend it: run again with `clotseg --debug …` and report what it prints", file=sys.stderr)
    return 1


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


@app.callback()
def _global_options(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("-C", help="Run as if started in this folder.")] = Path(),
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001
) -> None:
    context.obj = Project(folder.resolve())


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
    config = _config(
        project,
        {
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
        },
        print_only=print_config,
    )
    from clotseg.console import open_progress
    from clotseg.prep.stages import plan_prep, run_prep
    from clotseg.results import plan_table, prep_table

    switches: dict[str, Any] = {
        "split": split.value,
        "slicing": slicing.value,
        "augment": "off" if augment is None else augment.value,
    }
    if dry_run:
        _print(plan_prep(project, config, open_progress(), **switches), plan_table, as_json=as_json)
        return
    _print(run_prep(project, config, open_progress(), **switches), prep_table, as_json=as_json)


@app.command()
def train(
    context: typer.Context,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training cohort.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Slices a step, all devices together.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.")] = None,
    train_samples: TrainSamples = None,
    size: Size = None,
    filters: Annotated[int | None, typer.Option(help="Filters at full resolution.")] = None,
    depth: Annotated[int | None, typer.Option(help="How often the U-Net halves its input.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    gpus: Gpus = None,
    replicas: Replicas = None,
    log_augment: LogAugment = None,
    source: Source = None,
    split: SplitSwitch = Switch.auto,
    slicing: SliceSwitch = Switch.auto,
    augment: AugmentSwitch = None,
    workers: Workers = None,
    dask: Dask = None,
    verify: Verify = Level.quick,
    as_json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Train the U-Net; what `prep` makes is made first where it is missing or outdated."""
    config = _config(
        context.obj,
        {
            "train.epochs": epochs,
            "train.batch_size": batch_size,
            "train.learning_rate": learning_rate,
            "train.train_samples": train_samples,
            "train.seed": seed,
            "train.source": source,
            "feed.size": size,
            "network.filters": filters,
            "network.depth": depth,
            "runtime.gpus": gpus,
            "runtime.replicas": replicas,
            "runtime.log_augment": log_augment,
            "runtime.workers": workers,
            "runtime.dask": dask,
        },
        print_only=print_config,
    )
    from clotseg.console import open_progress
    from clotseg.dashboard import open_training_view
    from clotseg.prep.stages import run_prep
    from clotseg.prep.verify import require_whole, verify_project
    from clotseg.results import train_table

    progress = open_progress()
    offline = augment or (Switch.auto if config.train.source == "augmented" else Switch.off)
    switches: dict[str, Any] = {"split": split.value, "slicing": slicing.value, "augment": offline.value}
    if set(switches.values()) != {"off"}:
        run_prep(context.obj, config, progress, **switches)
    from clotseg.train.loop import train as run_training

    require_whole(verify_project(context.obj, progress, level=verify.value, below=(context.obj.processed,)))
    result = run_training(context.obj, config, open_training_view(progress))
    _print(result, train_table, as_json=as_json)


@app.command()
def test(
    context: typer.Context,
    ckpt: Checkpoints = None,
    folds: FoldRuns = None,
    tta: Tta = False,
    threshold: Threshold = None,
    gpus: Gpus = None,
    verify: Verify = Level.quick,
    as_json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Score the untouched test cohort and write the report."""
    flags = {"runtime.gpus": gpus, "test.threshold": threshold}
    config = _config(context.obj, flags, print_only=print_config)
    from clotseg.console import open_progress
    from clotseg.evaluate.testing import score_test_cohort
    from clotseg.prep.verify import require_whole, verify_project
    from clotseg.results import test_table

    progress = open_progress()
    require_whole(verify_project(context.obj, progress, level=verify.value, below=(context.obj.original,)))
    together, apart = _below(context.obj, ckpt), _below(context.obj, folds)
    result = score_test_cohort(context.obj, config, progress, checkpoints=together, folds=apart, tta=tta)
    _print(result, test_table, as_json=as_json)


@app.command()
def predict(
    context: typer.Context,
    inputs: Inputs,
    ckpt: Checkpoints = None,
    out: Out = Path("predictions"),
    tta: Tta = False,
    threshold: Threshold = None,
    overwrite: Overwrite = False,
    gpus: Gpus = None,
    as_json: Json = False,
) -> None:
    """Find clots in new patients, without masks: .npy in and out, or NIfTI in and out."""
    config = _config(context.obj, {"runtime.gpus": gpus, "test.threshold": threshold}, print_only=False)
    from clotseg.console import open_progress
    from clotseg.evaluate.predict import predict as run_prediction
    from clotseg.evaluate.predict import require_all
    from clotseg.evaluate.subject import newest_best
    from clotseg.results import predict_table

    result = run_prediction(
        config,
        open_progress(),
        checkpoints=_below(context.obj, ckpt) or [newest_best(context.obj)],
        inputs=_below(context.obj, inputs),
        out=context.obj.root / out,
        tta=tta,
        overwrite=overwrite,
    )
    _print(result, predict_table, as_json=as_json)
    require_all(result)


@app.command()
def export(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Folder to write; an earlier export there is replaced.")],
    ckpt: Checkpoint = None,
    onnx: Onnx = False,
    as_json: Json = False,
) -> None:
    """Write the network as a SavedModel for other programs: HU in, probability out."""
    config = _config(context.obj, {"runtime.gpus": "0"}, print_only=False)
    from clotseg.console import open_progress
    from clotseg.evaluate.export import export as run_export
    from clotseg.evaluate.subject import newest_best
    from clotseg.results import export_table

    checkpoint = newest_best(context.obj) if ckpt is None else context.obj.root / ckpt
    paths = {"checkpoint": checkpoint, "out": context.obj.root / out}
    result = run_export(context.obj, config, open_progress(), **paths, onnx=onnx)
    _print(result, export_table, as_json=as_json)


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(help="A tested run, or a checkpoint in it.", metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="Another, tested on the same cases.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Compare two tested runs case by case, with paired intervals."""
    config = _config(context.obj, {}, print_only=False)
    from clotseg.evaluate.comparison import compare_runs
    from clotseg.results import compare_table

    paths = context.obj.root / first, context.obj.root / second
    _print(compare_runs(context.obj, *paths, config.test), compare_table, as_json=as_json)


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
    config = _config(context.obj, {}, print_only=False)
    from clotseg.contact_sheet import write_contact_sheet
    from clotseg.results import inspect_table

    page = context.obj.root / out
    shown = write_contact_sheet(context.obj.root / path, page, config.augment, slices=slices, seed=seed)
    _print({"page": context.obj.shown(page), "slices": shown}, inspect_table, as_json=as_json)


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
    _print(result, verify_table, as_json=as_json)
    require_whole(result)


@app.command()
def doctor(context: typer.Context) -> None:
    """Say what this machine has, with one line of advice per problem."""
    from clotseg.doctor import examine, require_usable
    from clotseg.results import doctor_table, print_result

    findings = examine(context.obj.root)
    print_result(doctor_table(findings))
    require_usable(findings)


def _below(project: Project, paths: list[Path] | None) -> list[Path]:
    """The user's paths, taken from the project folder."""
    return [project.root / path for path in paths or ()]


def _config(project: Project, flags: dict[str, Any], *, print_only: bool) -> Any:
    from clotseg.config import load_config, to_toml

    config = load_config(project.config_file, flags)
    if print_only:
        print(to_toml(config), end="")
        raise typer.Exit
    return config


def _print(result: dict[str, Any], table: Any, *, as_json: bool) -> None:
    from clotseg.results import print_result

    if as_json:
        print(json.dumps(result, indent=1))
    else:
        print_result(table(result))
