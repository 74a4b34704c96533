"""Drawings for an HTML page: slices in, SVG text out; and what every drawing has in common.

What always holds: the same input gives the same text; ids begin with the given prefix, so that drawings
with different prefixes can stand in one HTML page; colours that must follow the page's light or dark scheme
are CSS variables; text that came from a user enters only as escaped tooltips, never through matplotlib.
"""

import html
import re
from collections.abc import Callable, Sequence
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

Crop = tuple[slice, slice]

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
PANEL_WIDTH = 2.4
"""Inches."""

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
    return svg(draw, size=size, label=label, prefix=prefix)


def svg(
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
