"""The tables of the report: scores and counts in, HTML out; every text that came from a user is escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from clotseg.evaluate.metrics import CaseScore

ABSENT = "–"
MISSED = ' class="missed"'


def case_table(
    scores: Sequence[CaseScore], *, anchors: Mapping[str, str], doubt: Mapping[str, float] | None
) -> str:
    """One row a case, which the page can sort and filter.

    Args:
        scores: in any order.
        anchors: by case, the id of the place in the page that shows it.
        doubt: by case, where it was worked out.
    """
    in_mm = any(score.spacing_mm for score in scores)
    in_voxels = not all(score.spacing_mm for score in scores) or not scores
    names = ["Case", "Clot", "Dice"]
    names += ["Surface Dice 1 mm", "HD95 mm"] * in_mm + ["False clots"]
    names += ["True voxels", "Predicted voxels"] * in_voxels + ["True mm³", "Predicted mm³"] * in_mm
    names += ["Error %"] + ["True length mm", "Predicted length mm"] * in_mm
    names += ["Doubt"] * (doubt is not None) + ["Patient", "Site"]
    words = ("Case", "Clot", "Patient", "Site")
    head = "".join(header(name, number=name not in words) for name in names)
    rows = "\n".join(
        _case_row(score, names, anchor=anchors.get(score.case), doubt=doubt)
        for score in sorted(scores, key=lambda score: score.case)
    )
    return (
        '<p class="muted">A dash: does not exist, such as the Dice of a case without a clot, or a distance '
        "to a clot that was missed.</p>"
        f'<div class="scroll"><table class="wide sortable" id="cases"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _case_row(
    score: CaseScore, names: Sequence[str], *, anchor: str | None, doubt: Mapping[str, float] | None
) -> str:
    name, clot = escape(score.case), found(score)
    shown = name if anchor is None else f'<a href="#{anchor}">{name}</a>'
    of_clot = (score.dice, score.surface_dice_1mm, score.hd95_mm) if score.has_clot else (None, None, None)
    numbers = {
        "Dice": (of_clot[0], 3),
        "Surface Dice 1 mm": (of_clot[1], 3),
        "HD95 mm": (of_clot[2], 1),
        "False clots": (score.false_clots, 0),
        "True voxels": (score.volume_true, 0),
        "Predicted voxels": (score.volume_predicted, 0),
        "True mm³": (score.volume_true_mm3, 1),
        "Predicted mm³": (score.volume_predicted_mm3, 1),
        "Error %": (score.volume_error_percent, 1),
        "True length mm": (score.length_true_mm, 1),
        "Predicted length mm": (score.length_predicted_mm, 1),
        "Doubt": ((doubt or {}).get(score.case), 3),
    }
    cells = [
        f'<th scope="row" data-sort="{name}" title="{name}">{shown}</th>',
        f'<td data-sort="{clot}"{MISSED if score.found is False else ""}>{clot}</td>',
        *(number_cell(*numbers[column]) for column in names if column in numbers),
        *(_word_cell(word) for word in (score.patient, score.site or "")),
    ]
    return f'<tr data-case="{name}" data-kinds="{kinds(score)}">{"".join(cells)}</tr>'


def kinds(score: CaseScore) -> str:
    """What the page can filter a case by."""
    marks = {
        "found": score.found is True,
        "missed": score.found is False,
        "free": not score.has_clot,
        "false": score.false_clots > 0,
    }
    return " ".join(name for name, holds in marks.items() if holds)


def review_table(scores: Sequence[CaseScore], doubt: Mapping[str, float]) -> str:
    """The cases with the most doubt first."""
    ranked = sorted(
        (score for score in scores if score.case in doubt), key=lambda s: (-doubt[s.case], s.case)
    )
    head = header("Case", number=False) + "".join(
        header(name, number=True) for name in ("Doubt", "Dice", "Predicted voxels")
    )
    rows = "\n".join(
        f'<tr><th scope="row">{escape(score.case)}</th>{number_cell(doubt[score.case], 3)}'
        f"{number_cell(score.dice if score.has_clot else None, 3)}"
        f"{number_cell(score.volume_predicted, 0)}</tr>"
        for score in ranked
    )
    table = f'<table id="review"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
    return f'<div class="scroll tall">{table}</div>'


def group_table(title: str, groups: Sequence[Mapping[str, Any]]) -> str:
    """Dice and missed clots of the groups that `metrics.summarise` made."""
    head = header(title, number=False) + "".join(
        header(name, number=True)
        for name in ("Cases with a clot", "Mean Dice", "95 % interval", "Median", "Missed")
    )
    rows = "\n".join(
        f'<tr><th scope="row">{escape(row["group"])}</th>{number_cell(row["cases"], 0)}'
        f'{number_cell(row["dice_mean"], 3)}<td class="number">{interval(row["dice_ci95"])}</td>'
        f"{number_cell(row['dice_median'], 3)}{number_cell(row['missed'], 0)}</tr>"
        for row in groups
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def cohort_table(cohort: Mapping[str, Mapping[str, Any]], *, split_file: bool, folds: int) -> str:
    """Counts by cohort, and how they came about: by a file or at random, once or for each fold."""
    if not cohort:
        return '<p class="muted">No counts were given.</p>'
    columns = list(dict.fromkeys(name for counts in cohort.values() for name in counts))
    head = header("Cohort", number=False) + "".join(
        header(name.replace("_", " ").capitalize(), number=True) for name in columns
    )
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_count_cell(counts.get(column)) for column in columns)
        + "</tr>"
        for name, counts in cohort.items()
    )
    shared_out = "as a file said" if split_file else "at random"
    if folds > 1:
        used = (
            f"In each of {folds} folds one part was learnt from, another chose the network, a third is scored"
        )
    else:
        used = (
            "The training cohort was learnt from, validation chose the network, the testing cohort is scored"
        )
    return (
        f"<p>Patients were shared out {shared_out}, each with all of their cases, so that none is in two "
        f'cohorts. {used}.</p><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def provenance_table(provenance: Mapping[str, str]) -> str:
    """What identifies run, code and data."""
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in provenance.items()
    )
    table = f'<table class="provenance"><tbody>\n{rows}\n</tbody></table>'
    return f'<div class="scroll">{table}</div>' if rows else ""


def header(name: str, *, number: bool) -> str:
    """A column's head."""
    kind = ' class="number"' if number else ""
    return f'<th scope="col"{kind}>{escape(name)}</th>'


def number_cell(value: float | None, digits: int) -> str:
    """A number, with its exact value to sort by."""
    raw = "" if value is None else f"{value:.12g}"
    return f'<td class="number" data-sort="{raw}">{number(value, digits)}</td>'


def _word_cell(word: str) -> str:
    return f'<td data-sort="{escape(word)}">{escape(word) or ABSENT}</td>'


def _count_cell(value: object) -> str:
    text = (
        f"{value:,}"
        if isinstance(value, int | float)
        else escape(str(value))
        if value is not None
        else ABSENT
    )
    return f'<td class="number">{text}</td>'


def found(score: CaseScore) -> str:
    """Whether a case's clot was found, in words."""
    return {True: "found", False: "missed", None: "no clot"}[score.found]


def number(value: float | None, digits: int) -> str:
    """A number for people, or a dash."""
    return ABSENT if value is None else f"{value:,.{digits}f}".replace("-", "−")


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """An interval for people, or a dash."""
    return ABSENT if ends is None else f"{number(ends[0], digits)} to {number(ends[1], digits)}"


def count(amount: int, thing: str) -> str:
    """A number of things."""
    return f"{amount:,} {thing}{'' if amount == 1 else 's'}"
