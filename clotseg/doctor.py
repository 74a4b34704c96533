"""`clotseg doctor`: this machine in; what clotseg finds on it, with a line of advice per problem, out."""

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clotseg.errors import EnvironmentProblem
from clotseg.quiet import load_tensorflow

LEAST_FREE_GB = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: its name.
        found: what is there.
        advice: what to do; empty where nothing is wrong.
        blocks: whether clotseg cannot work until it is mended.
    """

    what: str
    found: str
    advice: str = ""
    blocks: bool = False


def examine(folder: Path) -> list[Finding]:
    """Looks at Python, TensorFlow, DALI, GPUs, processors, memory and disk.

    Args:
        folder: the project folder, for its disk.
    """
    return [
        Finding(what="clotseg", found=version("clotseg")),
        Finding(what="Python", found=f"{platform.python_version()} on {platform.platform()}"),
        _tensorflow(),
        _dali(),
        *_gpus(),
        Finding(what="CPU", found=f"{len(os.sched_getaffinity(0))} cores usable"),
        _memory(),
        _disk(folder),
    ]


def _tensorflow() -> Finding:
    try:
        load_tensorflow()
        import tensorflow as tf
    except ImportError as error:
        advice = "install it with `pip install -r requirements.lock`"
        return Finding(what="TensorFlow", found=f"cannot be imported ({error})", advice=advice, blocks=True)
    built = "built with CUDA" if tf.test.is_built_with_cuda() else "CPU build"
    found = f"{tf.__version__}, {built}, sees {_gpus_of_tensorflow()} GPU(s)"
    return Finding(what="TensorFlow", found=found)


def _dali() -> Finding:
    """Builds and runs a real pipeline on the CPU: importing alone proves little."""
    try:
        from nvidia.dali import fn, pipeline_def

        @pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
        def one_flip() -> object:
            return fn.random.coin_flip(seed=1)

        pipeline = one_flip()
        pipeline.build()
        pipeline.run()
    except (ImportError, RuntimeError) as error:
        advice = (
            "DALI needs Linux with glibc 2.28 or newer; install it with `pip install -r requirements.lock`"
        )
        return Finding(what="DALI", found=f"does not run ({error})", advice=advice, blocks=True)
    return Finding(what="DALI", found=f"{version('nvidia-dali-cuda120')}, runs on the CPU")


def _gpus() -> list[Finding]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return [Finding(what="GPU", found="none (no NVIDIA driver); everything runs on the CPU, slower")]
    driver = pynvml.nvmlSystemGetDriverVersion()
    findings = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        memory_gb = pynvml.nvmlDeviceGetMemoryInfo(handle).total / 1e9
        name = pynvml.nvmlDeviceGetName(handle)
        findings.append(Finding(what=f"GPU {number}", found=f"{name}, {memory_gb:.0f} GB, driver {driver}"))
    pynvml.nvmlShutdown()
    hidden = hidden_gpus(len(findings), _gpus_of_tensorflow(), libraries=_has_cuda_libraries())
    return [*findings, *([hidden] if hidden else [])]


def hidden_gpus(there: int, seen: int, *, libraries: bool) -> Finding | None:
    """What to do where TensorFlow does not see every GPU; None where it does.

    Args:
        there: GPUs that the driver tells of.
        seen: those that TensorFlow tells of.
        libraries: whether CUDA's libraries were installed from Python packages.
    """
    if seen >= there:
        return None
    if libraries or seen:
        advice = (
            "see whether CUDA_VISIBLE_DEVICES hides it, whether `nvidia-smi` runs here, and whether the "
            "driver is new enough for the CUDA that TensorFlow was built with"
        )
    else:
        advice = "CUDA's libraries may be missing: install them with `pip install 'clotseg[gpu]'`"
    return Finding(what="CUDA", found=f"TensorFlow sees {seen} of {there} GPU(s)", advice=advice)


def _gpus_of_tensorflow() -> int:
    try:
        load_tensorflow()
        import tensorflow as tf
    except ImportError:
        return 0
    return len(tf.config.list_physical_devices("GPU"))


def _has_cuda_libraries() -> bool:
    try:
        version("nvidia-cudnn-cu12")
    except PackageNotFoundError:
        return False
    return True


def _memory() -> Finding:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding(what="Memory", found=f"{total_gb:.0f} GB")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    writable = os.access(there, os.W_OK)
    advice = ""
    if not writable:
        advice = "give yourself write permission, or name another folder with -C"
    elif free_gb < LEAST_FREE_GB:
        advice = f"free some space: a cohort needs about as much again as its volumes, and {LEAST_FREE_GB} GB"
    found = f"{free_gb:.0f} GB free" if writable else "the project folder cannot be written"
    return Finding(what="Disk", found=found, advice=advice, blocks=not writable)


def require_usable(findings: list[Finding]) -> None:
    """Ends well where clotseg can work.

    Raises:
        EnvironmentProblem: something must be mended first.
    """
    if blocking := [f"{finding.what} {finding.found}" for finding in findings if finding.blocks]:
        raise EnvironmentProblem(
            "clotseg cannot work on this machine yet", details=blocking, fix="follow the advice above"
        )
