"""Fixtures and steps that the suites of paths share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from casstore import PendingState
from pathapi.exceptions import OverwriteNewerCloudError
from pathapi.testing.intercepting_backend import InterceptingBackend, interpose
from pathapi.testing.raw_bucket import RawBucket

RESOLUTIONS = ("push", "read", "save", "drop")
"""The ways to resolve a pending write."""


def resolve(path: Any, way: str, file: Path, mine: bytes, *, force: bool = False) -> None:
    """Resolve *path*'s pending write of the bytes *mine* over b"theirs": by one of `RESOLUTIONS`."""
    if way == "push":
        path.push(force_overwrite_to_cloud=force)
    elif way == "read":
        assert path.read_bytes(force_overwrite_from_cloud=True) == b"theirs"
    elif way == "save":
        path.save_pending(file)
        assert file.read_bytes() == mine
    else:
        assert path.drop()[-1].size == len(mine)
    assert path.read_bytes() == (mine if way == "push" else b"theirs")


def content(path: Any, **options: Any) -> bytes:
    """Open *path* for reading, and return its bytes."""
    with path.open("rb", **options) as file:
        data: bytes = file.read()
    return data


def append(path: Any, data: bytes) -> None:
    """Open *path* for appending, and write *data*."""
    with path.open("ab") as file:
        file.write(data)


def states(path: Any) -> list[PendingState]:
    """Return the states of *path*'s pending writes."""
    return [write.state for write in path.pending]


def damage(path: Any, data: bytes) -> None:
    """Replace the bytes of *path*'s cached blob by *data*, so that size and mtime do not show it."""
    cache = path.client.cache
    cache.flush()
    (entry,) = cache.entries(str(path))
    blob = Path(cache.blob_path(entry))
    times = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(data)
    os.utime(blob, ns=(times.st_atime_ns, times.st_mtime_ns))


class PathSuite:
    """Needs three fixtures: `ground`, `make` (creates a client) and `at` (the root's URI, which ends in a slash)."""

    @pytest.fixture
    def path(self, make: Any, at: str) -> Any:
        """A path without an object."""
        return make().CloudPath(at + "d/a.txt")

    @pytest.fixture
    def wire(self, path: Any) -> InterceptingBackend:
        """The backend of *path*."""
        return interpose(path.client, path.uri.bucket)

    def put(self, ground: RawBucket, data: bytes, key: str = "d/a.txt") -> None:
        """Write an object as another client; its version differs from every other."""
        ground.settle()
        ground.plant(key, data)
        ground.settle()

    def now(self, ground: RawBucket) -> bytes | None:
        """Return the bytes of *path*'s object on the server, or None."""
        return ground.content("d/a.txt")

    def fail_at_close(self, path: Any, ground: RawBucket) -> None:
        """Write b"mine", and fail since another client has written b"theirs" first."""
        file = path.open("wb")
        file.write(b"mine")
        self.put(ground, b"theirs")
        with pytest.raises(OverwriteNewerCloudError, match=r"a\.txt: another writer has changed the object"):
            file.close()
