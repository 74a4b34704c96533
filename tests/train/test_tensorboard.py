"""Events as TensorFlow's own reader finds them, after good and bad ends; overlays, pixel by pixel."""

import signal
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.dali.feed import open_cohort
from clotseg.errors import EnvironmentProblem
from clotseg.prep.stages import read_sliced
from clotseg.project import Project, Run
from clotseg.train.records import EpochRow
from clotseg.train.tensorboard import Events, draw_overlays, read_slices, slices_to_show
from tests.conftest import largest_file, start_python
from tests.dali.conftest import Recorded, read_records, settings
from tests.train.conftest import ROW

GREEN, MAGENTA, YELLOW = (0, 220, 90), (255, 60, 200), (255, 225, 0)


def rows(last: int) -> list[EpochRow]:
    return [replace(ROW, epoch=epoch, loss=1 / epoch, val_dice=epoch / 10) for epoch in range(1, last + 1)]


def pictures(seed: int, count: int = 2) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 9, 7, 3), np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def written(run: Run) -> tuple[dict[str, list[tuple[int, float]]], dict[str, list[tuple[int, Any]]]]:
    """Scalars and pictures by tag as (step, value), in the order in which TensorBoard would meet them."""
    import tensorflow as tf

    scalars: dict[str, list[tuple[int, float]]] = defaultdict(list)
    images: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for file in sorted(run.tensorboard.glob("*tfevents*")):
        events = list(tf.compat.v1.train.summary_iterator(str(file)))
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            for value in event.summary.value:
                if value.HasField("image"):
                    decoded = tf.io.decode_png(value.image.encoded_image_string).numpy()
                    assert decoded.shape == (value.image.height, value.image.width, value.image.colorspace)
                    images[value.tag].append((event.step, decoded))
                else:
                    scalars[value.tag].append((event.step, value.simple_value))
    return scalars, images


def write_epochs(run: Run, last: int, history: Sequence[EpochRow] = ()) -> None:
    events = Events(run, history)
    for row in rows(last)[len(history) :]:
        events.epoch(row)
        events.overlays(row.epoch, pictures(row.epoch))
    events.close()


def assert_holds_each_epoch_once(run: Run, last: int) -> None:
    scalars, images = written(run)
    assert scalars.keys() == asdict(ROW).keys() - {"epoch"}
    for tag, points in scalars.items():
        expected = [(row.epoch, pytest.approx(asdict(row)[tag])) for row in rows(last)]
        assert points == expected, tag
    for points in images.values():
        assert [step for step, _ in points] == list(range(1, last + 1))


def test_each_epoch_has_its_numbers_and_its_pictures(run: Run) -> None:
    write_epochs(run, 12)
    assert_holds_each_epoch_once(run, 12)
    images = written(run)[1]
    assert images.keys() == {"validation/0", "validation/1"}
    for number, tag in enumerate(sorted(images)):
        for step, picture in images[tag]:
            np.testing.assert_array_equal(picture, pictures(step)[number])


def test_a_resumed_run_goes_on_without_an_epoch_twice(run: Run) -> None:
    write_epochs(run, 5)
    write_epochs(run, 7, history=rows(3))
    assert_holds_each_epoch_once(run, 7)


def test_epochs_that_will_be_done_again_are_gone_at_once(run: Run) -> None:
    write_epochs(run, 5)
    Events(run, rows(3))
    assert_holds_each_epoch_once(run, 3)


def test_a_resumed_run_brings_back_the_numbers_that_were_lost(run: Run) -> None:
    write_epochs(run, 2)
    Events(run, rows(4))
    assert [step for step, _ in written(run)[0]["loss"]] == [1, 2, 3, 4]


def test_a_full_disk_is_told_and_what_was_refused_is_written_with_the_next(run: Run) -> None:
    events = Events(run)
    events.epoch(rows(1)[0])
    with largest_file(10), pytest.raises(EnvironmentProblem, match="could not be written"):
        events.epoch(rows(2)[1])
    assert [step for step, _ in written(run)[0]["loss"]] == [1]
    events.epoch(rows(3)[2])
    assert [step for step, _ in written(run)[0]["loss"]] == [1, 2, 3]


def test_what_was_refused_last_is_written_at_the_end(run: Run) -> None:
    events = Events(run)
    with largest_file(10), pytest.raises(EnvironmentProblem):
        events.epoch(ROW)
    events.close()
    assert [step for step, _ in written(run)[0]["loss"]] == [1]


DIE_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from clotseg.project import Run
from clotseg.train.records import EpochRow
from clotseg.train.tensorboard import Events
events = Events(Run(Path(sys.argv[1])))
sys.addaudithook(lambda event, _: event == "os.rename" and os.kill(os.getpid(), signal.SIGKILL))
events.epoch(EpochRow(epoch=1, loss=1, val_dice=0.1, learning_rate=5e-4, seconds=2.5, slices_per_s=20.0,
                      waiting=0.25))
"""


def test_an_unfinished_file_has_no_name_that_tensorboard_would_read(run: Run) -> None:
    with start_python(DIE_BEFORE_THE_RENAME, run.folder) as writer:
        assert writer.wait(60) == -signal.SIGKILL
    (unfinished,) = run.tensorboard.iterdir()
    assert "tfevents" not in unfinished.name  # tensorboard's IsTensorFlowEventsFile looks for nothing else
    write_epochs(run, 1)
    assert not unfinished.exists()


WRITE_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from clotseg.project import Run
from clotseg.train.records import EpochRow
from clotseg.train.tensorboard import Events
events, epoch = Events(Run(Path(sys.argv[1]))), 0
while True:
    epoch += 1
    events.epoch(EpochRow(epoch=epoch, loss=1 / epoch, val_dice=epoch / 10, learning_rate=5e-4, seconds=2.5,
                          slices_per_s=20.0, waiting=0.25))
    events.overlays(epoch, np.random.default_rng(epoch).integers(0, 256, (2, 9, 7, 3), np.uint8))
    print(epoch, flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_while_it_writes_leaves_whole_files_and_can_go_on(run: Run) -> None:
    writer = start_python(WRITE_FOR_EVER, run.folder)
    assert writer.stdout is not None
    while int(writer.stdout.readline()) < 20:
        pass
    writer.kill()
    said, _ = writer.communicate(timeout=60)
    finished = int(said.split()[-1]) if said.split() else 20
    steps = [step for step, _ in written(run)[0]["loss"]]
    assert steps in (list(range(1, finished + 1)), list(range(1, finished + 2)))
    write_epochs(run, finished + 3, history=rows(finished))
    assert_holds_each_epoch_once(run, finished + 3)


def overlay(mask: Any, probability: Any, grey: Any = None, **options: Any) -> NDArray[np.uint8]:
    """The overlay of one slice; black where none is given."""
    truth, predicted = np.array([mask]), np.array([probability], np.float32)
    slices = np.zeros((*truth.shape, 2), np.uint8) if grey is None else grey
    return draw_overlays(slices, truth, predicted, **options)[0]


def test_outlines_are_green_for_the_truth_magenta_for_the_prediction_and_yellow_for_both() -> None:
    truth = np.zeros((6, 6), np.uint8)
    truth[1:4, 1:4] = 1
    probability = np.zeros((6, 6))
    probability[3:5, 1:4] = 0.5
    shown = overlay(truth, probability, zoom=1)
    expected = np.zeros((6, 6, 3), np.uint8)
    expected[1:4, 1:4] = GREEN
    expected[2, 2] = 0  # inside
    expected[3:5, 1:4] = MAGENTA
    expected[3, 1:4] = YELLOW
    np.testing.assert_array_equal(shown, expected)


def test_an_outline_is_what_erosion_takes_away() -> None:
    truth = (cv2.GaussianBlur(np.random.default_rng(3).random((64, 64)), (0, 0), 3) > 0.5).astype(np.uint8)
    truth[[0, -1]] = 0
    truth[:, [0, -1]] = 0
    large = cv2.resize(truth, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    outline = (large - cv2.erode(large, cross)) > 0
    shown = overlay(truth, np.zeros((64, 64)))
    np.testing.assert_array_equal((shown == GREEN).all(axis=-1), outline)


def test_a_clot_of_one_pixel_is_seen_around_its_pixel() -> None:
    truth = np.zeros((3, 3), np.uint8)
    truth[1, 1] = 1
    shown = overlay(truth, np.zeros((3, 3)), zoom=3)
    assert shown.shape == (9, 9, 3)
    assert (shown == GREEN).all(axis=-1).sum() == 8
    assert tuple(shown[4, 4]) == (0, 0, 0), "the pixel itself stays visible"


def test_floats_bytes_and_the_networks_own_shapes_give_the_same_picture() -> None:
    random = np.random.default_rng(4)
    grey = random.integers(0, 256, (3, 8, 8, 4), np.uint8)
    masks, probabilities = random.integers(0, 2, (3, 8, 8), np.uint8), random.random((3, 8, 8), np.float32)
    one = draw_overlays(grey, masks, probabilities, channel=1)
    other = draw_overlays(
        grey.astype(np.float32) / 255,
        masks[..., np.newaxis].astype(np.float32),
        probabilities[..., np.newaxis],
        channel=1,
    )
    np.testing.assert_array_equal(one, other)
    untouched = draw_overlays(grey, np.zeros_like(masks), np.zeros_like(probabilities), channel=1, zoom=1)
    np.testing.assert_array_equal(untouched, np.repeat(grey[..., 1:2], 3, axis=-1))


def test_the_threshold_decides_what_is_predicted() -> None:
    shown = [overlay(np.zeros((3, 3)), np.full((3, 3), 0.4), threshold=at).any() for at in (0.5, 0.4)]
    assert shown == [False, True]


def test_of_each_case_the_slice_with_most_clot_is_shown_the_largest_first() -> None:
    clot_pixels = np.array([0, 5, 9, 0, 0, 20, 20, 1, 0, 9])
    case_of = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 4])
    np.testing.assert_array_equal(slices_to_show(clot_pixels, case_of, 4), [5, 2, 9, 7])
    np.testing.assert_array_equal(slices_to_show(clot_pixels, case_of, 2), [5, 2])


def test_a_cohort_without_clots_has_no_pictures_and_no_errors(sliced_project: Project, run: Run) -> None:
    none = slices_to_show(np.zeros(4, np.int64), np.arange(4), 3)
    cohort = open_cohort(sliced_project.sliced / "Validation", read_sliced(sliced_project, "Validation"))
    images, masks = read_slices(cohort, none, settings())
    assert (images.shape, masks.shape) == ((0, 48, 48, 2), (0, 48, 48, 1))
    Events(run).overlays(1, draw_overlays(images, masks, masks))
    assert written(run) == ({}, {})


def test_the_slices_to_show_are_read_in_their_order_as_validation_sees_them(sliced_project: Project) -> None:
    folder = sliced_project.sliced / "Validation"
    cohort = open_cohort(folder, read_sliced(sliced_project, "Validation"))
    uids = np.array([7, 0, cohort.records - 1])
    images, masks = read_slices(cohort, uids, settings())
    expected_images, expected_masks = Recorded(cohort, *read_records(list(cohort.shards))).padded(uids)
    np.testing.assert_allclose(images, expected_images, atol=1e-7)
    np.testing.assert_array_equal(masks, expected_masks)
