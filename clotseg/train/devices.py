"""Devices: what the user asked for in; a `MirroredStrategy` over GPUs or logical CPU devices out."""

import os
from dataclasses import dataclass
from typing import Any

from clotseg.config import RuntimeConfig
from clotseg.errors import ConfigError, EnvironmentProblem
from clotseg.quiet import load_tensorflow


@dataclass(frozen=True, kw_only=True, slots=True)
class Devices:
    """Where a run computes.

    Attributes:
        strategy: a `tf.distribute.MirroredStrategy` over all replicas.
        gpus: the GPU of each replica, None for a replica on the CPU.
        threads: DALI's CPU threads for each replica.
    """

    strategy: Any
    gpus: tuple[int | None, ...]
    threads: int

    @property
    def replicas(self) -> int:
        """How many copies of the network train together."""
        return len(self.gpus)

    def __str__(self) -> str:
        if self.gpus[0] is not None:
            return f"{self.replicas} GPU(s)"
        return "CPU" if self.replicas == 1 else f"CPU, {self.replicas} replicas"


def open_devices(config: RuntimeConfig) -> Devices:
    """Claims the devices; must come before anything else uses TensorFlow in this process.

    Raises:
        ConfigError: both several GPUs and several CPU replicas were asked for.
        EnvironmentProblem: fewer GPUs are there than were asked for, or TensorFlow is already running.
    """
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
    if count and config.replicas > 1:
        raise ConfigError(
            "--replicas shares out the CPU and cannot be joined with --gpus", where="--replicas"
        )
    try:
        tf.config.set_visible_devices(found[:count], "GPU")
        for gpu in found[:count]:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not count:
            _share_out_cpu(config.replicas)
    except RuntimeError as error:
        raise EnvironmentProblem(f"TensorFlow is already running with other devices ({error})") from error
    names = [f"GPU:{number}" for number in range(count)] or [f"CPU:{n}" for n in range(config.replicas)]
    reduce_on_cpu = None if count else tf.distribute.ReductionToOneDevice()
    gpus: tuple[int | None, ...] = tuple(range(count)) or (None,) * config.replicas
    return Devices(
        strategy=tf.distribute.MirroredStrategy(names, cross_device_ops=reduce_on_cpu),
        gpus=gpus,
        threads=_threads(config, len(gpus)),
    )


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
