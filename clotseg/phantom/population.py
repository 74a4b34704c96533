"""Whom the cases are drawn from: nothing in; the ranges of anatomy, vessels, clots and scanners out.

`USUAL` is what networks are trained on. `SHIFTED` is for holding out: another hospital, whose patients are
older and whose scanners are noisier and blurrier. No range of the one overlaps that of the other, and the two
draw from separate streams of random numbers, so that a shifted case is not a trained one in disguise.
"""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a case was scanned; noise is the SD in HU."""

    name: str
    cta_noise_hu: float
    ncct_noise_hu: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """Ranges (lowest, highest) that a case's values are drawn from evenly.

    Attributes:
        stream: tells this population's random numbers from those of others.
        brain_scale: size of a drawn brain, as a factor.
        inner_scale: size of what is drawn within it that has no range of its own, as a factor.
        shrinkage: factor on a real head's size in voxels; more than 1 makes it smaller.
        narrower_side: width of the narrower half of brain and arteries, as a share of the other's; None
            leaves both alike.
        ventricle_width: factor.
        cistern_mm: fluid around arteries and veins.
        sulcus_width: about the share of the surface's texture that is fluid.
        sulcus_fluid: share of fluid in a sulcus.
        artery_scale: size of the Circle of Willis along each axis, as a factor.
        vein_scale: the same of the veins.
        cortical_vein_reach: how far out cortical veins run.
        calibre: factor on the calibre of the arteries.
        bend_mm: SD of the points that arteries run through, about their usual place.
        contrast_hu: of arterial blood on CTA.
        vein_contrast_hu: what veins have more on CTA than on NCCT.
        clot_length: factor, the same for all clots.
        clot_hu: of clots on NCCT.
        sites: scanners.
        blur_mm: SD of the point spread along (row, column, slice).
        grain_mm: SD of what smooths the noise within slices.
    """

    stream: tuple[int, ...]
    brain_scale: Range
    inner_scale: float
    shrinkage: Range
    narrower_side: Range | None
    ventricle_width: Range
    cistern_mm: Range
    sulcus_width: float
    sulcus_fluid: Range
    artery_scale: Range
    vein_scale: Range
    cortical_vein_reach: Range
    calibre: Range
    bend_mm: float
    contrast_hu: Range
    vein_contrast_hu: Range
    clot_length: float
    clot_hu: Range
    sites: tuple[Site, ...]
    blur_mm: tuple[float, float, float]
    grain_mm: float


USUAL = Population(
    stream=(),
    brain_scale=(0.95, 1.05),
    inner_scale=1.0,
    shrinkage=(1.0, 1.12),
    narrower_side=None,
    ventricle_width=(0.8, 1.35),
    cistern_mm=(0.8, 2.2),
    sulcus_width=0.35,
    sulcus_fluid=(0.6, 1.0),
    artery_scale=(0.86, 0.98),
    vein_scale=(0.86, 0.97),
    cortical_vein_reach=(0.8, 0.93),
    calibre=(0.92, 1.1),
    bend_mm=0.9,
    contrast_hu=(280.0, 400.0),
    vein_contrast_hu=(0.0, 12.0),
    clot_length=1.0,
    clot_hu=(57.0, 71.0),
    sites=(Site("site-a", 9.0, 3.2), Site("site-b", 11.0, 3.8)),
    blur_mm=(0.5, 0.5, 0.5),
    grain_mm=0.8,
)

SHIFTED = Population(
    stream=(1,),
    brain_scale=(0.84, 0.92),
    inner_scale=0.88,
    shrinkage=(1.15, 1.28),
    narrower_side=(0.9, 0.96),
    ventricle_width=(1.5, 2.0),
    cistern_mm=(2.25, 2.7),
    sulcus_width=0.55,
    sulcus_fluid=(0.9, 1.0),
    artery_scale=(0.76, 0.84),
    vein_scale=(0.76, 0.84),
    cortical_vein_reach=(0.7, 0.79),
    calibre=(0.8, 0.91),
    bend_mm=1.6,
    contrast_hu=(210.0, 270.0),
    vein_contrast_hu=(15.0, 45.0),
    clot_length=0.75,
    clot_hu=(54.5, 56.8),
    sites=(Site("site-c", 13.0, 4.6), Site("site-d", 15.0, 5.4)),
    blur_mm=(0.65, 0.65, 1.0),
    grain_mm=1.2,
)
