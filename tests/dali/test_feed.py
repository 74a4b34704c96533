"""The feed: each slice when it is due, once; the same global batches for any number of replicas."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clotseg.config import AugmentConfig
from clotseg.dali.feed import (
    AT_ONCE,
    Feed,
    SlicedCohort,
    _to_tensorflow,
    open_cohort,
    padded_size,
)
from clotseg.dali.order import EpochPlan, plan_pass, plan_training
from clotseg.dali.pipeline import slice_pipeline
from clotseg.errors import CorruptArtifactError
from clotseg.prep.shards import index_name
from clotseg.prep.stages import read_sliced
from clotseg.project import Project
from tests.dali.conftest import NOTHING, SIZE, Recorded, drawn_by, settings

ALWAYS = AugmentConfig(**{**NOTHING, "brightness_contrast": 1.0, "gamma": 1.0})
WARPED = AugmentConfig(warp=0.5)
"""What takes DALI's operators, too, so that several steps are made together."""

shard_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)
batches = st.tuples(st.integers(1, 5), st.integers(1, 3))  # slices a replica, replicas


def cohort_of(sizes: list[int]) -> SlicedCohort:
    """A cohort with so many records in each shard; there are no files."""
    return SlicedCohort(
        shards=tuple(Path(f"shard-{number}") for number in range(len(sizes))),
        offsets=tuple(np.stack([np.arange(size) * 10, np.full(size, 10)], axis=1) for size in sizes),
        case_of=np.repeat(np.arange(len(sizes)), sizes),
        case_names=tuple(f"case_{number}" for number in range(len(sizes))),
    )


def counted(plan: EpochPlan) -> list[int]:
    """The uids that count, in the order of the global batches."""
    return [int(uid) for uid, weight in zip(plan.uids.ravel(), plan.weights.ravel(), strict=True) if weight]


@given(sizes=shard_sizes, batch=batches)
def test_a_pass_counts_every_slice_exactly_once_and_repeats_weigh_nothing(
    sizes: list[int], batch: tuple[int, int]
) -> None:
    each, replicas = batch
    plan = plan_pass(cohort_of(sizes), batch_size=each * replicas, replicas=replicas)
    assert counted(plan) == list(range(sum(sizes)))
    assert plan.uids.shape == plan.weights.shape == (-(-sum(sizes) // (each * replicas)), replicas, each)
    assert set(np.unique(plan.weights)) <= {0, 1}
    assert plan.uids.max() < sum(sizes), "a repeat is a record that exists"


@given(
    sizes=shard_sizes,
    batch=batches,
    samples=st.integers(1, 90),
    seed=st.integers(0, 9),
    epoch=st.integers(1, 9),
)
def test_training_takes_each_slice_once_before_any_comes_up_again(
    sizes: list[int], batch: tuple[int, int], samples: int, seed: int, epoch: int
) -> None:
    each, replicas = batch
    plan = plan_training(
        cohort_of(sizes),
        samples=samples,
        batch_size=each * replicas,
        replicas=replicas,
        seed=seed,
        epoch=epoch,
    )
    order = counted(plan)
    assert len(order) == samples
    for start in range(0, samples, sum(sizes)):
        part = order[start : start + sum(sizes)]
        assert len(set(part)) == len(part)
    times = Counter(order)
    assert max(times.values()) - min(times.get(uid, 0) for uid in range(sum(sizes))) <= 1


def training_order(*, replicas: int = 1, samples: int = 40, seed: int = 1, epoch: int = 1) -> list[int]:
    cohort = cohort_of([10, 12, 8, 10])
    plan = plan_training(cohort, samples=samples, batch_size=8, replicas=replicas, seed=seed, epoch=epoch)
    return counted(plan)


@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_the_order_does_not_depend_on_the_replicas(replicas: int) -> None:
    assert training_order(replicas=replicas) == training_order()


def test_seed_and_epoch_change_the_order_and_the_same_two_repeat_it() -> None:
    orders = [training_order(seed=seed, epoch=epoch) for seed in (1, 2) for epoch in (1, 2)]
    assert len({tuple(order) for order in orders}) == 4
    assert training_order(seed=2, epoch=1) == orders[2]


def test_a_second_pass_of_an_epoch_has_another_order() -> None:
    order = training_order(samples=80)
    assert order[:40] != order[40:]
    assert sorted(order[40:]) == list(range(40))


def test_shards_are_read_one_after_the_other_in_random_order_and_shuffled_within() -> None:
    shard_of = np.repeat([0, 1, 2, 3], [10, 12, 8, 10])
    visits = set()
    for epoch in range(1, 9):
        order = training_order(epoch=epoch)
        shards = shard_of[order]
        stretches = shards[np.flatnonzero(np.diff(shards, prepend=-1))]
        assert sorted(stretches) == [0, 1, 2, 3], "each shard is one stretch of the order"
        assert any(np.diff(order)[np.diff(shards) == 0] != 1)
        visits.add(tuple(stretches))
    assert len(visits) > 1


@pytest.mark.parametrize(("largest", "size"), [(1, 16), (16, 16), (17, 32), (240, 240), (250, 256)])
def test_the_square_is_the_smallest_multiple_of_a_step_that_holds_the_slices(largest: int, size: int) -> None:
    assert padded_size(largest, 16) == size


def gather(
    cohort: SlicedCohort, plan: EpochPlan, threads: int = 1, **options: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """All that a feed yields, in the order of the global batches: images, masks, uids."""
    replicas = len(options.get("replicas") or range(plan.uids.shape[1]))
    feed = Feed(cohort, plan, settings(replicas, threads=threads), **options)
    parts = [batch for step in feed for batch in step]
    return (
        np.concatenate([part.images.numpy() for part in parts]),
        np.concatenate([part.masks.numpy() for part in parts]),
        np.concatenate([part.uids for part in parts]),
    )


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_feed_yields_exactly_what_was_planned(recorded: Recorded, replicas: int) -> None:
    plan = plan_training(recorded.cohort, samples=50, batch_size=6, replicas=replicas, seed=3, epoch=2)
    images, masks, uids = gather(recorded.cohort, plan)
    np.testing.assert_array_equal(uids, plan.uids.ravel())
    expected_images, expected_masks = recorded.padded(uids)
    np.testing.assert_allclose(images, expected_images, rtol=2e-7, atol=0)
    np.testing.assert_array_equal(masks, expected_masks)


def test_two_replicas_share_the_very_batch_that_one_would_get(recorded: Recorded) -> None:
    alone, shared = (
        gather(
            recorded.cohort,
            plan_training(recorded.cohort, samples=36, batch_size=6, replicas=replicas, seed=3, epoch=2),
        )
        for replicas in (1, 2)
    )
    for one, two in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, two)


def same_slice(replicas: int, samples: int = 12) -> EpochPlan:
    """A plan of 3 steps in which every replica gets record 0 in every place."""
    shape = (3, replicas, samples // 3 // replicas)
    return EpochPlan(uids=np.zeros(shape, np.int64), weights=np.ones(shape, np.float32))


def test_no_two_positions_of_an_epoch_share_an_augmentation(recorded: Recorded) -> None:
    images, _, _ = gather(recorded.cohort, same_slice(2, 24), augment=ALWAYS, seed=5, epoch=1)
    pictures = {picture.tobytes() for picture in images}
    assert len(pictures) == 24, "the same slice came out alike twice"


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_what_is_done_to_a_sample_depends_on_its_position_alone(recorded: Recorded, replicas: int) -> None:
    options = {"augment": AugmentConfig(), "seed": 5, "epoch": 1}
    alone, _, _ = gather(recorded.cohort, same_slice(1), **options)
    shared, _, _ = gather(recorded.cohort, same_slice(replicas), threads=replicas, **options)
    np.testing.assert_array_equal(shared, alone)


def test_workers_that_serve_some_replicas_each_give_the_batches_of_one_that_serves_all(
    recorded: Recorded,
) -> None:
    plan = plan_training(recorded.cohort, samples=48, batch_size=12, replicas=3, seed=3, epoch=2)
    options = {"augment": AugmentConfig(), "seed": 5, "epoch": 1}
    whole = gather(recorded.cohort, plan, **options)
    for served in ([0], [2], [2, 0]):
        part = gather(recorded.cohort, plan, replicas=served, **options)
        for all_values, values in zip(whole, part, strict=True):
            by_replica = all_values.reshape(4, 3, 4, *all_values.shape[1:])
            np.testing.assert_array_equal(values, by_replica[:, served].reshape(values.shape))


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("augment", [AugmentConfig(), WARPED], ids=["compiled", "operators"])
def test_an_epoch_taken_up_at_any_step_goes_on_bit_for_bit(
    recorded: Recorded, augment: AugmentConfig, replicas: int
) -> None:
    plan = plan_training(recorded.cohort, samples=185, batch_size=12, replicas=replicas, seed=3, epoch=2)
    options = {"augment": augment, "seed": 5, "epoch": 2}
    whole = gather(recorded.cohort, plan, **options)
    assert len(plan.uids) == 16
    assert 12 * len(plan.uids) / replicas > AT_ONCE, "pipelines run more than once"
    for first_step in (0, 1, 5, 6, 15):
        rest = gather(recorded.cohort, plan, first_step=first_step, **options)
        for all_values, values in zip(whole, rest, strict=True):
            assert values.tobytes() == all_values[first_step * 12 :].tobytes()
    assert list(Feed(recorded.cohort, plan, settings(replicas), first_step=16, **options)) == []


@pytest.mark.parametrize("samples", [12, 132, 185], ids=["1 run", "3 runs", "4 runs"])
@pytest.mark.parametrize("augment", [AugmentConfig(), WARPED], ids=["compiled", "operators"])
def test_any_number_of_threads_and_of_steps_made_together_gives_the_same_batches_bit_for_bit(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, augment: AugmentConfig, samples: int
) -> None:
    plan = plan_training(recorded.cohort, samples=samples, batch_size=12, replicas=1, seed=3, epoch=2)
    assert samples == 12 or len(plan.uids) % (AT_ONCE // 12), "the last run is not full"
    options = {"augment": augment, "seed": 5, "epoch": 2, "log_parameters": True}
    together, by_step, by_threads = [], [], []
    for at_once, threads, kept in ((AT_ONCE, 1, together), (1, 1, by_step), (AT_ONCE, 3, by_threads)):
        monkeypatch.setattr("clotseg.dali.feed.AT_ONCE", at_once)
        feed = Feed(recorded.cohort, plan, settings(threads=threads), **options)
        several = augment == WARPED and at_once > 12 and len(plan.uids) > 1
        assert (feed.steps_a_run > 1) == several
        for (batch,) in feed:
            kept.append((batch.images.numpy().tobytes(), batch.masks.numpy().tobytes(), batch.parameters))
    assert len(together) == len(plan.uids)
    assert by_step == together
    assert by_threads == together


@pytest.mark.parametrize("stretch", [1, 130], ids=["1 run", "2 runs"])
@pytest.mark.parametrize(("replicas", "threads"), [(1, 1), (2, 1), (1, 3)])
def test_an_epoch_opened_in_stretches_gives_the_same_batches_bit_for_bit(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, stretch: int, replicas: int, threads: int
) -> None:
    plan = plan_training(recorded.cohort, samples=440, batch_size=12, replicas=replicas, seed=3, epoch=2)
    options = {"augment": WARPED, "seed": 5, "epoch": 2, "first_step": 3}
    whole = gather(recorded.cohort, plan, threads, **options)
    monkeypatch.setattr("clotseg.dali.feed.STRETCH", stretch)
    monkeypatch.setattr("clotseg.dali.feed.FIRST_STRETCH", 65)
    for at_once, values in zip(whole, gather(recorded.cohort, plan, threads, **options), strict=True):
        assert values.tobytes() == at_once.tobytes()


@pytest.mark.parametrize("there", [True, False], ids=["files in memory", "no place in memory"])
def test_the_index_files_of_a_feed_are_gone_when_it_is_open(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    disk.mkdir()
    if there:
        memory.mkdir()
    monkeypatch.setattr("clotseg.dali.indices.IN_MEMORY", memory)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    plan = plan_pass(recorded.cohort, batch_size=6, replicas=1)
    _, _, uids = gather(recorded.cohort, plan)
    np.testing.assert_array_equal(uids, plan.uids.ravel())
    assert not list(tmp_path.glob("*/*"))


def test_parameters_are_logged_from_the_step_an_epoch_is_taken_up_at(recorded: Recorded) -> None:
    plan = plan_training(recorded.cohort, samples=48, batch_size=12, replicas=2, seed=3, epoch=2)
    whole, rest = (
        [
            batch.parameters
            for step in Feed(
                recorded.cohort,
                plan,
                settings(2),
                augment=AugmentConfig(),
                log_parameters=True,
                first_step=first_step,
            )
            for batch in step
        ]
        for first_step in (0, 2)
    )
    assert [len(records) for records in whole] == [6] * 8
    assert rest == whole[4:]


def test_seed_and_epoch_decide_the_augmentation(recorded: Recorded) -> None:
    streams = [
        gather(recorded.cohort, same_slice(1), augment=ALWAYS, seed=seed, epoch=epoch)[0].tobytes()
        for seed, epoch in [(1, 1), (1, 2), (2, 1), (1, 1)]
    ]
    assert streams[0] == streams[3]
    assert len(set(streams)) == 3


def test_no_pixel_is_copied_on_the_way_to_tensorflow(recorded: Recorded) -> None:
    shards = recorded.cohort.shards
    outputs = slice_pipeline(
        shards=shards,
        indices=[path.with_name(index_name(path.name)) for path in shards],
        size=SIZE,
        augment=drawn_by(ALWAYS, batch=4),
        batch_size=4,
        threads=1,
        device_id=None,
        prefetch=1,
    ).run()
    addresses = [part.as_tensor().data_ptr() for part in outputs[:2]]
    for step, batch in enumerate(_to_tensorflow(outputs, None, 2)):
        assert len(batch.images) == len(batch.masks) == 2
        for tensor, address in zip((batch.images, batch.masks), addresses, strict=True):
            array = np.asarray(memoryview(tensor))
            assert array.__array_interface__["data"][0] == address + step * array.nbytes


def test_batches_that_are_kept_are_not_overwritten_by_later_steps(recorded: Recorded) -> None:
    plan = plan_training(recorded.cohort, samples=5 * AT_ONCE, batch_size=4, replicas=1, seed=1, epoch=1)
    kept, copies = [], []
    for step in Feed(recorded.cohort, plan, settings(), augment=WARPED, seed=1, epoch=1):
        kept.append(step[0])
        copies.append((step[0].images.numpy().copy(), step[0].masks.numpy().copy()))
    assert len(kept) == 5 * AT_ONCE / 4
    for batch, (images, masks) in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(batch.images.numpy(), images)
        np.testing.assert_array_equal(batch.masks.numpy(), masks)


def test_a_feed_tells_how_long_it_has_kept_the_training_waiting(recorded: Recorded) -> None:
    feed = Feed(recorded.cohort, plan_pass(recorded.cohort, batch_size=9, replicas=1), settings())
    waited = [feed.waited_s]
    for _ in feed:
        waited.append(feed.waited_s)
    assert waited[0] == 0
    assert all(np.diff(waited) > 0)


@pytest.fixture
def copied(sliced_project: Project, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of the training shards that a test may harm, and their manifest."""
    folder = tmp_path / "Training"
    shutil.copytree(sliced_project.sliced / "Training", folder)
    return folder, read_sliced(sliced_project, "Training")


def test_an_opened_cohort_knows_the_case_of_every_record(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = copied
    cohort = open_cohort(folder, manifest)
    import tensorflow as tf

    examples = (
        tf.train.Example.FromString(record.numpy()).features.feature
        for record in tf.data.TFRecordDataset([str(shard) for shard in cohort.shards])
    )
    names = [example["case"].bytes_list.value[0].decode() for example in examples]
    assert [cohort.case_names[case] for case in cohort.case_of] == names
    assert cohort.records == len(names)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: ["5 " + lines[0].split()[1], *lines[1:]],
        lambda lines: ["not an index", *lines[1:]],
        lambda lines: ["0 99999999999999999999", *lines[1:]],
        lambda lines: lines[:0],
    ],
    ids=["a line missing", "a line too many", "lines swapped", "shifted", "no numbers", "too large", "empty"],
)
def test_an_index_that_does_not_fit_its_shard_is_corrupt(
    copied: tuple[Path, dict[str, Any]], spoil: Any
) -> None:
    folder, manifest = copied
    index = folder / index_name(manifest["shards"][0]["name"])
    index.write_text("".join(f"{line}\n" for line in spoil(index.read_text().splitlines())))
    with pytest.raises(CorruptArtifactError, match=index.name) as caught:
        open_cohort(folder, manifest)
    assert caught.value.exit_code == 4


def test_a_missing_index_is_corrupt(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = copied
    index = folder / index_name(manifest["shards"][0]["name"])
    index.unlink()
    with pytest.raises(CorruptArtifactError, match=index.name):
        open_cohort(folder, manifest)


def test_a_record_swapped_under_its_index_is_found_out(copied: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = copied
    cohort = open_cohort(folder, manifest)
    (first, size), (second, second_size) = cohort.offsets[0][0], cohort.offsets[0][1]
    assert size == second_size
    shard = cohort.shards[0]
    content = shard.read_bytes()
    records = content[first : first + size], content[second : second + size]
    shard.write_bytes(content[:first] + records[1] + records[0] + content[second + size :])
    feed = Feed(cohort, plan_pass(cohort, batch_size=4, replicas=1), settings())
    with pytest.raises(CorruptArtifactError, match=r"records \[0, 1, 2, 3\] were due.*\[1, 0, 2, 3\]"):
        list(feed)
