"""What a user reads and what a script sees when something is wrong."""

import ctypes
import operator
import signal
from functools import partial

import pytest

import clotseg.errors
from clotseg.errors import (
    ClotsegError,
    ConfigError,
    CorruptArtifactError,
    DataError,
    EnvironmentProblem,
    Interrupted,
)


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [(ClotsegError, 1), (ConfigError, 2), (DataError, 3), (CorruptArtifactError, 4), (EnvironmentProblem, 5)],
)
def test_scripts_tell_problems_apart_by_exit_code(kind, exit_code):
    assert kind("something").exit_code == exit_code
    assert issubclass(kind, ClotsegError)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_exits_as_shells_expect(number, exit_code):
    error = Interrupted(number)
    assert error.exit_code == exit_code
    assert number.name in str(error)


def test_an_interruption_while_python_compiles_a_module_is_not_dropped() -> None:
    def interrupt(number: int, _frame: object) -> None:
        raise Interrupted(number)

    # Run in C one after the other, so that the signal waits until the compiler first looks: at the constant.
    steps = [partial(ctypes.pythonapi["raise"], signal.SIGINT), partial(compile, "x % 2**31", "", "exec")]
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(Interrupted):
            list(map(operator.call, steps))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_message_says_where_what_each_finding_and_how_to_mend_it():
    error = DataError("two files are bad", where="folder", details=["first", "second"], fix="remove them")
    assert str(error).splitlines() == [
        "folder: two files are bad",
        "  - first",
        "  - second",
        "  To mend it: remove them",
    ]


def test_a_message_without_place_or_findings_is_one_line():
    assert str(ConfigError("too few patients")) == "too few patients"


def test_details_given_as_a_generator_can_be_read_again():
    error = DataError("bad", details=(name for name in ("a", "b")))
    assert error.details == ("a", "b")


def test_every_error_of_the_module_is_exported():
    defined = {
        name
        for name, value in vars(clotseg.errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert set(clotseg.errors.__all__) == defined
