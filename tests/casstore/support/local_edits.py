"""Views and outbox files, changes to them by others than the cache, and what is pending because of them."""

from __future__ import annotations

import os
from pathlib import Path

import casstore
from casstore import PendingState, PendingWrite, Place, Validator
from casstore.eviction.reaper import ReapResult, reap
from tests.casstore.support.fill import fill, hand_out, key_of

KEY = key_of("k")


def view_of(
    cache: casstore.Cache, name: str = "k", mode: str = "copy", etag: str = "e1", data: bytes = b"bytes"
) -> Path:
    entry = fill(cache, key_of(name), data, etag)
    return hand_out(cache, entry, mode)


def outbox_of(cache: casstore.Cache, name: str = "k") -> Path:
    return Path(cache.local.path_to_create(Place(key_of(name), "bucket", name)))


def edit_of(cache: casstore.Cache, tmp_path: Path, data: bytes | None, base: Validator | None = None) -> Path:
    if data is None:
        return Path(cache.local.private_path(Place(KEY, "bucket", "k"), base))
    source = tmp_path / "source"
    source.write_bytes(data)
    with source.open("rb") as file:
        return Path(cache.local.private_path(Place(KEY, "bucket", "k"), base, file.fileno()))


def in_place(path: Path, data: bytes = b"mine") -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def by_rename(path: Path, data: bytes = b"mine") -> None:
    new = path.with_name(".new")
    new.write_bytes(data)
    new.replace(path)


def cut(path: Path, data: bytes = b"by") -> None:
    path.chmod(0o600)
    os.truncate(path, len(data))


def bytes_of(cache: casstore.Cache, write: PendingWrite) -> bytes:
    return Path(cache.pending.path(write)).read_bytes()


def held(cache: casstore.Cache) -> list[tuple[str, PendingState, bytes]]:
    return [(write.uri, write.state, bytes_of(cache, write)) for write in cache.pending.all()]


def reaped(cache: casstore.Cache) -> ReapResult:
    return reap(cache.layout, cache.index, cache.changes, own_lease=cache.lease.name)
