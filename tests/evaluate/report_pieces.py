"""What reports in tests are made of: five cases, a small volume each."""

import numpy as np

from clotseg.evaluate.metrics import CaseScore, summarise
from clotseg.evaluate.report import Picture, ReportContent, choose_pictured
from clotseg.evaluate.strips import make_strip

SPACING_MM = (0.5, 0.4, 0.8)


def clot_score(case, dice, *, has_clot=True, false_clots=0):
    return CaseScore(
        case=case,
        patient=f"patient of {case}",
        site="north",
        has_clot=has_clot,
        dice=dice,
        found=dice > 0 if has_clot else None,
        false_clots=false_clots,
        volume_true=1234 if has_clot else 0,
        volume_predicted=round(1234 * dice),
        volume_true_mm3=197.44 if has_clot else 0.0,
        volume_predicted_mm3=197.44 * dice,
        volume_error_percent=100 * (dice - 1) if has_clot else None,
        surface_dice_1mm=0.9 * dice,
        surface_dice_2mm=0.95 * dice,
        hd95_mm=4.0 * (1 - dice) if dice > 0 else None,
        average_surface_distance_mm=1.0 if dice > 0 else None,
        length_true_mm=12.5 if has_clot else 0.0,
        length_predicted_mm=12.5 * dice,
        clots_true=int(has_clot),
        clots_found=int(has_clot and dice > 0),
        clots_missed=int(has_clot and dice == 0),
        spacing_mm=SPACING_MM,
    )


def picture(score, role, *, shape=(80, 96)):
    random = np.random.default_rng(1)
    truth, predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth[30:36, 40:52] = 1
    predicted[31:37, 41:53] = score.dice > 0
    return Picture(
        role=role,
        score=score,
        slice_index=7,
        cta_hu=random.integers(-100, 500, shape).astype(np.int16),
        ncct_hu=random.integers(0, 90, shape).astype(np.int16),
        truth=truth,
        probability=random.uniform(0, 1, shape).astype(np.float32),
        predicted=predicted,
    )


def strip(score, *, slices=9, most_bytes=60_000):
    """A strip of a small volume with a clot in slices 3 to 5, and a prediction one pixel beside it."""
    random = np.random.default_rng([1, *score.case.encode()])
    truth = np.zeros((40, 48, slices), np.uint8)
    truth[10:16, 20:30, 3:6] = score.has_clot
    predicted = np.roll(truth, 1, axis=0) * np.uint8(score.dice > 0)
    return make_strip(
        case=score.case,
        cta_hu=random.integers(-100, 500, truth.shape),
        ncct_hu=random.integers(0, 90, truth.shape),
        truth=truth,
        predicted=predicted,
        spacing_mm=score.spacing_mm,
        most_bytes=most_bytes,
    )


def content(scores, *, pictures=True, **changes):
    by_case = {score.case: score for score in scores}
    shown = [picture(by_case[case], role) for role, case in choose_pictured(scores).items()]
    return ReportContent(
        **{
            "title": "Test of one run",
            "synthetic": False,
            "scores": scores,
            "summary": summarise(scores, bootstrap_samples=200, seed=1),
            "history": [{"epoch": float(n), "loss": 1 / n, "val_dice": 1 - 1 / n} for n in range(1, 6)],
            "pictures": shown if pictures else [],
            "strips": [strip(score) for score in scores] if pictures else [],
            "cohort": {
                "Training": {"cases": 24, "cases_with_clot": 21, "slices": 5760},
                "Testing": {"cases": len(scores)},
            },
            "configuration_toml": '[train]\nloss = "<dice>"\n',
            "provenance": {"split key": "60303ae2", "run": "20240101-000000"},
        }
        | changes
    )


def five_scores():
    """Three clots found, one missed, one case without a clot but with false ones."""
    return [
        clot_score("zeta", 0.9),
        clot_score("alpha", 0.5),
        clot_score("case-2", 0.0, false_clots=1),
        clot_score("case-10", 0.625),
        clot_score("healthy", 0.0, has_clot=False, false_clots=3),
    ]
