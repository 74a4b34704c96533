"""`clotseg inspect`: a sliced cohort in; a page of its slices before and after augmentation out.

Each row is a slice, CTA above NCCT, its clot outlined: as it is, after each transform by itself, after all of
them together, and as three training epochs might see it. The page is one file without scripts.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.config import AugmentConfig
from clotseg.errors import DataError
from clotseg.project import Project
from clotseg.quiet import load_tensorflow

if TYPE_CHECKING:
    from clotseg.dali.augment.parameters import ParameterRecord
    from clotseg.dali.feed import SlicedCohort

Bytes = NDArray[np.uint8]

OUTLINE = (255, 174, 26)
FRAMING_BEFORE = 12
FRAMING_AFTER = 4
TRANSFORMS = {
    "horizontal flip": ("horizontal_flip",),
    "vertical flip": ("vertical_flip",),
    "brightness, contrast": ("brightness_contrast",),
    "gamma": ("gamma",),
    "blur": ("blur",),
    "CLAHE": ("clahe",),
    "all together": ("horizontal_flip", "vertical_flip", "brightness_contrast", "gamma", "blur", "clahe"),
}
AS_TRAINED = 3
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ margin: 1.5rem; font: 14px/1.4 system-ui, sans-serif; color: #1b2127; background: #fff }}
table {{ border-collapse: collapse }} th, td {{ padding: .25rem; vertical-align: top; text-align: left }}
thead th {{ position: sticky; top: 0; background: #fff; font-weight: 600; max-width: 128px }}
img {{ display: block; image-rendering: pixelated; width: 128px }}
td p {{ margin: .15rem 0 0; max-width: 128px; font-size: 11px; color: #5b6670; overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1>
<p>CTA above NCCT; the mask is outlined. The last columns are drawn as training draws them:
{settings}.</p>
<table><thead><tr><th>slice</th>{columns}</tr></thead><tbody>{rows}</tbody></table>
</body></html>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """One record of a sliced cohort.

    Attributes:
        case: name of the case.
        number: which slice of it.
        image: uint8 [H, W, C].
        mask: uint8 [H, W].
    """

    case: str
    number: int
    image: Bytes
    mask: Bytes


def write_contact_sheet(path: Path, out: Path, config: AugmentConfig, *, slices: int, seed: int) -> int:
    """Writes the page.

    Args:
        path: a project, or the folder of one sliced cohort.
        out: the HTML file.
        config: how slices are augmented.
        slices: how many to show at most, each from another case, where its clot is largest.
        seed: of the augmentation.

    Returns:
        How many slices it shows.

    Raises:
        DataError: `path` is neither.
        CorruptArtifactError: the cohort is damaged.
    """
    from clotseg.dali.feed import open_cohort

    load_tensorflow()
    folder = _cohort_folder(path)
    cohort = open_cohort(folder, artifact.require_manifest(folder, fix="run `clotseg prep` first"))
    chosen = list(_choose(cohort, slices))
    columns: dict[str, list[ParameterRecord]] = {
        name: _draws(_only(config, on), len(chosen), seed) for name, on in TRANSFORMS.items()
    }
    for number in range(1, AS_TRAINED + 1):
        columns[f"as trained, {number}"] = _draws(config, len(chosen), seed + number)
    page = _render(f"Augmentation of {folder.name}", chosen, columns, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    artifact.replace_file(temporary, out)
    return len(chosen)


def _cohort_folder(path: Path) -> Path:
    for folder in (path, Project(path).sliced / "Training"):
        if any(folder.glob("*.tfrecord")):
            return folder
    raise DataError(
        "is neither a project with slices nor a folder of them",
        where=path,
        fix="run `clotseg prep` first, or name a folder such as Processed/Sliced/Validation",
    )


def _choose(cohort: "SlicedCohort", most: int) -> Iterator[Slice]:
    """From cases spread over the cohort, the slice of each with the most clot."""
    count = min(most, len(cohort.case_names))
    places = [(shard, offset) for shard, table in enumerate(cohort.offsets) for offset in table.tolist()]
    for case in np.linspace(0, len(cohort.case_names) - 1, count).astype(int):
        records = [_read(cohort.shards[places[uid][0]], *places[uid][1]) for uid in _uids_of(cohort, case)]
        yield max(records, key=lambda record: int(record.mask.sum()))


def _uids_of(cohort: "SlicedCohort", case: int) -> list[int]:
    uids: list[int] = np.flatnonzero(cohort.case_of == case).tolist()
    return uids


def _read(shard: Path, offset: int, size: int) -> Slice:
    """The record at a place of a shard."""
    import tensorflow as tf

    with shard.open("rb") as stream:
        stream.seek(offset + FRAMING_BEFORE)
        payload = stream.read(size - FRAMING_BEFORE - FRAMING_AFTER)
    feature = tf.train.Example.FromString(payload).features.feature
    shape = list(feature["shape"].int64_list.value)
    return Slice(
        case=feature["case"].bytes_list.value[0].decode(),
        number=feature["slice"].int64_list.value[0],
        image=np.frombuffer(feature["image"].bytes_list.value[0], np.uint8).reshape(shape),
        mask=np.frombuffer(feature["mask"].bytes_list.value[0], np.uint8).reshape(shape[:2]),
    )


def _only(config: AugmentConfig, on: Sequence[str]) -> AugmentConfig:
    """The same limits with just these transforms, and these for certain."""
    every = TRANSFORMS["all together"]
    switches: dict[str, Any] = {name: float(name in on) for name in every}
    return replace(config, probability=1.0, selection="independent", **switches)


def _draws(config: AugmentConfig, count: int, seed: int) -> "list[ParameterRecord]":
    from clotseg.dali.augment.rerun import sample

    return sample(config, count=count, seed=seed)


def _render(
    title: str,
    slices: Sequence[Slice],
    columns: "dict[str, list[ParameterRecord]]",
    config: AugmentConfig,
) -> str:
    from clotseg.dali import replay

    cells = [[_cell(one.image, one.mask, "") for one in slices]]
    for records in columns.values():
        images, masks = replay([one.image for one in slices], [one.mask for one in slices], records)
        captions = [_told(record) for record in records]
        cells.append([_cell(*shown) for shown in zip(images, masks, captions, strict=True)])
    rows = "".join(
        f"<tr><th>{escape(one.case)}<br>slice {one.number}</th>{''.join(row)}</tr>"
        for one, row in zip(slices, zip(*cells, strict=True), strict=True)
    )
    return PAGE.format(
        title=escape(title),
        settings=f"{config.selection}, probability {config.probability}",
        columns="".join(f"<th>{name}</th>" for name in ("as it is", *columns)),
        rows=rows,
    )


def _cell(image: Bytes, mask: Bytes, caption: str) -> str:
    return f'<td><img alt="" src="data:image/png;base64,{_picture(image, mask)}"><p>{caption}</p></td>'


def _picture(image: Bytes, mask: Bytes) -> str:
    """CTA above NCCT as a PNG in base64, the edge of the mask painted; of context slices, the middle one."""
    from matplotlib.image import imsave
    from scipy.ndimage import binary_dilation

    depth = image.shape[2] // 2
    planes = [image[..., depth // 2], image[..., depth + depth // 2]]
    edge = binary_dilation(mask) & ~mask.astype(bool)
    painted = [np.repeat(plane[..., np.newaxis], 3, axis=2) for plane in planes]
    for plane in painted:
        plane[edge] = OUTLINE
    stream = io.BytesIO()
    imsave(stream, np.concatenate(painted), format="png")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _told(record: "ParameterRecord") -> str:
    """The parameters in a line of words; what is off is left out."""
    kernel, clip = record["blur_kernel"], record["clahe_clip"]
    parts = {
        "flipped left to right": record["hflip"],
        "flipped top to bottom": record["vflip"],
        f"α {record['alpha']:.2f}, β {record['beta']:+.0f}": (record["alpha"], record["beta"]) != (1, 0),
        f"γ {record['gamma']:.2f}": record["gamma"] != 1,
        f"kernel {len(kernel or [])} × {len(kernel or [])}": kernel is not None,
        f"clip limit {clip or 0:.2f}": clip is not None,
        "warped": "warp" in record,
        "bent": "elastic" in record,
        "NCCT moved {:+.1f}, {:+.1f}".format(*record.get("ncct_shift", (0, 0))): "ncct_shift" in record,
        f"noise ±{record.get('noise_gaussian', 0):.1f}": "noise_gaussian" in record,
        f"Poisson noise × {record.get('noise_poisson', 0):.2f}": "noise_poisson" in record,
        f"{record.get('dropped')} dropped": "dropped" in record,
    }
    return ", ".join(words for words, on in parts.items() if on) or "nothing"
