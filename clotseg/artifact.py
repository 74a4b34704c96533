"""Safe writing: what clotseg publishes is whole or not there.

An artifact is a folder with a `manifest.json`. It is built beside its final place, flushed to disk, and
renamed into place in one step, so a reader never sees a half of it and a killed writer harms nothing. The
manifest is written last, is sealed with its own digest, and carries the stage's key: the hash of all that
decides the artifact's bytes.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clotseg.errors import CorruptArtifactError, DataError, EnvironmentProblem

MANIFEST = "manifest.json"
FORMAT = 1
SEAL = "seal"
LOCK = ".lock"
LOOK_S = 0.2
"""Longer than anybody looks at a lock without wanting it."""

MAKE_AGAIN = "make it again: `clotseg prep --split force`, `clotseg prep --slice force` or `clotseg test`"


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spare space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def as_json(value: object) -> Any:
    """The value as it comes back from a JSON file: tuples as lists, keys as text."""
    return json.loads(canonical_json(value))


def stage_key(stage: str, code_version: int, configuration: object, inputs: object) -> str:
    """The hash of what decides a stage's bytes: its code version, its part of the configuration, its inputs.

    How many workers ran it, on what device, or where the project lies must not be among the arguments.
    """
    identity = canonical_json([FORMAT, stage, code_version, configuration, inputs])
    return hashlib.sha256(identity.encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file in one step: beside its place, flushed, renamed.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    write_file(path, _rendered(value).encode())


def write_file(path: Path, content: bytes, *, temporary: Path | None = None) -> None:
    """Writes a file in one step: beside its place, flushed, renamed.

    Args:
        path: its place.
        content: all of it.
        temporary: what it is called until it is whole, in the same folder, where the name matters.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(content)
            replace_file(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _rendered(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of an artifact, sealed, so that a changed byte in it is found.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    write_json(folder / MANIFEST, {**facts, SEAL: _seal(facts)})


def _seal(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def replace_file(temporary: Path, path: Path) -> None:
    """Flushes a finished file and renames it over `path`; after a crash the old or the new one is there."""
    _flush(temporary)
    temporary.replace(path)
    _flush(path.parent)


def read_json(path: Path) -> Any:
    """Reads a JSON file that clotseg wrote.

    Raises:
        CorruptArtifactError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"is not a readable JSON file ({error})", where=path) from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artifact, or None where no artifact is.

    Raises:
        CorruptArtifactError: the manifest is damaged, of another format version, or not as it was written.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptArtifactError(f"is not a manifest of format {FORMAT}", where=path, fix=MAKE_AGAIN)
    facts = {name: value for name, value in manifest.items() if name != SEAL}
    if manifest.get(SEAL) != _seal(facts) or path.read_text(encoding="utf-8") != _rendered(manifest):
        raise CorruptArtifactError(
            "is not as it was written: its seal does not fit",
            where=path,
            fix=MAKE_AGAIN,
        )
    return manifest


def require_manifest(folder: Path, *, fix: str) -> dict[str, Any]:
    """The manifest of an artifact that must be there.

    Raises:
        CorruptArtifactError: it is missing or damaged; the message ends with `fix`.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise CorruptArtifactError("is not there (no manifest)", where=folder, fix=fix)
    return manifest


def reusable(folder: Path, key: str) -> bool:
    """Whether the artifact was made under this key and its files are all there."""
    try:
        manifest = read_manifest(folder)
        return manifest is not None and manifest["key"] == key and outputs_intact(folder, manifest)
    except (CorruptArtifactError, KeyError):
        return False


def outputs_intact(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether each output in the manifest is there with the size it was written with (a quick check)."""
    return not lost_outputs(folder, manifest)


def lost_outputs(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The outputs in the manifest that are missing or have another size than they were written with."""
    return [
        name for name, entry in manifest["outputs"].items() if _file_size(folder / name) != entry["bytes"]
    ]


def _file_size(path: Path) -> int | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def require_intact(folder: Path, manifest: Mapping[str, Any], *, fix: str) -> None:
    """Refuses a folder whose outputs are not all there with their sizes.

    Raises:
        CorruptArtifactError: the message ends with `fix`.
    """
    if not outputs_intact(folder, manifest):
        raise CorruptArtifactError(
            "shards are missing or have another size than when they were written", where=folder, fix=fix
        )


def describe_outputs(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each named file, as manifests carry them."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name)}
        for name in names
    }


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Gives an empty folder to build an artifact in, and renames it to `target` when the block ends well.

    Leftovers of killed builds are removed first. When the block raises, the new folder is removed and what
    was at `target` stays as it was.

    Raises:
        EnvironmentProblem: the disk is full or refuses the write.
    """
    building = target.with_name(f".{target.name}.building")
    replaced = target.with_name(f".{target.name}.replaced")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        try:
            building.mkdir()
            yield building
            for folder, _, files in os.walk(building, topdown=False):
                for name in files:
                    _flush(Path(folder, name))
                _flush(Path(folder))
            if target.exists() and not _exchange(building, target):
                target.rename(replaced)
            if not target.exists():
                building.rename(target)
            _flush(target.parent)
        finally:
            recover(target)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False where the system or the file system cannot.

    Without it there is a moment between two renames in which neither folder is in its place.
    """
    at_working_directory, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    paths = (at_working_directory, os.fsencode(one), at_working_directory, os.fsencode(other))
    return bool(rename(*paths, exchange) == 0)


def interrupted(target: Path) -> bool:
    """Whether a killed `publish` left something behind, or another one is at work."""
    return any(target.with_name(f".{target.name}.{state}").exists() for state in ("building", "replaced"))


def recover(target: Path) -> None:
    """Clears what a killed `publish` left behind: a half-built folder, or an old one not yet replaced.

    Raises:
        EnvironmentProblem: the disk or its permissions refuse.
    """
    building = target.with_name(f".{target.name}.building")
    replaced = target.with_name(f".{target.name}.replaced")
    with writing(target):
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for leftover in (building, replaced):
            if leftover.exists():
                shutil.rmtree(leftover)


@contextmanager
def project_lock(folder: Path) -> Iterator[str | None]:
    """Keeps two writers of one folder apart; the operating system frees it when its holder dies.

    Yields:
        Who held it before and ended without giving it back, as `process 123 on host`; None after a good end.

    Raises:
        EnvironmentProblem: another process holds it, who is named; or the folder cannot be written to.
    """
    file = folder / LOCK
    lock = FileLock(file)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=LOOK_S, poll_interval=LOOK_S / 10)
        except Timeout as error:
            raise EnvironmentProblem(
                f"another clotseg, {_holder(file) or 'an unknown process'}, is writing here",
                where=folder,
                fix="wait for it to end, or stop it",
            ) from error
    try:
        left_by = _holder(file)
        _note_holder(file, f"process {os.getpid()} on {socket.gethostname()}")
        yield left_by
    finally:
        _note_holder(file, "")
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the `project_lock` of a folder; it does not notice, and nothing is made.

    A folder that cannot be read, or has never been locked, is not locked.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Others may look at the same time. Who locks waits for as long as that takes.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _note_holder(file: Path, holder: str) -> None:
    """Writes into the lock file itself: a renamed one would be another file, and lock nothing."""
    with suppress(OSError):  # Only for people; a full disk must not keep a reader of the cache out.
        file.write_text(holder, encoding="utf-8")


class DigestCache:
    """Digests of input files, remembered by size and modification time so that a rerun reads no volume.

    The file is a convenience: deleting it only costs time.

    Attributes:
        digests: SHA-256 of each file added, by the name it was added under.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._remembered: dict[str, list[Any]] = {}
        self._stamped: dict[str, list[Any]] = {}
        self.digests: dict[str, str] = {}
        with suppress(CorruptArtifactError, AttributeError):
            self._remembered = {name: entry for name, entry in read_json(file).items() if _is_stamp(entry)}

    def remembered(self, path: Path, name: str) -> str | None:
        """The digest of `path` where its size, time and inode are unchanged; None where it must be read."""
        try:
            status = path.stat()
        except OSError:
            return None
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._remembered.get(name)
        self._stamped[name] = stamp
        if known is None or known[:3] != stamp:
            return None
        self.digests[name] = str(known[3])
        return self.digests[name]

    def put(self, name: str, digest: str) -> None:
        """Takes the digest of a file that was read after `remembered` had looked at it."""
        self.digests[name] = digest

    @property
    def changed(self) -> bool:
        """Whether `save` would write something new."""
        return self._to_remember() != self._remembered

    def save(self) -> None:
        """Writes the file, with what was added since it was opened."""
        write_json(self._file, self._to_remember())

    def _to_remember(self) -> dict[str, list[Any]]:
        return {
            name: [*stamp, self.digests[name]]
            for name, stamp in self._stamped.items()
            if name in self.digests
        }


def _is_stamp(entry: object) -> bool:
    """Whether this is [size, time, inode, digest]."""
    return (
        isinstance(entry, list)
        and [type(value) for value in entry] == [int, int, int, str]
        and len(entry[3]) == hashlib.sha256().digest_size * 2
    )


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Tells a refused write in the user's words.

    Raises:
        EnvironmentProblem: the block met a full disk, or one that refuses.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentProblem(
            f"could not be written ({error.strerror or error})",
            where=target,
            fix="free disk space or mend the folder's permissions, then run the command again",
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
