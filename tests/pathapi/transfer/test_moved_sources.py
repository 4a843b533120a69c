"""A move deletes its source only if the copy is known to be another object with all of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from casstore import Validator
from pathapi import FileClient, FilePath
from pathapi.backend import Checksum, ObjectInfo, WriteCondition, head_or_none
from pathapi.backends.file.backend import FileBackend
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathFileExistsError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.testing.intercepting_backend import InterceptingBackend, interpose
from pathapi.transfer import objects

DATA = b"the only copy"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FilePath]:
    """An object of a ``file://`` bucket."""
    client = FileClient(local_cache_dir=tmp_path / "store")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "source").write_bytes(DATA)
    yield client.FilePath(f"file://{tmp_path}/tree/source")
    client.cache.close()


def _behind(path: FilePath, backend: FileBackend) -> InterceptingBackend:
    path.client._backends[path.uri.bucket] = backend
    return interpose(path.client, path.uri.bucket)


class _Stating(FileBackend):
    """States a SHA-256 of each object, as some servers do; *copied* is what it stores in place of a copy."""

    def __init__(self, *, copied: bytes, states: bool) -> None:
        super().__init__()
        self._copied, self._states = copied, states

    def head(self, key: str) -> ObjectInfo:
        info = super().head(key)
        hashed = hashlib.sha256(Path("/" + key).read_bytes()).hexdigest()
        return replace(info, checksums=(Checksum("sha256", hashed),)) if self._states else info

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        super().copy(source, target, expect=expect, over=over)
        Path("/" + target).write_bytes(self._copied)
        return self.head(target)


@pytest.mark.parametrize(
    ("copied", "states", "reason"),
    [(DATA[:-1], False, "another size"), (DATA[::-1], True, "another checksum")],
    ids=["cut", "damaged"],
)
def test_a_copy_with_other_bytes_keeps_the_source(source: FilePath, copied: bytes, states: bool, reason: str) -> None:
    _behind(source, _Stating(copied=copied, states=states))
    with pytest.raises(ChecksumMismatchError, match=reason):
        source.rename(source.with_name("target"))
    assert source.read_bytes() == DATA


class _OneName(FileBackend):
    """Takes names in any case for one object; its versions are of the bytes, as S3's ETags are."""

    def head(self, key: str) -> ObjectInfo:
        return self._by_bytes(key, super().head(key.lower()))

    def _by_bytes(self, key: str, info: ObjectInfo) -> ObjectInfo:
        hashed = hashlib.md5(Path("/" + key.lower()).read_bytes()).hexdigest()
        return replace(info, key=key, validator=Validator(info.size, hashed))

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        for key, version in ((source, expect), (target, over)):
            found = head_or_none(self, key)
            if isinstance(version, Validator) and (found is None or not found.validator.same_version(version)):
                raise VersionMismatchError(key)
        return self._by_bytes(target, super().copy(source.lower(), target.lower()))

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        super().delete([key.lower() for key in keys])


def _in_turn(*steps: Callable[[], object]) -> Callable[[], object]:
    left = list(steps)
    return lambda: left.pop(0)() if left else None


def test_an_object_that_changes_back_under_its_second_name_is_not_deleted(source: FilePath, tmp_path: Path) -> None:
    """Two looks see two versions, hence two objects, and the copy meets one."""
    file = tmp_path / "tree" / "source"
    wire = _behind(source, _OneName())
    wire.before["head"] = _in_turn(lambda: None, lambda: file.write_bytes(b"of another writer"))
    wire.before["copy"] = _in_turn(lambda: file.write_bytes(DATA))
    with pytest.raises(CloudPathFileExistsError, match="one object"):
        source.rename(source.with_name("SOURCE"))
    assert wire.calls["copy"] == 2
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("name", ["SOURCE", "source"])
def test_an_object_is_not_moved_onto_itself_under_another_name(source: FilePath, tmp_path: Path, name: str) -> None:
    wire = _behind(source, _OneName())
    if name == "source":
        assert source.rename(source.with_name(name)) == source
    else:
        with pytest.raises(CloudPathFileExistsError, match="one object"):
            source.rename(source.with_name(name))
    assert wire.calls["copy"] == wire.calls["delete"] == 0
    assert (tmp_path / "tree" / "source").read_bytes() == DATA


class _NoConditions(FileBackend):
    """Deletes under no condition."""

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        if expect is not None:
            raise CloudPathNotImplementedError("no conditions")
        super().delete(keys)


def test_a_server_without_conditional_deletes_is_asked_for_the_version_before(source: FilePath, tmp_path: Path) -> None:
    wire = _behind(source, _NoConditions())
    wire.before["delete"] = _in_turn(lambda: (tmp_path / "tree" / "source").write_bytes(b"of another writer"))
    with pytest.raises(OverwriteNewerCloudError):
        source.unlink()
    assert source.read_bytes() == b"of another writer"
    with pytest.warns(UserWarning, match="conditionally"):
        source.unlink()
    assert not source.exists()


@pytest.mark.parametrize("error", [CloudUnavailableError("the answer was lost"), KeyboardInterrupt()])
def test_after_a_copy_without_an_end_no_version_of_the_target_is_believed(
    source: FilePath, error: BaseException
) -> None:
    target = source.with_name("target")
    target.write_bytes(b"before")
    wire = interpose(source.client, source.uri.bucket)

    def lose() -> NoReturn:
        raise error

    wire.after["copy"] = lose
    with pytest.raises(type(error)):
        source.copy(target, force_overwrite_to_cloud=True)
    assert target.read_bytes(freshness="immutable") == DATA


class _NoConditionalCopies(FileBackend):
    """Copies over whatever is there."""

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        if over is not None:
            raise CloudPathNotImplementedError("no conditions")
        return super().copy(source, target, expect=expect)


def test_a_server_without_conditional_copies_is_asked_for_the_target_before(source: FilePath, tmp_path: Path) -> None:
    target = tmp_path / "tree" / "SOURCE"  # another object on this server; the rename looks whether it is
    wire = _behind(source, _NoConditionalCopies())
    wire.before["copy"] = _in_turn(lambda: target.write_bytes(b"of another writer"))
    with pytest.raises(OverwriteNewerCloudError):
        source.rename(source.with_name("SOURCE"))
    assert (target.read_bytes(), source.read_bytes()) == (b"of another writer", DATA)


def test_a_local_copy_of_another_size_keeps_the_source(
    source: FilePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(descriptor: int, target: str, *, durable: bool) -> None:
        Path(target).write_bytes(DATA[:-1])

    monkeypatch.setattr(objects, "copy_out", cut)
    with pytest.raises(ChecksumMismatchError, match="another size"):
        source.move(tmp_path / "local")
    assert source.read_bytes() == DATA
