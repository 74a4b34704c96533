"""Offline augmentation: as many samples as asked for, shared out fairly, of known source and parameters."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare

from clotseg.config import SLOT_OF, AugmentConfig, Config, OfflineConfig, RuntimeConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.dali import replay
from clotseg.errors import CorruptArtifactError
from clotseg.prep.augmented import Augmenter
from clotseg.prep.offline import read_augmented
from clotseg.prep.stages import plan_prep, run_prep
from clotseg.project import Project

OFFLINE = OfflineConfig(target_train=70, target_val=25)
SETTINGS = Config(
    slice=SliceConfig(slices_per_shard=16),
    offline=OFFLINE,
    augment=AugmentConfig(selection="key8"),
    runtime=RuntimeConfig(workers=1),
)
FEATURES = {
    "image": tf.io.FixedLenFeature((), tf.string),
    "mask": tf.io.FixedLenFeature((), tf.string),
    "shape": tf.io.FixedLenFeature((3,), tf.int64),
    "case": tf.io.FixedLenFeature((), tf.string),
    "slice": tf.io.FixedLenFeature((), tf.int64),
    "uid": tf.io.FixedLenFeature((), tf.int64),
    "clot_pixels": tf.io.FixedLenFeature((), tf.int64),
}
MADE = {
    "source_uid": tf.io.FixedLenFeature((), tf.int64),
    "parameters": tf.io.FixedLenFeature((), tf.string),
}


def records_of(folder: Path, features: dict[str, Any]) -> list[dict[str, Any]]:
    """Every record of a cohort in file order, by TensorFlow's own reader, with its pixels as arrays."""
    files = [str(path) for path in sorted(folder.glob("*.tfrecord"))]
    found = []
    for record in tf.data.TFRecordDataset(files):
        parsed = {name: value.numpy() for name, value in tf.io.parse_single_example(record, features).items()}
        rows, columns, channels = parsed["shape"]
        parsed["image"] = np.frombuffer(parsed["image"], np.uint8).reshape(rows, columns, channels)
        parsed["mask"] = np.frombuffer(parsed["mask"], np.uint8).reshape(rows, columns)
        found.append(parsed)
    return found


@pytest.fixture(scope="module")
def augmented(sliced_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose training slices were augmented offline."""
    project = Project(tmp_path_factory.mktemp("augmented") / "project")
    shutil.copytree(sliced_project.root, project.root)
    result = run_prep(project, SETTINGS, PlainProgress(), augment="auto")
    assert result["stages"]["augment"] == "made"
    return project


@pytest.fixture(scope="module")
def sources(augmented: Project) -> dict[int, dict[str, Any]]:
    """The slices that were augmented, by uid."""
    return {int(r["uid"]): r for r in records_of(augmented.sliced / "Training", FEATURES)}


@pytest.fixture(scope="module")
def samples(augmented: Project) -> list[dict[str, Any]]:
    """The augmented slices."""
    return records_of(augmented.augmented / "Training", FEATURES | MADE)


def test_there_are_as_many_samples_as_asked_for_numbered_in_file_order(samples: list[dict[str, Any]]) -> None:
    assert [record["uid"] for record in samples] == list(range(OFFLINE.target_train))


def test_every_slice_is_used_and_none_has_two_copies_more_than_another(
    samples: list[dict[str, Any]], sources: dict[int, dict[str, Any]]
) -> None:
    copies = Counter(int(record["source_uid"]) for record in samples)
    assert set(copies) == set(sources)
    assert max(copies.values()) - min(copies.values()) <= 1


def test_each_sample_is_its_source_changed_as_its_parameters_say(
    samples: list[dict[str, Any]], sources: dict[int, dict[str, Any]]
) -> None:
    """DALI, given the source and the parameters, makes what albumentations made, to the pixel."""
    origin = [sources[int(record["source_uid"])] for record in samples]
    images, masks = replay(
        [source["image"] for source in origin],
        [source["mask"] for source in origin],
        [json.loads(record["parameters"]) for record in samples],
    )
    for record, source, image, mask in zip(samples, origin, images, masks, strict=True):
        assert (record["case"], record["slice"]) == (source["case"], source["slice"])
        assert record["clot_pixels"] == source["clot_pixels"] == record["mask"].sum()
        np.testing.assert_array_equal(record["mask"], mask)
        np.testing.assert_array_equal(record["image"], image)
    assert sum(not np.array_equal(r["image"], s["image"]) for r, s in zip(samples, origin, strict=True)) > 35


def test_copies_of_a_slice_differ(samples: list[dict[str, Any]]) -> None:
    changed = [record for record in samples if json.loads(record["parameters"])["alpha"] != 1]
    assert len({record["parameters"] for record in changed}) == len(changed) > 10


def test_the_validation_cohort_is_left_alone_unless_asked_for(augmented: Project, tmp_path: Path) -> None:
    assert not (augmented.augmented / "Validation").exists()
    project = Project(tmp_path / "project")
    shutil.copytree(augmented.root, project.root)
    asked = replace(SETTINGS, offline=replace(OFFLINE, validation=True))
    run_prep(project, asked, PlainProgress(), augment="auto")
    assert len(records_of(project.augmented / "Validation", FEATURES | MADE)) == OFFLINE.target_val


def test_augmenting_validation_warns(
    augmented: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(augmented.root, project.root)
    run_prep(
        project, replace(SETTINGS, offline=replace(OFFLINE, validation=True)), PlainProgress(), augment="auto"
    )
    assert "no score" in capsys.readouterr().err


def test_what_the_original_does_not_have_is_left_out_and_said_so(
    augmented: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = replace(SETTINGS, augment=replace(SETTINGS.augment, noise_gaussian=1.0, warp=1.0))
    plan: dict[str, Any] = plan_prep(augmented, noisy, PlainProgress(), augment="auto")
    assert plan["stages"]["augment"]["action"] == "reuse", "it decides nothing"
    project = Project(tmp_path / "project")
    shutil.copytree(augmented.root, project.root)
    shutil.rmtree(project.augmented)
    run_prep(project, noisy, PlainProgress(), augment="auto")
    assert "warp and noise_gaussian: left out" in capsys.readouterr().err
    assert digests_of(project) == digests_of(augmented)


def digests_of(project: Project) -> dict[str, str]:
    manifest = read_augmented(project)
    return {name: facts["sha256"] for name, facts in manifest["outputs"].items()}


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(augmented: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    shutil.copytree(augmented.root, project.root)
    shutil.rmtree(project.augmented)
    run_prep(project, replace(SETTINGS, runtime=RuntimeConfig(workers=2)), PlainProgress(), augment="force")
    assert digests_of(project) == digests_of(augmented)


def test_it_is_reused_until_something_changes(augmented: Project) -> None:
    def planned(config: Config) -> dict[str, Any]:
        plan: dict[str, Any] = plan_prep(augmented, config, PlainProgress(), augment="auto")
        return plan["stages"]["augment"]  # type: ignore[no-any-return]

    assert planned(SETTINGS)["action"] == "reuse"
    assert planned(replace(SETTINGS, runtime=RuntimeConfig(workers=2)))["action"] == "reuse"
    other = planned(replace(SETTINGS, offline=replace(OFFLINE, target_train=71)))
    assert other["action"] == "make"
    assert "target_train changed from 70 to 71" in other["reason"]


def test_without_it_training_from_it_says_what_to_do(sliced_project: Project) -> None:
    with pytest.raises(CorruptArtifactError, match="prep --augment"):
        read_augmented(sliced_project)


def test_the_switches_follow_the_originals_key() -> None:
    """Of 8 slots k are off, k from 0 to 7 with even odds; so six given slots have n on with known odds."""
    from math import comb

    draws = 3000
    augmenter = Augmenter(AugmentConfig(selection="key8", probability=1.0))
    counts = [
        sum(augmenter._draw_switches(np.random.default_rng([11, number])).values()) for number in range(draws)
    ]
    odds = [
        sum(comb(6, on) * comb(2, 8 - k - on) / comb(8, 8 - k) for k in range(8) if 0 <= 8 - k - on <= 2) / 8
        for on in range(7)
    ]
    assert sum(odds) == pytest.approx(1)
    assert chisquare(np.bincount(counts, minlength=7), [draws * odd for odd in odds]).pvalue > 0.01


def test_each_transform_can_be_switched_off() -> None:
    image, mask = (
        np.random.default_rng(0).integers(0, 256, (16, 16, 2), np.uint8),
        np.zeros((16, 16), np.uint8),
    )
    mask[3:6, 2:9] = 1
    off = dict.fromkeys(SLOT_OF, 0.0)
    quiet = Augmenter(AugmentConfig(selection="independent", probability=1.0, **off))
    same, same_mask, record = quiet.augment(image, mask, [1])
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(same_mask, mask)
    assert record["clahe_clip"] is None
    flips = Augmenter(
        AugmentConfig(selection="independent", probability=1.0, **off | {"horizontal_flip": 1.0})
    )
    flipped, flipped_mask, record = flips.augment(image, mask, [1])
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    np.testing.assert_array_equal(flipped_mask, mask[:, ::-1])
    assert record["hflip"]
