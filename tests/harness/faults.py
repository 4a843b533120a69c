"""What a proxy can be told to do wrong: `Fault` says when, an `Action` says what.

::

    proxy.add(Fault(Truncate(after=1000), kind="GET", key="big.bin"))          # the first GET of big.bin
    proxy.add(Fault(Answer(503, "SlowDown"), kind="GET", times=2))              # the first two GETs of anything
    proxy.add(Fault(Call(replace_object), kind="GET", nth=3))                   # before the third GET is forwarded
    proxy.add(Fault(Reset(after=None), kind="PUT"))                             # done by the server, answer lost
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.harness.http_messages import Head
from tests.harness.request_log import Record


class Cut(Exception):  # noqa: N818 - control flow between an action and the proxy, not an error
    """End the client's connection here: *reset* with RST, else with FIN."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Action:
    """Hooks in the order of an exchange; each does nothing unless an action overrides it."""

    def before(self, request: Head) -> None:
        """Before the request is forwarded, or answered by `answer`."""

    def answer(self, request: Head) -> tuple[Head, bytes] | None:
        """An answer of the proxy's own; the server then never sees the request."""

    def respond(self, response: Head, stop: threading.Event) -> None:
        """Before the response's head is sent. *stop* is set when the proxy closes: whoever waits, waits on it."""

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        """The body to send in place of *chunks*; may raise `Cut`."""
        return chunks


def _split(chunks: Iterator[bytes], at: int) -> tuple[Iterator[bytes], Iterator[bytes]]:
    """The first *at* bytes and the rest; the first half must be used up before the second is begun."""
    rest = b""

    def head() -> Iterator[bytes]:
        nonlocal rest
        left = at
        while left > 0:
            chunk = next(chunks, None)
            if chunk is None:
                return
            rest = chunk[left:]
            yield chunk[:left]
            left -= len(chunk)

    def tail() -> Iterator[bytes]:
        if rest:
            yield rest
        yield from chunks

    return head(), tail()


@dataclass(frozen=True, slots=True)
class Reset(Action):
    """RST after *after* bytes of the body; with None, after the server has answered and before a byte of it is sent."""

    after: int | None = 0

    def respond(self, response: Head, stop: threading.Event) -> None:
        if self.after is None:
            raise Cut(reset=True)

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        head, _ = _split(chunks, self.after or 0)
        yield from head
        raise Cut(reset=True)


@dataclass(frozen=True, slots=True)
class Truncate(Action):
    """A clean close after *after* bytes, though the head announced them all."""

    after: int

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        head, _ = _split(chunks, self.after)
        yield from head
        raise Cut(reset=False)


@dataclass(frozen=True, slots=True)
class Stall(Action):
    """Silence for *seconds* after *after* bytes of the body; with None, before the response's head."""

    seconds: float
    after: int | None = 0

    def _pause(self, stop: threading.Event) -> None:
        if stop.wait(self.seconds):
            raise Cut(reset=False)

    def respond(self, response: Head, stop: threading.Event) -> None:
        if self.after is None:
            self._pause(stop)

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        head, tail = _split(chunks, self.after or 0)
        yield from head
        if self.after is not None:
            self._pause(stop)
        yield from tail


@dataclass(frozen=True, slots=True)
class Surplus(Action):
    """*count* bytes more than the object (or range) has.

    They follow the body that Content-Length announces, and are then what the next response on this connection starts
    with; with *chunked* there is no Content-Length, and they are part of the body.
    """

    count: int
    chunked: bool = False

    def respond(self, response: Head, stop: threading.Event) -> None:
        if self.chunked:
            response.set("Content-Length", None)
            response.set("Transfer-Encoding", "chunked")

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        yield from chunks
        yield b"!" * self.count


@dataclass(frozen=True, slots=True)
class Understate(Action):
    """A Content-Length that is *by* bytes too small in front of the whole body, and then a close."""

    by: int

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set("Content-Length", str(int(response.get("content-length") or 0) - self.by))

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        yield from chunks
        raise Cut(reset=False)


@dataclass(frozen=True, slots=True)
class FlipByte(Action):
    """One byte of the body, the one *at*, with all its bits inverted; the length stays."""

    at: int = 0

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        head, tail = _split(chunks, self.at)
        yield from head
        for chunk in tail:
            yield bytes([chunk[0] ^ 0xFF]) + chunk[1:]
            break
        yield from tail


@dataclass(frozen=True, slots=True)
class SetHeader(Action):
    """Another value for a header of the response (a wrong checksum, an older mtime); with None, no such header."""

    name: str
    value: str | None

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set(self.name, self.value)


@dataclass(frozen=True, slots=True)
class DropRequestHeader(Action):
    """The server does not see this header: it then ignores a condition or a Range, as some servers do."""

    name: str

    def before(self, request: Head) -> None:
        request.set(self.name, None)


@dataclass(frozen=True, slots=True)
class Answer(Action):
    """An S3 error in place of the server's answer, for instance ``Answer(503, "SlowDown")``."""

    status: int
    code: str = "InternalError"
    headers: tuple[tuple[str, str], ...] = ()

    def answer(self, request: Head) -> tuple[Head, bytes]:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{self.code}</Code>'
            f"<Message>{self.code}, said the proxy.</Message><RequestId>proxy</RequestId></Error>"
        ).encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), *self.headers]
        return Head(("HTTP/1.1", str(self.status), self.code), headers), body


@dataclass(frozen=True, slots=True)
class Call(Action):
    """Run *function* before the request is forwarded, for instance to replace the object between two ranges."""

    function: Callable[[], object]

    def before(self, request: Head) -> None:
        self.function()


@dataclass(frozen=True, slots=True)
class Fault:
    """Carry out *action* on the *nth* matching request (from 1) and on *times* in all; None means ever after.

    A request matches if it agrees with each of *kind*, *key* (the object's whole key) and *match* that is given.
    """

    action: Action
    kind: str | None = None
    key: str | None = None
    match: Callable[[Record], bool] | None = None
    nth: int = 1
    times: int | None = 1

    def matches(self, record: Record) -> bool:
        return (
            (self.kind is None or record.kind == self.kind)
            and (self.key is None or record.key == self.key)
            and (self.match is None or self.match(record))
        )


class Script:
    """The faults of one proxy and how often each has matched. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, list[int]]] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append((fault, [0]))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def due(self, record: Record) -> list[Action]:
        """The actions for this request, in the order of their faults; counts it as seen by each that matches."""
        if not self._faults:
            return []
        actions = []
        with self._lock:
            for fault, seen in self._faults:
                if fault.matches(record):
                    seen[0] += 1
                    if seen[0] >= fault.nth and (fault.times is None or seen[0] < fault.nth + fault.times):
                        actions.append(fault.action)
        return actions
