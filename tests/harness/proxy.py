"""A reverse HTTP proxy in front of a server under test: counts what goes over the wire, and breaks it to a script.

In this process, with faults::

    with Proxy(server.endpoint) as proxy:
        client = server.client(proxy.endpoint)
        proxy.add(Fault(Truncate(after=1000), kind="GET"))
        ...
        assert proxy.count("GET") == 2

In a process of its own, to count under load (``proxy_process`` or ``python -m tests.harness.proxy --upstream URL``),
where ``GET /__counts__`` and ``GET /__records__`` answer JSON, and ``POST /__reset__`` forgets.

Heads pass through as they came, Host included: SigV4 signs the host that the client spoke to, and SeaweedFS and moto
take the Host header's word for it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import threading
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tests.harness.faults import Cut, Fault, Script
from tests.harness.gcs_conditions import GCSRules
from tests.harness.http_messages import Head, ProtocolError, Wire, request_framing
from tests.harness.proxy_connection import Connection
from tests.harness.request_log import Counts, Record
from tests.harness.subprocess_server import own_process, serve

__all__ = ["Counts", "Fault", "Proxy", "Record", "RemoteProxy", "proxy_process"]

_living: weakref.WeakSet[Proxy] = weakref.WeakSet()


class Proxy:
    """Listens from construction to `close`. Thread-safe.

    Each client connection has a thread and an upstream connection of its own: 4,000 GETs of 4 KiB a second over 8
    connections, where SeaweedFS alone gives 4,300 (two cores shared by load, proxy and server).
    """

    def __init__(self, upstream: str, *, port: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._script = Script()
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._accepted = 0
        self._stop = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        _living.add(self)
        threading.Thread(target=self._accept, name="proxy-accept", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and cut every connection; stalls end at once."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # --- what tests ask -------------------------------------------------------------------------------------------

    def add(self, fault: Fault) -> None:
        """Do this wrong from now on; several faults that are due for one request apply in the order they were added."""
        self._script.add(fault)

    def clear_faults(self) -> None:
        self._script.clear()

    def reset(self) -> None:
        """Forget the requests so far; faults stay, and so do their counts."""
        with self._lock:
            self._records.clear()

    @property
    def records(self) -> list[Record]:
        """Every request so far, in the order in which their heads came in; unfinished ones as far as they are."""
        with self._lock:
            return [dataclasses.replace(record) for record in self._records]

    @property
    def counts(self) -> Counts:
        return Counts.of(self.records)

    def count(self, kind: str | None = None, *, key: str | None = None, status: int | None = None) -> int:
        """How many requests agree with each of these that is given; *kind* as `Record` defines it."""
        return sum(
            (kind is None or record.kind == kind)
            and (key is None or record.key == key)
            and (status is None or record.status == status)
            for record in self.records
        )

    @property
    def connections(self) -> int:
        """How many connections were made so far, by clients."""
        return self._accepted

    @property
    def body_bytes(self) -> int:
        """Bytes of object bodies sent to clients: `Counts.body_bytes`."""
        return self.counts.body_bytes

    # --- the wire -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._accepted += 1
            self._sockets.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name="proxy", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(Wire(sock), self._upstream, self._sockets, self._stop)
        try:
            while (request := connection.client.read_head()) is not None and not self._stop.is_set():
                if request.start[1].startswith("/__"):
                    self._control(connection.client, request)
                    continue
                record = Record.of(request)
                with self._lock:
                    self._records.append(record)
                if not connection.exchange(request, record, self._script.due(record)):
                    break
        except Cut as cut:
            if cut.reset:
                connection.client.reset()
        except (OSError, ProtocolError):
            # One side went away or spoke no HTTP; the other learns it from the close below.
            pass
        finally:
            connection.close()
            self._sockets.discard(sock)

    def _control(self, client: Wire, request: Head) -> None:
        answers: dict[str, Callable[[], object]] = {
            "/__counts__": lambda: dataclasses.asdict(self.counts),
            "/__records__": lambda: [dataclasses.asdict(record) for record in self.records],
            "/__reset__": self.reset,
        }
        for _ in client.body(request_framing(request)):
            pass
        known = answers.get(request.start[1])
        body = json.dumps(known() if known else None).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        client.sock.sendall(Head(("HTTP/1.1", "200" if known else "404", "-"), headers).encode() + body)

    def _close_in_forked_child(self) -> None:
        # A copy of a socket in a child would keep a connection open that the proxy means to cut. The child has none of
        # the proxy's threads; it closes its copies (without shutdown, which would end the parent's).
        for sock in [self._listener, *self._sockets]:
            sock.close()


def _close_all_in_forked_child() -> None:
    for proxy in list(_living):
        proxy._close_in_forked_child()


os.register_at_fork(after_in_child=_close_all_in_forked_child)


@dataclass(frozen=True, slots=True)
class RemoteProxy:
    """A proxy in a process of its own, seen from the process that started it."""

    endpoint: str

    @property
    def counts(self) -> Counts:
        return Counts(**self._ask("/__counts__"))

    @property
    def records(self) -> list[Record]:
        return [Record(**record) for record in self._ask("/__records__")]

    def reset(self) -> None:
        """Forget the requests so far."""
        self._ask("/__reset__")

    def _ask(self, path: str) -> Any:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.endpoint + path) as answer:
            return json.load(answer)


@contextlib.contextmanager
def proxy_process(upstream: str, *, gcs_rules: bool = False) -> Iterator[RemoteProxy]:
    """A proxy in a process of its own; *gcs_rules* adds those of `tests.harness.gcs_conditions`."""
    arguments = ["--upstream", upstream, *(["--gcs-rules"] if gcs_rules else [])]
    with own_process("tests.harness.proxy", *arguments) as endpoint:
        yield RemoteProxy(endpoint)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.proxy", description="A counting reverse HTTP proxy.")
    parser.add_argument("--upstream", required=True, metavar="URL", help="the server behind")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; a free one unless given")
    parser.add_argument("--gcs-rules", action="store_true", help="answer conditions as Google does")
    parser.add_argument("--owner", type=int, metavar="PID", help="end when this is no longer the parent process")
    options = parser.parse_args()
    with Proxy(options.upstream, port=options.port) as proxy:
        if options.gcs_rules:
            proxy.add(Fault(GCSRules(options.upstream), times=None))
        serve(proxy.endpoint, options.owner)


if __name__ == "__main__":
    _main()
