"""Names of local paths: each object's own name, in numbered trees that the processes of a store share.

    local/<n>/<origin>/<bucket>/<key>   *n* counts the versions of an object that have had a local path
    local/<n>/%/<hash>/<last part>      of a key that no file can have as its name
    local/e<lease>-<random>/...         the same, private to one process and one block

A version keeps its number, so its path is the same in every process. A file that has no record belongs to the object
that its path names: tools make such files beside the paths that they were given.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from casstore.format.keys import Key

_LONGEST_NAME: Final = 255  # bytes; the limit of common file systems
_LONGEST_PATH: Final = 3072
"""Bytes below a tree: PATH_MAX is 4096 with the root, the tree and the closing NUL."""
_DEEPEST: Final = 128  # components; `shutil.rmtree` recurses once for each
_HASHED: Final = "%"


class Place(NamedTuple):
    """An object of which there are local paths: *name* is its key in *bucket*, without a login or a signature."""

    key: Key
    bucket: str
    name: str


def local_name(place: Place) -> str:
    """Return the path of *place* below a tree; different keys never share one."""
    name = _plain_name(place.key, place.bucket, place.name)
    if key_of(name) == place.key and _can_be_path(name):
        return name
    last = place.name.rstrip("/").rpartition("/")[2]
    # In every locale.
    last = "".join(c for c in last if c.isascii() and c.isprintable() and c != "%")[-_LONGEST_NAME // 2 :]
    return f"{_HASHED}/{place.key.name}/{last.strip('.') or 'object'}"


def directory_name(place: Place) -> str | None:
    """Return the path of a "directory" below a tree; None if no directory can have its name."""
    name = _plain_name(place.key, place.bucket, place.name).rstrip("/")
    return name if _can_be_path(name) else None


def key_of(name: str) -> Key | None:
    """Return the key of the object whose path below a tree is *name*; None if the path does not tell."""
    head, _, rest = name.partition("/")
    scheme, plus, origin = head.partition("+")
    if not plus or "@" in scheme:
        scheme, origin = head.partition("@")[0], head
    if head == _HASHED or not rest:
        return None
    uri = f"file:///{rest.replace('%', '%25')}" if scheme == "file" else f"{scheme}://{rest}"
    return Key(uri, _unescape(origin))


def record_of(name: str) -> str | None:
    """Return `Key.name` of the object whose path below a tree is *name*; None if the path does not tell."""
    head, _, rest = name.partition("/")
    if head == _HASHED:
        return rest.partition("/")[0]
    key = key_of(name)
    return None if key is None else key.name


def use_of(key: Key) -> str:
    """Return the name of the use of an object's path: see `casstore.local.uses`."""
    return f"{key.uri}\0{key.origin}"


def uses_of(key: Key) -> list[str]:
    """Return the names of the uses that keep an object's path: its own, and those of the directories above."""
    parts = key.uri.split("/")
    return [use_of(key), *("/".join(parts[:count]) + f"/\0{key.origin}" for count in range(3, len(parts)))]


def _plain_name(key: Key, bucket: str, name: str) -> str:
    scheme, origin = key.uri.partition(":")[0], _escape(key.origin)
    head = origin if origin.partition("@")[0] == scheme else f"{scheme}+{origin}"
    return "/".join((head, bucket, name) if bucket else (head, name))


def _can_be_path(name: str) -> bool:
    parts = name.split("/")
    try:
        encoded = [os.fsencode(part) for part in parts]
    except UnicodeEncodeError:
        return False
    return (
        "\0" not in name
        and not {"", ".", ".."} & set(parts)
        and len(parts) <= _DEEPEST
        and max(map(len, encoded)) <= _LONGEST_NAME
        and sum(len(part) + 1 for part in encoded) <= _LONGEST_PATH
    )


def _escape(origin: str) -> str:
    return origin.replace("%", "%25").replace("/", "%2F")


def _unescape(origin: str) -> str:
    return origin.replace("%2F", "/").replace("%25", "%")
