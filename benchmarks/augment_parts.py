"""What each transform costs alone: compiled as training runs it, and by OpenCV with the same parameters.

    python benchmarks/augment_parts.py [--sides 96 160 256] [--repeats 200]

One thread, one slice with CTA and NCCT in the processor's cache, so nothing but arithmetic and look-ups is
timed. Both give the same pixels, which is checked. Prints microseconds a slice, the median and quartiles of
turns that alternate; then what a slice takes on average with the default probabilities.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import cv2
import numpy as np
from augment import make_slices
from numpy.typing import NDArray

from clotseg.config import AugmentConfig
from clotseg.dali.augment.compiled import alter
from clotseg.dali.augment.packed import packed
from clotseg.dali.augment.parameters import ParameterRecord, from_records
from clotseg.dali.augment.rerun import sample
from clotseg.dali.padding import place

Bytes = NDArray[np.uint8]

DRAWN = 512
NOTHING = ParameterRecord(
    hflip=False, vflip=False, alpha=1.0, beta=0.0, gamma=1.0, blur_kernel=None, clahe_clip=None
)


def kernel(side: int) -> list[list[float]]:
    """A blur's kernel, every cell of its own."""
    cells = np.random.default_rng(side).uniform(0.5, 1, (side, side)).astype(np.float32)
    cells /= cells.sum()
    return [[float(cell) for cell in row] for row in cells]


PARTS: dict[str, ParameterRecord] = {
    "copied": NOTHING,
    "mirrored left to right": {**NOTHING, "hflip": True},
    "grey levels": {**NOTHING, "alpha": 1.1, "beta": 9.0, "gamma": 1.1},
    "blur, 3 × 3": {**NOTHING, "blur_kernel": kernel(3)},
    "blur, 5 × 5": {**NOTHING, "blur_kernel": kernel(5)},
    "blur, 7 × 7": {**NOTHING, "blur_kernel": kernel(7)},
    "CLAHE": {**NOTHING, "clahe_clip": 2.5},
}


def compiled(record: ParameterRecord, image: Bytes, mask: Bytes) -> tuple[Callable[[], Any], Bytes]:
    """What training runs, and where its image comes to lie."""
    out, out_mask = np.empty_like(image), np.empty_like(mask)
    (row,) = packed(from_records([record]), flips=True)
    return partial(alter, image, mask, row, out, out_mask), out


def by_opencv(record: ParameterRecord, image: Bytes, mask: Bytes) -> Bytes:
    """The same by OpenCV's functions, in the same order."""
    if record["hflip"] or record["vflip"]:
        code = {(True, False): 1, (False, True): 0, (True, True): -1}[record["hflip"], record["vflip"]]
        image, mask = cv2.flip(image, code), cv2.flip(mask, code)
    else:
        image, mask = image.copy(), mask.copy()
    alpha, beta, gamma = record["alpha"], record["beta"], record["gamma"]
    if (alpha, beta, gamma) != (1, 0, 1):
        grey = np.arange(256, dtype=np.float32) * np.float32(alpha) + np.float32(beta)
        linear = np.floor(np.clip(grey, 0, 255)).astype(float)
        image = cv2.LUT(image, np.floor((linear / 255) ** gamma * 255).astype(np.uint8))
    if record["blur_kernel"] is not None:
        image = cv2.filter2D(image, -1, np.array(record["blur_kernel"], np.float32))
    if record["clahe_clip"] is not None:
        method = cv2.createCLAHE(record["clahe_clip"], (8, 8))
        image = cv2.merge([method.apply(plane) for plane in cv2.split(image)])
    return image


def in_turns(ways: list[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Microseconds of each call of each way."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, times in zip(ways, taken, strict=True):
            started = time.perf_counter()
            way()
            times.append((time.perf_counter() - started) * 1e6)
    return taken


def spread(times: list[float]) -> str:
    """Median (quartiles)."""
    lower, middle, upper = statistics.quantiles(times, n=4)
    return f"{middle:.0f} ({lower:.0f}–{upper:.0f})"


def compare(side: int, repeats: int) -> None:
    """The table of one size."""
    images, masks = make_slices(side)
    image, mask = images[0], masks[0][..., np.newaxis]
    print(f"\n| {side} × {side} | compiled | OpenCV | OpenCV / compiled |\n| --- | --- | --- | --- |")

    def line(name: str, times: list[list[float]]) -> None:
        ratio = statistics.median(times[1]) / statistics.median(times[0])
        print(f"| {name} | {spread(times[0])} | {spread(times[1])} | {ratio:.1f} |", flush=True)

    for name, record in PARTS.items():
        run, out = compiled(record, image, mask)
        run()
        np.testing.assert_array_equal(out, by_opencv(record, image, mask))
        line(name, in_turns([run, partial(by_opencv, record, image, mask)], repeats))
    drawn = sample(AugmentConfig(), count=DRAWN, seed=1)
    runs = [compiled(record, image, mask)[0] for record in drawn]
    times: list[list[float]] = [[], []]
    for run, record in zip(runs, drawn, strict=True):
        own, its = in_turns([run, partial(by_opencv, record, image, mask)], 3)
        times[0].append(min(own))
        times[1].append(min(its))
    means = [statistics.fmean(of_way) for of_way in times]
    print(f"| as drawn by default, mean | {means[0]:.0f} | {means[1]:.0f} | {means[1] / means[0]:.1f} |")
    squares = [np.empty((256, 256, channels), np.float32) for channels in (2, 1)]

    def pad() -> None:
        place(image, np.float32(1 / 255), squares[0])
        place(mask, np.float32(1), squares[1])

    print(f"| padded to 256 × 256, as floats | {spread(in_turns([pad], repeats)[0])} | | |", flush=True)


def main() -> None:
    """Every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 160, 256])
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{date.today()}, {platform.machine()}, OpenCV {cv2.__version__}; microseconds a slice,")
    print(f"median (quartiles) of {arguments.repeats}")
    for side in arguments.sides:
        compare(side, arguments.repeats)


if __name__ == "__main__":
    main()
