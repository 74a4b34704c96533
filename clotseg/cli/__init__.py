"""The command line: parse, call, print. stdout carries results, stderr progress and messages.

Heavy imports happen inside commands, so that help and errors never wait for TensorFlow.
"""

import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from clotseg.cli import benching, evaluating, importing, preparing, training
from clotseg.cli.application import app
from clotseg.errors import Interrupted, root_of

__all__ = ["app", "benching", "evaluating", "importing", "main", "preparing", "training"]


def main() -> NoReturn:
    """Runs a command and ends the process with the exit code of its outcome."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except BaseException as error:
        # Typer ends the process for a flag that it does not know, and for an interruption.
        if isinstance(error, SystemExit) and not isinstance(root_of(error), Interrupted):
            raise
        sys.exit(_tell(error, debug="--debug" in sys.argv[1:]))
    sys.exit(0)


def _tell(error: BaseException, *, debug: bool) -> int:
    """Prints what ended a command, in full when debugging; gives its exit code."""
    if debug:
        traceback.print_exception(error)
    known = root_of(error)
    if known is not None:
        print(f"clotseg: {known}", file=sys.stderr)
        return known.exit_code
    print(f"clotseg: unexpected {type(error).__name__}: {error}", file=sys.stderr)
    if not debug:
        print("  To mend it: run again with `clotseg --debug …` and report what it prints", file=sys.stderr)
    return 1


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
