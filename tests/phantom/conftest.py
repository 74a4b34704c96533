"""One synthetic cohort that tests read; oracles read its files with numpy, csv and json alone."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.phantom import write_cohort

CASES, SEED = 21, 100


@dataclass(frozen=True)
class Written:
    """A case as its files hold it."""

    name: str
    cta: NDArray[Any]
    ncct: NDArray[Any]
    mask: NDArray[Any]
    row: dict[str, str]
    truth: dict[str, Any]

    @property
    def column_mm(self) -> NDArray[Any]:
        """Distance of each column from the middle of the volume, positive to the patient's left."""
        count = self.mask.shape[1]
        return (np.arange(count) + 0.5 - count / 2) * float(self.row["spacing_col_mm"])


def read_cohort(folder: Path) -> list[Written]:
    """All cases of a cohort, in the order of cases.csv."""
    truths = {entry["case"]: entry for entry in json.loads((folder / "phantom.json").read_text())["cases"]}
    with (folder / "DL_vol_files" / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    volumes, masks = folder / "DL_vol_files" / "binary", folder / "DL_seg_files" / "binary"
    return [
        Written(
            row["case"],
            np.load(volumes / f"{row['case']}_CTA_Binary.npy"),
            np.load(volumes / f"{row['case']}_NCCT_Reg_Binary.npy"),
            np.load(masks / f"{row['case']}_seg_corrected_binary.npy"),
            row,
            truths[row["case"]],
        )
        for row in rows
    ]


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of the default size of volume."""
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    assert write_cohort(folder, cases=CASES, seed=SEED) == "made"
    return folder


@pytest.fixture(scope="session")
def written(cohort_folder: Path) -> list[Written]:
    """The cases of `cohort_folder`."""
    return read_cohort(cohort_folder)


@pytest.fixture(scope="session")
def with_clot(written: list[Written]) -> list[Written]:
    """Those with a clot."""
    return [case for case in written if case.mask.any()]
