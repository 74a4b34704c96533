"""The command on scans as they were exported: import."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clotseg.cli.application import app, load, show
from clotseg.cli.options import Dask, DryRun, Json, Workers

Box = tuple[float, float, float, float, float, float]


class Irregular(StrEnum):
    """What becomes of a DICOM series that is no regular grid."""

    correct = "correct"
    refuse = "refuse"


@app.command("import")
def import_(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            help="A CSV with the columns case,patient,site,cta,ncct,mask, or a folder of scans.",
            metavar="TABLE.csv|FOLDER",
        ),
    ],
    spacing_mm: Annotated[float, typer.Option(help="Voxel size of the cases, all three axes.")] = 0.5,
    irregular: Annotated[
        Irregular,
        typer.Option(help="DICOM that is tilted, uneven or lacks slices: resample it, or refuse it by name."),
    ] = Irregular.refuse,
    atlas: Annotated[
        Path | None, typer.Option(help="A head CT; its region is found in each CTA.", metavar="FILE.nii.gz")
    ] = None,
    atlas_roi: Annotated[
        Path | None, typer.Option(help="The region, a mask on the atlas.", metavar="FILE.nii.gz")
    ] = None,
    box_mm: Annotated[
        Box | None,
        typer.Option(
            help="The region in the patient's coordinates (RAS+): left, right, back, front, foot, head.",
            metavar="L R P A I S",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the registrations.", min=0)] = 0,
    workers: Workers = None,
    dask: Dask = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make cases of scans, NIfTI or DICOM: register, crop, resample, and show what was done."""
    root = context.obj.root
    # Resolved, since the project may not be there yet, and `..` leads nowhere from what is not there.
    place = (root / source).resolve()
    config = load(context.obj, {"runtime.workers": workers, "runtime.dask": dask}, print_only=False)
    from clotseg.console import open_progress
    from clotseg.importer.importing import plan_import, require_all, run_import
    from clotseg.importer.settings import ImportSettings
    from clotseg.results import import_plan_table, import_table

    settings = ImportSettings(
        spacing_mm=spacing_mm,
        irregular=irregular.value,
        box_mm=box_mm,
        atlas=None if atlas is None else (root / atlas).resolve(),
        atlas_roi=None if atlas_roi is None else (root / atlas_roi).resolve(),
        seed=seed,
    )
    if dry_run:
        show(plan_import(place, settings), import_plan_table, as_json=as_json)
        return
    result = run_import(context.obj, place, settings, config.runtime, open_progress())
    show(result, import_table, as_json=as_json)
    require_all(result)
