"""Registration: two scans of one head in; the transform from one to the other, and how alike they are, out.

NCCT to CTA is a rigid motion, an atlas to CTA an affine one; both maximise Mattes' mutual information over a
pyramid of coarser grids, and keep the best of several starts. All of it runs on one thread with seeded
sampling, so the same scans give the same matrix on every run, however many threads there are. That costs
nothing where cases are imported side by side.

Scans are taken in RAS+ mm, as `Scan` has them; SimpleITK counts in LPS, and that never leaves this module.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name all of its documentation uses
from numpy.typing import NDArray

from clotseg.errors import DataError
from clotseg.scans.scan import Affine, Scan

Matrix = NDArray[np.float64]

LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LARGEST_SKEW = 1e-3
"""Cosine between two axes from which a grid is not at right angles; rounding in headers stays below."""
SOFT_TISSUE_HU = (-100.0, 300.0)
"""What registration looks at: from fat to the brightest contrast; air, bone and metal are cut off there, so
that they take no more of the histogram than one bin each."""
HEAD_ABOVE_HU = -300.0
AIR_BELOW_HU = -500.0
BACKGROUND_SHARE = 0.2
"""A value that so many voxels of a volume without air have is what was put around a stripped brain."""
BINS = 48
LEVELS_MM = (4.0, 2.0, 1.5)
JUDGE = 1
"""The level that compares what was found: what looks best at 4 mm need not be, and the finest is slow."""
SAMPLES = (12_000, 40_000, 80_000)
STEPS_MM = ((4.0, 0.1), (1.0, 0.02), (0.3, 0.01))
ITERATIONS = (200, 150, 80)
MOST_CLIMBS = 5
SMALLEST_GAIN = 0.003
"""Nats by which a level must gain to be optimised once more."""
MARGIN_MM = 8.0
"""How far around the fixed head samples are taken: its outline counts, the air beyond does not."""
FEWEST_COMMON = 0.1
"""Share of the fixed head that must lie in the other scan for the overlap of the heads to mean anything."""
OVERLAP_MM = 2.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Registration:
    """How a moving scan lies to a fixed one.

    Attributes:
        fixed_to_moving: 4×4 float64, mm RAS+: from a point of the fixed scan to that place in the moving.
        similarity_before: mutual information in nats with both scans where their headers say, higher is
            better; 0 where they do not meet.
        similarity_after: the same measure, through `fixed_to_moving`.
        heads_overlap: Dice of the two heads after registration, 0…1, where both scans were looking; a head is
            what is above −300 HU, in a volume stripped of skull and air what differs from its background.
    """

    fixed_to_moving: Matrix
    similarity_before: float
    similarity_after: float
    heads_overlap: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Level:
    """Both scans on coarser grids, and where in the fixed one samples are taken."""

    fixed: sitk.Image
    moving: sitk.Image
    region: sitk.Image
    samples: int
    longest_step_mm: float
    shortest_step_mm: float
    iterations: int


def to_image(scan: Scan) -> sitk.Image:
    """The scan as a SimpleITK image, values as they are; voxel (i, j, k) stays voxel (i, j, k).

    Raises:
        DataError: the axes of its grid are not at right angles.
    """
    lps = LPS_OF_RAS @ scan.affine
    directions = lps[:3, :3] / np.array(scan.spacing_mm)
    skew = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if not skew <= LARGEST_SKEW:
        raise DataError(
            f"the axes of its grid are not at right angles (cosine {skew:.3f})",
            fix="resample it to a regular grid first (`--irregular correct` does so for DICOM)",
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.values.T))
    image.SetSpacing(scan.spacing_mm)
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def register_rigid(fixed: Scan, moving: Scan, *, seed: int = 0) -> Registration:
    """Finds the rigid motion from one scan of a head to another, as from CTA to NCCT.

    Args:
        fixed: HU; the CTA.
        moving: HU; the NCCT.
        seed: of the sampling, at least 0.

    Raises:
        DataError: a grid is not at right angles, or no start brings the two scans together.
    """
    pair = _Pair(
        fixed=_soft_tissue(to_image(fixed)),
        moving=_soft_tissue(to_image(moving)),
        fixed_head=_like(fixed, head_of(fixed)),
        moving_head=_like(moving, head_of(moving)),
    )
    middle = _centre_of(pair.fixed_head)
    starts = []
    for there in _places(pair):
        start = sitk.Euler3DTransform()
        start.SetCenter(middle.tolist())
        start.SetTranslation((there - middle).tolist())
        starts.append(start)
    return _register(pair, starts, seed)


def register_atlas(fixed: Scan, atlas: Scan, *, seed: int = 0) -> Registration:
    """Finds the affine map from a CTA to an atlas of the brain.

    The atlas is taken as stripped of skull and air. The brain of the CTA is cut out roughly, as the largest
    piece of soft tissue within the bone, so that both show the same. Starts at the atlas' own size, and at
    the size that gives both brains one volume.

    Args:
        fixed: HU; the CTA.
        atlas: HU; a brain on a constant background.
        seed: of the sampling, at least 0.

    Raises:
        DataError: a grid is not at right angles, or no start brings the two together.
    """
    brain, atlas_brain = _like(fixed, brain_of(fixed)), _like(atlas, head_of(atlas))
    pair = _Pair(
        fixed=_cut_out(_soft_tissue(to_image(fixed)), brain),
        moving=_cut_out(_soft_tissue(to_image(atlas)), atlas_brain),
        fixed_head=brain,
        moving_head=atlas_brain,
    )
    middle = _centre_of(pair.fixed_head)
    size = np.cbrt(_volume_mm3(pair.moving_head) / max(_volume_mm3(pair.fixed_head), 1.0))
    starts = []
    # Two starts that are all but the same would arrive at the same place.
    scales = [1.0] if abs(size - 1) < 0.03 else [1.0, float(np.clip(size, 0.7, 1.4))]
    for scale in scales:
        start = sitk.AffineTransform(3)
        start.SetMatrix((np.eye(3) * scale).ravel().tolist())
        start.SetCenter(middle.tolist())
        start.SetTranslation((_centre_of(pair.moving_head) - middle).tolist())
        starts.append(start)
    return _register(pair, starts, seed)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """Two scans with HU cut to soft tissue, float32, and their heads as uint8 0/1 on the same grids."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_head: sitk.Image
    moving_head: sitk.Image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Found:
    """A transform of LPS points, and the mutual information it gives, in nats."""

    transform: sitk.Transform
    similarity: float


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over voxels depend on the number of threads in the last bits, so there is one.

    It must be the process' default: what a method is told of threads does not reach all of its parts.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@_one_thread()
def _register(pair: _Pair, starts: Sequence[sitk.Transform], seed: int) -> Registration:
    """Optimises every start on the coarsest level, and the best of them on the others."""
    levels = [_level(pair, number) for number in range(len(LEVELS_MM))]
    judge = levels[JUDGE]
    tried = [_judged(judge, end) for start in starts for end in _optimise(levels[0], start, seed)]
    best = max(tried, key=lambda found: found.similarity, default=_Found(transform=None, similarity=0.0))
    if not best.similarity:
        raise DataError(
            "the two scans cannot be brought together: they show nothing in common",
            fix="check that both are scans of the head of one patient",
        )
    for level in levels[1:]:
        best = _climb(level, judge, best, seed)
    return Registration(
        fixed_to_moving=_ras_matrix(best.transform),
        similarity_before=_judged(judge, sitk.Euler3DTransform()).similarity,
        similarity_after=best.similarity,
        heads_overlap=_heads_overlap(pair, best.transform),
    )


def _climb(level: _Level, judge: _Level, start: _Found, seed: int) -> _Found:
    """Optimises again from where it arrived, with long steps anew, until that brings nothing more."""
    best = start
    for _ in range(MOST_CLIMBS):
        reached = [_judged(judge, end) for end in _optimise(level, best.transform, seed)]
        before, best = best, max([best, *reached], key=lambda found: found.similarity)
        if best.similarity - before.similarity < SMALLEST_GAIN:
            break
    return best


def _level(pair: _Pair, number: int) -> _Level:
    spacing_mm = LEVELS_MM[number]
    fixed = _coarser(pair.fixed, spacing_mm)
    near_head = sitk.SignedMaurerDistanceMap(
        _onto(fixed, pair.fixed_head, sitk.Transform(), sitk.sitkNearestNeighbor),
        squaredDistance=False,
        useImageSpacing=True,
    )
    longest_mm, shortest_mm = STEPS_MM[number]
    return _Level(
        fixed=fixed,
        moving=_coarser(pair.moving, spacing_mm),
        region=near_head < MARGIN_MM,
        samples=SAMPLES[number],
        longest_step_mm=longest_mm,
        shortest_step_mm=shortest_mm,
        iterations=ITERATIONS[number],
    )


def _measure(level: _Level) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(level.region)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _optimise(level: _Level, start: sitk.Transform, seed: int) -> list[sitk.Transform]:
    """Where the optimiser arrives; nothing where the scans do not meet from this start."""
    method = _measure(level)
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = min(1.0, level.samples / level.fixed.GetNumberOfPixels())
    # SimpleITK takes seed 0 for the clock.
    method.SetMetricSamplingPercentage(share, seed + 1)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=level.longest_step_mm,
        minStep=level.shortest_step_mm,
        numberOfIterations=level.iterations,
        relaxationFactor=0.8,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    # A copy of the same kind, which the optimiser moves.
    end = type(start)(start)
    method.SetInitialTransform(end, inPlace=True)
    try:
        method.Execute(level.fixed, level.moving)
    except RuntimeError:
        return []
    return [end]


def _judged(level: _Level, transform: sitk.Transform) -> _Found:
    """The transform with its mutual information over all voxels, 0 where the scans do not meet."""
    method = _measure(level)
    method.SetInitialTransform(transform)
    try:
        similarity = max(0.0, -float(method.MetricEvaluate(level.fixed, level.moving)))
    except RuntimeError:
        similarity = 0.0
    return _Found(transform=transform, similarity=similarity)


def head_of(scan: Scan) -> NDArray[np.bool_]:
    """Where the head is, [i, j, k]: above −300 HU; without air, what differs from the background, if any."""
    values = scan.values
    if values.min() < AIR_BELOW_HU:
        return np.asarray(values > HEAD_ABOVE_HU)
    kinds, counts = np.unique(values, return_counts=True)
    if counts.max() < BACKGROUND_SHARE * values.size:
        return np.ones(values.shape, bool)
    return np.asarray(values != kinds[counts.argmax()])


def brain_of(scan: Scan) -> NDArray[np.bool_]:
    """Roughly where the brain is, [i, j, k]: the largest piece of soft tissue once thin bridges are cut.

    Where the volume has no air around the head, it is taken as stripped, and all of it that is not background
    is brain.
    """
    if scan.values.min() >= AIR_BELOW_HU:
        return head_of(scan)
    original = to_image(scan)
    image = _coarser(sitk.Cast(original, sitk.sitkFloat32), OVERLAP_MM)
    soft = (image > 0.0) & (image < 90.0)
    # Three voxels of 2 mm cut what leads through the holes of the skull base and the orbits.
    core = sitk.BinaryErode(soft, [3, 3, 3])
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(core))
    grown = sitk.BinaryDilate(pieces == 1, [4, 4, 4])
    # Vessels with contrast and calcium lie within the brain, the skull does not.
    brain = sitk.BinaryMorphologicalClosing(grown & (image > -20.0) & (image < 500.0), [2, 2, 2])
    found = _onto(original, sitk.BinaryFillhole(brain), sitk.Transform(), sitk.sitkNearestNeighbor)
    return np.asarray(sitk.GetArrayFromImage(found).T > 0)


def _like(scan: Scan, marked: NDArray[np.bool_]) -> sitk.Image:
    return to_image(Scan(values=marked.astype(np.uint8), affine=scan.affine))


def _soft_tissue(image: sitk.Image) -> sitk.Image:
    low, high = SOFT_TISSUE_HU
    return sitk.Clamp(image, sitk.sitkFloat32, low, high)


def _cut_out(image: sitk.Image, part: sitk.Image) -> sitk.Image:
    return sitk.Mask(image, part, outsideValue=SOFT_TISSUE_HU[0])


def _coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Smoothed and resampled along its own axes to voxels of `spacing_mm`; axes coarser than that stay."""
    own_mm, sizes = image.GetSpacing(), image.GetSize()
    to_mm = [max(spacing_mm, own) for own in own_mm]
    # What is added to a voxel's own width to make it that of the new one, if both were Gaussian.
    sigmas = [0.42 * np.sqrt(new**2 - own**2) for new, own in zip(to_mm, own_mm, strict=True)]
    for axis, sigma in enumerate(sigmas):
        # The recursive filter needs four voxels along its axis.
        if sigma > 0.1 * own_mm[axis] and sizes[axis] >= 4:
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    counts = [max(1, round(size * own / new)) for size, own, new in zip(sizes, own_mm, to_mm, strict=True)]
    # The new voxels lie centred in the old field of view.
    first = [
        ((size - 1) - (count - 1) * new / own) / 2
        for size, count, own, new in zip(sizes, counts, own_mm, to_mm, strict=True)
    ]
    return sitk.Resample(
        image,
        counts,
        sitk.Transform(),
        sitk.sitkLinear,
        image.TransformContinuousIndexToPhysicalPoint(first),
        to_mm,
        image.GetDirection(),
        SOFT_TISSUE_HU[0],
        sitk.sitkFloat32,
    )


def _onto(grid: sitk.Image, image: sitk.Image, transform: sitk.Transform, way: int) -> sitk.Image:
    """The image on another grid, 0 outside."""
    return sitk.Resample(image, grid, transform, way, 0.0)


def _places(pair: _Pair) -> list[Matrix]:
    """Where the middle of the fixed head may lie in the moving scan, LPS mm: each is tried as a start."""
    middle = _centre_of(pair.fixed_head)
    frames_shift = _middle_of_grid(pair.moving) - _middle_of_grid(pair.fixed)
    return [middle, _centre_of(pair.moving_head), middle + frames_shift]


def _middle_of_grid(image: sitk.Image) -> Matrix:
    return np.array(
        image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])
    )


def _centre_of(head: sitk.Image) -> Matrix:
    """Centre of mass of what is marked, LPS mm; the middle of the grid where nothing is."""
    marked = np.argwhere(sitk.GetArrayViewFromImage(head))
    if not len(marked):
        return _middle_of_grid(head)
    return np.array(head.TransformContinuousIndexToPhysicalPoint(marked.mean(0)[::-1].tolist()))


def _volume_mm3(head: sitk.Image) -> float:
    return float(np.count_nonzero(sitk.GetArrayViewFromImage(head)) * np.prod(head.GetSpacing()))


def _heads_overlap(pair: _Pair, transform: sitk.Transform) -> float:
    """Dice of the heads at 2 mm in the part of the fixed grid that the moving scan covers."""
    nearest = sitk.sitkNearestNeighbor
    grid = _coarser(pair.fixed, OVERLAP_MM)
    everywhere = pair.moving_head * 0 + 1
    fixed, moving, covered = (
        sitk.GetArrayFromImage(_onto(grid, image, through, nearest)) > 0
        for image, through in (
            (pair.fixed_head, sitk.Transform()),
            (pair.moving_head, transform),
            (everywhere, transform),
        )
    )
    both = fixed & covered
    if both.sum() < FEWEST_COMMON * fixed.sum() or not fixed.any():
        return 0.0
    return float(2 * (both & moving).sum() / (both.sum() + moving.sum()))


def _ras_matrix(transform: sitk.Transform) -> Affine:
    """The 4×4 matrix, RAS+ mm, of a transform of LPS points."""
    points = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    origin, *ends = (np.array(transform.TransformPoint(point)) for point in points)
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([end - origin for end in ends])
    lps[:3, 3] = origin
    return np.asarray(LPS_OF_RAS @ lps @ LPS_OF_RAS, np.float64)
