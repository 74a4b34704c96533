"""`clotseg doctor`: what it finds is what this machine has, and what blocks is an error with advice."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from clotseg.doctor import Finding, examine, hidden_gpus, require_usable
from clotseg.errors import EnvironmentProblem
from tests.conftest import run_clotseg

READ_ONLY = next(
    (
        folder
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        if (folder := Path(line.split()[1])).is_dir() and not os.access(folder, os.W_OK)
    ),
    None,
)


@pytest.fixture(scope="module")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def findings(project_folder: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(project_folder)}


def test_it_names_the_versions_that_are_installed(findings: dict[str, Finding]) -> None:
    assert findings["clotseg"].found == version("clotseg")
    assert findings["Python"].found.startswith(f"{platform.python_version()} ")
    assert findings["TensorFlow"].found.startswith(f"{version('tensorflow')}, ")
    assert findings["DALI"].found == f"{version('nvidia-dali-cuda120')}, runs on the CPU"


def test_it_says_how_many_gpus_tensorflow_sees(findings: dict[str, Finding]) -> None:
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU"))
    assert findings["TensorFlow"].found.endswith(f"sees {count} GPU(s)")


def test_it_counts_the_cores_this_process_may_use(findings: dict[str, Finding]) -> None:
    assert findings["CPU"].found == f"{len(os.sched_getaffinity(0))} cores usable"


def test_nothing_blocks_where_the_tests_run(findings: dict[str, Finding]) -> None:
    assert not [finding for finding in findings.values() if finding.blocks]
    require_usable(list(findings.values()))


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent(project_folder: Path) -> None:
    disk = next(finding for finding in examine(project_folder / "new" / "one") if finding.what == "Disk")
    assert disk.found.endswith("GB free")
    assert not disk.blocks


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_blocks(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        disk = next(finding for finding in examine(tmp_path) if finding.what == "Disk")
    finally:
        tmp_path.chmod(0o755)
    assert disk.blocks
    assert "write permission" in disk.advice


@pytest.mark.skipif(READ_ONLY is None, reason="nothing is mounted read-only here")
def test_a_read_only_disk_blocks() -> None:
    assert READ_ONLY is not None
    disk = next(finding for finding in examine(READ_ONLY) if finding.what == "Disk")
    assert disk.blocks
    with pytest.raises(EnvironmentProblem, match="Disk the project folder cannot be written"):
        require_usable([disk])


@pytest.mark.parametrize(
    ("there", "seen", "libraries", "advice"),
    [
        (0, 0, False, None),
        (2, 2, True, None),
        (2, 2, False, None),
        (1, 0, False, "clotseg[gpu]"),
        (1, 0, True, "nvidia-smi"),
        (4, 3, False, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus_that_tensorflow_does_not_see_are_told(
    there: int, seen: int, libraries: bool, advice: str | None
) -> None:
    found = hidden_gpus(there, seen, libraries=libraries)
    assert (found is None) == (advice is None)
    if found is not None and advice is not None:
        assert advice in found.advice
        assert f"sees {seen} of {there}" in found.found


def test_all_that_blocks_is_listed_at_once() -> None:
    bad = [
        Finding(what="DALI", found="does not run", advice="install it", blocks=True),
        Finding(what="Memory", found="1 GB", advice="add some"),
        Finding(what="Disk", found="cannot be written", advice="mend it", blocks=True),
    ]
    with pytest.raises(EnvironmentProblem) as caught:
        require_usable(bad)
    assert caught.value.exit_code == 5
    assert caught.value.details == ("DALI does not run", "Disk cannot be written")


@pytest.mark.slow
def test_the_command_prints_its_findings_on_stdout(tmp_path: Path) -> None:
    done = run_clotseg("-C", tmp_path, "doctor")
    assert done.returncode == 0, done.stderr
    assert f"TensorFlow  {version('tensorflow')}" in done.stdout
    assert f"DALI        {version('nvidia-dali-cuda120')}" in done.stdout
    assert done.stderr == ""
