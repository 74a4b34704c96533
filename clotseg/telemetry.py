"""How busy the machine is: load, memory and power of each GPU, load and memory of run and machine.

GPUs are asked through NVIDIA's management library, the rest is read from /proc. What cannot be told is None,
and a missing or failing driver means fewer lines, never an error: nothing here may stop a training.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

SAMPLE_S = 1.0
"""A sample is not taken more often than this: GPUs average over about as long."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceLoad:
    """What one device, this run or the whole machine does; None is unknown.

    Attributes:
        name: `GPU 0`, `CPU, run`, `CPU, all`.
        busy: share of its time, or of the processor cores, that was used since the last sample, 0…1.
        used_bytes: memory in use.
        total_bytes: memory there is.
        power_w: electrical power drawn now, in watts.
    """

    name: str
    busy: float | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    power_w: float | None = None


class Telemetry:
    """Samples on demand, in the thread that asks.

    Args:
        gpus: how many GPUs the run uses: the first so many that CUDA shows to this process.
        nvml: NVIDIA's management library; the installed `pynvml` where it is None.
    """

    def __init__(self, gpus: int = 0, *, nvml: Any = None) -> None:
        self._gpus = _Gpus(gpus, nvml) if gpus else None
        self._processors = _Processors()
        self._sampled_s = time.monotonic()
        self._loads: tuple[DeviceLoad, ...] = ()

    def sample(self) -> tuple[DeviceLoad, ...]:
        """GPUs first, then this run's and the machine's processors; the last sample where it is still new."""
        now = time.monotonic()
        if not self._loads or now - self._sampled_s >= SAMPLE_S:
            gpus = self._gpus.loads() if self._gpus else ()
            self._loads = (*gpus, *self._processors.loads(now - self._sampled_s))
            self._sampled_s = now
        return self._loads


class _Gpus:
    def __init__(self, count: int, nvml: Any) -> None:
        self._handles: list[tuple[str, Any]] = []
        try:
            self._nvml = importlib.import_module("pynvml") if nvml is None else nvml
        except ImportError:
            return
        with suppress(self._nvml.NVMLError, ValueError):
            self._nvml.nvmlInit()
            # CUDA, too, counts up to the first that is not there.
            self._handles.extend(_visible_gpus(self._nvml, count))

    def loads(self) -> Iterator[DeviceLoad]:
        """One a GPU; what its driver does not tell, or no longer, is None."""
        for name, handle in self._handles:
            memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
            rates = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, handle)
            milliwatts = self._ask(self._nvml.nvmlDeviceGetPowerUsage, handle)
            yield DeviceLoad(
                name=name,
                busy=None if rates is None else rates.gpu / 100,
                used_bytes=None if memory is None else int(memory.used),
                total_bytes=None if memory is None else int(memory.total),
                power_w=None if milliwatts is None else milliwatts / 1000,
            )

    def _ask(self, question: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return question(handle)
        except self._nvml.NVMLError:
            return None


def _visible_gpus(nvml: Any, count: int) -> Iterator[tuple[str, Any]]:
    """The first `count` GPUs that CUDA counts, with names: the library ignores CUDA_VISIBLE_DEVICES."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    places = map(str, range(nvml.nvmlDeviceGetCount())) if listed is None else listed.split(",")
    for number, place in enumerate(islice(places, count)):
        if place.strip().startswith(("GPU-", "MIG-")):
            yield f"GPU {number}", nvml.nvmlDeviceGetHandleByUUID(place.strip())
        else:
            yield f"GPU {number}", nvml.nvmlDeviceGetHandleByIndex(int(place))


class _Processors:
    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._used_s = time.process_time()
        self._ticks = _machine_ticks()

    def loads(self, elapsed_s: float) -> tuple[DeviceLoad, ...]:
        """This run and the machine, over the time since the last call."""
        used_s, ticks = time.process_time(), _machine_ticks()
        run = (used_s - self._used_s) / elapsed_s / self._cores if elapsed_s > 0 else None
        busy, every = (new - old for new, old in zip(ticks, self._ticks, strict=True))
        self._used_s, self._ticks = used_s, ticks
        total, available = _machine_memory()
        return (
            DeviceLoad(
                name="CPU, run", busy=None if run is None else min(run, 1.0), used_bytes=resident_bytes()
            ),
            DeviceLoad(
                name="CPU, all",
                busy=busy / every if every > 0 else None,
                used_bytes=None if total is None or available is None else total - available,
                total_bytes=total,
            ),
        )


def resident_bytes() -> int | None:
    """Memory that this process holds; None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def available_bytes(gpus: Sequence[int | None]) -> int | None:
    """Memory that each of a process's replicas can have; None where it is not told.

    On a GPU that is all of it, on the CPU a share of what is free.

    Args:
        gpus: the GPU of each replica, None for a replica on the CPU.
    """
    if gpus[0] is None:
        available = _machine_memory()[1]
        return None if available is None else available // len(gpus)
    totals = [load.total_bytes for load in _Gpus(len(gpus), None).loads()]
    known = [total for total in totals if total is not None]
    return min(known) if len(known) == len(gpus) else None


def _machine_ticks() -> tuple[int, int]:
    """Clock ticks of all cores since the start of the machine: busy ones, and all of them."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as stream:
            # user, nice, system, idle, waiting for a disk, interrupts (2), stolen by a host; user has guests.
            ticks = [int(value) for value in stream.readline().split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    except (OSError, ValueError, IndexError):
        return 0, 0


def _machine_memory() -> tuple[int | None, int | None]:
    """Bytes of memory there are, and that could be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    except (OSError, ValueError, IndexError, KeyError):
        return None, None
