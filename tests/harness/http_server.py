"""A real HTTP server with the habits of many: conditions, ranges, index pages, and what servers do without.

::

    with HttpOrigin(Habits(etags=None)) as server:
        server.plant("d/a.txt", b"...")
        ... server.url + "/d/a.txt"
        assert server.count("GET") == 1

A key is the path of a URL, escapes and all: ``a%20b`` and ``a b`` are one object. `http_process` is one in a process of
its own.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import quote, unquote

from tests.harness.subprocess_server import own_process, serve

SAFE = "!$&'()*+,;=:@-._~"
"""What a piece of a path holds unescaped, slashes aside (RFC 3986)."""


def canonical(key: str) -> str:
    """One text for one object, as index pages write it."""
    path = key.partition("#")[0].partition("?")[0]
    return "/".join(quote(unquote(name, errors="surrogatepass"), safe=SAFE) for name in path.split("/"))


@dataclass
class Habits:
    """What a server does. *etags*: ``strong``, ``weak``, None. *length*: ``stated``, ``chunked``, ``close``."""

    etags: str | None = "strong"
    modified: bool = True
    dates: bool = True
    ranges: bool = True
    conditions: bool = True
    length: str = "stated"
    encoding: str | None = None
    content_range: Callable[[str], str] | None = None
    says_written_etag: bool = True
    replaced: int = 204
    modified_in_304: bool = True
    methods: frozenset[str] = frozenset(("GET", "HEAD", "PUT", "DELETE", "POST"))
    user: tuple[str, str] | None = None
    page: Callable[[str, list[str]], tuple[str, str]] | None = None
    """(URL path, names) -> (content type, text) in place of an index page."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    status: int

    @property
    def key(self) -> str:
        return self.target.split("/", 3)[3] if self.target.startswith("http://") else self.target[1:]


@dataclass
class _Object:
    data: bytes
    modified: float
    etag: str
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """Answer the next *times* requests of *method* for *key* with *status*; None stands for any."""

    status: int
    method: str | None = None
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = 1
    body: bytes = b""


class HttpOrigin:
    """Listens from construction to `close`; `habits` may change at any time. Thread-safe."""

    def __init__(self, habits: Habits | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.habits = habits or Habits()
        self.objects: dict[str, _Object] = {}
        self.lock = threading.RLock()
        self.seen: list[Seen] = []
        self.scripts: list[list[Any]] = []
        self.redirects: dict[str, tuple[int, str]] = {}
        self.offset = 0.0
        self._numbers = itertools.count(1)

        class Handler(_Handler):
            origin = self

        self._server = _Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{'http' if tls is None else 'https'}://{self.host}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="http-origin", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- a ground (see `pathapi.testing.Ground`) ---------------------------------------------------------------------

    def plant(self, key: str, data: bytes, content_type: str | None = None) -> None:
        with self.lock:
            self.put(canonical(key), data, content_type)

    def remove(self, key: str) -> None:
        with self.lock:
            del self.objects[canonical(key)]

    def content(self, key: str) -> bytes | None:
        with self.lock:
            found = self.objects.get(canonical(key))
            return None if found is None else found.data

    def settle(self) -> None:
        """Time goes on for this server, so that what was planted is old."""
        self.offset += 3.0

    # --- what tests look at -------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes, content_type: str | None) -> _Object:
        made = self.objects[key] = _Object(data, self.now(), f"v{next(self._numbers)}-{len(data):x}", content_type)
        return made

    def now(self) -> float:
        return time.time() + self.offset

    def count(self, method: str | None = None, key: str | None = None) -> int:
        with self.lock:
            return sum(method in (None, one.method) and key in (None, one.key) for one in self.seen)

    def kinds(self) -> dict[str, int]:
        """Requests by method since the last look; a GET of a page is a ``LIST``."""
        counts: dict[str, int] = {}
        with self.lock:
            for one in self.seen:
                kind = "LIST" if one.method == "GET" and one.target.partition("?")[0].endswith("/") else one.method
                counts[kind] = counts.get(kind, 0) + 1
            self.seen.clear()
        return counts

    def script(self, status: int, **options: Any) -> None:
        """See `Script`."""
        with self.lock:
            made = Script(status, **options)
            self.scripts.append([made, made.times])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    origin: HttpOrigin
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def parse_request(self) -> bool:
        """As the proxy of any host, too: then the request names the whole URL, and its path counts."""
        is_good = super().parse_request()
        self.target = self.path
        if is_good and self.path.startswith("http://"):
            self.path = "/" + self.path.split("/", 3)[3]
        return is_good

    def do_GET(self) -> None:
        habits, origin = self.origin.habits, self.origin
        if self._answered_otherwise():
            return
        key = canonical(self.path[1:])
        with origin.lock:
            found = origin.objects.get(key)
            below = (
                sorted({name[len(key) :] for name in origin.objects if name.startswith(key)})
                if key[-1:] in ("", "/")
                else []
            )
            is_folder = found is None and any(name.startswith(key + "/") for name in origin.objects)
        if found is not None:
            self._send_object(found)
        elif key[-1:] in ("", "/") and (below or not key):
            names = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below if name})
            kind, text = (habits.page or _index)("/" + key, names)
            self._send(200, {"Content-Type": kind}, text.encode())
        elif is_folder:
            self._send(301, {"Location": f"/{key}/"})
        else:
            self._send(404, {"Content-Type": "text/plain"}, b"nothing here")

    do_HEAD = do_GET  # noqa: N815 (as above)

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if len(data) < length:
            self.close_connection = True
            return
        if self._answered_otherwise():
            return
        key, origin = canonical(self.path[1:]), self.origin
        with origin.lock:
            status = self._refused(origin.objects.get(key))
            if status:
                self._send(status)
                return
            is_new = key not in origin.objects
            made = origin.put(key, data, self.headers.get("Content-Type"))
        self._send(
            201 if is_new else origin.habits.replaced, self._validators(made) if origin.habits.says_written_etag else {}
        )

    do_POST = do_PUT  # noqa: N815 (as above)

    def do_DELETE(self) -> None:
        if self._answered_otherwise():
            return
        key, origin = canonical(self.path[1:]), self.origin
        with origin.lock:
            found = origin.objects.get(key)
            status = self._refused(found) or (404 if found is None else 204)
            if status == 204:
                del origin.objects[key]
        self._send(status)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _answered_otherwise(self) -> bool:
        origin = self.origin
        key = self.path[1:]
        with origin.lock:
            for entry in origin.scripts:
                script, left = entry
                if left == 0 or script.method not in (None, self.command) or script.key not in (None, key):
                    continue
                entry[1] = None if left is None else left - 1
                self._send(script.status, script.headers, script.body)
                return True
        if origin.habits.user is not None:
            wanted = "Basic " + base64.b64encode(":".join(origin.habits.user).encode()).decode()
            if self.headers.get("Authorization") != wanted:
                self._send(401, {"WWW-Authenticate": 'Basic realm="bench"'})
                return True
        if self.command not in origin.habits.methods:
            self._send(405, {"Allow": ", ".join(sorted(origin.habits.methods))})
            return True
        if key.partition("?")[0] in origin.redirects:
            status, place = origin.redirects[key.partition("?")[0]]
            self._send(status, {"Location": place})
            return True
        return False

    def _validators(self, found: _Object) -> dict[str, str]:
        habits, headers = self.origin.habits, {}
        if habits.etags is not None:
            headers["ETag"] = f'{"W/" if habits.etags == "weak" else ""}"{found.etag}"'
        if habits.modified:
            headers["Last-Modified"] = formatdate(int(found.modified), usegmt=True)
        return headers

    def _refused(self, found: _Object | None) -> int:
        """412 where a condition on the state does not hold, else 0."""
        if not self.origin.habits.conditions:
            return 0
        wanted, forbidden = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        tag = None if found is None else self._validators(found).get("ETag")
        if wanted is not None and (tag is None or tag.startswith("W/") or tag != wanted):
            return 412
        since = self.headers.get("If-Unmodified-Since")
        if wanted is None and since and (found is None or int(found.modified) > _seconds(since)):
            return 412
        return 412 if forbidden == "*" and found is not None else 0

    def _is_unchanged(self, found: _Object) -> bool:
        if not self.origin.habits.conditions:
            return False
        tag, known = self._validators(found).get("ETag"), self.headers.get("If-None-Match")
        if known is not None:
            return tag is not None and tag.removeprefix("W/") == known.removeprefix("W/")
        since = self.headers.get("If-Modified-Since")
        return since is not None and int(found.modified) <= _seconds(since)

    def _send_object(self, found: _Object) -> None:
        habits = self.origin.habits
        headers = self._validators(found)
        if self._refused(found):
            self._send(412)
            return
        if self._is_unchanged(found):
            if not habits.modified_in_304:
                headers.pop("Last-Modified", None)
            self._send(304, headers)
            return
        headers["Content-Type"] = found.content_type or "application/octet-stream"
        data, status = found.data, 200
        if habits.encoding is not None:
            data = gzip.compress(data, mtime=0)
            headers["Content-Encoding"] = habits.encoding
        asked = self.headers.get("Range")
        if habits.ranges and asked and self.command == "GET":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
            if start >= len(data):
                self._send(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            told = f"bytes {start}-{stop - 1}/{len(data)}"
            headers["Content-Range"] = habits.content_range(told) if habits.content_range else told
            data, status = data[start:stop], 206
        self._send(status, headers, data, length=habits.length)

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, length: str = "stated"
    ) -> None:
        with self.origin.lock:
            self.origin.seen.append(Seen(self.command, self.target, dict(self.headers.items()), status))
        self.send_response_only(status)
        if self.origin.habits.dates:
            self.send_header("Date", formatdate(self.origin.now(), usegmt=True))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status == 304:
            self.end_headers()
            return
        if length == "stated":
            self.send_header("Content-Length", str(len(body)))
        elif length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        if length == "chunked":
            for start in range(0, len(body), 1 << 16):
                piece = body[start : start + (1 << 16)]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's own name)
        """Nothing."""


def _seconds(text: str) -> int:
    return int(parsedate_to_datetime(text).timestamp())


def _index(path: str, names: list[str]) -> tuple[str, str]:
    """A page as Apache makes it: orders of the same page, the parent, and what is there."""
    links = ['<a href="?C=N;O=D">Name</a>', '<a href="../">Parent Directory</a>']
    # A name with a colon would be read as a scheme.
    links += [f'<a href="{escape("./" + name if ":" in name else name)}">{escape(unquote(name))}</a>' for name in names]
    return "text/html;charset=utf-8", f"<html><body><h1>Index of {path}</h1>{'<br>'.join(links)}</body></html>"


@contextlib.contextmanager
def http_process() -> Iterator[str]:
    """The URL of a server without objects, to which they are PUT; see `own_process`."""
    with own_process("tests.harness.http_server") as url:
        yield url


if __name__ == "__main__":
    with HttpOrigin() as origin:
        serve(origin.url, int(sys.argv[2]))
