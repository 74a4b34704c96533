"""What `clotseg bench` says: the verdict follows the figures, and no setting is named that does not."""

from dataclasses import replace

import pytest

from clotseg.bench.verdict import Figures, judge

GB = 10**9
FAST = Figures(
    disk=50_000,
    memory=90_000,
    plain=20_000,
    augmented=10_000,
    feed=9_900,
    constant=500,
    training=495,
    on_cpu=False,
    spare_threads=0,
    prefetch=2,
    cohort_bytes=4 * GB,
    memory_bytes=64 * GB,
)
"""A GPU that is busy all the time."""


def test_a_step_that_never_waits_is_the_bottleneck_and_no_setting_is_named() -> None:
    verdict = judge(FAST)
    assert verdict.bottleneck == "step"
    assert verdict.change is None
    assert "99%" in verdict.told
    assert any("19.8 times as fast" in note for note in verdict.notes)


def test_augmentation_slower_than_the_gpu_is_named_with_what_it_costs() -> None:
    verdict = judge(replace(FAST, augmented=400, feed=395, training=390, constant=5_000))
    assert verdict.bottleneck == "augmentation"
    assert "[augment]" in str(verdict.change)
    assert "at most 5000 slices/s" in str(verdict.change), "the step is the next limit"
    assert not [note for note in verdict.notes if "times as fast" in note]


@pytest.mark.parametrize(
    ("augments", "on_cpu", "helps"),
    [(False, True, True), (False, False, True), (True, True, True), (True, False, False)],
)
def test_idle_cores_are_offered_to_dali_where_the_work_is_theirs(
    augments: bool, on_cpu: bool, helps: bool
) -> None:
    slow = replace(
        FAST, feed=300, training=290, constant=5_000, spare_threads=6, on_cpu=on_cpu, augmented=305.0
    )
    slow = slow if augments else replace(slow, plain=310)
    verdict = judge(slow)
    assert verdict.bottleneck == ("augmentation" if augments else "reading")
    assert ("threads" in str(verdict.change)) == helps
    assert "threads" not in str(judge(replace(slow, spare_threads=0)).change)


def test_reading_is_the_bottleneck_where_augmentation_adds_little() -> None:
    verdict = judge(replace(FAST, plain=410, augmented=400, feed=395, training=390, constant=5_000))
    assert verdict.bottleneck == "reading"
    assert verdict.change is None


def test_handing_over_is_the_bottleneck_where_dali_alone_is_fast() -> None:
    verdict = judge(replace(FAST, feed=700, training=690, constant=5_000))
    assert verdict.bottleneck == "hand-over"


def test_a_disk_holds_up_only_what_does_not_fit_in_memory() -> None:
    slow = replace(FAST, disk=100, training=110)
    assert judge(replace(slow, cohort_bytes=100 * GB)).bottleneck == "disk"
    fits = judge(slow)
    assert fits.bottleneck != "disk"
    assert any("first epoch" in note and "100 slices/s" in note for note in fits.notes)
    assert judge(replace(slow, cohort_bytes=100 * GB, disk=10_000)).bottleneck != "disk"


def test_a_disk_as_fast_as_memory_is_doubted() -> None:
    assert any("kept the files" in note for note in judge(replace(FAST, disk=90_000)).notes)
    assert not any("kept the files" in note for note in judge(FAST).notes)


def test_stages_that_are_fast_alone_and_slow_together_wait_for_one_another() -> None:
    verdict = judge(replace(FAST, training=300, prefetch=3))
    assert verdict.bottleneck == "waiting"
    assert "now 3" in str(verdict.change)


CPU = replace(FAST, on_cpu=True, plain=8_000, augmented=900, feed=880, constant=100, training=89)
"""Two cores that augment and train in turn: 10 ms a slice for the step, a tenth of that for its input."""


def test_on_a_cpu_the_dearest_part_of_a_slices_time_is_the_bottleneck() -> None:
    assert judge(CPU).bottleneck == "step"
    assert "90% of a slice's time" in judge(CPU).told, "10 ms of 10 + 1/0.88"
    small_network = replace(CPU, constant=2_000, training=610)
    verdict = judge(small_network)
    assert verdict.bottleneck == "augmentation"
    assert "at most 1600 slices/s" in str(verdict.change), "1 / (1/8000 + 1/2000)"
    assert not [note for note in verdict.notes if "times as fast" in note]


def test_training_that_does_not_augment_is_never_told_to_augment_less() -> None:
    verdict = judge(replace(CPU, augmented=None, plain=900, constant=2_000, training=600))
    assert verdict.bottleneck == "reading"
    assert verdict.change is None
