"""Quality control: right cases pass, and each way to spoil one is named."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy.ndimage import shift

from clotseg.importer.quality import Check, check_case, check_registration, verdict_of
from clotseg.importer.registration import Registration
from clotseg.phantom.case import make_case
from clotseg.phantom.geometry import Grid
from tests.conftest import shared_data
from tests.importer.head_scans import Array, head_volumes, rigid_motion, scanned

GRID = Grid((96, 96, 24))
GOOD = Registration(
    fixed_to_moving=np.eye(4), similarity_before=0.5, similarity_after=0.9, heads_overlap=0.98
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What quality control looks at."""

    cta: Array
    ncct: Array
    mask: Array | None
    registration: Registration | None = GOOD
    mask_voxels_kept: float = 1.0
    spacing_mm: tuple[float, float, float] = GRID.spacing_mm

    def checks(self) -> dict[str, Check]:
        found = check_case(
            cta=self.cta,
            ncct=self.ncct,
            mask=self.mask,
            spacing_mm=self.spacing_mm,
            registration=self.registration,
            mask_voxels_kept=self.mask_voxels_kept,
        )
        assert len({check.name for check in found}) == len(found)
        return {check.name: check for check in found}


@pytest.fixture(scope="module")
def case() -> Case:
    made = make_case(0, 0, GRID, None)
    assert made.mask.any()
    return Case(cta=made.cta, ncct=made.ncct, mask=made.mask)


@pytest.mark.parametrize("seed", range(5))
def test_a_phantom_passes(seed: int) -> None:
    made = make_case(seed, seed, GRID, None)
    checks = Case(cta=made.cta, ncct=made.ncct, mask=made.mask).checks()
    doubts = {name for name, check in checks.items() if check.verdict != "pass"}
    assert doubts <= ({"mask"} if not made.mask.any() else set()), checks


@pytest.fixture(scope="module", params=[False, True], ids=["stripped", "in a skull"])
def real_case(request: pytest.FixtureRequest, atlas: Path) -> Case:
    """A real brain with simulated arteries at 2 mm, with a little noise."""
    random = np.random.default_rng(1)
    cta, ncct, _ = (volume[::2, ::2, ::2] for volume in head_volumes(atlas, random, skull=request.param))
    cta, ncct = (volume + random.normal(0, sd, volume.shape) for volume, sd in ((cta, 10), (ncct, 4)))
    return Case(cta=cta, ncct=ncct, mask=None, spacing_mm=(2.0, 2.0, 2.0))


def test_a_real_brain_with_simulated_arteries_passes(real_case: Case) -> None:
    checks = real_case.checks()
    assert verdict_of(checks.values()) == "pass", checks


def test_a_real_brain_under_the_wrong_name_is_found(real_case: Case) -> None:
    checks = replace(real_case, cta=real_case.ncct, ncct=real_case.cta).checks()
    assert "swapped" in checks["modalities"].why


def test_an_ncct_left_where_the_patient_moved_is_found(real_case: Case) -> None:
    """By 15° and 15 mm, though the registration says that all went well."""
    ncct, scale = real_case.ncct.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])
    random = np.random.default_rng(2)
    motion = rigid_motion(random, np.array(ncct.shape, float), angle_deg=15, shift_mm=15)
    to_voxels = np.linalg.inv(scale) @ np.linalg.inv(motion)
    away = scanned(random, ncct, to_voxels, ncct.shape, scale, noise_hu=1.0)
    checks = replace(real_case, ncct=away.values).checks()
    assert checks["brain on brain"].verdict == "fail"


def test_bone_of_a_real_ncct_is_not_taken_for_contrast() -> None:
    """Slices of 4 to 7 mm fill much of their bone by half, and that is as bright as contrast."""
    headers = [pydicom.dcmread(file) for file in shared_data("head_ct_ge_tilted").rglob("*.dcm")]
    headers.sort(key=lambda header: header.ImagePositionPatient[2])
    stored = np.stack([header.pixel_array for header in headers], axis=2).astype(np.float32)
    hu = np.maximum(stored * headers[0].RescaleSlope + headers[0].RescaleIntercept, -1000)
    row_mm, column_mm = (float(spacing) for spacing in headers[0].PixelSpacing)
    checks = Case(cta=hu, ncct=hu, mask=None, spacing_mm=(row_mm, column_mm, 5.0)).checks()
    assert (checks["NCCT in HU"].verdict, checks["NCCT has none"].verdict) == ("pass", "pass")
    assert checks["CTA has contrast"].verdict == "fail"


def windowed(values: Array) -> Array:
    """As an export for a screen leaves it: 0…255 for 0…80 HU."""
    return np.asarray(np.clip(values, 0, 80) / 80 * 255)


def moved_away(values: Array) -> Array:
    return np.asarray(shift(values.astype(np.float32), (9, 7, 3), order=1, cval=-1000))


def with_hole(values: Array) -> Array:
    """One voxel that is no number."""
    return np.where(np.arange(values.size).reshape(values.shape) == 5000, np.nan, values)


SPOILED: list[tuple[str, Callable[[Case], Case], str, str, str]] = [
    ("shifted CTA", lambda case: replace(case, cta=case.cta + 1024), "CTA in HU", "fail", "shifted"),
    ("shifted NCCT", lambda case: replace(case, ncct=case.ncct + 1024), "NCCT in HU", "fail", "shifted"),
    ("scaled to 1", lambda case: replace(case, ncct=case.ncct / 4095.0), "NCCT in HU", "fail", "scaled"),
    ("windowed", lambda case: replace(case, ncct=windowed(case.ncct)), "NCCT in HU", "fail", "scaled"),
    ("no number", lambda case: replace(case, cta=with_hole(case.cta)), "CTA in HU", "fail", "numbers"),
    ("swapped", lambda case: replace(case, cta=case.ncct, ncct=case.cta), "modalities", "fail", "swapped"),
    ("two CTAs", lambda case: replace(case, ncct=case.cta), "NCCT has none", "warn", "enhanced"),
    ("two NCCTs", lambda case: replace(case, cta=case.ncct), "CTA has contrast", "fail", "few vessels"),
    ("misplaced", lambda case: replace(case, ncct=moved_away(case.ncct)), "brain on brain", "fail", "match"),
    (
        "NCCT cut off",
        lambda case: replace(case, ncct=np.where(np.arange(96)[:, None, None] > 30, case.ncct, -1000)),
        "NCCT covers the head",
        "fail",
        "air",
    ),
    ("empty mask", lambda case: replace(case, mask=case.cta * 0), "mask", "warn", "empty"),
    ("mask in air", lambda case: replace(case, mask=case.cta < -900), "mask in the head", "fail", "air"),
    ("mask cut", lambda case: replace(case, mask_voxels_kept=0.9), "mask in the crop", "warn", "cuts"),
    ("mask lost", lambda case: replace(case, mask_voxels_kept=0.3), "mask in the crop", "fail", "cuts"),
]


@pytest.mark.parametrize(
    ("spoil", "name", "verdict", "told"), [row[1:] for row in SPOILED], ids=[row[0] for row in SPOILED]
)
def test_what_is_wrong_with_a_case_is_named(
    case: Case, spoil: Callable[[Case], Case], name: str, verdict: str, told: str
) -> None:
    check = spoil(case).checks()[name]
    assert (check.verdict, told in check.why) == (verdict, True), check
    assert case.checks().get(name) is None or case.checks()[name].verdict == "pass"


@pytest.mark.parametrize(
    ("changed", "name", "verdict"),
    [
        ({"similarity_before": 1.0}, "registration gain", "fail"),
        ({"similarity_after": 0.4, "similarity_before": 0.1}, "registration similarity", "warn"),
        ({"similarity_after": 0.2, "similarity_before": 0.1}, "registration similarity", "fail"),
        ({"heads_overlap": 0.8}, "heads overlap", "warn"),
        ({"heads_overlap": 0.5}, "heads overlap", "fail"),
        ({"heads_overlap": float("nan")}, "heads overlap", "fail"),
    ],
)
def test_a_registration_that_went_astray_is_told(changed: dict[str, Any], name: str, verdict: str) -> None:
    checks = check_registration(replace(GOOD, **changed))
    assert {check.name: check.verdict for check in checks}[name] == verdict
    assert verdict_of(checks) == verdict


def test_a_case_without_a_mask_or_a_registration_is_judged_by_the_rest(case: Case) -> None:
    checks = replace(case, mask=None, registration=None).checks()
    assert not [name for name in checks if name.startswith(("mask", "registration"))]
    assert verdict_of(checks.values()) == "pass"


def test_the_worst_verdict_counts() -> None:
    def of(*verdicts: Any) -> str:
        return verdict_of(Check(name="", verdict=each, value=None, unit="", why="") for each in verdicts)

    assert of() == "pass"
    assert of("pass", "warn") == "warn"
    assert of("fail", "warn", "pass") == "fail"
