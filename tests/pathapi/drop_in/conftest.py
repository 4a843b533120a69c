"""`rig`: every test of this folder runs on each cloud, by pathapi and by cloudpathlib where that is installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.http_server import Habits, HttpOrigin
from tests.pathapi.drop_in.rigs import CLOUDS, Rig, make_rig


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    """A plain HTTP server that keeps to conditions, and answers 200 to a PUT that replaces."""
    with HttpOrigin(Habits(replaced=200)) as server:
        yield server


@pytest.fixture(params=[(package, cloud) for package in ("pathapi", "cloudpathlib") for cloud in CLOUDS], ids="-".join)
def rig(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Rig]:
    package, cloud = request.param
    if package != "pathapi":
        pytest.importorskip(package)
        if cloud == "az":
            pytest.importorskip("azure.storage.filedatalake", reason="the package needs this SDK, too")
    monkeypatch.setenv("CASSTORE_DIR", str(tmp_path / "store"))
    yield from make_rig(importlib.import_module(package), cloud, request)
