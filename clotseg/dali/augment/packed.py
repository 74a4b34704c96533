"""Parameters as the compiled functions take them: one row of numbers a sample."""

import numpy as np
from numpy.typing import NDArray

from clotseg.dali.augment.parameters import KERNEL_SIDE, Columns

SCALARS = ("hflip", "vflip", "levels", "alpha", "beta", "gamma", "blur", "clahe_clip")
"""The parameters in front, in this order; then come the cells of the kernel, row by row."""
HFLIP, VFLIP, LEVELS, ALPHA, BETA, GAMMA, BLUR, CLIP = range(len(SCALARS))

PARAMETERS = len(SCALARS) + KERNEL_SIDE**2


def packed(columns: Columns, *, flips: bool) -> NDArray[np.float64]:
    """The parameters that `alter` takes, float64 [samples, 57]; none is rounded.

    Args:
        columns: the parameters.
        flips: whether slices are mirrored here.
    """
    scalars = np.stack([columns[name].astype(np.float64) for name in SCALARS], axis=1)
    if not flips:
        scalars[:, [HFLIP, VFLIP]] = 0
    return np.concatenate([scalars, columns["kernel"].reshape(len(scalars), -1)], axis=1)
