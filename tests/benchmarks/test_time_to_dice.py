"""Recipes held against each other at equal time: what is written, what is changed, and what is summed up."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from candidates import CHANGES, losses, networks, settings_of
from candidates.hard import Hardness
from candidates.patches import OnPatches, cropped
from time_to_dice import (
    Measured,
    Recipe,
    circumstances,
    mean_dice,
    note,
    recall,
    summarise,
    table,
    time_to_reach,
)

from clotseg.config import NetworkConfig, TrainConfig, load_config
from clotseg.train.losses import batch_sums, loss_of
from clotseg.train.unet import build_unet

SMALL = NetworkConfig(filters=8, depth=3)


def case(name: str, dice: float, *, clot: bool = True, false_clots: int = 0) -> dict[str, Any]:
    facts = {"case": name, "patient": name, "dice": dice, "has_clot": clot}
    return {**facts, "found": clot and dice > 0, "false_clots": false_clots, "doubt": 1 - dice}


def measured(recipe: str, seed: int, mark: float, clock_s: float, *cases: dict[str, Any]) -> Measured:
    return Measured(recipe=recipe, seed=seed, mark=mark, clock_s=clock_s, epoch=1, cases=list(cases))


def test_what_was_written_down_is_taken_under_the_same_circumstances_only(tmp_path: Path) -> None:
    kept, settings = tmp_path / "kept.jsonl", tmp_path / "my.toml"
    settings.write_text("[train]\nepochs = 3\n")
    facts = {"minutes": 2.0, "marks": [0.5, 1.0], "cases": 9, "held_out": 4, "size": 32, "slices": 8}
    options = Namespace(**facts, at_once=1, final=False, as_written=False)
    outcomes = {
        (recipe, seed): [
            measured(recipe, seed, mark, 30 * mark, case("usual_1", seed / 4)) for mark in (0.5, 1.0)
        ]
        for recipe in ("default", f"{settings}+fold2")
        for seed in (0, 1)
    }
    of = {key: circumstances(options, *key) for key in outcomes}
    assert recall(None, of["default", 0]) is None
    assert recall(kept, of["default", 0]) is None
    for key, entries in outcomes.items():
        note(kept, of[key], entries)
    assert {key: recall(kept, of[key]) for key in outcomes} == outcomes
    for name, other in {"minutes": 3.0, "marks": [1.0], "final": True}.items():
        changed = Namespace(**{**vars(options), name: other})
        assert recall(kept, circumstances(changed, "default", 0)) is None
    settings.write_text("[train]\nepochs = 4\n")
    assert recall(kept, circumstances(options, f"{settings}+fold2", 0)) is None


def test_a_recipe_is_a_name_or_a_path_with_changes() -> None:
    written = Recipe(written="some/where/my.toml+mirror+fold2")
    assert (written.base, written.changes) == ("some/where/my.toml", ["mirror", "fold2"])
    assert written.shown == "my.toml+mirror+fold2"
    assert Recipe(written="default").changes == []


@pytest.mark.parametrize("name", CHANGES)
def test_the_settings_of_each_change_are_settings_of_clotseg(name: str, tmp_path: Any) -> None:
    changed = settings_of([name])
    config = load_config(tmp_path / "none.toml", {**changed, "feed.size": "auto"})
    for setting, value in changed.items():
        section, key = setting.split(".")
        assert getattr(getattr(config, section), key) == value
    change = CHANGES[name]
    assert changed or change.shape or change.loss or change.more or change.tested


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change.shape])
def test_each_changed_network_gives_one_probability_a_pixel(name: str) -> None:
    shape = networks.Shape(**CHANGES[name].shape)
    network = networks.build(SMALL, size=32, channels=2, shape=shape)
    slices = np.random.default_rng(1).random((2, 32, 32, 2), np.float32)
    probability = network(slices).numpy()
    assert probability.shape == (2, 32, 32, 1)
    assert ((probability > 0) & (probability < 1)).all()
    answers = 1 + min(shape.supervised, SMALL.depth - 1) + (shape.stages == 2)
    assert network(slices, training=True).shape[-1] == answers
    assert network.count_params() != build_unet(SMALL, size=32, channels=2).count_params() or (
        name == "leaky" or "mirror" in name
    )


@pytest.mark.parametrize("change", [{"fold": 1}, {"fold": 2}, {"ncct_windows_hu": ((30, 80),)}], ids=str)
def test_a_network_of_the_plain_shape_is_the_u_net_itself(change: Any) -> None:
    slices = np.random.default_rng(1).random((2, 32, 32, 2), np.float32)
    config = replace(SMALL, **change)
    ours = build_unet(config, size=32, channels=2)
    plain = networks.build(config, size=32, channels=2, shape=networks.Shape())
    plain.set_weights(ours.get_weights())
    np.testing.assert_allclose(plain(slices).numpy(), ours(slices).numpy(), atol=1e-6)


def test_what_is_mirrored_is_seen_at_the_same_place() -> None:
    slices = np.arange(24, dtype=np.float32).reshape(1, 3, 4, 2)
    both = networks.WithMirrored()(slices).numpy()
    np.testing.assert_array_equal(both[..., :2], slices)
    np.testing.assert_array_equal(both[..., 2:], slices[:, :, ::-1])


def test_a_difference_is_that_of_cta_and_ncct() -> None:
    slices = np.random.default_rng(1).random((1, 2, 3, 2), np.float32)
    difference = networks.WithDifference()(slices).numpy()
    np.testing.assert_array_equal(difference[..., :2], slices)
    np.testing.assert_array_equal(difference[..., 2], slices[..., 0] - slices[..., 1])


def test_a_square_lies_around_the_most_probable_place_and_within_the_slice() -> None:
    probability = np.full((2, 24, 24, 1), 0.01, np.float32)
    probability[0, 10:13, 14:17] = 0.9
    probability[1, 0:2, 22:24] = 0.9
    rows, columns = (at.numpy() for at in networks.SquareAround(8)(probability))
    assert {10, 11, 12} <= set(rows[0])
    assert {14, 15, 16} <= set(columns[0])
    assert rows[1].tolist() == list(range(8))
    assert columns[1].tolist() == list(range(16, 24))


def test_what_is_cut_out_is_put_back_where_it_was() -> None:
    slices = np.random.default_rng(1).random((2, 12, 12, 1), np.float32)
    rows, columns = np.array([np.arange(3, 7), np.arange(4)]), np.array([np.arange(8, 12), np.arange(5, 9)])
    square = networks.Cut()(slices, rows, columns).numpy()
    np.testing.assert_array_equal(square[0], slices[0, 3:7, 8:12])
    np.testing.assert_array_equal(square[1], slices[1, :4, 5:9])
    expected = slices.copy()
    expected[0, 3:7, 8:12] += 1
    expected[1, :4, 5:9] += 1
    put = networks.PutBack()(slices, square + 1, rows, columns).numpy()
    np.testing.assert_allclose(put, expected, atol=1e-6)


def test_boundary_loss_weighs_by_the_distance_from_the_clot() -> None:
    random = np.random.default_rng(1)
    masks = np.zeros((2, 24, 24, 1), np.float32)
    masks[0, 5:10, 6:12] = 1
    probability = random.random(masks.shape).astype(np.float32)
    clot = masks[0, ..., 0]
    outside = scipy.ndimage.distance_transform_cdt(1 - clot, "chessboard")
    inside = scipy.ndimage.distance_transform_cdt(clot, "chessboard")
    furthest = losses.FURTHEST
    away = (np.minimum(outside, furthest) - np.minimum(inside, furthest)) / furthest
    config = TrainConfig()

    def of(kind: str) -> float:
        sums = losses.batch_sums(tf.constant(probability), tf.constant(masks), tf.ones(2), kind=kind)
        return float(losses.loss_of(sums, config, kind=kind))

    more = of("boundary") - of("")
    assert more == pytest.approx((away * probability[0, ..., 0]).sum() / masks.size, abs=1e-6)


def test_the_losses_agree_with_clotseg_and_with_one_another() -> None:
    random = np.random.default_rng(1)
    answers = tf.constant(random.random((3, 8, 8, 2)), tf.float32)
    masks = tf.constant(random.random((3, 8, 8, 1)) > 0.8, tf.float32)
    weights = tf.constant([1.0, 1.0, 0.0])
    config = TrainConfig()

    def of(kind: str, first: int, last: int) -> float:
        sums = losses.batch_sums(answers[..., first:last], masks, weights, kind=kind)
        return float(losses.loss_of(sums, config, kind=kind))

    ours = float(loss_of(batch_sums(answers[..., :1], masks, weights), config))
    entropy = ours - float(
        loss_of(batch_sums(answers[..., :1], masks, weights), replace(config, loss="dice"))
    )
    assert of("", 0, 1) == pytest.approx(ours)
    assert of("ten times the entropy", 0, 1) == pytest.approx(ours + 9 * entropy)
    assert of("", 0, 2) == pytest.approx((of("", 0, 1) + of("", 1, 2) / 2) / 1.5)
    assert of("focal entropy", 0, 1) < of("", 0, 1)
    for kind in ("focal Tversky", "focal entropy", "slice Dice", "ten times the entropy"):
        perfect = losses.batch_sums(masks, masks, weights, kind=kind)
        assert float(losses.loss_of(perfect, config, kind=kind)) == pytest.approx(0, abs=1e-4)


def test_patches_are_squares_of_the_slices_and_hold_clot_where_there_is_one() -> None:
    tf.random.set_seed(1)
    pixels = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)
    images = np.repeat(np.stack([pixels, -pixels], -1)[None], 40, 0)
    masks = np.zeros((40, 32, 32, 1), np.float32)
    for slice_, (row, column) in enumerate(np.random.default_rng(2).integers(0, 32, (39, 2))):
        masks[slice_, row, column] = 1
    squares, clots = (tensor.numpy() for tensor in cropped(images, masks, 8))
    assert squares.shape == (40, 8, 8, 2)
    firsts = squares[:, 0, 0, 0].astype(int)
    for square, clot, first, mask in zip(squares, clots, firsts, masks, strict=True):
        within = np.s_[first // 32 : first // 32 + 8, first % 32 : first % 32 + 8]
        np.testing.assert_array_equal(square[..., 0], pixels[within])
        np.testing.assert_array_equal(square[..., 1], -pixels[within])
        np.testing.assert_array_equal(clot, mask[within])
    np.testing.assert_array_equal(clots.sum((1, 2, 3)), [1] * 39 + [0])
    assert len(set(firsts)) > 20


def test_a_network_on_patches_computes_with_the_weights_of_the_whole_one() -> None:
    whole, small, alone = (build_unet(SMALL, size=size, channels=2) for size in (32, 16, 16))
    patches = np.random.default_rng(3).random((2, 16, 16, 2), np.float32)
    alone.set_weights(whole.get_weights())
    seen = OnPatches(whole, small)(patches, training=False)
    np.testing.assert_allclose(seen, alone(patches, training=False), rtol=1e-5)


def test_hard_slices_come_up_in_proportion_to_their_last_cross_entropy() -> None:
    """Records 0 to 3 hold clot, 4 to 9 do not; batches of five have two with clot by filling up."""
    has_clot = np.arange(10) < 4
    plain = np.tile(np.arange(4, 10), 1000)
    filled = np.where(np.arange(6000) % 5 < 2, np.arange(6000) % 4, plain)
    hardness, random = Hardness(), np.random.default_rng(4)
    np.testing.assert_array_equal(hardness.order(plain, filled, has_clot, random), filled)
    probability = np.full((10, 1, 1, 1), 0.9, np.float32)
    probability[[1, 7]] = 0.9**8
    hardness.see(tf.constant(probability), tf.ones((10, 1, 1, 1)))
    hardness.remember(np.arange(10).reshape(1, 10))
    count = np.bincount(hardness.order(plain, filled, has_clot, random), minlength=10)
    assert count[:4].sum() == 2400, "no more clots than before"
    assert count[1] == pytest.approx(2400 * 8 / 11, rel=0.1)
    # Half of the 3600 others are as before, 600 of each.
    assert count[7] == pytest.approx(1800 / 6 + 1800 * 8 / 13, rel=0.1)


def test_a_summary_counts_misses_and_false_clots_and_when_the_reference_was_reached() -> None:
    healthy = case("usual_3", 0.0, clot=False)
    fooled = case("usual_3", 0.0, clot=False, false_clots=2)
    others = case("usual_1", 0.4), case("usual_2", 0.2), healthy
    floor = [measured("floor", 0, mark, 100 * mark, *others) for mark in (0.5, 1.0)]
    ours = [
        measured("ours", 0, 0.5, 60, case("usual_1", 0.5), case("usual_2", 0.3), fooled),
        measured("ours", 0, 1.0, 99, case("usual_1", 0.0), case("usual_2", 0.1), healthy),
    ]
    row = summarise([*floor, *ours], "ours", "usual", against="floor", seeds=[0])
    assert row["dice_at"] == pytest.approx({"0.5": 0.4, "1.0": 0.05})
    assert (row["missed"], row["with_false_clot"]) == ([1, 2], [0, 1])
    assert row["reached_s"] == [60]
    assert row["difference"]["mean"] == pytest.approx(-0.25)
    assert time_to_reach(ours, 0.6, "usual") is None
    assert mean_dice(ours[0], "usual") == pytest.approx(0.4)
    assert row["doubt_and_dice"] == pytest.approx(-1)
    assert "| usual | ours | 0.400 | 0.050 | 0.050 | -0.250" in table([row], 1, "floor")
