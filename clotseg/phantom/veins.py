"""What can be taken for a clot: a random generator in; unenhanced veins and small dense spots out.

In the early arterial phase veins hold blood without contrast. On NCCT they look much as a clot does, but
they run where veins run, are no continuation of an artery, and are as a rule a little less dense.
"""

import numpy as np

from clotseg.phantom.arteries import CIRCLE_MM, Clot, Tree, from_circle
from clotseg.phantom.geometry import Points, Random, Tube, tube_through
from clotseg.phantom.population import USUAL, Population

CALCIUM_FREE_MM = 7.0

# Left-sided veins: points in mm from the middle of the Circle of Willis, and radii at both ends in mm.
PAIRED_VEINS = {
    "internal cerebral": (((8, 2.5, 16), (22, 2.5, 18), (34, 1.5, 19)), (1.3, 1.6)),
    "basal": (((0, 18, -1), (10, 20, 2), (22, 21, 7), (34, 8, 14), (38, 2, 17)), (1.4, 2.0)),
    "superficial Sylvian": (((-16, 44, -4), (-6, 49, 2), (6, 51, 9), (20, 51, 16)), (1.6, 2.2)),
    "cavernous": (((-12, 13, -9), (-4, 15, -10), (4, 16, -11)), (2.2, 2.6)),
    "transverse": (((36, 49, -11), (50, 42, -5), (62, 24, 0), (66, 6, 3)), (3.2, 3.4)),
    "cerebellar": (((28, 12, -9), (38, 16, -6), (48, 14, -3)), (1.3, 1.5)),
}
MIDLINE_VEINS = {
    "great": (((34, 0, 19), (39, 0, 19), (43, 0, 23)), (2.2, 2.4)),
    "straight": (((43, 0, 21), (54, 0, 12), (66, 0, 4)), (2.2, 2.6)),
    "front sagittal": (((-47, 0, 2), (-51, 0, 12), (-54, 0, 26)), (1.6, 2.2)),
}


def grow_veins(random: Random, population: Population = USUAL) -> list[Tube]:
    """The named veins, with some left out, and short cortical veins near the surface of the brain."""
    tubes = [_moved(random, points, radii, 1, population) for points, radii in MIDLINE_VEINS.values()]
    for points, radii in PAIRED_VEINS.values():
        tubes += [
            _moved(random, points, radii, side, population) for side in (1, -1) if random.uniform() < 0.85
        ]
    return tubes + [_cortical_vein(random, population) for _ in range(int(random.integers(13, 19)))]


def _moved(
    random: Random,
    points_mm: tuple[tuple[float, float, float], ...],
    radius_mm: tuple[float, float],
    side: int,
    population: Population,
) -> Tube:
    controls = np.array(points_mm, np.float64) * (1, side, 1) * random.uniform(*population.vein_scale)
    controls += CIRCLE_MM + random.normal(0.0, 1.3, 3) + random.normal(0.0, 1.0, controls.shape)
    width = random.uniform(0.85, 1.2)
    return tube_through(controls, (radius_mm[0] * width, radius_mm[1] * width))


def _cortical_vein(random: Random, population: Population) -> Tube:
    """A vein of about 10 to 30 mm that runs up along the surface of the brain."""
    angle = random.uniform(0.0, 2 * np.pi)
    turns = angle + np.linspace(0.0, random.normal(0.0, 0.25), 4)
    height_mm = random.uniform(-6, 18) + np.linspace(0.0, random.uniform(12, 28), 4)
    reach = random.uniform(*population.cortical_vein_reach)
    points = np.stack([56 * reach * np.cos(turns), 47 * reach * np.sin(turns), height_mm], axis=1)
    width = random.uniform(1.8, 2.8)
    return tube_through(points + random.normal(0.0, 0.8, points.shape), (width, width))


def dense_spots(random: Random) -> list[Tube]:
    """Small dense foci anywhere in the brain: not calcified, not a vessel."""
    return [_spot(random, random.uniform((-45, -42, -12), (50, 42, 18)), (0.8, 1.6)) for _ in range(4)]


def calcifications(random: Random, tree: Tree, clot: Clot | None) -> list[Tube]:
    """Calcium in the walls of the carotid siphons away from a clot, in pineal gland and choroid plexus."""
    found = []
    for side, sign in (("left", 1), ("right", -1)):
        siphon = tree[f"ICA {side}"].tube
        for _ in range(int(random.integers(0, 4))):
            index = int(random.integers(len(siphon.points_mm) // 3, int(len(siphon.points_mm) * 0.92)))
            outward = random.normal(size=3)
            outward *= siphon.radius_mm[index] / np.linalg.norm(outward)
            found.append(_spot(random, siphon.points_mm[index] + outward, (0.6, 1.1)))
        if random.uniform() < 0.6:
            found.append(_spot(random, from_circle(40, 17 * sign, 21) + random.normal(0, 1.5, 3), (1.0, 2.0)))
    if random.uniform() < 0.7:
        found.append(_spot(random, from_circle(32, 0, 12) + random.normal(0, 1.0, 3), (1.2, 2.2)))
    return [spot for spot in found if clot is None or _distance_mm(spot, clot) > CALCIUM_FREE_MM]


def _distance_mm(spot: Tube, clot: Clot) -> float:
    return float(np.linalg.norm(clot.tube.points_mm - spot.points_mm.mean(0), axis=1).min())


def _spot(random: Random, centre_mm: Points, radius_mm: tuple[float, float]) -> Tube:
    half = random.normal(0.0, 0.6, 3)
    radius = float(random.uniform(*radius_mm))
    return tube_through(np.stack([centre_mm - half, centre_mm + half]), (radius, radius))
