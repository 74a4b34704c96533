"""Quality control of one imported case: its output volumes and its registration in; named verdicts out.

Each threshold stands with its reason. They were set on an average brain CT with simulated arteries and on the
phantom, where the truth is known; no real pair of CTA and NCCT was at hand. So a `fail` is kept for what no
right case came near to, and a `warn` asks for a look at the picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from clotseg.importer.registration import HEAD_ABOVE_HU, Registration
from clotseg.prep.table import Spacing

Verdict = Literal["pass", "warn", "fail"]
Volume = NDArray[Any]

SIMILARITY_WARN, SIMILARITY_FAIL = 0.5, 0.3
"""Nats. Registered right: 0.75 and more in phantoms, 0.95 in a stripped brain (0.8 with twice the noise and
slices of 5 mm), 1.3 and more in a skull. Where registration went astray from 35° and 40 mm: below 0.2."""
HEADS_WARN, HEADS_FAIL = 0.9, 0.75
"""Dice. Registered right: 0.97 and more."""
ANATOMY_WARN, ANATOMY_FAIL = 0.3, 0.2
"""Correlation of the brain's soft tissue. In their place: 0.28 to 0.56 in 60 phantoms that were scanned on
two grids, turned, and registered to a millimetre, since another grid blurs what is fine; 0.67 and more on
one grid; 0.88 in the brain CT. 15° and 15 mm apart the brain CT is below 0.2. So it finds scans that do not
belong together, or registration that went far astray; no small error."""
COVERED_WARN, COVERED_FAIL = 0.95, 0.75
"""Share of the CTA's head where the NCCT shows head, too: what lies outside the NCCT is air."""
ENHANCED_HU = (150.0, 500.0)
"""Blood with contrast; without it, blood and brain stay below 80 HU, a fresh clot below 100."""
CTA_ENHANCED_WARN, CTA_ENHANCED_FAIL = 0.004, 0.001
"""Share of the soft tissue within the head. With simulated arteries: 0.008 to 0.022."""
NCCT_ENHANCED_WARN, NCCT_ENHANCED_FAIL = 0.001, 0.004
"""Share of the soft tissue within the head. Phantoms: up to 0.0006; a real NCCT: 0.0004; a phantom's CTA in
place of its NCCT: 0.0023 and more, since what is wide and bright in both is taken for bone. Bone that the
crop has cut off may be taken for contrast, so a case is left out only where much more is found."""
SWAPPED_FACTOR = 4.0
"""How many times as much contrast in the NCCT as in the CTA says that they stand for each other."""
BRAIN_HU = {"CTA": (10.0, 75.0), "NCCT": (10.0, 60.0)}
"""Median of the middle of the volume, which is mostly brain of 25 to 45 HU, a few more with contrast."""
MASK_IN_HEAD_WARN, MASK_IN_HEAD_FAIL = 0.98, 0.8
MASK_KEPT_WARN, MASK_KEPT_FAIL = 0.99, 0.8
"""A clot that the crop cuts teaches a wrong outline; with a fifth of it gone, its volume is wrong, too."""

BONE_HU = 600.0
SPONGY_HU, SPONGY_MM = 120.0, 2.0
"""Spongy and half-filled bone is no brighter than contrast, but it is wide, and in both scans: the lower of
the two stays above this when smoothed. In a real NCCT with slices of 4 to 7 mm, 1.6 % of what is 5 mm off
bone above 600 HU passed for contrast; with this, 0.04 %."""
RIM_MM = 5.0
"""How far from bone and air soft tissue begins: there, both are smeared over their border, and cortex is off
by what registration left over."""
WORKING_MM = 1.0
SMOOTHING_MM = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one check found.

    Attributes:
        name: what was looked at.
        verdict: `pass`, `warn` (look at the picture), or `fail` (the case is left out).
        value: the number that was judged; None where there is none.
        unit: of `value`; empty for shares and correlations.
        why: one sentence for the user.
    """

    name: str
    verdict: Verdict
    value: float | None
    unit: str
    why: str


def verdict_of(checks: Iterable[Check]) -> Verdict:
    """The worst verdict among the checks; `pass` where there are none."""
    found = {check.verdict for check in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "pass"


def check_case(
    *,
    cta: Volume,
    ncct: Volume,
    mask: Volume | None,
    spacing_mm: Spacing,
    registration: Registration | None,
    mask_voxels_kept: float = 1.0,
) -> list[Check]:
    """All checks of one case, as it would be written.

    Args:
        cta: HU, [row, column, slice].
        ncct: HU on the CTA's grid; what lies outside its own field of view is air.
        mask: 0 and 1 on the same grid; None where the case has none.
        spacing_mm: of the grid.
        registration: of the NCCT to the CTA; None where both came on one grid.
        mask_voxels_kept: share of the mask's volume that lies within the crop.
    """
    checks = [check_scale("CTA", cta), check_scale("NCCT", ncct)]
    if registration is not None:
        checks += check_registration(registration)
    if verdict_of(checks[:2]) != "fail":
        # Where numbers are no HU, what follows would only repeat that in other words.
        tissue = _Tissue.of(cta, ncct, spacing_mm)
        checks += [_covered(cta, ncct), tissue.anatomy(), *tissue.contrast()]
    return checks + check_mask(mask, cta, mask_voxels_kept)


def check_registration(registration: Registration) -> list[Check]:
    """Did registration gain, did it arrive, do the heads lie on each other?"""
    before, after = registration.similarity_before, registration.similarity_after
    gained: Verdict = "pass" if after >= before else "fail"
    return [
        Check(
            name="registration gain",
            verdict=gained,
            value=after - before,
            unit="nats",
            why="the scans are at least as alike as before"
            if gained == "pass"
            else "the scans were more alike before registration than after it",
        ),
        _at_least(
            "registration similarity",
            after,
            (SIMILARITY_WARN, SIMILARITY_FAIL),
            (
                "the scans tell of each other",
                "the scans tell little of each other: registration may have failed",
            ),
            unit="nats",
        ),
        _at_least(
            "heads overlap",
            registration.heads_overlap,
            (HEADS_WARN, HEADS_FAIL),
            (
                "the heads lie on each other",
                "the heads do not lie on each other: registration may have failed",
            ),
        ),
    ]


def check_scale(name: str, volume: Volume) -> Check:
    """Are these HU? Judged by the median of the middle half of the volume along each axis.

    Args:
        name: `CTA` or `NCCT`.
        volume: [row, column, slice].
    """
    label = f"{name} in HU"
    if not np.isfinite(volume).all():
        return Check(name=label, verdict="fail", value=None, unit="HU", why="some voxels are no numbers")
    middle = volume[tuple(slice(side // 4, max(side - side // 4, 1)) for side in volume.shape)]
    median, (low, high) = float(np.median(middle)), BRAIN_HU[name]
    if not low <= median <= high:
        why = f"the middle of the {name} is no brain in HU ({low:g} to {high:g}): shifted, scaled, or no head"
        return Check(name=label, verdict="fail", value=median, unit="HU", why=why)
    return Check(name=label, verdict="pass", value=median, unit="HU", why="the middle is brain in HU")


def check_mask(mask: Volume | None, cta: Volume, voxels_kept: float) -> list[Check]:
    """Does the mask lie within the head and within the crop? Nothing where the case has no mask.

    Args:
        mask: 0 and 1, [row, column, slice].
        cta: HU on the same grid.
        voxels_kept: share of the mask's volume that lies within the crop.
    """
    if mask is None:
        return []
    kept = _at_least(
        "mask in the crop",
        voxels_kept,
        (MASK_KEPT_WARN, MASK_KEPT_FAIL),
        ("all of the mask lies within the crop", "the crop cuts the mask"),
    )
    clot = mask > 0
    if not clot.any():
        why = "the mask is empty: a case without a clot, or the wrong file"
        return [Check(name="mask", verdict="warn", value=0.0, unit="voxels", why=why), kept]
    in_head = _at_least(
        "mask in the head",
        float((cta[clot] > HEAD_ABOVE_HU).mean()),
        (MASK_IN_HEAD_WARN, MASK_IN_HEAD_FAIL),
        ("the mask lies within the head", "the mask lies in air: is it of another scan, or mirrored?"),
    )
    return [in_head, kept]


def _at_least(
    name: str, value: float, limits: tuple[float, float], why: tuple[str, str], unit: str = ""
) -> Check:
    """Warns below the first limit, fails below the second."""
    warn, fail = limits
    # Written so that what is no number fails.
    verdict: Verdict = "pass" if value >= warn else "warn" if value >= fail else "fail"
    return Check(name=name, verdict=verdict, value=value, unit=unit, why=why[verdict != "pass"])


def _covered(cta: Volume, ncct: Volume) -> Check:
    head = cta > HEAD_ABOVE_HU
    share = float((ncct[head] > HEAD_ABOVE_HU).mean()) if head.any() else 0.0
    return _at_least(
        "NCCT covers the head",
        share,
        (COVERED_WARN, COVERED_FAIL),
        ("the NCCT shows what the CTA shows", "the NCCT shows air where the CTA shows head"),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tissue:
    """Both scans at about a millimetre, and what in them is soft tissue well off bone and air."""

    cta: Volume
    ncct: Volume
    spacing_mm: tuple[float, ...]
    soft: NDArray[np.bool_]

    @classmethod
    def of(cls, cta: Volume, ncct: Volume, spacing_mm: Spacing) -> "_Tissue":
        # Shares need no more than every millimetre's voxel.
        strides = [max(1, round(WORKING_MM / spacing)) for spacing in spacing_mm]
        every = tuple(slice(None, None, stride) for stride in strides)
        cta, ncct = (volume[every].astype(np.float32) for volume in (cta, ncct))
        apart_mm = tuple(spacing * stride for spacing, stride in zip(spacing_mm, strides, strict=True))
        lower = np.minimum(cta, ncct)
        sigmas = [SPONGY_MM / spacing for spacing in apart_mm]
        spongy = gaussian_filter(np.clip(lower, 0, 1000), sigmas) > SPONGY_HU
        # The same for both, so that they are judged alike, whichever is which.
        beyond = (np.maximum(cta, ncct) > BONE_HU) | spongy | (lower < HEAD_ABOVE_HU)
        soft = np.ones(cta.shape, bool)
        if beyond.any():
            soft = np.asarray(distance_transform_edt(~beyond, sampling=apart_mm)) > RIM_MM
        return cls(cta=cta, ncct=ncct, spacing_mm=apart_mm, soft=soft)

    def anatomy(self) -> Check:
        """Do ventricles, fissures and grey matter lie on each other? Vessels with contrast are left out."""
        sigmas = [SMOOTHING_MM / spacing for spacing in self.spacing_mm]
        plain = self.soft & (self.cta < 120) & (self.ncct < 120)
        cta, ncct = (
            gaussian_filter(np.clip(volume, 0, 80), sigmas)[plain] for volume in (self.cta, self.ncct)
        )
        varied = len(cta) > 1 and cta.std() > 0 and ncct.std() > 0
        return _at_least(
            "brain on brain",
            float(np.corrcoef(cta, ncct)[0, 1]) if varied else 0.0,
            (ANATOMY_WARN, ANATOMY_FAIL),
            ("the brain's fluid and tissue lie on each other", "the brain's fluid and tissue do not match"),
        )

    def contrast(self) -> list[Check]:
        """Has the CTA contrast, has the NCCT none, or is it the other way round?"""
        in_cta, in_ncct = self._enhanced(self.cta), self._enhanced(self.ncct)
        if in_ncct > max(SWAPPED_FACTOR * in_cta, NCCT_ENHANCED_WARN):
            why = "the NCCT has contrast and the CTA has none: the two look swapped"
            return [Check(name="modalities", verdict="fail", value=in_ncct, unit="", why=why)]
        # Judged from the other side: less is better.
        verdict: Verdict = (
            "fail" if in_ncct > NCCT_ENHANCED_FAIL else "warn" if in_ncct > NCCT_ENHANCED_WARN else "pass"
        )
        why = "the NCCT is free of contrast" if verdict == "pass" else "the NCCT looks contrast-enhanced"
        return [
            _at_least(
                "CTA has contrast",
                in_cta,
                (CTA_ENHANCED_WARN, CTA_ENHANCED_FAIL),
                ("the CTA shows vessels with contrast", "the CTA shows few vessels with contrast"),
            ),
            Check(name="NCCT has none", verdict=verdict, value=in_ncct, unit="", why=why),
        ]

    def _enhanced(self, volume: Volume) -> float:
        """Share of the soft tissue that is as bright as blood with contrast."""
        low, high = ENHANCED_HU
        bright = (volume > low) & (volume < high) & self.soft
        return float(bright.sum() / max(self.soft.sum(), 1))
