"""The pure half of a path answers as `PurePosixPath` and as cloudpathlib do, except where we mean otherwise."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pytest
from cloudpathlib.local import LocalS3Client
from hypothesis import assume, given
from hypothesis import strategies as st

from pathapi.clouds.file import FilePath
from pathapi.common.uri import Uri
from pathapi.exceptions import AnyPathTypeError, InvalidPrefixError
from pathapi.path.pure_path import PureCloudPath


class S3Path(PureCloudPath):
    __slots__ = ()
    cloud_prefix = "s3://"


class GSPath(PureCloudPath):
    __slots__ = ()
    cloud_prefix = "gs://"


# --- against pathlib -------------------------------------------------------------------------------------------------

NAMES = st.text(
    st.sampled_from("ab.. *[]?%#é\n~-") | st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=8,
).filter(lambda name: name not in (".", ".."))
KEYS = st.lists(NAMES, min_size=1, max_size=5)
SEGMENTS = st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "/"]) | NAMES, max_size=5).map("/".join)


def both(names: list[str]) -> tuple[S3Path, PurePosixPath]:
    """The same names as a cloud path and as an absolute path, of which the first name is the bucket."""
    return S3Path("s3://bucket/" + "/".join(names)), PurePosixPath("/bucket", *names)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        value = call()
    except (ValueError, TypeError, NotImplementedError) as error:
        return type(error)
    if isinstance(value, PurePosixPath):
        return f"relative {value}"
    if isinstance(value, tuple | list):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)


@given(names=KEYS)
def test_names_are_those_of_pathlib(names: list[str]) -> None:
    cloud, pure = both(names)
    assert cloud.name == pure.name
    assert cloud.stem == pure.stem
    assert cloud.suffix == pure.suffix
    assert cloud.suffixes == pure.suffixes
    assert cloud.parts == ("s3://", *pure.parts[1:])
    assert str(cloud.parent) == f"s3:/{pure.parent}"
    assert [str(parent) for parent in cloud.parents] == [f"s3:/{parent}" for parent in pure.parents][:-1]


@given(names=KEYS, new=NAMES | st.sampled_from(["", ".", "a/b", "/", "x.", ".x", ".x.y", "x/"]))
def test_replaced_names_are_those_of_pathlib(names: list[str], new: str) -> None:
    cloud, pure = both(names)
    for method in ("with_name", "with_stem", "with_suffix"):
        expected = outcome(lambda method=method: f"s3:/{getattr(pure, method)(new)}")  # type: ignore[misc]
        assert outcome(lambda method=method: getattr(cloud, method)(new)) == expected, method  # type: ignore[misc]


@given(names=KEYS, segments=st.lists(SEGMENTS, max_size=3))
def test_joins_are_those_of_pathlib_resolved(names: list[str], segments: list[str]) -> None:
    # An absolute segment, or a climb, may name another bucket, and with these it would be no bucket's name.
    assume(not any(set(":@") & set(segment) for segment in segments))
    cloud, pure = both(names)
    resolved: list[str] = []
    for part in pure.joinpath(*segments).parts[1:]:
        resolved = resolved[:-1] if part == ".." else [*resolved, part]
    assert str(cloud.joinpath(*segments)) == "s3://" + "/".join(resolved)
    step = cloud
    for segment in segments:
        step = step / segment
    assert step == cloud.joinpath(*segments)


@given(names=KEYS, base=KEYS, shared=st.integers(0, 5))
def test_relative_paths_are_those_of_pathlib(names: list[str], base: list[str], shared: int) -> None:
    base = names[:shared] + base[shared:]
    (cloud, pure), (cloud_base, pure_base) = both(names), both(base)
    assert outcome(lambda: cloud.relative_to(cloud_base)) == outcome(lambda: pure.relative_to(pure_base))
    assert cloud.is_relative_to(cloud_base) is pure.is_relative_to(pure_base)
    climbed = cloud.relative_to(cloud_base, walk_up=True)
    assert cloud_base / climbed == cloud


@given(
    names=st.lists(st.sampled_from(["a", "b", "ab", "a.x", "A"]), min_size=1, max_size=4),
    pattern=st.lists(
        st.sampled_from(["a", "*", "?", "a*", "[ab]", "[!a]", "*.x", "**", "bucket"]), min_size=1, max_size=4
    ),
    absolute=st.booleans(),
)
def test_matching_from_the_right_is_that_of_pathlib(names: list[str], pattern: list[str], absolute: bool) -> None:
    # pathlib lets "*" match the root's "/", which is no name here.
    assume(len(pattern) <= len(names) + 1)
    cloud, pure = both(names)
    text = "/" * absolute + "/".join(pattern)
    assert cloud.match(text) is pure.match(text)


@given(left=KEYS, right=KEYS)
def test_order_and_equality_are_those_of_the_parts(left: list[str], right: list[str]) -> None:
    (a, pure_a), (b, pure_b) = both(left), both(right)
    # By parts: what cloudpathlib promises, and not what every version of pathlib does.
    assert (a < b) is (pure_a.parts < pure_b.parts)
    assert (a <= b) is (pure_a.parts <= pure_b.parts)
    assert (a > b) is (pure_a.parts > pure_b.parts)
    assert (a >= b) is (pure_a.parts >= pure_b.parts)
    assert (a == b) is (pure_a == pure_b)
    assert hash(a) == hash(S3Path(str(a)))


# --- against cloudpathlib --------------------------------------------------------------------------------------------

URIS = [
    "s3://", "s3://b", "s3://b/", "s3://my.bucket", "s3://b/k", "s3://b/k/", "s3://b/a/b", "s3://b/a/b/", "s3://b/a/b/c/d/e",
    "s3://b/a.txt", "s3://b/a.tar.gz", "s3://b/.hidden", "s3://b/.hidden.txt", "s3://b/a.", "s3://b/a..b", "s3://b/..a",
    "s3://b/...", "s3://b/a b/c d.txt", "s3://b/é/ü.txt", "s3://b/日本/語.txt", "s3://b/50%25.txt", "s3://b/a%2Fb.txt",
    "s3://b/what?.txt", "s3://b/a#1.txt", "s3://b/a?b=c#d", "s3://b/a&b=c", "s3://b/a+b", "s3://b/a:b", "s3://b/C:/x",
    "s3://b/a\\b.txt", "s3://b/line\nend.txt", "s3://b/tab\t.x", "s3://b/ ", "s3://b/ a", "s3://b/a ", "s3://b/~/x",
    "s3://b/*", "s3://b/[a].txt", "s3://b/a/b.c/d", "s3://b/year=2024/month=01/p.parquet", "s3://b/s3://c/k", "s3://b/s3:",
    "s3://Bucket/Key", "s3://b/KEY.TXT", "s3://b/k.txt.TXT", "s3://b/" + "d/" * 20 + "x", "s3://b/" + "n" * 300, "s3://b/e\u0301",
    "s3://bb/k", "s3://b-1.c_2/k", "s3://b/0", "s3://b/a/a/a", "s3://b/'\"", "s3://b/$HOME/x", "s3://b/a@b", "s3://b/\U0001f600.x",
    "S3://b/k.txt", "S3://b",
    "s3://b/a//c.txt", "s3://b//c.txt", "s3://b/a/./c.txt", "s3://b/a/../c.txt", "s3://b/a//", "s3://b/..", "s3://b/a/.",
    "s3://arn:aws:s3::123456789012:accesspoint/x.mrap/a/k.txt", "s3://arn:aws:s3::123456789012:accesspoint/x.mrap",
]  # fmt: skip

PROPERTIES = ["anchor", "drive", "bucket", "key", "name", "stem", "suffix", "suffixes", "parent", "parents", "parts"]
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    **{name: lambda path, _make, name=name: getattr(path, name) for name in PROPERTIES},  # type: ignore[misc]
    "str": lambda path, _make: str(path),
    "repr": lambda path, _make: repr(path),
    "as_uri": lambda path, _make: path.as_uri(),
    "absolute": lambda path, _make: path.absolute(),
    "resolve": lambda path, _make: path.resolve(strict=True),
    "is_absolute": lambda path, _make: path.is_absolute(),
    "is_junction": lambda path, _make: path.is_junction(),
    "truediv": lambda path, _make: path / "x.y",
    "truediv deep": lambda path, _make: path / "x/./y//z/",
    "truediv empty": lambda path, _make: path / "",
    "truediv up": lambda path, _make: path / "../up",
    "truediv far up": lambda path, _make: path / "../../../../up",
    "truediv absolute": lambda path, _make: path / "/other/x",
    "truediv pure": lambda path, _make: path / PurePosixPath("x/y"),
    "truediv int": lambda path, _make: path / 1,
    "rtruediv": lambda path, _make: "x" / path,
    "joinpath": lambda path, _make: path.joinpath("x", "../y", "z"),
    "joinpath nothing": lambda path, _make: path.joinpath(),
    "joinpath int": lambda path, _make: path.joinpath(1),
    "with_name": lambda path, _make: path.with_name("n.x"),
    "with_name empty": lambda path, _make: path.with_name(""),
    "with_name slash": lambda path, _make: path.with_name("a/b"),
    "with_stem": lambda path, _make: path.with_stem("s"),
    "with_suffix": lambda path, _make: path.with_suffix(".new"),
    "with_suffix none": lambda path, _make: path.with_suffix(""),
    "with_suffix bad": lambda path, _make: path.with_suffix("new"),
    "with_segments": lambda path, _make: path.with_segments("c", "d", "e.x"),
    "relative_to bucket": lambda path, make: path.relative_to(make("s3://b")),
    "relative_to child": lambda path, make: path.relative_to(make("s3://b/a")),
    "relative_to slash": lambda path, make: path.relative_to(make("s3://b/a/")),
    "relative_to itself": lambda path, _make: path.relative_to(path),
    "is_relative_to": lambda path, make: path.is_relative_to(make("s3://b/a")),
    "match suffix": lambda path, _make: path.match("*.txt"),
    "match two": lambda path, _make: path.match("a/*"),
    "match absolute": lambda path, _make: path.match("/b/*"),
    "match uri": lambda path, _make: path.match("s3://b/*.txt"),
    "match class": lambda path, _make: path.match("[!a]*"),
    "match empty": lambda path, _make: path.match(""),
    "samefile": lambda path, make: path.samefile(make("s3://b/k")),
    "eq": lambda path, make: path == make("s3://b/k"),
    "eq slash": lambda path, make: path == make("s3://b/k/"),
    "lt": lambda path, make: path < make("s3://b/a/b"),
    "ge": lambda path, make: path >= make("s3://b/a/b"),
    "lt text": lambda path, _make: path < "s3://b/a/b",
    "constructor parts": lambda path, make: make(str(path), "x", "/y/", "z"),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where our answer is another one on purpose."""

    reason: str
    uris: tuple[str, ...]
    calls: tuple[str, ...]


READ_AS_GIVEN = (
    "str", "repr", "as_uri", "absolute", "resolve", "constructor parts", "bucket", "key", "anchor", "drive",
    "is_absolute",
)  # fmt: skip
INTERPRETED = tuple(name for name in CALLS if name not in READ_AS_GIVEN)
DIFFERENCES = [
    Difference(
        "cloudpathlib collapses empty and dot names and resolves '..' in the whole key, so that no path "
        "derived from such an object leads back to it; only what is joined is resolved here",
        ("s3://b/a//c.txt", "s3://b//c.txt", "s3://b/a/./c.txt", "s3://b/a/../c.txt", "s3://b/a//", "s3://b/..", "s3://b/a/."),
        INTERPRETED,
    ),
    Difference(
        "the key of an object is 's3://c/k' here; cloudpathlib's pure half sees 's3:/c/k'",
        ("s3://b/s3://c/k",),
        INTERPRETED,
    ),
    Difference(
        "an access point's ARN is the bucket and so one part; cloudpathlib cuts it in two (its double in .bucket too), "
        "and a parent that is half an ARN names nothing",
        ("s3://arn:aws:s3::123456789012:accesspoint/x.mrap/a/k.txt", "s3://arn:aws:s3::123456789012:accesspoint/x.mrap"),
        (*INTERPRETED, "bucket", "drive", "key"),
    ),
    Difference(
        "cloudpathlib lets pathlib's own empty sequence out, and a pattern match the slash that it puts first",
        ("s3://",),
        ("parents", "match class"),
    ),
    Difference(
        "a terminal shows a repr; cloudpathlib lets a name move its cursor",
        ("s3://b/line\nend.txt", "s3://b/tab\t.x"),
        ("repr",),
    ),
    Difference(
        "without its suffix the name would be '.', which cloudpathlib turns into the parent where pathlib lets it",
        ("s3://b/..a",) if sys.version_info < (3, 12) else (),
        ("with_suffix none",),
    ),
]  # fmt: skip
EXPLAINED = {(uri, call) for difference in DIFFERENCES for uri in difference.uris for call in difference.calls}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    root = tmp_path_factory.mktemp("cloudpathlib")
    return LocalS3Client(local_storage_dir=root / "storage", local_cache_dir=root / "cache").CloudPath


def _answers(make: Callable[..., Any], uri: str) -> dict[str, Any]:
    return {name: outcome(lambda call=call: call(make(uri), make)) for name, call in CALLS.items()}  # type: ignore[misc]


@pytest.mark.parametrize("uri", URIS)
def test_every_pure_member_answers_as_cloudpathlib_does(uri: str, theirs: Callable[..., Any]) -> None:
    ours, expected = _answers(S3Path, uri), _answers(theirs, uri)
    different = {name: (ours[name], expected[name]) for name in CALLS if ours[name] != expected[name]}
    assert {name: pair for name, pair in different.items() if (uri, name) not in EXPLAINED} == {}


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.reason[:40])
def test_every_difference_listed_is_one(difference: Difference, theirs: Callable[..., Any]) -> None:
    for uri in difference.uris:
        assert _answers(S3Path, uri) != _answers(theirs, uri), difference.reason


# --- our own --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "parts", "parent"),
    [
        ("s3://b/a//c", ("b", "a", "", "c"), "s3://b/a//"),
        ("s3://b/a//", ("b", "a", ""), "s3://b/a"),
        ("s3://b//c", ("b", "", "c"), "s3://b//"),
        ("s3://b//", ("b", ""), "s3://b"),
        ("s3://b/a/../c", ("b", "a", "..", "c"), "s3://b/a/.."),
        ("s3://b/./c", ("b", ".", "c"), "s3://b/."),
    ],
)
def test_every_legal_key_keeps_a_path_of_its_own(uri: str, parts: tuple[str, ...], parent: str) -> None:
    path = S3Path(uri)
    assert str(path) == uri
    assert path.parts == ("s3://", *parts)
    assert str(path.parent) == parent
    assert path.key.removesuffix("/") == path.parent.uri.prefix + path.name


@given(names=st.lists(NAMES | st.sampled_from(["", ".", ".."]), max_size=5), joined=NAMES)
def test_a_joined_name_lies_in_the_listing_of_the_path_it_was_joined_to(names: list[str], joined: str) -> None:
    path = S3Path("s3://b/" + "".join(f"{name}/" for name in names))
    child = path / joined
    assert child.key == path.uri.prefix + joined
    assert child.parent.uri.prefix == path.uri.prefix
    assert child.parent.parts == path.parts


@given(prefix=st.lists(NAMES | st.sampled_from(["", ".", ".."]), max_size=5))
def test_a_listed_directory_is_listed_by_its_own_prefix(prefix: list[str]) -> None:
    text = "".join(f"{name}/" for name in prefix)
    path = S3Path("s3://b/k")._at_prefix(text)
    assert path.uri.prefix == text
    assert path == S3Path(str(path))
    if not text.endswith("//") and text != "/":
        assert not str(path).endswith("/")


@given(key=st.text(st.sampled_from("/.a?#%\n"), min_size=1))
def test_a_listed_object_has_the_key_that_the_listing_said(key: str) -> None:
    assert S3Path("s3://b/x/y")._at_key(key).key == key
    assert FilePath("file:///x/y")._at_key(key).key == key


def test_file_paths_have_no_drive_and_a_root_that_is_a_parent() -> None:
    path = FilePath("file:///a/b.txt")
    assert (path.drive, path.bucket, path.key) == ("", "", "a/b.txt")
    assert path.parts == ("file://", "a", "b.txt")
    assert [str(parent) for parent in path.parents] == ["file:///a", "file:///"]
    assert str(path.parent.parent.parent) == "file:///"
    assert str(path / "../../../c") == "file:///c"
    assert str(path.with_segments("x", "y")) == "file:///x/y"
    assert str(FilePath("file://", "a")) == "file:///a"


def test_text_keeps_its_case_and_derived_paths_take_the_usual_one() -> None:
    path = S3Path("S3://b/d/k")
    assert (str(path), path.uri) == ("S3://b/d/k", Uri("S3", "b", "d/k"))
    assert str(path.parent) == "s3://b/d"
    assert path != S3Path("s3://b/d/k")
    assert path.uri.canonical == S3Path("s3://b/d/k").uri.canonical


def test_every_derived_path_keeps_the_client() -> None:
    client = object()
    path = S3Path("s3://b/a/k.txt", client=client)
    derived = [path.parent, *path.parents, path / "x", path.joinpath("x"), path.with_name("x"), path.with_stem("x")]
    derived += [path.with_suffix(".x"), path.with_segments("c"), path._at_key("x"), path._at_prefix("x/")]
    derived += [path.absolute(), S3Path(path), S3Path(path, "x")]
    assert all(each._client is client for each in derived)
    assert S3Path("s3://b")._client is None


def test_paths_of_two_classes_are_neither_equal_nor_ordered() -> None:
    class Other(S3Path):
        __slots__ = ()

    assert S3Path("s3://b/k") != Other("s3://b/k")
    assert S3Path("s3://b/k") != "s3://b/k"
    with pytest.raises(TypeError):
        assert S3Path("s3://b/k") < GSPath("gs://b/k")


def test_paths_of_two_clouds_are_not_relative() -> None:
    with pytest.raises(ValueError, match="s3:// path, but"):
        S3Path("s3://b/k").relative_to(GSPath("gs://b"))
    assert not S3Path("s3://b/k").is_relative_to(GSPath("gs://b"))


@pytest.mark.parametrize(
    ("path", "other", "expected"),
    [
        ("s3://b/x/y", "s3://b/z/w", "../../x/y"),
        ("s3://b/x", "s3://b/x/y/z", "../.."),
        ("s3://b/x", "s3://c/y", "../../b/x"),
        ("s3://b/x", "s3://b/x", "."),
    ],
)
def test_relative_paths_can_walk_up_on_every_python(path: str, other: str, expected: str) -> None:
    assert S3Path(path).relative_to(S3Path(other), walk_up=True) == PurePosixPath(expected)


def test_text_is_taken_where_pathlib_takes_text() -> None:
    path = S3Path("s3://b/a/k.txt")
    assert (
        path.samefile("s3://b/a/k.txt") and path.samefile("S3://b/a/k.txt") and path.samefile(S3Path("S3://b/a/k.txt"))
    )
    assert not path.samefile("s3://b/a/k") and not path.samefile("/b/a/k.txt") and not path.samefile(None)
    assert path.is_relative_to("s3://b/a") and path.is_relative_to("S3://b/a")
    assert not path.is_relative_to("s3://b/b") and not path.is_relative_to("gs://b/a") and not path.is_relative_to("/b")
    assert path.relative_to("s3://b") == PurePosixPath("a/k.txt")
    with pytest.raises(ValueError, match="is a cloud path, but b is not"):
        path.relative_to("b")
    assert path.match(PurePosixPath("*.txt")) and path.full_match(PurePosixPath("/a/*.txt"))


def test_a_subclass_passes_on_what_it_has_by_its_own_with_segments() -> None:
    class Session(S3Path):
        def __init__(self, *segments: Any, session: int, client: Any = None) -> None:
            super().__init__(*segments, client=client)
            self.session = session

        def with_segments(self, *segments: Any) -> Session:
            return type(self)(*segments, session=self.session)

    path = Session("s3://b/a/k.txt", session=7)
    derived = [
        path / "x",
        path.parent,
        *path.parents,
        path.with_suffix(".y"),
        path._at_key("a/b"),
        path.joinpath("../.."),
    ]
    assert [each.session for each in derived] == [7] * len(derived)
    assert [str(each) for each in derived[:3]] == ["s3://b/a/k.txt/x", "s3://b/a", "s3://b/a"]


def test_a_literal_dot_dot_cannot_be_walked_up() -> None:
    with pytest.raises(ValueError, match="cannot be walked"):
        S3Path("s3://b/x").relative_to(S3Path("s3://b/y/.."), walk_up=True)


@pytest.mark.parametrize(
    ("uri", "pattern", "expected"),
    [
        ("s3://b/a.txt", "s3://b/*.txt", True),
        ("s3://b/a.txt", "s3://*/*.txt", True),
        ("s3://b/a.txt", "s3://c/*.txt", False),
        ("s3://bb/a.txt", "s3://b/**", False),
        ("s3://b/d/a.txt", "s3://b/*.txt", False),
        ("s3://b/d/a.txt", "s3://b/**/*.txt", True),
        ("s3://b/a.txt", "s3://b/**/*.txt", True),
        ("s3://b/d/e/a.txt", "/d/**/a.txt", True),
        ("s3://b/d/a.txt", "/d/**", True),
        ("s3://b/d", "/d/**", False),
        ("s3://b/d", "/**", True),
        ("s3://b", "/**", True),
        ("s3://b/d/a.txt", "**/*.txt", True),
        ("s3://b/d/a.txt", "**", True),
        ("s3://b/a.txt", "*.txt", False),
        ("s3://b/d/a.txt", "d/a.txt", False),
        ("s3://b/d/", "/d", True),
    ],
)
def test_a_full_match_covers_the_whole_path(uri: str, pattern: str, expected: bool) -> None:
    assert S3Path(uri).full_match(pattern) is expected


def test_matching_can_ignore_case() -> None:
    path = S3Path("s3://b/D/A.TXT")
    assert path.match("*.txt", case_sensitive=False) and not path.match("*.txt") and not path.match("*.txt", True)
    assert path.full_match("/d/*.txt", case_sensitive=False) and not path.full_match("/d/*.txt")


@pytest.mark.parametrize("value", ["gs://b/k", "b/k", "", Path("s3://b/k"), PurePath("x")])
def test_what_has_another_prefix_is_refused(value: Any) -> None:
    with pytest.raises(InvalidPrefixError):
        S3Path(value)
    assert not S3Path.is_valid_cloudpath(value)


@pytest.mark.parametrize("value", [None, 1, b"s3://b/k"])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(AnyPathTypeError, match=type(value).__name__):
        S3Path(value)


def test_no_way_leads_to_a_path_that_no_cloud_can_have() -> None:
    path = S3Path("s3://b/k")
    makes: list[Callable[[], S3Path]] = [
        lambda: S3Path("s3://b/a\0"),
        lambda: S3Path("s3://b", "a\0"),
        lambda: S3Path("s3:///k"),
        lambda: path / "a\0",
        lambda: path.joinpath("x", "\0"),
        lambda: path.with_segments("c", "\0"),
        lambda: path.with_name("a\0"),
        lambda: path.with_suffix(".\0"),
    ]
    for make in makes:
        with pytest.raises(ValueError, match=r"NUL|bucket|null"):
            make()


def test_joining_two_cloud_paths_is_refused_without_asking_for_a_local_path() -> None:
    class Downloads(S3Path):
        def __fspath__(self) -> str:
            raise AssertionError("a download")

    path = Downloads("s3://b/k")
    with pytest.raises(TypeError):
        path / path  # type: ignore[operator]
    with pytest.raises(TypeError, match="whole URI"):
        path.joinpath(path)
    with pytest.raises(ValueError, match="absolute"):
        "x" / path
    assert S3Path(path) == S3Path("s3://b/k")


def test_a_path_survives_pickling() -> None:
    path = S3Path("s3://b/a//k")
    assert path.parts and pickle.loads(pickle.dumps(path)) == path


def test_a_hundred_thousand_children_are_made_within_a_second() -> None:
    bucket = S3Path("s3://b")
    began = time.process_time()
    children = [bucket._at_key(f"data/{number:06}.bin") for number in range(100_000)]
    assert time.process_time() - began < 1
    assert len(set(children)) == 100_000
