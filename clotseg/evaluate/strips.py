"""The slices of a case for the report: volumes and masks in; two small pictures, with what is in them, out.

What always holds: a strip is no larger than the bytes it was given, however large or noisy the volume, since
slices and pixels are left out until it fits; slices that hold clot are the last to go; the same volumes give
the same bytes.
"""

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

CTA_WINDOW_HU = (-50.0, 450.0)
NCCT_WINDOW_HU = (0.0, 100.0)

Volume = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

BYTES_OF_ALL, MOST_BYTES_A_CASE = 9_000_000, 250_000
"""As binary; as text in the page a third more."""
LADDER = ((48, 256), (40, 192), (32, 160), (24, 128), (20, 96), (14, 80), (10, 64), (6, 48), (3, 32))
"""Most slices, and most pixels along a side, from the finest to the coarsest."""
QUALITY = 55
THUMBNAILS = 6
CODE_STEP = 85
"""Neither, true clot, prediction, both: 0 to 3 times this, as grey values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Slices of one case, one below the other.

    Attributes:
        case: name of the case.
        scan: WebP of grey values: CTA at the left, NCCT at the right of it.
        marks: PNG of the same height and half the width: 0 nothing, 85 true clot, 170 prediction, 255 both.
        rows: pixels of a slice downwards.
        columns: pixels of a slice across, in each of the two.
        slices: index in the volume of each slice shown.
        shown_first: which of these holds most true clot.
        thumbnails: some of these, spread over the clot.
        slices_of_volume: how many the volume has.
        proportion: height of a pixel over its width, in mm.
    """

    case: str
    scan: bytes
    marks: bytes
    rows: int
    columns: int
    slices: tuple[int, ...]
    shown_first: int
    thumbnails: tuple[int, ...]
    slices_of_volume: int
    proportion: float

    @property
    def scan_url(self) -> str:
        """The scan as a data URL."""
        return f"data:image/webp;base64,{base64.b64encode(self.scan).decode('ascii')}"

    @property
    def marks_url(self) -> str:
        """The marks as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.marks).decode('ascii')}"


def bytes_per_case(cases: int) -> int:
    """How large a strip may be in a report of so many cases, so that the report stays below 15 MB."""
    return min(MOST_BYTES_A_CASE, BYTES_OF_ALL // max(cases, 1))


def make_strip(
    *,
    case: str,
    cta_hu: Volume,
    ncct_hu: Volume,
    truth: Volume,
    predicted: Volume,
    spacing_mm: tuple[float, float, float] | None,
    most_bytes: int,
) -> Strip:
    """Draws the slices of a case.

    Args:
        case: name of the case.
        cta_hu: [row, column, slice] in HU.
        ncct_hu: [row, column, slice] in HU.
        truth: [row, column, slice], 0 or 1.
        predicted: [row, column, slice], 0 or 1.
        spacing_mm: voxel size along each axis, or None.
        most_bytes: of both pictures together; the coarsest strip is taken where none is that small.
    """
    enough = math.inf
    for most_slices, most_pixels in LADDER:
        slices = _choose(truth, predicted, most_slices)
        step = max(1, -(-max(truth.shape[:2]) // most_pixels))
        pixels = len(slices) * truth.shape[0] * truth.shape[1] / step**2
        if pixels > enough and (most_slices, most_pixels) != LADDER[-1]:
            continue
        pairs = [
            (_grey(cta_hu[:, :, n], CTA_WINDOW_HU, step), _grey(ncct_hu[:, :, n], NCCT_WINDOW_HU, step))
            for n in slices
        ]
        codes = [_marks(truth[:, :, n], predicted[:, :, n], step) for n in slices]
        scan = _encoded(
            np.concatenate([np.concatenate(pair, axis=1) for pair in pairs]), "WEBP", quality=QUALITY
        )
        marks = _encoded(np.concatenate(codes), "PNG")
        size = len(scan) + len(marks)
        if size <= most_bytes:
            break
        # A coarser picture takes fewer bytes, though never fewer than its share of pixels.
        enough = pixels * most_bytes / size
    rows, columns = codes[0].shape
    amount = [int(np.count_nonzero(code & CODE_STEP)) or int(np.any(code)) / 2 for code in codes]
    first = int(np.argmax(amount)) if any(amount) else len(slices) // 2
    return Strip(
        case=case,
        scan=scan,
        marks=marks,
        rows=rows,
        columns=columns,
        slices=tuple(slices),
        shown_first=first,
        thumbnails=tuple(_spread(amount, first)),
        slices_of_volume=int(truth.shape[2]),
        proportion=1.0 if spacing_mm is None else float(spacing_mm[0] / spacing_mm[1]),
    )


def _choose(truth: Volume, predicted: Volume, most: int) -> list[int]:
    """Slices to show: all where that is few enough, else those with clot first, then evenly spread ones."""
    count = truth.shape[2]
    if count <= most:
        return list(range(count))
    with_clot = np.flatnonzero(np.any(truth, axis=(0, 1)) | np.any(predicted, axis=(0, 1)))
    kept = _evenly(with_clot, 2 * most // 3)
    others = np.setdiff1d(np.arange(count), kept)
    return sorted(int(n) for n in (*kept, *_evenly(others, most - len(kept))))


def _evenly(numbers: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    if len(numbers) <= most:
        return numbers
    return np.asarray(numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)])


def _spread(amount: list[float], first: int) -> Iterator[int]:
    """Places of slices spread over those with clot, or around the middle where there is none."""
    places = np.flatnonzero(amount)
    if len(places) < THUMBNAILS:
        start = min(max(first - THUMBNAILS // 2, 0), max(len(amount) - THUMBNAILS, 0))
        places = np.arange(start, min(start + THUMBNAILS, len(amount)))
    yield from (int(place) for place in _evenly(places, THUMBNAILS))


def _grey(slice_hu: Volume, window_hu: tuple[float, float], step: int) -> Bytes:
    """A windowed slice, each pixel the mean of step × step."""
    low, high = window_hu
    grey = np.clip((np.asarray(slice_hu, np.float32) - low) * (255 / (high - low)), 0, 255)
    padded = np.pad(grey, [(0, -side % step) for side in grey.shape], mode="edge")
    return np.asarray(_blocks(padded, step).mean(axis=(1, 3)).round(), np.uint8)


def _blocks(picture: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Squares of step × step pixels: [row of squares, row in it, column of squares, column in it]."""
    rows, columns = picture.shape
    return picture.reshape(rows // step, step, columns // step, step)


def _marks(truth: Volume, predicted: Volume, step: int) -> Bytes:
    """What is marked in a slice; a pixel is marked where any of step × step is, so that no clot vanishes."""
    codes = np.asarray(truth != 0, np.uint8) | np.asarray(predicted != 0, np.uint8) << 1
    padded = np.pad(codes, [(0, -side % step) for side in codes.shape])
    return np.asarray(np.bitwise_or.reduce(_blocks(padded, step), axis=(1, 3)) * CODE_STEP, np.uint8)


def _encoded(picture: Bytes, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()
