"""One replica, two replicas and two workers: the same steps, as real processes take them."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clotseg.project import Project, Run
from clotseg.train.launch import free_ports, tf_config
from clotseg.train.records import runs
from tests.conftest import clotseg_command, run_clotseg
from tests.train.conftest import prepared_project

SETTINGS = """\
[feed]
size = 32
[slice]
slices_per_shard = 8
[network]
filters = 4
depth = 2
initial_probability = 0.5
{network}
[train]
epochs = 2
batch_size = 6
{train}
[runtime]
gpus = 0
log_augment = 1000
"""
ALIKE = SETTINGS.format(
    network='norm = "batch"\nbatch_norm = "synchronised"\ndropout = 0.0',
    train='optimizer = "sgd"\nmomentum = 0.9',
)
"""Without dropout, which each replica draws for itself, and with the statistics of the global batch."""
LOCAL = SETTINGS.format(network='norm = "batch"', train="")


def trained(project: Project, *arguments: object) -> Run:
    done = run_clotseg("-C", project.root, *arguments)
    assert done.returncode == 0, done.stderr
    return runs(project)[-1]


def state_of(run: Run) -> dict[str, np.ndarray]:
    with np.load(run.checkpoints / "epoch-0002-step-000000" / "state.npz") as kept:
        return dict(kept)


def losses_of(run: Run) -> list[float]:
    """Of the epochs; batches count the same."""
    facts = json.loads((run.checkpoints / "epoch-0002-step-000000" / "training.json").read_text())
    return [row["loss"] for row in facts["position"]["rows"]]


def logged(run: Run, epoch: int) -> list[int]:
    """The uids of an epoch whose augmentation was written down."""
    lines = [json.loads(line) for line in run.augmentations.read_text().splitlines()]
    return [line["uid"] for line in lines if line["epoch"] == epoch]


@pytest.mark.slow
def test_one_replica_two_replicas_and_two_workers_follow_the_same_losses(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = prepared_project(sliced_project, tmp_path / "project", ALIKE)
    one = trained(project, "train")
    two = trained(project, "train", "--replicas", "2")
    workers = trained(project, "launch", "--workers", "2", "train")
    np.testing.assert_allclose(losses_of(two), losses_of(one), rtol=1e-5)
    assert losses_of(one)[0] != losses_of(one)[1]
    for name, value in state_of(one).items():
        np.testing.assert_allclose(state_of(two)[name], value, rtol=1e-3, atol=2e-4, err_msg=name)
    for name, value in state_of(two).items():
        np.testing.assert_array_equal(state_of(workers)[name], value, err_msg=name)
    assert (
        two.history.read_text().splitlines()[1].split(",")[:4]
        == (workers.history.read_text().splitlines()[1].split(",")[:4])
    )


@pytest.mark.slow
def test_with_instance_norm_two_replicas_follow_the_losses_of_one(
    sliced_project: Project, tmp_path: Path
) -> None:
    settings = SETTINGS.format(network='norm = "instance"\ndropout = 0.0', train="")
    project = prepared_project(sliced_project, tmp_path / "project", settings)
    one = trained(project, "train")
    two = trained(project, "train", "--replicas", "2")
    np.testing.assert_allclose(losses_of(two), losses_of(one), rtol=1e-5)


@pytest.mark.slow
def test_two_workers_are_two_replicas_bit_for_bit_with_dropout_and_statistics_of_their_own(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = prepared_project(sliced_project, tmp_path / "project", LOCAL)
    two = trained(project, "train", "--replicas", "2")
    workers = trained(project, "launch", "--workers", "2", "train")
    for name, value in state_of(two).items():
        np.testing.assert_array_equal(state_of(workers)[name], value, err_msg=name)
    assert (two.best / "network.json").read_bytes() == (workers.best / "network.json").read_bytes()
    samples = json.loads((project.sliced / "Training" / "manifest.json").read_text())["records"]
    for epoch in (1, 2):
        of_all, of_first = Counter(logged(two, epoch)), Counter(logged(workers, epoch))
        assert of_all.total() == samples, "what fills the last batch up is not logged"
        assert of_first < of_all
        assert samples / 2 <= of_first.total() < samples / 2 + 3
    one = trained(project, "train")
    assert losses_of(one) != pytest.approx(losses_of(two), rel=1e-5), "local statistics are another training"


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_other_within_a_minute_and_the_run_goes_on(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = prepared_project(sliced_project, tmp_path / "project", LOCAL)
    whole = trained(project, "launch", "--workers", "2", "train")
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    command = clotseg_command("-C", project.root, "train", "--checkpoint-minutes", "0.00001")
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "TF_CONFIG": tf_config(addresses, worker)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(2)
    ]
    until = time.monotonic() + 240
    while len(runs(project)) < 2 or not list(runs(project)[-1].checkpoints.glob("epoch-0000-step-000003")):
        assert time.monotonic() < until
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.002)
    processes[1].send_signal(signal.SIGKILL)
    died = time.monotonic()
    _, said = processes[0].communicate(timeout=60)
    assert time.monotonic() - died < 60
    assert processes[0].returncode == 5
    assert "another worker was lost" in said
    processes[1].communicate()
    run = runs(project)[-1]
    resumed = trained(project, "launch", "--workers", "2", "train", "--resume", run.folder.name)
    assert resumed.folder == run.folder
    for name, value in state_of(whole).items():
        np.testing.assert_array_equal(state_of(run)[name], value, err_msg=name)


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_launch_with_its_code(
    sliced_project: Project, tmp_path: Path
) -> None:
    project = prepared_project(sliced_project, tmp_path / "project", LOCAL)
    done = run_clotseg("-C", project.root, "launch", "--workers", "2", "train", "--batch-size", "5")
    assert done.returncode == 2
    assert "a batch of 5 cannot be shared evenly by 2 replicas" in done.stderr
    assert "choose 4 or 6" in done.stderr


def test_launch_starts_trainings_and_nothing_else(tmp_path: Path) -> None:
    done = run_clotseg("-C", tmp_path, "launch", "--workers", "2", "prep")
    assert done.returncode == 2
    assert "clotseg launch --workers 2 train" in done.stderr
