"""`import.html`: the sidecars and pictures of a project in; one page without scripts that shows them out."""

import base64
from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from clotseg import artifact
from clotseg.importer.published import PICTURE, sidecars
from clotseg.project import Project

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Import</title><style>
:root {{ color-scheme: light dark; --line: #d5dae0; --quiet: #5b6670; --pass: #1a7f4b; --warn: #9a6200;
 --fail: #b3261e }}
@media (prefers-color-scheme: dark) {{ :root {{ --line: #39424c; --quiet: #a3adb8; --pass: #4cc38a;
 --warn: #e2a336; --fail: #ff8a80 }} }}
body {{ margin: 1.5rem auto; padding: 0 1rem; max-width: 1160px; font: 15px/1.45 system-ui, sans-serif }}
section {{ border-top: 1px solid var(--line); padding: 1rem 0; display: grid; gap: 1rem;
 grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) }}
@media (max-width: 760px) {{ section {{ grid-template-columns: minmax(0, 1fr) }} }}
h2 {{ margin: 0 0 .5rem; font-size: 1.1rem }} img {{ width: 100%; height: auto; background: #000 }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px }}
td {{ padding: .15rem .5rem .15rem 0; vertical-align: top }} td:nth-child(2) {{ white-space: nowrap }}
.pass {{ color: var(--pass) }} .warn {{ color: var(--warn) }} .fail {{ color: var(--fail) }}
.quiet {{ color: var(--quiet) }} ul {{ padding-left: 1.2rem; margin: .5rem 0 0 }}
nav {{ display: flex; flex-wrap: wrap; gap: .1rem .7rem; padding-bottom: 1rem }}
</style></head><body><h1>Import</h1>
<p>{summary}</p>
<p class="quiet">Above: the CTA as it was read, sagittal, coronal and axial, with the crop outlined in yellow.
Below: the case in the same planes, CTA and NCCT in turn on the fields of a chessboard; edges must run on from
field to field. The mask is outlined in green. Research software, not a medical device.</p>
<nav>{links}</nav>
{cases}
</body></html>
"""


def write_page(project: Project) -> None:
    """Writes the page, in one step.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    known = list(sidecars(project))
    counts = Counter(sidecar["verdict"] for _, sidecar in known)
    summary = f"{len(known)} cases: " + ", ".join(
        f'<span class="{verdict}">{counts[verdict]} {verdict}</span>' for verdict in ("pass", "warn", "fail")
    )
    links = "".join(
        f'<a class="{sidecar["verdict"]}" href="#{escape(name)}">{escape(name)}</a>'
        for name, sidecar in known
    )
    cases = "".join(_section(project, name, sidecar) for name, sidecar in known)
    page = PAGE.format(summary=summary, links=links, cases=cases)
    artifact.write_file(project.import_page, page.encode())


def _section(project: Project, name: str, sidecar: Mapping[str, Any]) -> str:
    picture = project.imported / name / PICTURE
    shown = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
    grids = sidecar["grids"]
    size = "×".join(map(str, grids["case"]["shape"]))
    rows = "".join(_row(check) for check in sidecar["checks"])
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in sidecar["notices"])
    verdict = sidecar["verdict"]
    outcome = "left out" if verdict == "fail" else "written"
    return (
        f'<section id="{escape(name)}"><div><h2>{escape(name)} '
        f'<span class="{verdict}">{verdict}</span></h2>'
        f'<p class="quiet">{outcome}; {size} voxels of {grids["spacing_mm"][0]:.3g} mm</p>'
        f"<table>{rows}</table>{f'<ul>{notices}</ul>' if notices else ''}</div>"
        f'<div><img alt="crop and checkerboards of {escape(name)}" src="data:image/png;base64,{shown}"></div>'
        "</section>\n"
    )


def _row(check: Mapping[str, Any]) -> str:
    value = "" if check["value"] is None else f"{check['value']:.3g} {escape(check['unit'])}"
    return (
        f'<tr><td class="{check["verdict"]}">{check["verdict"]}</td><td>{value}</td>'
        f"<td>{escape(check['name'])}: {escape(check['why'])}</td></tr>"
    )
