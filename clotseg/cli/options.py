"""The options that commands share, each with its help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the settings in force and stop.")]
Size = Annotated[
    str | None, typer.Option(help="Side of the padded square in pixels, or `auto`.", metavar="N|auto")
]
Gpus = Annotated[str | None, typer.Option(help="How many GPUs; 0 is the CPU.", metavar="N|auto")]


class Level(StrEnum):
    """How closely what was published is looked at."""

    full = "full"
    quick = "quick"
    off = "off"


Verify = Annotated[
    Level,
    typer.Option(help="Before the start: every digest and record, or sizes, indices and keys, or nothing."),
]
Workers = Annotated[
    str | None,
    typer.Option(help="Processes that prepare data; `auto` goes by cores and data.", metavar="N|auto"),
]
Dask = Annotated[
    str | None,
    typer.Option(help="Scheduler of a Dask cluster that prepares data instead.", metavar="ADDRESS"),
]
Stratify = Annotated[
    str | None,
    typer.Option(help="Give each cohort its share of these: site, clot or both.", metavar="site,clot"),
]
Folds = Annotated[int | None, typer.Option(help="Cross-validation: how many folds.", metavar="K")]
Fold = Annotated[int | None, typer.Option(help="Which fold is tested, from 1.", metavar="k")]
SplitFile = Annotated[str | None, typer.Option(help="Take the cohorts of this split.json.", metavar="FILE")]
Slices = Annotated[
    str | None,
    typer.Option(help="Slices to train on; validation is on all.", metavar="all|clot|balanced"),
]
Neighbours = Annotated[
    int | None, typer.Option("--context", help="Neighbouring slices on each side, as channels.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and why.")]


class Switch(StrEnum):
    """Whether a stage reuses or makes its output, makes it again, or takes what is there."""

    auto = "auto"
    force = "force"
    off = "off"


SWITCH_HELP = "Reuse or make, make again, or take what is there."

SplitSwitch = Annotated[Switch, typer.Option("--split", help=f"Cohorts: {SWITCH_HELP}")]
AugmentSwitch = Annotated[
    Switch | None, typer.Option("--augment", help="Offline augmentation, which nothing needs; off.")
]
TargetTrain = Annotated[int | None, typer.Option(help="Training samples to augment offline.")]
TargetVal = Annotated[int | None, typer.Option(help="Validation samples to augment offline.")]
AugmentValidation = Annotated[
    bool | None, typer.Option("--augment-validation", help="Augment validation too; never for a score.")
]
Source = Annotated[
    str | None,
    typer.Option("--from", help="Slices augmented afresh, or offline.", metavar="sliced|augmented"),
]
TrainSamples = Annotated[
    str | None, typer.Option(help="Slices drawn per epoch; `all` is one pass.", metavar="N|all")
]
Replicas = Annotated[int | None, typer.Option(help="Logical CPU devices, to try distribution without GPUs.")]
LogAugment = Annotated[
    int | None,
    typer.Option(help="Write down how the first N samples of each epoch are augmented.", metavar="N"),
]
Checkpoints = Annotated[
    list[Path] | None,
    typer.Option(
        help="A run, checkpoint folder or weights file; the newest run's best. Several are an ensemble.",
        metavar="PATH",
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(help="A run, checkpoint folder or weights file; the newest run's best.")
]
FoldRuns = Annotated[
    list[Path] | None,
    typer.Option(help="A fold's run; all folds' runs score every case.", metavar="RUN"),
]
Inputs = Annotated[
    list[Path],
    typer.Argument(help="Folders, projects, volumes, or tables of cases (.csv).", metavar="INPUT..."),
]
Onnx = Annotated[bool, typer.Option("--onnx", help="Write ONNX, too; needs the extra `onnx`.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace predictions made otherwise than asked for now.")
]
Tta = Annotated[
    bool | None,
    typer.Option(
        "--tta/--no-tta", help="Average over slices flipped as in training; takes 2 to 4 times as long."
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(help="Probability of clot; `auto` was best in validation.", metavar="P|auto"),
]
Recipe = Annotated[
    str | None, typer.Option(help="Settings to start from: default, or ct-clotseg.", metavar="NAME")
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Go on with this run, on its own settings, to the very weights.", metavar="RUN"),
]
Fork = Annotated[
    Path | None,
    typer.Option(help="Begin a new run with the weights of this one, or checkpoint.", metavar="RUN"),
]
Precision = Annotated[
    str | None, typer.Option(help="What the network computes in.", metavar="auto|float32|bfloat16")
]
Accumulate = Annotated[int | None, typer.Option(help="Batches a step of the optimiser.")]
Xla = Annotated[bool | None, typer.Option(help="Compile the step with XLA; one device only.")]
Deterministic = Annotated[
    bool | None, typer.Option(help="The same weights from run to run, on a GPU too; slower.")
]
CheckpointMinutes = Annotated[
    float | None, typer.Option(help="Keep the state this often within an epoch; 0 is never.")
]
Minutes = Annotated[
    float | None, typer.Option(help="Train for so long, then validate and end; 0 is without a limit.")
]
SliceSwitch = Annotated[Switch, typer.Option("--slice", help=f"Shards: {SWITCH_HELP}")]
