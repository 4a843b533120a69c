"""Logging in by the handlers of `urllib.request`, and what else they configure."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pathapi.backends.http.backend import HttpBackend, HttpConnection
from pathapi.exceptions import CloudPathPermissionError, CloudUnavailableError
from pathapi.testing import read
from tests.harness.http_server import Habits, HttpOrigin

MARK = "hunter2"


def backend_of(host: str, auth: Any) -> HttpBackend:
    return HttpBackend(HttpConnection(auth=auth, backoff=0.01, tries=3, connect_timeout=2.0), "http", host)


def test_handlers_of_urllib_log_in(server: HttpOrigin) -> None:
    from urllib.request import BaseHandler, HTTPBasicAuthHandler, HTTPPasswordMgrWithDefaultRealm, Request

    server.plant("a", b"a")
    server.habits = Habits(user=("me", MARK))
    passwords = HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, server.url, "me", MARK)
    assert read(backend_of(server.host, HTTPBasicAuthHandler(passwords)), "a") == b"a"
    passwords = HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, server.url, "me", "wrong")
    with pytest.raises(CloudPathPermissionError):
        backend_of(server.host, HTTPBasicAuthHandler(passwords)).read("a")

    class Bearer(BaseHandler):
        def http_request(self, request: Request) -> Request:
            request.add_header("X-Token", "mine")
            return request

    server.habits = Habits()
    assert read(backend_of(server.host, Bearer()), "a") == b"a"
    assert server.seen[-1].headers["X-token"] == "mine", "as urllib writes it"


def test_a_digest_login_answers_the_servers_challenge(server: HttpOrigin) -> None:
    from urllib.request import HTTPDigestAuthHandler, HTTPPasswordMgrWithDefaultRealm

    server.plant("a", b"a")
    challenge = {"WWW-Authenticate": 'Digest realm="bench", nonce="n1", qop="auth", algorithm=MD5'}
    server.script(401, method="GET", headers=challenge)
    passwords = HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, server.url, "me", MARK)
    assert read(backend_of(server.host, HTTPDigestAuthHandler(passwords)), "a") == b"a"
    assert server.seen[-1].headers["Authorization"].startswith('Digest username="me", realm="bench"')


@pytest.mark.parametrize("is_trusted", [True, False])
def test_https_is_read_by_the_context_of_a_handler(certificate: Path, is_trusted: bool) -> None:
    from urllib.request import HTTPSHandler

    tls, context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    tls.load_cert_chain(certificate)
    context.check_hostname = False
    if is_trusted:
        context.load_verify_locations(certificate)
    with HttpOrigin(tls=tls) as server:
        server.plant("a", b"a")
        host = server.host.replace("127.0.0.1", "localhost")  # a name that the certificate lacks
        backend = HttpBackend(HttpConnection(auth=HTTPSHandler(context=context)), "https", host)
        if is_trusted:
            assert read(backend, "a") == b"a"
        else:
            with pytest.raises(CloudUnavailableError, match="ca_certs="):
                backend.read("a")
        backend.connection.close()


@pytest.mark.parametrize("name", ["HTTPHandler", "HTTPSHandler", "HTTPCookieProcessor", "HTTPRedirectHandler"])
def test_every_handler_of_urllib_is_accepted(server: HttpOrigin, name: str) -> None:
    server.plant("a", b"a")
    assert read(backend_of(server.host, getattr(urllib.request, name)()), "a") == b"a"


def test_the_proxies_of_a_handler_are_used(server: HttpOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    server.plant("a", b"a")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = urllib.request.ProxyHandler({"http": server.url})
    assert read(backend_of("elsewhere.invalid", handler), "a") == b"a"
    assert server.seen[-1].target == "http://elsewhere.invalid/a"
