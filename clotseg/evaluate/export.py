"""`clotseg export`: a checkpoint in; a SavedModel, and ONNX where asked for, that need no clotseg out.

What is written takes slices in HU at their own size and gives probabilities of the same size: windows,
padding, sigmoid and, where the network was tested with them, flips are inside. It is read back from disk and
held against the network as testing uses it before anything is published.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clotseg import artifact
from clotseg.config import Config, Flip, plain
from clotseg.console import Progress
from clotseg.errors import CorruptArtifactError, DataError, require_extra
from clotseg.evaluate.infer import Model, Predictor, Volumes, load_predictor, views_of
from clotseg.evaluate.operating_point import cut_in_force, find_point
from clotseg.prep.cases import open_volume
from clotseg.prep.cohorts import read_cohorts
from clotseg.prep.slices import CHANNELS
from clotseg.project import Project
from clotseg.train.checkpoint import Description, find_checkpoint, load_checkpoint
from clotseg.train.devices import open_devices

EXPORT_CODE_VERSION = 2
SAVED_MODEL, ONNX, FACTS = "saved_model", "model.onnx", "export.json"
ONNX_OPSET = 17
TOLERANCE = 1e-5
SLICES_COMPARED = 16

Floats = NDArray[np.float32]
Answer = Callable[[Floats], Floats]
"""Slices [N, row, column, channel] in HU to probabilities [N, row, column, 1]."""


def export(
    project: Project, config: Config, progress: Progress, *, checkpoint: Path, out: Path, onnx: bool
) -> dict[str, Any]:
    """Writes `saved_model/`, `export.json` and, where asked for, `model.onnx`.

    Args:
        project: whose slices are compared on; where it has none, noise is.
        config: devices.
        progress: told of the comparison.
        checkpoint: a run, checkpoint folder or weights file.
        out: the folder to publish; an earlier export in it is replaced.
        onnx: whether ONNX is written.

    Returns:
        `{"saved_model", "onnx", "compared_on", "largest_difference"}`.

    Raises:
        DataError: there is no such checkpoint, or `out` is something else.
        CorruptArtifactError: the checkpoint is damaged, or what was written does not answer as the network.
        EnvironmentProblem: the extra `onnx` is not installed.
    """
    folder = find_checkpoint(checkpoint)
    _require_free(out)
    if onnx:
        require_extra("onnx", ("tf2onnx", "onnxruntime"), where="--onnx")
    open_devices(config.runtime)
    model, description = load_checkpoint(folder)
    point = find_point(folder, [description.sha256], tta=None)
    flips = description.flips if point is not None and point.tta else ()
    predictor = load_predictor([folder], tta=bool(flips))
    source, volumes = _slices_to_compare(project, description.size)
    with artifact.publish(out) as building:
        module = _module(model, description, flips)
        answers = {"saved_model": _write_saved_model(building / SAVED_MODEL, module)}
        if onnx:
            answers["onnx"] = _write_onnx(building / ONNX, module)
        largest = _compare(predictor, answers, volumes, description)
        for name, difference in largest.items():
            progress.say("export", format=name, slices=volumes.shape[2], largest_difference=difference)
        facts = {
            **_facts(description, flips),
            "cut": None if point is None else plain(cut_in_force(config.test, point)),
            "largest_difference": largest,
            "compared_on": source,
        }
        artifact.write_json(building / FACTS, {"format": artifact.FORMAT, **facts})
        _write_manifest(building, description)
    return {
        "saved_model": project.shown(out / SAVED_MODEL),
        "onnx": project.shown(out / ONNX) if onnx else None,
        "compared_on": source,
        "largest_difference": largest,
    }


def _require_free(out: Path) -> None:
    if not out.exists():
        return
    manifest = artifact.read_manifest(out) if out.is_dir() else None
    if manifest is None or manifest.get("stage") != "export":
        raise DataError("is no earlier export, and is left as it is", where=out, fix="name another folder")


def _module(model: Model, description: Description, flips: Sequence[Flip]) -> Any:
    """A `tf.Module` whose `serve` takes HU [N, row, column, channel] and gives the probability.

    It is the mean over every choice among the flips.
    """
    import tensorflow as tf

    size, channels = description.size, description.channels
    neighbours = channels // len(CHANNELS)
    windows = (description.slicing.cta_window_hu, description.slicing.ncct_window_hu)
    low, high = (np.repeat([float(window[end]) for window in windows], neighbours) for end in (0, 1))

    views = views_of(flips)

    def serve(hu: Any) -> dict[str, Any]:
        levels = _grey_levels(hu, low, high)
        seen = [turned(native(turned(levels, axes)), axes) for axes in views]
        return {"probability": tf.add_n(seen) / len(views)}

    def turned(slices: Any, axes: tuple[int, ...]) -> Any:
        return tf.reverse(slices, axes) if axes else slices

    def native(levels: Any) -> Any:
        rows, columns = tf.shape(levels)[1], tf.shape(levels)[2]
        top, left = (size - rows) // 2, (size - columns) // 2
        around = [[0, 0], [top, size - rows - top], [left, size - columns - left], [0, 0]]
        square = tf.ensure_shape(tf.pad(levels, around), (None, size, size, channels))
        probability = model(square * (1 / 255), training=False)
        return tf.slice(probability, [0, top, left, 0], [tf.shape(levels)[0], rows, columns, 1])

    module = tf.Module()
    module.network = model
    signature = [tf.TensorSpec((None, None, None, channels), tf.float32, name="hu")]
    module.serve = tf.function(serve, input_signature=signature)
    return module


def _grey_levels(hu: Any, low: NDArray[np.float64], high: NDArray[np.float64]) -> Any:
    """HU [N, row, column, channel] in their windows as whole numbers 0…255, float32, halves to the even one.

    TensorFlow and ONNX may join factors of 255 / (high − low) as they please, and what should be a half then
    falls to either side. The remainder is exact for whole HU, and tells which side is right.
    """
    import tensorflow as tf

    span = high - low
    scaled = (tf.clip_by_value(tf.cast(hu, tf.float64), low, high) - low) * 255.0
    nearest = tf.round(scaled / span)
    twice = 2.0 * (scaled - nearest * span)
    odd = tf.math.floormod(nearest, 2.0) > 0.5
    up = tf.logical_or(twice > span, tf.logical_and(odd, tf.equal(twice, span)))
    down = tf.logical_or(twice < -span, tf.logical_and(odd, tf.equal(twice, -span)))
    return tf.cast(nearest, tf.float32) + tf.cast(up, tf.float32) - tf.cast(down, tf.float32)


def _write_saved_model(path: Path, module: Any) -> Answer:
    import tensorflow as tf

    tf.saved_model.save(module, str(path), signatures=module.serve)
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]

    def answer(hu: Floats) -> Floats:
        return np.asarray(serve(hu=tf.constant(hu))["probability"])

    answer.keep = loaded  # type: ignore[attr-defined]
    return answer


def _write_onnx(path: Path, module: Any) -> Answer:
    import onnxruntime
    import tf2onnx

    serve = module.serve
    tf2onnx.convert.from_function(serve, serve.input_signature, opset=ONNX_OPSET, output_path=str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda hu: np.asarray(session.run(["probability"], {"hu": hu})[0])


def _slices_to_compare(project: Project, size: int) -> tuple[str, Volumes]:
    """Slices of a validation case, the ones in the middle of the volume; noise where there is none."""
    try:
        entry = read_cohorts(project).of("Validation")[0]
        cta, ncct = open_volume(entry.case.cta), open_volume(entry.case.ncct)
    except (CorruptArtifactError, DataError):
        random = np.random.default_rng(0)
        shape = (max(size - 3, 1), max(size - 6, 1), SLICES_COMPARED)
        noise = [random.uniform(-1000, 1000, shape).astype(np.float32) for _ in CHANNELS]
        return "noise", Volumes(name="noise", cta=noise[0], ncct=noise[1])
    start = max(0, entry.shape[2] // 2 - SLICES_COMPARED // 2)
    part = (slice(None), slice(None), slice(start, start + SLICES_COMPARED))
    return entry.case.name, Volumes(name=entry.case.name, cta=cta[part], ncct=ncct[part])


def _compare(
    predictor: Predictor, answers: dict[str, Answer], volumes: Volumes, description: Description
) -> dict[str, float]:
    """The largest difference of any probability, by format.

    Raises:
        CorruptArtifactError: one is above 1e-5.
    """
    expected = predictor.probability(volumes)
    hu = slices_hu(volumes, description.slicing.context)
    wanted = np.moveaxis(expected, 2, 0)[..., np.newaxis]
    largest = {}
    for name, answer in answers.items():
        given = answer(hu)
        largest[name] = float(np.abs(given - wanted).max()) if given.shape == wanted.shape else math.inf
        if not largest[name] <= TOLERANCE:
            raise CorruptArtifactError(
                f"{name} answers up to {largest[name]:.2g} away from the network, more than {TOLERANCE:g}; "
                "nothing was written",
                where=volumes.name,
            )
    return largest


def slices_hu(volumes: Volumes, context: int) -> Floats:
    """What an exported network takes: float32 [slice, row, column, channel] in HU.

    Channels are the CTA of the slices from `context` below to `context` above, then their NCCT; beyond the
    ends of the volume its last slice is repeated.
    """
    numbers = np.arange(volumes.shape[2])
    wanted = np.clip(np.add.outer(numbers, np.arange(-context, context + 1)), 0, len(numbers) - 1)
    both = [np.asarray(hu, np.float32)[:, :, wanted] for hu in (volumes.cta, volumes.ncct) if hu is not None]
    return np.ascontiguousarray(np.moveaxis(np.concatenate(both, axis=3), 2, 0))


def _facts(description: Description, flips: Sequence[Flip]) -> dict[str, Any]:
    """What a program that runs the export must know, beside the signature."""
    context = description.slicing.context
    return {
        "weights": description.sha256,
        "largest_slice": description.size,
        "channels": [f"{kind} {offset:+d}" for kind in CHANNELS for offset in range(-context, context + 1)],
        "flips": list(flips),
    }


def _write_manifest(folder: Path, description: Description) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": artifact.FORMAT,
        "stage": "export",
        "code_version": EXPORT_CODE_VERSION,
        "key": artifact.stage_key("export", EXPORT_CODE_VERSION, names, description.sha256),
        "config": {},
        "inputs": {"weights": description.sha256},
        "outputs": artifact.describe_outputs(folder, names),
    }
    artifact.write_manifest(folder, manifest)
