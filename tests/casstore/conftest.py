"""A store of its own for each test, and nothing left of it in this process afterwards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore
from casstore import opening as processes


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIR", "DIGEST", "VIEWS", "VERIFY", "OFFLINE", "LOCK_TIMEOUT", "MAX_SIZE"):
        monkeypatch.delenv(f"CASSTORE_{name}", raising=False)


@pytest.fixture(autouse=True)
def _warnings_as_before() -> Iterator[None]:
    """The command shows them its own way."""
    before = warnings.showwarning
    yield
    warnings.showwarning = before


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where a store is going to be; whatever was opened is closed at the end."""
    before = dict(processes._caches)
    yield tmp_path / "store"
    for name, cache in list(processes._caches.items()):
        if name not in before:
            cache.close()
            del processes._caches[name]


@pytest.fixture
def cache(root: Path) -> casstore.Cache:
    """An empty store."""
    return casstore.open(root)


@pytest.fixture
def one_processor() -> Iterator[None]:
    """For threads that take turns: on one processor each wakes the next, and does not wait until another is free."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)
