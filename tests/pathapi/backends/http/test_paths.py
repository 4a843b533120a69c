"""`HttpPath` and `HttpClient`: names and arguments as cloudpathlib has them, pickles, and secrets that stay secret."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pathapi
from casstore.cli.main import run
from pathapi import CloudPath, HttpClient, HttpPath, HttpsClient, HttpsPath
from pathapi.exceptions import (
    ClientMismatchError,
    CloudPathException,
    CloudPathNotImplementedError,
    InvalidConfigurationException,
    InvalidPrefixError,
)
from tests.harness.http_server import Habits, HttpOrigin

MARK = "PLANTED0SECRET"


@pytest.fixture
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., HttpClient]]:
    made: list[HttpClient] = []

    def make(**habits: Any) -> HttpClient:
        made.append(HttpClient(**{"local_cache_dir": tmp_path / "store", **habits}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
        client.connection.close()
    gc.collect()


# --- names ----------------------------------------------------------------------------------------------------------

URLS = ["http://h/d/f.csv?q=a/b", "http://h/d/", "http://h/d/e", "http://h:80/a/b#x", "http://h/d/e.tar.gz?x#y"]
ASKED: list[Callable[[Any], Any]] = [
    *(
        (lambda path, name=name: getattr(path, name))
        for name in (
            "anchor",
            "drive",
            "name",
            "stem",
            "suffix",
            "suffixes",
            "parent",
            "parents",
            "parts",
            "parsed_url",
        )
    ),
    lambda path: path / "x",
    lambda path: path / "x/",
    lambda path: path.with_name("z.txt"),
    lambda path: path.with_suffix(".z"),
    lambda path: path.relative_to(type(path)(path.anchor)),
    lambda path: path.match("*.csv"),
    lambda path: path.as_url(),
    lambda path: path.with_segments("a", "b"),
    lambda path: path._no_prefix_no_drive,
]


@pytest.mark.parametrize("url", URLS)
def test_a_path_answers_as_cloudpathlibs_does(url: str, tmp_path: Path) -> None:
    # A client of its own: its default one leaves a temporary directory to the garbage collector, with a warning.
    theirs = pytest.importorskip("cloudpathlib").HttpClient(local_cache_dir=tmp_path).CloudPath(url)
    ours = HttpPath(url)
    for ask in ASKED:
        assert str(ask(ours)) == str(ask(theirs)), inspect.getsource(ask)


def test_a_host_has_no_name_and_is_a_directory() -> None:
    for url in ("http://h", "http://h/"):
        path = HttpPath(url)
        assert (path.name, path.parts, path.anchor, path.key) == ("", ("http://h/",), "http://h/", "")
        assert str(path / "a") == "http://h/a"
        assert [str(up) for up in (path / "a" / "b").parents] == ["http://h/a", "http://h/"]


@pytest.mark.parametrize("segment", ["/b", "//b", "../../../b", "/../b", "http://other/../../../../b", "..//b"])
def test_no_join_leaves_the_host(segment: str) -> None:
    for url in ("http://u:p@h:80/a/c", "http://u:p@h:80/", "http://u:p@h:80"):
        for joined in (HttpPath(url) / segment, HttpPath(url).joinpath("x", segment)):
            assert (joined.drive, joined.anchor) == ("u:p@h:80", "http://h:80/")
        assert str(HttpPath(url) / "/b") == "http://u:p@h:80/b"
        assert HttpPath(url).with_segments("http://other/b").drive == "u:p@h:80"


def test_a_host_is_its_own_parent() -> None:
    host = HttpPath("http://h/")
    assert host.parent == host and (host / "a").parent == host and (host / "a" / "b").parent.parent.parent == host
    assert list(host.parents) == []
    assert HttpPath("http://h").parent == host


def test_a_pattern_that_starts_with_a_slash_covers_what_follows_the_host() -> None:
    path = HttpPath("http://h/a/b")
    assert path.match("/a/b") and path.match("a/*") and path.match("http://h/a/b")
    assert not path.match("/h/a/b") and not path.match("/b")


def test_schemes_give_classes_and_clients_of_one_are_not_for_the_other() -> None:
    assert type(CloudPath("HTTP://h/a")) is HttpPath and type(CloudPath("https://h/a")) is HttpsPath
    client = HttpClient()
    assert client.HttpPath("http://h/a").client is client
    with pytest.raises(ClientMismatchError):
        HttpsPath("https://h/a", client=client)
    with pytest.raises(ClientMismatchError):
        HttpPath("http://h/a", client=HttpsClient())
    assert type(HttpsPath("https://h/a").client) is HttpsClient and type(HttpPath("http://h/a").client) is HttpClient
    with pytest.raises(InvalidPrefixError):
        HttpPath("https://h/a")
    assert isinstance(HttpsClient().HttpsPath("https://h/a"), HttpsPath)
    with pytest.raises(CloudPathNotImplementedError):
        HttpPath("http://h/a").as_url(presign=True)


def test_arguments_are_cloudpathlibs_and_in_its_order() -> None:
    theirs = pytest.importorskip("cloudpathlib").HttpClient
    ours = [*inspect.signature(HttpClient).parameters]
    wanted = [*inspect.signature(theirs).parameters]
    assert ours[: len(wanted)] == wanted
    matcher = str.isdigit
    client = HttpClient(None, None, None, None, str.split, matcher, "POST")
    assert client.content_type_method is None
    assert client.custom_list_page_parser is str.split
    assert (client.dir_matcher("12"), client.dir_matcher("d/")) == (True, False)
    assert client.write_file_http_method == "POST"


@pytest.mark.parametrize("name", ["Range", "if-none-match", "Accept-Encoding"])
def test_headers_that_make_other_bytes_are_refused(name: str) -> None:
    with pytest.raises(InvalidConfigurationException, match=name):
        HttpClient(headers={name: "x"})


def test_importing_pathapi_and_making_paths_loads_no_urllib3() -> None:
    code = (
        "import sys, pathapi; p = pathapi.CloudPath('https://h/a'); p / 'x'; p.client.connection;"
        "pathapi.HttpClient; print('urllib3' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
    assert {"HttpPath", "HttpsPath", "HttpClient", "HttpsClient"} <= {*pathapi.__all__}


# --- requests of one's own ------------------------------------------------------------------------------------------


def test_verbs_give_the_response_and_its_body(server: HttpOrigin, make: Callable[..., HttpClient]) -> None:
    client = make(freshness="immutable", headers={"X-Mine": "yes"})
    path = client.HttpPath(f"{server.url}/a.json")
    response, body = path.put(data=b"{}", headers={"Content-Type": "application/json"})
    assert (response.status, body) == (201, b"")
    assert path.read_bytes() == b"{}"
    assert path.put(data=b"[]")[0].status == 204
    assert path.read_bytes() == b"[]", "what was held went with the write"
    response, body = path.get()
    assert (response.status, response.headers["Content-Length"], body) == (200, "2", b"[]")
    assert path.head()[1] == b""
    assert path.post(data=b"posted")[0].status == 204
    assert client.request(path, "GET")[1] == b"posted"
    assert path.delete()[0].status == 204
    with pytest.raises(FileNotFoundError):
        path.get()
    assert all(one.headers["X-Mine"] == "yes" for one in server.seen)
    assert client.opener.open(f"{server.url}/").status == 200


def test_a_matcher_can_make_pages_objects(server: HttpOrigin, make: Callable[..., HttpClient]) -> None:
    server.plant("d/a", b"")
    page = make(custom_dir_matcher=lambda url: False).HttpPath(f"{server.url}/d/")
    assert page.is_file() and page.exists() is not False
    assert b"Index of" in page.read_bytes()


def test_a_directory_is_an_error_of_its_own(server: HttpOrigin, make: Callable[..., HttpClient]) -> None:
    server.plant("d/a", b"")
    for url in (f"{server.url}/d", f"{server.url}/d/", f"{server.url}/", server.url):
        path = make().HttpPath(url)
        assert path.is_dir() and path.exists() and not path.is_file()
        with pytest.raises(IsADirectoryError):
            path.read_bytes()
        with pytest.raises(OSError, match="director"):
            path.stat()
    assert not make().HttpPath(f"{server.url}/e/").exists()
    assert [str(path) for path in make().HttpPath(server.url).iterdir()] == [f"{server.url}/d/"]
    assert [name for _, dirs, files in make().HttpPath(server.url).walk() for name in dirs + files] == ["d", "a"]


# --- pickles and secrets --------------------------------------------------------------------------------------------


def test_a_pickle_carries_settings_and_no_secrets(make: Callable[..., HttpClient]) -> None:
    headers = {"Authorization": f"Bearer {MARK}", "X-Anything": MARK, "User-Agent": "mine/1"}
    client = make(auth=("me", MARK), headers=headers, custom_dir_matcher=str.isdigit, timeout=3, ca_certs="own.pem")
    path = client.HttpPath("http://h/a")
    for value in (path, client):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert MARK.encode() not in pickle.dumps(value, protocol)
        assert MARK not in repr(value)
    assert pickle.loads(pickle.dumps(path)).client is client
    code = (
        "import pickle, sys; path = pickle.load(sys.stdin.buffer); c = path.client;"
        "print(path, c.connection.headers, c.connection.auth, c.connection.timeout, c.connection.ca_certs,"
        " c.dir_matcher('7'))"
    )
    told = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(path), capture_output=True, check=True)
    assert told.stdout.decode() == "http://h/a {'User-Agent': 'mine/1'} None 3 own.pem True\n"


def found_in_files(root: str) -> list[str]:
    found = []
    for directory, directories, files in os.walk(root):
        found += [name for name in directories + files if MARK in name]
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                if MARK.encode() in file.read():
                    found.append(name)
    return found


def secret_urls(server: HttpOrigin) -> list[str]:
    return [
        server.url.replace("://", f"://user:{MARK}@") + "/d/{}",
        server.url + "/d/{}?X-Amz-Signature=" + MARK + "&X-Amz-Date=1",
        server.url + "/d/{}?sv=1&sig=" + MARK,
    ]


@pytest.mark.parametrize("which", range(3))
def test_a_login_or_signature_in_a_url_reaches_the_server_and_nothing_else(
    server: HttpOrigin,
    make: Callable[..., HttpClient],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    which: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    url = secret_urls(server)[which]
    if not which:
        server.habits = Habits(user=("user", MARK))
    client = make()
    server.plant("d/a", b"a")
    told: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = client.HttpPath(url.format("a"))
        assert path.read_bytes() == b"a"
        assert MARK in server.seen[-1].target + str(server.seen[-1].headers) or not which
        local = path.fspath
        told += [local, repr(path), repr(path.client), repr(path.parent)]
        client.HttpPath(url.format("new")).write_bytes(b"new")
        outbox = client.HttpPath(url.format("outbox")).fspath
        told.append(outbox)
        with client.HttpPath(url.format("new")).edit() as edited:
            told.append(edited)
            assert os.path.basename(edited) == "new"
        missing = client.HttpPath(url.format("missing"))
        folder = client.HttpPath(url.format("a").partition("?")[0]).parent
        assert MARK not in folder.fspath
        works: list[Callable[[], object]] = [
            missing.read_bytes,
            missing.stat,
            missing.get,
            lambda: missing.unlink(missing_ok=False),
            lambda: missing.rename(url.format("x")),
            lambda: missing.relative_to(client.HttpPath("http://other/a")),
            lambda: missing.read_bytes(freshness="offline"),
            lambda: HttpPath(url.format("d/"), client=client).read_bytes(),
        ]
        for work in works:
            with pytest.raises((CloudPathException, OSError, ValueError)) as caught:
                work()
            told.append("".join(traceback.format_exception_only(caught.value)))
            told.append(str(caught.value.__cause__))
        for status in (403, 400):
            server.script(status, times=None, method="PUT")
            with pytest.raises(CloudPathException) as refused:
                client.HttpPath(url.format(f"refused{status}")).write_bytes(b"x")
            told.append(str(refused.value))
            server.scripts.clear()
        client.cache.flush()
    assert [text for text in told if MARK in text] == []
    assert MARK not in "".join(str(warning.message) for warning in said)
    assert MARK not in "".join(r.getMessage() for r in caplog.records if r.name.startswith(("casstore", "pathapi")))
    root = client.cache.root
    assert found_in_files(root) == []
    capfd.readouterr()
    assert run(["--dir", root, "get", url.format("a")]) == 0
    assert run(["--dir", root, "get", "-o", str(tmp_path), url.format("a")]) == 0
    assert (tmp_path / "a").read_bytes() == b"a"
    assert run(["--dir", root, "get", "--json", url.format("a")]) == 0
    assert run(["--dir", root, "get", url.format("missing")]) == 1
    assert run(["--dir", root, "get", "--json", url.format("missing")]) == 1
    assert run(["--dir", root, "prefetch", url.format("missing")]) == 1
    assert run(["--dir", root, "ls"]) == 0
    out = capfd.readouterr()
    assert server.host in out.out
    assert MARK not in out.out + out.err


def test_nobody_is_told_a_login_that_a_connection_fails_with(make: Callable[..., HttpClient]) -> None:
    for headers in ({"X-Key": f"bad\n{MARK}"}, {f"X-{MARK}\r\n": "x"}, {"X-Key": MARK.encode()}):
        with pytest.raises(InvalidConfigurationException) as refused:
            make(headers=headers)
        assert MARK not in str(refused.value)
        with pytest.raises(InvalidConfigurationException) as refused:
            make().HttpPath("http://127.0.0.1:1/a").get(headers=headers)
        assert MARK not in "".join(traceback.format_exception(refused.value))
    client = make(auth=("user", MARK), headers={"X-Key": MARK})
    for url in (f"http://user:{MARK}@127.0.0.1:1/a?sig={MARK}", f"http://user:{MARK}@host:port/a"):
        object.__setattr__(client.connection, "backoff", 0.001)
        with pytest.raises(CloudPathException) as caught:
            client.HttpPath(url).read_bytes()
        assert MARK not in "".join(traceback.format_exception(caught.value))
