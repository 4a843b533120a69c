"""What a plain HTTP server can answer, provoked on the wire, and what our errors say of it."""

from __future__ import annotations

import errno
import gc
import io
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from casstore import Validator
from pathapi.backend import ABSENT
from pathapi.backends.http.backend import HttpBackend, HttpConnection
from pathapi.backends.http.errors import BY_STATUS, HttpStatusError
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.testing import drain, opened, read, write
from tests.harness.faults import Action, FlipByte, Reset, SetHeader, Stall, Surplus, Truncate
from tests.harness.http_messages import Head
from tests.harness.http_server import Habits, HttpOrigin
from tests.harness.proxy import Fault, Proxy

MARK = "hunter2"


@pytest.fixture
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


@pytest.fixture
def proxy(server: HttpOrigin) -> Iterator[Proxy]:
    with Proxy(server.url) as proxy:
        yield proxy


def backend_of(host: str, **settings: Any) -> HttpBackend:
    quick = {"backoff": 0.01, "tries": 3, "timeout": 5.0, "connect_timeout": 2.0}
    return HttpBackend(HttpConnection(**{**quick, **settings}), "http", host)


@pytest.fixture
def backend(server: HttpOrigin) -> HttpBackend:
    return backend_of(server.host)


EXPECTED: dict[int, type[Exception]] = {
    300: CloudUnavailableError,
    400: InvalidConfigurationException,
    401: MissingCredentialsError,
    403: CloudPathPermissionError,
    404: CloudPathFileNotFoundError,
    405: CloudPathPermissionError,
    408: CloudUnavailableError,
    409: CloudUnavailableError,
    410: CloudPathFileNotFoundError,
    412: VersionMismatchError,
    413: CloudUnavailableError,
    414: InvalidUriError,
    418: InvalidConfigurationException,
    423: CloudUnavailableError,
    425: CloudUnavailableError,
    429: CloudUnavailableError,
    451: CloudPathPermissionError,
    500: CloudUnavailableError,
    501: CloudPathNotImplementedError,
    503: CloudUnavailableError,
    507: CloudUnavailableError,
    599: CloudUnavailableError,
}


def test_every_line_of_the_table_is_provoked() -> None:
    assert set(BY_STATUS) <= set(EXPECTED)


@pytest.mark.parametrize("status", EXPECTED)
def test_a_status_is_the_error_that_says_so(server: HttpOrigin, backend: HttpBackend, status: int) -> None:
    server.plant("a", b"a")
    server.script(status, key=f"a?token={MARK}", times=None)
    works: list[Callable[[], object]] = [
        lambda: backend.read(f"a?token={MARK}"),
        lambda: write(backend, f"a?token={MARK}", b"x"),
    ]
    for work in works:
        with pytest.raises(EXPECTED[status]) as caught:
            work()
        error = caught.value
        assert type(error) is EXPECTED[status]
        assert isinstance(error.__cause__, HttpStatusError) and error.__cause__.status == status
        assert f"http://{server.host}/a?***" in str(error)
        assert MARK not in str(error) + str(error.__cause__)


def test_a_login_that_is_refused_is_told_from_one_that_is_missing(server: HttpOrigin) -> None:
    server.plant("a", b"a")
    server.habits = Habits(user=("me", MARK))
    with pytest.raises(MissingCredentialsError, match="auth="):
        backend_of(server.host).read("a")
    for refused in (
        backend_of(server.host, auth=("me", "wrong")),
        backend_of(f"me:wrong@{server.host}"),
        backend_of(server.host, headers={"Authorization": "Bearer wrong"}),
    ):
        with pytest.raises(CloudPathPermissionError, match="does not accept"):
            refused.read("a")
    assert read(backend_of(server.host, auth=("me", MARK)), "a") == b"a"
    assert read(backend_of(f"me:{MARK}@{server.host}"), "a") == b"a"


def test_what_is_no_login_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidConfigurationException) as caught:
        HttpConnection(auth=MARK)
    assert MARK not in str(caught.value)


# --- trying again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: HttpOrigin, backend: HttpBackend, status: int) -> None:
    server.plant("a", b"a")
    server.script(status, times=2)
    assert read(backend, "a") == b"a"
    assert [one.status for one in server.seen] == [status, status, 200]


def test_an_error_says_how_long_it_was_tried(server: HttpOrigin, proxy: Proxy) -> None:
    server.script(503, times=None, body=b"busy" * 1_000)
    with pytest.raises(CloudUnavailableError, match=r"HTTP 503\) after 3 tries in 0\.\d s"):
        backend_of(proxy.endpoint.removeprefix("http://")).read("a")
    assert len(server.seen) == 3
    assert proxy.connections == 1, "each answer was read, or its connection could not serve the next request"
    gc.collect()  # which finds no socket of an answer that was left unread


def test_retry_after_is_waited_for_within_patience(server: HttpOrigin) -> None:
    server.plant("a", b"a")
    server.script(429, headers={"Retry-After": "1"})
    began = time.monotonic()
    assert read(backend_of(server.host), "a") == b"a"
    assert time.monotonic() - began >= 1
    server.script(429, headers={"Retry-After": "9999"})
    with pytest.raises(CloudUnavailableError, match="limits the rate"):
        backend_of(server.host).read("a")


def test_a_post_is_not_sent_twice_where_it_may_have_been_done(server: HttpOrigin) -> None:
    backend = backend_of(server.host, write_file_http_method="POST")
    server.script(500)
    with pytest.raises(CloudUnavailableError):
        write(backend, "a", b"x")
    assert server.count("POST") == 1
    write(backend, "a", b"x")
    assert server.content("a") == b"x"


def test_a_write_whose_answer_was_lost_may_be_our_own_success(server: HttpOrigin, proxy: Proxy) -> None:
    backend = backend_of(proxy.endpoint.removeprefix("http://"))
    proxy.add(Fault(Reset(after=None), kind="PUT"))
    with pytest.raises(VersionMismatchError) as caught:
        write(backend, "d/a", b"mine", ABSENT)
    assert caught.value.outcome_unknown
    assert server.content("d/a") == b"mine"


def test_a_conflict_in_progress_is_no_decision(server: HttpOrigin, backend: HttpBackend) -> None:
    server.script(409, method="PUT", times=2)
    write(backend, "a", b"x", ABSENT)
    assert server.content("a") == b"x"


def test_what_is_gone_at_the_last_moment_is_another_version(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("a", b"a")
    seen = backend.head("a").validator
    works: list[Callable[[], object]] = [
        lambda: write(backend, "a", b"x", seen),
        lambda: backend.delete(["a"], expect=seen),
    ]
    for work in works:
        for method in ("PUT", "DELETE"):
            server.script(404, method=method)
        with pytest.raises(VersionMismatchError):
            work()
        server.scripts.clear()


def test_a_proxy_of_the_environment_is_asked(server: HttpOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url.replace("://", f"://me:{MARK}@"))
    backend = backend_of("nowhere.invalid", tries=1)
    with pytest.raises(CloudPathFileNotFoundError) as caught:
        backend.read("a")
    assert MARK not in str(caught.value)
    assert server.seen[0].target == "http://nowhere.invalid/a"
    assert "Basic " in {name.lower(): value for name, value in server.seen[0].headers.items()}["proxy-authorization"]
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    with pytest.raises(CloudUnavailableError):
        backend.read("a")
    assert len(server.seen) == 1


def test_nobody_there_is_unavailable_and_not_missing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = backend_of(f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(CloudUnavailableError, match=r"could not be reached after 3 tries") as caught:
            nobody.read("a")
    assert caught.value.__cause__ is not None and type(caught.value) is CloudUnavailableError
    with pytest.raises(CloudUnavailableError):
        backend_of("no-such-host.invalid", tries=1).head("a")
    with pytest.raises(CloudPathException):
        backend_of("host:port", tries=1).head("a")


def test_redirects_end(server: HttpOrigin, backend: HttpBackend) -> None:
    server.redirects["a"] = (302, "/a")
    with pytest.raises(CloudUnavailableError, match="redirect that cannot be followed"):
        backend.read("a")
    assert len(server.seen) == 11
    for place in ("ftp://elsewhere/b", "file:///etc/passwd", "http://[::1", "http://host:99999/b"):
        server.redirects["b"] = (302, place)
        with pytest.raises(CloudUnavailableError, match="redirect that cannot be followed"):
            backend.read("b")


def test_a_write_follows_only_redirects_that_keep_it_a_write(server: HttpOrigin, backend: HttpBackend) -> None:
    server.redirects["a"] = (307, "/real")
    write(backend, "a", b"x" * 100_000)
    assert server.content("real") == b"x" * 100_000
    server.redirects["b"] = (302, "/real")
    with pytest.raises(CloudUnavailableError, match="redirect that cannot be followed"):
        write(backend, "b", b"y")


# --- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["stated", "chunked"])
@pytest.mark.parametrize("action", [Truncate(after=1000), Reset(after=1000), Truncate(after=0)])
def test_a_body_that_ends_early_is_truncated(server: HttpOrigin, proxy: Proxy, action: Any, length: str) -> None:
    server.habits.length = length
    server.plant("d/a", b"x" * 300_000)
    backend = backend_of(proxy.endpoint.removeprefix("http://"))
    uses: list[Callable[[], object]] = [
        lambda: read(backend, "d/a"),
        lambda: drain(opened(backend, "d/a", 5, 200_000)),
    ]
    for use in uses:
        proxy.add(Fault(action, kind="GET"))
        with pytest.raises(TruncatedBodyError, match="d/a") as caught:
            use()
        assert caught.value.__cause__ is not None


def test_a_body_that_is_longer_than_announced_is_not_taken(server: HttpOrigin, proxy: Proxy) -> None:
    backend = backend_of(proxy.endpoint.removeprefix("http://"))
    server.plant("d/a", b"x" * 300_000)
    proxy.add(Fault(Surplus(5, chunked=True), kind="GET"))
    with pytest.raises(TruncatedBodyError, match="longer"):
        read(backend, "d/a", 0, 200_000)
    proxy.add(Fault(Surplus(5), kind="GET"))
    assert read(backend, "d/a") == b"x" * 300_000
    assert read(backend, "d/a") == b"x" * 300_000, "what is left on the connection begins no answer"


class _Full:
    """A temporary file on a full disk, or one whose writer is interrupted."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.is_closed = False

    def write(self, data: bytes) -> int:
        raise self.error

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_our_own_disk_is_not_told_as_the_servers(
    server: HttpOrigin, backend: HttpBackend, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    server.habits.length = "chunked"
    server.plant("a", b"x" * 3_000_000)
    full, answers, send = _Full(error), list[Any](), backend._requests.send

    def noted(*arguments: Any, **options: Any) -> Any:
        answers.append(send(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr("tempfile.SpooledTemporaryFile", lambda _: full)
    monkeypatch.setattr(backend._requests, "send", noted)
    for work in (lambda: backend.read("a"), lambda: backend.copy("a", "b")):
        with pytest.raises(type(error)) as caught:
            work()
        assert caught.value is error
        assert full.is_closed and answers[-1].response.closed


def test_a_stall_is_an_error(server: HttpOrigin, proxy: Proxy) -> None:
    backend = backend_of(proxy.endpoint.removeprefix("http://"), timeout=0.3, tries=1)
    server.plant("d/a", b"x" * 300_000)
    proxy.add(Fault(Stall(2, after=1000), kind="GET"))
    with pytest.raises(CloudUnavailableError, match="stopped responding"):
        read(backend, "d/a")
    proxy.add(Fault(Stall(2, after=None), kind="GET"))
    with pytest.raises(CloudUnavailableError, match="stopped responding"):
        read(backend, "d/a")


def test_flipped_bytes_are_nobodys_to_find_without_a_checksum(server: HttpOrigin, proxy: Proxy) -> None:
    """What plain HTTP cannot do, written down."""
    backend = backend_of(proxy.endpoint.removeprefix("http://"))
    server.plant("d/a", b"xyz")
    proxy.add(Fault(FlipByte(), kind="GET"))
    assert read(backend, "d/a") != b"xyz"


def test_what_a_server_states_of_the_bytes_is_no_checksum(server: HttpOrigin, proxy: Proxy) -> None:
    backend = backend_of(proxy.endpoint.removeprefix("http://"))
    server.plant("d/a", b"xyz")
    proxy.add(Fault(SetHeader("Content-MD5", "0" * 22 + "=="), kind="GET"))
    proxy.add(Fault(SetHeader("ETag", '"' + "0" * 32 + '"'), kind="GET"))
    body = opened(backend, "d/a")
    assert body.info.checksums == ()
    body.close()


@pytest.mark.parametrize(
    "told",
    ["bytes 0-0/1", "bytes 3-9/10", "bytes */10", "", "items 2-5/10", "bytes 2-99/10", "bytes 3-6/10", "bytes 2-5/4"],
)
def test_a_wrong_range_is_not_taken_for_the_one_asked_for(server: HttpOrigin, backend: HttpBackend, told: str) -> None:
    server.plant("a", b"0123456789")
    server.habits.content_range = lambda _: told
    assert read(backend, "a", 2, 6) == b"2345"
    assert [one.headers.get("Range") for one in server.seen] == ["bytes=2-5", None]


@pytest.mark.parametrize("habits", [Habits(ranges=False), Habits(ranges=False, length="chunked")])
def test_a_server_without_ranges_sends_the_whole_and_the_range_is_cut(
    server: HttpOrigin, backend: HttpBackend, habits: Habits
) -> None:
    server.habits = habits
    server.plant("a", b"0123456789")
    for start, end in ((2, 6), (2, None), (9, 99), (10, 12), (50, None), (4, 4)):
        body = opened(backend, "a", start, end)
        assert (body.info.size, body.length, drain(body)) == (
            10,
            len(b"0123456789"[start:end]),
            b"0123456789"[start:end],
        )
    body = opened(backend, "a", 0, 4)
    assert (body.length, drain(body)) == (10, b"0123456789"), "from the start it comes whole, and says so"


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_that_knows_no_head_is_asked_for_one_byte(
    server: HttpOrigin, backend: HttpBackend, status: int
) -> None:
    server.plant("a", b"0123456789")
    server.script(status, method="HEAD", times=None)
    assert backend.head("a").size == 10
    assert server.seen[-1].headers["Range"] == "bytes=0-0"
    with pytest.raises(CloudPathFileNotFoundError):
        backend.head("b")
    server.plant("empty", b"")
    assert backend.head("empty").size == 0


def test_a_url_that_is_signed_for_get_alone_can_be_asked_about(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("a", b"0123456789")
    server.script(403, method="HEAD", times=None)
    assert backend.head("a?X-Amz-Signature=f0&X-Amz-Date=1").size == 10
    assert server.seen[-1].target == "/a?X-Amz-Signature=f0&X-Amz-Date=1"
    with pytest.raises(CloudPathPermissionError):
        backend.head("a")


def test_weak_etags_are_no_condition_of_writes_and_reads_compare_them(server: HttpOrigin, backend: HttpBackend) -> None:
    server.habits = Habits(etags="weak")
    server.plant("a", b"first")
    seen = backend.head("a").validator
    assert seen.weak and not (seen.etag or "").startswith("W/")
    assert read(backend, "a", expect=seen) == b"first"
    assert backend.read("a", unless=seen) is None
    assert all("If-Match" not in one.headers for one in server.seen)
    works: list[Callable[[], object]] = [
        lambda: write(backend, "a", b"x", seen),
        lambda: backend.delete(["a"], expect=seen),
    ]
    for work in works:
        with pytest.raises(CloudPathNotImplementedError, match="strong ETag"):
            work()
    server.plant("a", b"other")
    with pytest.raises(VersionMismatchError):
        backend.read("a", expect=seen)
    assert read(backend, "a", unless=seen) == b"other"


def test_a_304_that_speaks_of_another_version_is_not_believed(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("a", b"bytes")
    server.script(304, method="GET", headers={"ETag": '"another"'})
    assert read(backend, "a", unless=Validator(5, "mine")) == b"bytes"


def test_a_write_that_tells_no_etag_tells_no_version(server: HttpOrigin, backend: HttpBackend) -> None:
    server.habits.says_written_etag = False
    info = write(backend, "a", b"x")
    assert not info.validator.identifies, "a HEAD could already see somebody else's"


def test_a_source_that_ends_early_uploads_nothing(server: HttpOrigin, backend: HttpBackend) -> None:
    with pytest.raises(TruncatedBodyError):
        backend.write("a", io.BytesIO(b"short"), 10)
    backend.write("b", io.BytesIO(b"longer than said"), 6)
    assert (server.content("a"), server.content("b")) == (None, b"longer")


# --- TLS ------------------------------------------------------------------------------------------------------------


def test_https_is_read_where_its_certificate_is_trusted_and_only_there(certificate: Path, tmp_path: Path) -> None:
    from pathapi import CloudPath, HttpsClient, HttpsPath

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with HttpOrigin(tls=tls) as server:
        server.plant("a", b"a")
        client = HttpsClient(local_cache_dir=tmp_path, ca_certs=certificate)
        path = CloudPath(f"{server.url}/a", client=client)
        assert type(path) is HttpsPath and client.HttpsPath(str(path)) == path
        assert path.read_bytes() == path.read_bytes() == b"a"
        assert client.cache.lookup(path._store_key()) is not None
        with pytest.raises(CloudUnavailableError, match="ca_certs=") as caught:
            HttpBackend(HttpConnection(), "https", server.host).read("a")
        assert type(caught.value.__cause__).__name__ == "SSLError"
        assert len(server.seen) == 2
        client.connection.close()
        client.cache.close()


def test_threads_share_connections(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("a", b"x" * 10_000)
    threads = [threading.Thread(target=lambda: [read(backend, "a") for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.count("GET") == 160


class _AlarmError(Exception):
    """What a handler of a signal raises, in the middle of whatever runs."""


@dataclass(frozen=True, slots=True)
class _Alarm(Action):
    """A signal to the main thread in the middle of a body: when more of it has gone than sockets hold."""

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set("Content-Length", str(64 << 20))

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        yield b" " * (32 << 20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        stop.wait()


@pytest.mark.parametrize(
    "ask",
    [lambda backend: backend.request("GET", "d/", {}, None), lambda backend: list(backend.list("d/"))],
    ids=["request", "list"],
)
def test_an_error_that_is_nothing_of_the_networks_is_raised_as_it_is_and_not_as_its_own_cause(
    server: HttpOrigin, proxy: Proxy, ask: Callable[[HttpBackend], object]
) -> None:
    def sound(*_: object) -> None:
        raise _AlarmError

    server.plant("d/a", b"a")
    proxy.add(Fault(_Alarm()))
    before = signal.signal(signal.SIGUSR1, sound)
    try:
        with pytest.raises(_AlarmError) as caught:
            ask(backend_of(proxy.endpoint.removeprefix("http://")))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.__cause__ is None
