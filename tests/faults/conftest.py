"""What the fault tests do their harm with, each skipped with a reason where the machine does not allow it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clotseg.console import PlainProgress
from clotseg.prep.verify import verify_project
from clotseg.project import Project
from tests.conftest import contents


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faults.c`, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build faults.c with")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs would wait for many thousands of flushes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts something at a folder with the given arguments of `mount`; undone when the test ends."""
    mounted: list[Path] = []

    def do_mount(target: Path, *arguments: object) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", *map(str, arguments), str(target)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting is refused here: {done.stderr.strip()}")
        if target not in mounted:
            mounted.append(target)
        return target

    yield do_mount
    for target in reversed(mounted):
        subprocess.run(["umount", str(target)], check=True)


def published(project: Project) -> dict[str, bytes]:
    """Every published byte of `prep`."""
    return {
        f"{folder.name}/{name}": data
        for folder in (project.original, project.sliced)
        if folder.exists()
        for name, data in contents(folder).items()
    }


def require_nothing_half_made(project: Project) -> None:
    """What is published verifies whole, and nothing else lies beside it."""
    result = verify_project(project, PlainProgress())
    assert result["whole"], result["faults"]
    visible = {path.name for path in project.processed.glob("*")} - {".lock", ".digests.json"}
    assert visible <= {"Original", "Sliced"}
