"""A volume on a regular grid of voxels, and how the grid lies in the patient; the same for every format."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg.prep.table import Spacing

Affine = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scan:
    """A volume and its place.

    Attributes:
        values: [i, j, k] along any axes; HU, or 0 and 1 where it is a mask.
        affine: 4×4 float64, from (i, j, k, 1) to mm in the patient, RAS+.
    """

    values: NDArray[Any]
    affine: Affine

    @property
    def spacing_mm(self) -> Spacing:
        """Millimetres between voxel centres along i, j and k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)
