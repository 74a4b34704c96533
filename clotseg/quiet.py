"""TensorFlow without its chatter: the first import prints notes on stderr that no setting turns off."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for GPUs, keeping its notes off the terminal.

    Call it before the first `import tensorflow` and outside of live progress. When it fails, what was
    printed is shown.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _held_back_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Redirects the file descriptor, since the notes come from C++ and pass Python's stderr by."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
