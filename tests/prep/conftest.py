"""Cases as `clotseg prep` finds and checks them."""

from clotseg.config import Config, FeedConfig
from clotseg.console import PlainProgress
from clotseg.prep.cases import Case, CheckedCase, survey_cases
from clotseg.prep.inputs import Inputs
from clotseg.project import Project


def found_cases(project: Project) -> list[Case]:
    """The cases of a project in which nothing is wrong that can be seen without reading a volume."""
    cases, findings = survey_cases(project)
    assert not findings
    return cases


def checked_cases(project: Project, *, largest_slice: int | None = 256) -> list[CheckedCase]:
    """Every case, its volumes read; raises all findings together."""
    config = Config(feed=FeedConfig(size="auto" if largest_slice is None else largest_slice))
    cases, findings = survey_cases(project)
    return Inputs(project, config, PlainProgress(), cases, findings).checked()[0]
