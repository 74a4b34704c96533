"""Commands that train: train, launch, runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clotseg.cli.application import app, load, show, shown
from clotseg.cli.options import (
    Accumulate,
    AugmentSwitch,
    CheckpointMinutes,
    Dask,
    Deterministic,
    Fork,
    Gpus,
    Json,
    Level,
    LogAugment,
    Minutes,
    Precision,
    PrintConfig,
    Recipe,
    Replicas,
    Resume,
    Size,
    SliceSwitch,
    Source,
    SplitSwitch,
    Switch,
    TrainSamples,
    Verify,
    Workers,
    Xla,
)
from clotseg.project import Project


@app.command()
def train(
    context: typer.Context,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training cohort.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Slices a step, all devices together.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest.")] = None,
    train_samples: TrainSamples = None,
    size: Size = None,
    filters: Annotated[int | None, typer.Option(help="Filters at full resolution.")] = None,
    depth: Annotated[int | None, typer.Option(help="How often the U-Net halves its input.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    recipe: Recipe = None,
    resume: Resume = None,
    fork: Fork = None,
    precision: Precision = None,
    accumulate: Accumulate = None,
    xla: Xla = None,
    deterministic: Deterministic = None,
    gpus: Gpus = None,
    replicas: Replicas = None,
    minutes: Minutes = None,
    checkpoint_minutes: CheckpointMinutes = None,
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
    flags = {
        "train.recipe": recipe,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.accumulate": accumulate,
        "train.learning_rate": learning_rate,
        "train.train_samples": train_samples,
        "train.seed": seed,
        "train.source": source,
        "train.precision": precision,
        "train.xla": xla,
        "train.deterministic": deterministic,
        "feed.size": size,
        "network.filters": filters,
        "network.depth": depth,
        "runtime.gpus": gpus,
        "runtime.replicas": replicas,
        "runtime.minutes": minutes,
        "runtime.checkpoint_minutes": checkpoint_minutes,
        "runtime.log_augment": log_augment,
        "runtime.workers": workers,
        "runtime.dask": dask,
    }
    project: Project = context.obj
    config, run = _training_config(project, flags, resume, fork, print_only=print_config)
    from clotseg.console import open_progress
    from clotseg.dashboard import open_training_view
    from clotseg.results import train_table

    progress = open_progress()
    _prepare(project, config, progress, run, split=split, slicing=slicing, augment=augment, verify=verify)
    from clotseg.train.loop import train as run_training

    begin = None if fork is None else project.root / fork
    result = run_training(project, config, open_training_view(progress), resume=run, fork=begin)
    if result:
        show(result, train_table, as_json=as_json)


def _prepare(
    project: Project,
    config: Any,
    progress: Any,
    run: Any,
    *,
    split: Switch,
    slicing: Switch,
    augment: Switch | None,
    verify: Level,
) -> None:
    """Makes what is missing, of the very cases that a run to go on with had; verifies what is there."""
    from clotseg.prep.stages import run_prep
    from clotseg.prep.verify import require_whole, verify_project
    from clotseg.train.cluster import find_place
    from clotseg.train.records import read_record

    offline = augment or (Switch.auto if config.train.source == "augmented" else Switch.off)
    switches: dict[str, Any] = {"split": split.value, "slicing": slicing.value, "augment": offline.value}
    # Several workers would prepare the same thing at once: they take what is there.
    if set(switches.values()) != {"off"} and find_place() is None:
        run_prep(project, config, progress, **switches, split_key=run and read_record(run)["split_key"])
    require_whole(verify_project(project, progress, level=verify.value, below=(project.processed,)))


def _training_config(
    project: Project, flags: dict[str, Any], resume: Path | None, fork: Path | None, *, print_only: bool
) -> tuple[Any, Any]:
    """The settings of a training, and the run that it goes on with."""
    if resume is None:
        from clotseg.prep.flags import recall

        return load(project, {**recall(project), **flags}, print_only=print_only), None
    from clotseg.errors import ConfigError
    from clotseg.train.resume import find_run, resumed_config

    if fork is not None:
        raise ConfigError("goes on with a run, --fork begins another: give one of them", where="--resume")
    run = find_run(project, project.root / resume)
    config = resumed_config(project, run, flags)
    return shown(config, print_only=print_only), run


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def launch(
    context: typer.Context,
    workers: Annotated[int, typer.Option("--workers", help="How many local processes.", min=1)] = 2,
) -> None:
    """Train in several local processes, to try what several machines do: `launch --workers 2 train …`."""
    from clotseg.errors import ConfigError
    from clotseg.train.launch import launch as run_workers

    if not context.args or context.args[0] != "train":
        raise ConfigError(
            "starts trainings", where="launch", fix="write `clotseg launch --workers 2 train …`"
        )
    project: Project = context.obj
    command = [sys.executable, "-m", "clotseg", "-C", str(project.root), *context.args]
    raise typer.Exit(run_workers(command, workers))


@app.command()
def runs(context: typer.Context, as_json: Json = False) -> None:
    """List the runs: how far each is, its best validation Dice, and whether it runs, finished or stopped."""
    from clotseg.results import runs_table
    from clotseg.train.runs import list_runs

    show(list_runs(context.obj), runs_table, as_json=as_json)
