"""Runs with small networks that were never trained, ready to be tested and to predict."""

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from clotseg.config import (
    Config,
    FeedConfig,
    NetworkConfig,
    RuntimeConfig,
    SliceConfig,
    SplitConfig,
    TestConfig,
)
from clotseg.prep.cohorts import read_cohorts
from clotseg.project import Project, Run
from clotseg.train.checkpoint import Description, save_checkpoint
from clotseg.train.records import EpochRow, open_run, write_history
from clotseg.train.unet import build_unet
from tests.conftest import write_case

NETWORK = NetworkConfig(filters=2, depth=1)
SIZE = 32


def settings(
    *, threshold: Any = "auto", smallest: Any = "auto", split: SplitConfig | None = None, tta: bool = False
) -> Config:
    return Config(
        split=split or SplitConfig(),
        slice=SliceConfig(slices_per_shard=8),
        feed=FeedConfig(size=SIZE),
        network=NETWORK,
        test=TestConfig(threshold=threshold, smallest_component=smallest, bootstrap_samples=50, tta=tta),
        runtime=RuntimeConfig(gpus=0),
    )


def write_run(project: Project, *, seed: int = 1, config: Config | None = None) -> Run:
    """A finished run whose best and last weights are two networks that were never trained."""
    import keras

    keras.utils.set_random_seed(seed)
    keys = {"key": "key", "asked_key": "key", "split_key": read_cohorts(project).key}
    with open_run(project, config or settings(), "CPU", **keys) as run:
        for epoch, folder in enumerate((run.best, run.checkpoints), 1):
            description = Description(
                network=NETWORK, slicing=settings().slice, size=SIZE, channels=2, epoch=epoch, val_dice=0.5
            )
            save_checkpoint(folder, build_unet(NETWORK, size=SIZE, channels=2), description)
        row = EpochRow(
            epoch=1, loss=0.9, val_dice=0.5, learning_rate=1e-3, seconds=1, slices_per_s=9, waiting=0.1
        )
        write_history(run, [row])
    return run


@pytest.fixture(scope="module")
def run(sliced_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in a project of its own."""
    root = tmp_path_factory.mktemp("testing") / "project"
    shutil.copytree(sliced_project.root, root)
    return write_run(Project(root))


@pytest.fixture(scope="module")
def project(run: Run) -> Project:
    return Project(run.folder.parents[1])


def nifti_pair(folder: Path, name: str, *, axes: str = "RAS", seed: int = 0) -> tuple[Any, Any]:
    """CTA and NCCT [row, column, slice] growing to P, L and S, and the same stored along other axes."""
    made = Project(folder / "made")
    write_case(made, name, shape=(31, 20, 5), seed=seed)
    affine = np.array([[0, -0.4, 0, 30.0], [-0.5, 0, 0, 20.0], [0, 0, 2.0, -50.0], [0, 0, 0, 1]])
    assert nibabel.aff2axcodes(affine) == ("P", "L", "S")
    volumes = []
    folder.mkdir(parents=True, exist_ok=True)
    for kind, file in (("CTA", "_CTA_Binary.npy"), ("NCCT", "_NCCT_Reg_Binary.npy")):
        hu = np.load(made.volumes / f"{name}{file}")
        image = nibabel.Nifti1Image(hu, affine)
        turned = image.as_reoriented(
            nibabel.orientations.ornt_transform(
                nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
            )
        )
        nibabel.save(turned, folder / f"{name}_{kind}.nii.gz")
        volumes.append(hu)
    shutil.rmtree(made.root)
    return volumes[0], volumes[1]
