"""Requests to HTTP servers: what is sent again, and what a header may be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from pathapi.backends.http.backend import HttpBackend, HttpConnection
from pathapi.exceptions import CloudUnavailableError, InvalidConfigurationException


class _Hanging:
    """A server that reads a request, and closes the connection without an answer."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    self.requests.append(connection.recv(65_536).split(b" ")[0])
        except OSError:
            return  # closed

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server() -> Iterator[_Hanging]:
    server = _Hanging()
    yield server
    server.close()


@pytest.mark.parametrize(("method", "count"), [("GET", 3), ("POST", 1)])
def test_a_request_without_an_answer_is_sent_again_unless_it_may_not_be(
    server: _Hanging, method: str, count: int
) -> None:
    backend = HttpBackend(HttpConnection(tries=3, backoff=0.0), "http", server.host)
    with pytest.raises(CloudUnavailableError):
        backend.request(method, "k", {}, b"x" if method == "POST" else None)
    assert server.requests == [method.encode()] * count


@pytest.mark.parametrize("text", ["a\r\nX-Other: b", "a\nb", "a\0b"])
def test_a_header_of_several_lines_is_refused_and_not_shown(text: str) -> None:
    for headers in ({"X-Token": text}, {text: "token"}):
        with pytest.raises(InvalidConfigurationException, match="in one line") as caught:
            HttpConnection(headers=headers)
        assert "Other" not in str(caught.value)
