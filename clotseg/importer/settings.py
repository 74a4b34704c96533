"""What `clotseg import` is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Box = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSettings:
    """How every case of an import is made.

    Attributes:
        spacing_mm: of the new grid, along all three axes.
        irregular: whether a DICOM series that is no regular grid is resampled to one, or refused.
        box_mm: the region in the patient's coordinates, RAS+ in mm: from and to along each axis.
        atlas: a head CT that each CTA is registered to, to find the region in it.
        atlas_roi: the region, a mask in the atlas's coordinates.
        largest_slice: rows and columns at most; a larger region is cut around the head's centre.
        seed: of the registrations.
    """

    spacing_mm: float = 0.5
    irregular: Literal["correct", "refuse"] = "refuse"
    box_mm: Box | None = None
    atlas: Path | None = None
    atlas_roi: Path | None = None
    largest_slice: int = 256
    seed: int = 0
