"""Files that are open for writing when their process ends, in whichever way: kept, and said where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import PendingState
from pathapi import FileClient, FilePath
from pathapi.writing import unclosed
from tests.casstore.support.fill import REPOSITORY, forked

PROGRAM = """
import sys
from pathapi import FileClient
path = FileClient(local_cache_dir=sys.argv[1]).CloudPath("file://" + sys.argv[2])
file = path.open("w")
file.write("mine")  # too little to leave the buffers by itself
print("open", flush=True)
{end}
"""

ENDS = {
    "returns": "",
    "exits": "sys.exit(3)",
    "raises": "raise ZeroDivisionError",
    "is interrupted": "import time; time.sleep(60)",
}


@pytest.fixture
def path(tmp_path: Path) -> FilePath:
    (tmp_path / "bucket").mkdir()
    return FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{tmp_path}/bucket/a.txt")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def run(end: str, program: str = PROGRAM) -> subprocess.Popen[str]:
        arguments = [str(tmp_path / "store"), str(tmp_path / "bucket/a.txt")]
        process = subprocess.Popen(
            [sys.executable, "-c", program.format(end=end), *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    return run


@pytest.mark.parametrize("how", ENDS)
def test_a_file_that_is_open_when_its_process_ends_is_keep_as_incomplete(
    path: FilePath, start: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    process = start(ENDS[how])
    if how == "is interrupted":
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=1_000)
    (write,) = path.pending
    assert write.state is PendingState.INCOMPLETE
    assert path.read_text(read_pending=True) == "mine"
    assert not path.exists()
    assert "still open for writing when its process ended" in said and "casstore pending" in said
    path.push()
    assert path.read_text() == "mine"


def test_a_file_that_a_child_of_multiprocessing_leaves_open_is_keep_as_incomplete(
    path: FilePath, start: Callable[..., subprocess.Popen[str]]
) -> None:
    program = """
import multiprocessing, sys
from pathapi import FileClient

def work():
    global file  # nobody closes it
    path = FileClient(local_cache_dir=sys.argv[1]).CloudPath("file://" + sys.argv[2])
    file = path.open("w")
    file.write("mine")
    print("open", flush=True)

process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
{end}
"""
    start("", program).communicate(timeout=1_000)
    (write,) = path.pending
    assert (write.state, path.read_text(read_pending=True)) == (PendingState.INCOMPLETE, "mine")


@pytest.mark.parametrize("mode", ["r", "rt", "rb"])
@pytest.mark.parametrize("buffering", [-1, 0, 16])
def test_what_is_pending_is_read_by_the_same_kinds_of_file(path: FilePath, mode: str, buffering: int) -> None:
    if "b" not in mode and buffering == 0:
        pytest.skip("there is no unbuffered text")
    path.write_bytes(b"theirs")
    with path.open(mode, buffering) as theirs:
        kind = type(theirs)
    writer: Any = path.open("wb")
    writer.write(b"mine")
    writer.keep_as_incomplete("it is given up")
    mine: Any
    with path.open(mode, buffering, read_pending=True) as mine:
        assert type(mine) is kind
        assert mine.name == str(path)
        assert mine.read() == (b"mine" if "b" in mode else "mine")


def test_a_killed_process_leaves_nothing_pending_and_nothing_locked(
    path: FilePath, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """What was not closed was promised to nobody."""
    process = start("import time; time.sleep(60)")
    process.kill()
    process.communicate(timeout=1_000)
    assert path.pending == []
    path.write_text("the next one")
    assert path.read_text() == "the next one"
    cache: Any = casstore.open(tmp_path / "store")
    assert cache.verify().is_sound


def test_a_forked_child_does_not_move_its_parents_file(path: FilePath) -> None:
    with path.open("w+b") as file:
        file.write(b"0123456789")
        file.flush()

        def move() -> None:
            file.seek(2)
            file.flush()
            file.truncate(3)

        assert forked(move) == 0
        file.write(b"X")
    assert path.read_bytes() == b"0123456789X"


def test_a_text_file_that_is_collected_in_a_cycle_waits_for_its_text(path: FilePath) -> None:
    file: Any = path.open("w")
    file.write("mine")
    assert not unclosed._keep(file.buffer, False), "the layer above may be collected later"
    file.close()
    assert path.read_bytes() == b"mine"
