"""The report of a test: one HTML file that a reader can open anywhere, print, and pass on.

In: the score of every case, their summary, pictured slices, the training history and the provenance. Out: one
self-contained file. What always holds: it fetches nothing, every text that came from a user is escaped, and
the same content gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from clotseg.artifact import replace_file
from clotseg.evaluate.agreement import doubt_and_dice
from clotseg.evaluate.charts import (
    agreement_chart,
    dice_chart,
    difference_chart,
    doubt_chart,
    reliability_chart,
    training_curve,
)
from clotseg.evaluate.metrics import CaseScore
from clotseg.evaluate.report_cases import Picture, Role, anchors, pictures_html, strips_html
from clotseg.evaluate.report_tables import (
    ABSENT,
    case_table,
    cohort_table,
    count,
    group_table,
    interval,
    number,
    provenance_table,
    review_table,
)
from clotseg.evaluate.strips import Strip

__all__ = ["Picture", "ReportContent", "choose_pictured", "pick_slice", "render", "write_report"]

SYNTHETIC = "Synthetic data"
SYNTHETIC_NOTICE = (
    "<p><strong>Synthetic data.</strong> {made} Accuracy on synthetic clots says nothing about patients; it "
    "only shows that the program works from end to end.</p>"
)
DRAWN = "These cases were computed, not scanned."
GROWN = "Vessels and clots of these cases were computed, and set into one real head CT."
FILTERS = {
    "": "all cases",
    "found": "clot found",
    "missed": "clot missed",
    "false": "with false clots",
    "free": "without a clot",
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReportContent:
    """All that a report is made of.

    Args:
        title: heading of the report; that the data are synthetic is put before it.
        synthetic: whether the cases are phantoms; the report then says so first.
        real_head: whether the phantoms were grown in a real head CT.
        scores: one a case.
        summary: what `metrics.summarise` made of the scores.
        history: rows of `history.csv`: `epoch`, `loss`, `val_dice`, and `val_loss` where there is one.
        pictures: slices to show, in any order; none is fine.
        strips: of the cases to look through, in the order to show them; none is fine.
        networks: how many answered, in turn for each of `folds` cross-validation folds or, in one, together.
        folds: how many test cohorts there were, each with a network of its own.
        split_file: whether a file said who belongs to which cohort.
        cohort: counts per cohort, such as `{"Training": {"cases": 24, "slices": 576}}`.
        configuration_toml: the settings of the first run.
        provenance: what identifies run, code and data, by name.
        doubt: by case, larger where the network is less sure; None where it was not worked out.
        calibration: `temperature`, `ece_before`, `ece_after`, and `bins_before` and `bins_after`: lists of
            [mean probability, share of clot, count]; of the validation cohort.
        operating_point: `threshold` and `smallest_component`, as the validation cohort chose them.
    """

    title: str
    synthetic: bool
    real_head: bool = False
    scores: Sequence[CaseScore]
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = ()
    strips: Sequence[Strip] = ()
    networks: int = 1
    folds: int = 1
    split_file: bool = False
    cohort: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configuration_toml: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    doubt: Mapping[str, float] | None = None
    calibration: Mapping[str, Any] | None = None
    operating_point: Mapping[str, Any] | None = None


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
    title = f"{SYNTHETIC}: {content.title}" if content.synthetic else content.title
    notice = SYNTHETIC_NOTICE.format(made=GROWN if content.real_head else DRAWN)
    return Template(_packaged("report_template.html")).substitute(
        title=escape(title),
        badge=SYNTHETIC if content.synthetic else "Test report",
        statement=_statement(content),
        synthetic_notice=notice if content.synthetic else "",
        cards=_cards(content.summary),
        review=_review(content),
        pictures=pictures_html(content.pictures),
        charts=_charts(content),
        filters="".join(f'<option value="{kind}">{name}</option>' for kind, name in FILTERS.items()),
        case_table=case_table(content.scores, anchors=anchors(content.strips), doubt=content.doubt),
        strips=strips_html(content.scores, content.strips),
        groups=_groups(content.summary),
        cohort=cohort_table(content.cohort, split_file=content.split_file, folds=content.folds),
        of_which_run="this run" if content.networks == 1 else f"the first of {content.networks} runs",
        operating_point=_operating_point(content.operating_point),
        configuration=escape(content.configuration_toml),
        provenance=provenance_table(content.provenance),
        script=_packaged("report_script.js"),
    )


def _packaged(name: str) -> str:
    return resources.files("clotseg.evaluate").joinpath(name).read_text(encoding="utf-8")


def _statement(content: ReportContent) -> str:
    cases = count(content.summary["cases"], "synthetic case" if content.synthetic else "case")
    patients = count(content.summary["patients"], "patient")
    if content.folds > 1:
        whose = f"the {content.networks} networks of a cross-validation"
        unseen = "each case asked of the network that was neither trained on it nor chosen by it"
    elif content.networks > 1:
        whose = f"{content.networks} trained networks together"
        unseen = "none of which any of them was trained on"
    else:
        whose, unseen = "one trained network", "none of which it was trained on"
    return (
        f"How well the clot masks of {whose} agree with the true masks of {cases} from {patients}, {unseen}."
    )


def _cards(summary: Mapping[str, Any]) -> str:
    """The headline numbers, each with its interval."""
    free, with_clot = summary["clot_free_cases"], summary["cases_with_clot"]
    specificity = ABSENT, "", "no clot-free case in this cohort"
    if free:
        told = f"{count(free, 'clot-free case')}, {summary['clot_free_with_false']} with a false clot"
        specificity = number(summary["specificity"], 2), "", told + _share(summary, "specificity", "; ")
    surface = ABSENT, "", "voxel spacing not known"
    if summary["surface_dice_1mm_cases"]:
        surface = number(summary["surface_dice_1mm_mean"], 3), "", _spread(summary, "surface_dice_1mm")
    cards = [
        ("Mean Dice", number(summary["dice_mean"], 3), "", _spread(summary, "dice")),
        ("Clots missed", str(summary["missed"]), f"of {with_clot}", _share(summary, "missed_rate")),
        ("Specificity", *specificity),
        ("Cases", str(summary["cases"]), "", f"from {count(summary['patients'], 'patient')}"),
        ("Surface Dice at 1 mm", *surface),
        (
            "Single clots found",
            str(summary["clots_found"]),
            f"of {summary['clots_true']}",
            f"{count(summary['clots_missed'], 'missed clot')}, F1 {number(summary['clot_f1'], 3)}",
        ),
        _agreement_card("Volume agreement", summary["volume_agreement"]),
        _agreement_card("Length agreement", summary["length_agreement"]),
    ]
    return "\n".join(
        f'<div class="card"><dt>{name}</dt><dd class="value">{value} <small>{beside}</small></dd>'
        f'<dd class="note">{note}</dd></div>'
        for name, value, beside, note in cards
    )


def _spread(summary: Mapping[str, Any], name: str) -> str:
    if summary[f"{name}_mean"] is None:
        return "no case has a clot"
    median = f"median {summary[f'{name}_median']:.3f}"
    if summary[f"{name}_ci95"] is None:
        return f"no interval below two patients; {median}"
    return f"95 % interval {interval(summary[f'{name}_ci95'])}; {median}"


def _share(summary: Mapping[str, Any], name: str, before: str = "") -> str:
    ends = summary[f"{name}_ci95"]
    return "" if ends is None else f"{before}95 % interval {100 * ends[0]:.0f} to {100 * ends[1]:.0f} %"


def _agreement_card(name: str, agreed: Mapping[str, Any] | None) -> tuple[str, str, str, str]:
    if agreed is None or agreed["icc"] is None:
        return name, ABSENT, "ICC", "needs two cases with a clot, and a spacing for lengths"
    ends = agreed["icc_ci95"]
    note = f"95 % interval {interval(ends, 2)}" if ends else "no interval below three patients"
    return name, number(agreed["icc"], 2), "ICC", f"{note}; Pearson {number(agreed['pearson'], 2)}"


def _review(content: ReportContent) -> str:
    """The cases to look at first; nothing where doubt was not worked out."""
    if content.doubt is None:
        return ""
    found = _doubt(content)
    rho, ends = found["spearman"], found["spearman_ci95"]
    told = "Too few cases with a clot to say how well doubt foretells Dice."
    if rho is not None:
        spread = "" if ends is None else f" (95 % interval {interval(ends, 2)})"
        told = (
            f"Over the {count(found['cases'], 'case')} with a clot, doubt and Dice have Spearman "
            f"ρ = {number(rho, 2)}{spread}: −1 would mean that doubt ranks them exactly from best to worst."
        )
    return (
        "<section>\n<h2>Review list</h2>\n<p>Cases in the order in which the network doubts itself: look at "
        f"the first ones first. {told}</p>\n{review_table(content.scores, content.doubt)}\n</section>"
    )


def _doubt(content: ReportContent) -> Mapping[str, Any]:
    """How well doubt foretells Dice: as the summary says, or worked out here where it does not."""
    known: Mapping[str, Any] | None = content.summary.get("doubt")
    if known is not None:
        return known
    doubt = content.doubt or {}
    scores = [score for score in content.scores if score.has_clot and score.case in doubt]
    return doubt_and_dice(
        [doubt[score.case] for score in scores],
        [score.dice for score in scores],
        [score.patient for score in scores],
        samples=1000,
        seed=1,
    )


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
        chart = dice_chart(with_clot, mean=summary["dice_mean"], interval=summary["dice_ci95"], prefix="dice")
        charts.append(
            (chart, "Dice of each case. Dashed: the mean; shaded: its 95 % interval; hollow: missed clots.")
        )
        charts += _agreement_charts(with_clot, summary)
    doubted = [score for score in with_clot if content.doubt and score.case in content.doubt]
    if content.doubt and doubted:
        values = [content.doubt[score.case] for score in doubted]
        charts.append(
            (doubt_chart(doubted, values, prefix="doubt"), "Dice against the doubt of the network.")
        )
    if content.calibration:
        charts.append(_reliability(content.calibration))
    drawn = [
        f'<figure class="chart">{svg}<figcaption>{text}</figcaption></figure>' for svg, text in charts if svg
    ]
    return "\n".join(drawn) or '<p class="muted">Nothing to draw: no history and no case with a clot.</p>'


def _agreement_charts(
    scores: Sequence[CaseScore], summary: Mapping[str, Any]
) -> list[tuple[str | None, str]]:
    """Scatter and Bland-Altman of volume and of length, where they are known of every case."""
    in_mm = summary["volume_agreement"]["unit"] == "mm³"
    kinds = [("volume", "mm³" if in_mm else "voxels", "volume_{}_mm3" if in_mm else "volume_{}")]
    if summary["length_agreement"] is not None:
        kinds.append(("length", "mm", "length_{}_mm"))
    charts: list[tuple[str | None, str]] = []
    for what, unit, column in kinds:
        true, predicted = (
            [float(getattr(score, column.format(side))) for score in scores] for side in ("true", "predicted")
        )
        pairs, agreed = list(zip(true, predicted, strict=True)), summary[f"{what}_agreement"]
        limits = (
            f"limits of agreement {interval((agreed['lower'], agreed['upper']), 1)} {unit}"
            if agreed["lower"] is not None
            else "no limits of agreement below two cases"
        )
        scatter = agreement_chart(scores, pairs, what=what, unit=unit, prefix=f"{what}-scatter")
        difference = difference_chart(
            scores, pairs, agreed, what=what, unit=unit, prefix=f"{what}-difference"
        )
        icc = f"ICC(2,1) {number(agreed['icc'], 2)}, Pearson {number(agreed['pearson'], 2)}"
        charts += [
            (scatter, f"Clot {what}. Dashed: perfect agreement; hollow: missed clots. {icc}."),
            (
                difference,
                f"Clot {what}, Bland–Altman. Dashed: bias {number(agreed['bias'], 1)} {unit}; "
                f"shaded: {limits}.",
            ),
        ]
    return charts


def _reliability(calibration: Mapping[str, Any]) -> tuple[str, str]:
    chart = reliability_chart(calibration["bins_before"], calibration["bins_after"], prefix="reliability")
    return chart, (
        "Reliability on the validation cohort. Dashed: a probability that means what it says. Expected "
        f"calibration error {calibration['ece_before']:.3g} before, {calibration['ece_after']:.3g} after "
        f"division by a temperature of {calibration['temperature']:.3g}."
    )


def _groups(summary: Mapping[str, Any]) -> str:
    tables = (("Size of the clot", summary["by_size"]), ("Site", summary["by_site"]))
    return "\n".join(group_table(title, groups) for title, groups in tables if groups)


def _operating_point(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return ""
    smallest = point["smallest_component"]
    return (
        f"<p>A voxel counts as clot from a probability of {point['threshold']:.3g}, and pieces below "
        f"{count(smallest, 'voxel')} are left out; the validation cohort chose both, the test cohort had no "
        "say.</p>"
    )
