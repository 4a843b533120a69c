"""Hostile keys in a real store: each has its own row, its own entry, its own place on disk, none outside."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import casstore
from casstore import Cache, Key, Validator
from casstore.format.digest import Digest, new_hasher
from casstore.format.layout import Layout, LeaseLayout, component_name
from casstore.leases.lease import Lease
from tests.casstore.support.fill import edited_views, fill, read, run

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
    views = cache.lease.paths.path + "/views"
    names = {
        os.path.relpath(os.path.join(at, name), cache.root)
        for at, directories, files in os.walk(cache.root)
        for name in (*directories, *files)
    }
    derived = {name for name in names if not name.startswith(os.path.relpath(views, cache.root))}
    fixed = {"CACHEDIR.TAG", "index-v1/CURRENT"}
    assert all(re.fullmatch(r"[a-z0-9/.-]+", name) for name in derived - fixed), derived
    assert len({name.casefold() for name in derived}) == len(derived)


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


def test_hostile_keys_leave_nothing_outside_the_store(cache: Cache, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    outside = {path for path in before if not str(path).startswith(cache.root)}
    for uri, data in put(cache, HOSTILE).items():
        entry = cache.stat(uri)
        assert entry is not None
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        view = cache.view(entry, descriptor, "bucket", uri.removeprefix("s3://bucket/"))
        os.close(descriptor)
        assert Path(view).read_bytes() == data
        assert os.path.realpath(view).startswith(os.path.realpath(cache.lease.paths.path) + "/views/")
    assert {path for path in tmp_path.rglob("*") if not str(path).startswith(cache.root)} == outside
    path = Path(cache.lease.paths.path)
    cache.close()
    assert not path.exists(), "whatever the keys were, the lease could be removed"


# --- views ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lease() -> Iterator[Lease]:
    with tempfile.TemporaryDirectory() as directory:
        layout = Layout(directory)
        for name in layout.directories():
            os.makedirs(name, exist_ok=True)
        lease = Lease(layout, "copy")
        yield lease
        lease.close()


def _view(lease: Lease, item: Object, data: bytes) -> str:
    origin, bucket, key = item
    hasher = new_hasher("xxh3-128")
    hasher.update(data)
    with tempfile.TemporaryFile() as source:
        source.write(data)
        source.flush()
        return lease.view(
            Key(f"s3://{bucket}/{key}", origin),
            Digest("xxh3-128", hasher.digest()),
            len(data),
            source.fileno(),
            bucket,
            key,
        )


@settings(max_examples=60)
@given(st.lists(objects, min_size=1, max_size=8, unique=True))
def test_views_of_any_objects_lie_beside_each_other_with_their_own_bytes(items: list[Object]) -> None:
    with _lease() as lease:
        views = {_view(lease, item, repr(item).encode()): item for item in items}
        assert len(views) == len(items)
        for path, item in views.items():
            assert Path(path).read_bytes() == repr(item).encode()
            assert os.path.normpath(path) == path
            assert path.startswith(lease.paths.path + "/views/")
            assert all(0 < len(os.fsencode(part)) <= 255 for part in path.split("/")[1:])


def test_an_object_beside_a_prefix_of_its_name_moves_to_the_next_tree() -> None:
    for order in itertools.permutations(["x", "x/y", "x/y/z"]):
        with _lease() as lease:
            views = {name: _view(lease, ("s3", "b", name), name.encode()) for name in order}
            assert {Path(view).read_text() for view in views.values()} == {*order}
            trees = {
                name: view.removeprefix(LeaseLayout(lease.paths.path).view_tree(0)[:-1])[0]
                for name, view in views.items()
            }
            assert sorted(trees.values()) == ["0", "1", "2"]


def test_a_name_that_the_file_system_takes_for_another_moves_to_the_next_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a file system without case does with "Case" beside "case": the second finds its name taken.
    folded = lambda component: component_name(component.casefold())  # noqa: E731
    monkeypatch.setattr("casstore.format.layout.component_name", folded)
    with _lease() as lease:
        upper, lower = (_view(lease, ("s3", "b", name), name.encode()) for name in ("d/Case", "D/case"))
        assert upper != lower
        assert (Path(upper).read_bytes(), Path(lower).read_bytes()) == (b"d/Case", b"D/case")


def test_a_view_has_a_name_in_a_locale_without_its_letters(tmp_path: Path) -> None:
    code = (
        "import os, sys; from casstore.format.layout import view_path\n"
        "keys = ('\\u65e5', '\\u65e6', '\\xe9', 'x' * 250 + '\\u65e5')\n"
        "names = [view_path(sys.argv[1], 's3', 'b', key) for key in keys]\n"
        "assert len(set(names)) == 4\n"
        "for name in names: os.makedirs(os.path.dirname(name), exist_ok=True); open(name, 'x').close()\n"
        "print(sys.getfilesystemencoding())"
    )
    done = run(code, str(tmp_path), LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.stderr, done.returncode) == ("", 0)
    if done.stdout == "utf-8\n":
        pytest.skip("this platform's file names are UTF-8 in every locale")
    assert len(list((tmp_path / "s3/b").iterdir())) == 4


def test_an_edit_of_a_view_is_told_with_its_key(root: Path) -> None:
    cache = casstore.open(root)
    for uri in put(cache, ["a\nb", "\udcff", "..", "n" * 300]):
        entry = cache.stat(uri)
        assert entry is not None
        descriptor = cache.open_entry(entry)
        assert descriptor is not None
        view = Path(cache.view(entry, descriptor, "bucket", uri.removeprefix("s3://bucket/"), "copy"))
        os.close(descriptor)
        before = view.read_bytes()
        view.write_bytes(b"edited")
        assert [edited.key.uri for edited in edited_views(cache)] == [uri]
        view.write_bytes(before)
