"""Everything about a cloud path that needs no network: names, parents, joins, comparison.

A path is its text. The text is split at slashes and nothing in it is interpreted, so that every legal key has a path of
its own: in ``s3://b/a//c`` the middle name is empty, in ``s3://b/a/../c`` it is ``..``. One slash at the end belongs to
no name, as in `pathlib`. Only joined segments are interpreted: ``p / "x/../y"`` is ``p / "y"``.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePath, PurePosixPath
from types import ModuleType
from typing import Any, ClassVar, NoReturn, Self, TypeGuard

from casstore import Key, printable
from pathapi.common.uri import Uri
from pathapi.exceptions import InvalidPrefixError, InvalidUriError
from pathapi.metadata.globbing import match_tail, match_whole, split_pattern
from pathapi.reading.entry_scopes import EntryHold
from pathapi.reading.listing_cache import ListedFact


class PureCloudPath:
    """The half of a cloud path that sends no request. A subclass defines its `cloud_prefix`.

    Equality is equality of text and type: ``s3://b/d`` and ``s3://b/d/`` differ, and so do ``S3://b/k`` and
    ``s3://b/k`` although both are one entry of the store (see `Uri.canonical`).
    """

    __slots__ = ("__weakref__", "_client", "_hold", "_key", "_listed", "_names", "_parsed", "_text", "_use")

    cloud_prefix: ClassVar[str]
    """Scheme and ``://``, in the case that derived paths are written in."""
    _in_anchor: ClassVar[int] = 0
    """How many names, from the first, belong to the anchor: no join, parent or ``..`` removes these."""
    _makes_own: ClassVar[bool] = False
    """Whether it has a `with_segments` of its own."""

    _client: Any
    """None until the default client is needed; passed on to every path made from this one."""
    _text: str
    _parsed: Uri | None
    _names: tuple[str, ...] | None
    _key: Key | None
    _listed: ListedFact | None
    _hold: EntryHold | None
    _use: object | None
    """Keeps what `os.fspath` returned from giving way."""

    def __init__(self, cloud_path: str | PureCloudPath, *parts: str, client: Any = None) -> None:
        """Take *cloud_path* as it is; *parts* are appended with single slashes between and are not resolved.

        Raises `InvalidPrefixError` if it does not start with `cloud_prefix`, `InvalidUriError` if the rest cannot name
        anything, `AnyPathTypeError` if it is not text.
        """
        given = str(cloud_path) if isinstance(cloud_path, PureCloudPath | os.PathLike) else cloud_path
        self._check_prefix(given)
        if parts:
            start = given if len(given) > len(self.cloud_prefix) else self._root_text
            names = self._written("/".join(part.strip("/") for part in parts))
            given = (start if start.endswith("/") else start + "/") + names
        self._parsed = Uri.parse(given, schemes=(self._scheme(),))
        self._text = str(given)
        inherited = cloud_path._client if isinstance(cloud_path, PureCloudPath) else None
        self._client = inherited if client is None else client
        self._names = self._key = self._listed = self._hold = self._use = None

    def __init_subclass__(cls) -> None:
        cls._makes_own = cls.with_segments is not PureCloudPath.with_segments

    def _derive(self, uri_text: str) -> Self:
        """Return a path of the same type and client at *uri_text*, which is valid already.

        Runs no ``__init__``, but calls a subclass's own `with_segments`, as `pathlib` does.
        """
        return self.with_segments(uri_text) if self._makes_own else self._make(uri_text)

    def _make(self, uri_text: str) -> Self:
        path = object.__new__(type(self))
        path._client = self._client
        path._text = uri_text
        path._parsed = path._names = path._key = path._listed = path._hold = path._use = None
        return path

    def _at_key(self, key: str) -> Self:
        """Return the path of the object *key* of the same bucket, as a listing names it."""
        uri = self.uri
        bucket = f"{uri.bucket}/" if uri.bucket else ""
        return self._derive(f"{self._root_text}{bucket}{self._written(key)}")

    def _at_prefix(self, prefix: str) -> Self:
        """Return the "directory" *prefix* of the same bucket (``""`` or ending with ``/``), as users write it.

        The slash at the end is left off unless it is the only sign of an unnamed directory (``a//``).
        """
        if prefix in ("", "/") or prefix.endswith("//"):
            return self._at_key(prefix) if prefix else self._derive(self._root_text + self.uri.bucket)
        return self._at_key(prefix[:-1])

    @classmethod
    def from_uri(cls, uri: str) -> Self:
        """The same as calling the class."""
        return cls(uri)

    @classmethod
    def is_valid_cloudpath(cls, path: object, raise_on_error: bool = False) -> TypeGuard[Self]:
        """Return whether *path*, as text, starts with this class's prefix, in any case; nothing else is checked."""
        valid = str(path).lower().startswith(cls.cloud_prefix.lower())
        if raise_on_error and not valid:
            cls._check_prefix(str(path))
        return valid

    @property
    def uri(self) -> Uri:
        """The parsed text."""
        parsed = self._parsed
        if parsed is None:
            parsed = self._parsed = Uri.parse(self._text, schemes=(self._scheme(),))
        return parsed

    @property
    def bucket(self) -> str:
        """Bucket, container or host; empty at ``s3://`` and for ``file://``."""
        return self.uri.bucket

    @property
    def key(self) -> str:
        """The object's name in the bucket, untouched."""
        return self.uri.key

    @property
    def _no_prefix_no_drive(self) -> str:
        # cloudpathlib's name for what `copytree` passes to *ignore*.
        return self._text[len(self.cloud_prefix) + len(self.drive) :]

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{printable(self._text)}')"

    def __hash__(self) -> int:
        return hash((self.cloud_prefix, self._text))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._text == other._text

    def __lt__(self, other: object) -> bool:
        return NotImplemented if not isinstance(other, type(self)) else self._split() < other._split()

    def __le__(self, other: object) -> bool:
        return NotImplemented if not isinstance(other, type(self)) else self._split() <= other._split()

    def __gt__(self, other: object) -> bool:
        return NotImplemented if not isinstance(other, type(self)) else self._split() > other._split()

    def __ge__(self, other: object) -> bool:
        return NotImplemented if not isinstance(other, type(self)) else self._split() >= other._split()

    def as_uri(self) -> str:
        """The text."""
        return self._text

    @property
    def anchor(self) -> str:
        """`cloud_prefix`."""
        return self.cloud_prefix

    @property
    def drive(self) -> str:
        """`bucket`."""
        return self.uri.bucket

    @property
    def parser(self) -> ModuleType:
        """`posixpath`, on every version of Python."""
        return posixpath

    @property
    def parts(self) -> tuple[str, ...]:
        """``("s3://", "bucket", "a", "b.txt")``. An access point's ARN is one part, the bucket."""
        return (self.anchor, *self._split())

    @property
    def name(self) -> str:
        """The last part; of a bucket, the bucket; ``""`` at ``s3://``."""
        names = self._split()
        return names[-1] if names else ""

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePosixPath(self.name).suffixes

    @property
    def parent(self) -> Self:
        """The "directory" that this path is in; ``s3://`` is its own parent."""
        names = self._split()
        return self._from_names(names[: max(len(names) - 1, self._in_anchor)])

    @property
    def parents(self) -> tuple[Self, ...]:
        """From the nearest; the last is the bucket (for ``file``, the root)."""
        names = self._split()
        first = 1 if self.uri.bucket else 0
        return tuple(self._from_names(names[:count]) for count in range(len(names) - 1, first - 1, -1))

    def joinpath(self, *pathsegments: str | os.PathLike[str]) -> Self:
        """Append *pathsegments*: ``..`` removes a name, ``.`` and empty names are skipped.

        A segment that starts with ``/`` restarts at the bucket's name, as `pathlib` restarts at the root. Raises
        TypeError for another cloud path, `InvalidUriError` for a NUL.
        """
        names, fixed = list(self._split()), self._in_anchor
        for segment in pathsegments:
            text = _read_segment(segment)
            if text.startswith("/"):
                del names[fixed:]
            _resolve_onto(names, text.split("/"), fixed)
        return self._from_names(names)

    def __truediv__(self, other: str | PurePosixPath) -> Self:
        if not isinstance(other, str | PurePosixPath):
            return NotImplemented
        return self.joinpath(other)

    def __rtruediv__(self, other: object) -> NoReturn:
        raise ValueError(f"{self.uri.shown} is absolute and cannot be joined to another path: make a new path instead")

    def with_segments(self, *pathsegments: str | os.PathLike[str]) -> Self:
        """Return a path of the same type and client from names below the anchor; nothing is resolved.

        Joins, parents and listings make their paths by it, in a subclass that overrides it.
        """
        text = "/".join(_read_segment(segment) for segment in pathsegments)
        anchor = self._root_text + "".join(f"{name}/" for name in self._split()[: self._in_anchor])
        start = anchor if self._in_anchor else self.cloud_prefix
        is_uri = text[: len(start)].lower() == start.lower()
        text = text[len(start) :] if is_uri else self._written(text)
        return self._make(anchor + text.removeprefix("/"))

    def with_name(self, name: str) -> Self:
        """Replace the last name. Raises ValueError if there is none, or if *name* is not one."""
        names = list(self._split()[:-1])
        if not self.name:
            raise ValueError(f"{self!r} has an empty name")
        _resolve_onto(names, [_read_segment(PurePosixPath("x").with_name(name).name)], self._in_anchor)
        return self._from_names(names)

    def with_stem(self, stem: str) -> Self:
        """Replace the stem. Raises ValueError as `with_name` does."""
        return self.with_name(PurePosixPath(self.name).with_stem(stem).name)

    def with_suffix(self, suffix: str) -> Self:
        """Replace the suffix. Raises ValueError for one that does not start with a dot, or has a slash."""
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def absolute(self) -> Self:
        """The path itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """The path itself: a key with ``..`` names an object of its own."""
        return self

    def is_absolute(self) -> bool:
        return True

    def is_junction(self) -> bool:
        return False

    def samefile(self, other_path: object) -> bool:
        """Return whether *other_path*, a path or its text, is this path or another spelling of its URI."""
        other = self._path_of_text(other_path)
        return type(other) is type(self) and other.uri.canonical == self.uri.canonical

    def relative_to(self, other: str | PureCloudPath, walk_up: bool = False) -> PurePosixPath:
        """Return the path from *other* to this one. Raises ValueError if there is none, or for another cloud's path.

        A `PurePosixPath` has no empty names and no ``.``: ``a//c`` and ``a/c`` give the same result. A key with ``..``
        gives a result that climbs. Code that makes local files from keys must not rely on it.
        """
        other = self._path_of_text(other)
        if not isinstance(other, PureCloudPath):
            raise ValueError(f"{self.uri.shown} is a cloud path, but {other} is not")
        if self.anchor != other.anchor:
            raise ValueError(
                f"{self.uri.shown} is a {self.anchor} path, but {other.uri.shown} is a {other.anchor} path"
            )
        names, base = self._split(), other._split()
        common = len(base)
        if names[:common] != base:
            if not walk_up:
                raise ValueError(f"{self.uri.shown!r} is not in the subpath of {other.uri.shown!r}")
            common = next(at for at, name in enumerate(base) if names[at : at + 1] != (name,))
            if ".." in base[common:]:
                raise ValueError(f"'..' in {other.uri.shown!r} cannot be walked")
        return PurePosixPath(*[".."] * (len(base) - common), *names[common:])

    def is_relative_to(self, other: str | PureCloudPath) -> bool:
        """Return whether `relative_to` succeeds without walking up."""
        try:
            self.relative_to(other)
        except ValueError:
            return False
        return True

    def match(self, path_pattern: str | os.PathLike[str], case_sensitive: bool | None = None) -> bool:
        """Return whether *path_pattern* matches from the right; ``**`` is ``*``.

        This path's own prefix and bucket are first removed from the pattern. A pattern that starts with ``/`` must
        match all that follows the anchor, such as the bucket. Raises ValueError for an empty pattern.
        """
        pattern = str(path_pattern).removeprefix(f"{self.cloud_prefix}{self.drive}/")
        return match_tail(self._split()[self._in_anchor :], pattern, case_sensitive)

    def full_match(self, pattern: str | os.PathLike[str], case_sensitive: bool | None = None) -> bool:
        """Return whether *pattern* matches the whole path; ``**`` matches any number of names.

        ``s3://bucket/...`` is compared with the whole URI, ``/...`` with the key. Any other pattern can match only if
        it starts with ``**``, because every cloud path is absolute.
        """
        names, pattern = self._split(), str(pattern)
        if pattern.startswith(self.cloud_prefix):
            parts = split_pattern(pattern[len(self.cloud_prefix) :])
        else:
            parts = split_pattern(pattern)
            names = names[1:] if self.uri.bucket else names
            if not pattern.startswith("/") and parts[:1] != ("**",):
                return False
        return match_whole(names, parts, case_sensitive)

    def _path_of_text(self, other: object) -> Any:
        """Return the path of this class that *other* is the text of; anything else as it is."""
        if isinstance(other, str) and self.is_valid_cloudpath(text := other):
            return type(self)(text, client=self._client)
        return other

    def _split(self) -> tuple[str, ...]:
        """Return the bucket, if there is one, and the key's names."""
        names = self._names
        if names is None:
            uri = self.uri
            key = tuple(uri.key.removesuffix("/").split("/")) if uri.key else ()
            names = self._names = (uri.bucket, *key) if uri.bucket else key
        return names

    def _from_names(self, names: Sequence[str]) -> Self:
        # Only an unnamed directory ("a//") is written with a slash at its end.
        end = "/" if names and not names[-1] else ""
        return self._derive(f"{self._root_text}{self._written('/'.join(names))}{end}")

    def _written(self, names: str) -> str:
        """Return *names* as the text of a path has them."""
        return names

    @property
    def _root_text(self) -> str:
        return _root(self.cloud_prefix)

    @classmethod
    def _scheme(cls) -> str:
        return cls.cloud_prefix.partition("://")[0].lower()

    @classmethod
    def _check_prefix(cls, text: object) -> None:
        if isinstance(text, str) and text.lower().startswith(cls.cloud_prefix.lower()):
            return
        # Raises with a better message if the text is not a URI at all.
        uri = Uri.parse(text)  # type: ignore[arg-type]
        raise InvalidPrefixError(f"{uri.scheme}://... is not a {cls.__name__}, which starts with {cls.cloud_prefix}")


@lru_cache(maxsize=64)
def _root(cloud_prefix: str) -> str:
    """Return what every path of the scheme starts with: ``s3://``, ``file:///``."""
    return str(Uri(cloud_prefix.partition("://")[0], "", ""))


def _read_segment(segment: str | os.PathLike[str]) -> str:
    if isinstance(segment, PureCloudPath):
        raise TypeError(f"{segment} is a whole URI and cannot be joined to another path")
    text = segment.as_posix() if isinstance(segment, PurePath) else os.fspath(segment)
    if not isinstance(text, str):
        raise TypeError(f"a path is joined with str, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidUriError(f"{text!r}: no cloud permits a NUL character in a name")
    return text


def _resolve_onto(names: list[str], more: Iterable[str], fixed: int) -> None:
    for name in more:
        if name == "..":
            del names[max(len(names) - 1, fixed) :]
        elif name not in ("", "."):
            names.append(name)
