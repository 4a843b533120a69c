"""Names on disk: whatever a key is, its view lies inside the tree, in a place of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.format.layout import Layout, component_name, view_path

pieces = st.sampled_from(
    ["..", ".", "", "/", "//", "a", "A", "%", "%2E", "%~", "\0", "\n", "\x7f", "é", "\udcff", "\udcc3\udca9", "~", " "]
) | st.text(st.characters(codec=None), max_size=5)
object_keys = st.lists(pieces, min_size=1, max_size=8).map("".join) | st.integers(200, 1100).map(
    lambda length: "x" * length
)


@given(object_keys)
def test_a_view_never_leaves_its_tree(key: str) -> None:
    path = view_path("/tree", "s3", "bucket", key)
    assert os.path.normpath(path) == path
    assert path.startswith("/tree/s3/bucket/")
    assert "\0" not in path
    assert all(0 < len(os.fsencode(part)) <= 255 for part in path.split("/")[1:])
    assert len(os.fsencode(path)) < 3200
    assert path.count("/") < 140


@given(object_keys, object_keys)
def test_different_keys_have_different_paths(one: str, other: str) -> None:
    assert (view_path("/t", "s3", "b", one) == view_path("/t", "s3", "b", other)) == (one == other)


near = st.tuples(
    st.sampled_from(["s3", "S3", "s3@h:80", "s3@h:80/a", "gs"]),
    st.sampled_from(["b", "B", "..", "b/c", "%"]),
    object_keys,
)


@given(near, near)
def test_different_objects_have_different_paths_and_each_tree_its_own(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (view_path("/t", *one) == view_path("/t", *other)) == (one == other)
    assert view_path("/t/0", *one).removeprefix("/t/0") == view_path("/t/1", *one).removeprefix("/t/1")


@given(st.text(st.characters(codec=None), max_size=300).map(lambda text: text.replace("/", "")))
def test_a_component_is_one_name(component: str) -> None:
    name = component_name(component)
    assert "/" not in name
    assert name not in ("", ".", "..")


def test_long_components_that_begin_alike_stay_apart() -> None:
    names = {component_name("x" * 300 + end) for end in ("", "a", "b")} | {component_name("x" * 221 + "%~")}
    assert len(names) == 4


def test_a_key_that_is_too_long_for_a_path_has_one_of_a_length_that_fits() -> None:
    paths = {view_path("/tree", "s3", "bucket", "/".join([piece * 200] * 40)) for piece in "ab"}
    assert len(paths) == 2
    assert all(len(os.fsencode(path)) < 3200 for path in paths)


def test_what_looks_like_an_escape_is_escaped_itself() -> None:
    alike = ["", "%", ".", "%2E", "..", "%2E%2E", "\n", "%0A", "%250A"]
    assert len({component_name(name) for name in alike}) == len(alike)


def test_ordinary_names_stay_as_they_are() -> None:
    assert view_path("/t", "s3", "b", "data/über alles (1).csv") == "/t/s3/b/data/über alles (1).csv"


@pytest.mark.parametrize(
    "key",
    ["/" * 1024, "\n" * 1024, "é" * 512, "a/" * 511 + "b", "\x01/" * 512, "\udcff" * 300, "../../x", "a//b/", "x\0y"],
)
def test_a_file_can_be_made_at_the_path_of_any_key(key: str, tmp_path: Path) -> None:
    path = view_path(str(tmp_path), "s3+https://host:9000", "bucket", key)
    os.makedirs(os.path.dirname(path))
    with open(path, "xb"):
        pass
    assert os.path.realpath(path).startswith(str(tmp_path))


def test_blobs_lie_in_shards_by_their_first_byte() -> None:
    layout = Layout("/root")
    assert layout.blob(bytes.fromhex("abcdef")) == "/root/blobs/ab/cdef"
    assert layout.blob(bytes.fromhex("abcdef")).startswith(layout.shard(bytes.fromhex("abcdef")) + "/")
