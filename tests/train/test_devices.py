"""Devices: what was asked for, or a word on why not."""

import os

import pytest

from clotseg.config import RuntimeConfig
from clotseg.errors import EnvironmentProblem
from clotseg.train.devices import Devices, open_devices


def gpus_here() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def test_more_gpus_than_there_are_is_a_problem_of_the_environment(one_cpu: Devices) -> None:
    here = gpus_here()
    with pytest.raises(
        EnvironmentProblem, match=rf"{here + 1} GPU\(s\) asked for, TensorFlow sees {here}"
    ) as caught:
        open_devices(RuntimeConfig(gpus=here + 1))
    assert caught.value.exit_code == 5
    assert f"use `--gpus {here}`" in str(caught.value)
    assert "clotseg doctor" in str(caught.value)


def test_without_gpus_there_is_one_replica_on_the_cpu(one_cpu: Devices) -> None:
    assert one_cpu.gpus == (None,)
    assert one_cpu.replicas == one_cpu.strategy.num_replicas_in_sync == 1
    assert str(one_cpu) == "CPU"


def test_one_cpu_replica_can_be_opened_after_tensorflow_has_computed(one_cpu: Devices) -> None:
    import tensorflow as tf

    tf.add(1, 1)
    assert open_devices(RuntimeConfig(gpus=0)).replicas == 1


def test_cpu_replicas_cannot_be_changed_once_tensorflow_runs(one_cpu: Devices) -> None:
    import tensorflow as tf

    tf.add(1, 1)
    with pytest.raises(EnvironmentProblem, match="already running with other devices"):
        open_devices(RuntimeConfig(gpus=0, replicas=2))


def test_threads_are_as_asked_for_or_all_cores(one_cpu: Devices) -> None:
    assert open_devices(RuntimeConfig(gpus=0, threads=3)).threads == 3
    assert one_cpu.threads == len(os.sched_getaffinity(0))
