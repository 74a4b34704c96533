"""An imported case, predicted: mask and probability lie on the grid of the scan that it came from, too."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from clotseg import artifact
from clotseg.console import PlainProgress
from clotseg.errors import DataError
from clotseg.evaluate.predict import predict, require_all
from clotseg.project import Project, Run
from clotseg.scans.origin import grid_as_json
from clotseg.scans.resample import Grid, box_grid, spacing_of
from tests.conftest import write_case
from tests.evaluate.conftest import settings

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning:keras"
)

CASE = box_grid(np.array([-15.0, -20.0, 30.0]), np.array([15.0, 10.0, 37.0]), 1.0)


def scan_grid() -> Grid:
    """A finer grid, turned by 20°, that holds the case and more."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec([0.1, 0.05, 0.33]).as_matrix() @ np.diag([-0.6, 0.6, 0.7])
    shape = (90, 92, 60)
    affine[:3, 3] = [0, -5, 33.5] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape=shape, affine=affine)


@pytest.fixture
def imported(tmp_path: Path) -> Project:
    project = Project(tmp_path / "imported")
    write_case(project, "a", shape=CASE.shape)
    cta = project.volumes / "a_CTA_Binary.npy"
    folder = project.imported / "a"
    folder.mkdir(parents=True)
    artifact.write_manifest(
        folder,
        {
            "format": artifact.FORMAT,
            "grids": {"cta": grid_as_json(scan_grid()), "case": grid_as_json(CASE)},
            "outputs": artifact.describe_outputs(project.root, [project.shown(cta)]),
        },
    )
    return project


def test_mask_and_probability_are_carried_back(run: Run, imported: Project, tmp_path: Path) -> None:
    found = predict(
        settings(threshold=0.02, smallest=100),
        PlainProgress(),
        checkpoints=[run.best],
        inputs=[imported.root],
        out=tmp_path / "out",
    )
    require_all(found)
    mask = np.load(tmp_path / "out" / "a" / "a_pred.npy")
    assert mask.any()
    back = nibabel.load(tmp_path / "out" / "a" / "a_pred_on_cta.nii.gz")
    grid = scan_grid()
    assert back.shape == grid.shape
    np.testing.assert_allclose(back.affine, grid.affine, atol=1e-5)
    there = np.asarray(back.dataobj)
    assert there.sum() * grid.voxel_mm3 == pytest.approx(mask.sum() * CASE.voxel_mm3, rel=0.02)
    places = [
        on.affine[:3, :3] @ ndimage.center_of_mass(values) + on.affine[:3, 3]
        for on, values in ((grid, there), (CASE, mask))
    ]
    np.testing.assert_allclose(*places, atol=max(spacing_of(CASE)) / 2)
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert all(row["centroid_x_mm"] for row in rows)
    probability = np.load(tmp_path / "out" / "a" / "a_prob.npy").astype(np.float32)
    on_scan = np.asarray(nibabel.load(tmp_path / "out" / "a" / "a_prob_on_cta.nii.gz").dataobj)
    assert on_scan[0, 0, 0] == 0
    assert on_scan.max() <= probability.max()
    total = on_scan.sum() * grid.voxel_mm3
    assert total == pytest.approx(probability.sum() * CASE.voxel_mm3, rel=0.05)


def test_a_damaged_sidecar_fails_its_case_alone(run: Run, imported: Project, tmp_path: Path) -> None:
    write_case(imported, "b", shape=CASE.shape)
    sidecar = imported.imported / "a" / artifact.MANIFEST
    sidecar.write_text(sidecar.read_text().replace("sha256", "sha255"))
    found = predict(
        settings(), PlainProgress(), checkpoints=[run.best], inputs=[imported.root], out=tmp_path / "out"
    )
    assert {case["case"]: case["state"] for case in found["cases"]} == {"a": "failed", "b": "done"}
    assert str(sidecar) in found["cases"][0]["problem"]


def test_a_volume_that_is_not_the_imported_one_is_refused(
    run: Run, imported: Project, tmp_path: Path
) -> None:
    path = imported.volumes / "a_CTA_Binary.npy"
    np.save(path, np.load(path) + 1)
    found = predict(
        settings(), PlainProgress(), checkpoints=[run.best], inputs=[imported.root], out=tmp_path / "out"
    )
    with pytest.raises(DataError, match="not the volume that was imported"):
        require_all(found)
