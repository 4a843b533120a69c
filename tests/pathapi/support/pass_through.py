"""Reads past a store that cannot serve: the bytes, the one warning, and what is stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from casstore import Cache
from casstore.fs import mounts as machine
from pathapi import FileClient, FilePath

PART = 1 << 18
SMALL = os.urandom(100_000)
LARGE = os.urandom(3 * PART + 12_345)
WARNING = "caching is disabled"


@contextmanager
def one_warning(match: str = WARNING) -> Iterator[None]:
    with pytest.warns(UserWarning, match=match) as caught:
        yield
    assert len(caught) == 1, [str(warning.message) for warning in caught]


def check_reads(client: FileClient, bucket: Path) -> None:
    """All ways to read, of small and large objects."""
    for name, data in (("small", SMALL), ("large", LARGE), ("empty", b"")):
        path = client.CloudPath(f"file://{bucket}/{name}")
        assert path.read_bytes() == data
        with path.open("rb") as file:
            assert file.read() == data
            file.seek(3)
            assert file.read(5) == data[3:8]
        assert Path(path.fspath).read_bytes() == data
        assert Path(path.fspath).name == name


def check_store(cache: Cache) -> int:
    """Every entry has its bytes, nothing is on its way in or out; the count of entries."""
    cache.flush()
    entries = list(cache.entries())
    for entry in entries:
        descriptor = cache.open_entry(entry, verify=True)
        assert descriptor is not None, f"{entry.uri} has lost its blob"
        os.close(descriptor)
    root = Path(cache.root)
    assert os.listdir(root / "quarantine") == []
    assert os.listdir(root / "trash") == []
    assert not [file for file in root.glob("leases/*/staging/*") if file.is_file()]
    assert cache.index.generation == 1, "the index was replaced"
    return len(entries)


def is_stored(path: FilePath, data: bytes) -> bool:
    """Read, and say whether that was kept: a store that was full is not tried each time."""
    assert path.read_bytes() == data
    path.client.cache.flush()
    return path.client.cache.lookup(path.client.store_key(path.uri)) is not None


def network_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda _: machine.Mount(1, "nfs4"))
