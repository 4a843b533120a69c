"""Questions: what exists, of which size and time; listings, patterns and walks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.pathapi.drop_in.rigs import Rig

TREE = ("a.txt", "b.csv", "d/a.txt", "d/e/a.txt", "d/e/f.csv", "g/a.txt")


def test_a_file_exists_and_is_no_directory(rig: Rig) -> None:
    rig.plant("d/a.txt")
    path = rig.root / "d/a.txt"
    assert (path.exists(), path.is_file(), path.is_dir()) == (True, True, False)


def test_a_directory_exists_as_long_as_something_is_below(rig: Rig) -> None:
    rig.plant("d/a.txt")
    for path in (rig.directory("d"), rig.root):
        assert (path.exists(), path.is_file(), path.is_dir()) == (True, False, True)


def test_what_is_not_there_is_nothing(rig: Rig) -> None:
    path = rig.root / "nothing"
    assert (path.exists(), path.is_file(), path.is_dir()) == (False, False, False)


def test_questions_below_a_missing_bucket_are_no_error(rig: Rig) -> None:
    rig.skip_if("http", "an unreachable host is an error: see docs/migrating.md")
    path = rig.client.CloudPath(rig.missing_bucket)
    assert path.exists() is False
    rig.skip_peer("gs", "az", "s3", why="the SDK's error, or is_dir() of a bucket is always true")
    for at in (path, path / "k", path / "d/k"):
        assert (at.exists(), at.is_file(), at.is_dir()) == (False, False, False)


def test_a_bucket_exists_though_it_is_empty(rig: Rig) -> None:
    rig.skip_if("http", "a host is no bucket")
    path = rig.client.CloudPath(rig.empty_bucket())
    assert path.exists() and path.is_dir() and not path.is_file()
    assert list(path.iterdir()) == []


def test_the_scheme_alone_lists_its_buckets(rig: Rig) -> None:
    rig.skip_if("http", "hosts are not listed")
    rig.plant("a.txt")
    top = rig.client.CloudPath(rig.root.cloud_prefix)
    found = list(top.iterdir())
    bucket = rig.client.CloudPath(rig.root.cloud_prefix + rig.root.drive)
    rig.skip_peer("gs", why="a bucket's name there is its repr")
    assert bucket in found or (rig.cloud == "s3" and not found), "SeaweedFS lists the buckets of its owner alone"
    assert {type(path) for path in found} <= {type(rig.root)}
    for search in (top.glob, top.rglob):
        with pytest.raises(rig.api.exceptions.CloudPathNotImplementedError):
            list(search("*"))
    told: list[Exception] = []
    assert list(top.walk(on_error=told.append)) == []
    assert isinstance(told[0], NotImplementedError)


def test_stat_says_size_and_time(rig: Rig) -> None:
    rig.plant("a.txt", data=b"12345")
    result = (rig.root / "a.txt").stat()
    assert result.st_size == 5
    assert result.st_mtime > 1_000_000_000


def test_stat_of_nothing_is_no_stat_error(rig: Rig) -> None:
    with pytest.raises(rig.api.exceptions.NoStatError):
        (rig.root / "there/is/nothing").stat()


def test_stat_of_a_directory_is_no_stat_error(rig: Rig) -> None:
    rig.skip_if("http", "an index page has a size and a time")
    rig.plant("d/a.txt")
    with pytest.raises(rig.api.exceptions.NoStatError):
        (rig.root / "d").stat()


def test_info_answers_the_same(rig: Rig) -> None:
    rig.plant("a.txt")
    info = (rig.root / "a.txt").info()
    assert (info.exists(), info.is_file(), info.is_dir(), info.is_symlink()) == (True, True, False, False)


def test_iterdir_lists_the_children_alone(rig: Rig) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent and to other orders, too")
    rig.plant(*TREE)
    assert rig.names(rig.root.iterdir()) == ["a.txt", "b.csv", "d", "g"]
    assert {path.name: (path.is_dir(), path.is_file()) for path in rig.directory("d").iterdir()} == {
        "a.txt": (False, True),
        "e": (True, False),
    }


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["a.txt", "b.csv", "d", "g"]),
        ("*.txt", ["a.txt"]),
        ("*/a.txt", ["d/a.txt", "g/a.txt"]),
        ("*/*", ["d/a.txt", "d/e", "g/a.txt"]),
        ("d/*/*.csv", ["d/e/f.csv"]),
        ("**/*.txt", ["a.txt", "d/a.txt", "d/e/a.txt", "g/a.txt"]),
        ("d/**/*.txt", ["d/a.txt", "d/e/a.txt"]),
        ("**/e/*", ["d/e/a.txt", "d/e/f.csv"]),
        ("none/*", []),
        ("[bg]*", ["b.csv", "g"]),
        ("?.txt", ["a.txt"]),
    ],
)
def test_glob_is_as_of_pathlib(rig: Rig, pattern: str, found: list[str]) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant(*TREE)
    assert rig.names(rig.root.glob(pattern)) == found


def test_rglob_looks_at_every_depth(rig: Rig) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant(*TREE)
    assert rig.names(rig.root.rglob("a.*")) == ["a.txt", "d/a.txt", "d/e/a.txt", "g/a.txt"]


def test_a_pattern_may_be_a_path(rig: Rig) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant(*TREE)
    for pattern in (PurePosixPath("d/*.txt"), rig.root / "d/*.txt"):
        assert rig.names(rig.root.glob(pattern)) == ["d/a.txt"]
    assert rig.names(rig.root.rglob(rig.root / "f.csv")) == ["d/e/f.csv"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("../x", "Relative paths with '..' not supported in glob patterns"),
        ("/x", "Non-relative patterns are unsupported"),
    ],
)
def test_a_pattern_that_leads_elsewhere_is_refused_in_known_words(rig: Rig, pattern: str, words: str) -> None:
    for search in (rig.root.glob, rig.root.rglob):
        with pytest.raises(NotImplementedError, match=words) as caught:
            list(search(pattern))
        assert isinstance(caught.value, rig.api.exceptions.CloudPathNotImplementedError)


def _walked(walk: Any, rig: Rig) -> list[tuple[str, list[str], list[str]]]:
    return [(name, sorted(d), sorted(f)) for (at, d, f) in walk for name in rig.names([at])]


@pytest.mark.parametrize("lazy", [False, True])
def test_walk_goes_from_the_top_or_from_the_bottom(rig: Rig, lazy: bool) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant(*TREE)
    expected = [
        ("", ["d", "g"], ["a.txt", "b.csv"]),
        ("d", ["e"], ["a.txt"]),
        ("d/e", [], ["a.txt", "f.csv"]),
        ("g", [], ["a.txt"]),
    ]
    down = _walked(rig.root.walk(lazy=lazy), rig)
    up = _walked(rig.root.walk(top_down=False, lazy=lazy), rig)
    assert sorted(down) == sorted(up) == expected
    assert down[0] == up[-1] == expected[0]


def test_a_lazy_walk_skips_what_is_taken_out(rig: Rig) -> None:
    rig.skip_peer("http", why="the parser takes links to the parent, too")
    rig.plant(*TREE)
    seen = []
    for at, directories, _ in rig.root.walk(lazy=True):
        seen.append(at)
        directories[:] = [name for name in directories if name != "d"]
    assert rig.names(seen) == ["", "g"]


@pytest.mark.parametrize("lazy", [False, True])
def test_walk_tells_on_error(rig: Rig, lazy: bool) -> None:
    rig.skip_if("http", "an unreachable host takes long")
    told: list[Exception] = []
    top = rig.client.CloudPath(rig.missing_bucket)
    assert list(top.walk(on_error=told.append, lazy=lazy)) == []
    assert len(told) == 1
    with pytest.raises(Exception, match=r"."):
        list(top.walk(lazy=lazy))


@pytest.mark.parametrize("ask", ["read_text", "read_bytes", "open"])
def test_reading_nothing_is_file_not_found(rig: Rig, ask: str) -> None:
    call: Callable[[], object] = getattr(rig.root / "nothing", ask)
    with pytest.raises(rig.api.exceptions.CloudPathFileNotFoundError):
        call()


def test_reading_a_directory_is_is_a_directory(rig: Rig) -> None:
    rig.plant("d/a.txt")
    with pytest.raises(rig.api.exceptions.CloudPathIsADirectoryError):
        rig.directory("d").read_text()


def test_fspath_is_a_file_with_the_bytes(rig: Rig) -> None:
    rig.plant("d/a.txt", data=b"bytes")
    path = rig.root / "d/a.txt"
    for name in (os.fspath(path), path.fspath):
        with open(name, "rb") as file:
            assert file.read() == b"bytes"
        assert name.endswith("a.txt")


def test_a_marker_of_a_directory_is_a_directory(rig: Rig) -> None:
    rig.skip_if("http", "no object can have such a name")
    rig.skip_peer("gs", why="it asks for the marker itself")
    rig.plant("folder/", data=b"")
    rig.plant("folder/k")
    path = rig.client.CloudPath(f"{rig.root}/folder/")
    assert (path.is_dir(), path.is_file()) == (True, False)
    with pytest.raises(rig.api.exceptions.CloudPathIsADirectoryError):
        path.unlink()
    assert rig.raw.content("folder/") == b"" and path.is_dir()
