"""Growing vessels and clots in a real head CT, and refusing what is none."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from clotseg.errors import DataError
from clotseg.phantom import write_cohort
from tests.conftest import contents
from tests.phantom.conftest import read_cohort

SMALL = {"cases": 2, "size": 40, "slices": 8, "seed": 100}
CIRCLE_IN_BRAIN = (0.4, 0.5, 0.33)  # from the front, from the right, from below


def test_vessels_and_clots_grow_in_a_real_head(tmp_path: Path, atlas: Path) -> None:
    assert write_cohort(tmp_path, cases=8, seed=100, anatomy=atlas) == "made"
    cases = read_cohort(tmp_path)
    assert 6 <= sum(case.mask.any() for case in cases) <= 7
    average = np.asarray(nibabel.load(atlas).dataobj)
    brain_hu = np.median(average[(average > 10) & (average < 80)])
    for case in cases:
        tissue = case.ncct[(case.ncct > 10) & (case.ncct < 80)]
        assert np.median(tissue) == pytest.approx(brain_hu, abs=2)
        assert 0.05 < (case.ncct < -900).mean() < 0.6, "air around the skull-stripped brain"
        assert (case.ncct > 500).mean() < 0.005, "no skull is drawn around a real head"
        assert ((case.cta > 250) & (case.ncct < 100)).sum() > 100
    with_clot = [case for case in cases if case.mask.any()]
    assert 45 <= np.mean([case.ncct[case.mask == 1].mean() for case in with_clot]) <= 70
    assert max(case.cta[case.mask == 1].mean() for case in with_clot) < 100


def test_another_anatomy_is_another_cohort(tmp_path: Path, atlas: Path) -> None:
    write_cohort(tmp_path, **SMALL, anatomy=atlas)
    assert write_cohort(tmp_path, **SMALL, anatomy=atlas) == "reused"
    before = contents(tmp_path)
    with pytest.raises(DataError, match="choose another folder"):
        write_cohort(tmp_path, **SMALL)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_the_head_is_turned_the_right_way_round(tmp_path: Path, orientation: str) -> None:
    """A ball right of, in front of and above the circle is found there, however the file stores its axes."""
    shape = (140, 160, 130)
    right, front, up = np.ogrid[: shape[0], : shape[1], : shape[2]]  # RAS+: all three grow that way
    brain = ((right - 70) / 65) ** 2 + ((front - 80) / 75) ** 2 + ((up - 65) / 60) ** 2 < 1
    circle = np.array([70, 80 + 75 * (1 - 2 * CIRCLE_IN_BRAIN[0]), 65 - 60 * (1 - 2 * CIRCLE_IN_BRAIN[2])])
    ball = circle + np.array((30, 22, 12))
    inside = (right - ball[0]) ** 2 + (front - ball[1]) ** 2 + (up - ball[2]) ** 2 < 9**2
    hu = np.where(inside, 2000, np.where(brain, 35, 0)).astype(np.int16)
    image = nibabel.Nifti1Image(hu, np.eye(4))
    turned = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(orientation)
    )
    file = tmp_path / "head.nii.gz"
    nibabel.save(image.as_reoriented(turned), file)
    write_cohort(tmp_path / "out", cases=1, seed=100, anatomy=file)
    case = read_cohort(tmp_path / "out")[0]
    spacing_mm = [float(case.row[f"spacing_{axis}_mm"]) for axis in ("row", "col", "slice")]
    found_mm = (np.argwhere(case.ncct > 1200).mean(0) + 0.5) * spacing_mm - (56, 56, 18)
    # The circle lies 7 mm in front of and 4.5 mm below the middle; column 0 is the patient's right.
    assert found_mm == pytest.approx((-7 - 21, -28, -4.5 + 11), abs=5)


def save(path: Path, values: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.mark.parametrize("kind", ["text", "missing", "four-dimensional", "empty", "mri-like"])
def test_what_is_no_head_ct_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "head.nii.gz"
    random = np.random.default_rng(0)
    if kind == "text":
        file.write_text("not an image")
    elif kind == "four-dimensional":
        save(file, random.uniform(20, 40, (60, 60, 60, 2)).astype(np.float32))
    elif kind == "empty":
        save(file, np.zeros((60, 60, 60), np.int16))
    elif kind == "mri-like":
        save(file, random.uniform(300, 900, (120, 120, 120)).astype(np.float32))
    with pytest.raises(DataError, match=r"head\.nii\.gz"):
        write_cohort(tmp_path / "out", **SMALL, anatomy=file)
    assert not (tmp_path / "out" / "DL_vol_files").exists()
