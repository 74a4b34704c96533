"""Inputs: cases in; their digests and findings out. One pass a case fingerprints and checks its volumes.

Volumes whose size, time and place on disk are as remembered are not read for their digest again.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from clotseg import artifact
from clotseg.artifact import DigestCache
from clotseg.config import Config
from clotseg.console import Progress
from clotseg.errors import DataError
from clotseg.prep.cases import Case, CheckedCase, check_case, open_volume, refusal
from clotseg.prep.slices import slices_with_clot
from clotseg.project import Project
from clotseg.tasks import open_workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What one pass over a case found.

    Attributes:
        digests: SHA-256 of CTA, NCCT and mask; empty where one cannot be read.
        checked: the case, where nothing is wrong with it.
        clot_slices: numbers of its slices with clot.
        findings: a line for each thing that is wrong.
    """

    digests: tuple[str, ...]
    checked: CheckedCase | None
    clot_slices: tuple[int, ...]
    findings: tuple[str, ...]


def inspect_case(case: Case, largest_slice: int | None, known: Sequence[str | None]) -> Inspected:
    """Fingerprints and checks one case.

    Args:
        case: whose volumes.
        largest_slice: the longest side a slice may have, in pixels; None for no limit.
        known: the digests of its files that are remembered.
    """
    digests: tuple[str, ...] = ()
    with suppress(DataError):  # The check tells what is wrong with a file that cannot be read.
        digests = tuple(
            digest or artifact.digest_file(path) for digest, path in zip(known, case.files, strict=True)
        )
    try:
        checked = check_case(case, largest_slice=largest_slice)
    except DataError as error:
        return Inspected(digests=digests, checked=None, clot_slices=(), findings=error.details)
    clot_slices = tuple(slices_with_clot(open_volume(case.mask)))
    return Inspected(digests=digests, checked=checked, clot_slices=clot_slices, findings=())


class Inputs:
    """The volumes of a project's cases: digests at once, checks where they are needed.

    Args:
        findings: what `survey_cases` found; raised together with what the volumes show.

    Attributes:
        cases: the cases, sorted by name.
    """

    def __init__(
        self,
        project: Project,
        config: Config,
        progress: Progress,
        cases: list[Case],
        findings: Mapping[str, Sequence[str]],
    ) -> None:
        self.cases = cases
        self._findings = findings
        self._project = project
        self._progress = progress
        self._runtime = config.runtime
        self._largest_slice = config.feed.size if isinstance(config.feed.size, int) else None
        self._memory = DigestCache(project.processed / ".digests.json")
        self._inspected: dict[str, Inspected] = {}
        self._known = {
            case.name: [self._memory.remembered(path, project.shown(path)) for path in case.files]
            for case in cases
        }

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file by its path in the project; cases that changed are read, and checked with it.

        Raises:
            DataError: with a line for each finding in these cases.
        """
        due = self.cases if self._findings else [c for c in self.cases if None in self._known[c.name]]
        self._inspect(due)
        return self._memory.digests

    def checked(self) -> tuple[list[CheckedCase], dict[str, tuple[int, ...]]]:
        """Every case, checked, and the numbers of its slices with clot.

        Raises:
            DataError: with a line for each finding in each case.
        """
        self._inspect(self.cases)
        found = [self._inspected[case.name] for case in self.cases]
        checked = [entry.checked for entry in found if entry.checked is not None]
        return checked, {entry.case.name: self._inspected[entry.case.name].clot_slices for entry in checked}

    @property
    def changed(self) -> bool:
        """Whether there is something to remember for the next run."""
        return self._memory.changed

    def remember(self) -> None:
        """Writes the digests down, so that the next run need not read unchanged volumes."""
        self._memory.save()

    def _inspect(self, cases: list[Case]) -> None:
        due = [case for case in cases if case.name not in self._inspected]
        if not due:
            return
        sizes = 0
        for path in (path for case in due for path in case.files):
            with suppress(OSError):
                sizes += path.stat().st_size
        with (
            self._progress.bar("check", len(due), "cases") as advance,
            open_workers(self._runtime, self._project.root, sizes) as workers,
        ):
            found = workers.run(
                inspect_case,
                [(case, self._largest_slice, self._known[case.name]) for case in due],
                lambda _: advance(),
            )
        for case, entry in zip(due, found, strict=True):
            self._inspected[case.name] = entry
            for path, digest in zip(case.files, entry.digests, strict=bool(entry.digests)):
                self._memory.put(self._project.shown(path), digest)
        self._refuse_bad()

    def _refuse_bad(self) -> None:
        if not self._findings and not any(entry.findings for entry in self._inspected.values()):
            return
        # The others are inspected too, so that the user gets all findings at once.
        self._inspect(self.cases)
        found = {name: list(faults) for name, faults in self._findings.items()}
        for name, entry in self._inspected.items():
            if entry.findings:
                found[name] = [*found.get(name, ()), *entry.findings]
        raise refusal(self.cases, found)
