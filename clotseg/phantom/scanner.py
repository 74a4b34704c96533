"""What scanning adds: clean volumes in HU in; volumes with streaks, shift and noise, as int16, out."""

import numpy as np
from numpy.typing import NDArray

from clotseg.phantom.geometry import Floats, Grid, Random, rotation

LOWEST_HU, HIGHEST_HU = -1024, 3071
STREAK_HEIGHT_MM = 7.0


def misregister(random: Random, grid: Grid, volume: Floats) -> Floats:
    """The volume as an imperfect registration leaves it: off by at most 1 mm and 1.5° about each axis."""
    from scipy.ndimage import affine_transform

    spacing_mm = np.asarray(grid.spacing_mm)
    turn = rotation(np.clip(random.normal(0.0, 0.6, 3), -1.5, 1.5))
    shift_mm = random.normal(0.0, 0.45, 3)
    shift_mm /= max(1.0, float(np.linalg.norm(shift_mm)))
    matrix = turn * spacing_mm[None, :] / spacing_mm[:, None]
    middle = (np.asarray(grid.shape) - 1) / 2
    offset = middle + shift_mm / spacing_mm - matrix @ middle
    return np.asarray(affine_transform(volume, matrix, offset, order=1, mode="nearest"), np.float32)


def streaks(random: Random, grid: Grid, strength_hu: float) -> Floats:
    """Beam hardening between the bones of the skull base: bands that fade upwards, float32 HU."""
    row, column, height = grid.axes_mm()
    bottom = grid.axis_mm(2)[0]
    bands = np.zeros((*grid.shape[:2], 1), np.float32)
    for _ in range(4):
        tilt = random.normal(0.0, 0.15)
        wave_mm = random.uniform(9.0, 22.0)
        phase = random.uniform(0.0, 2 * np.pi)
        bands += np.cos(2 * np.pi * (row * np.cos(tilt) + column * np.sin(tilt)) / wave_mm + phase) / 2
    fading = np.exp(-(height - bottom) / STREAK_HEIGHT_MM)
    return np.asarray(strength_hu * bands * fading, np.float32)


def add_noise(random: Random, grid: Grid, volume: Floats, sd_hu: float, grain_mm: float) -> NDArray[np.int16]:
    """The volume with noise of the given SD, smoothed by `grain_mm` within slices, as whole HU."""
    from scipy.ndimage import gaussian_filter

    noise = random.standard_normal(grid.shape, np.float32)
    noise = gaussian_filter(noise, (grain_mm / grid.spacing_mm[0], grain_mm / grid.spacing_mm[1], 0))
    noise *= sd_hu / noise.std()
    return np.asarray(np.clip(np.rint(volume + noise), LOWEST_HU, HIGHEST_HU), np.int16)
