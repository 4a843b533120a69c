"""One client connection of the proxy: requests go through to the server and answers come back, actions in between."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

from tests.harness.faults import Action, Answer
from tests.harness.http_messages import Head, ProtocolError, Wire, framed, is_chunked, request_framing, response_framing
from tests.harness.request_log import Record


class Connection:
    """A client's connection and the upstream connection that serves it. *sockets* is where the proxy keeps count."""

    def __init__(
        self, client: Wire, upstream: tuple[str, int], sockets: set[socket.socket], stop: threading.Event
    ) -> None:
        self.client = client
        self._address = upstream
        self._sockets = sockets
        self._stop = stop
        self._upstream: Wire | None = None

    def close(self) -> None:
        self.client.close()
        self._drop_upstream()

    def exchange(self, request: Head, record: Record, actions: list[Action]) -> bool:
        """Carry one request through; False means that the client's connection is at its end.

        Raises Cut where an action says so, ProtocolError and OSError where one side fails.
        """
        keep = (request.get("connection") or "").lower() != "close"
        for action in actions:
            action.before(request)
        for action in actions:
            answer = action.answer(request)
            if answer is not None:
                return self._answer(request, record, *answer) and keep
        try:
            upstream = self._connect()
        except OSError:
            answer = Answer(502, "BadGateway").answer(request)
            return self._answer(request, record, *answer) and keep
        upstream.sock.sendall(request.encode())
        response = self._forward_body(request, record, upstream)
        if response is not None:
            # A final answer came before the body was asked for: what the client sends next cannot be told apart.
            keep = False
        while response is None or response.status < 200:
            response = upstream.read_head()
            if response is None:
                raise ProtocolError("the server closed without an answer")
        self._respond(request, record, response, upstream, actions, keep=keep)
        return keep

    def _connect(self) -> Wire:
        if self._upstream is not None and self._upstream.is_stale():
            self._drop_upstream()
        if self._upstream is None:
            self._upstream = Wire(socket.create_connection(self._address, timeout=None))
            self._sockets.add(self._upstream.sock)
        return self._upstream

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._sockets.discard(self._upstream.sock)
            self._upstream.close()
            self._upstream = None

    def _forward_body(self, request: Head, record: Record, upstream: Wire) -> Head | None:
        """Send the request's body on; the server's answer only where it refused before it asked for the body."""
        framing = request_framing(request)
        if framing.length == 0:
            return None
        if _awaits_permission(request):
            interim = upstream.read_head()
            if interim is None:
                raise ProtocolError("the server closed without an answer")
            if interim.status >= 200:
                return interim
            self.client.sock.sendall(interim.encode())
        listening = True
        for chunk in self.client.body(framing):
            record.sent_bytes += len(chunk)
            try:
                if listening:
                    upstream.sock.sendall(framed(chunk) if framing.chunked else chunk)
            except OSError:
                listening = False  # The server has answered already; its answer waits to be read.
        if framing.chunked and listening:
            upstream.sock.sendall(b"0\r\n\r\n")
        return None

    def _answer(self, request: Head, record: Record, response: Head, body: bytes) -> bool:
        """Answer in the server's place; False where the client may or may not send a body now."""
        waits = _awaits_permission(request)
        if waits:
            response.set("Connection", "close")
        else:
            for chunk in self.client.body(request_framing(request)):
                record.sent_bytes += len(chunk)
        record.status = response.status
        if request.start[0] == "HEAD":
            body = b""
        record.body_bytes = len(body)
        self.client.sock.sendall(response.encode() + body)
        return not waits

    def _respond(
        self,
        request: Head,
        record: Record,
        response: Head,
        upstream: Wire,
        actions: list[Action],
        *,
        keep: bool,
    ) -> None:
        framing = response_framing(response, request.start[0])
        upstream_ends = framing.until_close or (response.get("connection") or "").lower() == "close"
        response.start = ("HTTP/1.1", response.start[1], response.start[2])
        response.set("Connection", None if keep else "close")
        if framing.until_close:
            response.set("Transfer-Encoding", "chunked")
        chunks = upstream.body(framing)
        for action in actions:
            action.respond(response, self._stop)
            chunks = action.body(chunks, self._stop)
        record.status = response.status
        self._send(response, chunks, record, coalesce=not actions)
        if upstream_ends:
            self._drop_upstream()

    def _send(self, response: Head, chunks: Iterator[bytes], record: Record, *, coalesce: bool) -> None:
        chunked = is_chunked(response)
        head = response.encode()
        if not coalesce:
            # A stall at byte 0 comes between the head and the body.
            self.client.sock.sendall(head)
            head = b""
        for chunk in chunks:
            # Counted before it is sent: whoever has received the last byte finds it counted.
            record.body_bytes += len(chunk)
            self.client.sock.sendall(head + (framed(chunk) if chunked else chunk))
            head = b""
        tail = head + (b"0\r\n\r\n" if chunked else b"")
        if tail:
            self.client.sock.sendall(tail)


def _awaits_permission(request: Head) -> bool:
    return (request.get("expect") or "").lower() == "100-continue"
