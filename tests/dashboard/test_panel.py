"""The panel: all that is promised is on it, whole, on a narrow, a usual and a wide terminal."""

import io
import math
import re
from dataclasses import replace
from datetime import datetime

import pytest
from rich.console import Console

from clotseg.dashboard import TrainingState, draw_training, sparkline, starvation_advice
from clotseg.telemetry import DeviceLoad
from tests.dashboard.conftest import HISTORY, Row

ELEVEN = datetime(2024, 2, 29, 11, 0, 0)
LOADS = (
    DeviceLoad(name="GPU 0", busy=0.97, used_bytes=34_100_000_000, total_bytes=80 * 10**9, power_w=412.3),
    DeviceLoad(name="CPU, run", busy=0.5, used_bytes=3_200_000_000),
    DeviceLoad(name="CPU, all", busy=0.625, used_bytes=9_000_000_000, total_bytes=24_700_000_000),
)
SIZES = pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (200, 50), (40, 24)], ids=["80x24", "200x50", "40x24"]
)


def panel(
    state: TrainingState,
    *,
    width: int = 80,
    height: int = 24,
    loads: tuple[DeviceLoad, ...] = LOADS,
    now: float = 5012.0,
) -> list[str]:
    """The lines of the panel, 12 s after the start of its epoch, at eleven o'clock."""
    screen = Console(file=io.StringIO(), width=width)
    screen.print(draw_training(state, loads, now, ELEVEN, width=width, height=height))
    lines: list[str] = screen.file.getvalue().splitlines()
    return lines


def value(lines: list[str], name: str) -> str:
    """What the panel shows beside a name, up to the next column."""
    found = re.search(rf"[│ ]{re.escape(name)} +(.+?)(?:  |│)", "\n".join(lines))
    assert found is not None, f"{name} is not on the panel"
    return found[1].strip()


@SIZES
def test_run_stage_epoch_and_step_are_shown_whole(midway: TrainingState, width: int, height: int) -> None:
    lines = panel(midway, width=width, height=height)
    assert re.search(r"epoch +━.* 23/100 │", lines[1])
    assert re.search(r"training +━.* 12345/22500 │", lines[2])
    assert "20240229-101500" in lines[0]
    assert "CPU, 2 replicas" in "\n".join(lines)


@SIZES
def test_loss_and_dice_are_shown_up_to_their_newest_block(
    midway: TrainingState, width: int, height: int
) -> None:
    lines = panel(midway, width=width, height=height)
    for name, number, curve in (("loss", "1.234e-05", midway.losses), ("val Dice", "0.7", midway.dices)):
        shown, blocks = value(lines, name).split()
        assert shown == number
        assert len(blocks) == min(len(curve), 10 if width == 40 else 12 if width == 80 else 71)
        assert blocks == sparkline(curve, len(blocks))


@SIZES
def test_all_facts_are_shown_whole(midway: TrainingState, width: int, height: int) -> None:
    lines = panel(midway, width=width, height=height)
    assert value(lines, "best Dice") == "0.73 (epoch 22)"
    assert value(lines, "learning rate") == "0.0005"
    assert value(lines, "slices/s") == "175.0, mean 200.0"
    assert value(lines, "waiting") == "12.5% of the time"
    assert value(lines, "time left") == "4:16:28"
    assert value(lines, "ends at") == "15:16:28"
    assert value(lines, "elapsed") == "1:23:32"


@SIZES
def test_each_device_has_its_load_memory_and_power(midway: TrainingState, width: int, height: int) -> None:
    lines = panel(midway, width=width, height=height)
    assert value(lines, "GPU 0") == "97%, 34.1/80 GB, 412 W"
    assert value(lines, "CPU, run") == "50%, 3.2 GB"
    assert value(lines, "CPU, all") == "62%, 9.0/25 GB"


@SIZES
def test_the_newest_messages_are_shown_whole(midway: TrainingState, width: int, height: int) -> None:
    midway.messages.append((ELEVEN, "the disk is full"))
    midway.messages.append((ELEVEN, "resumed from epoch 3"))
    text = "\n".join(panel(midway, width=width, height=height))
    assert text.index("11:00 the disk is full") < text.index("11:00 resumed from epoch 3")


def test_a_long_message_goes_over_several_lines(midway: TrainingState) -> None:
    said = "checkpoint could not be written: no space is left on the device"
    midway.messages.append((ELEVEN, said))
    lines = panel(midway, width=40)
    assert said in re.sub(r"[│\s]+", " ", "".join(lines))


@pytest.mark.parametrize("width", range(36, 120, 7))
@pytest.mark.parametrize("height", [16, 20, 24, 50])
def test_the_panel_fits_the_terminal_and_nothing_on_it_is_cut_off(
    midway: TrainingState, width: int, height: int
) -> None:
    for number in range(9):
        midway.messages.append((ELEVEN, f"message {number} of which there is a line to tell"))
    lines = panel(midway, width=width, height=height, loads=LOADS * 5)
    assert {len(line) for line in lines} == {width}
    assert len(lines) < height
    assert "…" not in "".join(lines)


def test_devices_that_do_not_fit_are_counted(midway: TrainingState) -> None:
    loads = tuple(replace(LOADS[0], name=f"GPU {number}") for number in range(16))
    text = "\n".join(panel(midway, loads=loads))
    shown = len(re.findall(r"GPU \d+ ", text))
    assert 0 < shown < 16
    assert f"and {16 - shown} more" in text


def test_what_a_driver_does_not_tell_is_left_out(midway: TrainingState) -> None:
    lines = panel(midway, loads=(DeviceLoad(name="GPU 0", busy=0.5), DeviceLoad(name="GPU 1")))
    assert value(lines, "GPU 0") == "50%"
    assert value(lines, "GPU 1") == "–"


def test_an_end_on_another_day_has_its_date(midway: TrainingState) -> None:
    midway.history = [replace(row, seconds=7200.0) for row in HISTORY]
    lines = panel(midway)
    assert value(lines, "time left") == "6 days, 9:59:48"
    assert value(lines, "ends at") == "Wed 06 Mar 20:59"


def test_before_the_first_step_there_are_dashes() -> None:
    state = TrainingState()
    state.begin_run("run", "CPU", 3, 1, (), 5000.0)
    lines = panel(state)
    told_later = (
        "loss",
        "val Dice",
        "best Dice",
        "learning rate",
        "slices/s",
        "waiting",
        "time left",
        "ends at",
    )
    for name in told_later:
        assert value(lines, name) == "–"
    assert "0/3" in lines[1]


def test_validation_has_its_own_bar_and_keeps_the_mean_speed(midway: TrainingState) -> None:
    midway.begin_validation(7, 5012.0)
    midway.step = 3
    lines = panel(midway, now=5100.0)
    assert re.search(r"validating +━.* 3/7 │", lines[2])
    assert value(lines, "slices/s") == "–, mean 200.0"


def test_a_diverged_run_still_has_a_panel() -> None:
    state = TrainingState()
    state.begin_run("run", "CPU", 9, 1, (), 0.0)
    for epoch, loss in enumerate([0.5, math.nan, math.inf, 0.9], 1):
        state.end_epoch(Row(epoch=epoch, loss=loss, val_dice=math.nan))
    state.loss = math.nan
    assert value(panel(state), "loss") == "nan ▁××█"
    assert value(panel(state), "best Dice") == "–"


@pytest.mark.parametrize(
    ("values", "blocks"),
    [([], ""), ([0.3], "▁"), ([0.3, 0.3], "▁▁"), ([0, 1], "▁█"), ([7, 0, 3, 7], "█▁▄█"), ([math.nan], "×")],
)
def test_a_sparkline_spans_lowest_to_highest(values: list[float], blocks: str) -> None:
    assert sparkline(values, 12) == blocks


def test_a_sparkline_keeps_the_newest_values() -> None:
    assert sparkline([100.0, *range(8)], width=8) == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize("width", [1, 2, 5, 12, 25, 35])
@pytest.mark.parametrize("height", [1, 2, 5, 11])
def test_no_terminal_is_too_small_to_train_on(midway: TrainingState, width: int, height: int) -> None:
    midway.messages.append((ELEVEN, "the disk is full"))
    assert panel(midway, width=width, height=height)


def test_a_training_that_outlasts_the_calendar_has_a_panel(midway: TrainingState) -> None:
    midway.epochs = 10**12
    assert value(panel(midway), "time left") == value(panel(midway), "ends at") == "–"


def test_advice_on_starvation_is_read_whole_on_a_narrow_terminal(midway: TrainingState) -> None:
    advice = starvation_advice(1.0)
    assert advice is not None
    midway.messages.append((ELEVEN, advice))
    assert advice in re.sub(r"[│\s]+", " ", "".join(panel(midway, width=40, height=25)))
