"""The errors a user can meet: each says what is wrong, where and how to mend it, and has an exit code."""

import signal
from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

__all__ = [
    "ClotsegError",
    "ConfigError",
    "CorruptArtifactError",
    "DataError",
    "EnvironmentProblem",
    "Interrupted",
]


class ClotsegError(Exception):
    """Root of every error that clotseg raises on purpose.

    Args:
        what: what is wrong, in one sentence.
        where: the file, key or device it was found in.
        fix: what the user can do about it.
        details: single findings, one a line, when there are several.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: object = None, fix: str | None = None, details: Iterable[str] = ()
    ) -> None:
        self.what, self.where, self.fix, self.details = what, where, fix, tuple(details)
        head = what if where is None else f"{where}: {what}"
        lines = [head, *(f"  - {detail}" for detail in self.details)]
        if fix:
            lines.append(f"  To mend it: {fix}")
        super().__init__("\n".join(lines))


class ConfigError(ClotsegError):
    """A setting, flag or combination of them cannot be used."""

    exit_code = 2


class DataError(ClotsegError):
    """The user's volumes, masks or tables are not what they must be."""

    exit_code = 3


class CorruptArtifactError(ClotsegError):
    """Something that clotseg once wrote is damaged, foreign, or does not belong to what it is used with."""

    exit_code = 4


class EnvironmentProblem(ClotsegError):
    """The machine lacks something: a device, a library, disk space, a permission."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the exit code is the shell's convention, 128 + signal number.

    Not an `Exception`: it may come out of any line, also where an error means that a file is damaged. Nor any
    other `BaseException`: where Python compiles a module it drops all but a `KeyboardInterrupt`
    (`make_const` of CPython's ast_opt.c, for a constant such as 2**31), and the command would run on.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}; everything already published is whole"
        )
        self.exit_code = 128 + signal_number


def root_of(error: BaseException) -> ClotsegError | Interrupted | None:
    """The error to tell: an interruption wherever it lies beneath, since a library that was just being
    loaded turns it into an error of its own; else the error itself, where it is one of clotseg's."""
    seen: list[BaseException] = []
    below: BaseException | None = error
    while below is not None and below not in seen:
        if isinstance(below, Interrupted):
            return below
        seen.append(below)
        below = below.__cause__ or below.__context__
    return error if isinstance(error, ClotsegError) else None


def require_none_failed(cases: Collection[Mapping[str, Any]], *, outcome: str, fix: str) -> None:
    """Raises for the cases of a result that failed.

    Args:
        cases: each with its name as `case`, its `state` and its `problem`.
        outcome: what became of them; ends the words "2 of 9 cases".
        fix: what the user can do.

    Raises:
        DataError: with a line for each.
    """
    failed = [case for case in cases if case["state"] == "failed"]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(cases)} cases {outcome}",
            details=[f"{case['case']}: {case['problem']}" for case in failed],
            fix=fix,
        )


def require_extra(extra: str, libraries: Iterable[str], *, where: object) -> None:
    """Refuses to go on where what an extra installs is not there.

    Raises:
        EnvironmentProblem: names the libraries that are missing, and the extra.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"{' and '.join(missing)} not installed",
            where=where,
            fix=f"install the extra: `pip install 'clotseg[{extra}]'`",
        )
