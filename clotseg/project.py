"""The project folder: every path clotseg reads or writes, in one place."""

from dataclasses import dataclass
from pathlib import Path

COHORTS = ("Training", "Validation", "Testing")
SLICED_COHORTS = ("Training", "Validation")
CHECKPOINTS = "Checkpoint_Files"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder that holds a cohort, what was prepared from it, and the runs trained on it.

    Args:
        root: the folder; an absolute path, so that nothing depends on where a command was started.
    """

    root: Path

    @property
    def volumes(self) -> Path:
        """Input CTA and NCCT volumes: `{case}_CTA_Binary.npy`, `{case}_NCCT_Reg_Binary.npy`."""
        return self.root / "DL_vol_files" / "binary"

    @property
    def masks(self) -> Path:
        """Input clot masks: `{case}_seg_corrected_binary.npy`."""
        return self.root / "DL_seg_files" / "binary"

    @property
    def cases_csv(self) -> Path:
        """Optional table of patients, sites and voxel spacings."""
        return self.root / "DL_vol_files" / "cases.csv"

    @property
    def imported(self) -> Path:
        """A folder a case that `clotseg import` made: how it was made, and what it looked like."""
        return self.root / "DL_vol_files" / "import"

    @property
    def import_page(self) -> Path:
        """What `clotseg import` did, case by case, with pictures."""
        return self.root / "import.html"

    @property
    def config_file(self) -> Path:
        """Optional settings of this project."""
        return self.root / "clotseg.toml"

    @property
    def phantom_record(self) -> Path:
        """What a synthetic cohort is known to hold; there only where `clotseg phantom` made the cases."""
        return self.root / "phantom.json"

    @property
    def processed(self) -> Path:
        """All that `prep` makes."""
        return self.root / "Processed"

    @property
    def prep_flags(self) -> Path:
        """The flags that `prep` was last given; there only where it was given some."""
        return self.processed / ".flags.json"

    @property
    def original(self) -> Path:
        """The cohorts: links to the inputs, and `split.json`."""
        return self.processed / "Original"

    @property
    def sliced(self) -> Path:
        """Shards of windowed slices, a folder a cohort."""
        return self.processed / "Sliced"

    @property
    def augmented(self) -> Path:
        """Shards of slices that were augmented offline, a folder a cohort."""
        return self.processed / "Augmented"

    @property
    def trainings(self) -> Path:
        """One folder a training run."""
        return self.root / "Trainings"

    def shown(self, path: Path) -> str:
        """The path as results give it: relative to the project where it is inside, absolute elsewhere."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one training run, `Trainings/<YYYYMMDD-HHMMSS>`."""

    folder: Path

    @property
    def best(self) -> Path:
        """Folder of the weights with the best validation Dice, with `network.json`."""
        return self.folder / "Best_Model"

    @property
    def checkpoints(self) -> Path:
        """The last checkpoints, a folder each: the state to go on from, and after an epoch its weights, with
        `network.json`."""
        return self.folder / CHECKPOINTS

    @property
    def relevant(self) -> Path:
        """What is needed to audit or repeat the run: configuration, split, environment, history."""
        return self.folder / "Relevant_Files"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.relevant / "history.csv"

    @property
    def augmentations(self) -> Path:
        """How the first samples of each epoch were augmented, one a line; there where a run logs it."""
        return self.relevant / "augmentations.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Events for TensorBoard: the history, and validation slices with truth and prediction."""
        return self.folder / "TensorBoard"

    @property
    def settings(self) -> Path:
        """All settings of the run."""
        return self.relevant / "clotseg.toml"

    @property
    def record(self) -> Path:
        """Configuration, keys and outcome of the run; its `state` tells whether the run finished."""
        return self.relevant / "run.json"

    def testing(self, checkpoint_name: str) -> Path:
        """Where the test cohort's masks, metrics and report of one checkpoint go."""
        return self.folder / "Testing" / checkpoint_name
