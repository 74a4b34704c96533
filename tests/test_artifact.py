"""Safe writing: whatever happens to a writer, a reader finds the old artifact or the new one, whole."""

import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clotseg.artifact import (
    FORMAT,
    MANIFEST,
    DigestCache,
    canonical_json,
    describe_outputs,
    digest_file,
    project_lock,
    publish,
    read_json,
    read_manifest,
    recover,
    require_manifest,
    reusable,
    stage_key,
    write_json,
    write_manifest,
)
from clotseg.errors import CorruptArtifactError, DataError, EnvironmentProblem
from tests.conftest import contents, largest_file, start_python

OLD = {"a.txt": b"old a", "sub/b.txt": b"old b"}
NEW = {"a.txt": b"new a", "sub/c.txt": b"new c"}

# For k = 0, 1, 2 …: a process of its own publishes over a whole artifact and is killed by SIGKILL just before
# the k-th thing it asks of the file system, until one gets through unharmed.
KILL_BEFORE_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from clotseg import artifact
from clotseg.artifact import publish

if sys.argv[2] == "two renames":
    artifact._exchange = lambda *_: False  # as where the file system cannot let two folders change places

def build(folder, word):
    (folder / "sub").mkdir()
    for name in ("a.txt", "sub/b.txt" if word == "old" else "sub/c.txt"):
        (folder / name).write_bytes(f"{word} {Path(name).stem}".encode())

def publish_killed_at(step, target):
    seen = 0
    def count(event, _):
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree",
                     "ctypes.dlsym"):
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
    sys.addaudithook(count)
    with publish(target) as folder:
        build(folder, "new")

step, code = 0, None
while code != 0:
    target = Path(sys.argv[1], str(step), "artifact")
    target.mkdir(parents=True)
    build(target, "old")
    child = os.fork()
    if child == 0:
        publish_killed_at(step, target)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    step += 1
"""


def fill(folder, files):
    """Writes the files of an artifact."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def target(tmp_path):
    """A published artifact with the OLD files."""
    with publish(tmp_path / "place" / "artifact") as folder:
        fill(folder, OLD)
    return tmp_path / "place" / "artifact"


@pytest.fixture
def artifact(tmp_path):
    """An artifact with a manifest, made under the key `k`."""
    folder = tmp_path / "artifact"
    fill(folder, OLD)
    manifest = {"format": FORMAT, "key": "k", "outputs": describe_outputs(folder, list(OLD))}
    write_manifest(folder, manifest)
    return folder


def names(folder):
    """What lies in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def alone(target):
    """Whether nothing but the artifact is left in its place."""
    return names(target.parent) == [target.name]


def fail_to_publish(target, failure):
    """Builds the NEW files and fails before the end."""
    with publish(target) as folder:
        fill(folder, NEW)
        raise failure


def test_an_artifact_replaces_the_one_before_as_a_whole(target):
    assert contents(target) == OLD
    with publish(target) as folder:
        fill(folder, NEW)
        assert contents(target) == OLD
    assert contents(target) == NEW
    assert alone(target)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, DataError])
def test_a_build_that_fails_leaves_what_was_there(target, failure):
    with pytest.raises(failure):
        fail_to_publish(target, failure("half way"))
    assert contents(target) == OLD
    assert alone(target)


def test_a_build_that_fails_where_nothing_was_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="half way"):
        fail_to_publish(tmp_path / "place" / "artifact", ValueError("half way"))
    assert names(tmp_path / "place") == []


def test_a_full_disk_is_told_as_such_and_leaves_what_was_there(target):
    with (
        largest_file(10_000),
        pytest.raises(EnvironmentProblem, match="disk space") as caught,
        publish(target) as folder,
    ):
        fill(folder, {"big": bytes(20_000)})
    assert str(target) in str(caught.value)
    assert contents(target) == OLD
    assert alone(target)


@pytest.mark.parametrize(
    "write",
    [
        lambda place: publish(place).__enter__(),
        lambda place: project_lock(place).__enter__(),
        lambda place: write_json(place, {}),
    ],
)
def test_a_place_that_cannot_be_written_to_is_told_as_such(tmp_path, write):
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(EnvironmentProblem, match=r"could not be written[\s\S]*permissions"):
        write(tmp_path / "file" / "inside")


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_writer_killed_at_any_point_leaves_the_old_or_the_new_artifact_whole(tmp_path, way):
    process = start_python(KILL_BEFORE_EVERY_STEP, tmp_path, way)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    runs = sorted((int(folder.name), folder / "artifact") for folder in tmp_path.iterdir())
    killed = [place for _, place in runs[:-1]]
    assert len(killed) >= 10
    assert contents(runs[-1][1]) == NEW
    gone = [place for place in killed if not place.exists()]
    assert bool(gone) == (way == "two renames"), "where folders can change places, one is always there"
    assert any(len(names(place.parent)) > 1 for place in killed if place.exists())
    outcomes = []
    for place in killed:
        recover(place)
        outcomes.append(contents(place))
        assert alone(place)
    assert outcomes == sorted(outcomes, key=lambda files: files == NEW), "old until it is new"
    assert [files for files in outcomes if files not in (OLD, NEW)] == []
    assert OLD in outcomes
    assert NEW in outcomes


def test_the_next_build_starts_empty_and_clears_what_a_killed_one_left(target):
    fill(target.with_name(".artifact.building"), {"half.bin": b"half"})
    with publish(target) as folder:
        assert names(folder) == []
        fill(folder, NEW)
    assert contents(target) == NEW
    assert alone(target)


def test_the_next_build_first_brings_back_the_artifact_a_killed_one_had_set_aside(target):
    target.rename(target.with_name(".artifact.replaced"))
    with pytest.raises(ValueError, match="fails too"):
        fail_to_publish(target, ValueError("fails too"))
    assert contents(target) == OLD
    assert alone(target)


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": [1, 2]})
    with pytest.raises((ValueError, TypeError)):
        write_json(file, {"new": float("nan")})
    with largest_file(5_000), pytest.raises(EnvironmentProblem):
        write_json(file, {"new": "x" * 10_000})
    assert json.loads(file.read_text()) == {"old": [1, 2]}


def test_a_reader_that_has_json_open_never_sees_it_change(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with file.open() as stream:
        write_json(file, {"new": 2})
        assert json.load(stream) == {"old": 1}
    assert json.loads(file.read_text()) == {"new": 2}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", None])
def test_json_that_cannot_be_read_is_a_corrupt_artifact(tmp_path, data):
    file = tmp_path / "a.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"a\.json"):
        read_json(file)


def test_an_artifact_is_reused_under_its_key_alone(artifact):
    assert reusable(artifact, "k")
    assert not reusable(artifact, "another")


def spoil_size(folder):
    (folder / "a.txt").write_bytes(b"old a and more")


def spoil_missing(folder):
    (folder / "sub" / "b.txt").unlink()


def spoil_folder(folder):
    (folder / "a.txt").unlink()
    (folder / "a.txt").mkdir()


def spoil_no_manifest(folder):
    (folder / MANIFEST).unlink()


def spoil_half_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:20])


def spoil_format(folder):
    write_manifest(folder, {"format": FORMAT + 1, "key": "k", "outputs": {}})


def spoil_no_key(folder):
    write_manifest(folder, {"format": FORMAT, "outputs": {}})


def spoil_seal(folder):
    write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {"key": "k", "outputs": {}})


def spoil_no_seal(folder):
    write_json(folder / MANIFEST, {"format": FORMAT, "key": "k", "outputs": {}})


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_size,
        spoil_missing,
        spoil_folder,
        spoil_no_manifest,
        spoil_half_manifest,
        spoil_format,
        spoil_no_key,
        spoil_seal,
        spoil_no_seal,
    ],
)
def test_a_damaged_artifact_is_not_reused(artifact, spoil):
    spoil(artifact)
    assert not reusable(artifact, "k")


def test_no_byte_of_a_manifest_can_change_unseen(artifact):
    file = artifact / MANIFEST
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptArtifactError, match=r"manifest\.json"):
            read_manifest(artifact)
    file.write_bytes(whole)
    assert read_manifest(artifact)["key"] == "k"


@pytest.mark.parametrize("spoil", [spoil_half_manifest, spoil_format, spoil_seal, spoil_no_seal])
def test_a_damaged_manifest_is_named(artifact, spoil):
    spoil(artifact)
    with pytest.raises(CorruptArtifactError, match=r"manifest\.json"):
        read_manifest(artifact)


def test_a_folder_without_a_manifest_is_not_there(artifact):
    spoil_no_manifest(artifact)
    assert read_manifest(artifact) is None
    with pytest.raises(CorruptArtifactError, match="make it first"):
        require_manifest(artifact, fix="make it first")


def test_manifests_carry_size_and_sha256_of_each_file(artifact):
    assert read_json(artifact / MANIFEST)["outputs"]["sub/b.txt"] == {
        "bytes": 5,
        "sha256": hashlib.sha256(b"old b").hexdigest(),
    }


def test_a_file_that_cannot_be_digested_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing_here"):
        digest_file(tmp_path / "nothing_here")


def test_unchanged_files_are_digested_once(tmp_path):
    volume, memory = tmp_path / "v.npy", tmp_path / "digests.json"
    volume.write_bytes(b"first")
    first = DigestCache(memory)
    assert first.remembered(volume, "v.npy") is None
    first.put("v.npy", hashlib.sha256(b"first").hexdigest())
    assert first.changed
    first.save()
    remembered = json.loads(memory.read_text())
    remembered["v.npy"][-1] = "0" * 64
    memory.write_text(json.dumps(remembered))
    again = DigestCache(memory)
    assert again.remembered(volume, "v.npy") == "0" * 64
    assert again.digests == {"v.npy": "0" * 64}
    assert not again.changed


@pytest.mark.parametrize("change", ["content", "size", "time", "replaced"])
def test_a_changed_file_is_digested_again(tmp_path, change):
    volume, memory = tmp_path / "v.npy", tmp_path / "digests.json"
    volume.write_bytes(b"first")
    os.utime(volume, ns=(10**18, 10**18))
    cache = DigestCache(memory)
    cache.remembered(volume, "v.npy")
    cache.put("v.npy", "0" * 64)
    cache.save()
    after = b"first, longer" if change == "size" else b"other"
    if change == "replaced":
        (tmp_path / "new").write_bytes(after)
        (tmp_path / "new").replace(volume)
    else:
        volume.write_bytes(after)
    if change in ("size", "replaced"):
        os.utime(volume, ns=(10**18, 10**18))
    elif change == "time":
        os.utime(volume, ns=(10**18 + 1, 10**18 + 1))
    again = DigestCache(memory)
    assert again.remembered(volume, "v.npy") is None
    assert again.digests == {}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'{"v.npy": 3}',
        b'{"v.npy": null}',
        b'{"v.npy": []}',
        b'{"v.npy": [5]}',
        b'{"v.npy": "abcd"}',
        b'{"v.npy": {"size": 5}}',
    ],
)
def test_a_damaged_memory_of_digests_costs_time_only(tmp_path, damage):
    volume, memory = tmp_path / "v.npy", tmp_path / "digests.json"
    volume.write_bytes(b"first")
    memory.write_bytes(damage)
    cache = DigestCache(memory)
    assert cache.remembered(volume, "v.npy") is None
    cache.put("v.npy", "0" * 64)
    cache.save()
    assert DigestCache(memory).remembered(volume, "v.npy") == "0" * 64


def test_a_file_that_is_not_there_has_no_digest_to_remember(tmp_path):
    cache = DigestCache(tmp_path / "digests.json")
    assert cache.remembered(tmp_path / "nothing_here", "v.npy") is None
    assert not cache.changed


def test_a_stage_key_changes_with_everything_that_decides_the_bytes():
    base = ("slice", 1, {"window": [0, 100]}, ["digest"])
    others = [
        ("split", 1, {"window": [0, 100]}, ["digest"]),
        ("slice", 2, {"window": [0, 100]}, ["digest"]),
        ("slice", 1, {"window": [0, 101]}, ["digest"]),
        ("slice", 1, {"window": [0, 100]}, ["another"]),
        ("slice", 1, {"window": [0, 100]}, []),
    ]
    keys = [stage_key(*arguments) for arguments in (base, *others)]
    assert len(set(keys)) == len(keys)
    assert stage_key(*base) == keys[0]


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_equal_settings_give_equal_keys_whatever_their_order(settings):
    turned = dict(reversed(settings.items()))
    assert stage_key("s", 1, settings, []) == stage_key("s", 1, turned, [])
    assert json.loads(canonical_json(settings)) == settings
