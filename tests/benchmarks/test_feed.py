"""The peers that ours is held against: all feed the same slices, once a pass, shuffled, and augment alike."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import peers
import psutil
import pytest
from feed import Measured, table
from numpy.typing import NDArray
from peers import PEERS, Data, load, missing
from peers.cohort import make_slices, write_data
from peers.served import Hung, Served, Turn
from peers.transforms import augment

BENCHMARK = Path(peers.__file__).parents[1] / "feed.py"
SIDE, SIZE, SLICES, BATCH = 32, 40, 24, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A small cohort in every form."""
    return write_data(tmp_path_factory.mktemp("peers") / "data", side=SIDE, size=SIZE, slices=SLICES)


def expected() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Each slice amid zeros, made with NumPy from what was to be written."""
    margin = (SIZE - SIDE) // 2
    return [
        (
            np.pad(image, ((margin, margin), (margin, margin), (0, 0))).astype(np.float32) / 255,
            np.pad(mask, margin).astype(np.float32)[..., np.newaxis],
        )
        for image, mask in make_slices(SIDE, SLICES)
    ]


def as_bytes(image: NDArray[np.float32]) -> bytes:
    """Its greys of 0…255."""
    return np.round(image * 255).astype(np.uint8).tobytes()


def order_of(images: NDArray[np.float32], masks: NDArray[np.float32]) -> list[int]:
    """Which slice each one is, to the last pixel; fails where it is none."""
    known = {
        np.round(image * 255).astype(np.uint8).tobytes(): uid for uid, (image, _) in enumerate(expected())
    }
    uids = [known[np.round(image * 255).astype(np.uint8).tobytes()] for image in images]
    np.testing.assert_allclose(images, [expected()[uid][0] for uid in uids], rtol=1e-6)
    np.testing.assert_array_equal(masks, [expected()[uid][1] for uid in uids])
    return uids


@pytest.fixture(params=PEERS, scope="module")
def peer(request: pytest.FixtureRequest) -> str:
    """Each peer whose libraries are installed."""
    name = str(request.param)
    if lacking := missing(name):
        pytest.skip(f"{name} needs {', '.join(lacking)}: pip install -e .[bench]")
    return name


@pytest.mark.slow
def test_without_augmentation_every_peer_feeds_the_slices_of_the_cohort_once_a_pass_shuffled(
    peer: str, data: Data
) -> None:
    first, *others = load(peer).settings(2)
    for setting in (first, *others[-1:]):
        with Served(peer, data, BATCH, setting, augmented=False) as served:
            passes = [served.collect() for _ in range(2)]
        orders = [order_of(*arrays) for arrays in passes]
        assert orders[0] != orders[1]
        for (images, masks), order in zip(passes, orders, strict=True):
            assert images.dtype == masks.dtype == np.float32
            assert images.shape == (SLICES, SIZE, SIZE, 2)
            assert masks.shape == (SLICES, SIZE, SIZE, 1)
            assert sorted(order) == list(range(SLICES))
            assert order != sorted(order)


@pytest.mark.slow
def test_every_peer_augments_as_many_slices_as_the_original_did(peer: str, data: Data) -> None:
    """Mirrored along neither axis are 0.2 of the masks, and 0.8 of those whose two switches are off.

    Switches of their own are both off with probability 0.4375². Ours shuffles k zeros over 8 slots, as the
    original does: both are zeros with probability k (k − 1) / 56, and the mean of that for k of 0…7 is 0.25.
    Images come out as they were more often than where they are not augmented at all, and more seldom than
    their masks.
    """
    both_off = 0.25 if peer == "ours" else 0.4375**2
    truths = {mask.tobytes() for _, mask in expected()}
    known = {as_bytes(image) for image, _ in expected()}
    with Served(peer, data, BATCH, load(peer).settings(2)[0]) as served:
        passes = [served.collect() for _ in range(20)]
    assert all(0 <= images.min() <= images.max() <= 1 for images, _ in passes)
    masks_kept = np.mean([mask.tobytes() in truths for _, masks in passes for mask in masks])
    images_kept = np.mean([as_bytes(image) in known for images, _ in passes for image in images])
    assert masks_kept == pytest.approx(0.2 + 0.8 * both_off, abs=0.09)
    assert 0.12 < images_kept < masks_kept - 0.05


def test_albumentations_switches_each_transform_on_in_the_originals_share_of_slices() -> None:
    """Seen on a mask with one corner set: 0.8 · 0.5625 = 0.45 of the slices are mirrored each way."""
    corner = np.zeros((8, 8), np.uint8)
    corner[0, 0] = 1
    image = np.full((8, 8, 2), 100, np.uint8)
    masks = [augment(image, corner)[1] for _ in range(1000)]
    assert np.mean([mask[:, 7].any() for mask in masks]) == pytest.approx(0.45, abs=0.07)
    assert np.mean([mask[7].any() for mask in masks]) == pytest.approx(0.45, abs=0.07)


@pytest.mark.parametrize(("side", "clip"), [(96, 1.0), (96, 2.5), (256, 2.5), (256, 4.0)])
def test_the_clahe_that_is_written_for_tensorflow_is_opencvs_to_a_grey(side: int, clip: float) -> None:
    import cv2
    import tensorflow as tf
    from peers.tfdata_native import clahe

    ((image, _),) = make_slices(side, 1)
    equalised = clahe(tf.constant(image, tf.float32), tf.constant(clip)).numpy()
    planes = [cv2.createCLAHE(clip, (8, 8)).apply(image[..., channel]) for channel in range(2)]
    assert np.abs(equalised - np.dstack(planes)).max() <= 1
    assert np.abs(equalised - image).max() > 20


def measured(peer: str, *, wall_s: list[float], cpu_s: list[float]) -> Measured:
    """Passes over 1000 slices that took so long."""
    turns = [
        Turn(slices=1000, wall_s=wall, first_s=0.5, cpu_s=cpu, read_mib=7.0)
        for wall, cpu in zip(wall_s, cpu_s, strict=True)
    ]
    return Measured(
        side=96, batch=20, cache="warm", peer=peer, setting={}, start_s=1.25, peak_mib=640.0, turns=turns
    )


def test_the_table_holds_ours_against_each_peer_pass_by_pass_and_names_the_best() -> None:
    text = table(
        [
            measured("ours", wall_s=[1.0, 2.0, 1.0], cpu_s=[1.0, 1.0, 1.0]),
            measured("tfdata_native", wall_s=[2.0, 4.0, 3.0], cpu_s=[5.0, 5.0, 4.0]),
            measured("keras_pydataset", wall_s=[4.0, 8.0, 4.0], cpu_s=[3.0, 3.0, 3.0]),
        ]
    )
    native = next(line for line in text.splitlines() if "native" in line)
    assert "| 333 (250–500) | 5.00 (4.00–5.00) | 2.00 (2.00–3.00) | 5.00 (4.00–5.00) |" in native
    assert native.endswith("| 1.25, 0.50 | 640 | 7 |")
    assert text.endswith("Ours to the best of the others: 2.00 in slices/s, 3.00 in CPU.")


@pytest.mark.slow
def test_one_command_measures_all_and_says_what_is_left_out_and_how_to_have_it(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    small = "--sides 32 --size 40 --batches 4 --slices 16 --repeats 2 --no-search"
    chosen = ["--peers", "tfdata_albumentations", "grain_records", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *small.split(), *chosen],
        capture_output=True,
        text=True,
        check=True,
    )
    ways = [(way["peer"], way["cache"], len(way["turns"])) for way in json.loads(file.read_text())["ways"]]
    ran = ["ours", "tfdata_albumentations"]
    if missing("grain_records"):
        assert "Left out: Grain + albumentations needs grain" in done.stdout
        assert "pip install -e .[bench]" in done.stdout
    else:
        ran.append("grain_records")
    assert sorted(ways) == sorted((peer, cache, 2) for cache in ("warm", "cold") for peer in ran)


@pytest.mark.slow
def test_a_setting_that_a_peer_cannot_work_with_is_told_of_and_leaves_no_process(data: Data) -> None:
    before = psutil.Process().children(recursive=True)
    with pytest.raises(Hung, match="tfdata_native failed: KeyError: 'parallel_calls'"):
        Served("tfdata_native", data, BATCH, {"threads": 1})
    assert psutil.Process().children(recursive=True) == before
