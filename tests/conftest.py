"""Small cohorts that tests build themselves: discs of clot on noise, with known voxels."""

import csv
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from clotseg.config import Config, FeedConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.prep.stages import run_prep
from clotseg.project import Project


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--device gpu` runs on a GPU, too, what can run on either."""
    parser.addoption("--device", choices=("cpu", "gpu"), default="cpu", help="where augmentation is tested")


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a GPU where the tests are run with `--device gpu`."""
    if request.param == "gpu" and request.config.getoption("--device") != "gpu":
        pytest.skip("needs a GPU: run with --device gpu")
    return str(request.param)


def write_case(
    project: Project,
    name: str,
    *,
    shape: tuple[int, int, int] = (32, 32, 6),
    clot: bool = True,
    seed: int = 0,
) -> None:
    """Writes one case: noise, a bright ring in the CTA, and a disc that is dense in both volumes."""
    random = np.random.default_rng([seed, *name.encode()])
    rows, columns, slices = np.ogrid[: shape[0], : shape[1], : shape[2]]
    centre = random.uniform(0.35, 0.65, 3) * shape
    inside = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (min(shape[:2]) / 8) ** 2) & (
        np.abs(slices - centre[2]) <= 1
    )
    mask = (inside & clot).astype(np.uint8)
    cta = random.normal(40, 10, shape) + 300.0 * mask
    ncct = random.normal(35, 5, shape) + 30.0 * mask
    for folder in (project.volumes, project.masks):
        folder.mkdir(parents=True, exist_ok=True)
    np.save(project.volumes / f"{name}_CTA_Binary.npy", cta.astype(np.int16))
    np.save(project.volumes / f"{name}_NCCT_Reg_Binary.npy", ncct.astype(np.int16))
    np.save(project.masks / f"{name}_seg_corrected_binary.npy", mask)


def write_cases_csv(project: Project, rows: list[dict[str, object]]) -> None:
    """Writes `cases.csv` with the columns of the rows."""
    with project.cases_csv.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_cohort(root: Path, cases: int = 10, **options: object) -> Project:
    """A project of `cases` cases, every fifth of them without a clot."""
    project = Project(root)
    for number in range(cases):
        write_case(project, f"case_{number:02d}", clot=number % 5 != 4, **options)  # type: ignore[arg-type]
    return project


@pytest.fixture
def cohort(tmp_path: Path) -> Project:
    """A project with ten small cases and nothing prepared."""
    return write_cohort(tmp_path / "project")


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder but locks, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def start_python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a Python program of its own, with pipes to talk through."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


HOLD_LOCK = """
import sys
from pathlib import Path
from clotseg.artifact import project_lock
with project_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def start_lock_holder(folder: Path) -> subprocess.Popen[str]:
    """Starts a process that holds the lock of a folder until its input ends."""
    holder = start_python(HOLD_LOCK, folder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The operating system refuses to let any file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ATLAS = "brain_ct_atlas_1mm.nii.gz"
ODD_SHAPES = ((32, 32, 6), (27, 30, 5), (31, 24, 7), (22, 29, 6))


@pytest.fixture(scope="session")
def sliced_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Ten cases with slices of four sizes, split and sliced into several shards. Copy it to change it."""
    project = Project(tmp_path_factory.mktemp("sliced") / "project")
    for number in range(10):
        write_case(project, f"case_{number:02d}", shape=ODD_SHAPES[number % 4], clot=number != 9)
    config = Config(slice=SliceConfig(slices_per_shard=8), feed=FeedConfig(size=32))
    run_prep(project, config, PlainProgress())
    return project


def copy_of(project: Project, folder: Path) -> Project:
    """The project once more, in a folder that must not be there yet."""
    shutil.copytree(project.root, folder)
    return Project(folder)


@pytest.fixture
def cohort_copy(sliced_project: Project, tmp_path: Path) -> Project:
    """The cases of `sliced_project`, with nothing prepared."""
    ignored = shutil.ignore_patterns("Processed")
    shutil.copytree(sliced_project.root, tmp_path / "unprepared", ignore=ignored)
    return Project(tmp_path / "unprepared")


def clotseg_command(*arguments: object) -> list[str]:
    """The installed command, as a user's shell would start it."""
    return [str(Path(sys.executable).with_name("clotseg")), *map(str, arguments)]


def run_clotseg(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; its output is captured, so it sees no terminal."""
    return subprocess.run(
        clotseg_command(*arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def modified_times(folder: Path) -> dict[str, int]:
    """When each file under a folder but the locks was last written, in ns, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def shared_data(name: str) -> Path:
    """A file or folder of the real data that lie outside the project; the test is skipped without it."""
    shared = os.environ.get("CLOTSEG_SHARED") or Path(__file__).parents[2] / "shared"
    path = Path(shared) / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not there; CLOTSEG_SHARED names the folder that holds data/{name}")
    return path


@pytest.fixture(scope="session")
def atlas() -> Path:
    """A real average brain CT, RAS, 1 mm."""
    return shared_data(ATLAS)
