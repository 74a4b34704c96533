"""The report as a reader meets it: one safe file with the right numbers."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clotseg.evaluate.figures import crop_around
from clotseg.evaluate.metrics import score_case, summarise
from clotseg.evaluate.report import choose_pictured, pick_slice, render, write_report
from tests.evaluate.report_pieces import clot_score, content, five_scores

HOSTILE = """<script>alert(1)</script>"'&$title $x^2$"""


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._inside = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data

    def handle_endtag(self, _tag):
        self._inside = None

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def words(part):
    """The text of a piece of HTML, one space between elements."""
    return " ".join(re.sub(r"<[^>]*>", " ", part).split())


@pytest.fixture(scope="module")
def scores():
    return five_scores()


@pytest.fixture(scope="module")
def page(scores):
    return render(content(scores))


BINS = [[0.05, 0.01, 5000], [0.5, 0.2, 40], [0.75, 0.0, 0], [0.95, 0.6, 25]]


@pytest.fixture(scope="module")
def full_page(scores):
    """The page of phantoms in a real head, with all that a calibrated network adds."""
    return render(
        content(
            scores,
            pictures=False,
            synthetic=True,
            real_head=True,
            doubt={"alpha": 0.3, "case-2": 0.9, "zeta": 0.05, "case-10": 0.2, "healthy": 0.6},
            calibration={
                "temperature": 1.734,
                "ece_before": 0.0421,
                "ece_after": 0.0119,
                "bins_before": BINS,
                "bins_after": BINS,
            },
            operating_point={"threshold": 0.35, "smallest_component": 12},
        )
    )


def test_best_median_and_worst_are_chosen_by_dice_among_cases_with_a_clot(scores):
    assert choose_pictured(scores) == {"best": "zeta", "median": "alpha", "worst": "case-2"}


def test_fewer_than_three_clots_give_fewer_pictures():
    clots, healthy = [clot_score("b", 0.2), clot_score("a", 0.9)], clot_score("h", 0.0, has_clot=False)
    assert choose_pictured([healthy, *clots]) == {"best": "a", "worst": "b"}
    assert choose_pictured([healthy, clots[0]]) == {"best": "b"}
    assert choose_pictured([healthy]) == {}
    assert choose_pictured([]) == {}


def test_ties_are_broken_by_name_whatever_the_order():
    tied = [clot_score(name, 0.5) for name in "cab"]
    assert choose_pictured(tied) == choose_pictured(tied[::-1]) == {"best": "c", "median": "b", "worst": "a"}


def test_the_slice_with_most_true_clot_is_shown_then_most_prediction_then_the_middle():
    truth, predicted = np.zeros((4, 4, 7), np.uint8), np.zeros((4, 4, 7), np.uint8)
    assert pick_slice(truth, predicted) == 3
    predicted[:, :, 5] = 1
    assert pick_slice(truth, predicted) == 5
    truth[0, 0, 1] = truth[0, :2, 2] = 1
    assert pick_slice(truth, predicted) == 2


@given(
    shape=st.tuples(st.integers(1, 256), st.integers(1, 256)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    extent=st.integers(1, 90),
)
def test_a_crop_holds_the_whole_clot_and_stays_inside_the_slice(shape, corner, extent):
    clot = np.zeros(shape, np.uint8)
    row, column = (int(part * (size - 1)) for part, size in zip(corner, shape, strict=True))
    clot[row : row + extent, column : column + extent] = 1
    crop = crop_around(clot)
    assert clot[crop].sum() == clot.sum()
    for part, size in zip(crop, shape, strict=True):
        assert 0 <= part.start < part.stop <= size
        assert part.stop - part.start >= min(size, 48)


def test_the_file_fetches_nothing(page):
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    for tag, attributes in Page(page).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_all_ids_are_unique_and_every_reference_resolves(page):
    counts = Counter(Page(page).ids())
    assert [name for name, count in counts.items() if count > 1] == []
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert references
    assert set(references) <= set(counts)


def test_every_drawing_is_well_formed(page):
    drawings = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 3 * 5 + 2 + 4
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).get("aria-label")


def test_the_same_content_gives_the_same_bytes(scores, page, tmp_path):
    write_report(tmp_path / "report.html", content=content(scores))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_matplotlib_settings_of_the_user_change_nothing(scores, page):
    with mpl.rc_context({"lines.linewidth": 9, "axes.titlesize": 30, "svg.fonttype": "path"}):
        assert render(content(scores)) == page


def test_names_from_users_stay_text():
    hostile = [replace(clot_score(HOSTILE + str(n), n / 4), patient=HOSTILE, site=HOSTILE) for n in range(4)]
    text = render(
        content(
            hostile,
            title=HOSTILE,
            cohort={HOSTILE: {HOSTILE: 1}},
            configuration_toml=HOSTILE,
            provenance={HOSTILE: HOSTILE},
        )
    )
    page = Page(text)
    assert "<script>alert" not in text
    assert Counter(tag for tag, _ in page.elements)["script"] == 1
    assert page.text.count(HOSTILE) >= 10


def test_the_headline_gives_the_numbers_of_the_summary(scores, page):
    low, high = summarise(scores, bootstrap_samples=200, seed=1)["dice_ci95"]
    cards = words(re.search(r'<dl class="cards">(.*?)</dl>', page, flags=re.DOTALL).group(1))
    assert f"Mean Dice 0.506 95 % interval {low:.3f} to {high:.3f}; median 0.562" in cards
    assert "Clots missed 1 of 4 95 % interval 5 to 70 %" in cards
    assert "Specificity 0.00 1 clot-free case, 1 with a false clot; 95 % interval 0 to 79 %" in cards
    assert "Surface Dice at 1 mm 0.456 95 % interval" in cards
    assert "Single clots found 3 of 4 1 missed clot, F1 0.545" in cards
    assert re.search(r"Volume agreement \S+ ICC 95 % interval", cards)
    assert "Cases 5 from 5 patients" in cards


def test_the_cohorts_are_counted_in_a_table(page):
    assert "Cohort Cases Cases with clot Slices Training 24 21 5,760 Testing 5 – –" in words(page)


def test_every_case_is_in_the_table_and_dice_only_where_there_is_a_clot(scores, page):
    rows = re.findall(r"<tr data-case=.*?</tr>", page)
    cells = [[cell for cell in re.sub(r"<[^>]*>", "|", row).split("|") if cell] for row in rows]
    shown = {name: facts for name, *facts in cells}
    assert set(shown) == {score.case for score in scores}
    sizes = ["197.4", "177.7", "−10.0", "12.5", "11.2"]
    assert shown["zeta"] == ["found", "0.900", "0.810", "0.4", "0", *sizes, "patient of zeta", "north"]
    assert shown["healthy"][:5] == ["no clot", "–", "–", "–", "3"]
    assert shown["case-2"][:5] == ["missed", "0.000", "0.000", "–", "1"]


def test_each_pictured_case_stands_under_its_role(page):
    shown = re.findall(r'<span class="role">(\w+)</span>([^<]*)</h3>', page)
    assert shown == [("best", "zeta"), ("median", "alpha"), ("worst", "case-2")]
    assert "197.4 mm³ (1,234 voxels)" in page


def test_the_outline_of_a_mask_follows_its_pixels():
    """A clot of 6 by 12 pixels has 36 edges; each is drawn once."""
    score = clot_score("a", 0.5)
    text = render(content([score]))
    outline = re.search(r'aria-label="CTA with the true clot".*?</svg>', text, flags=re.DOTALL).group(0)
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--truth\)', outline).group(1)
    assert path.count("M") == path.count("L") == 36


def test_synthetic_data_is_named_as_such_and_real_data_is_not(scores, page):
    synthetic = Page(render(content(scores, pictures=False, synthetic=True))).text
    assert "These cases were computed, not scanned" in " ".join(synthetic.split())
    assert "Accuracy on synthetic clots says nothing about patients" in " ".join(synthetic.split())
    assert "synthetic" not in Page(page).text.lower()
    assert "not a medical device" in synthetic
    assert "not a medical device" in Page(page).text


@pytest.mark.parametrize(
    ("asked", "said", "unsaid"),
    [
        (
            {},
            [
                "one trained network",
                "none of which it was trained on",
                "at random",
                "Configuration of this run",
            ],
            "fold",
        ),
        (
            {"networks": 3},
            [
                "3 trained networks together",
                "none of which any of them was trained on",
                "the first of 3 runs",
            ],
            "one trained network",
        ),
        (
            {"networks": 5, "folds": 5},
            ["5 networks of a cross-validation", "In each of 5 folds", "the first of 5 runs"],
            "none of which",
        ),
        ({"split_file": True}, ["shared out as a file said"], "at random"),
    ],
    ids=["one", "ensemble", "folds", "split file"],
)
def test_the_report_says_who_was_asked_about_whom(scores, asked, said, unsaid):
    text = words(render(content(scores, pictures=False, **asked)))
    assert all(part in text for part in said)
    assert unsaid not in text


@pytest.mark.parametrize(
    "scores",
    [[], [clot_score("h", 0.0, has_clot=False, false_clots=2)], [clot_score("only", 0.0)]],
    ids=["no case", "no clot", "one missed clot"],
)
def test_a_report_can_be_made_of_little(scores):
    text = render(content(scores, history=[], pictures=False, cohort={}, provenance={}))
    shown = Page(text).text
    assert not re.search(r"\b(nan|None|inf)\b", shown)
    assert "No case with a clot to show" in shown


def test_cases_without_spacing_are_measured_in_voxels():
    bare = [
        replace(clot_score(name, 0.5), spacing_mm=None, volume_true_mm3=None, volume_predicted_mm3=None)
        for name in "ab"
    ]
    text = Page(render(content(bare))).text
    assert "true volume (voxels)" in text
    assert "True mm³" not in text
    assert "10 mm" not in text


def test_a_history_with_gaps_is_drawn_as_far_as_it_goes(scores):
    history = [
        {"epoch": 1.0, "loss": 0.9, "val_loss": 0.8, "val_dice": float("nan")},
        {"epoch": 2.0, "loss": 0.7, "val_loss": 0.6, "val_dice": 0.25},
        {"epoch": 3.0, "loss": float("inf"), "val_loss": 0.6, "val_dice": None},
    ]
    text = Page(render(content(scores, pictures=False, history=history))).text
    assert "best 0.250 in epoch 2" in text


def test_scores_of_real_volumes_can_be_reported():
    truth = np.zeros((64, 64, 5), np.uint8)
    truth[10:14, 20:30, 2] = 1
    score = score_case(truth, truth, case="a", patient="p", site=None, spacing_mm=None)
    assert "1.000" in render(content([score]))


def test_the_review_list_begins_with_the_most_doubtful_case(full_page, page):
    listed = re.search(r'<table id="review">.*?</table>', full_page, flags=re.DOTALL).group(0)
    assert re.findall(r'<th scope="row">([^<]*)', listed) == ["case-2", "healthy", "alpha", "case-10", "zeta"]
    assert "Over the 4 cases with a clot, doubt and Dice have Spearman ρ = −1.00" in words(full_page)
    assert 'aria-label="Dice against doubt"' in full_page
    assert "Review list" not in page


def test_reliability_is_drawn_where_the_probabilities_were_calibrated(full_page, page):
    told = "Expected calibration error 0.0421 before, 0.0119 after division by a temperature of 1.73."
    assert told in words(full_page)
    drawing = re.search(r'<svg[^>]*aria-label="Reliability.*?</svg>', full_page, flags=re.DOTALL).group(0)
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--(?:alert|accent)\)', drawing)
    assert [line.count("L") + 1 for line in lines[:2]] == [3, 3], "the empty bin is no point"
    assert 'aria-label="Reliability' not in page


def test_the_operating_point_is_told_where_it_was_chosen(full_page, page):
    assert "from a probability of 0.35, and pieces below 12 voxels are left out" in words(full_page)
    assert "pieces below" not in page


def test_groups_and_agreement_are_told(page, scores):
    summary = summarise(scores, bootstrap_samples=200, seed=1)
    text = words(page)
    assert "small: 197–197 mm³ 2" in text
    assert "north 4 0.506" in text
    bias = f"{summary['volume_agreement']['bias']:.1f}".replace("-", "−")
    assert f"Clot volume, Bland–Altman. Dashed: bias {bias} mm³; shaded: limits of agreement −" in text
    for label in ("Predicted against true volume", "Difference of predicted and true length"):
        assert f'aria-label="{label}"' in page


def test_phantoms_in_a_real_head_are_not_said_to_be_computed_altogether(full_page):
    grown = words(full_page)
    assert "computed, not scanned" not in grown
    assert "set into one real head CT" in grown
    assert "says nothing about patients" in grown


def test_the_title_says_that_data_are_synthetic(full_page, page):
    for element in ("title", "h1"):
        assert f"<{element}>Synthetic data: Test of one run</{element}>" in full_page
        assert f"<{element}>Test of one run</{element}>" in page
