"""How many slices a second are augmented: clotseg, albumentations built once, and the original's way.

All do the six transforms of the default settings on the same slices with CTA and NCCT:

    ours      the drawing and the DALI graph that training uses, with 2 threads
    once      albumentations in 2 processes, each builds its transforms once; results stay where they are made
    original  one process, albumentations' transforms built anew for each slice by a shuffled key

Repeats take turns, so that whatever else runs on the machine disturbs all three alike. Prints a table.
"""

import argparse
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SIDES = (96, 160, 256)
WORKERS = 2
SLICES = 64


def make_slices(side: int) -> tuple[list[Bytes], list[Bytes]]:
    """Heads with skull, brain and noise in two channels, and discs for masks."""
    rng = np.random.default_rng(1)
    rows, columns = np.ogrid[:side, :side]
    radius = np.hypot(rows / side - 0.5, columns / side - 0.5)[..., np.newaxis]
    head = np.select([radius < 0.38, radius < 0.44], [90.0, 250.0], 0.0)
    images = [
        np.clip(head + rng.normal(0, 8, (side, side, 2)), 0, 255).astype(np.uint8) for _ in range(SLICES)
    ]
    return images, [(radius[..., 0] < 0.05).astype(np.uint8)] * SLICES


def build_ours(side: int, batch: int, device: str) -> Callable[[int], int]:
    """Draws and graph of training, on slices in memory; the function augments up to so many slices.

    Every turn begins and ends with nothing made ahead.
    """
    from nvidia.dali import fn, pipeline_def

    from clotseg.config import AugmentConfig
    from clotseg.dali.augment.draws import EpochDraws
    from clotseg.dali.augment.transforms import bounds_of, transform
    from clotseg.dali.relay import Leg

    config = AugmentConfig()
    images, masks = make_slices(side)
    given_slices = [
        (images * batch)[:batch],
        [mask[..., np.newaxis] for mask in (masks * batch)[:batch]],
    ]
    bounds = bounds_of(config, channels=2, largest_side=side)
    draws = EpochDraws(config, seed=1, epoch=1, spread=2 * batch)

    def drawn(number: int) -> Any:
        return draws.columns(number * batch, batch)

    @pipeline_def(
        batch_size=batch,
        num_threads=WORKERS,
        device_id=0 if device == "gpu" else None,
        enable_conditionals=True,
        prefetch_queue_depth=1,
    )
    def pipeline() -> Any:
        slices, truth = fn.external_source(source=lambda: given_slices, num_outputs=2, layout=["HWC", "HWC"])
        if device == "gpu":
            slices, truth = slices.gpu(), truth.gpu()
        return transform(slices, truth, drawn, bounds)

    built = pipeline()
    built.build()

    def augment(count: int) -> int:
        runs = -(-count // batch)
        leg = Leg(built, runs=runs, ahead=1, log=deque())
        for _ in range(runs):
            outputs, _ = leg.take()
        outputs[0].as_cpu()  # Waits for a GPU.
        return runs * batch

    return augment


def albumentations_with_clahe() -> tuple[Any, Any]:
    """The library, and CLAHE for two channels, which it lacks."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    import cv2

    cv2.setNumThreads(1)

    class PlanewiseClahe(albumentations.ImageOnlyTransform):  # type: ignore[misc]
        """OpenCV's CLAHE on each channel."""

        def get_params(self) -> dict[str, float]:
            return {"clip": self.py_random.uniform(1, 4)}

        def apply(self, img: Bytes, clip: float, **_: Any) -> Bytes:
            method = cv2.createCLAHE(clip, (8, 8))
            return cv2.merge([method.apply(plane) for plane in cv2.split(img)])

    return albumentations, PlanewiseClahe


def six(albumentations: Any, clahe: Any, probabilities: list[float]) -> Any:
    """The six transforms in the original's order, all together with probability 0.8."""
    kinds = (
        albumentations.HorizontalFlip,
        albumentations.VerticalFlip,
        albumentations.RandomBrightnessContrast,
        albumentations.RandomGamma,
        albumentations.AdvancedBlur,
        clahe,
    )
    return albumentations.Compose([kind(p=p) for kind, p in zip(kinds, probabilities, strict=True)], p=0.8)


def work(side: int, orders: Any, done: Any) -> None:
    """One process of `once`: builds once, then augments as many slices as each order says."""
    albumentations, clahe = albumentations_with_clahe()
    transforms = six(albumentations, clahe, [0.5625] * 6)
    images, masks = make_slices(side)
    while count := orders.get():
        for number in range(count):
            transforms(image=images[number % SLICES], mask=masks[number % SLICES])
        done.put(count)


def build_once(side: int) -> tuple[Callable[[int], int], Callable[[], None]]:
    """Starts the processes; the functions augment so many slices, and end the processes."""
    context = multiprocessing.get_context("spawn")
    orders, done = [context.Queue() for _ in range(WORKERS)], context.Queue()
    processes = [context.Process(target=work, args=(side, order, done)) for order in orders]
    for process in processes:
        process.start()

    def augment(count: int) -> int:
        for order in orders:
            order.put(count // WORKERS)
        return sum(done.get() for _ in orders)

    def end() -> None:
        for order in orders:
            order.put(0)
        for process in processes:
            process.join()

    return augment, end


def build_original(side: int) -> Callable[[int], int]:
    """Transforms built anew for each slice, as the key of the slice says."""
    albumentations, clahe = albumentations_with_clahe()
    images, masks = make_slices(side)
    keys = random.Random(1)

    def augment(count: int) -> int:
        for number in range(count):
            zeros = keys.randint(0, 7)
            key = [0.0] * zeros + [1.0] * (8 - zeros)
            keys.shuffle(key)
            transforms = six(albumentations, clahe, [key[slot] for slot in (0, 1, 2, 5, 6, 7)])
            transforms(image=images[number % SLICES], mask=masks[number % SLICES])
        return count

    return augment


def measure(side: int, arguments: argparse.Namespace) -> None:
    """One line of the table."""
    once, end = build_once(side)
    ways = {
        "ours": build_ours(side, arguments.batch, arguments.device),
        "once": once,
        "original": build_original(side),
    }
    counts = {"ours": arguments.slices, "once": arguments.slices, "original": arguments.slices // 4}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for augment in ways.values():
        augment(2 * max(arguments.batch, WORKERS))
    for _ in range(arguments.repeats):
        for name, augment in ways.items():
            started = time.perf_counter()
            done = augment(counts[name])
            speeds[name].append(done / (time.perf_counter() - started))
    end()
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    cells = [f"{middle[name]:.0f} ({min(speeds[name]):.0f}–{max(speeds[name]):.0f})" for name in ways]
    ratios = [f"{middle['ours'] / middle[name]:.2f}" for name in ("once", "original")]
    print(f"| {side} × {side} | {' | '.join(cells + ratios)} |", flush=True)


def main() -> None:
    """Measures every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where ours runs")
    parser.add_argument("--batch", type=int, default=20, help="slices a batch of ours")
    parser.add_argument("--slices", type=int, default=1200, help="slices a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, ours on {arguments.device}, ", end="")
    print(f"batches of {arguments.batch}; slices a second: median of {arguments.repeats} (lowest–highest)\n")
    print(
        "| slice | ours | albumentations, built once | the original's way | ours / once | ours / original |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for side in SIDES:
        measure(side, arguments)


if __name__ == "__main__":
    main()
