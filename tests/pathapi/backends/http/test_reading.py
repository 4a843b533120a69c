"""`ReadSuite` on plain HTTP servers of several kinds, and what reads cost there."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import CloudPath, HttpClient, HttpPath, prefetch
from pathapi.exceptions import CloudPathException, OverwriteNewerCloudError, StaleReadError
from pathapi.reading.download import PART
from pathapi.testing import ReadSuite, in_forked_child
from tests.harness.faults import Fault, SetHeader
from tests.harness.http_server import Habits, HttpOrigin
from tests.harness.proxy import Proxy

Make = Callable[..., HttpClient]


@pytest.fixture
def server() -> Iterator[HttpOrigin]:
    with HttpOrigin() as server:
        yield server


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[HttpClient] = []

    def make(**habits: Any) -> HttpClient:
        made.append(HttpClient(**{"local_cache_dir": tmp_path / "store", **habits}))
        return made[-1]

    yield make
    for client in made:
        client.cache.close()
        client.connection.close()
    gc.collect()


class TestPlainServer(ReadSuite):
    habits = Habits()

    @pytest.fixture
    def ground(self, server: HttpOrigin) -> HttpOrigin:
        server.habits = self.habits
        return server

    @pytest.fixture
    def make(self, make: Make) -> Make:
        return make

    @pytest.fixture
    def at(self, server: HttpOrigin) -> str:
        return f"{server.url}/"


@pytest.mark.sampled(8)
class TestServerWithoutEtags(TestPlainServer):
    habits = Habits(etags=None)


@pytest.mark.sampled(8)
class TestServerWithWeakEtags(TestPlainServer):
    habits = Habits(etags="weak")


@pytest.mark.sampled(8)
class TestServerWithoutLengthsAndRanges(TestPlainServer):
    habits = Habits(length="chunked", ranges=False)


@pytest.mark.sampled(8)
class TestServerWithoutAnything(TestPlainServer):
    """No version can be told from another: everything is read again, and nothing old is served."""

    habits = Habits(etags=None, modified=False, dates=False, ranges=False, conditions=False)

    @pytest.fixture(autouse=True)
    def _skip_views_of_directories(self, request: pytest.FixtureRequest) -> None:
        if request.node.name == "test_a_directorys_view_has_the_cached_objects":
            pytest.skip("nothing says that what is held is what is there")


# --- what it costs --------------------------------------------------------------------------------------------------

DATA = os.urandom(50_000)


@pytest.fixture
def path(server: HttpOrigin, make: Make) -> HttpPath:
    """An object that nobody has asked for yet."""
    server.plant("d/object", DATA)
    server.settle()
    return make().HttpPath(f"{server.url}/d/object")


@pytest.mark.parametrize("question", ["exists", "is_file", "stat"])
def test_a_question_about_an_object_is_one_head(path: HttpPath, server: HttpOrigin, question: str) -> None:
    assert getattr(path, question)()
    assert server.kinds() == {"HEAD": 1}


def test_a_question_about_what_was_read_is_free_within_the_ttl(path: HttpPath, server: HttpOrigin, make: Make) -> None:
    path = make(freshness=60).HttpPath(str(path))
    path.read_bytes()
    server.kinds()
    assert path.exists() and path.is_file() and path.stat().st_size == len(DATA)
    assert server.kinds() == {}


def test_what_is_no_object_costs_a_head_and_a_page(path: HttpPath, server: HttpOrigin) -> None:
    missing = path.with_name("missing")
    assert not missing.exists()
    assert server.kinds() == {"HEAD": 1, "LIST": 1}
    assert not missing.is_dir()
    assert server.kinds() == {"LIST": 1}
    folder = path.client.CloudPath(f"{server.url}/d/")
    assert folder.exists() and folder.is_dir() and not folder.is_file()
    assert server.kinds() == {"HEAD": 2}


@pytest.mark.parametrize("way", ["read_bytes", "open", "fspath"])
def test_a_cold_read_is_one_get_and_a_warm_one_a_conditional_one(path: HttpPath, server: HttpOrigin, way: str) -> None:
    def use() -> bytes:
        if way == "read_bytes":
            return path.read_bytes()
        with open(path.fspath, "rb") if way == "fspath" else path.open("rb") as file:
            data: bytes = file.read()
            return data

    assert use() == DATA
    assert server.kinds() == {"GET": 1}
    assert use() == DATA
    assert [one.status for one in server.seen] == [304]
    assert server.kinds() == {"GET": 1}


@pytest.mark.parametrize("freshness", [60, "immutable", "offline"])
def test_a_warm_read_is_free_by_policy(path: HttpPath, server: HttpOrigin, make: Make, freshness: Any) -> None:
    path.read_bytes()
    server.kinds()
    assert make(freshness=freshness).HttpPath(str(path)).read_bytes() == DATA
    assert server.kinds() == {}


def test_an_object_of_several_parts_is_one_get_for_each(server: HttpOrigin, make: Make) -> None:
    data = os.urandom(2 * PART + 5)
    server.plant("big", data)
    assert make().HttpPath(f"{server.url}/big").read_bytes() == data
    assert server.kinds() == {"GET": 3}


def test_eleven_children_are_one_page_and_their_names_are_known(server: HttpOrigin, make: Make) -> None:
    for number in range(10):
        server.plant(f"d/{number}", b"x")
    server.plant("d/e/x", b"x")
    folder = make().HttpPath(f"{server.url}/d/")
    children = list(folder.iterdir())
    assert [str(child).removeprefix(f"{server.url}/d/") for child in children] == [*"0123456789", "e/"]
    assert [child.is_file() for child in children] == [True] * 10 + [False]
    assert [child.is_dir() for child in children][:10] == [False] * 10
    assert server.kinds() == {"LIST": 1}
    assert children[0].stat().st_size == 1
    assert server.kinds() == {"HEAD": 1}
    assert [path.name for path in folder.glob("*")] == [*"0123456789", "e"]
    assert server.kinds() == {"LIST": 1}
    assert [path.name for path in folder.glob("e/*")] == ["x"]
    assert server.kinds() == {"LIST": 1}


def test_a_prefetch_is_a_page_for_each_directory_and_a_get_for_each_object(server: HttpOrigin, make: Make) -> None:
    for name in ("d/a", "d/b", "d/e/c"):
        server.plant(name, name.encode())
    server.settle()
    client = make()
    done = prefetch(f"{server.url}/d/", client=client)
    assert (done.files, done.bytes, done.errors) == (3, 11, [])
    assert server.kinds() == {"LIST": 2, "GET": 3}


def test_eight_threads_download_once(path: HttpPath, server: HttpOrigin) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: path.read_bytes(freshness="immutable"), range(8))) == {DATA}
    assert server.kinds() == {"GET": 1}


# --- servers that lack something ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("habits", "requests"),
    [
        (Habits(ranges=False), {"GET": 1}),
        (Habits(ranges=False, length="chunked"), {"GET": 1}),
        (Habits(ranges=False, length="close"), {"GET": 1}),
        (Habits(ranges=False, etags=None, modified=False), {"GET": 1}),
        (Habits(etags="weak"), {"GET": 2}),
        (Habits(etags=None, modified=False), {"GET": 2}),
        (Habits(etags=None), {"GET": 3}),
        (Habits(length="chunked"), {"GET": 3}),
        (Habits(content_range=lambda _: "bytes 5-9/10"), {"GET": 2}),
        (Habits(content_range=lambda told: told.partition("/")[0] + "/*"), {"GET": 2}),
    ],
)
def test_a_large_object_is_read_in_parts_only_where_they_can_be_tied_together(
    server: HttpOrigin, make: Make, habits: Habits, requests: dict[str, int]
) -> None:
    server.habits = habits
    data = os.urandom(2 * PART + 5)
    server.plant("big", data)
    server.settle()
    path = make().HttpPath(f"{server.url}/big")
    assert path.read_bytes() == data
    assert server.kinds() == requests
    assert path.stat().st_size == len(data)


def test_a_large_object_of_this_very_second_is_read_in_one_piece_where_only_its_time_is_told(
    server: HttpOrigin, make: Make
) -> None:
    server.habits = Habits(etags=None)
    data = os.urandom(PART + 5)
    server.plant("big", data)
    assert make().HttpPath(f"{server.url}/big").read_bytes() == data
    assert [one.headers.get("Range") for one in server.seen] == [f"bytes=0-{PART - 1}", None]


def test_a_body_under_the_same_weak_etag_is_new(server: HttpOrigin, make: Make) -> None:
    """A weak ETag promises equivalent content, not the same bytes: those that were sent are the ones to return."""
    server.habits = Habits(conditions=False, etags="weak")
    with Proxy(server.url) as proxy:
        proxy.add(Fault(SetHeader("ETag", 'W/"1"'), times=None))
        path = make().HttpPath(f"{proxy.endpoint}/d/a")
        for data in (b"first!", b"second"):
            server.plant("d/a", data)
            assert path.read_bytes() == data
            assert path.location.backend.read(path.location.key, unless=path.location.backend.head("d/a").validator)


def test_a_server_that_encodes_all_the_same_has_its_bytes_kept_as_sent(server: HttpOrigin, make: Make) -> None:
    import gzip

    server.habits = Habits(encoding="gzip")
    text = b"a,b\n" * 1000
    server.plant("table.csv", text)
    path = make().HttpPath(f"{server.url}/table.csv")
    data = path.read_bytes()
    assert gzip.decompress(data) == text
    assert {one.headers.get("Accept-Encoding") for one in server.seen} == {"identity"}
    assert path.stat().st_size == len(data)


def test_a_replaced_object_is_never_a_mix_of_two(server: HttpOrigin, make: Make) -> None:
    first, second = b"1" * (2 * PART), b"2" * (2 * PART)
    for habits in (Habits(), Habits(etags=None), Habits(etags="weak"), Habits(conditions=False)):
        server.habits = habits
        server.plant("big", first)
        server.settle()
        once = iter((True,))

        def swap(told: str, once: Iterator[bool] = once) -> str:
            if next(once, False):
                server.settle()
                server.plant("big", second)
                server.settle()
            return told

        habits.content_range = swap
        path = make().HttpPath(f"{server.url}/big")
        data = path.read_bytes(force_overwrite_from_cloud=True)
        assert data in (first, second)


def test_an_object_that_always_changes_is_an_error(server: HttpOrigin, make: Make) -> None:
    def swap(told: str) -> str:
        server.plant("big", os.urandom(2 * PART))
        return told

    server.plant("big", os.urandom(2 * PART))
    server.habits.content_range = swap
    with pytest.raises(StaleReadError):
        make().HttpPath(f"{server.url}/big").read_bytes()


def test_an_older_version_that_was_put_back_is_noticed(server: HttpOrigin, make: Make) -> None:
    for says_time in (True, False):
        server.habits = Habits(etags=None, modified_in_304=says_time)
        server.plant("a", b"newer")
        server.settle()
        path = make().HttpPath(f"{server.url}/a")
        assert path.read_bytes() == b"newer"
        server.offset -= 1000
        server.plant("a", b"older")
        server.offset += 1000
        assert path.read_bytes() == b"older"
        assert path.read_bytes() == b"older"


def test_a_same_sized_rewrite_within_a_second_is_noticed(server: HttpOrigin, make: Make) -> None:
    server.habits = Habits(etags=None)
    path = make().HttpPath(f"{server.url}/a")
    for data in (b"first", b"other", b"third"):
        server.plant("a", data)
        assert path.read_bytes() == data


# --- redirects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_the_entry_stays_what_was_asked_for(
    server: HttpOrigin, make: Make, status: int
) -> None:
    with HttpOrigin() as other:
        other.plant("real", b"bytes")
        server.redirects["alias"] = (status, f"{other.url}/real")
        path = make().HttpPath(f"{server.url}/alias")
        assert path.read_bytes() == path.read_bytes() == b"bytes"
        assert [one.status for one in other.seen] == [206, 304]
        path.client.cache.flush()
        assert [entry.uri for entry in path.client.cache.entries()] == [str(path)]


def test_a_login_is_not_sent_to_the_host_that_a_redirect_leads_to(server: HttpOrigin, make: Make) -> None:
    secrets = {"Authorization": "Bearer token-one", "X-Api-Key": "key-two", "User-Agent": "mine/1"}
    with HttpOrigin() as other:
        other.plant("real", b"bytes")
        server.redirects["alias"] = (302, f"{other.url}/real")
        assert make(headers=secrets).HttpPath(f"{server.url}/alias").read_bytes() == b"bytes"
        del secrets["Authorization"]
        login = server.url.replace("://", "://user:pass-three@")
        client = make(headers=secrets, auth=("user", "pass-four"))
        assert client.HttpPath(f"{login}/alias").read_bytes(freshness="always") == b"bytes"
        assert client.HttpPath(f"{server.url}/alias").exists()
        assert all(one.headers.get("User-Agent") == "mine/1" for one in other.seen)
        assert not any({"Authorization", "X-Api-Key"} & {*one.headers} for one in other.seen)
        assert len([one for one in server.seen if "Authorization" in one.headers]) == len(server.seen) == 3


@pytest.mark.parametrize("between", ["\\@", "\\\\@", "/@", "?@", "#@"])
def test_a_login_is_sent_by_the_host_that_is_connected_to(server: HttpOrigin, make: Make, between: str) -> None:
    """Parsers of URLs disagree about the host of `http://there\\@here`."""
    with HttpOrigin() as other:
        here, there = server.url.partition("://")[2], other.url
        server.redirects["alias"] = (302, f"{there}{between}{here}/real")
        with contextlib.suppress(CloudPathException):
            make(auth=("user", "pass"), headers={"X-Api-Key": "key"}).HttpPath(f"{server.url}/alias").read_bytes()
        assert len(other.seen) >= 1
        assert not any({"Authorization", "X-Api-Key"} & {*one.headers} for one in other.seen)


def test_a_login_of_one_request_is_not_sent_to_the_host_that_a_redirect_leads_to(
    server: HttpOrigin, make: Make
) -> None:
    secrets = {"Authorization": "Bearer token-one", "cookie": "session=two", "X-Api-Key": "key-three"}
    plain = {"Range": "bytes=1-2", "if-none-match": '"v"', "User-Agent": "mine/1", "Content-Type": "text/x"}
    with HttpOrigin() as other:
        other.plant("real", b"bytes")
        server.redirects["alias"] = (307, f"{other.url}/real")
        server.redirects["same"] = (307, f"{server.url}/alias")
        path = make().HttpPath(f"{server.url}/same")
        assert path.get(headers={**secrets, "Range": "bytes=1-2"})[1] == b"yt"
        path.put(data=b"new", headers={**secrets, **plain})
        for one in server.seen:
            assert secrets.items() <= one.headers.items()
        assert not any({*secrets} & {*one.headers} for one in other.seen)
        assert plain.items() <= other.seen[-1].headers.items()
        assert other.content("real") == b"new"


# --- through the path API -------------------------------------------------------------------------------------------


def test_what_is_written_is_conditional_and_there(server: HttpOrigin, make: Make) -> None:
    path = make().HttpPath(f"{server.url}/d/new.json")
    path.write_text("{}")
    assert server.content("d/new.json") == b"{}"
    put = next(one for one in server.seen if one.method == "PUT")
    assert (put.headers["If-None-Match"], put.headers["Content-Type"]) == ("*", "application/json")
    with path.open("a") as file:
        file.write(" ")
    assert server.content("d/new.json") == b"{} "
    assert "If-Match" in server.seen[-1].headers
    file = path.open("w")
    file.write("mine")
    server.plant("d/new.json", b"theirs")
    with pytest.raises(OverwriteNewerCloudError):
        file.close()
    path.drop()
    path.unlink()
    assert server.content("d/new.json") is None


def test_a_server_that_ignores_conditions_is_looked_at_before_a_write(server: HttpOrigin, make: Make) -> None:
    server.habits = Habits(conditions=False)
    server.plant("a", b"first")
    file = make().HttpPath(f"{server.url}/a").open("wb")
    file.write(b"mine")
    server.plant("a", b"theirs")
    with pytest.raises(OverwriteNewerCloudError):
        file.close()
    assert server.content("a") == b"theirs"


def test_a_rename_goes_through_this_machine(server: HttpOrigin, make: Make) -> None:
    server.plant("a", b"bytes", "text/x-mine")
    made = make().HttpPath(f"{server.url}/a").rename(f"{server.url}/d/b")
    assert (server.content("a"), server.content("d/b"), str(made)) == (None, b"bytes", f"{server.url}/d/b")
    assert server.objects["d/b"].content_type == "text/x-mine"


def test_a_page_proves_no_absence(server: HttpOrigin, make: Make) -> None:
    server.plant("d/a", b"a")
    server.plant("d/hidden", b"hidden")
    server.habits.page = lambda path, names: ("text/html", '<a href="a">a</a>')
    client = make()
    assert [path.name for path in client.HttpPath(f"{server.url}/d/").iterdir()] == ["a"]
    assert client.HttpPath(f"{server.url}/d/hidden").exists()
    assert client.HttpPath(f"{server.url}/d/hidden").read_bytes() == b"hidden"


def test_an_object_of_a_page_is_not_believed_empty(server: HttpOrigin, make: Make) -> None:
    server.plant("d/a", b"a" * 10)
    server.settle()
    (child,) = make(freshness=60).HttpPath(f"{server.url}/d/").iterdir()
    assert child.read_bytes() == b"a" * 10
    with child.open("ab") as file:
        file.write(b"b")
    assert server.content("d/a") == b"a" * 10 + b"b"
    (child,) = child.parent.iterdir()
    child.unlink()
    assert server.content("d/a") is None


def test_queries_make_objects_of_their_own_and_views_have_the_files_name(server: HttpOrigin, make: Make) -> None:
    server.plant("d/a.csv", b"a,b")
    root = make()
    one, two = root.HttpPath(f"{server.url}/d/a.csv?v=1"), root.HttpPath(f"{server.url}/d/a.csv?v=2")
    assert one.read_bytes() == b"a,b"
    server.plant("d/a.csv", b"c,d")
    assert two.read_bytes() == b"c,d"
    assert one.read_bytes(freshness="immutable") == b"a,b"
    assert {seen.target for seen in server.seen} == {"/d/a.csv?v=1", "/d/a.csv?v=2"}
    views = [os.path.basename(path.fspath) for path in (two, one, CloudPath(one, client=root))]
    assert views == ["a.csv"] * 3
    assert one.fspath != two.fspath or one.read_bytes() == two.read_bytes()


@pytest.fixture
def connections(server: HttpOrigin, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every connection that the server has accepted."""
    made: list[object] = []
    process = server._server.process_request

    def count(request: Any, address: Any) -> None:
        made.append(address)
        process(request, address)

    monkeypatch.setattr(server._server, "process_request", count)
    return made


def test_a_connection_is_used_again(server: HttpOrigin, make: Make, connections: list[object]) -> None:
    client = make()
    for number in range(5):
        server.plant(f"d/{number}", b"" if number % 2 else b"x")
        path = client.HttpPath(f"{server.url}/d/{number}")
        path.read_bytes()
        path.read_bytes()
        assert path.exists() and not path.with_name("missing").exists()
        list(path.parent.iterdir())
        path.unlink()
    server.plant("large", b"x" * (1 << 20))
    assert client.HttpPath(f"{server.url}/large").exists()
    assert client.HttpPath(f"{server.url}/large").exists()
    assert len(connections) == 1


def test_a_forked_child_speaks_on_a_connection_of_its_own(
    server: HttpOrigin, make: Make, path: HttpPath, connections: list[object]
) -> None:
    assert path.read_bytes() == DATA
    assert in_forked_child(lambda: path.read_bytes() == DATA)
    assert path.read_bytes() == DATA
    assert len(connections) == 2
