"""Hostile keys in a real store: each has its own row, its own entry, its own place on disk, none outside."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore import Cache, Key, Validator
from casstore.format.layout import Layout
from tests.casstore.support.fill import edited_files, fill, read, view

HOSTILE = [
    "a/../b", "..", ".", "./x", "f//g", "/j", "//k", "l/", "m//", "/", " ", "a?versionId=1", "a#b", "r%2Fs", "t+u",
    "v\nw", "y\x01\x1b[31mz\x7f", "1024/" + "k" * 1019, "n" * 300, "caf\u00e9", "cafe\u0301", "x", "x/y", "Case",
    "case", "back\\slash", "\U0001f388", "\udcff\udce9", "%", "%~" + "0" * 32, "/".join("d" * 400), "~", "CON",
]  # fmt: skip

pieces = st.sampled_from(
    [
        "..",
        ".",
        "",
        "/",
        "//",
        "a",
        "A",
        "%",
        "%2E",
        "%2F",
        "%~",
        "\n",
        "\x7f",
        "é",
        "e\u0301",
        "\udcff",
        "~",
        " ",
        "x",
        "x/y",
    ]
) | st.text(st.characters(exclude_characters="\0", codec=None), max_size=5)
object_keys = st.lists(pieces, min_size=1, max_size=6).map("".join).filter(bool) | st.integers(200, 1100).map(
    "x".__mul__
)
origins = st.sampled_from(["s3", "gs", "s3@host:80", "s3@host:80/a", "S3", "s3@[::1]:80"])
buckets = st.sampled_from(["b", "B", "b.", "arn:aws:s3::1:accesspoint/x", "bucket", ".."])
objects = st.tuples(origins, buckets, object_keys)

Object = tuple[str, str, str]


def key_of(item: Object) -> Key:
    origin, bucket, key = item
    return Key(f"s3://{bucket}/{key}", origin)


def put(cache: Cache, keys: Sequence[str]) -> dict[str, bytes]:
    held = {f"s3://bucket/{key}": f"{number} {key[:9]!r}".encode() for number, key in enumerate(keys)}
    for uri, data in held.items():
        with cache.begin(Key(uri, "s3")) as filling:
            filling.write(data)
            stored = filling.publish(Validator(len(data), "e1"), ())
        os.close(stored.descriptor)
    cache.flush()
    return held


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths", [range(470, 521), (1023, 1024, 1025), (4000, 4001)], ids=["near 511", "1024", "4000"]
)
def test_long_uris_with_a_common_beginning_are_found_listed_and_evicted_apart(
    cache: Cache, lengths: Sequence[int]
) -> None:
    stem = "s3://bucket/"
    keys = ["k" * (length - len(stem) - 1) + end for length in lengths for end in "abc"]
    held = put(cache, keys)
    for uri, data in held.items():
        entry = cache.stat(uri)
        assert entry is not None
        assert (entry.uri, read(cache, entry.key)) == (uri, data)
        assert cache.stat(uri[:-1] + "d") is None
        assert [entry.uri for entry in cache.entries(uri)] == sorted(other for other in held if other.startswith(uri))
    assert [entry.uri for entry in cache.entries()] == sorted(held)
    gone = next(uri for uri in held if uri.endswith("b"))
    cache.evict(lambda entry: entry.uri == gone)
    assert cache.stat(gone) is None
    assert [entry.uri for entry in cache.entries()] == sorted({*held} - {gone})


def test_directories_below_a_long_prefix_come_in_order_and_once(cache: Cache) -> None:
    stem = "p" * 600 + "/"
    put(cache, [f"{stem}{directory}/{name}" for directory, name in itertools.product("abcd", "12345678")])
    uris = [entry.uri for entry in cache.entries(f"s3://bucket/{stem}")]
    directories = [uri.rpartition("/")[0] for uri in uris]
    assert len(uris) == 32
    assert [directory[-1] for directory, _ in itertools.groupby(directories)] == list("abcd")
    put(cache, ["a" * 600 + end for end in "4213"] + ["b", "z"] + ["q" * 600 + end for end in "4213"])
    uris = [entry.uri for entry in cache.entries()]
    assert uris == sorted(uris)


def test_one_uri_of_two_origins_is_two_entries_however_long(cache: Cache) -> None:
    for uri in ("s3://b/k", "s3://b/" + "k" * 600):
        for origin in ("s3", "s3@a:1", "s3@b:1"):
            fill(cache, Key(uri, origin), origin.encode())
        for origin in ("s3", "s3@a:1", "s3@b:1"):
            entry = cache.stat(uri, origin)
            assert entry is not None
            assert (entry.key.origin, read(cache, entry.key)) == (origin, origin.encode())


# --- what is on disk ------------------------------------------------------------------------------------------------


def test_an_origin_with_a_nul_is_refused() -> None:
    """Else two keys could have the same bytes."""
    with pytest.raises(ValueError, match="contains a NUL"):
        Key("s3://bucket/k", "a\0b")


def test_names_on_disk_are_the_same_on_a_file_system_that_ignores_case(cache: Cache) -> None:
    put(cache, HOSTILE)
    cache.lease.report_progress(Key("s3://bucket/..", "s3").name, 1)
    names = {
        os.path.relpath(os.path.join(at, name), cache.root)
        for at, directories, files in os.walk(cache.root)
        for name in (*directories, *files)
    }
    fixed = {"CACHEDIR.TAG", "index-v1/CURRENT"}
    assert all(re.fullmatch(r"[a-z0-9/.-]+", name) for name in names - fixed), names
    assert len({name.casefold() for name in names}) == len(names)


@given(objects)
def test_every_name_made_of_a_key_is_hex(item: Object) -> None:
    key, layout = key_of(item), Layout("/root")
    assert re.fullmatch("[0-9a-f]{32}", key.name)
    assert layout.pending(key.name) == f"/root/pending/{key.name}"
    assert layout.write_lock(key.name) == f"/root/locks/write/{key.name}"


@given(st.lists(objects, min_size=2, max_size=2, unique=True))
def test_two_objects_have_two_rows_and_two_names(two: list[Object]) -> None:
    one, other = map(key_of, two)
    assert (
        (one.row_key == other.row_key)
        == (one.name == other.name)
        == ((one.uri, one.origin) == (other.uri, other.origin))
    )


def _paths(cache: Cache, keys: Sequence[str]) -> dict[Path, bytes]:
    paths = {}
    for uri, data in put(cache, keys).items():
        entry = cache.stat(uri)
        assert entry is not None
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        paths[Path(view(cache, entry, descriptor, uri.removeprefix("s3://bucket/"), "copy"))] = data
        os.close(descriptor)
    return paths


def test_hostile_keys_have_local_paths_of_their_own_and_leave_nothing_outside_the_store(
    cache: Cache, tmp_path: Path
) -> None:
    outside = {path for path in tmp_path.rglob("*") if not str(path).startswith(cache.root)}
    paths = _paths(cache, HOSTILE)
    assert len(paths) == len(HOSTILE)
    for path, data in paths.items():
        assert path.read_bytes() == data
        assert os.path.realpath(path).startswith(os.path.realpath(cache.layout.local) + "/")
    assert {path for path in tmp_path.rglob("*") if not str(path).startswith(cache.root)} == outside


def test_an_object_beside_a_prefix_of_its_name_moves_to_the_next_tree(cache: Cache) -> None:
    for number, order in enumerate(itertools.permutations(["x", "x/y", "x/y/z"])):
        paths = _paths(cache, [f"{number}/{name}" for name in order])
        assert [path.read_bytes() for path in paths] == [*paths.values()]
        assert sorted(os.path.relpath(path, cache.layout.local).partition("/")[0] for path in paths) == ["0", "1", "2"]


def test_an_edit_of_a_hostile_key_is_told_with_its_key(cache: Cache) -> None:
    for path, data in _paths(cache, ["a\nb", "\udcff", "..", "n" * 300]).items():
        path.write_bytes(b"edited")
        assert edited_files(cache) == [str(path)]
        path.write_bytes(data)
        cache.record_local()
    assert {write.uri for write in cache.pending.all()} == set()
