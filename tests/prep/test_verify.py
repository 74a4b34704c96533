"""`verify`: a whole project is called whole, and every kind of damage is named by file and record."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from clotseg import artifact, cli
from clotseg.artifact import describe_outputs, read_manifest, write_json, write_manifest
from clotseg.console import PlainProgress
from clotseg.errors import CorruptArtifactError, DataError, Interrupted
from clotseg.prep.verify import find_scope, require_whole, verify_project
from clotseg.project import Project
from tests.conftest import contents, run_clotseg

TRAINING = "Processed/Sliced/Training"


@pytest.fixture
def project(sliced_project: Project, tmp_path: Path) -> Project:
    """A prepared project with links as `prep` made them, to be damaged."""
    shutil.copytree(sliced_project.root, tmp_path / "project")
    return Project(tmp_path / "project")


def verify(project: Project, level: Any = "full") -> list[tuple[str, int | None, str]]:
    """What was found: file, record, fault."""
    result = verify_project(project, PlainProgress(), level=level)
    assert result["whole"] == (not result["faults"])
    assert result["faults_found"] >= len(result["faults"])
    return [(fault["file"], fault["record"], fault["what"]) for fault in result["faults"]]


def first_shard(project: Project) -> Path:
    return sorted((project.root / TRAINING).glob("*.tfrecord"))[0]


def extents(shard: Path) -> list[list[int]]:
    """Offset and size of each record, by the documented index."""
    return [
        [int(word) for word in line.split()] for line in shard.with_suffix(".idx").read_text().splitlines()
    ]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()
    path.write_bytes(data)


def rewrite(project: Project, edit: Any) -> Path:
    """Writes the first shard anew after `edit` had its Examples; manifest and index are made to fit it."""
    shard = first_shard(project)
    examples = [tf.train.Example.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(str(shard))]
    examples = edit(examples) or examples
    lines, offset = [], 0
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            raw = example.SerializeToString()
            writer.write(raw)
            lines.append(f"{offset} {len(raw) + 16}\n")
            offset += len(raw) + 16
    shard.with_suffix(".idx").write_text("".join(lines))
    edit_manifest(
        shard.parent, lambda m: m["outputs"].update(describe_outputs(shard.parent, sorted(m["outputs"])))
    )
    return shard


def edit_manifest(folder: Path, edit: Any) -> None:
    """Changes a manifest and seals it again, as a faulty writer would."""
    manifest = read_manifest(folder)
    assert manifest is not None
    del manifest["seal"]
    edit(manifest)
    write_manifest(folder, manifest)


def test_a_project_as_prep_made_it_is_whole_and_nothing_is_written(project: Project) -> None:
    before = contents(project.root)
    result = verify_project(project, PlainProgress())
    assert result["whole"]
    assert result["artifacts"] == [
        "Processed/Original",
        "Processed/Sliced/Training",
        "Processed/Sliced/Validation",
    ]
    records = [
        sum(1 for _ in tf.data.TFRecordDataset(str(path))) for path in project.sliced.rglob("*.tfrecord")
    ]
    assert result["records"] == sum(records) > 0
    published = {name for name in before if name.startswith(("Processed/Original", "Processed/Sliced"))}
    inputs = {name for name in before if name.endswith(".npy")} - published
    assert result["files"] == len(published) + len(inputs)
    assert contents(project.root) == before
    assert verify(project, "quick") == []


def test_hard_links_are_read_once(project: Project) -> None:
    twice = verify_project(project, PlainProgress())["bytes"]
    for path in project.original.rglob("*.npy"):
        path.unlink()
        (source,) = project.root.glob(f"DL_*/binary/{path.name}")
        path.hardlink_to(source)
    once = verify_project(project, PlainProgress())
    assert once["whole"]
    assert twice - once["bytes"] == sum(path.stat().st_size for path in project.original.rglob("*.npy"))


FLIPPED = {
    "input": ("DL_vol_files/binary/case_03_CTA_Binary.npy", -1),
    "input mask": ("DL_seg_files/binary/case_03_seg_corrected_binary.npy", -1),
    "linked volume": ("Processed/Original/*/images/case_03_CTA_Binary.npy", -1),
    "split": ("Processed/Original/split.json", 40),
    "manifest of the split": ("Processed/Original/manifest.json", 200),
    "manifest of slices": ("Processed/Sliced/Validation/manifest.json", -3),
    "index": ("Processed/Sliced/Training/slices-00000-*.idx", 5),
    "payload": ("Processed/Sliced/Training/slices-00000-*.tfrecord", 300),
}


@pytest.mark.parametrize(("pattern", "place"), FLIPPED.values(), ids=FLIPPED)
def test_a_flipped_byte_in_any_kind_of_file_is_named(project: Project, pattern: str, place: int) -> None:
    (path,) = project.root.glob(pattern)
    flip(path, place % path.stat().st_size)
    found = verify(project)
    assert found
    assert {file for file, _, _ in found} == {project.shown(path)}


@pytest.mark.slow
def test_a_flipped_byte_ends_the_command_with_code_4_and_the_name_of_the_record(project: Project) -> None:
    shard = first_shard(project)
    flip(shard, extents(shard)[2][0] + 100)
    done = run_clotseg("-C", project.root, "verify", "--json")
    assert done.returncode == 4
    assert f"{project.shown(shard)}, record 2: cannot be read: corrupted record" in done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert said["faults"][1]["record"] == 2
    assert not said["whole"]
    assert run_clotseg("-C", project.root, "verify", "Processed/Sliced/Validation").returncode == 0


def test_every_broken_record_is_named_and_no_other(project: Project) -> None:
    shard = first_shard(project)
    places = extents(shard)
    flip(shard, places[1][0])  # length
    flip(shard, places[3][0] + 9)  # checksum of the length
    flip(shard, places[4][0] + 200)  # data
    flip(shard, sum(places[5]) - 1)  # checksum of the data
    assert [record for _, record, _ in verify(project)] == [None, 1, 3, 4, 5]


def test_a_broken_record_is_named_when_the_index_is_broken_too(project: Project) -> None:
    shard = first_shard(project)
    flip(shard, extents(shard)[3][0] + 100)
    flip(shard.with_suffix(".idx"), 2)
    found = verify(project)
    assert (project.shown(shard), 3) in {(file, record) for file, record, _ in found}
    assert project.shown(shard.with_suffix(".idx")) in {file for file, _, _ in found}


@pytest.mark.parametrize("level", ["quick", "full"])
def test_swapped_index_files_are_named(project: Project, level: str) -> None:
    first, second = sorted((project.root / TRAINING).glob("*.idx"))[:2]
    assert first.read_bytes() != second.read_bytes()
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)
    assert {project.shown(first), project.shown(second)} <= {file for file, _, _ in verify(project, level)}


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize("pattern", ["*-00000-*.tfrecord", "*-00001-*.idx", "manifest.json"])
def test_a_deleted_file_is_named(project: Project, level: str, pattern: str) -> None:
    (path,) = (project.root / TRAINING).glob(pattern)
    path.unlink()
    assert next(file for file, _, _ in verify(project, level)) == project.shown(path)


def test_a_cohort_or_split_that_is_gone_is_named(project: Project) -> None:
    shutil.rmtree(project.original)
    shutil.rmtree(project.root / TRAINING)
    assert [(file, what) for file, _, what in verify(project, "quick")] == [
        ("Processed/Original/manifest.json", "is not there (no manifest)"),
        (f"{TRAINING}/manifest.json", "is not there (no manifest)"),
    ]


def test_a_signal_while_a_file_is_read_is_no_fault_of_the_file(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest_file = artifact.digest_file

    def interrupted(path: Path) -> str:
        signal.raise_signal(signal.SIGTERM)
        return digest_file(path)

    monkeypatch.setattr(artifact, "digest_file", interrupted)
    before = signal.signal(signal.SIGTERM, cli._interrupt)
    try:
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            verify(project)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_file_that_no_manifest_names_is_told(project: Project) -> None:
    stray = project.root / TRAINING / "slices-00009-of-00009.tfrecord"
    stray.write_bytes(b"")
    assert verify(project) == [(project.shown(stray), None, "is not named by the manifest")]


def clot_pixels(examples: Any) -> None:
    examples[1].features.feature["clot_pixels"].int64_list.value[0] += 1


def mask_values(examples: Any) -> None:
    mask = examples[1].features.feature["mask"].bytes_list
    mask.value[0] = b"\x02" + mask.value[0][1:]


def shape(examples: Any) -> None:
    examples[1].features.feature["shape"].int64_list.value[0] += 1


def uid(examples: Any) -> None:
    examples[1].features.feature["uid"].int64_list.value[0] = 0


def foreign_case(examples: Any) -> None:
    examples[1].features.feature["case"].bytes_list.value[0] = b"nobody"


def missing_feature(examples: Any) -> None:
    del examples[1].features.feature["mask"]


def repeated_slice(examples: Any) -> None:
    examples[1].features.feature["slice"].int64_list.value[0] = 0


def one_too_few(examples: Any) -> Any:
    return examples[:-1]


@pytest.mark.parametrize(
    ("edit", "record", "what"),
    [
        (clot_pixels, 1, "clot_pixels says"),
        (mask_values, 1, "other values than 0 and 1"),
        (shape, 1, "has an image of"),
        (uid, 1, "has uid 0, where 1 is due"),
        (foreign_case, 1, "is of case nobody"),
        (missing_feature, 1, "lacks a feature"),
        (repeated_slice, 1, "is slice 0 of case"),
        (one_too_few, None, "records could be reached, where the manifest names"),
    ],
)
def test_a_record_that_contradicts_itself_or_the_manifest_is_named(
    project: Project, edit: Any, record: int | None, what: str
) -> None:
    shard = rewrite(project, edit)
    found = verify(project)
    assert any(
        file == project.shown(shard) and number == record and what in text for file, number, text in found
    ), found


def test_a_cohort_with_slices_left_out_is_whole_where_its_manifest_says_so(project: Project) -> None:
    """Records of a case may be fewer than its slices: the manifest counts, not the volume."""

    def leave_out_the_first(examples: Any) -> Any:
        for example in examples[1:]:
            example.features.feature["uid"].int64_list.value[0] -= 1
        return examples[1:]

    for path in sorted((project.root / TRAINING).glob("*-0000[1-9]-*")):
        path.unlink()

    def only_the_first_shard(manifest: Any) -> None:
        manifest["shards"] = manifest["shards"][:1]
        manifest["outputs"] = {k: v for k, v in manifest["outputs"].items() if "-00000-" in k}

    edit_manifest(project.root / TRAINING, only_the_first_shard)
    shard = rewrite(project, leave_out_the_first)
    cases = [
        tf.train.Example.FromString(raw.numpy()).features.feature["case"].bytes_list.value[0].decode()
        for raw in tf.data.TFRecordDataset(str(shard))
    ]

    def count_what_is_there(manifest: Any) -> None:
        manifest["records"] = manifest["shards"][0]["records"] = len(cases)
        for entry in manifest["cases"]:
            entry["records"] = cases.count(entry["case"])

    edit_manifest(project.root / TRAINING, count_what_is_there)
    assert verify(project) == []
    edit_manifest(project.root / TRAINING, lambda m: m["cases"][0].update(records=99))
    ((file, _, what),) = verify(project)
    assert file == f"{TRAINING}/manifest.json"
    assert "names 99 records of case" in what


def patient_in_two_cohorts(manifest: Any) -> None:
    for cohort in ("Training", "Testing"):
        manifest["cases"][manifest["cohorts"][cohort][0]]["patient"] = "twin"


def case_in_two_cohorts(manifest: Any) -> None:
    manifest["cohorts"]["Testing"].append(manifest["cohorts"]["Training"][0])


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (patient_in_two_cohorts, "patient twin is in Testing and Training"),
        (case_in_two_cohorts, "is in Testing"),
    ],
)
def test_a_patient_or_case_in_two_cohorts_is_told(project: Project, edit: Any, what: str, level: str) -> None:
    edit_manifest(project.original, edit)
    found = verify(project, level)
    assert any(what in text for _, _, text in found)
    assert any(file == "Processed/Original/split.json" for file, _, _ in found)


def test_slices_of_another_split_are_told(project: Project) -> None:
    edit_manifest(project.original, lambda m: m.update(key="another"))
    assert [file for file, _, what in verify(project, "quick") if "another split" in what] == [
        f"Processed/Sliced/{cohort}/manifest.json" for cohort in ("Training", "Validation")
    ]


def test_a_manifest_that_lacks_something_is_told(project: Project) -> None:
    edit_manifest(project.root / TRAINING, lambda m: m.pop("shards"))
    edit_manifest(project.sliced / "Validation", lambda m: m.pop("outputs"))
    assert verify(project, "quick") == [
        (f"{TRAINING}/manifest.json", None, "lacks 'shards'"),
        ("Processed/Sliced/Validation/manifest.json", None, "lacks 'outputs'"),
    ]


def test_a_long_list_of_faults_is_cut_and_counted(project: Project) -> None:
    shard = first_shard(project)
    for offset, _ in extents(shard):
        flip(shard, offset)
    count = len(extents(shard))
    assert count > 9
    result = verify_project(project, PlainProgress())
    assert len(result["faults"]) == 10
    assert result["faults_found"] == count + 1
    with pytest.raises(CorruptArtifactError) as caught:
        require_whole(result)
    assert caught.value.details[-1] == f"and {count - 9} more"


def checkpoint(folder: Path) -> Path:
    """A checkpoint as runs have it; returns its weights."""
    folder.mkdir(parents=True)
    weights = folder / "epoch-0001-dice-0.5000-aa.weights.h5"
    weights.write_bytes(b"weights")
    digest = describe_outputs(folder, [weights.name])[weights.name]["sha256"]
    write_json(folder / "network.json", {"format": 1, "weights": weights.name, "sha256": digest})
    return weights


def test_checkpoints_and_test_results_of_runs_are_held_against_their_digests(project: Project) -> None:
    run = project.trainings / "20260101-000000"
    kept = run / "Checkpoint_Files" / "epoch-0001-step-000000"
    best, last = checkpoint(run / "Best_Model"), checkpoint(kept)
    state = kept / "state.npz"
    state.write_bytes(b"state")
    write_json(
        kept / "training.json",
        {"format": 1, "sha256": describe_outputs(kept, [state.name])[state.name]["sha256"]},
    )
    tested = run / "Testing" / "Best_Model"
    tested.mkdir(parents=True)
    (tested / "report.html").write_text("report")
    write_manifest(
        tested, {"format": 1, "stage": "test", "outputs": describe_outputs(tested, ["report.html"])}
    )
    assert verify(project) == []
    damaged = (best, last, state, tested / "report.html")
    for path in damaged:
        flip(path, 0)
    assert [file for file, _, _ in verify(project)] == [project.shown(path) for path in damaged]
    (kept / "network.json").write_text("{}")
    best.unlink()
    assert [what for _, _, what in verify(project, "quick")] == [
        "is missing",
        "does not name its weights and their digest",
    ]


def test_predictions_and_exports_in_the_project_are_looked_at_too(project: Project) -> None:
    made = {}
    for stage, folder in (("predict", "found/of/case_a"), ("export", "Trainings/run/exported")):
        place = project.root / folder
        place.mkdir(parents=True)
        made[stage] = place / "some.bin"
        made[stage].write_bytes(b"as it was")
        outputs = describe_outputs(place, ["some.bin"])
        write_manifest(place, {"format": 1, "stage": stage, "outputs": outputs})
    (project.root / "notes").mkdir()
    (project.root / "notes" / "manifest.json").write_text("[]")
    assert verify(project) == []
    for path in made.values():
        flip(path, 0)
    assert {file for file, _, _ in verify(project)} == {project.shown(path) for path in made.values()}
    cut_off = made["predict"].with_name("manifest.json")
    cut_off.write_text(cut_off.read_text()[:20])
    assert project.shown(cut_off) in {file for file, _, _ in verify(project)}


def test_a_path_means_a_project_or_a_part_of_one(project: Project, tmp_path: Path) -> None:
    assert find_scope(project, None) == (project, None)
    assert find_scope(project, Path(TRAINING)) == (project, (project.root / TRAINING,))
    assert find_scope(Project(tmp_path), Path("project/Processed"))[0] == project
    for nothing in ("gone", "."):
        with pytest.raises(DataError):
            find_scope(Project(tmp_path), Path(nothing))


def test_a_project_without_anything_published_is_not_called_whole(cohort: Project) -> None:
    done = run_clotseg("-C", cohort.root, "verify")
    assert done.returncode == 4
    assert "run `clotseg prep` first" in done.stderr


@pytest.mark.slow
def test_train_and_test_look_before_they_start(project: Project) -> None:
    shards = sorted((project.root / TRAINING).glob("*.tfrecord"))
    flip(shards[0], 300)
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    shards[2].unlink()
    as_it_is = ("train", "--size", "auto", "--split", "off", "--slice", "off")
    quick = run_clotseg("-C", project.root, *as_it_is)
    assert quick.returncode == 4
    assert shards[0].name not in quick.stderr, "quick reads no record"
    assert all(shard.name in quick.stderr for shard in shards[1:3])
    full = run_clotseg("-C", project.root, *as_it_is, "--verify", "full")
    assert full.returncode == 4
    assert all(shard.name in full.stderr for shard in shards[:3])
    linked = sorted(project.original.glob("Testing/masks/case_*"))[0]
    linked.unlink()
    tested = run_clotseg("-C", project.root, "test")
    assert tested.returncode == 4
    assert f"{project.shown(linked)}: is missing" in tested.stderr
    unchecked = run_clotseg("-C", project.root, "test", "--verify", "off")
    assert "event=verify" not in unchecked.stderr
    assert "no trained run" in unchecked.stderr
