"""`rig`: every test of this folder runs on each cloud, by pathapi and by cloudpathlib where that is installed.

The tests say what cloudpathlib does. A row of docs/migrating.md that names a test in a comment is a deliberate
difference: there pathapi must fail the test.
"""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.harness.http_server import Habits, HttpOrigin
from tests.pathapi.drop_in.rigs import CLOUDS, Rig, make_rig

PACKAGES = ("pathapi", "cloudpathlib")
MIGRATING = Path(__file__).parents[3] / "docs/migrating.md"
_NAMED = re.compile(r"^\| (.*) <!-- (test_\w+) --> \|$", re.MULTILINE)

# Differences that are to go: pathapi writes an object whose name a directory has, if the server takes it.
_NOT_YET = {
    "test_a_directory_is_not_written",
}


def _delete_directories(package: ModuleType, request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the temporary directories of *package*, which leaves that, and a warning, to the garbage collector."""

    def make(*args: Any, **kwargs: Any) -> tempfile.TemporaryDirectory[str]:
        directory = tempfile.TemporaryDirectory(*args, **kwargs)
        request.addfinalizer(directory.cleanup)
        return directory

    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package.__name__}.") and hasattr(module, "TemporaryDirectory"):
            monkeypatch.setattr(module, "TemporaryDirectory", make)


def differences() -> dict[str, str]:
    """Return the tests that the table of differences names, each with its row."""
    return {test: row for row, test in _NAMED.findall(MIGRATING.read_text("utf-8"))}


@pytest.fixture
def origin() -> Iterator[HttpOrigin]:
    """A plain HTTP server that keeps to conditions, and answers 200 to a PUT that replaces."""
    with HttpOrigin(Habits(replaced=200)) as server:
        yield server


@pytest.fixture(params=[(package, cloud) for package in PACKAGES for cloud in CLOUDS], ids="-".join)
def rig(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Rig]:
    package, cloud = request.param
    if package != "pathapi":
        pytest.importorskip(package)
        if cloud == "az":
            pytest.importorskip("azure.storage.filedatalake", reason="the package needs this SDK, too")
        _delete_directories(importlib.import_module(package), request, monkeypatch)
    elif request.function.__name__ in _NOT_YET:
        pytest.skip("not yet")
    elif (row := differences().get(request.function.__name__)) is not None:
        request.applymarker(pytest.mark.xfail(reason=row, strict=True))
    monkeypatch.setenv("CASSTORE_DIR", str(tmp_path / "store"))
    yield from make_rig(importlib.import_module(package), cloud, request)
