"""As much of HTTP/1.1 as a proxy needs that must be able to break it: heads, framed bodies and buffered sockets.

`http.client` and `http.server` are of no use here: they refuse to send or to pass on what a broken server sends.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_CHUNK: Final = 256 * 1024
_MAX_HEAD: Final = 128 * 1024


class ProtocolError(Exception):
    """The peer sent no HTTP, or stopped in the middle of a message."""


@dataclass(slots=True)
class Head:
    """A start line and headers, in order, names in the sender's case; `get` and `set` ignore case."""

    start: tuple[str, str, str]
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Raises ProtocolError."""
        first, *lines = raw.decode("latin-1").split("\r\n")
        start = first.split(" ", 2)
        if len(start) == 2:
            start.append("")
        if len(start) != 3:
            raise ProtocolError(f"no HTTP start line: {first[:80]!r}")
        headers = []
        for line in lines:
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        return cls((start[0], start[1], start[2]), headers)

    def get(self, name: str) -> str | None:
        """The first value of *name*, which is lower case."""
        for known, value in self.headers:
            if known.lower() == name:
                return value
        return None

    def set(self, name: str, value: str | None) -> None:
        """Replace every *name* by one, or by none."""
        self.headers = [(known, old) for known, old in self.headers if known.lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def encode(self) -> bytes:
        lines = [" ".join(self.start), *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def status(self) -> int:
        """Of a response. Raises ProtocolError for anything else."""
        if not self.start[1].isdigit():
            raise ProtocolError(f"no HTTP status: {self.start[1][:80]!r}")
        return int(self.start[1])


@dataclass(frozen=True, slots=True)
class Framing:
    """How a body's end is told: by *length*, by chunks, or (neither) by the end of the connection."""

    length: int | None
    chunked: bool = False

    @property
    def until_close(self) -> bool:
        return self.length is None and not self.chunked


class Wire:
    """One side of the proxy: a connected socket and what was received from it but not yet asked for."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._rest = b""

    def read_head(self) -> Head | None:
        """The next message's head; None where the peer closed between two messages. Raises ProtocolError, OSError."""
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            if len(self._rest) > _MAX_HEAD:
                raise ProtocolError("the head has no end")
            more = self.sock.recv(65536)
            if not more:
                if self._rest:
                    raise ProtocolError("the connection closed inside a head")
                return None
            self._rest += more
        raw, self._rest = self._rest[:end], self._rest[end + 4 :]
        return Head.parse(raw)

    def read_some(self, limit: int) -> bytes:
        """At least one byte and at most *limit*; nothing at the connection's end."""
        if self._rest:
            some, self._rest = self._rest[:limit], self._rest[limit:]
            return some
        return self.sock.recv(min(limit, _CHUNK))

    def read_line(self) -> bytes:
        while (end := self._rest.find(b"\r\n")) < 0:
            more = self.sock.recv(65536)
            if not more or len(self._rest) > _MAX_HEAD:
                raise ProtocolError("the connection closed inside a chunk's line")
            self._rest += more
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        return line

    def is_stale(self) -> bool:
        """Whether the peer closed, or sent what nobody asked for, while the connection was idle."""
        if self._rest:
            return True
        try:
            self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def body(self, framing: Framing) -> Iterator[bytes]:
        """The message's body without its framing. Raises ProtocolError where it ends early."""
        if framing.chunked:
            while size := int(self.read_line().partition(b";")[0], 16):
                yield from self.body(Framing(size))
                self.read_line()
            while self.read_line():
                pass  # trailers
            return
        length = framing.length
        while length is None or length > 0:
            some = self.read_some(_CHUNK if length is None else length)
            if not some:
                if length is not None:
                    raise ProtocolError(f"the connection closed {length} bytes before the body's end")
                return
            if length is not None:
                length -= len(some)
            yield some

    def close(self) -> None:
        # Not close() alone: a forked child may hold a copy of the descriptor, and the peer would then see no end.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """Close with RST, as a server that crashed or a firewall that forgot the connection does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


def framed(chunk: bytes) -> bytes:
    """*chunk* as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


def is_chunked(head: Head) -> bool:
    return "chunked" in (head.get("transfer-encoding") or "").lower()


def request_framing(head: Head) -> Framing:
    """A request that says nothing of a body has none."""
    if is_chunked(head):
        return Framing(None, chunked=True)
    return Framing(int(head.get("content-length") or 0))


def response_framing(head: Head, method: str) -> Framing:
    """Whether a response has a body depends on the request's *method* too."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return Framing(0)
    if is_chunked(head):
        return Framing(None, chunked=True)
    length = head.get("content-length")
    return Framing(None if length is None else int(length))
