"""One case: a seed in; CTA, NCCT and clot mask, with what is known of the clot, out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clotseg.phantom.anatomy import HeadScan, Tissue, drawn_head, real_head
from clotseg.phantom.arteries import Clot, Tree, grow_arteries, lodge_clot, stop_flow
from clotseg.phantom.geometry import Floats, Grid, Random, Tube, blend, fill_tube, fill_tubes
from clotseg.phantom.population import USUAL, Population, Site
from clotseg.phantom.scanner import add_noise, misregister, streaks
from clotseg.phantom.veins import calcifications, dense_spots, grow_veins

# In each run of so many cases one has no clot, so that any cohort has about the same share of them.
RUN_OF_CASES = 7


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the clot of a case; all but `voxels` None where there is none.

    Attributes:
        branch: the artery it starts in.
        length_mm: length of its centre line, ends not rounded.
        voxels: voxels of the mask.
        ncct_hu: mean of the NCCT within the mask.
        cta_hu: mean of the CTA within the mask.
    """

    branch: str | None
    length_mm: float | None
    voxels: int
    ncct_hu: float | None
    cta_hu: float | None


@dataclass(frozen=True, slots=True)
class PhantomCase:
    """Volumes [row, column, slice] of one case: HU as int16, mask as uint8 0/1."""

    cta: NDArray[np.int16]
    ncct: NDArray[np.int16]
    mask: NDArray[np.uint8]
    site: Site
    truth: Truth


@dataclass(frozen=True, slots=True)
class Blood:
    """The HU of blood in one case."""

    plain_hu: float
    contrast_hu: float
    vein_cta_hu: float


def make_case(
    seed: int, index: int, grid: Grid, scan: HeadScan | None, population: Population = USUAL
) -> PhantomCase:
    """Draws case `index`; it depends on nothing but the arguments.

    Args:
        seed: of the cohort.
        index: number of the case, from 0.
        grid: the voxels.
        scan: a real head to grow the vessels in; None draws one.
        population: whom the case is drawn from.
    """
    body, vessels, scanner = (
        np.random.default_rng(child)
        for child in np.random.SeedSequence((seed, index, *population.stream)).spawn(3)
    )
    site = population.sites[int(scanner.integers(len(population.sites)))]
    tree, veins = grow_arteries(vessels, population), grow_veins(vessels, population)
    clot = lodge_clot(vessels, tree, population) if _has_clot(seed, index) else None
    if clot is not None:
        tree = stop_flow(vessels, tree, clot)
    if scan is None:
        tissue = drawn_head(body, grid, tree, veins, population)
    else:
        tissue = real_head(body, grid, scan, population)
    body_of_clot = _fill_with_blood(vessels, grid, tissue, tree, veins, clot, population)
    mask = _mask(body_of_clot)
    cta, ncct = _scan(scanner, grid, tissue, site, population)
    return PhantomCase(cta, ncct, mask, site, _truth(clot, mask, cta, ncct))


def _has_clot(seed: int, index: int) -> bool:
    """Whether a case has a clot: one of each run of cases has none, drawn for the run as a whole."""
    run, place = divmod(index, RUN_OF_CASES)
    spared = np.random.default_rng(np.random.SeedSequence((seed, run), spawn_key=(RUN_OF_CASES,)))
    return int(spared.integers(RUN_OF_CASES)) != place


def _fill_with_blood(
    random: Random,
    grid: Grid,
    tissue: Tissue,
    tree: Tree,
    veins: list[Tube],
    clot: Clot | None,
    population: Population,
) -> Floats:
    """Draws veins, arteries, the clot and calcium into the tissue, in place; returns the clot's coverage."""
    plain_hu = float(np.clip(random.normal(41.0, 3.0), 34, 48))
    contrast_hu = float(random.uniform(*population.contrast_hu))
    blood = Blood(plain_hu, contrast_hu, float(random.uniform(*population.vein_contrast_hu)))
    for tube in veins:
        _draw(grid, tissue, tube, float(random.uniform(52, 70)), blood.vein_cta_hu)
    for tube in dense_spots(random):
        _draw(grid, tissue, tube, float(random.uniform(48, 66)), 4.0)
    for artery in tree.values():
        patch = fill_tube(grid, artery.tube)
        if patch is None:
            continue
        cta_hu = blood.plain_hu + (blood.contrast_hu - blood.plain_hu) * artery.fill
        blend(tissue.ncct[patch.box], patch.coverage, blood.plain_hu)
        blend(tissue.cta[patch.box], patch.coverage, cta_hu[patch.nearest].astype(np.float32))
    coverage = np.zeros(grid.shape, np.float32)
    if clot is not None:
        ncct_hu = float(random.uniform(*population.clot_hu))
        _draw(grid, tissue, clot.tube, ncct_hu, float(random.uniform(-4, 8)))
        coverage = fill_tubes(grid, [clot.tube])
    for tube in calcifications(random, tree, clot):
        _draw(grid, tissue, tube, float(random.uniform(250, 900)), 0.0)
    return coverage


def _draw(grid: Grid, tissue: Tissue, tube: Tube, ncct_hu: float, more_on_cta_hu: float) -> None:
    patch = fill_tube(grid, tube)
    if patch is not None:
        blend(tissue.ncct[patch.box], patch.coverage, ncct_hu)
        blend(tissue.cta[patch.box], patch.coverage, ncct_hu + more_on_cta_hu)


def _mask(coverage: Floats) -> NDArray[np.uint8]:
    """Voxels that the clot fills by half or more, as one piece.

    On a grid too coarse for any voxel to be filled by half, half of the fullest voxel's share is enough.
    """
    from scipy.ndimage import label

    peak = float(coverage.max())
    if not peak:
        return np.zeros(coverage.shape, np.uint8)
    pieces, _ = label(coverage >= min(0.5, peak / 2), np.ones((3, 3, 3)))
    return np.asarray(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1, np.uint8)


def _scan(
    random: Random, grid: Grid, tissue: Tissue, site: Site, population: Population
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """CTA and NCCT as the scanner of the site gives them; the CTA's grid is that of the mask."""
    from scipy.ndimage import gaussian_filter

    blur = [sd / spacing for sd, spacing in zip(population.blur_mm, grid.spacing_mm, strict=True)]
    cta = gaussian_filter(tissue.cta, blur) + streaks(random, grid, float(random.uniform(4, 10)))
    ncct = gaussian_filter(tissue.ncct, blur) + streaks(random, grid, float(random.uniform(2, 6)))
    ncct = misregister(random, grid, ncct)
    return (
        add_noise(random, grid, cta, site.cta_noise_hu, population.grain_mm),
        add_noise(random, grid, ncct, site.ncct_noise_hu, population.grain_mm),
    )


def _truth(
    clot: Clot | None, mask: NDArray[np.uint8], cta: NDArray[np.int16], ncct: NDArray[np.int16]
) -> Truth:
    if clot is None:
        return Truth(None, None, 0, None, None)
    inside = mask == 1
    return Truth(
        clot.branch,
        round(clot.tube.length_mm, 2),
        int(inside.sum()),
        round(float(ncct[inside].mean()), 2),
        round(float(cta[inside].mean()), 2),
    )
