"""The pictures of the report: slices and strips of cases in, HTML out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clotseg.evaluate.figures import PREDICTION, TRUTH, Marked, crop_around, panel
from clotseg.evaluate.metrics import CaseScore
from clotseg.evaluate.report_tables import count, found, kinds, number
from clotseg.evaluate.strips import CTA_WINDOW_HU, NCCT_WINDOW_HU, Strip

Role = Literal["best", "median", "worst"]
ROLES: tuple[Role, ...] = ("best", "median", "worst")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One slice of one case, as the report shows it.

    Args:
        role: why this case is shown.
        score: the score of the whole case.
        slice_index: index of the slice in the volume, from 0.
        cta_hu: [row, column] in HU.
        ncct_hu: [row, column] in HU.
        truth: [row, column], 0 or 1.
        probability: [row, column], 0 to 1.
        predicted: [row, column], 0 or 1.
    """

    role: Role
    score: CaseScore
    slice_index: int
    cta_hu: npt.NDArray[Any]
    ncct_hu: npt.NDArray[Any]
    truth: npt.NDArray[Any]
    probability: npt.NDArray[Any]
    predicted: npt.NDArray[Any]


def pictures_html(pictures: Sequence[Picture]) -> str:
    """The chosen cases, each with its slice in five views."""
    if not pictures:
        return '<p class="muted">No case with a clot to show.</p>'
    intro = (
        "<p>Chosen by Dice alone. Each row shows the slice with most true clot, whole "
        "and cut to the surroundings of the clot. CTA from −50 to 450 HU, NCCT from 0 to 100 HU. Rows and "
        "columns are as stored, outlines follow pixel edges.</p>"
    )
    ordered = sorted(pictures, key=lambda picture: ROLES.index(picture.role))
    return "\n".join([intro, *(_pictured(picture, f"picture-{n}") for n, picture in enumerate(ordered))])


def _pictured(picture: Picture, prefix: str) -> str:
    crop = crop_around(picture.truth if np.any(picture.truth) else picture.predicted)
    pixel_mm = picture.score.spacing_mm[:2] if picture.score.spacing_mm else None
    cta = partial(panel, picture.cta_hu, window_hu=CTA_WINDOW_HU, pixel_mm=pixel_mm)
    ncct = partial(panel, picture.ncct_hu, window_hu=NCCT_WINDOW_HU, pixel_mm=pixel_mm)
    truth, predicted = Marked(picture.truth, TRUTH), Marked(picture.predicted, PREDICTION)
    drawings = (
        ("Whole CTA slice", cta(frame=crop, label="whole CTA slice", prefix=f"{prefix}-slice")),
        ("CTA", cta(crop=crop, label="CTA", prefix=f"{prefix}-cta")),
        ("NCCT", ncct(crop=crop, label="NCCT", prefix=f"{prefix}-ncct")),
        (
            '<span class="key truth"></span>True clot on CTA',
            cta(crop=crop, label="CTA with the true clot", prefix=f"{prefix}-truth", marked=truth),
        ),
        (
            '<span class="key prediction"></span>Prediction on CTA, tinted by probability',
            cta(
                crop=crop,
                label="CTA with the prediction",
                prefix=f"{prefix}-prediction",
                marked=predicted,
                probability=picture.probability,
            ),
        ),
    )
    figures = "".join(f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for text, svg in drawings)
    facts = {**_facts(picture.score), "Slice": f"index {picture.slice_index}"}
    return (
        f'<article class="pictured"><header><h3><span class="role">{picture.role}</span>'
        f"{escape(picture.score.case)}</h3>{_listed(facts)}</header>{figures}</article>"
    )


def anchors(strips: Sequence[Strip]) -> dict[str, str]:
    """By case, the id of its place in the page."""
    return {strip.case: f"case-{place}" for place, strip in enumerate(strips)}


def strips_html(scores: Sequence[CaseScore], strips: Sequence[Strip]) -> str:
    """All cases that have a strip, in the order of the strips, each with slices to look through."""
    if not strips:
        return ""
    by_case = {score.case: score for score in scores}
    places = anchors(strips)
    return (
        '<p class="muted">Each case: CTA left, NCCT right. '
        '<span class="key truth"></span>true clot, <span class="key prediction"></span>prediction, '
        "the thinner line. Click a small slice or move the slider. "
        '<label><input type="checkbox" id="outlines" checked> outlines</label></p>\n'
        + "\n".join(_strip(by_case[strip.case], strip, places[strip.case]) for strip in strips)
    )


def _strip(score: CaseScore, strip: Strip, anchor: str) -> str:
    name = escape(score.case)
    small = "".join(
        f'<button type="button" data-place="{place}"><canvas></canvas>'
        f"<span>{strip.slices[place]}</span></button>"
        for place in strip.thumbnails
    )
    shown = len(strip.slices)
    all_shown = shown == strip.slices_of_volume
    note = "" if all_shown else f" ({shown} of {strip.slices_of_volume} slices are kept in this file)"
    return (
        f'<article class="case" id="{anchor}" data-case="{name}" data-kinds="{kinds(score)}" '
        f'data-rows="{strip.rows}" data-columns="{strip.columns}" data-proportion="{strip.proportion:.6g}" '
        f'data-slices="{" ".join(map(str, strip.slices))}">'
        f"<header><h3>{name}</h3>{_listed(_facts(score))}</header>"
        f'<div class="view"><canvas role="img" aria-label="CTA and NCCT of {name}"></canvas>'
        f'<label>slice <input type="range" min="0" max="{shown - 1}" value="{strip.shown_first}">'
        f' <output>{strip.slices[strip.shown_first]}</output></label><span class="muted">{note}</span></div>'
        f'<div class="strip">{small}</div>'
        f'<img hidden alt="" class="scan" src="{strip.scan_url}">'
        f'<img hidden alt="" class="marks" src="{strip.marks_url}"></article>'
    )


def _facts(score: CaseScore) -> dict[str, str]:
    return {
        "Dice": number(score.dice if score.has_clot else None, 3),
        "Clot": found(score),
        "True volume": _volume(score.volume_true, score.volume_true_mm3),
        "Predicted volume": _volume(score.volume_predicted, score.volume_predicted_mm3),
        "False clots": str(score.false_clots),
    }


def _listed(facts: Mapping[str, str]) -> str:
    items = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _volume(voxels: int, cubic_mm: float | None) -> str:
    text = count(voxels, "voxel")
    return text if cubic_mm is None else f"{number(cubic_mm, 1)} mm³ ({text})"
