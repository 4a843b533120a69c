"""The lock of a directory, and a temporary file in it: in a forked child, and under signals."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from casstore import ReentrantCallError
from pathapi.backends.file.atomic import DirectoryLock, Temporary
from tests.casstore.support.fill import eventually, fork, status_of
from tests.harness.interrupts import Interrupted, Interrupter


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


def test_an_interrupt_at_any_point_leaves_no_temporary_file(tmp_path: Path) -> None:
    kept, interrupter = [], Interrupter(1)
    for number in range(1, 100):
        temporary, interrupter = Temporary(str(tmp_path), 0o600), Interrupter(number)
        try:
            with interrupter, temporary, temporary as (descriptor, _):
                os.write(descriptor, b"half")
        except Interrupted as error:
            kept.append(error)  # with its traceback, as a notebook does
        assert [*tmp_path.iterdir()] == [], interrupter.where
        if not interrupter.where:
            break
    assert 10 < len(kept) < 99


def test_a_child_that_unwinds_a_write_leaves_the_temporary_file_to_its_parent(tmp_path: Path) -> None:
    with (temporary := Temporary(str(tmp_path), 0o600)), temporary as (_, path):
        assert status_of(fork(temporary.__exit__)) == 0
        assert os.path.exists(path)
    assert not os.path.exists(path)
