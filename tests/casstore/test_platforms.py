"""Platforms without POSIX file locks: importing fails at once, and says in one sentence where casstore runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.casstore.support.fill import REPOSITORY

_CHILD = """
import sys

class NoFcntl:
    def find_spec(self, name, path=None, target=None):
        if name == "fcntl":
            raise ModuleNotFoundError("No module named 'fcntl'", name="fcntl")

sys.modules.pop("fcntl", None)
sys.meta_path.insert(0, NoFcntl())
sys.platform = "win32"
try:
    import {package}
except ImportError as error:
    print(error)
    print(error.__cause__, error.__suppress_context__)
"""


@pytest.mark.parametrize("package", ["casstore", "pathapi", "pathapi.common.uri", "casstore.cli.main"])
def test_an_import_without_fcntl_fails_with_one_clear_sentence(package: str) -> None:
    """As on Windows; no part of the packages gets past it."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD.format(package=package)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "casstore runs on Linux and macOS, not on win32: on Windows, run it in WSL 2",
        "None True",
    ]
