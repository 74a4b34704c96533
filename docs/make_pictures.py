"""The README's pictures: an empty folder in; `docs/images/report.png` and `dashboard.svg` out.

    python docs/make_pictures.py FOLDER

It runs the demo there. The dashboard is saved as it stands half way through the training; the report
is photographed by Debian's chromium. Where the folder holds a finished demo, only the report is.
"""

import re
import subprocess
import sys
import time
from datetime import datetime
from io import StringIO
from pathlib import Path

from rich.console import Console

from clotseg.console import TerminalProgress
from clotseg.dashboard import LiveTrainingView, draw_training
from clotseg.demo import run_demo
from clotseg.project import Project
from clotseg.train.records import runs

IMAGES = Path(__file__).parent / "images"
COLUMNS, LINES = 90, 24
REPORT_SIZE = "1280,1200"


class PhotographedView(LiveTrainingView):
    """The dashboard, which is saved as a picture once."""

    def step_done(self, loss: float, slices: int, waited_s: float) -> None:
        """In the middle of the epoch in the middle, this is the moment."""
        super().step_done(loss, slices, waited_s)
        state = self.state
        if state.epoch == state.epochs // 2 + 1 and state.step == state.steps // 2:
            self._save(IMAGES / "dashboard.svg")

    def _save(self, picture: Path) -> None:
        loads, now, clock = self._telemetry.sample(), time.monotonic(), datetime.now().astimezone()
        console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
        console.print(draw_training(self.state, loads, now, clock, width=COLUMNS, height=LINES))
        drawing = console.export_svg(title="clotseg train")
        # Without the fonts that Rich would have a reader's browser fetch from elsewhere.
        drawing = re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL)
        picture.write_text(drawing, encoding="utf-8")


def photograph(page: Path, picture: Path) -> None:
    """A picture of a page's upper part."""
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    subprocess.run(
        [*chromium, f"--screenshot={picture}", f"--window-size={REPORT_SIZE}", page.resolve().as_uri()],
        check=True,
        capture_output=True,
    )


def main(folder: Path) -> None:
    """Runs the demo and takes both pictures."""
    screen = Console(stderr=True)
    run_demo(folder, TerminalProgress(screen), PhotographedView(screen), seed=0)
    newest = runs(Project(folder))[-1]
    photograph(newest.testing(newest.best.name) / "report.html", IMAGES / "report.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
