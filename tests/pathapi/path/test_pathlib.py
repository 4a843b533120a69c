"""What Python 3.12 to 3.14 added to `pathlib.Path` does the same here, on every Python.

`pathlib.json` has what pathlib of Python 3.14 answers; ``python3.14 tests/pathapi/path/pathlib_cases.py`` records it.
A pattern with ``..`` is refused, and a file that is copied to itself stays as it is: these are not compared.
"""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pathapi import FileClient
from tests.pathapi.path.pathlib_cases import CASES, RECORDED, TREE, outcome, plant
from tests.pathapi.support.proxied import Cloud

EXPECTED: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))


def _same(found: Any, expected: Any) -> bool:
    """Whether an error is one that pathlib's caller catches, or the answer the same."""
    if isinstance(found, Exception):
        return isinstance(expected, dict) and isinstance(found, getattr(builtins, expected["raises"]))
    return bool(found == expected)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="recorded from pathlib of Python 3.14")
@pytest.mark.parametrize("name", CASES)
def test_the_record_is_pathlibs(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    plant(root)
    assert _same(outcome(name, root), EXPECTED[name])


@pytest.fixture(autouse=True)
def _a_target_may_be_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """pathlib replaces such a target; paths of clouds do so only if the caller or the environment says it."""
    monkeypatch.setenv("CLOUDPATHLIB_FORCE_OVERWRITE_TO_CLOUD", "1")


@pytest.fixture
def files(tmp_path: Path) -> Any:
    return FileClient(local_cache_dir=tmp_path / "store").CloudPath(tmp_path.as_uri()) / "root"


@pytest.mark.parametrize("name", CASES)
def test_files_answer_as_pathlib_does(name: str, files: Any) -> None:
    plant(Path(f"/{files.key}"))
    found = outcome(name, files)
    assert _same(found, EXPECTED[name]), found


@pytest.fixture(params=["s3", "gs", "az"])
def root(request: pytest.FixtureRequest) -> Any:
    cloud: Cloud = request.getfixturevalue(request.param)
    root = cloud.path.parent / "root"
    for key, data in TREE.items():
        cloud.ground.plant(f"{root.key}/{key}", data)
    return root


@pytest.mark.sampled(30)
@pytest.mark.parametrize("name", CASES)
def test_clouds_answer_as_pathlib_does(name: str, root: Any) -> None:
    found = outcome(name, root)
    assert _same(found, EXPECTED[name]), found
