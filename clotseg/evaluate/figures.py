"""The drawings of the report: arrays and numbers in, SVG text out.

What always holds: the same input gives the same text; ids begin with the given prefix, so that drawings
with different prefixes can stand in one HTML page; colours that must follow the page's light or dark scheme
are CSS variables; text that came from a user enters only as escaped tooltips, never through matplotlib.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from clotseg.evaluate.metrics import CaseScore

Crop = tuple[slice, slice]
HistoryRows = Sequence[Mapping[str, Any]]

INK, MUTED, GRID, ACCENT, BAND, ALERT = "#1b2127", "#5b6670", "#e9ecef", "#1f6490", "#d6e5ef", "#b3392f"
TRUTH, PREDICTION = "#3fc1e8", "#ffae1a"
"""Sky blue and amber: apart on grey for every kind of colour vision."""

FOLLOW_THE_PAGE = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    ACCENT: "var(--accent)",
    BAND: "var(--band)",
    ALERT: "var(--alert)",
    TRUTH: "var(--truth)",
    PREDICTION: "var(--prediction)",
}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "image.composite_image": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.4,
}
PANEL_WIDTH, CHART_SIZE = 2.4, (4.6, 3.4)
"""Inches. A chart fills a phone's width at about its own size, so its text stays legible there."""

SMALLEST_CROP = 56
CROP_PER_CLOT = 2.0


class Marked(NamedTuple):
    """A mask [row, column] and the colour its outline is drawn in."""

    mask: npt.NDArray[Any]
    colour: str


def crop_around(mask: npt.NDArray[Any]) -> Crop:
    """A square of pixels around the foreground of a mask [row, column], inside the slice.

    Its side is twice the extent of the foreground, and at least 56 pixels where the slice is that large.
    An empty mask gives the middle of the slice.
    """
    rows, columns = np.nonzero(mask)
    if not rows.size:
        rows, columns = np.array([mask.shape[0] // 2]), np.array([mask.shape[1] // 2])
    extent = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    side = max(SMALLEST_CROP, round(CROP_PER_CLOT * extent))
    return _span(rows, side, mask.shape[0]), _span(columns, side, mask.shape[1])


def panel(
    image_hu: npt.NDArray[Any],
    *,
    window_hu: tuple[float, float],
    label: str,
    prefix: str,
    crop: Crop | None = None,
    frame: Crop | None = None,
    marked: Marked | None = None,
    probability: npt.NDArray[Any] | None = None,
    pixel_mm: tuple[float, float] | None = None,
) -> str:
    """A slice in grey, with what is marked on it.

    Args:
        image_hu: [row, column] in HU.
        window_hu: HU shown as black and as white.
        label: what the picture shows, for readers who cannot see it.
        prefix: of every id in the drawing.
        crop: the part to show; all of it by default.
        frame: a part of the slice to draw a frame around.
        marked: a mask [row, column] of the same shape, drawn as an outline along pixel edges.
        probability: [row, column] of the same shape, 0 to 1, laid over the image as a tint.
        pixel_mm: distance between rows and between columns; sets the proportions and the bar of 10 mm.
    """
    crop = crop or (slice(None), slice(None))
    shown_hu = image_hu[crop]
    height, width = shown_hu.shape
    row_mm, column_mm = pixel_mm or (1.0, 1.0)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        low, high = window_hu
        axes.imshow(shown_hu, cmap="gray", vmin=low, vmax=high, interpolation="none", aspect="auto")
        if probability is not None:
            axes.imshow(_tint(probability[crop]), interpolation="none", aspect="auto")
        if marked is not None:
            outline = _pixel_outline(marked.mask[crop])
            axes.add_patch(PathPatch(outline, fill=False, edgecolor=marked.colour, linewidth=1.3))
        if frame is not None:
            rows, columns = frame
            size = columns.stop - columns.start, rows.stop - rows.start
            corner = columns.start - 0.5, rows.start - 0.5
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1.5))
        elif pixel_mm is not None and 10 / column_mm < 0.8 * width:
            _scale_bar(axes, 10 / column_mm, width, height)

    size = PANEL_WIDTH, PANEL_WIDTH * (height * row_mm) / (width * column_mm)
    return _svg(draw, size=size, label=label, prefix=prefix)


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

    return _svg(draw, size=CHART_SIZE, label="Training loss and validation Dice by epoch", prefix=prefix)


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
    return _svg(draw, size=CHART_SIZE, label="Dice of every case", prefix=prefix, tooltips=tooltips)


def volume_chart(scores: Sequence[CaseScore], *, prefix: str) -> str:
    """Predicted against true volume, in mm³ where every case has a spacing, else in voxels.

    Args:
        scores: cases with a clot, at least one.
        prefix: of every id in the drawing.
    """
    unit = "mm³" if all(score.spacing_mm for score in scores) else "voxels"
    volumes = [
        (score.volume_true_mm3 or 0.0, score.volume_predicted_mm3 or 0.0)
        if unit == "mm³"
        else (float(score.volume_true), float(score.volume_predicted))
        for score in scores
    ]
    top = 1.06 * max(max(pair) for pair in volumes)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, top], [0, top], color=MUTED, linewidth=1, dashes=(4, 3))
        for order, (score, pair) in enumerate(zip(scores, volumes, strict=True)):
            _dot(axes, *pair, score=score, order=order)
        axes.set(xlim=(-0.03 * top, top), ylim=(-0.03 * top, top))
        axes.set(xlabel=f"true volume ({unit})", ylabel=f"predicted volume ({unit})")

    tooltips = [
        f"{score.case}: true {true:,.0f}, predicted {predicted:,.0f} {unit}"
        for score, (true, predicted) in zip(scores, volumes, strict=True)
    ]
    return _svg(
        draw, size=CHART_SIZE, label="Predicted against true volume", prefix=prefix, tooltips=tooltips
    )


def _svg(
    draw: Callable[[Figure], None],
    *,
    size: tuple[float, float],
    label: str,
    prefix: str,
    tooltips: Sequence[str] = (),
) -> str:
    """Draws on a fresh figure and returns an `<svg>` element fit for an HTML page.

    Matplotlib writes a whole XML document whose ids start anew in each drawing and whose style rule would
    hold for the entire page; both are mended here. The reader's own matplotlib settings have no say.
    """
    buffer = StringIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with style.context(["default", {**STYLE, "svg.hashsalt": prefix}]):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-")
    for colour, variable in FOLLOW_THE_PAGE.items():
        text = text.replace(colour, variable)
    for order, tooltip in enumerate(tooltips):
        group = f'<g id="{prefix}-dot-{order}">'
        text = text.replace(group, f"{group}<title>{html.escape(tooltip)}</title>")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1).strip()


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


def _span(indices: npt.NDArray[Any], side: int, length: int) -> slice:
    side = min(side, length)
    start = (int(indices.min()) + int(indices.max()) + 1 - side) // 2
    start = min(max(start, 0), length - side)
    return slice(start, start + side)


def _pixel_outline(mask: npt.NDArray[Any]) -> Path:
    """The edges between foreground and background pixels, the slice's border included, as one path."""
    padded = np.pad(np.asarray(mask) != 0, 1)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    level = [((c - 1.5, r - 0.5), (c - 0.5, r - 0.5)) for r, c in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    upright = [((c - 0.5, r - 1.5), (c - 0.5, r - 0.5)) for r, c in zip(rows, columns, strict=True)]
    corners = np.array(level + upright, dtype=np.float64).reshape(-1, 2)
    return Path(corners, np.tile([Path.MOVETO, Path.LINETO], len(corners) // 2).astype(Path.code_type))


def _tint(probability: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """RGBA [row, column, 4]: the prediction's colour, as opaque as the probability is high."""
    opacity = 0.4 * np.clip(np.nan_to_num(np.asarray(probability, dtype=np.float64)), 0, 1)
    colour = np.broadcast_to(to_rgb(PREDICTION), (*opacity.shape, 3))
    return np.concatenate([colour, opacity[..., np.newaxis]], axis=-1)


def _scale_bar(axes: Axes, length: float, width: int, height: int) -> None:
    left, bottom = 0.05 * width, 0.94 * height
    axes.plot([left, left + length], [bottom, bottom], color="white", linewidth=2, solid_capstyle="butt")
    axes.text(left, bottom - 0.025 * height, "10 mm", color="white", fontsize=9, va="bottom")
