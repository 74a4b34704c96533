"""The README's pictures: a finished demo in; `docs/images/report.png` and `dashboard.svg` out.

    python docs/make_pictures.py demo

The report is photographed by Debian's chromium; the dashboard is drawn from the run's own history, as it
stood in the middle of its last epoch but three.
"""

import re
import subprocess
import sys
from datetime import datetime
from io import StringIO
from pathlib import Path

from rich.console import Console

from clotseg.config import load_config
from clotseg.dashboard import TrainingState, draw_training
from clotseg.prep.stages import read_sliced
from clotseg.project import Project
from clotseg.train.records import read_history, runs

IMAGES = Path(__file__).parent / "images"
EPOCHS_LEFT = 4
REPORT_SIZE = "1280,1200"


def photograph(page: Path, picture: Path) -> None:
    """A picture of a page's upper part."""
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    subprocess.run(
        [*chromium, f"--screenshot={picture}", f"--window-size={REPORT_SIZE}", page.resolve().as_uri()],
        check=True,
        capture_output=True,
    )


def draw_dashboard(project: Project, picture: Path) -> None:
    """The panel of the newest run, redrawn from its history."""
    run = runs(project)[-1]
    rows = read_history(run)
    shown, running = rows[:-EPOCHS_LEFT], rows[-EPOCHS_LEFT]
    state = TrainingState(name=run.folder.name, devices="CPU", epochs=len(rows), epoch=len(shown) + 1)
    state.losses = [row["loss"] for row in shown]
    state.dices = [row["val_dice"] for row in shown]
    state.seconds = [row["seconds"] for row in shown]
    state.learning_rate, state.loss = running["learning_rate"], running["loss"]
    in_epoch_s = running["seconds"] / 2
    batch_size = load_config(run.relevant / "clotseg.toml").train.batch_size
    state.steps = -(-read_sliced(project, "Training")["records"] // batch_size)
    state.phase, state.step = "training", state.steps // 2
    state.slices, state.waited_s = (
        round(running["slices_per_s"] * in_epoch_s),
        running["waiting"] * in_epoch_s,
    )
    state.run_started, state.train_started = 0.0, sum(state.seconds)
    console = Console(record=True, width=90, file=StringIO(), force_terminal=True)
    started = datetime.fromtimestamp(run.record.stat().st_mtime).astimezone()
    console.print(draw_training(state, state.train_started + in_epoch_s, started))
    drawing = console.export_svg(title="clotseg train")
    # Without the fonts that Rich would have a reader's browser fetch from elsewhere.
    picture.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    demo = Project(Path(sys.argv[1]).resolve())
    newest = runs(demo)[-1]
    photograph(newest.testing(newest.best.name) / "report.html", IMAGES / "report.png")
    draw_dashboard(demo, IMAGES / "dashboard.svg")
