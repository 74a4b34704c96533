"""Settings that are `auto`: what is chosen for which slices, devices and memory, and that it is told why."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clotseg.config import Config, FeedConfig, NetworkConfig, RuntimeConfig, SliceConfig, TrainConfig
from clotseg.console import PlainProgress
from clotseg.dashboard import PlainTrainingView
from clotseg.project import Project, Run
from clotseg.train.auto import Facts, choose, settled_by
from clotseg.train.loop import train_or_reuse
from clotseg.train.records import read_record
from clotseg.train.resume import resumed_config
from tests.conftest import copy_of

GIB = 2**30
HEADS = Facts(
    largest_slice=250,
    slices=8000,
    slices_an_epoch=8000,
    pixel_mm=0.9,
    on_gpu=True,
    memory_bytes=24 * GIB,
    replicas=1,
)
"""As a research group has them: 50 patients of 160 slices, one workstation GPU."""


def chosen(facts: Facts, config: Config | None = None) -> tuple[Config, dict[str, str]]:
    config = config or Config()
    choices = choose(config, facts)
    return settled_by(config, choices), {choice.setting: str(choice) for choice in choices}


def test_usual_data_on_a_gpu_gets_what_is_usual() -> None:
    config, reasons = chosen(HEADS)
    assert (config.network.depth, config.feed.size, config.network.filters) == (5, 256, 32)
    assert (config.train.batch_size, config.train.epochs) == (16, 50)
    assert "0.9" not in reasons["network.filters"]
    assert "28.8 mm" in reasons["network.depth"], "32 pixels of 0.9 mm"
    assert "25000 steps" in reasons["train.epochs"]


def test_a_laptop_gets_a_smaller_network_and_fewer_steps() -> None:
    config, _ = chosen(replace(HEADS, on_gpu=False))
    assert config.network.filters == 16
    assert config.train.epochs == 10


def test_what_is_said_stays_and_what_rests_on_it_follows() -> None:
    said = Config(network=NetworkConfig(depth=3, filters=20), train=TrainConfig(batch_size=5))
    config, reasons = chosen(replace(HEADS, largest_slice=249), said)
    assert (config.network, config.train.batch_size) == (said.network, 5)
    assert config.feed.size == 256, "the smallest multiple of 8 that holds 249 pixels"
    assert reasons.keys() == {"feed.size", "train.epochs"}
    assert chosen(replace(HEADS, largest_slice=248), said)[0].feed.size == 248


@pytest.mark.parametrize(
    ("sliced", "shown"),
    [
        ((-50, 450), ((0, 200),)),
        ((20, 450), ((20, 200),)),
        ((-50, 150), ((0, 150),)),
        ((20, 150), ()),
        ((0, 200), ()),
        ((-500, -100), ()),
        ((200, 900), ()),
    ],
)
def test_further_windows_reach_as_far_as_those_of_the_slices(
    sliced: tuple[float, float], shown: tuple[tuple[float, float], ...]
) -> None:
    """The usual one for CTA is 0 to 200 HU; one that shows no more than the slices do is left out."""
    auto = NetworkConfig(cta_windows_hu="auto", ncct_windows_hu="auto")
    config, reasons = chosen(HEADS, Config(network=auto, slice=SliceConfig(cta_window_hu=sliced)))
    assert config.network.cta_windows_hu == shown
    assert config.network.ncct_windows_hu == ((30, 80),), "they have a window of their own"
    said = "beside" if shown else "slices have"
    assert f"{said} CTA from {sliced[0]} to {sliced[1]} HU" in reasons["network.cta_windows_hu"]


def test_a_size_that_cannot_be_halved_often_makes_for_a_shallow_network() -> None:
    config, reasons = chosen(HEADS, Config(feed=FeedConfig(size=264)))
    assert (config.feed.size, config.network.depth) == (264, 3)
    assert "264 pixels can be halved" in reasons["network.depth"]


def test_little_memory_and_few_slices_make_for_small_batches() -> None:
    small, reasons = chosen(replace(HEADS, memory_bytes=2 * GIB))
    assert small.train.batch_size == 3
    assert "2 GiB" in reasons["train.batch_size"]
    assert chosen(replace(HEADS, memory_bytes=2 * GIB, replicas=4))[0].train.batch_size == 12
    many, reasons = chosen(replace(HEADS, replicas=8))
    assert many.train.batch_size == 128
    assert "16 for each of 8 GPUs" in reasons["train.batch_size"]
    assert chosen(replace(HEADS, replicas=2, on_gpu=False))[0].train.batch_size == 16, "one machine's CPU"
    few, reasons = chosen(replace(HEADS, slices=100, slices_an_epoch=100))
    assert few.train.batch_size == 5
    assert "5% of 100 slices" in reasons["train.batch_size"]


@settings(deadline=None)
@given(
    side=st.integers(1, 600),
    slices=st.integers(1, 100_000),
    memory=st.none() | st.integers(GIB // 8, 100 * GIB),
    replicas=st.integers(1, 8),
    on_gpu=st.booleans(),
)
def test_whatever_the_data_the_choices_fit_them_and_one_another(
    side: int, slices: int, memory: int | None, replicas: int, on_gpu: bool
) -> None:
    facts = Facts(
        largest_slice=side,
        slices=slices,
        slices_an_epoch=slices,
        pixel_mm=None,
        on_gpu=on_gpu,
        memory_bytes=memory,
        replicas=replicas,
    )
    config, reasons = chosen(facts)
    assert isinstance(config.feed.size, int)
    assert isinstance(config.network.depth, int)
    assert side <= config.feed.size < side + 2**config.network.depth
    assert config.feed.size % 2**config.network.depth == 0
    assert side < 12 or config.feed.size / 2**config.network.depth >= 6
    assert isinstance(config.train.batch_size, int)
    assert isinstance(config.train.epochs, int)
    assert config.train.batch_size % replicas == 0
    steps = config.train.epochs * math.ceil(slices / config.train.batch_size)
    assert steps >= (25_000 if on_gpu else 3000) or config.train.epochs == 1000
    assert all(reason.startswith(name) and len(reason) > len(name) + 10 for name, reason in reasons.items())


@pytest.mark.slow
def test_choices_are_told_and_recorded_and_a_run_keeps_them(
    sliced_project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(
        slice=SliceConfig(slices_per_shard=8),
        network=NetworkConfig(filters=4, cta_windows_hu="auto"),
        train=TrainConfig(train_samples=8, epochs=1),
        runtime=RuntimeConfig(gpus=0),
    )
    project = copy_of(sliced_project, tmp_path / "project")
    result = train_or_reuse(project, config, PlainProgress(), PlainTrainingView())
    said = capsys.readouterr().err
    run = Run(project.root / result["run"])
    record = read_record(run)
    settings = {"network.cta_windows_hu", "network.depth", "feed.size", "train.batch_size"}
    assert record["chosen"].keys() == settings
    for setting, reason in record["chosen"].items():
        assert f"{setting} = " in said
        assert reason in said
    kept = resumed_config(project, run, {})
    assert (kept.network.depth, kept.feed.size) == (2, 32)
    assert kept.network.cta_windows_hu == ((0, 200),)
    network = json.loads((run.best / "network.json").read_text())
    assert (network["network"]["depth"], network["size"]) == (2, 32)
    assert network["network"]["cta_windows_hu"] == [[0, 200]]
    again = train_or_reuse(project, config, PlainProgress(), PlainTrainingView())
    assert again["run"] == result["run"], "the same was asked for"
    other = replace(config, feed=FeedConfig(size=64))
    assert train_or_reuse(project, other, PlainProgress(), PlainTrainingView())["run"] != result["run"]
