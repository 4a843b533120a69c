"""The objects of a tree, and which of them can have a file of this machine."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from pathapi.backend import ObjectInfo
from pathapi.exceptions import CloudPathLocalPathTraversalError, CloudPathNotExistsError

if TYPE_CHECKING:
    from pathapi.transfer.dispatch import MovingPath

Ignore: TypeAlias = Callable[[str, list[str]], Iterable[str]]
"""As `shutil.copytree` takes it: of a directory, without its scheme, and the names in it, which to leave out."""

NAME_BYTES: Final = 255
"""What a file's name has at most on all file systems of Linux and macOS."""

_FOLDS: Final = sys.platform in ("darwin", "win32")
"""Whether two names that differ in case or in the form of an accent are one file's."""


@dataclass(frozen=True, slots=True)
class TreeItem:
    """An object of a tree; *name* is the rest of its key."""

    name: str
    info: ObjectInfo
    path: MovingPath

    @property
    def is_marker(self) -> bool:
        """Whether it is empty and only marks a "directory"."""
        return not self.info.is_named_only and not self.info.size and (not self.name or self.name.endswith("/"))


def list_items(root: MovingPath, missing: Exception | None = None) -> Iterator[TreeItem]:
    """All objects below *root*. Raises CloudPathNotExistsError, because of *missing*, where there are none."""
    prefix = root._listing_prefix
    is_empty = True
    for item, listed in root._list(prefix, delimited=False):
        if isinstance(item, ObjectInfo):
            is_empty = False
            yield TreeItem(item.key[len(prefix) :], item, root._child(item.key, listed))
    if is_empty:
        raise CloudPathNotExistsError(f"{root.uri.shown} does not exist, nor anything below it") from missing


def filter_ignored(root: MovingPath, leaves: Sequence[TreeItem], ignore: Ignore) -> list[TreeItem]:
    """What *ignore* does not name; it is asked about each directory that is not left out itself."""
    names: dict[str, dict[str, None]] = {"": {}}
    for leaf in leaves:
        above = ""
        for part in leaf.name.removesuffix("/").split("/") if leaf.name else ():
            names.setdefault(above, {})[part] = None
            above += part + "/"
    out: set[str] = set()
    for above in sorted(names, key=lambda name: name.count("/")):
        if not _is_within(above, out):
            at = root if not above else root._at_prefix(root._listing_prefix + above)
            for name in ignore(at._no_prefix_no_drive, list(names[above])):
                out.add(above + name)
    return [leaf for leaf in leaves if not _is_within(leaf.name, out)]


def _is_within(name: str, out: set[str]) -> bool:
    end = name.find("/")
    while end >= 0:
        if name[:end] in out:
            return True
        end = name.find("/", end + 1)
    return name in out


def check_names(leaves: Iterable[TreeItem]) -> None:
    """Raise CloudPathLocalPathTraversalError, which names the key, unless every object can be a file, or for a marker a
    directory, of its own below one directory.
    """
    files: dict[str, TreeItem] = {}
    directories: dict[str, TreeItem] = {}
    for leaf in leaves:
        parts = leaf.name.split("/")
        if leaf.is_marker:
            parts.pop()  # the directory itself
        problem = _problem_of(parts)
        if problem is not None:
            raise CloudPathLocalPathTraversalError(
                f"{leaf.path.uri.shown} was not downloaded, nor anything else: {problem}"
            )
        above = ""
        for part in parts if leaf.is_marker else parts[:-1]:
            above += _folded(part) + "/"
            directories.setdefault(above, leaf)
        if not leaf.is_marker:
            name = _folded(leaf.name) + "/"
            if name in files:
                raise _two(files[name], leaf, "files of one name here")
            files[name] = leaf
    for name, leaf in files.items():
        if name in directories:
            raise _two(leaf, directories[name], "a file and a directory of one name")


def _two(one: TreeItem, other: TreeItem, what: str) -> CloudPathLocalPathTraversalError:
    return CloudPathLocalPathTraversalError(
        f"{one.path.uri.shown} and {other.path.uri.shown} would be {what}; nothing was downloaded. "
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
            return "no file's name holds a NUL"
        if os.name == "nt" and any(character in part for character in '\\:*?"<>|'):
            return f"{part!r} is no name for a file here"
        try:
            size = len(os.fsencode(part))
        except UnicodeEncodeError:
            return "its key holds half a character, which no file's name can"
        if size > NAME_BYTES:
            return f"a part of its key has {size} bytes, and the name of a file {NAME_BYTES}"
    return None
