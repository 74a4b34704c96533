"""What the DICOM libraries say goes in; nothing of it comes out: it may quote the patient."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from clotseg.errors import ClotsegError, DataError


@contextmanager
def patient_unheard(where: object, *, purpose: str) -> Iterator[None]:
    """Keeps what pydicom and highdicom say to itself: their warnings, logs and errors quote names and
    identifiers. Errors of clotseg, which name no patient, pass.

    Args:
        where: what the user gave, for the error.
        purpose: what cannot be done with it where a library gives up; ends the words "cannot be".

    Raises:
        DataError: a library raised something, of which only the type is told.
    """
    logging_below = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (ClotsegError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"cannot be {purpose} ({type(error).__name__}; what it says may name the patient and is not "
            "shown)",
            where=where,
            fix="check the series with a DICOM validator, or export it again",
        ) from None
    finally:
        logging.disable(logging_below)
