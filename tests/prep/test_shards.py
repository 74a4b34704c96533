"""Shards as any TensorFlow program, DALI or a byte-counting reader finds them."""

import hashlib
import json
import shutil
import struct

import numpy as np
import pytest

from clotseg.config import Config, FeedConfig, SliceConfig
from clotseg.console import PlainProgress
from clotseg.dali.feed import open_cohort
from clotseg.prep.shards import encode_slice, plan_shards, write_records, write_shard
from clotseg.prep.stages import read_sliced, run_prep
from clotseg.project import Project
from tests.conftest import contents, largest_file, write_cohort
from tests.prep.conftest import checked_cases

WINDOWS_HU = {"cta": (-50, 450), "ncct": (0, 100)}


def read_with_tensorflow(shard):
    """Every record of a shard, by TensorFlow's own reader (which checks the CRCs) and parser."""
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "mask": tf.io.FixedLenFeature([], tf.string),
        "shape": tf.io.FixedLenFeature([3], tf.int64),
        "case": tf.io.FixedLenFeature([], tf.string),
        "slice": tf.io.FixedLenFeature([], tf.int64),
        "uid": tf.io.FixedLenFeature([], tf.int64),
        "clot_pixels": tf.io.FixedLenFeature([], tf.int64),
    }
    for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        assert set(example.features.feature) == set(features)
        parsed = tf.io.parse_single_example(record, features)
        yield {name: value.numpy() for name, value in parsed.items()}


def walk_framing(shard):
    """Offset and size of each record, by the length fields of the TFRecord format alone."""
    data, offset, found = shard.read_bytes(), 0, []
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        size = 8 + 4 + length + 4
        found.append((offset, size))
        offset += size
    assert offset == len(data)
    return found


def shards_of(project, cohort):
    """The shards of a cohort in the order of their names."""
    return sorted((project.root / "Processed" / "Sliced" / cohort).glob("*.tfrecord"))


def windowed(hu, low, high):
    """The window in NumPy, written anew."""
    return np.clip(np.round(255 * (hu.astype(np.float64) - low) / (high - low)), 0, 255).astype(np.uint8)


def expected_slices(project, cohort):
    """What the input volumes say every slice of a cohort must hold, by (case, slice)."""
    split = json.loads((project.root / "Processed" / "Original" / "split.json").read_text())
    slices = {}
    for case in split["cohorts"][cohort]:
        cta = np.load(project.root / "DL_vol_files" / "binary" / f"{case}_CTA_Binary.npy")
        ncct = np.load(project.root / "DL_vol_files" / "binary" / f"{case}_NCCT_Reg_Binary.npy")
        mask = np.load(project.root / "DL_seg_files" / "binary" / f"{case}_seg_corrected_binary.npy")
        for number in range(mask.shape[2]):
            channels = (
                windowed(cta[:, :, number], *WINDOWS_HU["cta"]),
                windowed(ncct[:, :, number], *WINDOWS_HU["ncct"]),
            )
            slices[case, number] = np.stack(channels, axis=-1), mask[:, :, number]
    return slices


@pytest.mark.parametrize("cohort", ["Training", "Validation"])
def test_tensorflow_reads_every_slice_once_with_the_pixels_of_its_volume(sliced_project, cohort):
    expected = expected_slices(sliced_project, cohort)
    clots, records = (
        0,
        [r for shard in shards_of(sliced_project, cohort) for r in read_with_tensorflow(shard)],
    )
    assert [record["uid"] for record in records] == list(range(len(expected)))
    for record in records:
        image, mask = expected.pop((record["case"].decode(), int(record["slice"])))
        assert record["shape"].tolist() == list(image.shape)
        np.testing.assert_array_equal(np.frombuffer(record["image"], np.uint8).reshape(image.shape), image)
        np.testing.assert_array_equal(np.frombuffer(record["mask"], np.uint8).reshape(mask.shape), mask)
        assert record["clot_pixels"] == mask.sum()
        clots += record["clot_pixels"] > 0
    assert not expected
    assert clots


@pytest.mark.parametrize("cohort", ["Training", "Validation"])
def test_a_case_lies_in_one_shard_with_its_slices_in_order(sliced_project, cohort):
    seen = []
    for shard in shards_of(sliced_project, cohort):
        records = [(record["case"].decode(), int(record["slice"])) for record in read_with_tensorflow(shard)]
        cases = list(dict.fromkeys(case for case, _ in records))
        assert records == [
            (case, number) for case in cases for number in range(sum(c == case for c, _ in records))
        ]
        seen += cases
    assert len(seen) == len(set(seen)) > 1


@pytest.mark.parametrize("cohort", ["Training", "Validation"])
def test_the_index_gives_the_offset_and_size_of_every_record(sliced_project, cohort):
    shards = shards_of(sliced_project, cohort)
    for shard in shards:
        lines = shard.with_suffix(".idx").read_text().splitlines()
        assert [tuple(map(int, line.split(" "))) for line in lines] == walk_framing(shard)
    names = [f"slices-{number:05d}-of-{len(shards):05d}.tfrecord" for number in range(len(shards))]
    assert [shard.name for shard in shards] == names


def test_a_damaged_byte_is_noticed_by_whoever_reads_with_tensorflow(sliced_project, tmp_path):
    import tensorflow as tf

    data = bytearray(shards_of(sliced_project, "Training")[0].read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.tfrecord").write_bytes(data)
    with pytest.raises(tf.errors.DataLossError):
        list(read_with_tensorflow(tmp_path / "damaged.tfrecord"))


@pytest.fixture(scope="module")
def chosen_project(sliced_project, tmp_path_factory):
    """The same cases with one neighbour on each side, and a balanced choice of slices to train on."""
    project = Project(tmp_path_factory.mktemp("chosen") / "project")
    shutil.copytree(sliced_project.root, project.root, ignore=shutil.ignore_patterns("Processed"))
    slicing = SliceConfig(slices_per_shard=8, context=1, slices="balanced")
    run_prep(project, Config(slice=slicing, feed=FeedConfig(size=32)), PlainProgress())
    return project


@pytest.mark.parametrize("cohort", ["Training", "Validation"])
def test_neighbours_are_channels_cta_first_and_the_ends_of_a_volume_are_repeated(chosen_project, cohort):
    alone = expected_slices(chosen_project, cohort)
    last = {case: max(number for name, number in alone if name == case) for case, _ in alone}
    records = [r for shard in shards_of(chosen_project, cohort) for r in read_with_tensorflow(shard)]
    for record in records:
        case, number = record["case"].decode(), int(record["slice"])
        near = [alone[case, min(max(n, 0), last[case])][0] for n in (number - 1, number, number + 1)]
        image = np.stack(
            [picture[..., 0] for picture in near] + [picture[..., 1] for picture in near], axis=-1
        )
        assert record["shape"].tolist() == list(image.shape)
        np.testing.assert_array_equal(np.frombuffer(record["image"], np.uint8).reshape(image.shape), image)
        mask = alone[case, number][1]
        np.testing.assert_array_equal(np.frombuffer(record["mask"], np.uint8).reshape(mask.shape), mask)
    assert {int(record["slice"]) for record in records} >= {0, 5}, "both ends must be among them"


def test_training_is_balanced_and_validation_is_whole(chosen_project):
    found = {
        cohort: [
            (record["case"].decode(), int(record["slice"]), int(record["clot_pixels"]))
            for shard in shards_of(chosen_project, cohort)
            for record in read_with_tensorflow(shard)
        ]
        for cohort in ("Training", "Validation")
    }
    with_clot = {
        (case, number)
        for (case, number), (_, mask) in expected_slices(chosen_project, "Training").items()
        if mask.any()
    }
    assert {(case, number) for case, number, pixels in found["Training"] if pixels} == with_clot
    assert len(found["Training"]) == 2 * len(with_clot) > 0
    assert {(case, number) for case, number, _ in found["Validation"]} == set(
        expected_slices(chosen_project, "Validation")
    )


def test_readers_know_the_case_of_each_chosen_record(chosen_project):
    manifest = read_sliced(chosen_project, "Training")
    cohort = open_cohort(chosen_project.sliced / "Training", manifest)
    records = [r for shard in cohort.shards for r in read_with_tensorflow(shard)]
    assert [cohort.case_names[case] for case in cohort.case_of] == [r["case"].decode() for r in records]
    assert [record["uid"] for record in records] == list(range(cohort.records))
    assert manifest["records"] == cohort.records < sum(case["slices"] for case in manifest["cases"])


@pytest.fixture
def checked(tmp_path):
    """Five checked cases of four slices."""
    return checked_cases(write_cohort(tmp_path / "five", 5, shape=(8, 8, 4)), largest_slice=None)


@pytest.mark.parametrize(
    ("slices_per_shard", "cases_per_shard"),
    [(1, [1, 1, 1, 1, 1]), (4, [1, 1, 1, 1, 1]), (5, [2, 2, 1]), (8, [2, 2, 1]), (9, [3, 2]), (1024, [5])],
)
def test_a_shard_is_closed_once_it_holds_enough_slices(checked, slices_per_shard, cases_per_shard):
    shards = plan_shards(checked, slices_per_shard, every_slice(checked))
    assert [len(shard.cases) for shard in shards] == cases_per_shard
    assert [case for shard in shards for case in shard.cases] == [entry.case for entry in checked]
    assert [shard.records for shard in shards] == [4 * count for count in cases_per_shard]
    ends = np.cumsum([shard.records for shard in shards])
    assert [shard.first_uid for shard in shards] == [0, *ends[:-1]]


def every_slice(checked):
    """All slices of all cases."""
    return {entry.case.name: tuple(range(entry.shape[2])) for entry in checked}


def write_all(folder, checked, slices_per_shard=9):
    """Writes every shard; gives what it said of the files."""
    folder.mkdir()
    outputs = {}
    for shard in plan_shards(checked, slices_per_shard, every_slice(checked)):
        outputs |= write_shard(folder, shard, SliceConfig())
    return outputs


def test_the_same_cases_give_the_same_bytes(checked, tmp_path):
    write_all(tmp_path / "first", checked)
    write_all(tmp_path / "second", checked)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert len(contents(tmp_path / "first")) == 4


def test_the_digests_taken_while_writing_are_those_of_the_files(checked, tmp_path):
    outputs = write_all(tmp_path / "shards", checked)
    assert outputs == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents(tmp_path / "shards").items()
    }


def test_a_record_is_byte_for_byte_what_tensorflow_serialises_and_frames(tmp_path):
    import tensorflow as tf

    def raw(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def whole(*values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    random = np.random.default_rng(3)
    ours, theirs = [], []
    for number, (rows, columns, channels) in enumerate(
        [(1, 1, 2), (127, 129, 2), (256, 256, 10), (3, 300, 6)]
    ):
        image = random.integers(0, 256, (rows, columns, channels), dtype=np.uint8)
        mask = random.integers(0, 2, (rows, columns), dtype=np.uint8)
        uid = (0, 127, 128, 2**40)[number]
        features = {
            "image": raw(image.tobytes()),
            "mask": raw(mask.tobytes()),
            "shape": whole(rows, columns, channels),
            "case": raw("Fall_ü".encode()),
            "slice": whole(number),
            "uid": whole(uid),
            "clot_pixels": whole(int(mask.sum())),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        theirs.append(example.SerializeToString(deterministic=True))
        ours.append(encode_slice(image, mask, case="Fall_ü", number=number, uid=uid))
    assert ours == theirs
    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
        for record in theirs:
            writer.write(record)
    write_records(tmp_path, "ours.tfrecord", ours)
    assert (tmp_path / "ours.tfrecord").read_bytes() == (tmp_path / "theirs.tfrecord").read_bytes()


def test_features_lie_in_order_of_name_so_that_no_hash_order_enters_the_bytes(sliced_project):
    names = [b"case", b"clot_pixels", b"image", b"mask", b"shape", b"slice", b"uid"]
    for shard in shards_of(sliced_project, "Training"):
        data = shard.read_bytes()
        for offset, size in walk_framing(shard):
            record = data[offset : offset + size]
            places = [record.index(b"\n" + bytes([len(name)]) + name + b"\x12") for name in names]
            assert places == sorted(places)


def test_the_size_of_shards_changes_no_record(checked, tmp_path):
    for name, slices_per_shard in (("few", 1024), ("many", 1)):
        write_all(tmp_path / name, checked, slices_per_shard)
    few, many = (
        b"".join(path.read_bytes() for path in sorted((tmp_path / name).glob("*.tfrecord")))
        for name in ("few", "many")
    )
    assert few == many


def test_a_disk_that_refuses_a_shard_is_told_like_any_other_refused_write(checked, tmp_path):
    with largest_file(500), pytest.raises(OSError, match="large"):
        write_all(tmp_path / "full", checked)
