"""Where an imported case came from: its sidecar in; masks and probabilities on its CTA's own grid out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.errors import CorruptArtifactError
from clotseg.project import Project
from clotseg.scans.resample import Grid, resample_hu, resample_mask
from clotseg.scans.scan import Affine, Scan


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Origin:
    """The way of a case back to the scanner.

    Attributes:
        cta: the grid of the CTA as it was read.
        case: the grid of the case's volumes.
        cta_sha256: digest of the case's CTA volume, which says that the sidecar is this volume's.
    """

    cta: Grid
    case: Grid
    cta_sha256: str

    def mask_back(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """A mask of the case, [row, column, slice], on the CTA's grid; its components keep their volume."""
        return resample_mask(Scan(values=mask, affine=self.case.affine), self.cta)

    def probability_back(self, probability: NDArray[Any]) -> NDArray[np.float32]:
        """A probability of the case on the CTA's grid, by linear interpolation; 0 outside of the case."""
        return resample_hu(Scan(values=probability, affine=self.case.affine), self.cta, outside=0.0)


def grid_as_json(grid: Grid) -> dict[str, Any]:
    """A grid as sidecars carry it; numbers come back to the last bit."""
    return {"shape": list(grid.shape), "affine_ras_mm": grid.affine.tolist()}


def read_origin(cta: Path) -> Origin | None:
    """What the sidecar of an imported case says.

    Args:
        cta: the case's CTA volume in its project.

    Returns:
        None where the volume lies in no project, or was not imported.

    Raises:
        CorruptArtifactError: there is a sidecar, and it is damaged or lacks what it must say.
    """
    cta = cta.absolute()
    project = Project(cta.parent.parent.parent)
    if cta.parent != project.volumes:
        return None
    folder = project.imported / cta.name.partition("_CTA_Binary.npy")[0]
    sidecar = artifact.read_manifest(folder)
    if sidecar is None:
        return None
    try:
        return Origin(
            cta=_grid(sidecar["grids"]["cta"]),
            case=_grid(sidecar["grids"]["case"]),
            cta_sha256=sidecar["outputs"][project.shown(cta)]["sha256"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(
            "does not say how the case was imported",
            where=folder / artifact.MANIFEST,
            fix="run `clotseg import` again",
        ) from error


def _grid(said: Any) -> Grid:
    affine: Affine = np.array(said["affine_ras_mm"], np.float64).reshape(4, 4)
    i, j, k = (int(side) for side in said["shape"])
    return Grid(shape=(i, j, k), affine=affine)
