"""The command that measures this machine: bench."""

from typing import Annotated

import typer

from clotseg.cli.application import app, load, show
from clotseg.cli.options import Gpus, Json, Precision, PrintConfig, Recipe, Replicas, Size, Source, Xla
from clotseg.project import Project


@app.command()
def bench(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(help="How long each stage is measured, at least.", min=0.1)] = 10,
    batch_size: Annotated[int | None, typer.Option(help="Slices a step, all devices together.")] = None,
    size: Size = None,
    filters: Annotated[int | None, typer.Option(help="Filters at full resolution.")] = None,
    depth: Annotated[int | None, typer.Option(help="How often the U-Net halves its input.")] = None,
    recipe: Recipe = None,
    precision: Precision = None,
    xla: Xla = None,
    gpus: Gpus = None,
    replicas: Replicas = None,
    threads: Annotated[
        str | None, typer.Option(help="DALI's CPU threads for each replica.", metavar="N|auto")
    ] = None,
    prefetch: Annotated[int | None, typer.Option(help="Batches made ahead for each replica.")] = None,
    source: Source = None,
    as_json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Measure each stage from disk to training here, and say which holds the others up; writes nothing."""
    project: Project = context.obj
    flags = {
        "train.recipe": recipe,
        "train.batch_size": batch_size,
        "train.source": source,
        "train.precision": precision,
        "train.xla": xla,
        "feed.size": size,
        "network.filters": filters,
        "network.depth": depth,
        "runtime.gpus": gpus,
        "runtime.replicas": replicas,
        "runtime.threads": threads,
        "runtime.prefetch": prefetch,
    }
    config = load(project, flags, print_only=print_config)
    from clotseg.bench.benchmark import run_bench
    from clotseg.console import open_progress
    from clotseg.results import bench_table

    show(run_bench(project, config, open_progress(), seconds=seconds), bench_table, as_json=as_json)
