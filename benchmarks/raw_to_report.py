"""Does a cohort that went through `clotseg import` train as well as the same cohort given directly?

    python benchmarks/raw_to_report.py [--seed 0] [--cases 60] [--epochs 24] [--folder DIR]

Makes the demo's phantom cohort. Then writes each case as a scanner might have: CTA and NCCT each on a grid of
its own, its axes stored in any order and direction and turned by up to 5 degrees against the patient, with
another spacing; the patient moved between the two scans by up to 8 degrees and 6 mm; every other case as
DICOM, CTA and NCCT, with the mask as NIfTI on the CTA's grid, the rest as NIfTI. These are imported at the
phantom's spacing, and both cohorts go through prep, train and test with the demo's settings. Printed are the
Dice of both test cohorts, their difference, how far the registrations missed, and the seconds per case.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parents[1]))

from clotseg.config import RuntimeConfig, load_config
from clotseg.console import PlainProgress
from clotseg.dashboard import open_training_view
from clotseg.demo import CASES, SETTINGS, SIZE, SLICES
from clotseg.evaluate.testing import score_test_cohort
from clotseg.importer.importing import run_import
from clotseg.importer.published import sidecars
from clotseg.importer.settings import ImportSettings
from clotseg.phantom import write_cohort
from clotseg.prep.cases import survey_cases
from clotseg.prep.stages import run_prep
from clotseg.project import Project
from clotseg.results import dice_with_interval
from clotseg.train.loop import train_or_reuse
from tests.scans.dicom_writing import write_dicom_series

LARGEST_TURN_DEG, LARGEST_SHIFT_MM, LARGEST_TILT_DEG = 8.0, 6.0, 5.0
NETWORK_TO_RAS = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

Matrix = NDArray[np.float64]


def scanned(
    random: np.random.Generator,
    volume: NDArray[Any],
    affine: Matrix,
    moved: Matrix,
    outside: float,
) -> tuple[NDArray[np.float64], Matrix]:
    """A volume as another scan would show it: on a turned grid of other spacing, the patient moved.

    `moved` leads from the patient as he lay at first to where he lies now, mm RAS+.
    """
    shape = np.array(volume.shape)
    low = affine @ [0, 0, 0, 1]
    high = affine @ [*(shape - 1), 1]
    middle, sides = (low + high)[:3] / 2, np.abs(high - low)[:3]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[[1, 0, 2]] * random.uniform(0.75, 1.0, 3)
    tilt = Rotation.from_rotvec(np.deg2rad(random.uniform(-1, 1, 3) * LARGEST_TILT_DEG / np.sqrt(3)))
    turned = tilt.as_matrix() @ np.diag(spacing) @ np.diag(random.choice([-1, 1], 3))
    axes = list(itertools.permutations(range(3)))[random.integers(6)]
    counts = np.ceil(sides * 1.1 / spacing).astype(int)[list(axes)]
    grid = np.eye(4)
    grid[:3, :3] = turned[:, list(axes)]
    grid[:3, 3] = (moved @ [*middle, 1])[:3] - grid[:3, :3] @ ((counts - 1) / 2)
    to_voxel = np.linalg.inv(affine) @ np.linalg.inv(moved) @ grid
    values = ndimage.affine_transform(
        volume.astype(np.float64), to_voxel, output_shape=tuple(counts), order=1, cval=outside
    )
    return values, grid


def motion(random: np.random.Generator, about: NDArray[Any]) -> Matrix:
    axis = random.normal(size=3)
    turn = np.deg2rad(random.uniform(0, LARGEST_TURN_DEG)) * axis / np.linalg.norm(axis)
    shift = random.normal(size=3)
    shift *= random.uniform(0, LARGEST_SHIFT_MM) / np.linalg.norm(shift)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    moved[:3, 3] = about - moved[:3, :3] @ about + shift
    return moved


def write_raw(direct: Project, raw: Path, seed: int) -> dict[str, Matrix]:
    """Writes scans and `scans.csv`; gives the true motion of each case, from its CTA to its NCCT."""
    random = np.random.default_rng([seed, 8])
    lines, motions = ["case,patient,site,cta,ncct,mask"], {}
    for number, case in enumerate(survey_cases(direct)[0]):
        affine = np.eye(4)
        affine[:3, :3] = NETWORK_TO_RAS * case.spacing_mm
        affine[:3, 3] = random.uniform(-200, 200, 3)
        cta, ncct, mask = (np.load(path) for path in case.files)
        about = (affine @ [*(np.array(cta.shape) - 1) / 2, 1])[:3]
        state = random.bit_generator.state
        cta, cta_grid = scanned(random, cta, affine, np.eye(4), -1000)
        random.bit_generator.state = state  # The mask lies on the CTA's grid.
        shares, _ = scanned(random, mask, affine, np.eye(4), 0)
        motions[case.name] = motion(random, about)
        ncct, ncct_grid = scanned(random, ncct, affine, motions[case.name], -1000)
        folder = raw / case.name
        folder.mkdir(parents=True)
        nibabel.Nifti1Image((shares >= 0.5).astype(np.uint8), cta_grid).to_filename(folder / "mask.nii.gz")
        names = {}
        for kind, values, grid in (("cta", cta, cta_grid), ("ncct", ncct, ncct_grid)):
            stored = np.rint(values).astype(np.int16)
            names[kind] = f"{case.name}/{kind}" if number % 2 else f"{case.name}/{kind}.nii.gz"
            if number % 2:
                write_dicom_series(raw / names[kind], stored, grid)
            else:
                nibabel.Nifti1Image(stored, grid).to_filename(raw / names[kind])
        lines.append(
            f"{case.name},{case.patient},{case.site},{names['cta']},{names['ncct']},{case.name}/mask.nii.gz"
        )
    (raw / "scans.csv").write_text("\n".join(lines) + "\n")
    return motions


def missed_mm(project: Project, motions: dict[str, Matrix]) -> list[float]:
    """How far each registration's middle of the case lies from where the true motion puts it, on average
    over the corners of a cube of 60 mm."""
    missed = []
    for name, sidecar in sidecars(project):
        grid = sidecar["grids"]["case"]
        affine = np.array(grid["affine_ras_mm"])
        middle = (affine @ [*((np.array(grid["shape"]) - 1) / 2), 1])[:3]
        cube = middle + 30 * np.array(list(itertools.product((-1, 1), repeat=3)))
        points = np.c_[cube, np.ones(8)].T
        found = np.array(sidecar["transforms"]["cta_to_ncct_ras_mm"]) @ points
        missed.append(float(np.linalg.norm((found - motions[name] @ points)[:3], axis=0).mean()))
    return missed


def dice_of(project: Project, settings: str, epochs: int | None) -> dict[str, Any]:
    more = "" if epochs is None else f"\n[train]\nepochs = {epochs}\n"
    project.config_file.write_text(settings + more)
    config = load_config(project.config_file)
    progress = PlainProgress()
    run_prep(project, config, progress)
    train_or_reuse(project, config, progress, open_training_view(progress))
    return score_test_cohort(project, config, progress, reuse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--epochs", type=int, help="of both trainings; as the recipe says without")
    parser.add_argument("--folder", type=Path, help="to keep what is made; else it is removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        direct, imported = Project(folder / "direct"), Project(folder / "imported")
        write_cohort(direct.root, cases=arguments.cases, size=SIZE, slices=SLICES, seed=arguments.seed)
        motions = write_raw(direct, folder / "raw", arguments.seed)
        spacing = survey_cases(direct)[0][0].spacing_mm
        assert spacing is not None
        started = time.monotonic()
        result = run_import(
            imported,
            folder / "raw" / "scans.csv",
            ImportSettings(spacing_mm=spacing[0], irregular="refuse"),
            RuntimeConfig(),
            PlainProgress(),
        )
        seconds = time.monotonic() - started
        missed = missed_mm(imported, motions)
        states = [case["state"] for case in result["cases"]]
        print(json.dumps([case for case in result["cases"] if case["state"] == "failed"], indent=1))
        print(f"imported {states.count('done')} of {len(states)} cases in {seconds:.0f} s")
        print(
            f"registration off by {statistics.median(missed):.2f} mm (median), {max(missed):.2f} at most; "
            f"voxels are {spacing[0]:.2f} mm"
        )
        scores = {
            name: dice_of(project, SETTINGS, arguments.epochs)
            for name, project in (("direct", direct), ("imported", imported))
        }
        for name, score in scores.items():
            print(f"{name}: Dice {dice_with_interval(score['summary'])}")
        apart = scores["imported"]["summary"]["dice_mean"] - scores["direct"]["summary"]["dice_mean"]
        print(f"imported - direct: {apart:+.3f}")


if __name__ == "__main__":
    main()
