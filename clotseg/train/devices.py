"""Devices: what the user asked for, and TF_CONFIG, in; a distribution strategy over all replicas out.

One process alone uses a `MirroredStrategy` over its GPUs or logical CPU devices. Several, which find each
other by TF_CONFIG, use a `MultiWorkerMirroredStrategy`, each with its own GPUs or its CPU.
"""

import os
from dataclasses import dataclass
from typing import Any

from clotseg.config import RuntimeConfig
from clotseg.errors import ConfigError, EnvironmentProblem
from clotseg.quiet import load_tensorflow
from clotseg.train.cluster import Place, find_place

ALONE = Place(worker=0, workers=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """Where a run computes.

    Attributes:
        strategy: a `tf.distribute.Strategy` over all replicas of all workers.
        gpus: the GPU of each replica of this process, None for a replica on the CPU.
        threads: DALI's CPU threads for each replica.
        place: which of how many workers this process is.
    """

    strategy: Any
    gpus: tuple[int | None, ...]
    threads: int
    place: Place = ALONE

    @property
    def replicas(self) -> int:
        """How many copies of the network train together, on all workers."""
        return len(self.gpus) * self.workers

    @property
    def workers(self) -> int:
        """How many processes train together."""
        return self.place.workers

    @property
    def first_replica(self) -> int:
        """The number of this process's first replica among all."""
        return len(self.gpus) * self.place.worker

    @property
    def chief(self) -> bool:
        """Whether this is the process that writes the run's folder."""
        return self.place.worker == 0

    @property
    def on_cpu(self) -> bool:
        """Whether the replicas are on the CPU."""
        return self.gpus[0] is None

    @property
    def have_bfloat16(self) -> bool:
        """Whether all GPUs compute in bfloat16: those of compute capability 8.0 (Ampere) and later."""
        import tensorflow as tf

        if self.on_cpu:
            return False
        details = map(tf.config.experimental.get_device_details, tf.config.get_visible_devices("GPU"))
        return all(facts.get("compute_capability", (0, 0)) >= (8, 0) for facts in details)

    def __str__(self) -> str:
        local = f"{len(self.gpus)} GPU(s)"
        if self.on_cpu:
            local = "CPU" if len(self.gpus) == 1 else f"CPU, {len(self.gpus)} replicas"
        return local if self.workers == 1 else f"{self.workers} workers, each {local}"


def open_devices(config: RuntimeConfig) -> Devices:
    """Claims the devices; must come before anything else uses TensorFlow in this process.

    With TF_CONFIG it waits for the other workers.

    Raises:
        ConfigError: both several GPUs and several CPU replicas were asked for, or TF_CONFIG cannot be used.
        EnvironmentProblem: fewer GPUs are there than were asked for, or TensorFlow is already running.
    """
    place = find_place() or ALONE
    load_tensorflow()
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    wanted = len(found) if config.gpus == "auto" and config.replicas == 1 else config.gpus
    count = 0 if wanted == "auto" else wanted
    if count > len(found):
        raise EnvironmentProblem(
            f"{count} GPU(s) asked for, TensorFlow sees {len(found)}",
            where="--gpus",
            fix=f"use `--gpus {len(found)}`, or run `clotseg doctor` to see what is missing",
        )
    if config.replicas > 1 and (count or place.workers > 1):
        other = "--gpus" if count else "several workers"
        raise ConfigError(
            f"--replicas shares out the CPU and cannot be joined with {other}", where="--replicas"
        )
    try:
        tf.config.set_visible_devices(found[:count], "GPU")
        for gpu in found[:count]:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not count and place.workers == 1:
            _share_out_cpu(config.replicas)
        strategy = _mirrored(count, config.replicas) if place.workers == 1 else _multi_worker()
    except RuntimeError as error:
        raise EnvironmentProblem(f"TensorFlow is already running with other devices ({error})") from error
    gpus: tuple[int | None, ...] = tuple(range(count)) or (None,) * config.replicas
    return Devices(strategy=strategy, gpus=gpus, threads=_threads(config, len(gpus)), place=place)


def _mirrored(gpus: int, cpu_replicas: int) -> Any:
    import tensorflow as tf

    names = [f"GPU:{number}" for number in range(gpus)] or [f"CPU:{n}" for n in range(cpu_replicas)]
    reduce_on_cpu = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names, cross_device_ops=reduce_on_cpu)


def _multi_worker() -> Any:
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def _share_out_cpu(replicas: int) -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    wanted = [tf.config.LogicalDeviceConfiguration() for _ in range(replicas)]
    # TensorFlow says None where nothing was ever set, which is one device.
    present = tf.config.get_logical_device_configuration(cpu) or [tf.config.LogicalDeviceConfiguration()]
    if present != wanted:
        tf.config.set_logical_device_configuration(cpu, wanted)


def _threads(config: RuntimeConfig, replicas: int) -> int:
    if config.threads != "auto":
        return config.threads
    return max(1, len(os.sched_getaffinity(0)) // replicas)
