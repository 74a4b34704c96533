"""What the machine does, compared with what it is made to do; a driver that fails takes nothing with it."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from clotseg import telemetry
from clotseg.telemetry import DeviceLoad, Telemetry


class DriverError(Exception):
    """What the driver raises."""


def driver(cards: dict[str, int], **failing: bool) -> Any:
    """A stand-in for NVIDIA's library, which no machine without its driver can run.

    Args:
        cards: used memory in bytes by UUID; the first is at 97 % and 412.3 W.
        failing: questions that are refused, by name.
    """

    def refusing(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            if failing.get(name):
                raise DriverError(name)
            try:
                return answer(*arguments)
            except (KeyError, StopIteration) as error:
                raise DriverError(name) from error

        return ask

    uuids = list(cards)
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(cards),
        "nvmlDeviceGetHandleByIndex": lambda index: dict(enumerate(uuids))[index],
        "nvmlDeviceGetHandleByUUID": lambda uuid: next(name for name in uuids if name.startswith(uuid)),
        "nvmlDeviceGetMemoryInfo": lambda uuid: SimpleNamespace(used=cards[uuid], total=80 * 10**9),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=97, memory=12),
        "nvmlDeviceGetPowerUsage": lambda _: 412_300,
    }
    return SimpleNamespace(
        NVMLError=DriverError, **{name: refusing(name, answer) for name, answer in answers.items()}
    )


CARDS = {"GPU-aa": 10**9, "GPU-bb": 2 * 10**9, "GPU-cc": 3 * 10**9}


def gpus_of(sampled: tuple[DeviceLoad, ...]) -> list[DeviceLoad]:
    return [load for load in sampled if load.name.startswith("GPU")]


@pytest.fixture(autouse=True)
def _all_cards_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_gpu_of_the_run_tells_load_memory_and_power() -> None:
    loads = gpus_of(Telemetry(2, nvml=driver(CARDS)).sample())
    assert [load.name for load in loads] == ["GPU 0", "GPU 1"]
    assert loads[0] == DeviceLoad(
        name="GPU 0", busy=0.97, used_bytes=10**9, total_bytes=80 * 10**9, power_w=412.3
    )


@pytest.mark.parametrize(
    ("visible", "used_gb"),
    [
        ("2,0", [3, 1]),
        ("GPU-bb", [2]),
        ("GPU-c, GPU-a", [3, 1]),
        ("1,-1,0", [2]),
        ("", []),
        ("-1", []),
        ("9", []),
    ],
)
def test_the_gpus_are_those_that_cuda_is_let_see(
    monkeypatch: pytest.MonkeyPatch, visible: str, used_gb: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    loads = gpus_of(Telemetry(2, nvml=driver(CARDS)).sample())
    assert [load.used_bytes for load in loads] == [gb * 10**9 for gb in used_gb]


def test_what_a_gpu_does_not_tell_is_unknown_and_the_rest_stays() -> None:
    partly = driver(CARDS, nvmlDeviceGetPowerUsage=True, nvmlDeviceGetUtilizationRates=True)
    (load,) = gpus_of(Telemetry(1, nvml=partly).sample())
    assert (load.busy, load.power_w, load.used_bytes) == (None, None, 10**9)


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_failing_driver_leaves_the_processors(question: str) -> None:
    sampled = Telemetry(1, nvml=driver(CARDS, **{question: True})).sample()
    assert [load.name for load in sampled] == ["CPU, run", "CPU, all"]


def test_without_a_gpu_in_the_run_the_driver_is_not_asked() -> None:
    assert gpus_of(Telemetry(0, nvml=driver(CARDS)).sample()) == []


def test_asking_for_gpus_on_this_machine_never_fails() -> None:
    assert [load.name for load in Telemetry(4).sample()][-2:] == ["CPU, run", "CPU, all"]


def test_a_busy_run_shows_its_share_of_the_cores_and_an_idle_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    idle = Telemetry()
    time.sleep(0.2)
    assert own(idle).busy == pytest.approx(0, abs=0.1)
    busy, started, used = Telemetry(), time.monotonic(), time.process_time()
    while time.process_time() - used < 0.2:
        pass
    expected = 0.2 / (time.monotonic() - started) / 4
    assert own(busy).busy == pytest.approx(expected, rel=0.3)


def own(sampler: Telemetry) -> DeviceLoad:
    return next(load for load in sampler.sample() if load.name == "CPU, run")


def test_memory_is_that_of_this_process_and_of_the_machine() -> None:
    held = np.ones(200 * 2**20, np.uint8)
    run, machine = Telemetry().sample()
    assert run.used_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert run.used_bytes is not None
    assert run.used_bytes > held.nbytes
    assert machine.total_bytes == psutil.virtual_memory().total
    assert machine.used_bytes == pytest.approx(psutil.virtual_memory().total * 0.5, rel=1.0)
    assert machine.used_bytes == pytest.approx(
        psutil.virtual_memory().total - psutil.virtual_memory().available, rel=0.2
    )


def test_a_busy_machine_is_told_apart_from_an_idle_run() -> None:
    sampler = Telemetry()
    time.sleep(0.3)
    machine = sampler.sample()[-1]
    assert machine.busy is not None
    assert 0 <= machine.busy <= 1


def test_samples_are_not_taken_more_often_than_they_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Telemetry()
    assert sampler.sample() is sampler.sample()
    monkeypatch.setattr(telemetry, "SAMPLE_S", 0.0)
    assert sampler.sample() is not sampler.sample()


def test_a_machine_without_proc_tells_less_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(type(telemetry.Path())):  # type: ignore[misc]
        def open(self, *_: Any, **__: Any) -> Any:
            raise FileNotFoundError

    monkeypatch.setattr(telemetry, "Path", Nowhere)
    run, machine = Telemetry().sample()
    assert run.used_bytes is None
    assert machine == DeviceLoad(name="CPU, all")


def test_another_thread_may_sample_while_the_run_goes_on() -> None:
    sampler, seen = Telemetry(), []
    thread = threading.Thread(target=lambda: seen.append(sampler.sample()))
    thread.start()
    thread.join()
    assert seen
