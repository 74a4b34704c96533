"""The report as a reader meets it: one safe file, the right numbers, and a table that sorts in a browser."""

import re
import shutil
import subprocess
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
from clotseg.evaluate.metrics import CaseScore, score_case, summarise
from clotseg.evaluate.report import (
    Picture,
    ReportContent,
    choose_pictured,
    pick_slice,
    render,
    write_report,
)
from clotseg.evaluate.strips import bytes_per_case, make_strip

HOSTILE = """<script>alert(1)</script>"'&$title $x^2$"""
SPACING_MM = (0.5, 0.4, 0.8)
CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


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


@pytest.fixture(scope="module")
def scores():
    return [
        clot_score("zeta", 0.9),
        clot_score("alpha", 0.5),
        clot_score("case-2", 0.0, false_clots=1),
        clot_score("case-10", 0.625),
        clot_score("healthy", 0.0, has_clot=False, false_clots=3),
    ]


@pytest.fixture(scope="module")
def page(scores):
    return render(content(scores))


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
    text = Page(render(content(scores, history=history))).text
    assert "best 0.250 in epoch 2" in text


def test_scores_of_real_volumes_can_be_reported():
    truth = np.zeros((64, 64, 5), np.uint8)
    truth[10:14, 20:30, 2] = 1
    score = score_case(truth, truth, case="a", patient="p", site=None, spacing_mm=None)
    assert "1.000" in render(content([score]))


def test_the_review_list_begins_with_the_most_doubtful_case(scores, page):
    doubt = {"alpha": 0.3, "case-2": 0.9, "zeta": 0.05, "case-10": 0.2, "healthy": 0.6}
    text = render(content(scores, pictures=False, doubt=doubt))
    listed = re.search(r'<table id="review">.*?</table>', text, flags=re.DOTALL).group(0)
    assert re.findall(r'<th scope="row">([^<]*)', listed) == ["case-2", "healthy", "alpha", "case-10", "zeta"]
    assert "Over the 4 cases with a clot, doubt and Dice have Spearman ρ = −1.00" in words(text)
    assert 'aria-label="Dice against doubt"' in text
    assert "Review list" not in page


def test_reliability_is_drawn_where_the_probabilities_were_calibrated(scores, page):
    bins = [[0.05, 0.01, 5000], [0.5, 0.2, 40], [0.75, 0.0, 0], [0.95, 0.6, 25]]
    calibration = {"temperature": 1.734, "ece_before": 0.0421, "ece_after": 0.0119}
    calibration |= {"bins_before": bins, "bins_after": bins}
    text = render(content(scores, pictures=False, calibration=calibration))
    told = "Expected calibration error 0.0421 before, 0.0119 after division by a temperature of 1.73."
    assert told in words(text)
    drawing = re.search(r'<svg[^>]*aria-label="Reliability.*?</svg>', text, flags=re.DOTALL).group(0)
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--(?:alert|accent)\)', drawing)
    assert [line.count("L") + 1 for line in lines[:2]] == [3, 3], "the empty bin is no point"
    assert 'aria-label="Reliability' not in page


def test_the_operating_point_is_told_where_it_was_chosen(scores):
    point = {"threshold": 0.35, "smallest_component": 12}
    text = words(render(content(scores, pictures=False, operating_point=point)))
    assert "from a probability of 0.35, and pieces below 12 voxels are left out" in text


def test_groups_and_agreement_are_told(page, scores):
    summary = summarise(scores, bootstrap_samples=200, seed=1)
    text = words(page)
    assert "small: 197–197 mm³ 2" in text
    assert "north 4 0.506" in text
    bias = f"{summary['volume_agreement']['bias']:.1f}".replace("-", "−")
    assert f"Clot volume, Bland–Altman. Dashed: bias {bias} mm³; shaded: limits of agreement −" in text
    for label in ("Predicted against true volume", "Difference of predicted and true length"):
        assert f'aria-label="{label}"' in page


def test_phantoms_in_a_real_head_are_not_said_to_be_computed_altogether(scores):
    grown = words(render(content(scores, pictures=False, synthetic=True, real_head=True)))
    assert "computed, not scanned" not in grown
    assert "set into one real head CT" in grown
    assert "says nothing about patients" in grown


def test_the_title_says_that_data_are_synthetic(scores, page):
    synthetic = render(content(scores, pictures=False, synthetic=True))
    for element in ("title", "h1"):
        assert f"<{element}>Synthetic data: Test of one run</{element}>" in synthetic
        assert f"<{element}>Test of one run</{element}>" in page


PROBE = """<script>
const said = [];
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const ordered = () => [...document.querySelectorAll("#cases tbody tr")].filter(row => !row.hidden)
    .map(row => row.cells[0].innerText).join();
const blue = canvas => {
    const copy = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    [copy.canvas.width, copy.canvas.height] = [canvas.width, canvas.height];
    copy.drawImage(canvas, 0, 0);
    const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
    let count = 0;
    for (let n = 0; n < pixels.length; n += 4) count += pixels[n + 2] - pixels[n] > 100;
    return count > 50;
};
addEventListener("load", async () => {
    const click = name => [...document.querySelectorAll("#cases thead button")]
        .find(button => button.innerText.startsWith(name)).click();
    for (const name of ["Case", "Dice", "Dice", "False clots", "False clots"]) {
        click(name);
        said.push(ordered());
    }
    const type = text => {
        words.value = text;
        words.dispatchEvent(new Event("input"));
        said.push(ordered());
    };
    type("CASE-1");
    type("");
    kind.value = "missed";
    kind.dispatchEvent(new Event("change"));
    said.push(ordered());
    said.push([...document.querySelectorAll("article.case")].filter(article => !article.hidden).length);
    kind.value = "";
    kind.dispatchEvent(new Event("change"));
    const article = document.querySelector('article.case[data-case="alpha"]');
    const canvas = article.querySelector(".view canvas"), slider = article.querySelector("input");
    for (const place of [4, 0]) {
        slider.value = place;
        slider.dispatchEvent(new Event("input"));
        await wait(300);
        said.push(article.querySelector("output").innerText, blue(canvas));
    }
    article.querySelector('.strip button[data-place="3"]').click();
    await wait(300);
    said.push(article.querySelector("output").innerText, slider.value, blue(canvas));
    outlines.click();
    await wait(300);
    said.push(blue(canvas), canvas.width > 2 * 48 * 4);
    const answer = document.createElement("pre");
    answer.id = "answer";
    answer.textContent = said.join(";");
    document.body.append(answer);
});
</script>"""


@needs_chromium
def test_a_browser_sorts_filters_and_looks_through_slices_without_an_error(page, tmp_path):
    """The clot of `alpha` is in slices 3 to 5: its outline, the only blue there is, comes and goes."""
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    dom, errors = browse(tmp_path / "page.html", tmp_path / "profile")
    said = re.search(r'<pre id="answer">([^<]*)', dom).group(1).split(";")
    assert said == [
        "alpha,case-2,case-10,healthy,zeta",
        "case-2,alpha,case-10,zeta,healthy",
        "zeta,case-10,alpha,case-2,healthy",
        "zeta,case-10,alpha,case-2,healthy",
        "healthy,case-2,zeta,case-10,alpha",
        "case-10",
        "healthy,case-2,zeta,case-10,alpha",
        "case-2",
        "1",
        *("4", "true"),
        *("0", "false"),
        *("3", "3", "true"),
        *("false", "true"),
    ]
    assert errors == []


@needs_chromium
def test_an_error_on_the_page_would_be_seen(tmp_path):
    (tmp_path / "page.html").write_text("<script>missing.call()</script>", encoding="utf-8")
    _, errors = browse(tmp_path / "page.html", tmp_path / "profile")
    assert len(errors) == 1


@needs_chromium
@pytest.mark.slow
def test_a_report_of_fifty_cases_is_small_and_opens(tmp_path, capsys):
    """Volumes of 192 × 192 × 48 voxels of noise, the worst there is to compress; 50 of one made once."""
    scores = [clot_score(f"case-{number}", number / 50) for number in range(50)]
    random = np.random.default_rng(1)
    shape = (192, 192, 48)
    truth = (random.random(shape) < 0.02).astype(np.uint8)
    one = make_strip(
        case="case-0",
        cta_hu=random.integers(-100, 500, shape),
        ncct_hu=random.integers(0, 90, shape),
        truth=truth,
        predicted=np.roll(truth, 1, axis=0),
        spacing_mm=SPACING_MM,
        most_bytes=bytes_per_case(50),
    )
    strips = [replace(one, case=score.case) for score in scores]
    write_report(tmp_path / "report.html", content=content(scores, strips=strips))
    size = (tmp_path / "report.html").stat().st_size
    with capsys.disabled():
        print(f"\n50 cases of noise: {size / 1e6:.1f} MB, {len(one.slices)} slices of {one.rows} rows each")
    assert size < 15e6
    dom, errors = browse(tmp_path / "report.html", tmp_path / "profile")
    assert dom.count('<article class="case"') == 50
    assert errors == []


def browse(file, profile):
    """The page's DOM after its scripts ran, and what it wrote to the console."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"]
    flags += ["--virtual-time-budget=10000"]
    done = subprocess.run(
        [CHROMIUM, *flags, file.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
