"""The way back from a case to its scan; see tests/importer for the way there."""

from pathlib import Path

import numpy as np
import pytest

from clotseg import artifact
from clotseg.errors import CorruptArtifactError
from clotseg.project import Project
from clotseg.scans.origin import grid_as_json, read_origin
from clotseg.scans.resample import Grid

CTA = Grid(shape=(9, 8, 7), affine=np.diag([-0.5, 0.5, 0.7, 1.0]))
CASE = Grid(shape=(6, 5, 4), affine=np.diag([-0.5, 0.5, 0.7, 1.0]) @ np.diag([1.0, 1, 1, 1]))


def publish(project: Project, **changes: object) -> Path:
    cta = project.volumes / "a_CTA_Binary.npy"
    folder = project.imported / "a"
    folder.mkdir(parents=True)
    sidecar = {
        "format": artifact.FORMAT,
        "grids": {"cta": grid_as_json(CTA), "case": grid_as_json(CASE)},
        "outputs": {project.shown(cta): {"bytes": 1, "sha256": "digest"}},
        **changes,
    }
    artifact.write_manifest(folder, sidecar)
    return cta


def test_masks_and_probabilities_go_back_onto_the_scan(tmp_path: Path) -> None:
    origin = read_origin(publish(Project(tmp_path)))
    assert origin is not None
    assert origin.cta_sha256 == "digest"
    probability = np.random.default_rng(2).random(CASE.shape).astype(np.float16)
    mask = (probability > 0.5).astype(np.uint8)
    for back, there in (
        (origin.mask_back(mask), mask),
        (origin.probability_back(probability), probability.astype(np.float32)),
    ):
        expected = np.zeros(CTA.shape, there.dtype)
        expected[:6, :5, :4] = there
        np.testing.assert_allclose(back, expected, atol=1e-6)


def test_a_volume_that_was_not_imported_has_no_origin(tmp_path: Path) -> None:
    assert read_origin(Project(tmp_path).volumes / "b_CTA_Binary.npy") is None
    assert read_origin(tmp_path / "somewhere" / "else" / "b_CTA_Binary.npy") is None
    assert read_origin(Path("/b_CTA_Binary.npy")) is None
    assert read_origin(Path("/data/b_CTA_Binary.npy")) is None


def test_a_sidecar_that_lacks_its_grids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifactError, match="does not say how the case was imported"):
        read_origin(publish(Project(tmp_path), grids={}))
