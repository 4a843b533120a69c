"""Globbing keys gives what `pathlib` gives on the same tree, and asks for no more listings than it must."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from casstore import Validator
from pathapi.backend import ObjectInfo, Prefix
from pathapi.exceptions import CloudPathNotImplementedError
from pathapi.metadata.globbing import Match, Pattern, Visit, compile_component, compile_pattern, walk_levels, walk_tree


class Listing:
    """Keys as a cloud lists them, and the prefixes that were asked for."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = sorted(keys, key=str.encode)
        self.asked: list[str] = []
        self.given = 0

    def flat(self, prefix: str) -> Iterator[ObjectInfo]:
        self.asked.append(prefix)
        for key in self.keys:
            if key.startswith(prefix):
                self.given += 1
                yield ObjectInfo(key, Validator(etag="e", size=1))

    def level(self, prefix: str) -> Iterator[ObjectInfo | Prefix]:
        self.asked.append(prefix + "|")
        folded: set[str] = set()
        for key in self.keys:
            if not key.startswith(prefix):
                continue
            end = key.find("/", len(prefix)) + 1
            if not end:
                yield ObjectInfo(key, Validator(etag="e", size=1))
            elif key[:end] not in folded:
                folded.add(key[:end])
                yield Prefix(key[:end])

    def glob(
        self,
        pattern: str,
        base: str = "",
        *,
        case_sensitive: bool | None = None,
        anywhere: bool = False,
        flat: bool = False,
    ) -> list[Match]:
        compiled = compile_pattern(pattern, case_sensitive, anywhere=anywhere)
        return list(compiled.select(base, self.flat, self.level, prefers_flat=flat))


def names(matches: Sequence[Match]) -> list[str]:
    return [match.key for match in matches]


TREE = ["a.txt", "b.TXT", "sub/c.txt", "sub/d.bin", "sub/deep/e.txt", "sub-1/f.txt", ".hidden/g", "x", "x-1", "y/"]

NAMES = ["a", "b", "ab", "A", ".h", "a.x", "*", "[", "a\nb", "é"]
TREES = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join), max_size=12)
COMPONENTS = st.sampled_from(
    ["a", "b", "*", "**", "?", "a*", "*b", "*.x", "[ab]", "[!a]", "[!a]*", "a?b", "[", "[a", "[[]", "[]]", "[a-b]*"]
    + ["[b-a]", "A", "a.[xy]", ".*", "*?", "**a", "é", "***"]
)
PATTERNS = st.builds(
    lambda parts, end: "/".join(parts) + end, st.lists(COMPONENTS, min_size=1, max_size=4), st.sampled_from(["", "/"])
)


def _plant(keys: Sequence[str], root: Path) -> list[str]:
    """Make files of those *keys* whose parents are not files already."""
    planted: list[str] = []
    for key in keys:
        if any(key == other or key.startswith(other + "/") or other.startswith(key + "/") for other in planted):
            continue
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        planted.append(key)
    return planted


def _expected(root: Path, pattern: str, *, recursive: bool) -> set[tuple[str, bool]]:
    found = root.rglob(pattern) if recursive else root.glob(pattern)
    return {(path.relative_to(root).as_posix(), path.is_dir()) for path in found}


def _is_older_pathlib(pattern: str) -> bool:
    """Before 3.13, a last ``**`` gave directories only, and ``**`` inside a name was an error."""
    parts = pattern.rstrip("/").split("/")
    return sys.version_info < (3, 13) and (
        parts[-1] == "**" or any("**" in part and part != "**" for part in parts) or pattern.endswith("/")
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*/**", ["d/", "d/e", "d/g/", "d/g/h"]), ("*/*/**", ["d/g/", "d/g/h"]), ("F/**", []), ("D/**/", ["d/", "d/g/"])],
)
def test_a_last_deep_component_is_below_a_directory(pattern: str, expected: list[str]) -> None:
    listing = Listing(["d/e", "d/g/h", "f"])
    assert names(listing.glob(pattern, case_sensitive=False)) == expected


@settings(max_examples=250, deadline=None)
@given(tree=TREES, pattern=PATTERNS, recursive=st.booleans())
@example(tree=["a/b/a/x", "a/x"], pattern="**/a/**/x", recursive=False)
@example(tree=["ab/a/x", "a/ab/x"], pattern="**/a/*", recursive=False)
@example(tree=["a/b", "a.x"], pattern="*/", recursive=False)
@example(tree=["a/b", "x"], pattern="*/**", recursive=True)
@example(tree=["a/b/a", "a/a/a/b"], pattern="a/**/a", recursive=True)
def test_keys_match_as_files_do(tree: list[str], pattern: str, recursive: bool) -> None:
    if _is_older_pathlib(pattern):
        return
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        keys = _plant(tree, root)
        if not keys:
            return
        matches = Listing(keys).glob(pattern, anywhere=recursive)
        assert sorted(names(Listing(keys).glob(pattern, anywhere=recursive, flat=True))) == sorted(names(matches))
        found = [(match.key.removesuffix("/") or ".", match.info is None) for match in matches]
        assert len(found) == len(set(found)), "each once"
        assert set(found) == _expected(root, pattern, recursive=recursive)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", ["", ".hidden/", ".hidden/g", "a.txt", "b.TXT", "sub-1/", "sub-1/f.txt", "sub/", "sub/c.txt"]
         + ["sub/d.bin", "sub/deep/", "sub/deep/e.txt", "x", "x-1", "y/"]),
        ("**/", ["", ".hidden/", "sub-1/", "sub/", "sub/deep/", "y/"]),
        ("*", [".hidden/", "a.txt", "b.TXT", "sub-1/", "sub/", "x", "x-1", "y/"]),
        ("sub/**", ["sub/", "sub/c.txt", "sub/d.bin", "sub/deep/", "sub/deep/e.txt"]),
        ("sub/**/*", ["sub/c.txt", "sub/d.bin", "sub/deep/", "sub/deep/e.txt"]),
        ("**/x", ["x"]),
        ("./sub//*.bin", ["sub/d.bin"]),
    ],
)  # fmt: skip
def test_double_star_means_what_it_means_since_python_3_13(pattern: str, expected: list[str]) -> None:
    assert names(Listing(TREE).glob(pattern)) == expected


@pytest.mark.parametrize(
    ("pattern", "asked"),
    [
        ("sub/*.txt", ["sub/|"]),
        ("*", ["|"]),
        ("sub/deep/e.txt", ["sub/deep/e.txt|"]),
        ("sub/d*", ["sub/d|"]),
        ("sub*/*.txt", ["sub|", "sub-1/|", "sub/|"]),
        ("sub*/deep/e*", ["sub|", "sub-1/deep/e|", "sub/deep/e|"]),
        ("**/*", [""]),
        ("sub/**/*.txt", ["sub/"]),
        ("sub/d*/**", ["sub/d"]),
    ],
)
def test_no_more_is_listed_than_the_pattern_needs(pattern: str, asked: list[str]) -> None:
    listing = Listing(TREE)
    listing.glob(pattern)
    assert listing.asked == asked


@pytest.mark.parametrize(
    ("pattern", "asked"), [("sub*/*.txt", ["sub"]), ("*/deep/e*", [""]), ("sub/d*", ["sub/d|"]), ("*/", ["|"])]
)
def test_one_flat_listing_serves_wildcards_before_the_last_part(pattern: str, asked: list[str]) -> None:
    listing = Listing(TREE)
    listing.glob(pattern, flat=True)
    assert listing.asked == asked


@pytest.mark.parametrize(("directories", "asked"), [(2, ["", "|", "d000/m|", "d001/m|"]), (100, [""])])
def test_large_directories_are_not_listed_for_a_few_names(directories: int, asked: list[str]) -> None:
    each = 24_000 // directories
    keys = [f"d{number // each:03}/{number:06}" for number in range(24_000)]
    listing = Listing([*keys, "d000/meta", "d001/0.meta", "d001/meta", "z"])
    assert sorted(names(listing.glob("*/m*", flat=True))) == ["d000/meta", "d001/meta"]
    assert listing.asked == asked
    assert listing.given == (10_000 if directories == 2 else 24_004)


def test_a_glob_below_a_prefix_stays_below_it() -> None:
    listing = Listing(TREE)
    assert names(listing.glob("**/*.txt", "sub/")) == ["sub/c.txt", "sub/deep/e.txt"]
    assert names(listing.glob("*.txt", "sub/")) == ["sub/c.txt"]
    assert names(listing.glob("**", "sub/deep/")) == ["sub/deep/", "sub/deep/e.txt"]
    assert listing.asked == ["sub/", "sub/|", "sub/deep/"]


def test_objects_carry_what_the_listing_said_and_directories_nothing() -> None:
    for pattern in ("*", "**/*"):
        found = {match.key: match.info for match in Listing(["d/e", "f"]).glob(pattern)}
        assert found["d/"] is None
        assert found["f"] is not None and found["f"].key == "f"


def test_results_come_while_the_listing_arrives() -> None:
    listing = Listing([f"d{number:05}/x" for number in range(10_000)])
    first = next(iter(compile_pattern("**/x").select("", listing.flat, listing.level)))
    assert first.key == "d00000/x"
    assert listing.given == 1


def test_a_name_that_is_object_and_directory_comes_as_both() -> None:
    keys = ["x", "x-1", "x.y/z", "x/y"]
    for pattern in ("*", "**/x*"):
        matches = Listing(keys).glob(pattern)
        assert sorted(names(matches)) == ["x", "x-1", "x.y/", "x/"]
        assert next(match for match in matches if match.key == "x").info is not None


def test_such_a_name_comes_once_when_only_directories_are_wanted() -> None:
    for pattern in ("*/", "**/x/"):
        assert names(Listing(["x", "x/y"]).glob(pattern)) == ["x/"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*", ["/", "a/"]), ("a/*", ["a//", "a/b"]), ("*/*/*", ["//x", "a//c"]), ("**/*", ["/", "//", "//x", "a/", "a//"]
      + ["a//c", "a/b"]), ("a/**/c", ["a//c"])],
)  # fmt: skip
def test_unnamed_directories_are_found_like_others(pattern: str, expected: list[str]) -> None:
    assert sorted(names(Listing(["a//c", "a/b", "//x"]).glob(pattern))) == expected


def test_an_object_that_marks_a_directory_is_only_that_directory() -> None:
    for pattern in ("d/**/*", "d/*"):
        assert Listing(["d/", "d/e/"]).glob(pattern) == [Match("d/e/", None)]


def test_case_can_be_ignored_and_the_listing_is_not_narrowed_by_it() -> None:
    listing = Listing(TREE)
    assert names(listing.glob("*.txt", case_sensitive=False)) == ["a.txt", "b.TXT"]
    assert names(listing.glob("SUB/C.*", case_sensitive=False)) == ["sub/c.txt"]
    assert names(listing.glob("**/D*/E*", case_sensitive=False)) == ["sub/deep/e.txt"]
    assert names(listing.glob("*.txt")) == ["a.txt"]


@pytest.mark.parametrize("pattern", ["/a", "s3://b/*", "../x", "a/../b", "a/.."])
def test_a_pattern_that_leaves_its_directory_is_not_implemented(pattern: str) -> None:
    with pytest.raises(CloudPathNotImplementedError):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["", ".", "./"])
def test_an_empty_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="Unacceptable"):
        compile_pattern(pattern)


def test_two_dots_inside_a_name_are_only_dots() -> None:
    assert names(Listing(["a..b"]).glob("a..*")) == ["a..b"]


def test_an_empty_pattern_anywhere_is_every_directory() -> None:
    assert names(Listing(["a/b/c", "d"]).glob("", anywhere=True)) == ["", "a/", "a/b/"]


def matches(pattern: Pattern, relative: str, is_dir: bool) -> bool:
    """Return whether *relative*, a key below the starting directory, matches; ``""`` is that directory itself."""
    if relative and not (is_dir and relative.endswith("/")):
        relative += "/"
    return (is_dir or not pattern.directories_only) and pattern.regex.match(relative) is not None


@pytest.mark.parametrize(
    ("pattern", "relative", "is_dir", "expected"),
    [
        ("**", "", True, True),
        ("*", "", True, False),
        ("*", "/", True, True),
        ("*", "a", True, True),
        ("*", "a/", True, True),
        ("*/", "a", False, False),
        ("*/", "a", True, True),
        ("a/*", "a/b", False, True),
        ("a[!b]c", "a/c", False, False),
        ("a?c", "a/c", False, False),
        ("a[+-9]c", "a/c", False, False),
    ],
)
def test_one_key_can_be_asked_about(pattern: str, relative: str, is_dir: bool, expected: bool) -> None:
    assert matches(compile_pattern(pattern), relative, is_dir) is expected


def test_many_wildcards_do_not_take_exponential_time() -> None:
    began = time.thread_time()
    assert not matches(compile_pattern("**/a/" * 8 + "**/b"), "a/" * 60 + "a", False)
    assert compile_component("*a" * 30 + "b")("a" * 2_000) is None
    assert time.thread_time() - began < 10


def _walk_files(root: Path) -> list[tuple[str, list[str], list[str]]]:
    visits = []
    for path, directories, files in os.walk(root):
        relative = Path(path).relative_to(root).as_posix()
        visits.append(("" if relative == "." else relative + "/", sorted(directories), sorted(files)))
    return sorted(visits)


def _shape(visits: Iterator[Visit]) -> list[tuple[str, list[str], list[str]]]:
    return [(visit.key, sorted(visit.dirnames), sorted(visit.files)) for visit in visits]


@settings(max_examples=60, deadline=None)
@given(tree=TREES)
def test_a_walk_sees_the_tree_that_os_walk_sees(tree: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        keys = _plant(tree, Path(directory))
        expected = _walk_files(Path(directory)) if keys else []
        listing = Listing(keys)
        for top_down in (True, False):
            walked = _shape(walk_tree(listing.flat(""), "", top_down=top_down))
            assert sorted(walked) == expected
            order = {key: at for at, (key, _, _) in enumerate(walked)}
            for child, parent in itertools.permutations(order, 2):
                if child.startswith(parent):
                    assert (order[parent] < order[child]) is top_down
            if keys:
                assert _shape(walk_levels(listing.level, "", top_down=top_down)) == walked


def test_bottom_up_gives_a_directory_as_soon_as_the_listing_has_left_it() -> None:
    listing = Listing([f"d{number:04}/x" for number in range(1_000)])
    assert next(walk_tree(listing.flat(""), "", top_down=False)).key == "d0000/"
    assert listing.given == 2


def test_directories_taken_out_of_a_walk_are_not_entered() -> None:
    listing = Listing(["a/b/c", "d/e"])
    for walk in (walk_tree(listing.flat(""), ""), walk_levels(listing.level, "")):
        seen = []
        for visit in walk:
            seen.append(visit.key)
            visit.dirnames[:] = [name for name in visit.dirnames if name != "a"]
        assert seen == ["", "d/"]
    assert listing.asked == ["", "|", "d/|"]


def test_a_walk_below_a_prefix_sees_unnamed_and_marked_directories() -> None:
    listing = Listing(["p/", "p//x", "p/d/", "p/f", "p/f/g"])
    expected = [("p/", ["", "d", "f"], ["f"]), ("p//", [], ["x"]), ("p/d/", [], []), ("p/f/", [], ["g"])]
    assert _shape(walk_tree(listing.flat("p/"), "p/")) == expected
    assert _shape(walk_levels(listing.level, "p/")) == expected
