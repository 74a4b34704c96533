"""The training dashboard, on stderr: what the loop tells in; a live panel, or plain `key=value` lines, out.

    state   the account that both views keep: speed, waiting, time left, the best epoch
    panel   draws an account
    views   what the loop talks to

Nothing here decides anything: a training runs the same with either view.
"""

from clotseg.dashboard.panel import draw_training, sparkline
from clotseg.dashboard.state import EpochFacts, TrainingState, starvation_advice
from clotseg.dashboard.views import LiveTrainingView, PlainTrainingView, TrainingView, open_training_view

__all__ = [
    "EpochFacts",
    "LiveTrainingView",
    "PlainTrainingView",
    "TrainingState",
    "TrainingView",
    "draw_training",
    "open_training_view",
    "sparkline",
    "starvation_advice",
]
