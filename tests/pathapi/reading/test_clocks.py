"""Readers in containers with a boot clock of their own, as restored ones have."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

_UNSHARE = ("unshare", "--time", "--boottime", "1000000", "--fork")


def _can_unshare() -> bool:
    try:
        return subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not _can_unshare(), reason="needs root and unshare --time")
@pytest.mark.parametrize("container", ["fills", "reads"])
def test_under_always_the_other_boot_clock_serves_nothing_unasked(tmp_path: Path, container: str) -> None:
    file = tmp_path / "a"
    code = (
        "from pathapi import FileClient; "
        f"print(FileClient(local_cache_dir={str(tmp_path / 'store')!r}).CloudPath('file://{file}').read_text())"
    )

    def read(*before: str) -> str:
        return subprocess.run([*before, sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    order = (_UNSHARE, ()) if container == "fills" else ((), _UNSHARE)
    for prefix, data in zip(order, ("old", "new"), strict=True):
        file.write_text(data)
        time.sleep(0.05)  # past the tick within which a change of a file is invisible
        assert read(*prefix) == f"{data}\n"
