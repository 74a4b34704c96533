"""Exported networks, held against the trainer's network on slices that it could have been trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from clotseg.config import NetworkConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.errors import CorruptArtifactError, DataError
from clotseg.evaluate.export import export, slices_hu
from clotseg.evaluate.infer import Volumes, centre_crop, centre_pad
from clotseg.evaluate.operating_point import write_points
from clotseg.prep.slices import window_volumes, with_context
from clotseg.project import Project, Run
from clotseg.train.checkpoint import Description, load_checkpoint, read_description, save_checkpoint
from clotseg.train.unet import build_unet
from tests.conftest import contents, start_python
from tests.evaluate.conftest import NETWORK, SIZE, settings
from tests.evaluate.test_operating_point import point_of

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning:keras"
    ),
    # tf2onnx still asks NumPy in the old way.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx"),
]


@pytest.fixture(scope="module")
def exported(project: Project, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModel of the best weights."""
    out = tmp_path_factory.mktemp("exported") / "export"
    result = exported_to(project, run.best, out)
    assert result["saved_model"] == str(out / "saved_model")
    assert result["onnx"] is None
    return out


def exported_to(project: Project, checkpoint: Path, out: Path, *, onnx: bool = False) -> dict[str, Any]:
    return export(project, settings(), PlainProgress(), checkpoint=checkpoint, out=out, onnx=onnx)


def trainers_answer(checkpoint: Path, volumes: Volumes) -> NDArray[np.float32]:
    """The network on 8-bit slices, padded, divided by 255: what training and validation see."""
    model, description = load_checkpoint(checkpoint)
    windowed = window_volumes(volumes.cta, volumes.ncct, description.slicing)
    slices = with_context(windowed, range(len(windowed)), description.slicing.context)
    padded = centre_pad(slices, description.size).astype(np.float32) / 255
    return np.asarray(centre_crop(model(padded, training=False).numpy(), *windowed.shape[1:3]))


def flipped(volumes: Volumes, axes: tuple[int, ...]) -> Volumes:
    """The volumes turned round along axes of [row, column, slice]."""
    return Volumes(name="flipped", cta=np.flip(volumes.cta, axes), ncct=np.flip(volumes.ncct, axes))


def served(folder: Path, hu: NDArray[np.float32]) -> NDArray[np.float32]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "saved_model"))
    return np.asarray(loaded.signatures["serving_default"](hu=tf.constant(hu))["probability"])


def whole_hu(shape: tuple[int, int, int], seed: int) -> Volumes:
    """Every whole HU that a window can round to either side is among these."""
    random = np.random.default_rng(seed)
    cta, ncct = (random.integers(-100, 500, shape).astype(np.int16) for _ in range(2))
    return Volumes(name="case", cta=cta, ncct=ncct)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(32, 32, 5), (27, 30, 3), (1, 31, 2)], ids=str)
def test_the_saved_model_answers_as_the_trainers_network(
    exported: Path, run: Run, shape: tuple[int, int, int]
) -> None:
    volumes = whole_hu(shape, seed=1)
    probability = served(exported, slices_hu(volumes, 0))
    assert probability.shape == (shape[2], *shape[:2], 1)
    expected = trainers_answer(run.best, volumes)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(probability, expected, atol=1e-5)


@pytest.mark.slow
def test_on_a_real_head_it_answers_as_the_trainers_network(exported: Path, run: Run, atlas: Path) -> None:
    head = np.asarray(nibabel.load(atlas).dataobj[85:117, 150:181, 80:92], np.float32)
    assert np.ptp(head) > 30, "or this is no brain"
    volumes = Volumes(name="head", cta=head + 20, ncct=head)
    probability = served(exported, slices_hu(volumes, 0))
    np.testing.assert_allclose(probability, trainers_answer(run.best, volumes), atol=1e-5)


@pytest.mark.slow
def test_a_network_with_neighbours_takes_them_as_channels(project: Project, tmp_path: Path) -> None:
    slicing = SliceConfig(context=1)
    network = NetworkConfig(filters=2, depth=1)
    description = Description(network=network, slicing=slicing, size=SIZE, channels=6, epoch=1, val_dice=0.5)
    save_checkpoint(tmp_path / "Best_Model", build_unet(network, size=SIZE, channels=6), description)
    exported_to(project, tmp_path / "Best_Model", tmp_path / "out")
    volumes = whole_hu((20, 32, 6), seed=2)
    probability = served(tmp_path / "out", slices_hu(volumes, 1))
    expected = trainers_answer(tmp_path / "Best_Model", volumes)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["channels"] == ["CTA -1", "CTA +0", "CTA +1", "NCCT -1", "NCCT +0", "NCCT +1"]


@pytest.mark.slow
def test_another_program_needs_tensorflow_alone(exported: Path, run: Run, tmp_path: Path) -> None:
    volumes = whole_hu((27, 30, 3), seed=3)
    np.save(tmp_path / "hu.npy", slices_hu(volumes, 0))
    program = (
        "import sys, numpy as np, tensorflow as tf; "
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']; "
        "np.save(sys.argv[3], serve(hu=tf.constant(np.load(sys.argv[2])))['probability'].numpy()); "
        "assert not any(name.startswith('clotseg') for name in sys.modules)"
    )
    process = start_python(program, exported / "saved_model", tmp_path / "hu.npy", tmp_path / "answer.npy")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    np.testing.assert_allclose(
        np.load(tmp_path / "answer.npy"), trainers_answer(run.best, volumes), atol=1e-5
    )


@pytest.mark.slow
def test_an_earlier_export_is_replaced_and_anything_else_left_alone(
    project: Project, run: Run, exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "export")
    (tmp_path / "export" / "export.json").unlink()
    exported_to(project, run.best, tmp_path / "export")
    assert "export.json" in contents(tmp_path / "export")
    (tmp_path / "thesis").mkdir()
    with pytest.raises(DataError, match="no earlier export"):
        exported_to(project, run.best, tmp_path / "thesis")


@pytest.mark.slow
def test_without_a_cohort_noise_is_compared(run: Run, tmp_path: Path) -> None:
    result = exported_to(Project(tmp_path), run.best, tmp_path / "out")
    assert result["compared_on"] == "noise"
    assert result["largest_difference"]["saved_model"] <= 1e-5


def test_damaged_weights_are_not_exported(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.best, tmp_path / "Best_Model"))
    weights = next(folder.glob("*.weights.h5"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptArtifactError, match="not the ones that were saved"):
        exported_to(Project(tmp_path), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_network_tested_with_flips_is_exported_with_them(
    project: Project, run: Run, tmp_path: Path
) -> None:
    """In both formats, on slices of odd sides, which a flip moves by a pixel in the padded square."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    best = Path(shutil.copytree(run.best, tmp_path / "Best_Model"))
    weights = read_description(best).sha256
    write_points(best, weights, [point_of(weights, tta=True)])
    exported_to(project, best, tmp_path / "out", onnx=True)
    volumes = whole_hu((27, 31, 3), seed=5)
    hu = slices_hu(volumes, 0)
    views = [
        np.flip(trainers_answer(best, flipped(volumes, axes)), tuple(axis + 1 for axis in axes))
        for axes in ((), (1,), (0,), (0, 1))
    ]
    expected = np.mean(views, axis=0)
    assert np.abs(expected - views[0]).max() > 1e-3
    np.testing.assert_allclose(served(tmp_path / "out", hu), expected, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    np.testing.assert_allclose(session.run(["probability"], {"hu": hu})[0], expected, atol=1e-5)
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (facts["flips"], facts["cut"]["threshold"]) == (["horizontal", "vertical"], 0.25)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [NETWORK, NetworkConfig(filters=2, depth=2, fold=2, norm="instance")],
    ids=["batch", "instance"],
)
def test_onnx_answers_as_the_trainers_network(
    project: Project, tmp_path: Path, network: NetworkConfig
) -> None:
    pytest.importorskip("tf2onnx", reason="needs the extra `onnx`")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    description = Description(
        network=network, slicing=settings().slice, size=SIZE, channels=2, epoch=1, val_dice=0.5
    )
    best = tmp_path / "Best_Model"
    save_checkpoint(best, build_unet(network, size=SIZE, channels=2), description)
    exported_to(project, best, tmp_path / "out", onnx=True)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for shape in ((32, 32, 5), (27, 30, 3)):
        volumes = whole_hu(shape, seed=4)
        (probability,) = session.run(["probability"], {"hu": slices_hu(volumes, 0)})
        np.testing.assert_allclose(probability, trainers_answer(best, volumes), atol=1e-5)


def test_onnx_without_its_extra_says_how_to_get_it(run: Run, tmp_path: Path) -> None:
    """In a process that finds neither converter nor runtime, wherever this one has them."""
    program = (
        "import sys, importlib.util as util, pathlib\n"
        "find = util.find_spec\n"
        "gone = ('tf2onnx', 'onnxruntime')\n"
        "util.find_spec = lambda name, *more: None if name in gone else find(name, *more)\n"
        "from clotseg.cli import main\n"
        "sys.argv = ['clotseg', '-C', sys.argv[1], 'export', 'out', '--onnx', '--ckpt', sys.argv[2]]\n"
        "main()\n"
    )
    process = start_python(program, tmp_path, run.best)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 5
    assert "clotseg[onnx]" in said
    assert not (tmp_path / "out").exists()
