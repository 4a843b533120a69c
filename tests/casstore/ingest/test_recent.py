"""What a process shows of its own results before they are committed: nothing from before its own writes."""

from __future__ import annotations

import os

import pytest

import casstore
from casstore import Validator
from casstore.index.updates import IndexUpdate
from tests.casstore.support.fill import fill, key_of

KEY = key_of("k")


@pytest.mark.parametrize("change", ["write", "delete"])
def test_a_response_from_before_a_change_of_this_process_is_not_shown_after_it(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    fill(cache, KEY, b"first", "e1")
    with cache.begin(KEY) as filling:
        filling.write(b"older")
        if change == "write":
            staging = cache.stage()
            staging.write(b"newer")
            cache.record_write(cache.snapshot(KEY), staging, Validator(5, "e3"), cache.now())
        else:
            cache.record_delete(KEY)
        queued: list[IndexUpdate] = []
        monkeypatch.setattr(cache.committer, "submit", queued.append)
        os.close(filling.publish(Validator(5, "e2")).descriptor)
    shown = cache.lookup(KEY)
    assert (None if shown is None else shown.validator.etag) == ("e3" if change == "write" else None)
    for update in queued:
        update.done(None)


def test_what_was_published_before_a_write_of_this_process_is_not_shown_after_it(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its commit while the write is recorded."""
    submit = cache.committer.submit
    queued: list[IndexUpdate] = []
    monkeypatch.setattr(cache.committer, "submit", queued.append)
    with cache.begin(KEY) as filling:
        filling.write(b"older")
        os.close(filling.publish(Validator(5, "e2")).descriptor)
    assert cache.lookup(KEY) is not None
    monkeypatch.setattr(cache.committer, "submit", submit)
    staging = cache.stage()
    staging.write(b"newer")
    cache.record_write(cache.snapshot(KEY), staging, Validator(5, "e3"), cache.now())
    shown = cache.lookup(KEY)
    assert shown is not None and shown.validator.etag == "e3"
    for update in queued:
        update.done(None)
