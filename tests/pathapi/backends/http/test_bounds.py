"""Bodies without end, and pages that grow when they are decompressed: no call reads more than its bound."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from pathapi import HttpClient, HttpPath
from pathapi.backends.http import backend as http
from pathapi.backends.http import responses
from pathapi.exceptions import CloudUnavailableError, NoStatError
from tests.casstore.support.fill import REPOSITORY
from tests.harness.faults import Action, Fault
from tests.harness.http_messages import Head
from tests.harness.http_server import HttpOrigin
from tests.harness.proxy import Proxy

MIB = 1 << 20


class Endless(Action):
    """A body of unknown length that goes on until the client closes the connection."""

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set("Content-Length", None)
        response.set("Transfer-Encoding", "chunked")

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        while not stop.is_set():
            yield bytes(1 << 18)


@pytest.fixture
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        server.habits.ranges = False
        server.plant("a", b"x")
        yield server


@pytest.fixture
def proxy(server: HttpOrigin) -> Iterator[Proxy]:
    with Proxy(server.url) as proxy:
        proxy.add(Fault(Endless(), times=None))
        yield proxy


@pytest.fixture
def path(proxy: Proxy, tmp_path: Path) -> HttpPath:
    return HttpClient(local_cache_dir=tmp_path / "store").HttpPath(f"{proxy.endpoint}/a")


def spooled(directory: str = "/proc/self/fd") -> list[int]:
    """The sizes of open files that have no name, as temporary ones."""
    found = []
    for descriptor in os.listdir(directory):
        try:
            if os.readlink(f"{directory}/{descriptor}").endswith("(deleted)"):
                found.append(os.fstat(int(descriptor)).st_size)
        except OSError:
            continue
    return found


QUESTIONS: dict[str, Callable[[HttpPath], object]] = {
    "exists": HttpPath.exists,
    "is_file": HttpPath.is_file,
    "is_dir": lambda path: not path.is_dir(),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_about_an_endless_body_is_answered(path: HttpPath, proxy: Proxy, question: str) -> None:
    assert QUESTIONS[question](path)
    assert sum(record.body_bytes for record in proxy.records) < 64 * MIB


def test_the_size_of_an_endless_body_is_an_error(path: HttpPath, proxy: Proxy) -> None:
    with pytest.raises(NoStatError, match=f"/a: the server does not state its size, and it has over {32 * MIB} bytes"):
        path.stat()
    assert sum(record.body_bytes for record in proxy.records) < 64 * MIB


READS: dict[str, Callable[[HttpPath, Path], object]] = {
    "read_bytes": lambda path, _: path.read_bytes(),
    "open": lambda path, _: path.open("rb"),
    "fspath": lambda path, _: path.fspath,
    "download_to": lambda path, there: path.download_to(there / "copy"),
}


@pytest.mark.parametrize("way", READS)
def test_an_endless_body_is_read_up_to_the_bound(
    path: HttpPath, proxy: Proxy, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "MOST_SPOOLED", 20 * MIB)
    with pytest.raises(CloudUnavailableError, match=f"has over {20 * MIB} bytes: configure the server to send"):
        READS[way](path, tmp_path)
    assert max(spooled(), default=0) < 20 * MIB


def test_a_body_of_unknown_length_fills_half_of_the_free_space(monkeypatch: pytest.MonkeyPatch) -> None:
    space = os.statvfs("/")
    for free, most in ((100 * MIB, 50 * MIB), (1 << 50, 16 << 30), (0, 8 * MIB)):
        fields = list(space)
        fields[0] = fields[1] = 4096  # the sizes of blocks
        fields[4] = free // 4096  # free for this user
        monkeypatch.setattr(os, "statvfs", lambda _, found=tuple(fields): os.statvfs_result(found))
        assert responses.most_spooled() == most


def test_a_body_of_unknown_length_below_the_bound_is_read(server: HttpOrigin, tmp_path: Path) -> None:
    server.habits.length = "chunked"
    data = os.urandom(9 * MIB)
    server.plant("large", data)
    path = HttpClient(local_cache_dir=tmp_path / "store").HttpPath(f"{server.url}/large")
    assert path.exists()
    assert path.read_bytes() == data
    server.plant("small", b"data")
    assert (path.parent / "small").stat().st_size == 4


def test_a_request_of_ones_own_returns_a_bounded_body(path: HttpPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_RETURNED", 3 * MIB)
    with pytest.raises(CloudUnavailableError, match=f"the body has over {3 * MIB} bytes"):
        path.get()


def test_an_index_page_of_600_mb_takes_no_such_memory(server: HttpOrigin, tmp_path: Path) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    page = b"".join(packer.compress(bytes(MIB)) for _ in range(600)) + packer.flush()
    headers = {"Content-Type": "text/html", "Content-Encoding": "gzip"}
    server.script(200, key="d/", headers=headers, body=page, times=None)
    code = (
        "import resource, sys\n"
        "from pathapi import HttpClient\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "path = HttpClient(local_cache_dir=sys.argv[2]).HttpPath(sys.argv[1])\n"
        "path.exists()\n"
        "before = peak()\n"
        "try: list(path.iterdir())\n"
        "except NotImplementedError as error: print(error)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, f"{server.url}/d/", str(tmp_path / "store")]
    run: Any = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    error, grown = run.stdout.splitlines()
    assert "the page is no index: it has over 67108864 bytes" in error
    assert int(grown) < 300


def test_an_urllib3_that_decompresses_without_a_bound_is_not_allowed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (urllib3,) = map(Requirement, project["optional-dependencies"]["http"])
    assert "2.5.0" not in urllib3.specifier
    assert "2.6.0" in urllib3.specifier


def test_a_short_body_of_unknown_length_needs_no_temporary_directory(
    server: HttpOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    server.habits.length = "chunked"
    path = HttpClient(local_cache_dir=tmp_path / "store").HttpPath(f"{server.url}/a")
    monkeypatch.setattr(tempfile, "gettempdir", fail)
    assert path.read_bytes() == b"x"
