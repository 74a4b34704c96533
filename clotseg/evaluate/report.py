"""The report of a test: one HTML file that a reader can open anywhere, print, and pass on.

In: the score of every case, their summary, a few pictured slices, the training history and the provenance.
Out: one self-contained file. What always holds: it fetches nothing, every text that came from a user is
escaped, and the same content gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clotseg.artifact import replace_file
from clotseg.evaluate.figures import (
    PREDICTION,
    TRUTH,
    Marked,
    crop_around,
    dice_chart,
    panel,
    training_curve,
    volume_chart,
)
from clotseg.evaluate.metrics import CaseScore

Role = Literal["best", "median", "worst"]
ROLES: tuple[Role, ...] = ("best", "median", "worst")
CTA_WINDOW_HU = (-50.0, 450.0)
NCCT_WINDOW_HU = (0.0, 100.0)
ABSENT = "–"
MISSED = ' class="missed"'
SYNTHETIC_NOTICE = (
    "<p><strong>Synthetic data.</strong> These cases were computed, not scanned. Accuracy on synthetic clots "
    "says nothing about patients; it only shows that the program works from end to end.</p>"
)


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReportContent:
    """All that a report is made of.

    Args:
        title: heading of the report.
        synthetic: whether the cases are phantoms; the report then says so first.
        scores: one a case.
        summary: what `metrics.summarise` made of the scores.
        history: rows of `history.csv`: `epoch`, `loss`, `val_dice`, and `val_loss` where there is one.
        pictures: slices to show, in any order; none is fine.
        cohort: counts per cohort, such as `{"Training": {"cases": 24, "slices": 576}}`.
        configuration_toml: the settings of the run.
        provenance: what identifies run, code and data, by name.
    """

    title: str
    synthetic: bool
    scores: Sequence[CaseScore]
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = ()
    cohort: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configuration_toml: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


def choose_pictured(scores: Sequence[CaseScore]) -> dict[Role, str]:
    """The cases to show, by role: best, median and worst Dice among cases with a clot, never by eye.

    With two such cases there is no median, with one there is only a best, with none nothing. Ties go by case
    name; of an even number the lower of the two middle cases is the median.
    """
    ranked = [
        score.case for score in sorted(scores, key=lambda score: (score.dice, score.case)) if score.has_clot
    ]
    match len(ranked):
        case 0:
            return {}
        case 1:
            return {"best": ranked[0]}
        case 2:
            return {"best": ranked[1], "worst": ranked[0]}
        case count:
            return {"best": ranked[-1], "median": ranked[(count - 1) // 2], "worst": ranked[0]}


def pick_slice(truth: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> int:
    """The slice to show of two masks [row, column, slice].

    It is the one with most true clot pixels; without any, most predicted ones; without any, the middle one.
    """
    for mask in (truth, predicted):
        pixels = np.count_nonzero(mask, axis=(0, 1))
        if pixels.any():
            return int(np.argmax(pixels))
    return int(truth.shape[2] // 2)


def write_report(path: Path, *, content: ReportContent) -> None:
    """Writes the report as one HTML file, in one step: flushed beside its place, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(render(content), encoding="utf-8")
    replace_file(temporary, path)


def render(content: ReportContent) -> str:
    """The report as the text of one HTML page."""
    template = (
        resources.files("clotseg.evaluate").joinpath("report_template.html").read_text(encoding="utf-8")
    )
    return Template(template).substitute(
        title=escape(content.title),
        badge="Synthetic data" if content.synthetic else "Test report",
        statement=_statement(content),
        synthetic_notice=SYNTHETIC_NOTICE if content.synthetic else "",
        cards=_cards(content.summary),
        pictures=_pictures(content.pictures),
        charts=_charts(content),
        case_table=_case_table(content.scores),
        cohort=_cohort(content.cohort),
        configuration=escape(content.configuration_toml),
        provenance=_provenance(content.provenance),
    )


def _statement(content: ReportContent) -> str:
    cases = _count(content.summary["cases"], "synthetic case" if content.synthetic else "case")
    patients = _count(content.summary["patients"], "patient")
    return (
        f"How well the clot masks of one trained network agree with the true masks of {cases} "
        f"from {patients}, none of which it was trained on."
    )


def _cards(summary: Mapping[str, Any]) -> str:
    interval, clot_free = summary["dice_ci95"], summary["clot_free_cases"]
    if summary["dice_mean"] is None:
        spread = "no case has a clot"
    elif interval is None:
        spread = f"no interval below two patients; median {summary['dice_median']:.3f}"
    else:
        spread = f"95 % interval {interval[0]:.3f} to {interval[1]:.3f}; median {summary['dice_median']:.3f}"
    affected = f"in {_count(clot_free, 'clot-free case')}, {summary['clot_free_with_false']} affected"
    cards = (
        ("Mean Dice", _number(summary["dice_mean"], 3), "", spread),
        ("Clots missed", summary["missed"], f"of {summary['cases_with_clot']}", "each counted as Dice 0"),
        ("False clots", summary["false_clots"], "", affected)
        if clot_free
        else ("False clots", ABSENT, "", "no clot-free case in this cohort"),
        ("Cases", summary["cases"], "", f"from {_count(summary['patients'], 'patient')}"),
    )
    return "\n".join(
        f'<div class="card"><dt>{name}</dt><dd class="value">{value} <small>{beside}</small></dd>'
        f'<dd class="note">{note}</dd></div>'
        for name, value, beside, note in cards
    )


def _pictures(pictures: Sequence[Picture]) -> str:
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
    return (
        f'<article class="pictured"><header><h3><span class="role">{picture.role}</span>'
        f"{escape(picture.score.case)}</h3>{_facts(picture)}</header>{figures}</article>"
    )


def _facts(picture: Picture) -> str:
    score = picture.score
    facts = {
        "Dice": _number(score.dice, 3),
        "Clot": _found(score),
        "True volume": _volume(score.volume_true, score.volume_true_mm3),
        "Predicted volume": _volume(score.volume_predicted, score.volume_predicted_mm3),
        "False clots": str(score.false_clots),
        "Slice": f"index {picture.slice_index}",
    }
    items = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _charts(content: ReportContent) -> str:
    summary = content.summary
    with_clot = [score for score in content.scores if score.has_clot]
    charts = [
        (
            training_curve(content.history, prefix="training"),
            "Training: loss, and Dice on the validation cohort, after each epoch.",
        )
    ]
    if with_clot:
        charts += [
            (
                dice_chart(
                    with_clot, mean=summary["dice_mean"], interval=summary["dice_ci95"], prefix="dice"
                ),
                "Dice of each case. Dashed: the mean; shaded: its 95 % interval; hollow: missed clots.",
            ),
            (
                volume_chart(with_clot, prefix="volume"),
                f"Clot volume. Dashed: perfect agreement; hollow: missed clots. {_volume_error(summary)}",
            ),
        ]
    drawn = [
        f'<figure class="chart">{svg}<figcaption>{text}</figcaption></figure>' for svg, text in charts if svg
    ]
    return "\n".join(drawn) or '<p class="muted">Nothing to draw: no history and no case with a clot.</p>'


def _volume_error(summary: Mapping[str, Any]) -> str:
    unit = "voxels" if summary["volume_error_mm3"] is None else "mm3"
    error, bias = summary[f"volume_error_{unit}"], summary[f"volume_bias_{unit}"]
    name = unit.replace("mm3", "mm³")
    signed = f"{bias:+,.0f}".replace("-", "−")
    return f"Mean absolute error {error:,.0f} {name}, mean difference {signed} {name}."


def _case_table(scores: Sequence[CaseScore]) -> str:
    in_mm = any(score.spacing_mm for score in scores)
    head = "".join(
        _header(name, number=name not in ("Case", "Clot", "Patient", "Site"))
        for name in ("Case", "Dice", "Clot", "False clots", "True voxels", "Predicted voxels")
        + (("True mm³", "Predicted mm³") if in_mm else ())
        + ("Patient", "Site")
    )
    rows = "\n".join(_case_row(score, in_mm=in_mm) for score in sorted(scores, key=lambda score: score.case))
    return (
        '<p class="muted">A dash: does not exist, such as the Dice of a case without a clot.</p>'
        f'<div class="scroll"><table class="wide sortable"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _case_row(score: CaseScore, *, in_mm: bool) -> str:
    name, found = escape(score.case), _found(score)
    cells = [
        f'<th scope="row" data-sort="{name}" title="{name}">{name}</th>',
        _number_cell(score.dice if score.has_clot else None, 3),
        f'<td data-sort="{found}"{MISSED if score.found is False else ""}>{found}</td>',
        _number_cell(score.false_clots, 0),
        _number_cell(score.volume_true, 0),
        _number_cell(score.volume_predicted, 0),
    ]
    if in_mm:
        cells += [_number_cell(score.volume_true_mm3, 1), _number_cell(score.volume_predicted_mm3, 1)]
    for word in (escape(score.patient), escape(score.site or "")):
        cells.append(f'<td data-sort="{word}">{word or ABSENT}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _cohort(cohort: Mapping[str, Mapping[str, Any]]) -> str:
    if not cohort:
        return '<p class="muted">No counts were given.</p>'
    columns = list(dict.fromkeys(name for counts in cohort.values() for name in counts))
    head = _header("Cohort", number=False) + "".join(
        _header(name.replace("_", " ").capitalize(), number=True) for name in columns
    )
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_count_cell(counts.get(column)) for column in columns)
        + "</tr>"
        for name, counts in cohort.items()
    )
    return (
        "<p>Patients were shared out at random, each with all of their cases, so that no patient is in two "
        "cohorts. The network was fitted to the training cohort, chosen by the validation cohort, and scored "
        'here on the testing cohort.</p><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _provenance(provenance: Mapping[str, str]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in provenance.items()
    )
    return (
        f'<div class="scroll"><table class="provenance"><tbody>\n{rows}\n</tbody></table></div>'
        if rows
        else ""
    )


def _header(name: str, *, number: bool) -> str:
    kind = ' class="number"' if number else ""
    return f'<th scope="col"{kind}>{escape(name)}</th>'


def _number_cell(value: float | None, digits: int) -> str:
    raw = "" if value is None else f"{value:.12g}"
    return f'<td class="number" data-sort="{raw}">{_number(value, digits)}</td>'


def _count_cell(value: object) -> str:
    text = (
        f"{value:,}"
        if isinstance(value, int | float)
        else escape(str(value))
        if value is not None
        else ABSENT
    )
    return f'<td class="number">{text}</td>'


def _found(score: CaseScore) -> str:
    return {True: "found", False: "missed", None: "no clot"}[score.found]


def _volume(voxels: int, cubic_mm: float | None) -> str:
    text = _count(voxels, "voxel")
    return text if cubic_mm is None else f"{_number(cubic_mm, 1)} mm³ ({text})"


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:,.{digits}f}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
