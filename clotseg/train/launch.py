"""`clotseg launch`: a training command in; the same in several local processes that train together out.

For trial and test: on a cluster, the scheduler starts one process a machine and sets TF_CONFIG itself. What
worker 0 says is shown as it comes; of the others, the end of what they said, where one of them fails. When
one ends badly the others are stopped, since they would wait for it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from types import FrameType
from typing import IO

from clotseg.train.cluster import VARIABLE

GRACE_S = 30.0
"""How long the others may take to end by themselves once one has failed; TensorFlow needs some 12 s."""
POLL_S = 0.1
SHOWN_LINES = 20


def launch(command: Sequence[str], workers: int) -> int:
    """Runs the command in so many processes and waits for all.

    Args:
        command: program and arguments.
        workers: how many processes.

    Returns:
        The exit code: 0, or that of the first process that failed, as a shell gives it.
    """
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(workers)]
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, VARIABLE: tf_config(addresses, worker)},
                stdout=None if worker == 0 else logs[worker],
                stderr=None if worker == 0 else subprocess.STDOUT,
                # A terminal's Ctrl-C is for this process, which passes it on.
                start_new_session=True,
            )
            for worker in range(workers)
        ]
        asked: list[int] = []
        before = {
            number: signal.signal(number, _passing_on(processes, asked))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            failed = _wait(processes, asked)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in processes:
                process.kill()
                process.wait()
        if failed is None:
            return 0
        if failed:
            _show_end(failed, logs[failed])
        code = processes[failed].returncode
        return code if code >= 0 else 128 - code


def tf_config(addresses: Sequence[str], worker: int) -> str:
    """What TF_CONFIG must be for one of the workers at these addresses."""
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": worker}})


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def _passing_on(
    processes: Sequence["subprocess.Popen[bytes]"], asked: list[int]
) -> Callable[[int, FrameType | None], None]:
    """A handler that notes a signal and sends it to all."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for process in processes:
            process.send_signal(number)

    return pass_on


def _wait(processes: Sequence["subprocess.Popen[bytes]"], asked: Sequence[int]) -> int | None:
    """Waits until all have ended, or one has failed and the rest had their time; gives the first to fail.

    Processes that were `asked` to stop, by a signal, have all the time they need: the first writes a state.
    With a second signal they have no more than after a failure.
    """
    failed, since = None, 0.0
    while None in (codes := [process.poll() for process in processes]):
        bad = [number for number, code in enumerate(codes) if code]
        if bad and failed is None:
            failed, since = bad[0], time.monotonic()
        if failed is not None and len(asked) != 1 and time.monotonic() - since > GRACE_S:
            return failed
        time.sleep(POLL_S)
    return (
        next((number for number, process in enumerate(processes) if process.returncode), None)
        if failed is None
        else failed
    )


def _show_end(worker: int, log: IO[bytes]) -> None:
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]
    print("\n".join(f"worker {worker}: {line}" for line in lines), file=sys.stderr)
