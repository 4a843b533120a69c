"""Publications wait for their commit; until then nothing that they rely on can change unseen."""

from __future__ import annotations

import os
from functools import partial

import pytest

import casstore
from casstore import Validator
from casstore.index.updates import IndexUpdate, PublishEntry
from tests.casstore.support.fill import fill, key_of, queue
from tests.casstore.support.stores import open_inodes

ONE, TWO = key_of("one"), key_of("two")


def _queued(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> list[IndexUpdate]:
    """What is submitted from now on, and is not committed."""
    queued: list[IndexUpdate] = []
    monkeypatch.setattr(cache.committer, "submit", partial(queue, queued))
    return queued


def _assert_is_open_until_done(publication: IndexUpdate, blob: str) -> None:
    assert isinstance(publication, PublishEntry)
    os.unlink(blob)
    assert publication.added.inode in open_inodes()
    publication.done(None)
    assert publication.added.inode not in open_inodes()


def test_a_blob_that_was_linked_stays_open_until_its_commit(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, ONE, b"bytes")
    queued = _queued(cache, monkeypatch)
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    with cache.begin(TWO) as filling:
        filling.link(entry.digest, descriptor, Validator(5, "e"))
    os.close(descriptor)
    _assert_is_open_until_done(queued[0], cache.blob_path(entry))


def test_a_blob_that_was_compared_stays_open_until_its_commit(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fill(cache, ONE, b"bytes")
    queued = _queued(cache, monkeypatch)
    with cache.begin(TWO) as filling:
        filling.write(b"bytes")
        os.close(filling.publish(Validator(5, "e")).descriptor)
    _assert_is_open_until_done(queued[0], cache.blob_path(entry))
