"""The account of a training: speed, waiting, time left and the best epoch, counted by hand."""

import math
from dataclasses import replace

import pytest

from clotseg.dashboard import TrainingState, starvation_advice
from tests.dashboard.conftest import HISTORY, Row


def started(epochs: int = 10, **options: object) -> TrainingState:
    state = TrainingState()
    first = {"first_epoch": 1, "history": (), "now": 0.0, **options}
    state.begin_run("run", "CPU", epochs, **first)  # type: ignore[arg-type]
    return state


def test_the_speed_now_is_of_the_last_seconds_and_the_mean_of_the_epoch() -> None:
    state = started()
    state.begin_epoch(1, 1000, 100.0)
    for second in range(1, 21):
        state.end_step(0.5, 10 if second <= 10 else 40, 0.0, 100.0 + second)
    assert state.speed_now(120.0) == pytest.approx(40)
    assert state.speed_mean(120.0) == pytest.approx((10 * 10 + 10 * 40) / 20)


def test_steps_longer_than_the_window_still_have_a_speed() -> None:
    state = started()
    state.begin_epoch(1, 10, 0.0)
    for now in (30.0, 60.0, 80.0):
        state.end_step(0.5, 20, 0.0, now)
    assert state.speed_now(81.0) == pytest.approx(20 / 20)


def test_the_speed_falls_while_a_step_does_not_end() -> None:
    state = started()
    state.begin_epoch(1, 100, 0.0)
    for second in range(1, 11):
        state.end_step(0.5, 10, 0.0, float(second))
    assert state.speed_now(10.0) == pytest.approx(10)
    assert state.speed_now(70.0) == pytest.approx(60 / 60)


def test_validation_is_no_training_time() -> None:
    state = started()
    state.begin_epoch(1, 2, 0.0)
    state.end_step(0.5, 50, 1.0, 10.0)
    state.begin_validation(5, 10.0)
    assert state.speed_now(40.0) is None
    assert state.speed_mean(40.0) == pytest.approx(5)
    assert state.waiting(40.0) == pytest.approx(0.1)


def test_time_left_goes_by_the_mean_epoch_and_how_far_this_one_is(midway: TrainingState) -> None:
    assert midway.seconds_left(5012.0) == pytest.approx(77 * 200 - 12)


def test_in_the_first_epoch_time_left_is_guessed_from_its_steps() -> None:
    state = started(epochs=3)
    state.begin_epoch(1, 100, 0.0)
    state.end_step(0.5, 8, 0.0, 20.0)  # builds the graph
    assert state.seconds_left(20.0) is None
    for number in range(1, 11):
        state.end_step(0.5, 8, 0.0, 20.0 + 2 * number)
    epoch_s = 20 + 99 * 2
    assert state.seconds_left(40.0) == pytest.approx(3 * epoch_s - 40)
    state.begin_validation(7, 218.0)
    assert state.seconds_left(230.0) == pytest.approx(2 * 230)


def test_a_time_limit_ends_what_has_more_epochs_left() -> None:
    state = started(epochs=1000, limit_s=60.0)
    assert state.seconds_left(10.0) == pytest.approx(50), "known before the first step"
    state.begin_epoch(1, 10, 10.0)
    state.end_epoch(Row(epoch=1, seconds=20.0))
    assert state.seconds_left(30.0) == pytest.approx(30)
    assert state.seconds_left(70.0) == 0
    short = started(epochs=2, limit_s=600.0)
    short.end_epoch(Row(epoch=1, seconds=20.0))
    assert short.seconds_left(20.0) == pytest.approx(20)


def test_a_resumed_run_goes_by_its_own_epochs_as_soon_as_it_has_one() -> None:
    state = started(epochs=30, first_epoch=24, history=HISTORY)
    assert state.seconds_left(0.0) == pytest.approx(7 * 200)
    state.begin_epoch(24, 10, 0.0)
    state.end_epoch(Row(epoch=24, seconds=50.0))
    assert state.seconds_left(50.0) == pytest.approx(6 * 50)


def test_a_resumed_run_shows_its_earlier_curve_and_its_best_epoch() -> None:
    state = started(first_epoch=24, history=HISTORY)
    state.end_epoch(Row(epoch=24, val_dice=0.2, loss=0.1))
    assert state.losses == [row.loss for row in HISTORY] + [0.1]
    assert state.best is not None
    assert (state.best.epoch, state.done) == (22, 24)


def test_epochs_that_are_done_again_are_not_counted_twice() -> None:
    state = started(first_epoch=20, history=HISTORY)
    assert [row.epoch for row in state.history] == list(range(1, 20))


def test_the_best_epoch_is_the_first_with_the_highest_finite_dice() -> None:
    state = started()
    assert state.best is None
    for epoch, dice in enumerate([0.3, 0.6, math.nan, 0.6], 1):
        state.end_epoch(Row(epoch=epoch, val_dice=dice))
    assert state.best is not None
    assert state.best.epoch == 2


@pytest.mark.parametrize(("waiting", "warned"), [(0.0, False), (0.05, False), (0.051, True), (1.0, True)])
def test_waiting_for_more_than_5_percent_is_starvation(waiting: float, warned: bool) -> None:
    advice = starvation_advice(waiting)
    assert (advice is not None) == warned
    if advice:
        assert f"{waiting:.0%}" in advice
        assert all(word in advice for word in ("threads", "prefetch", "local disk", "blur", "clahe"))


def test_starvation_is_told_when_it_begins_not_in_every_epoch() -> None:
    state, fed, starved = started(), Row(waiting=0.01), Row(waiting=0.2)
    shares = (starved, starved, fed, starved)
    told = [state.end_epoch(replace(row, epoch=number)) for number, row in enumerate(shares, 1)]
    assert [advice is not None for advice in told] == [True, False, False, True]


def test_starvation_is_told_again_after_a_resume() -> None:
    state = started(first_epoch=2, history=[Row(epoch=1, waiting=0.2)])
    assert state.end_epoch(Row(epoch=2, waiting=0.2)) is not None
