"""Commands on trained networks: test, predict, export, dicom-seg, compare."""

from pathlib import Path
from typing import Annotated

import typer

from clotseg.cli.application import app, below, load, show
from clotseg.cli.options import (
    Checkpoint,
    Checkpoints,
    FoldRuns,
    Gpus,
    Inputs,
    Json,
    Level,
    Onnx,
    Out,
    Overwrite,
    PrintConfig,
    Threshold,
    Tta,
    Verify,
)


@app.command()
def test(
    context: typer.Context,
    ckpt: Checkpoints = None,
    folds: FoldRuns = None,
    tta: Tta = None,
    threshold: Threshold = None,
    gpus: Gpus = None,
    verify: Verify = Level.quick,
    as_json: Json = False,
    print_config: PrintConfig = False,
) -> None:
    """Score the untouched test cohort and write the report."""
    flags = {"runtime.gpus": gpus, "test.threshold": threshold, "test.tta": tta}
    config = load(context.obj, flags, print_only=print_config)
    from clotseg.console import open_progress
    from clotseg.evaluate.testing import score_test_cohort
    from clotseg.prep.verify import require_whole, verify_project
    from clotseg.results import test_table

    progress = open_progress()
    require_whole(verify_project(context.obj, progress, level=verify.value, below=(context.obj.original,)))
    together, apart = below(context.obj, ckpt), below(context.obj, folds)
    result = score_test_cohort(context.obj, config, progress, checkpoints=together, folds=apart)
    show(result, test_table, as_json=as_json)


@app.command()
def predict(
    context: typer.Context,
    inputs: Inputs,
    ckpt: Checkpoints = None,
    out: Out = Path("predictions"),
    tta: Tta = None,
    threshold: Threshold = None,
    overwrite: Overwrite = False,
    gpus: Gpus = None,
    as_json: Json = False,
) -> None:
    """Find clots in new patients, without masks: .npy in and out, or NIfTI in and out."""
    config = load(context.obj, {"runtime.gpus": gpus, "test.threshold": threshold}, print_only=False)
    from clotseg.console import open_progress
    from clotseg.evaluate.predict import predict as run_prediction
    from clotseg.evaluate.predict import require_all
    from clotseg.evaluate.subject import newest_best
    from clotseg.results import predict_table

    result = run_prediction(
        config,
        open_progress(),
        checkpoints=below(context.obj, ckpt) or [newest_best(context.obj)],
        inputs=below(context.obj, inputs),
        out=context.obj.root / out,
        tta=tta,
        overwrite=overwrite,
    )
    show(result, predict_table, as_json=as_json)
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
    config = load(context.obj, {"runtime.gpus": "0"}, print_only=False)
    from clotseg.console import open_progress
    from clotseg.evaluate.export import export as run_export
    from clotseg.evaluate.subject import newest_best
    from clotseg.results import export_table

    checkpoint = newest_best(context.obj) if ckpt is None else context.obj.root / ckpt
    paths = {"checkpoint": checkpoint, "out": context.obj.root / out}
    result = run_export(context.obj, config, open_progress(), **paths, onnx=onnx)
    show(result, export_table, as_json=as_json)


@app.command(name="dicom-seg")
def dicom_seg(
    context: typer.Context,
    mask: Annotated[Path, typer.Argument(help="A mask that `clotseg predict` wrote as NIfTI.")],
    series: Annotated[
        Path,
        typer.Argument(
            help="Folder of the CTA's DICOM slices; with `#SeriesInstanceUID` where it holds several series."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="DICOM file to write.", metavar="OUT.dcm")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier segmentation at OUT.dcm.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a predicted mask as a DICOM Segmentation of its CTA's series; needs the extra `dicom`."""
    from clotseg.evaluate.dicom_seg import write_segmentation
    from clotseg.results import dicom_seg_table

    root = context.obj.root
    result = write_segmentation(mask=root / mask, series=root / series, out=root / out, overwrite=overwrite)
    result["segmentation"] = context.obj.shown(result["segmentation"])
    show(result, dicom_seg_table, as_json=as_json)


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(help="A tested run, or a checkpoint in it.", metavar="RUN")],
    second: Annotated[Path, typer.Argument(help="Another, tested on the same cases.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Compare two tested runs case by case, with paired intervals."""
    config = load(context.obj, {}, print_only=False)
    from clotseg.evaluate.comparison import compare_runs
    from clotseg.results import compare_table

    paths = context.obj.root / first, context.obj.root / second
    show(compare_runs(context.obj, *paths, config.test), compare_table, as_json=as_json)
