"""Index pages as listings."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from pathapi.backend import Prefix
from pathapi.backends.http.backend import HttpBackend, HttpConnection
from pathapi.exceptions import CloudPathNotImplementedError, TruncatedBodyError
from pathapi.testing import keys
from tests.harness.faults import Fault, Reset, Truncate
from tests.harness.http_server import HttpOrigin
from tests.harness.proxy import Proxy


@pytest.fixture
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


@pytest.fixture
def backend(server: HttpOrigin) -> HttpBackend:
    return HttpBackend(HttpConnection(), "http", server.host)


def test_a_page_lists_what_is_below_it_and_nothing_else(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("d/x", b"")
    links = [
        '<A HREF = "a.txt">', "<a class='x' href='b%20c.txt'>", '<a href="./e?v=1&amp;w=2">', '<a href="f#part">',
        '<a href="?C=M;O=A">', '<a href="../">', '<a href="/">', '<a href="/other/x">', '<a href="http://elsewhere/d/y">',
        f'<a href="{server.url}/d/absolute">', '<a href="/d/rooted">', '<a href="">', '<a href="#top">', "<a>",
        '<a href="mailto:me@host">', '<a href="sub/">', '<a href="deep/er/z">', '<a href="a.txt">', '<a href="//">',
        "<a href=unquoted>", '<!-- <a href="comment"> -->',
    ]  # fmt: skip
    server.habits.page = lambda path, names: ("text/html; charset=latin-1", "é".join(links))
    found = ["a.txt", "absolute", "b%20c.txt", "deep/", "e?v=1&w=2", "f", "rooted", "sub/", "unquoted"]
    assert keys(backend, "d/", delimited=True) == [f"d/{name}" for name in found]
    assert keys(backend, "d/a", delimited=True) == ["d/a.txt", "d/absolute"]
    assert keys(backend, "d/", delimited=True, limit=2) == ["d/a.txt", "d/absolute"]


@pytest.mark.parametrize(
    "link",
    ["%2e%2e/thesis", ".%2E/thesis", "..%2fthesis", "sub/%2e%2e/%2e%2e/thesis", "sub%2f..%2f..%2fthesis", "..%5cx"],
)
def test_an_escaped_link_to_a_parent_is_not_below(server: HttpOrigin, backend: HttpBackend, link: str) -> None:
    server.plant("d/a..b", b"")
    server.habits.page = lambda path, names: ("text/html", f'<a href="a..b"></a><a href="{link}"></a>')
    assert keys(backend, "d/") == keys(backend, "d/", delimited=True) == ["d/a..b"]


def test_a_base_and_a_redirect_are_gone_by(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("real/a", b"")
    server.plant("real/b/c", b"")
    server.redirects["alias/"] = (302, "/real/")
    assert keys(backend, "alias/", delimited=True) == ["alias/a", "alias/b/"]
    server.habits.page = lambda path, names: ("text/html", '<base href="/real/b/"><a href="c">c</a>')
    assert keys(backend, "real/b/") == ["real/b/c"]


@pytest.mark.parametrize("charset", ["no-such", "idna", "undefined", "zlib_codec"])
def test_a_charset_that_decodes_no_page_is_ignored(server: HttpOrigin, backend: HttpBackend, charset: str) -> None:
    server.plant("d/a", b"")
    server.habits.page = lambda path, names: (f"text/html; charset={charset}", '<a href="a">a</a>')
    assert keys(backend, "d/") == ["d/a"]


def test_every_directory_is_one_request_in_the_order_of_keys(server: HttpOrigin, backend: HttpBackend) -> None:
    for name in ("a-b", "a.txt", "a/x", "a/y/z", "a0", "b"):
        server.plant(f"d/{name}", b"")
    assert keys(backend, "d/") == [f"d/{name}" for name in ("a-b", "a.txt", "a/x", "a/y/z", "a0", "b")]
    assert server.kinds() == {"LIST": 3}
    assert keys(backend, "d/", delimited=True) == [f"d/{name}" for name in ("a-b", "a.txt", "a/", "a0", "b")]
    assert keys(backend, "d/", limit=1) == ["d/a-b"]
    assert server.kinds() == {"LIST": 2}
    assert keys(backend, "") == [f"d/{name}" for name in ("a-b", "a.txt", "a/x", "a/y/z", "a0", "b")]


def test_a_page_that_is_none_of_links_says_so(server: HttpOrigin, backend: HttpBackend) -> None:
    server.plant("d/a", b"")
    server.habits.page = lambda path, names: ("application/json", '["a"]')
    with pytest.raises(CloudPathNotImplementedError, match="custom_list_page_parser"):
        keys(backend, "d/")
    assert keys(backend, "nothing/") == []


def test_a_parser_and_a_matcher_of_ones_own_decide(server: HttpOrigin) -> None:
    import json

    server.plant("d/a.txt", b"")
    server.plant("d/sub/b.txt", b"")
    server.habits.page = lambda path, names: ("application/json", json.dumps([name.rstrip("/") for name in names]))
    own = HttpConnection(
        custom_list_page_parser=json.loads, custom_dir_matcher=lambda url: "." not in url.rpartition("/")[2]
    )
    backend = HttpBackend(own, "http", server.host)
    assert list(backend.list("d/", delimited=True))[1:] == [Prefix("d/sub/")]
    assert keys(backend, "d/") == ["d/a.txt", "d/sub/b.txt"]


def test_links_without_end_are_an_error(server: HttpOrigin, backend: HttpBackend) -> None:
    server.habits.page = lambda path, names: ("text/html", '<a href="again/">again</a>')
    for depth in range(70):
        server.plant("again/" * depth + "x", b"")
    with pytest.raises(CloudPathNotImplementedError, match="no end"):
        keys(backend, "")
    assert len(server.seen) < 70


def test_names_in_other_scripts_are_listed_as_the_page_writes_them(server: HttpOrigin, backend: HttpBackend) -> None:
    for name in ("aä", "日本", "a b", "50%25", "x:y"):
        server.plant(f"d/{name}", b"")
    assert keys(backend, "d/") == ["d/%E6%97%A5%E6%9C%AC", "d/50%25", "d/a%20b", "d/a%C3%A4", "d/x:y"]
    for key in keys(backend, "d/"):
        assert backend.head(key).size == 0


@pytest.mark.parametrize("action", [Truncate(after=0), Truncate(after=1_000), Reset(after=1_000)], ids=repr)
def test_a_page_that_is_cut_off_is_an_error_and_no_shorter_listing(server: HttpOrigin, action: Any) -> None:
    for number in range(200):
        server.plant(f"d/{number:03}", b"")
    with Proxy(server.url) as proxy:
        backend = HttpBackend(HttpConnection(), "http", proxy.endpoint.removeprefix("http://"))
        proxy.add(Fault(action))
        with pytest.raises(TruncatedBodyError, match="/d/"):
            keys(backend, "d/")
        assert len(keys(backend, "d/")) == 200
        backend.connection.close()


PAGE = "".join(f'<a href="{number:03}">' for number in range(200)).encode()


@pytest.mark.parametrize(("name", "data"), [("gzip", gzip.compress(PAGE)), ("deflate", zlib.compress(PAGE))])
def test_a_page_that_is_encoded_all_the_same_lists(
    server: HttpOrigin, backend: HttpBackend, name: str, data: bytes
) -> None:
    server.script(200, headers={"Content-Type": "text/html", "Content-Encoding": name}, body=data)
    assert keys(backend, "d/") == [f"d/{number:03}" for number in range(200)]


@pytest.mark.parametrize(("name", "data"), [("gzip", PAGE), ("gzip, x-unknown", PAGE)])
def test_a_page_that_cannot_be_decoded_is_an_error_and_no_empty_listing(
    server: HttpOrigin, backend: HttpBackend, name: str, data: bytes
) -> None:
    server.script(200, headers={"Content-Type": "text/html", "Content-Encoding": name}, body=data)
    with pytest.raises(CloudPathNotImplementedError, match=r"/d/: .*encod"):
        keys(backend, "d/")
