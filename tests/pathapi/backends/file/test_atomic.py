"""The lock of a directory: in a forked child, and in a signal handler."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from casstore import ReentrantCallError
from pathapi.backends.file.atomic import DirectoryLock
from tests.casstore.support.fill import eventually, fork, status_of


@pytest.mark.needs_locks
def test_a_child_that_was_forked_during_a_write_does_not_keep_the_directory_locked(tmp_path: Path) -> None:
    release = tmp_path / "release"
    with (block := DirectoryLock(str(tmp_path), "file:///d", 0.0)), block:
        child = fork(lambda: eventually(release.exists))
    try:
        with (again := DirectoryLock(str(tmp_path), "file:///d", 0.0)), again:
            pass
    finally:
        release.touch()
        assert status_of(child) == 0


@pytest.mark.needs_locks
def test_a_handler_beside_the_calls_that_lock_and_unlock_never_waits_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, refused = fcntl.flock, []

    def handle() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", flock)
            try:
                with (block := DirectoryLock(str(tmp_path), "file:///d", 0.0)), block:
                    refused.append(False)
            except ReentrantCallError:
                refused.append(True)

    def flock_and_handle(descriptor: int, operation: int) -> None:
        handle()
        flock(descriptor, operation)
        handle()

    monkeypatch.setattr(fcntl, "flock", flock_and_handle)
    with (block := DirectoryLock(str(tmp_path), "file:///d", 0.0)), block:
        assert refused == [True, True]
    assert refused == [True] * 4
    handle()
    assert not refused.pop()
    assert not os.listdir(tmp_path)
