"""Pairs of head scans with a known motion between them, made of a real average brain CT.

The truth and the resampling are NumPy's and SciPy's alone: nothing here goes through what it is to test.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, distance_transform_edt, gaussian_filter

from clotseg.scans.scan import Scan

Array = NDArray[Any]
AIR_HU, SKULL_HU, SCALP_HU, CSF_HU = -1000.0, 900.0, -60.0, 8.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadPair:
    """A CTA and an NCCT of one head, int16 HU.

    Attributes:
        fixed_to_moving: the true 4×4 matrix from CTA to NCCT, mm RAS+.
        brain_mm: points all over the brain in the CTA's frame, float64 [n, 3].
    """

    cta: Scan
    ncct: Scan
    fixed_to_moving: Array
    brain_mm: Array

    def error_mm(self, found: Array) -> float:
        """How far a found matrix puts the brain from where it is, on average."""
        return displacement_mm(found, self.fixed_to_moving, self.brain_mm)


def displacement_mm(found: Array, truth: Array, points_mm: Array) -> float:
    """Mean distance between the images of points under two 4×4 matrices."""
    difference = (found - truth)[:3]
    moved = points_mm @ difference[:, :3].T + difference[:, 3]
    return float(np.linalg.norm(moved, axis=1).mean())


def turned(axis: Array, angle_deg: float) -> Array:
    """The rotation about an axis, 3×3 (Rodrigues' formula)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(angle_deg)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def rigid_motion(random: np.random.Generator, about_mm: Array, angle_deg: float, shift_mm: float) -> Array:
    """A 4×4 rigid motion of that angle about a random axis through a point, then a shift that long."""
    motion = np.eye(4)
    motion[:3, :3] = turned(random.normal(size=3), angle_deg)
    direction = random.normal(size=3)
    shift = shift_mm * direction / np.linalg.norm(direction)
    motion[:3, 3] = about_mm - motion[:3, :3] @ about_mm + shift
    return motion


def _arteries(random: np.random.Generator, brain: Array) -> Array:
    """Wavy tubes of 1 to 2 voxels' radius from about the Circle of Willis outwards, within the brain."""
    inside = np.argwhere(brain)
    low, high = inside.min(0), inside.max(0)
    circle = low + (high - low) * (0.5, 0.6, 0.33)
    vessels = np.zeros(brain.shape, bool)
    ball = np.argwhere(np.ones((5, 5, 5))) - 2
    for end in inside[random.integers(len(inside), size=16)]:
        along = np.linspace(0, 1, 200)[:, None]
        bend = random.normal(0, 8, 3) * np.sin(np.pi * along) + random.normal(0, 2, 3) * np.sin(9 * along)
        line = circle + random.normal(0, 4, 3) + (end - circle) * along + bend
        radius = random.uniform(1.0, 2.0)
        voxels = (np.rint(line)[:, None] + ball[np.linalg.norm(ball, axis=1) <= radius]).astype(int)
        voxels = np.clip(voxels.reshape(-1, 3), 0, np.array(brain.shape) - 1)
        vessels[tuple(voxels.T)] = True
    return vessels & brain


def head_volumes(atlas: Path, random: np.random.Generator, *, skull: bool) -> tuple[Array, Array, Array]:
    """CTA, NCCT (float32 HU) and brain (bool) on the atlas' grid, without noise; air around the head."""
    hu = np.asarray(nibabel.load(atlas).dataobj, np.float32)
    brain = hu != 0
    ncct = np.where(brain, hu, AIR_HU).astype(np.float32)
    if skull:
        distance = distance_transform_edt(~brain)
        for up_to_mm, from_mm, layer in ((2, 0, CSF_HU), (8, 2, SKULL_HU), (14, 8, SCALP_HU)):
            ncct[(distance > from_mm) & (distance <= up_to_mm)] = layer
    cta = ncct + np.where(brain & (ncct < 80), np.clip((ncct - 10) / 25, 0, 1) * 5, 0).astype(np.float32)
    vessels = gaussian_filter(_arteries(random, brain).astype(np.float32), 0.6)
    cta += vessels * np.float32(random.uniform(230, 380))
    return cta, ncct, brain


def grid_around(points_mm: Array, spacing_mm: Array, rotation: Array, margin_mm: float) -> tuple[Any, Array]:
    """Shape and 4×4 affine of a grid with these axes that holds the points."""
    along = points_mm @ rotation
    low, high = along.min(0) - margin_mm, along.max(0) + margin_mm
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing_mm
    affine[:3, 3] = rotation @ low
    return tuple(np.ceil((high - low) / spacing_mm).astype(int)), affine


def scanned(
    random: np.random.Generator, volume: Array, to_volume: Array, shape: Any, affine: Array, noise_hu: float
) -> Scan:
    """What a grid in a frame sees of a volume; `to_volume` leads from mm in that frame to its voxels."""
    matrix = to_volume @ affine
    seen = affine_transform(
        volume, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1, mode="constant", cval=AIR_HU
    )
    noise = gaussian_filter(random.standard_normal(seen.shape, np.float32), (0.7, 0.7, 0))
    noise *= noise_hu / noise.std()
    return Scan(values=np.rint(np.clip(seen + noise, -1024, 3071)).astype(np.int16), affine=affine)


def head_pair(
    atlas: Path,
    seed: int,
    *,
    angle_deg: float | None = None,
    shift_mm: float | None = None,
    skull: bool = False,
    cta_mm: tuple[float, float, float] = (0.9, 0.9, 1.0),
    ncct_mm: tuple[float, float, float] = (1.0, 1.0, 2.5),
) -> HeadPair:
    """A pair with a motion about a random axis; angle and shift drawn up to 15° and 15 mm where not given."""
    random = np.random.default_rng([seed, 8])
    drawn = random.uniform(0, 15, 2)
    angle_deg = float(drawn[0]) if angle_deg is None else angle_deg
    shift_mm = float(drawn[1]) if shift_mm is None else shift_mm
    cta, ncct, brain = head_volumes(atlas, random, skull=skull)
    to_mm = np.asarray(nibabel.load(atlas).affine, np.float64)
    voxels = np.argwhere(brain)[::997]
    points_mm = voxels @ to_mm[:3, :3].T + to_mm[:3, 3]
    motion = rigid_motion(random, points_mm.mean(0), angle_deg, shift_mm)
    to_voxels = np.linalg.inv(to_mm)
    margin_mm = 22.0 if skull else 8.0
    # Both are stored as radiologists' files are, x to the left and y to the back; the patient moved.
    axes = np.diag([-1.0, -1.0, 1.0])
    shape, affine = grid_around(points_mm, np.array(cta_mm), axes, margin_mm)
    fixed = scanned(random, cta, to_voxels, shape, affine, 10.0)
    there_mm = points_mm @ motion[:3, :3].T + motion[:3, 3]
    shape, affine = grid_around(there_mm, np.array(ncct_mm), axes, margin_mm)
    # Where the table stood is no help: the frame of the NCCT is as if it did not know of the motion.
    affine[:3, 3] += random.uniform(-3, 3, 3)
    moving = scanned(random, ncct, to_voxels @ np.linalg.inv(motion), shape, affine, 4.0)
    return HeadPair(cta=fixed, ncct=moving, fixed_to_moving=motion, brain_mm=points_mm)
