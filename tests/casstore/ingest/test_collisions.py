"""Collisions and poisoning: one digest for two contents, wrong bytes under a blob's name, lies of a provider."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import ProviderChecksum, Staging, Validator
from casstore.blobs.staging import AddedBlob
from casstore.format import digest as digests
from casstore.fs import files
from casstore.index.database import Index
from casstore.index.transactions import Txn
from casstore.index.updates import IndexUpdate
from casstore.ingest.publisher import Publisher
from tests.casstore.support.fill import fill, hand_out, key_of, queue, read

ONE, TWO = key_of("one"), key_of("two")
STATED = ProviderChecksum("s3", "md5", hashlib.md5(b"bytes").hexdigest(), 5)


class _TwoBits:
    """A hash with four values: the length and the first byte, by their lowest bits."""

    def __init__(self) -> None:
        self._data = b""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._data += bytes(data)

    def digest(self) -> bytes:
        return bytes([len(self._data) % 2 * 2 + (self._data[:1] or b"\0")[0] % 2]) * 16


@pytest.fixture
def weak(root: Path, monkeypatch: pytest.MonkeyPatch) -> casstore.Cache:
    """A store whose digest has two bits."""
    known = digests._ALGORITHMS["xxh3-128"]
    monkeypatch.setitem(digests._ALGORITHMS, "xxh3-128", known._replace(new=_TwoBits))
    return casstore.open(root)


def _publish(cache: casstore.Cache, key: casstore.Key, data: bytes) -> casstore.Stored:
    with cache.begin(key) as filling:
        filling.write(data)
        stored = filling.publish(Validator(len(data), "e"))
    cache.flush()
    return stored


def _rot(path: str) -> None:
    """Wrong bytes that keep size and mtime."""
    status = os.stat(path)
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_of_many_contents_under_four_digests_each_reads_its_own_or_nothing(weak: casstore.Cache) -> None:
    data = {key_of(f"{number}"): b"%c" % number * (number % 5 + 1) for number in range(60)}
    for _ in range(2):
        for key, content in data.items():
            os.close(_publish(weak, key, content).descriptor)
        held = {key: read(weak, key) for key in data}
        assert all(found in (None, data[key]) for key, found in held.items())
        assert sum(found is not None for found in held.values()) >= 4
        weak.evict(lambda entry: entry.uri.endswith(("1", "2", "3")))


def test_a_blob_that_was_lost_leaves_no_entry_to_a_newcomer_that_collides(weak: casstore.Cache) -> None:
    entry = fill(weak, ONE, b"a first")
    os.unlink(weak.blob_path(entry))
    fill(weak, TWO, b"a third")
    assert (read(weak, ONE), read(weak, TWO)) == (None, b"a third")


def test_a_name_that_another_content_took_between_lookup_and_open_is_not_believed(weak: casstore.Cache) -> None:
    entry = fill(weak, ONE, b"a first")
    found = weak.lookup(ONE)
    assert found == entry
    weak.evict(lambda _: True)
    fill(weak, TWO, b"a third")
    assert found.digest == weak.lookup(TWO).digest  # type: ignore[union-attr]
    assert weak.open_entry(found) is None


def test_a_name_that_another_content_took_during_the_warm_path_is_not_believed(
    weak: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(weak, ONE, b"a first")
    get, looks = Index.get, [0]

    def get_then_change(self: Index, row: bytes) -> bytes | None:
        record = get(self, row)
        looks[0] += 1
        if looks[0] == 1:
            weak.evict(lambda _: True)
            fill(weak, TWO, b"a third")
        return record

    monkeypatch.setattr(Index, "get", get_then_change)
    assert weak.open_fresh(ONE, None) is None


def test_an_uncommitted_entry_is_believed_of_its_own_file_only(
    weak: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[IndexUpdate] = []
    monkeypatch.setattr(weak.committer, "submit", partial(queue, waiting))
    with weak.begin(ONE) as filling:
        filling.write(b"a first")
        os.close(filling.publish(Validator(7, "e")).descriptor)
    found = weak.lookup(ONE)
    assert found is not None
    os.unlink(weak.blob_path(found))  # swept: it has no row yet
    with weak.begin(TWO) as filling:
        filling.write(b"a third")
        os.close(filling.publish(Validator(7, "e")).descriptor)
    assert weak.open_entry(found) is None
    for update in waiting:
        update.done(None)


def test_the_copy_of_a_touched_blob_replaces_no_content_that_took_its_name_meanwhile(
    weak: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(weak.blob_path(fill(weak, ONE, b"a first")))
    sync = files.sync

    def sync_and_take(descriptor: int) -> None:
        monkeypatch.setattr(files, "sync", sync)
        sync(descriptor)
        weak.evict(lambda _: True)
        fill(weak, TWO, b"a third")

    monkeypatch.setattr(files, "sync", sync_and_take)
    assert read(weak, ONE) in (None, b"a first")
    assert read(weak, TWO) == b"a third"


def test_a_view_is_no_link_to_a_content_that_took_the_blobs_name_meanwhile(
    weak: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(weak, ONE, b"a first")
    link = files.link

    def take_and_link(source: str, target: str) -> None:
        monkeypatch.setattr(files, "link", link)
        other = threading.Thread(target=lambda: (weak.evict(lambda _: True), fill(weak, TWO, b"a third")))
        other.start()
        other.join()
        link(source, target)

    monkeypatch.setattr(files, "link", take_and_link)
    view = hand_out(weak, entry, "link")
    assert files.link is link
    assert view.read_bytes() == b"a first"


def test_a_blob_that_comes_back_keeps_its_entries(weak: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weak.blob_path(fill(weak, ONE, b"a first"))
    os.rename(path, path + ".away")
    write = Index.write

    def come_back_and_write(self: Index, work: Callable[[Txn], Any], timeout: float | None = None) -> Any:
        monkeypatch.setattr(Index, "write", write)
        os.rename(path + ".away", path)
        return write(self, work, timeout)

    monkeypatch.setattr(Index, "write", come_back_and_write)
    stored = _publish(weak, TWO, b"a third")
    os.close(stored.descriptor)
    assert stored.entry is None, "it collides"
    assert read(weak, ONE) == b"a first"


def test_a_fill_returns_its_own_bytes_though_another_content_took_the_name(
    weak: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Publisher.add_blob

    def add_and_lose(self: Publisher, staging: Staging, digest: casstore.Digest) -> AddedBlob | None:
        monkeypatch.setattr(Publisher, "add_blob", add)
        added = add(self, staging, digest)
        os.unlink(weak.layout.blob(digest.value))
        fill(weak, TWO, b"a third")
        return added

    monkeypatch.setattr(Publisher, "add_blob", add_and_lose)
    with open(_publish(weak, ONE, b"a first").descriptor, "rb") as file:
        assert file.read() == b"a first"
    assert read(weak, TWO) == b"a third"


def test_a_blob_that_was_lost_keeps_its_entries_under_a_digest_that_does_not_collide(root: Path) -> None:
    cache = casstore.open(root, digest="sha256")
    entry = fill(cache, ONE, b"bytes")
    os.unlink(cache.blob_path(entry))
    fill(cache, TWO, b"bytes")
    assert (read(cache, ONE), read(cache, TWO)) == (b"bytes", b"bytes")


@pytest.mark.parametrize("digest", ["xxh3-128", "sha256"])
@pytest.mark.parametrize("how", ["read", "statement", "the same bytes again"])
def test_verify_always_serves_nothing_unverified(
    root: Path, monkeypatch: pytest.MonkeyPatch, digest: str, how: str
) -> None:
    monkeypatch.setenv("CASSTORE_VERIFY", "always")
    cache = casstore.open(root, digest=digest)
    entry = fill(cache, ONE, b"bytes", "e", (STATED,))
    found = cache.find_by_checksum([STATED])  # proved now, so that it is believed next time
    assert found is not None
    os.close(found[1])
    cache.flush()
    _rot(cache.blob_path(entry))
    if how == "read":
        assert read(cache, ONE) is None
    elif how == "statement":
        assert cache.find_by_checksum([STATED]) is None
    else:
        with open(_publish(cache, TWO, b"bytes").descriptor, "rb") as file:
            assert file.read() == b"bytes"
    assert cache.counts()["damaged_blobs"] == 1
    assert len(os.listdir(cache.layout.quarantine)) == 2
    fill(cache, ONE, b"bytes", "e2")
    assert read(cache, ONE) == b"bytes"


def test_a_proof_is_not_believed_of_another_blob_with_the_same_digest(weak: casstore.Cache) -> None:
    stated = replace(STATED, kind="sha256", value=hashlib.sha256(b"bytes").hexdigest())
    entry = fill(weak, ONE, b"bytes", "e", (stated,))
    found = weak.find_by_checksum([stated])
    assert found is not None
    os.close(found[1])
    weak.flush()
    weak.evict(lambda _: True)
    assert fill(weak, TWO, b"bYTES").digest == entry.digest
    assert weak.find_by_checksum([stated]) is None


def test_a_provider_that_states_a_wrong_checksum_links_nothing(cache: casstore.Cache) -> None:
    lie = replace(STATED, value=hashlib.md5(b"others").hexdigest())
    fill(cache, ONE, b"bytes", "e", (lie,))
    assert cache.find_by_checksum([lie]) is None
    cache.flush()
    assert not cache.may_have_checksum([lie])
