"""How many slices a second are trained: by clotseg, by its step alone, and by Keras as most would write it.

All train the same U-Net on the same slices of a synthetic cohort, with Adam and soft Dice:

    ours      what `clotseg train` does: the feed with its six transforms, then the step
    constant  the same step, again and again on one batch: what is left when input costs nothing
    fit       Keras `fit` on tf.data from the same shards, with the transforms of albumentations

Each runs a number of steps in turn, so that whatever else runs on the machine disturbs all three alike. What
counts is the time from the end of a turn's first step to the end of its last, wall time and processor time;
ratios are of turns that followed one another. Prints a table, how long opening an epoch takes, and the memory
that this process holds while `ours` goes on for many steps.
"""

import argparse
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from augment import albumentations_with_clahe, six

from clotseg.bench.training import keep, take_steps
from clotseg.config import AugmentConfig, Config, FeedConfig, NetworkConfig, RuntimeConfig, load_config
from clotseg.console import PlainProgress
from clotseg.dali.feed import Feed, FeedSettings, SlicedCohort, open_cohort
from clotseg.dali.order import plan_training
from clotseg.phantom import write_cohort
from clotseg.prep.stages import read_sliced, run_prep
from clotseg.project import Project
from clotseg.telemetry import resident_bytes
from clotseg.train.devices import Devices, open_devices
from clotseg.train.optimizer import make_optimizer
from clotseg.train.step import TrainStep
from clotseg.train.unet import build_unet

FILTERS_ON_CPU = {96: 16, 256: 8}
FILTERS_ON_GPU = 32
CASES, SLICES = 10, 24
STEPS_AN_EPOCH = 50


class Clock:
    """Wall time, and the processor time of all threads of this process, at the end of each step of a turn."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._ends: list[tuple[float, float]] = []

    def step_ended(self) -> None:
        """Takes the times."""
        self._ends.append((time.perf_counter(), time.process_time()))

    @property
    def counted(self) -> int:
        """How many steps lie between the end of the first and the end of the last."""
        return len(self._ends) - 1

    @property
    def wall_s(self) -> float:
        """From the end of the first step to the end of the last."""
        return self._ends[-1][0] - self._ends[0][0]

    @property
    def processor_s(self) -> float:
        """The same in processor time."""
        return self._ends[-1][1] - self._ends[0][1]

    @property
    def opening_s(self) -> float:
        """What the first step took longer than the others."""
        return self._ends[0][0] - self._started - self.wall_s / self.counted


PUBLISHED = load_config(Path("no clotseg.toml"), {"train.recipe": "ct-clotseg"})
"""The published recipe, which plain Keras can follow step by step."""

Turn = Callable[[int, Clock], None]
"""Takes so many steps, and tells the clock when each has ended."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, and on what."""

    side: int
    filters: int
    batch: int
    devices: Devices
    cohort: SlicedCohort

    @property
    def network(self) -> NetworkConfig:
        """The original's depth, dropout and regularisation."""
        return replace(PUBLISHED.network, filters=self.filters)


def make_cohort(folder: Path, side: int) -> SlicedCohort:
    """The training slices of a synthetic cohort."""
    write_cohort(folder, cases=CASES, size=side, slices=SLICES, seed=1)
    project = Project(folder)
    run_prep(project, Config(feed=FeedConfig(size=side)), PlainProgress())
    return open_cohort(project.sliced / "Training", read_sliced(project, "Training"))


def build_ours(setting: Setting) -> tuple[Turn, Turn]:
    """`ours` and `constant`, which share one network."""
    with setting.devices.strategy.scope():
        model = build_unet(setting.network, size=setting.side, channels=2)
        optimizer = make_optimizer(PUBLISHED.train, model)
    step = TrainStep(setting.devices, model, None, optimizer, PUBLISHED.train)
    settings = FeedSettings(
        size=setting.side,
        channels=2,
        gpus=setting.devices.gpus,
        threads=setting.devices.threads,
        prefetch=RuntimeConfig().prefetch,
    )
    epochs = itertools.count(1)

    def feed(steps: int) -> tuple[Feed, Any]:
        epoch = next(epochs)
        plan = plan_training(
            setting.cohort,
            samples=steps * setting.batch,
            batch_size=setting.batch,
            replicas=1,
            seed=1,
            epoch=epoch,
        )
        batches = Feed(setting.cohort, plan, settings, augment=AugmentConfig(), seed=1, epoch=epoch)
        return batches, plan.weights

    batch_of_one, (weight,) = feed(1)
    ((first,),) = batch_of_one
    kept = keep(first)

    def ours(steps: int, clock: Clock) -> None:
        batches, weights = feed(steps)
        for _ in take_steps(step, batches, weights):
            clock.step_ended()

    def constant(steps: int, clock: Clock) -> None:
        for _ in take_steps(step, [[kept]] * steps, [weight] * steps):
            clock.step_ended()

    return ours, constant


def build_fit(setting: Setting) -> Turn:
    """Keras `fit`, tf.data and albumentations with their defaults."""
    import keras
    import tensorflow as tf

    albumentations, clahe = albumentations_with_clahe()
    transforms = six(albumentations, clahe, [0.5625] * 6)
    features = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "mask": tf.io.FixedLenFeature((), tf.string),
        "shape": tf.io.FixedLenFeature((3,), tf.int64),
    }

    def augmented(image: Any, mask: Any) -> tuple[Any, Any]:
        changed = transforms(image=image, mask=mask)
        return changed["image"], changed["mask"]

    def decoded(record: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_single_example(record, features)
        image = tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), parsed["shape"])
        mask = tf.reshape(tf.io.decode_raw(parsed["mask"], tf.uint8), parsed["shape"][:2])
        image, mask = tf.numpy_function(augmented, [image, mask], (tf.uint8, tf.uint8))
        image.set_shape((None, None, 2))
        mask.set_shape((None, None))
        pad = tf.image.resize_with_crop_or_pad
        image = tf.cast(pad(image, setting.side, setting.side), tf.float32) / 255
        return image, tf.cast(pad(mask[..., tf.newaxis], setting.side, setting.side), tf.float32)

    def soft_dice(truth: Any, probability: Any) -> Any:
        both, total = tf.reduce_sum(truth * probability), tf.reduce_sum(truth) + tf.reduce_sum(probability)
        return 1 - (2 * both + 1) / (total + 1)

    records = tf.data.TFRecordDataset([str(shard) for shard in setting.cohort.shards])
    batches = (
        records.shuffle(1000)
        .repeat()
        .map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(setting.batch, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    model = build_unet(setting.network, size=setting.side, channels=2)
    model.compile(optimizer=keras.optimizers.Adam(5e-4), loss=soft_dice)

    def fit(steps: int, clock: Clock) -> None:
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: clock.step_ended()  # noqa: ARG005
        )
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch])

    return fit


def measure(setting: Setting, ways: dict[str, Turn], *, steps: int, repeats: int) -> None:
    """The lines of the table for one size: wall time, then processor time, which load disturbs less."""
    clocks: dict[str, list[Clock]] = {name: [] for name in ways}
    for turn in ways.values():
        turn(3, Clock())
    for _ in range(repeats):
        for name, turn in ways.items():
            clock = Clock()
            turn(steps, clock)
            clocks[name].append(clock)
    told = f"{setting.side}², {setting.filters} filters, batches of {setting.batch}"
    for kind in ("wall_s", "processor_s"):
        speeds = {
            name: [clock.counted * setting.batch / getattr(clock, kind) for clock in clocks[name]]
            for name in ways
        }
        ratios = {
            name: [ours / other for ours, other in zip(speeds["ours"], speeds[name], strict=True)]
            for name in ("constant", "fit")
        }
        cells = [middle(speeds[name], 1) for name in ways] + [middle(ratios[name], 3) for name in ratios]
        print(f"| {told}, {kind.removesuffix('_s')} time | {' | '.join(cells)} |", flush=True)
    opening = middle([clock.opening_s for clock in clocks["ours"]], 2)
    print(f"opening an epoch at {setting.side}²: {opening} s", file=sys.stderr, flush=True)


def middle(values: list[float], digits: int) -> str:
    """Median, and the quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def watch_memory(ours: Turn, setting: Setting, steps: int) -> None:
    """Resident memory while `ours` goes on, in epochs of 50 steps: feeds are opened and closed, too."""
    held = [resident_bytes()]
    for _ in range(-(-steps // STEPS_AN_EPOCH)):
        ours(STEPS_AN_EPOCH, Clock())
        held.append(resident_bytes())
    said = [f"{(bytes_ or 0) / 2**20:.0f} MiB" for bytes_ in (held[0], held[len(held) // 2], held[-1])]
    taken = (len(held) - 1) * STEPS_AN_EPOCH
    print(f"\nMemory over {taken} steps at {setting.side}²: start {said[0]}, middle {said[1]}, end {said[2]}")


def read_arguments() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 256], help="of a slice, in pixels")
    parser.add_argument("--filters", type=int, help="at full resolution; 16 at 96² and 8 at 256² on a CPU")
    parser.add_argument("--batch", type=int, help="slices a step; 16 at 96² and 8 at 256² on a CPU, else 20")
    parser.add_argument("--turn", type=int, default=8, help="steps a turn")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each, at least 2")
    parser.add_argument(
        "--steps", type=int, default=500, help="steps over which memory is watched; 0 for none"
    )
    return parser.parse_args()


def main() -> None:
    """Measures every size, and the memory at the first."""
    arguments = read_arguments()
    on_gpu = arguments.device == "gpu"
    devices = open_devices(RuntimeConfig(gpus=int(on_gpu)))
    import keras

    if arguments.precision != "float32":
        keras.mixed_precision.set_global_policy(f"mixed_{arguments.precision}")
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, {devices}, {arguments.precision}; ", end="")
    print(f"slices a second: median of {arguments.repeats} turns of {arguments.turn} steps (quartiles)\n")
    print("| slices and network | ours | constant | fit | ours / constant | ours / fit |")
    print("| --- | --- | --- | --- | --- | --- |")
    watched: tuple[Turn, Setting] | None = None
    with tempfile.TemporaryDirectory(prefix="clotseg-benchmark-") as scratch:
        for side in arguments.sides:
            setting = Setting(
                side=side,
                filters=arguments.filters or (FILTERS_ON_GPU if on_gpu else FILTERS_ON_CPU.get(side, 8)),
                batch=arguments.batch or (20 if on_gpu else 16 if side < 256 else 8),
                devices=devices,
                cohort=make_cohort(Path(scratch) / str(side), side),
            )
            keras.utils.set_random_seed(1)
            ours, constant = build_ours(setting)
            ways = {"ours": ours, "constant": constant, "fit": build_fit(setting)}
            measure(setting, ways, steps=arguments.turn, repeats=arguments.repeats)
            watched = watched or (ours, setting)
        if arguments.steps and watched:
            watch_memory(*watched, arguments.steps)


if __name__ == "__main__":
    main()
