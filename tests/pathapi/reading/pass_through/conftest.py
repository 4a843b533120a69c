"""No store is open at first, and a bucket of three files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from casstore import opening as processes
from casstore import pass_through as uncached
from pathapi.reading import download as transfer
from pathapi.reading import reader as reading
from tests.pathapi.support.pass_through import LARGE, PART, SMALL


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing set from outside, nothing warned of yet, small parts; no store left open, no temporary file left."""
    for name in [name for name in os.environ if name.startswith(("CASSTORE_", "CLOUDPATHLIB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CASSTORE_MIN_FREE", "0")  # the disks are so small that the default would clear them
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(uncached, "_warned", set())
    monkeypatch.setattr(transfer, "PART", PART)
    monkeypatch.setattr(reading, "PART", PART)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    before = dict(processes._caches)
    yield
    for name, cache in list(processes._caches.items()):
        if name not in before:
            cache.close()
            del processes._caches[name]
    left = [name for name in os.listdir(tmp_path / "tmp") if not name.startswith(f"casstore-{os.geteuid()}")]
    assert left == [], "temporary files were left"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A directory of objects."""
    path = tmp_path / "bucket"
    path.mkdir()
    (path / "small").write_bytes(SMALL)
    (path / "large").write_bytes(LARGE)
    (path / "empty").write_bytes(b"")
    return path
