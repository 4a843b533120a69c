"""Files that are closed while the interpreter exits, and what is read and written then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.casstore.support.fill import REPOSITORY

BEGIN = """
import atexit, {first}, sys
import logging, os, threading, time
import pathapi

def path(name):
    client = pathapi.FileClient(local_cache_dir=sys.argv[1])
    return client.CloudPath(f"file://{{sys.argv[2]}}/{{name}}")
"""

LOG = """
class Handler(logging.StreamHandler):
    def close(self):
        self.stream.close()
        super().close()

logging.getLogger().addHandler(Handler(path("a").open("w")))
logging.warning("started")
"""

HANDLER = """
file = None
def end():
    file.write("and closed")
    file.close()
atexit.register(end)
file = path("a").open("w")
file.write("open ")
"""

LOCAL_PATH = """
def end():
    path("b").write_text(open(local).read())
atexit.register(end)
path("a").write_text("still there")
local = os.fspath(path("a"))
"""

LARGE = """
def end():
    {wait}
    path("a").write_bytes(bytes(20 << 20))
    path("b").write_bytes(path("a").read_bytes())
    path("tree/1").write_bytes(b"1")
    path("tree/2").write_bytes(b"2")
    path("tree").copytree(path("copy"))
    path("tree").download_to(sys.argv[2] + "/down")
    path("tree").rmtree()
{register}
"""
LATE = {
    "in an atexit function": LARGE.format(wait="pass", register="atexit.register(end)"),
    "in a thread that is left": LARGE.format(
        wait="threading.main_thread().join(); time.sleep(0.1)", register="threading.Thread(target=end).start()"
    ),
}


def run(tmp_path: Path, program: str, first: str = "pathapi") -> Path:
    """Run *program* in a new Python that imports *first* first; return the directory that it writes to."""
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BEGIN.format(first=first) + program, tmp_path / "store", bucket],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=1_000,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return bucket


@pytest.mark.parametrize("first", ["logging", "pathapi"])
def test_a_log_that_its_handler_closes_at_exit_is_uploaded(tmp_path: Path, first: str) -> None:
    assert (run(tmp_path, LOG, first) / "a").read_text() == "started\n"


def test_a_file_that_an_atexit_function_closes_is_uploaded(tmp_path: Path) -> None:
    assert (run(tmp_path, HANDLER) / "a").read_text() == "open and closed"


def test_a_local_path_is_good_in_an_atexit_function(tmp_path: Path) -> None:
    assert (run(tmp_path, LOCAL_PATH) / "b").read_text() == "still there"


@pytest.mark.parametrize("late", LATE)
def test_files_and_trees_are_read_and_written_at_exit(tmp_path: Path, late: str) -> None:
    bucket = run(tmp_path, LATE[late])
    assert (bucket / "b").stat().st_size == 20 << 20
    assert sorted(path.name for path in (bucket / "copy").iterdir()) == ["1", "2"]
    assert sorted(path.name for path in (bucket / "down").iterdir()) == ["1", "2"]
    assert not list((bucket / "tree").glob("*"))
