"""One cache per directory and process; every way to start a process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import threading
from pathlib import Path
from typing import cast

import pytest

import casstore
from tests.casstore.filling import fill, fork, key_of, read, run, status_of


def test_one_directory_is_one_cache_however_it_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = casstore.open(root)
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CASSTORE_DIR", str(root))
    assert casstore.open(str(root)) is casstore.open("store") is casstore.open(tmp_path / "link") is cache
    assert casstore.open() is cache
    with pytest.raises(casstore.StoreFormatError):
        casstore.open(root, digest="sha256")


def test_many_threads_open_one_cache(root: Path) -> None:
    caches: list[casstore.Cache] = []
    threads = [threading.Thread(target=lambda: caches.append(casstore.open(root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(cache) for cache in caches}) == 1


def test_another_store_that_took_the_directory_is_opened_as_what_it_is(root: Path) -> None:
    import shutil

    fill(casstore.open(root), key_of("k"), b"bytes")
    shutil.rmtree(root)
    assert run("import sys, casstore; casstore.open(sys.argv[1], digest='sha256')", str(root)).returncode == 0
    cache = casstore.open(root, digest="sha256")
    assert cache.algorithm == "sha256"
    assert fill(cache, key_of("k"), b"bytes").digest.algorithm == "sha256"
    assert read(cache, key_of("k")) == b"bytes"


def _read_and_fill(root: str, name: str) -> None:
    cache = casstore.open(root)
    assert read(cache, key_of("parent")) == b"parent"
    fill(cache, key_of(name), name.encode())
    descriptor = cache.open_entry(cache.stat(f"s3://bucket/{name}"))  # type: ignore[arg-type]
    assert descriptor is not None
    os.close(descriptor)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_share_the_store(cache: casstore.Cache, method: str) -> None:
    fill(cache, key_of("parent"), b"parent")
    context = cast("multiprocessing.context.SpawnContext", multiprocessing.get_context(method))
    children = [context.Process(target=_read_and_fill, args=(cache.root, f"{method}{n}")) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert cache.usage().entries == 3
    assert len(os.listdir(cache.layout.leases)) <= 1


def test_a_grandchild_shares_the_store(cache: casstore.Cache) -> None:
    fill(cache, key_of("parent"), b"parent")

    def child() -> None:
        _read_and_fill(cache.root, "child")
        assert status_of(fork(lambda: _read_and_fill(cache.root, "grandchild"))) == 0

    assert status_of(fork(child)) == 0
    assert cache.usage().entries == 3


def test_forks_while_threads_fill_lose_nothing_on_either_side(cache: casstore.Cache) -> None:
    fill(cache, key_of("parent"), b"parent")
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(name: str) -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                fill(cache, key_of(name), b"%d" % number, f"e{number}")
                assert read(cache, key_of(name)) == b"%d" % number
        except BaseException as error:  # noqa: BLE001 - the test shows it
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    statuses = [status_of(fork(lambda n=n: _read_and_fill(cache.root, f"child{n}"))) for n in range(20)]  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 20
    assert wrong == []
    assert cache.usage().entries == 1 + 4 + 20
