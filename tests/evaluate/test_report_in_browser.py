"""The report in a real browser: it sorts, filters and looks through slices, without an error."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from clotseg.evaluate.metrics import score_case
from clotseg.evaluate.report import render, write_report
from clotseg.evaluate.strips import bytes_per_case, make_strip
from clotseg.phantom.case import make_case
from clotseg.phantom.geometry import Grid
from tests.evaluate.report_pieces import content, five_scores

CHROMIUM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

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
def test_a_browser_sorts_filters_and_looks_through_slices_without_an_error(tmp_path):
    """The clot of `alpha` is in slices 3 to 5: its outline, the only blue there is, comes and goes."""
    page = render(content(five_scores()))
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
def test_a_report_of_fifty_phantoms_is_small_and_opens(tmp_path, capsys):
    """As `clotseg test` makes it of 50 cases of the demo's size, with a prediction one pixel aside."""
    grid, scores, strips = Grid((96, 96, 24)), [], []
    for index in range(50):
        case = make_case(0, index, grid, None)
        predicted, name = np.roll(case.mask, 1, axis=0), f"case_{index:03d}"
        facts = {"case": name, "spacing_mm": grid.spacing_mm}
        scores.append(score_case(predicted, case.mask, **facts, patient=name, site=case.site.name))
        volumes = {"cta_hu": case.cta, "ncct_hu": case.ncct, "truth": case.mask, "predicted": predicted}
        strips.append(make_strip(**volumes, **facts, most_bytes=bytes_per_case(50)))
    write_report(tmp_path / "report.html", content=content(scores, strips=strips, synthetic=True))
    size = (tmp_path / "report.html").stat().st_size
    with capsys.disabled():
        print(f"\nreport of 50 phantoms: {size / 1e6:.1f} MB, every slice of each")
    assert size < 15e6
    assert all(len(strip.slices) == 24 for strip in strips)
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
