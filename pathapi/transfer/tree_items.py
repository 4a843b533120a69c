"""The objects of a tree, and which of them can have a file of this machine."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pathapi.backend import ObjectInfo, marker_of
from pathapi.exceptions import CloudPathLocalPathTraversalError, CloudPathNotExistsError
from pathapi.metadata.listing import list_objects
from pathapi.metadata.location import Location

Ignore: TypeAlias = Callable[[str, list[str]], Iterable[str]]
"""As `shutil.copytree` takes it: given a directory, and the names in it, returns those to skip."""

NAME_BYTES: Final = 255
"""The longest name of a file, on all file systems of Linux and macOS."""

_FOLDS: Final = sys.platform == "darwin"
"""Whether two names that differ in case or in the form of an accent are one file's."""


@dataclass(frozen=True, slots=True)
class TreeItem:
    """An object of a tree; *name* is the rest of its key."""

    name: str
    info: ObjectInfo
    location: Location

    @property
    def is_marker(self) -> bool:
        """Whether it is empty and only marks a "directory"."""
        return not self.info.is_named_only and not self.info.size and (not self.name or self.name.endswith("/"))


def list_items(root: Location, missing: Exception | None = None) -> Iterator[TreeItem]:
    """List all objects below *root*. Raises CloudPathNotExistsError, because of *missing*, if there are none."""
    start, is_empty = len(root.prefix), True
    marker = marker_of(root.backend, root.prefix) if root.policy.may_request else None
    if marker is not None:
        is_empty = False
        yield TreeItem("", marker, root.at(root.prefix))
    for info, listed in list_objects(root):
        is_empty = False
        yield TreeItem(info.key[start:], info, root.at(info.key, listed))
    if is_empty:
        raise CloudPathNotExistsError(
            f"{root.shown} must exist to copy it: there is no object of that name, and nothing below it"
        ) from missing


def filter_ignored(items: Sequence[TreeItem], ignore: Ignore) -> list[TreeItem]:
    """Return what *ignore* does not name; it is called for each directory that is not ignored itself.

    A directory is the rest of its keys: ``""`` is the root, others end with ``/``.
    """
    names: dict[str, dict[str, None]] = {"": {}}
    for item in items:
        above = ""
        for part in item.name.removesuffix("/").split("/") if item.name else ():
            names.setdefault(above, {})[part] = None
            above += part + "/"
    out: set[str] = set()
    for above in sorted(names, key=lambda name: name.count("/")):
        if not _is_within(above, out):
            out.update(above + name for name in ignore(above, list(names[above])))
    return [item for item in items if not _is_within(item.name, out)]


def _is_within(name: str, out: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:count]) in out for count in range(1, len(parts) + 1))


def check_names(items: Iterable[TreeItem]) -> None:
    """Check that every object can be a file, and every marker a directory, of its own below one directory.

    Raises CloudPathLocalPathTraversalError, which names the key.
    """
    files: dict[str, TreeItem] = {}
    directories: dict[str, TreeItem] = {}
    for item in items:
        parts = item.name.split("/")
        if item.is_marker:
            parts.pop()  # the directory itself
        problem = _problem_of(parts)
        if problem is not None:
            raise CloudPathLocalPathTraversalError(f"{item.location.shown}: nothing was downloaded: {problem}")
        above = ""
        for part in parts if item.is_marker else parts[:-1]:
            above += _folded(part) + "/"
            directories.setdefault(above, item)
        if not item.is_marker:
            name = _folded(item.name) + "/"
            if name in files:
                raise _two(files[name], item, "files of one name here")
            files[name] = item
    for name, item in files.items():
        if name in directories:
            raise _two(item, directories[name], "a file and a directory of one name")


def _two(one: TreeItem, other: TreeItem, what: str) -> CloudPathLocalPathTraversalError:
    return CloudPathLocalPathTraversalError(
        f"{one.location.shown} and {other.location.shown} would be {what}; nothing was downloaded. "
        "Download them by themselves"
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold() if _FOLDS else name


def _problem_of(parts: Sequence[str]) -> str | None:
    for part in parts:
        if part in (".", ".."):
            return f"{part!r} in its key would lead elsewhere"
        if not part:
            return "its key starts or ends with a slash, or has two in a row, and no file's path does"
        if "\0" in part:
            return "its key has a NUL, which no file's name can"
        try:
            size = len(os.fsencode(part))
        except UnicodeEncodeError:
            return "its key has half a character, which no file's name can"
        if size > NAME_BYTES:
            return f"a part of its key has {size} bytes, and a file's name at most {NAME_BYTES}"
    return None
