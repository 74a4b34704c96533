"""TensorFlow without its chatter: the first import prints notes on stderr that no setting turns off.

The switches it reads from the environment as it starts are set here too.
"""

import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for GPUs, keeping its notes off the terminal.

    Call it before the first `import tensorflow` and outside of live progress. When it fails, what was
    printed is shown. SIGINT and SIGTERM take effect when it is done.

    Convolutions are oneDNN's on every x86 processor, unless TF_ENABLE_ONEDNN_OPTS says otherwise: TensorFlow
    itself takes them only where there is AVX-512, though they are faster without it too.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with held_back_signals(), _held_back_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")


@contextmanager
def held_back_signals() -> Iterator[None]:
    """Lets SIGINT and SIGTERM wait: what their handlers raise in the midst of the block would do harm there.

    While a C++ module starts it comes out as an ImportError; a process that starts gets half its orders.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread runs handlers.
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


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
