"""What each choice of the feed is worth: clotseg as it is, and with one thing at a time done another way.

    python benchmarks/feed_candidates.py [--sides 96 256] [--batch 20] [--repeats 5]

Each runs in a process of its own, a few at a time beside clotseg as it is, and they take turns. Prints
slices a second and processor seconds for 1000 slices, and both as multiples of those of clotseg as it is,
medians and range of passes that followed one another.
"""

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from feed import Measured, heading, spread, times_cheaper, times_faster
from peers.cohort import write_data
from peers.ours_changed import AS_IT_IS, settings
from peers.served import Hung, Served

TOGETHER = 3
SIZE = 256


def main() -> None:
    """A table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[96, 256], help="of a slice, in pixels")
    parser.add_argument("--batch", type=int, default=20, help="slices a batch")
    parser.add_argument("--slices", type=int, default=2560, help="slices of a pass")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    arguments = parser.parse_args()
    print(heading(arguments))
    with tempfile.TemporaryDirectory(prefix="clotseg-benchmark-") as scratch:
        for side in arguments.sides:
            compare(Path(scratch), side, arguments)


def compare(scratch: Path, side: int, arguments: argparse.Namespace) -> None:
    """All changes at one size, some at a time: each process holds memory and is one more to wait for."""
    data = write_data(scratch / str(side), side=side, size=SIZE, slices=arguments.slices)
    titles = "slices/s | CPU s for 1000 | speed, changed / as it is | CPU, changed / as it is"
    print(
        f"\n| {side}² to {SIZE}², batches of {arguments.batch} | {titles} |\n| --- | --- | --- | --- | --- |"
    )
    unchanged, *changed = settings(len(os.sched_getaffinity(0)))
    assert unchanged["change"] == AS_IT_IS
    for first in range(0, len(changed), TOGETHER):
        rows = [
            Measured(
                side=side,
                batch=arguments.batch,
                cache="warm",
                peer=setting["change"],
                setting=setting,
                start_s=0,
            )
            for setting in (unchanged, *changed[first:][:TOGETHER])
        ]
        with ExitStack() as stack:
            served = {}
            for row in list(rows):
                try:
                    served[row.peer] = stack.enter_context(
                        Served("ours_changed", data, arguments.batch, row.setting, device=arguments.device)
                    )
                except Hung as error:
                    print(f"| {row.peer} | {error} | | | |", flush=True)
                    rows.remove(row)
            for _ in range(arguments.repeats):
                for row in rows:
                    row.turns.append(served[row.peer].turn())
        for row in rows:
            cells = [
                spread(row.speeds, 0),
                spread(row.costs, 3),
                spread(times_faster(row, rows[0]), 2),
                spread(times_cheaper(rows[0], row), 2),
            ]
            print(f"| {row.peer} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
