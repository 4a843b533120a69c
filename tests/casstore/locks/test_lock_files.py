"""Lock files of other processes: a lock counts only on the file that still has the name."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from casstore.locks import lock_files


def test_a_lock_file_that_was_replaced_before_it_was_locked_proves_no_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    path.touch()
    flock = fcntl.flock

    def replace_and_lock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        path.touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with pytest.raises(FileNotFoundError, match="was replaced"):
        lock_files.try_lock_existing(str(path))
    file = lock_files.try_lock_existing(str(path))
    assert file is not None
    file.close()
