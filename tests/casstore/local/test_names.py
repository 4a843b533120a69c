"""Names of local paths: each key has one of its own below a tree, from which it is read back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore import Key, Place
from casstore.format.layout import MAX_ROOT_BYTES, Layout
from casstore.local.names import directory_name, key_of, local_name, record_of, use_of, uses_of
from tests.casstore.support.fill import run

pieces = st.sampled_from(
    ["..", ".", "", "/", "//", "a", "A", "%", "%2E", "%2F", "%25", "\0", "\n", "\x7f", "é", "\udcff", "\ud800", "+"]
) | st.text(st.characters(codec=None), max_size=5)
names = st.lists(pieces, min_size=1, max_size=8).map("".join) | st.integers(200, 1100).map(lambda count: "x" * count)
places = st.builds(
    lambda origin, bucket, name: Place(Key(f"s3://{bucket}/{name}", origin), bucket, name),
    st.sampled_from(["s3", "S3", "s3@h:80", "s3@h:80/a+b", "s3@h:80/a%2Fb", "gs@[::1]:80", "%"]),
    st.sampled_from(["b", "B", "..", "b/c", "%", "%25"]),
    names,
)


def _place(name: str, bucket: str = "bucket", origin: str = "s3", scheme: str = "s3") -> Place:
    return Place(Key(f"{scheme}://{bucket}/{name}", origin), bucket, name)


@given(places)
def test_a_name_lies_below_its_tree_and_a_file_can_have_it(place: Place) -> None:
    name = local_name(place)
    assert os.path.normpath(name) == name and not name.startswith("/") and "\0" not in name
    assert all(0 < len(os.fsencode(part)) <= 255 for part in name.split("/"))
    assert len(os.fsencode(name)) <= 3072 and name.count("/") < 130
    assert record_of(name) == place.key.name
    assert key_of(name) == (None if name.startswith("%/") else place.key)


@given(places, places)
def test_different_keys_never_share_a_path(one: Place, other: Place) -> None:
    assert (local_name(one) == local_name(other)) == (one.key == other.key)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (_place("data/über alles (1).csv"), "s3/bucket/data/über alles (1).csv"),
        (_place("100%/a%2Fb/%"), "s3/bucket/100%/a%2Fb/%"),
        (_place("a\nb"), "s3/bucket/a\nb"),
        (_place("\udcff"), "s3/bucket/\udcff"),
        (_place("k", origin="s3@https://host:9000/x%"), "s3@https:%2F%2Fhost:9000%2Fx%25/bucket/k"),
        (_place("k", scheme="az", origin="azure@account"), "az+azure@account/bucket/k"),
        (_place("k", scheme="gs", origin="gs"), "gs/bucket/k"),
        (Place(Key("http://host/a?x=1&y=2", "http"), "host", "a?x=1&y=2"), "http/host/a?x=1&y=2"),
        (Place(Key("file:///a/b", "file"), "", "a/b"), "file/a/b"),
        (Place(Key("file:///50%25/a%2520b", "file"), "", "50%/a%20b"), "file/50%/a%20b"),
        # With a login or a signature, the URI is not the name's.
        (Place(Key("http://host/a?token=1", "http"), "host", "a"), None),
        (_place("a//b"), None),
        (_place("dir/"), None),
        (_place("../../escape"), None),
        (_place("x\0y"), None),
        (_place("x" * 256), None),
        (_place("é" * 128), None),
        (_place("a/" * 200 + "b"), None),
        (_place("/".join(["d" * 200] * 16)), None),
    ],
)
def test_a_name_is_the_keys_own_where_a_file_can_have_it_and_its_hash_elsewhere(place: Place, name: str | None) -> None:
    found = local_name(place)
    assert found == name or (name is None and found.startswith(f"%/{place.key.name}/"))
    assert key_of(found) == (None if name is None else place.key)


@pytest.mark.parametrize(
    ("name", "last"),
    [("a//photo.jpg", "photo.jpg"), ("x" * 300 + ".csv", ".csv"), ("/" * 1000, "object"), ("a//..", "object")],
)
def test_a_hashed_name_keeps_the_last_part_and_so_its_suffix(name: str, last: str) -> None:
    assert local_name(_place(name)).endswith(last.lstrip(".") if len(name) < 300 else last)


@pytest.mark.parametrize("name", ["%/hash/name", "s3", "", "%"])
def test_a_path_that_is_nobodys_names_no_key(name: str) -> None:
    assert key_of(name) is None


def test_a_directory_has_the_name_of_its_prefix_and_none_if_no_file_can(tmp_path: Path) -> None:
    assert directory_name(_place("a/b/")) == directory_name(_place("a/b")) == "s3/bucket/a/b"
    assert directory_name(_place("")) == "s3/bucket"
    assert directory_name(_place("a//b")) is None


def test_a_directorys_use_keeps_what_is_below_it() -> None:
    directory = use_of(Key("s3://bucket/a/", "s3"))
    assert directory in uses_of(Key("s3://bucket/a/b/c", "s3"))
    assert directory not in uses_of(Key("s3://bucket/ab", "s3"))
    assert directory not in uses_of(Key("s3://bucket/a/b", "s3@host"))
    assert use_of(Key("s3://bucket/", "s3")) in uses_of(Key("s3://bucket/k", "s3"))


@pytest.mark.parametrize("name", ["/" * 1024, "é" * 512, "a/" * 511 + "b", "\udcff" * 300, "/".join(["d" * 200] * 15)])
def test_a_file_can_be_made_at_the_path_of_any_key_below_the_longest_root(name: str, tmp_path: Path) -> None:
    root = str(tmp_path)
    while len(root) < MAX_ROOT_BYTES:
        root += "/" + "r" * min(250, max(1, MAX_ROOT_BYTES - len(root) - 1))
    tree = f"e{'0' * 16}-{'0' * 16}"
    path = Layout(root[:MAX_ROOT_BYTES]).local_path(f"{tree}/{local_name(_place(name))}")
    os.makedirs(os.path.dirname(path))
    Path(path).touch()
    assert os.path.realpath(path).startswith(str(tmp_path))


def test_a_name_is_one_that_the_locales_encoding_has(tmp_path: Path) -> None:
    code = """
import os, sys
from casstore import Key, Place
from casstore.local.names import local_name
names = ("\\u65e5", "\\u65e6", "\\xe9", "x" * 250 + "\\u65e5")
paths = [f"{sys.argv[1]}/{local_name(Place(Key('s3://b/' + name, 's3'), 'b', name))}" for name in names]
assert len(set(paths)) == 4
for path in paths:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "x").close()
"""
    done = run(code, str(tmp_path), LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.stderr, done.returncode) == ("", 0)
