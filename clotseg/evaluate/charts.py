"""The charts of the report: scores and numbers in, SVG text out.

What always holds: a dot is full where the clot was found and hollow where it was missed, and says on a touch
whose it is; what every drawing of the report promises, see `figures`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clotseg.evaluate.figures import ACCENT, ALERT, BAND, MUTED, svg
from clotseg.evaluate.metrics import CaseScore

HistoryRows = Sequence[Mapping[str, Any]]
Pair = tuple[float, float]

CHART_SIZE = (4.6, 3.4)
"""Inches. A chart fills a phone's width at about its own size, so its text stays legible there."""


def training_curve(history: HistoryRows, *, prefix: str) -> str | None:
    """Loss, and validation Dice below it, against epoch; None where the history has neither."""
    curves = {name: _curve(history, name) for name in ("loss", "val_loss", "val_dice")}
    if not any(len(epochs) for epochs, _ in curves.values()):
        return None

    def draw(figure: Figure) -> None:
        loss, dice = figure.subplots(2, 1, sharex=True)
        for name, colour, label in (("loss", ACCENT, "training"), ("val_loss", MUTED, "validation")):
            if len(curves[name][0]):
                loss.plot(*curves[name], color=colour, label=label, marker="o", markersize=2.2)
        loss.set_ylabel("loss")
        if len(curves["loss"][0]) and len(curves["val_loss"][0]):
            loss.legend(frameon=False, loc="upper right", labelcolor=MUTED)
        epochs, values = curves["val_dice"]
        if len(epochs):
            dice.plot(epochs, values, color=ACCENT, marker="o", markersize=2.2)
            best = int(np.argmax(values))
            dice.plot(epochs[best], values[best], "o", color=ACCENT, markersize=5)
            dice.set_title(
                f"best {values[best]:.3f} in epoch {epochs[best]:g}", fontsize=9.5, color=MUTED, loc="right"
            )
        dice.set(ylim=(0, 1), ylabel="validation Dice", xlabel="epoch")
        dice.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw, size=CHART_SIZE, label="Training loss and validation Dice by epoch", prefix=prefix)


def dice_chart(
    scores: Sequence[CaseScore], *, mean: float, interval: Sequence[float] | None, prefix: str
) -> str:
    """One dot per case, from worst to best, with the mean and its interval.

    Args:
        scores: cases with a clot, at least one.
        mean: mean Dice.
        interval: lower and upper end, or None.
        prefix: of every id in the drawing.
    """
    ranked = sorted(scores, key=lambda score: (score.dice, score.case))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if interval is not None:
            axes.axhspan(interval[0], interval[1], color=BAND, linewidth=0)
        axes.axhline(mean, color=ACCENT, linewidth=1, dashes=(4, 3))
        for rank, score in enumerate(ranked, start=1):
            _dot(axes, rank, score.dice, score=score, order=rank - 1)
        axes.set(ylim=(-0.03, 1.03), ylabel="Dice", xlabel="cases with a clot, from worst to best")
        axes.set_xlim(0.2, max(len(ranked), 2) + 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")

    tooltips = [f"{score.case}: Dice {score.dice:.3f}" for score in ranked]
    return svg(draw, size=CHART_SIZE, label="Dice of every case", prefix=prefix, tooltips=tooltips)


def agreement_chart(
    scores: Sequence[CaseScore], pairs: Sequence[Pair], *, what: str, unit: str, prefix: str
) -> str:
    """Predicted against true size, with the line of perfect agreement.

    Args:
        scores: cases with a clot, at least one.
        pairs: true and predicted size of each.
        what: what is measured, such as `volume`.
        unit: of both.
        prefix: of every id in the drawing.
    """
    top = 1.06 * max(max(pair) for pair in pairs)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, top], [0, top], color=MUTED, linewidth=1, dashes=(4, 3))
        for order, (score, pair) in enumerate(zip(scores, pairs, strict=True)):
            _dot(axes, *pair, score=score, order=order)
        axes.set(xlim=(-0.03 * top, top), ylim=(-0.03 * top, top))
        axes.set(xlabel=f"true {what} ({unit})", ylabel=f"predicted {what} ({unit})")

    label = f"Predicted against true {what}"
    return svg(draw, size=CHART_SIZE, label=label, prefix=prefix, tooltips=_sizes(scores, pairs, unit))


def difference_chart(
    scores: Sequence[CaseScore],
    pairs: Sequence[Pair],
    limits: Mapping[str, Any],
    *,
    what: str,
    unit: str,
    prefix: str,
) -> str:
    """Bland-Altman: predicted minus true size against the mean of both, with bias and limits of agreement.

    Args:
        scores: cases with a clot, at least one.
        pairs: true and predicted size of each.
        limits: `bias`, `lower` and `upper`, as `agreement.bland_altman` gives them.
        what: what is measured, such as `volume`.
        unit: of both.
        prefix: of every id in the drawing.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=MUTED, linewidth=0.7)
        if limits["lower"] is not None:
            axes.axhspan(limits["lower"], limits["upper"], color=BAND, linewidth=0)
        axes.axhline(limits["bias"], color=ACCENT, linewidth=1, dashes=(4, 3))
        for order, (score, (true, predicted)) in enumerate(zip(scores, pairs, strict=True)):
            _dot(axes, (true + predicted) / 2, predicted - true, score=score, order=order)
        axes.margins(0.08)
        axes.set(xlabel=f"mean of true and predicted {what} ({unit})", ylabel=f"predicted − true ({unit})")

    label = f"Difference of predicted and true {what}"
    return svg(draw, size=CHART_SIZE, label=label, prefix=prefix, tooltips=_sizes(scores, pairs, unit))


def doubt_chart(scores: Sequence[CaseScore], doubt: Sequence[float], *, prefix: str) -> str:
    """Dice against doubt.

    Args:
        scores: cases with a clot, at least one.
        doubt: of each.
        prefix: of every id in the drawing.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for order, (score, value) in enumerate(zip(scores, doubt, strict=True)):
            _dot(axes, value, score.dice, score=score, order=order)
        axes.margins(x=0.06)
        axes.set(ylim=(-0.03, 1.03), xlabel="doubt", ylabel="Dice")

    tooltips = [
        f"{score.case}: doubt {value:.3g}, Dice {score.dice:.3f}"
        for score, value in zip(scores, doubt, strict=True)
    ]
    return svg(draw, size=CHART_SIZE, label="Dice against doubt", prefix=prefix, tooltips=tooltips)


def reliability_chart(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, prefix: str
) -> str:
    """How often a pixel is clot, of those the network gives a certain probability, on the validation cohort.

    Args:
        before: bins [mean probability, share of clot, count] before calibration; empty bins do not count.
        after: the same after it.
        prefix: of every id in the drawing.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(4, 3))
        for bins, colour, name in ((before, ALERT, "before"), (after, ACCENT, "after")):
            full = [(probability, share) for probability, share, count in bins if count]
            if full:
                axes.plot(*zip(*full, strict=True), color=colour, marker="o", markersize=3.5, label=name)
        axes.legend(frameon=False, loc="upper left", labelcolor=MUTED)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set(xlabel="probability given by the network", ylabel="share that is clot")

    return svg(draw, size=CHART_SIZE, label="Reliability of the probabilities", prefix=prefix)


def _sizes(scores: Sequence[CaseScore], pairs: Sequence[Pair], unit: str) -> list[str]:
    return [
        f"{score.case}: true {true:,.4g}, predicted {predicted:,.4g} {unit}"
        for score, (true, predicted) in zip(scores, pairs, strict=True)
    ]


def _dot(axes: Axes, x: float, y: float, *, score: CaseScore, order: int) -> None:
    """A full dot for a clot that was found, a hollow one for a missed clot."""
    colour, fill = (ACCENT, ACCENT) if score.found else (ALERT, "none")
    axes.plot(
        [x], [y], "o", color=colour, markerfacecolor=fill, markersize=5, clip_on=False, gid=f"dot-{order}"
    )


def _curve(history: HistoryRows, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Epochs and values of one column, where both are finite numbers."""
    points = np.array(
        [(row["epoch"], row[name]) for row in history if "epoch" in row and row.get(name) is not None],
        dtype=np.float64,
    ).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]
