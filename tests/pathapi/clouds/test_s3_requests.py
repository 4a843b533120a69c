"""What each operation costs on S3, counted at a proxy in front of a real server."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pathapi import S3Client, S3Path
from pathapi.exceptions import OverwriteNewerCloudError
from pathapi.reading.download import PART
from tests.harness.faults import Answer
from tests.harness.proxy import Fault, Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.traffic import Wire

DATA = os.urandom(50_000)


@pytest.fixture
def wire(proxy: Proxy) -> Wire:
    return Wire(proxy)


@pytest.fixture
def path(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    """An object that nobody has asked for yet."""
    ground.plant(at + "object", DATA)
    return client.S3Path(f"s3://{ground.bucket}/{at}object")


def directory_of(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    return client.S3Path(f"s3://{ground.bucket}/{at}")


# --- looking --------------------------------------------------------------------------------------------------------

QUESTIONS: list[Callable[[Any], object]] = [S3Path.exists, S3Path.is_file, S3Path.stat]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_a_question_about_an_object_is_one_head(path: S3Path, wire: Wire, question: Callable[[Any], object]) -> None:
    assert question(path)
    assert wire() == {"HEAD": 1}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_a_question_about_what_was_read_is_free_within_the_ttl(
    make_client: MakeClient, path: S3Path, wire: Wire, question: Callable[[Any], object]
) -> None:
    path = make_client(freshness=60).S3Path(str(path))
    path.read_bytes()
    wire()
    assert question(path)
    assert wire() == {}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
def test_a_question_about_a_child_of_a_listing_is_free(
    path: S3Path, wire: Wire, question: Callable[[Any], object]
) -> None:
    (child,) = path.parent.iterdir()
    wire()
    assert question(child)
    assert question(path), "the client remembers it for other paths of that name too"
    assert not child.is_dir()
    assert wire() == {}


@pytest.mark.parametrize("name", ["missing", "directory"])
def test_what_is_no_object_costs_a_head_and_a_list_of_one_key(
    client: S3Client, ground: S3RawBucket, at: str, wire: Wire, name: str
) -> None:
    ground.plant(at + "directory/object", b"")
    path = directory_of(client, ground, at) / name
    assert path.exists() == (name == "directory")
    assert wire.query()["max-keys"] == ["1"]
    assert wire() == {"HEAD": 1, "LIST": 1}
    assert path.is_dir() == (name == "directory")
    assert wire() == {"LIST": 1}


# --- listing --------------------------------------------------------------------------------------------------------


def test_eleven_children_with_all_their_facts_are_one_request(
    client: S3Client, ground: S3RawBucket, at: str, wire: Wire
) -> None:
    for number in range(11):
        ground.plant(f"{at}{number}", b"x" * number)
    children = list(directory_of(client, ground, at).iterdir())
    assert sorted(child.stat().st_size for child in children if child.is_file()) == list(range(11))
    assert all(child.exists() and child.etag and not child.is_dir() and child.info.is_file() for child in children)
    assert wire() == {"LIST": 1}


def test_a_glob_lists_only_what_its_fixed_start_allows(
    client: S3Client, ground: S3RawBucket, at: str, wire: Wire
) -> None:
    for name in ("sub/a.txt", "sub/b.bin", "sub/deep/c.txt", "other/d.txt", "e.txt"):
        ground.plant(at + name, b"")
    found = [path.name for path in directory_of(client, ground, at).glob("sub/*.txt")]
    assert found == ["a.txt"]
    assert wire.query()["prefix"] == [f"{at}sub/"]
    assert wire.query()["delimiter"] == ["/"]
    assert wire() == {"LIST": 1}


def test_a_glob_of_many_directories_is_one_listing(client: S3Client, ground: S3RawBucket, at: str, wire: Wire) -> None:
    for number in range(20):
        ground.plant(f"{at}d{number}/k.txt", b"")
        ground.plant(f"{at}d{number}/deep/k.txt", b"")
    found = list(directory_of(client, ground, at).glob("d*/*.txt"))
    assert len(found) == 20
    assert all(path.is_file() for path in found)
    assert wire() == {"LIST": 1}


@pytest.mark.slow
def test_2500_keys_are_three_requests_however_they_are_listed(
    client: S3Client, ground: S3RawBucket, at: str, wire: Wire
) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: ground.plant(f"{at}{number % 5}/{number:04}", b""), range(2_500)))
        list(pool.map(lambda number: ground.plant(f"{at}flat/{number:04}", b""), range(1_001)))
    root = directory_of(client, ground, at)
    wire()
    assert sum(1 for _ in (root / "flat").iterdir()) == 1_001
    assert wire() == {"LIST": 2}
    assert sum(1 for _ in (root / "flat").glob("*")) == 1_001
    assert wire() == {"LIST": 2}
    assert sum(len(files) for _, _, files in root.walk()) == 3_501
    assert wire() == {"LIST": 4}
    assert sum(path.is_file() for path in root.glob("**/*")) == 3_501
    assert wire() == {"LIST": 4}


# --- reading --------------------------------------------------------------------------------------------------------


def read_by_open(path: S3Path) -> bytes:
    with path.open("rb") as file:
        data: bytes = file.read()
        return data


def read_as_text(path: S3Path) -> bytes:
    return path.read_text("latin-1", newline="").encode("latin-1")


def read_by_name(path: S3Path) -> bytes:
    with open(path.fspath, "rb") as file:
        return file.read()


WAYS: list[Callable[[S3Path], bytes]] = [S3Path.read_bytes, read_by_open, read_as_text, read_by_name]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_cold_read_is_one_get_and_a_warm_one_a_304(path: S3Path, proxy: Proxy, wire: Wire, way: Any) -> None:
    assert way(path) == DATA
    assert wire() == {"GET": 1}
    assert way(path) == DATA
    assert wire.statuses() == {"304": 1}
    assert proxy.body_bytes == 0
    assert wire() == {"GET": 1}


def test_a_whole_directory_is_a_listing_and_its_objects_and_then_free(
    make_client: MakeClient, path: S3Path, proxy: Proxy, wire: Wire
) -> None:
    directory = make_client().S3Path(f"{path.parent}/directory")
    for number in range(20):
        (directory / f"{number}.png").write_bytes(b"%d" % number)
    wire()
    shown = make_client().S3Path(f"{directory}/").fspath
    assert wire() == {} and len(os.listdir(shown)) == 20, "for people, what is cached, without a request"
    directory = make_client(local_cache_dir=f"{directory.client.cache.root}-other").S3Path(str(directory))
    assert len(os.listdir(directory)) == 20
    assert {kind: count for kind, count in wire().items() if kind != "LIST"} == {"GET": 21}, "one is of the directory"
    for number in range(20):
        with open(os.path.join(directory, f"{number}.png"), "rb") as file:
            assert file.read() == b"%d" % number
    assert wire() == {}


@pytest.mark.parametrize("freshness", [60, "immutable", "offline"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_warm_read_is_free_where_the_policy_allows(
    make_client: MakeClient, path: S3Path, wire: Wire, way: Any, freshness: Any
) -> None:
    path.read_bytes()
    wire()
    trusting = make_client(freshness=freshness).S3Path(str(path))
    assert way(trusting) == DATA
    assert way(trusting) == DATA
    assert wire() == {}


def test_a_large_object_is_one_get_for_each_part(client: S3Client, ground: S3RawBucket, at: str, wire: Wire) -> None:
    data = os.urandom(2 * PART + 12_345)
    ground.plant(at + "large", data)
    path = directory_of(client, ground, at) / "large"
    assert path.read_bytes() == data
    assert wire() == {"GET": 3}
    assert path.read_bytes() == data
    assert wire.statuses() == {"304": 1}
    assert wire() == {"GET": 1}


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1])
def test_around_one_part(client: S3Client, ground: S3RawBucket, at: str, wire: Wire, size: int) -> None:
    data = os.urandom(size)
    ground.plant(at + "a", data)
    path = directory_of(client, ground, at) / "a"
    assert path.read_bytes() == data
    assert wire() == {"GET": 1 + (size > PART)}
    (child,) = path.parent.iterdir()
    wire()
    assert child.read_bytes(freshness="always") == data
    assert wire() == {"GET": 1}


def test_an_empty_object_is_one_request(client: S3Client, ground: S3RawBucket, at: str, wire: Wire) -> None:
    """A range of an empty object is answered 416, which says that it is empty; the next request says which version."""
    ground.plant(at + "empty", b"")
    path = directory_of(client, ground, at) / "empty"
    assert path.read_bytes() == b""
    assert wire() == {"GET": 1}
    for _ in range(2):
        assert path.read_bytes() == b""
        assert wire() == {"GET": 1}
    assert path.read_bytes(freshness="immutable") == b""
    assert wire() == {}
    client.clear_cache()
    (child,) = path.parent.iterdir()
    wire()
    assert child.read_bytes() == b""
    assert wire() == {"GET": 1}


def test_an_empty_object_that_is_appended_to_is_not_overwritten_unseen(
    client: S3Client, ground: S3RawBucket, at: str
) -> None:
    ground.plant(at + "log", b"")
    path = directory_of(client, ground, at) / "log"
    with path.open("ab") as file:
        file.write(b"one\n")
    assert ground.content(at + "log") == b"one\n"
    ground.plant(at + "other", b"")
    other = path.with_name("other")
    file = other.open("ab")
    ground.plant(at + "other", b"somebody else's\n")
    file.write(b"mine\n")
    with pytest.raises(OverwriteNewerCloudError):
        file.close()
    assert ground.content(at + "other") == b"somebody else's\n"


@pytest.mark.needs_locks
def test_threads_that_want_one_cold_object_get_it_by_one_download(path: S3Path, proxy: Proxy, wire: Wire) -> None:
    barrier = threading.Barrier(8)

    def read(_: int) -> bytes:
        barrier.wait()
        return path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [DATA] * 8
    assert proxy.body_bytes == len(DATA)


@pytest.mark.needs_locks
def test_processes_that_want_one_cold_object_get_it_by_one_download(path: S3Path, proxy: Proxy, wire: Wire) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(8) as pool:
        assert pool.map(S3Path.read_bytes, [path] * 16, chunksize=1) == [DATA] * 16
        pool.close()
        pool.join()
    assert proxy.body_bytes == len(DATA)


def test_a_missing_object_is_asked_for_once_and_explained_once(
    client: S3Client, ground: S3RawBucket, at: str, wire: Wire
) -> None:
    with pytest.raises(FileNotFoundError):
        (directory_of(client, ground, at) / "missing").read_bytes()
    assert wire() == {"GET": 1, "LIST": 1}


# --- writing --------------------------------------------------------------------------------------------------------


def test_what_writes_cost(client: S3Client, ground: S3RawBucket, at: str, wire: Wire) -> None:
    root = directory_of(client, ground, at)
    (root / "new").write_bytes(DATA)
    assert (wire.conditions(), wire()) == ([True], {"HEAD": 1, "PUT": 1})
    (root / "new").write_bytes(b"again")
    assert (wire.conditions(), wire()) == ([True], {"HEAD": 1, "PUT": 1})
    (root / "new").write_bytes(b"by force", force_overwrite_to_cloud=True)
    assert (wire.conditions(), wire()) == ([False], {"PUT": 1})
    with (root / "exclusive").open("x") as file:
        file.write("new")
    assert (wire.conditions(), wire()) == ([True], {"PUT": 1})
    (root / "touched").touch()
    assert (wire.conditions(), wire()) == ([True], {"PUT": 1})
    (root / "touched").unlink()
    assert (wire.conditions(), wire()) == ([True], {"HEAD": 1, "DELETE": 1})


def test_what_overwriting_and_appending_cost(
    make_client: MakeClient, ground: S3RawBucket, at: str, path: S3Path, wire: Wire
) -> None:
    """`path` is there and not held: nothing of the old object travels for an overwrite, all of it for an append."""
    path.write_bytes(b"overwritten, not cached")
    assert (wire.conditions(), wire()) == ([True], {"HEAD": 1, "PUT": 1})
    path.write_bytes(b"overwritten, cached")
    assert (wire.conditions(), wire()) == ([True], {"HEAD": 1, "PUT": 1})
    trusting = make_client(freshness=60).S3Path(str(path))
    trusting.write_bytes(b"overwritten, fresh by the policy")
    assert (wire.conditions(), wire()) == ([True], {"PUT": 1})
    ground.plant(at + "object", DATA)
    path.client.clear_cache()
    wire()
    with path.open("ab") as file:
        file.write(b"appended, not cached")
    assert (wire.conditions(), wire()) == ([True], {"GET": 1, "PUT": 1})
    with path.open("ab") as file:
        file.write(b"appended, cached")
    assert wire() == {"GET": 1, "PUT": 1}
    assert ground.content(at + "object") == DATA + b"appended, not cached" + b"appended, cached"
    (path.parent / "log").open("a").close()
    assert wire() == {"GET": 1, "PUT": 1}


def test_touching_what_is_there_copies_it_onto_itself_and_unlinking_what_is_known_is_one_request(
    client: S3Client, ground: S3RawBucket, at: str, path: S3Path, wire: Wire
) -> None:
    path.read_bytes()
    wire()
    path.touch()
    assert wire() == {"PUT": 1, "HEAD": 2, "COPY": 1}, "the copy repeats the metadata"
    assert ground.content(at + "object") == DATA
    assert path.read_bytes() == DATA
    assert wire.statuses() == {"304": 1}
    wire()
    (child,) = path.parent.iterdir()
    wire()
    child.unlink()
    assert wire() == {"DELETE": 1}


def test_what_is_unchanged_costs_the_question_alone(path: S3Path, wire: Wire) -> None:
    path.read_bytes()
    wire()
    path.write_bytes(DATA)
    assert wire() == {"HEAD": 1}
    with path.open("r+b"):
        pass
    assert wire() == {"GET": 1, "HEAD": 1}, "of the moment of the close"


def test_a_push_is_one_request(client: S3Client, ground: S3RawBucket, at: str, proxy: Proxy, wire: Wire) -> None:
    path = directory_of(client, ground, at) / "new"
    file = path.open("wb")
    file.write(DATA)
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", times=2))
    with pytest.raises(PermissionError, match="kept at"):
        file.close()
    wire()
    path.push()
    assert wire() == {"PUT": 1}
    assert ground.content(at + "new") == DATA


def test_what_a_listing_did_not_have_is_written_without_asking(
    client: S3Client, ground: S3RawBucket, at: str, wire: Wire
) -> None:
    ground.plant(at + "there", b"")
    root = directory_of(client, ground, at)
    (there,) = root.iterdir()
    wire()
    (root / "new").write_bytes(DATA)
    assert wire() == {"PUT": 1}
    there.unlink()
    assert wire() == {"DELETE": 1}
    assert ground.content(at + "new") == DATA
    assert ground.content(at + "there") is None


def test_what_was_written_is_read_by_a_304(
    client: S3Client, ground: S3RawBucket, at: str, proxy: Proxy, wire: Wire
) -> None:
    path = directory_of(client, ground, at) / "mine"
    path.write_bytes(DATA)
    wire()
    assert path.read_bytes() == DATA
    assert wire.statuses() == {"304": 1}
