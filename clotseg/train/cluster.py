"""Several processes that train together: TF_CONFIG in; this process's place among them out."""

import json
import os
from dataclasses import dataclass
from typing import Any

from clotseg.errors import ConfigError

VARIABLE = "TF_CONFIG"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which of how many workers a process is; worker 0 writes the run's folder."""

    worker: int
    workers: int


def find_place() -> Place | None:
    """What TF_CONFIG says, in TensorFlow's own format; None where it is not set.

    `{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}`; a chief, where
    there is one, comes before the workers.

    Raises:
        ConfigError: it is not of this form.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        facts: Any = json.loads(text)
        chiefs, workers = (list(facts["cluster"].get(kind, [])) for kind in ("chief", "worker"))
        kind, index = facts["task"]["type"], int(facts["task"]["index"])
        worker = {"chief": 0, "worker": len(chiefs)}[kind] + index
        if not 0 <= index < len({"chief": chiefs, "worker": workers}[kind]):
            raise ValueError(f"there is no {kind} {index}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"does not say who the workers are and which of them this is ({error!r})",
            where=VARIABLE,
            fix='give {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}, '
            "or unset it to train alone",
        ) from error
    return Place(worker=worker, workers=len(chiefs) + len(workers))
