"""The arteries of one case: a random generator in; a Circle of Willis with a clot, and its flow out.

Points are mm from the middle of the field of view (see `geometry`). Joints are moved at random once and
shared by the branches that meet there, so the tree always hangs together. Whatever lies beyond a clot has
little contrast, unless another artery of the circle feeds it.
"""

from dataclasses import dataclass, replace

import numpy as np

from clotseg.phantom.geometry import Points, Random, Tube, rotation, tube_through
from clotseg.phantom.population import USUAL, Population

# The middle of the circle lies in front of and below the middle of the field of view, as the branches of
# the middle cerebral arteries climb.
CIRCLE_MM: Points = np.array([-7.0, 0.0, -4.5])

# Left-sided joints, mm from the middle of the circle; the right ones mirror them.
JOINTS_MM = {
    "neck": (14.0, 25.0, -17.0),
    "terminus": (0.0, 9.0, 0.0),
    "m1_end": (0.0, 29.0, 3.0),
    "m2_upper_end": (1.0, 37.0, 19.0),
    "m2_lower_end": (17.0, 39.0, 14.0),
    "a1_end": (-10.0, 2.2, 3.0),
    "p1_end": (14.0, 9.5, -3.0),
    "p2_end": (34.0, 17.0, 3.0),
}
MIDLINE_JOINTS_MM = {"vertebral": (14.0, 0.0, -17.0), "basilar_tip": (11.5, 0.0, -4.0)}


@dataclass(frozen=True, slots=True)
class Course:
    """How one branch runs: from joint to joint, through points in mm from the middle of the circle."""

    parent: str | None
    start: str
    via_mm: tuple[tuple[float, float, float], ...]
    end: str | tuple[float, float, float]
    radius_mm: tuple[float, float]


COURSES = {
    "ICA": Course(
        None,
        "neck",
        ((6, 15, -14), (-2, 11, -12), (-8, 10, -9), (-9, 9.5, -5), (-4, 9.5, -3)),
        "terminus",
        (2.9, 2.6),
    ),
    "M1": Course("ICA", "terminus", ((-3, 15, 1), (-3, 22, 1)), "m1_end", (2.5, 2.3)),
    "M2 upper": Course("M1", "m1_end", ((-3, 34, 7), (-1, 37, 13)), "m2_upper_end", (2.1, 1.9)),
    "M2 lower": Course("M1", "m1_end", ((6, 33, 5), (12, 37, 9)), "m2_lower_end", (2.1, 1.9)),
    "M3 front": Course("M2 upper", "m2_upper_end", ((-6, 41, 20),), (-16, 46, 24), (1.3, 1.0)),
    "M3 top": Course("M2 upper", "m2_upper_end", ((4, 41, 22),), (10, 49, 26), (1.3, 1.0)),
    "M3 middle": Course("M2 lower", "m2_lower_end", ((22, 44, 17),), (28, 50, 24), (1.3, 1.0)),
    "M3 back": Course("M2 lower", "m2_lower_end", ((25, 40, 15),), (36, 44, 20), (1.3, 1.0)),
    "A1": Course("ICA", "terminus", ((-5, 6.5, 2),), "a1_end", (1.6, 1.4)),
    "A2": Course("A1", "a1_end", ((-18, 1.8, 6), (-25, 1.6, 13)), (-26, 1.6, 27), (1.4, 1.2)),
    "P1": Course("basilar", "basilar_tip", ((11, 5, -3.5),), "p1_end", (1.9, 1.8)),
    "P2": Course("P1", "p1_end", ((19, 14, -2), (27, 17.5, 0)), "p2_end", (1.6, 1.3)),
    "P3": Course("P2", "p2_end", ((42, 15, 6),), (52, 11, 8), (1.2, 0.9)),
    "SCA": Course("basilar", "basilar_tip", ((13, 6, -6), (20, 14, -7)), (32, 17, -6), (1.0, 0.8)),
    "PCom": Course("ICA", "terminus", ((4, 9.3, -2),), "p1_end", (0.9, 0.8)),
}
BASILAR = Course(None, "vertebral", ((11, 0.8, -11),), "basilar_tip", (2.6, 2.4))
# The other way in: what still fills a branch when its parent is closed.
DETOURS = {"A2 left": "A1 right", "A2 right": "A1 left", "P2 left": "PCom left", "P2 right": "PCom right"}
SMALLEST_FEEDER_MM = 0.8

# Where clots lodge: share of the clots, where the clot starts (as a fraction of its branch), its length in
# mm, and the branch it grows on into.
CLOT_SITES = {
    "M1": (0.52, (0.1, 0.4), (8.0, 17.0), "M2 lower"),
    "M2 lower": (0.12, (0.02, 0.2), (10.0, 17.0), "M3 middle"),
    "M2 upper": (0.12, (0.02, 0.2), (10.0, 17.0), "M3 front"),
    "ICA": (0.14, (0.86, 0.95), (8.0, 16.0), "M1"),
    "basilar": (0.10, (0.35, 0.55), (9.0, 17.0), "P1"),
}


@dataclass(frozen=True, slots=True)
class Artery:
    """One branch.

    Attributes:
        parent: name of the branch it is fed by, None for the four that come from the neck.
        tube: its course and calibre.
        fill: share of the arterial contrast at each point of the tube, 0…1.
    """

    parent: str | None
    tube: Tube
    fill: Points


@dataclass(frozen=True, slots=True)
class Clot:
    """A clot.

    Attributes:
        branch: name of the artery it starts in.
        start_mm: where it starts, mm along this artery.
        tube: its body.
    """

    branch: str
    start_mm: float
    tube: Tube


Tree = dict[str, Artery]


def from_circle(row_mm: float, column_mm: float, slice_mm: float) -> Points:
    """The point, float64 [3], that lies so far behind, to the left of and above the middle of the circle."""
    offset_mm = np.array((row_mm, column_mm, slice_mm), np.float64)
    return offset_mm + CIRCLE_MM


def grow_arteries(random: Random, population: Population = USUAL) -> Tree:
    """The arteries of one case, all of them full of contrast, by names such as `M1 left`."""
    scale = random.uniform(*population.artery_scale, 3)
    turn = rotation(random.normal(0.0, (1.5, 2.5, 3.0)))
    shift = random.normal(0.0, (2.0, 1.5, 1.0))
    width_of = {1: 1.0, -1: 1.0}
    if population.narrower_side is not None:
        width_of[int(random.choice([1, -1]))] = float(random.uniform(*population.narrower_side))

    def placed(point: Points) -> Points:
        return np.asarray(turn @ (point * scale) + shift + CIRCLE_MM)

    def moved(point: tuple[float, float, float], side: int, sd_mm: float) -> Points:
        return placed(np.array(point) * (1, side * width_of[side], 1) + random.normal(0.0, sd_mm, 3))

    calibre = random.uniform(*population.calibre)
    shared = {name: moved(point, 1, 0.7) for name, point in MIDLINE_JOINTS_MM.items()}
    tree: Tree = {"basilar": _artery(BASILAR, None, shared, [placed(np.array(BASILAR.via_mm[0]))], calibre)}
    for side, sign in (("left", 1), ("right", -1)):
        joints = shared | {name: moved(point, sign, 1.2) for name, point in JOINTS_MM.items()}
        variant = _variant(random)
        for name, course in COURSES.items():
            via = [moved(point, sign, population.bend_mm) for point in course.via_mm]
            ends = joints if isinstance(course.end, str) else {**joints, "": moved(course.end, sign, 2.5)}
            width = calibre * variant.get(name, 1.0) * random.uniform(0.93, 1.07)
            parent = course.parent and (
                course.parent if course.parent == "basilar" else f"{course.parent} {side}"
            )
            if width > 0:
                tree[f"{name} {side}"] = _artery(course, parent, ends, via, width)
    tree["ACom"] = _communicating(tree)
    return tree


def _variant(random: Random) -> dict[str, float]:
    """Factors on the calibre of the arteries of one side; 0 leaves the artery out."""
    draw = random.uniform()
    if draw < 0.12:
        return {"A1": 0.5}
    if draw < 0.24:
        return {"P1": 0.5, "PCom": 1.9}
    return {"PCom": float(random.choice([0.0, 0.8, 1.0, 1.2]))}


def _artery(
    course: Course, parent: str | None, joints: dict[str, Points], via_mm: list[Points], width: float
) -> Artery:
    end = joints[course.end if isinstance(course.end, str) else ""]
    first, last = course.radius_mm
    tube = tube_through(np.stack([joints[course.start], *via_mm, end]), (first * width, last * width))
    return Artery(parent, tube, np.ones(len(tube.points_mm)))


def _communicating(tree: Tree) -> Artery:
    left, right = (tree[f"A1 {side}"].tube.points_mm[-1] for side in ("left", "right"))
    tube = tube_through(np.stack([left, right]), (1.0, 1.0))
    return Artery("A1 left", tube, np.ones(len(tube.points_mm)))


def lodge_clot(random: Random, tree: Tree, population: Population = USUAL) -> Clot:
    """A clot in one of the large arteries, where clots are found in large-vessel stroke."""
    names = list(CLOT_SITES)
    shares = np.array([CLOT_SITES[name][0] for name in names])
    name = names[int(random.choice(len(names), p=shares / shares.sum()))]
    _, start, length_mm, onward = CLOT_SITES[name]
    side = str(random.choice(["left", "right"]))
    branch = name if name == "basilar" else f"{name} {side}"
    first, second = tree[branch].tube, tree[f"{onward} {side}"].tube
    path = Tube(
        np.concatenate([first.points_mm, second.points_mm[1:]]),
        np.concatenate([first.radius_mm, second.radius_mm[1:]]),
    )
    start_mm = first.length_mm * float(random.uniform(*start))
    arc = path.arc_mm
    end_mm = start_mm + float(random.uniform(*length_mm)) * population.clot_length
    inside = (arc >= start_mm) & (arc <= end_mm)
    # A little wider than the lumen, so that no rim of contrast is left around it.
    return Clot(branch, start_mm, Tube(path.points_mm[inside], path.radius_mm[inside] + 0.1))


def stop_flow(random: Random, tree: Tree, clot: Clot) -> Tree:
    """The tree with the contrast that is left behind a clot.

    Beyond the clot 0 to 25 % of the contrast is left; the far branches of the brain's surface may get some
    back through collaterals, and a branch with another way in keeps its contrast.
    """
    residue = float(random.choice([0.0, 0.0, 1.0]) * random.uniform(0.05, 0.25))
    collateral = float(random.uniform(0.0, 0.3))
    closed = _beyond(tree, clot.branch)
    blocked = dict(tree)
    for name in closed:
        artery = tree[name]
        fill = np.full(len(artery.fill), residue)
        if name.startswith(("M3", "P3")):
            fill += collateral * np.linspace(0.2, 1.0, len(fill))
        blocked[name] = replace(artery, fill=fill)
    start = tree[clot.branch]
    fill = np.where(start.tube.arc_mm < clot.start_mm, start.fill, residue)
    blocked[clot.branch] = replace(start, fill=fill)
    return blocked


def _beyond(tree: Tree, closed: str) -> set[str]:
    """Names of the arteries that are fed through `closed` and have no other way in."""
    found: set[str] = set()
    for name, artery in tree.items():
        if artery.parent is None or name.startswith(("PCom", "ACom")):
            continue
        detour = tree.get(DETOURS.get(name, ""))
        if detour is not None and detour.tube.radius_mm.min() >= SMALLEST_FEEDER_MM:
            continue
        if artery.parent == closed:
            found |= {name} | _beyond(tree, name)
    return found
