"""`clotseg inspect`: a page that shows slices as they are and as each transform leaves them."""

import base64
import io
import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import AugmentConfig
from clotseg.contact_sheet import write_contact_sheet
from clotseg.errors import DataError
from clotseg.project import Project
from tests.conftest import run_clotseg
from tests.dali.conftest import read_records

OUTLINE = (255, 174, 26)
COLUMNS = ("as it is", "horizontal flip", "vertical flip", "brightness, contrast", "gamma", "blur", "CLAHE")


@pytest.fixture(scope="module")
def page(sliced_project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of three slices of the training cohort."""
    out = tmp_path_factory.mktemp("page") / "new" / "inspect.html"
    assert write_contact_sheet(sliced_project.root, out, AugmentConfig(), slices=3, seed=1) == 3
    return out.read_text(encoding="utf-8")


def pictures(page: str) -> list[list[NDArray[np.uint8]]]:
    """RGB pictures by row and column of the page."""
    rows = re.findall(r"<tr>(.*?)</tr>", page.partition("<tbody>")[2], re.DOTALL)
    return [
        [
            np.rint(matplotlib.image.imread(io.BytesIO(base64.b64decode(picture))) * 255).astype(np.uint8)[
                ..., :3
            ]
            for picture in re.findall(r"base64,([^\"]+)", row)
        ]
        for row in rows
    ]


def test_the_page_names_every_column_and_slice(page: str) -> None:
    headings = re.findall(r"<th>([^<]+)</th>", page.partition("<tbody>")[0])
    assert headings == [
        "slice",
        *COLUMNS,
        "all together",
        *(f"as trained, {number}" for number in (1, 2, 3)),
    ]
    assert len(set(re.findall(r"<th>(case_\d\d)<br>slice \d+</th>", page))) == 3
    assert [len(row) for row in pictures(page)] == [11] * 3


def test_a_slice_is_shown_pixel_by_pixel_with_its_clot_outlined(sliced_project: Project, page: str) -> None:
    images, masks = read_records(sorted((sliced_project.sliced / "Training").glob("*.tfrecord")))
    for row in pictures(page):
        shown = row[0]
        outlined = (shown == OUTLINE).all(axis=2)
        assert outlined.any()
        found = [
            mask
            for image, mask in zip(images, masks, strict=True)
            if 2 * image.shape[0] == len(shown)
            and image.shape[1] == shown.shape[1]
            and (np.concatenate([image[..., 0], image[..., 1]]) == shown[..., 0])[~outlined].all()
        ]
        assert len(found) == 1
        assert not (outlined & np.concatenate([found[0], found[0]]).astype(bool)).any()


def test_each_transform_is_shown_by_itself(page: str) -> None:
    changed = set()
    for row in pictures(page):
        by_column = dict(zip(COLUMNS, row, strict=False))
        plain = by_column["as it is"]
        half = len(plain) // 2
        np.testing.assert_array_equal(by_column["horizontal flip"], plain[:, ::-1])
        upside_down = np.concatenate([plain[:half][::-1], plain[half:][::-1]])
        np.testing.assert_array_equal(by_column["vertical flip"], upside_down)
        for name in ("brightness, contrast", "gamma", "blur", "CLAHE"):
            changed |= {name} if (by_column[name] != plain).any() else set()
            outline = [(picture == OUTLINE).all(axis=2) for picture in (by_column[name], plain)]
            np.testing.assert_array_equal(*outline)
    assert changed == set(COLUMNS[3:])


def test_the_folder_of_one_cohort_will_do(sliced_project: Project, tmp_path: Path) -> None:
    folder = sliced_project.sliced / "Validation"
    assert write_contact_sheet(folder, tmp_path / "page.html", AugmentConfig(), slices=99, seed=1) == 2
    assert "Augmentation of Validation" in (tmp_path / "page.html").read_text()


def test_a_folder_without_slices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a project with slices nor a folder of them"):
        write_contact_sheet(tmp_path, tmp_path / "page.html", AugmentConfig(), slices=1, seed=1)


@pytest.mark.slow
def test_the_command_says_where_the_page_is(sliced_project: Project, tmp_path: Path) -> None:
    done = run_clotseg(
        "-C", sliced_project.root, "inspect", "--slices", "2", "--out", tmp_path / "page.html", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"page": str(tmp_path / "page.html"), "slices": 2}
    assert (tmp_path / "page.html").is_file()
    assert done.stderr == ""
