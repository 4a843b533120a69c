"""Local paths of "directories": for people, what is cached of one; for tools, all of it and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

from casstore.format.layout import Layout
from casstore.local.names import Place, directory_name, local_name
from casstore.local.paths import Content, LocalPaths
from casstore.local.record import Kind

Item = tuple[Place, Content, Callable[[], int]]
"""An object of a local directory: a version, and what opens its bytes."""


def cached_directory(paths: LocalPaths, place: Place) -> str:
    """Return the path of a "directory" in the newest tree that has it, created if none has: whatever is there."""
    found = [tree for tree in paths.trees() if os.path.isdir(_directory(paths.layout, tree, place))]
    path = _directory(paths.layout, found[-1] if found else "0", place)
    os.makedirs(path, 0o700, exist_ok=True)
    paths.made_at.add(path)
    return path


def exact_directory(
    paths: LocalPaths, place: Place, items: Iterable[Item], mode: str | None = None, *, is_whole: bool = True
) -> str:
    """Return the path of a "directory" that has exactly *items*, and what tools made there.

    What can be no file there is an OSError, or without *is_whole* left out.
    """
    items = list(_fitting(paths.layout, place, list(items), is_whole=is_whole))
    for number in count():
        tree = str(number)
        names = {f"{tree}/{local_name(item)}" for item, _, _ in items}
        path = _directory(paths.layout, tree, place)
        if any(name not in names for name in _objects_below(paths, path)):
            continue  # an object that was deleted
        if all(paths.path_in(tree, item, content, source, mode) for item, content, source in items):
            os.makedirs(path, 0o700, exist_ok=True)
            paths.made_at.add(path)
            for item, _, _ in items:  # those that were made first, long ago
                with contextlib.suppress(FileNotFoundError):
                    os.utime(paths.layout.path_record(item.key.name))
            return path
    raise AssertionError


def _fitting(layout: Layout, place: Place, items: Sequence[Item], *, is_whole: bool) -> Iterator[Item]:
    below = _directory(layout, "0", place) + "/"
    paths = [layout.local_path(f"0/{local_name(item)}") for item, _, _ in items]
    directories = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "/"}
    for path, item in zip(paths, items, strict=True):
        if path.startswith(below) and path not in directories:
            yield item
        elif is_whole:
            raise OSError(
                errno.EINVAL, "it can be no file of a local directory: pass its files one by one", item[0].key.uri
            )


def _directory(layout: Layout, tree: str, place: Place) -> str:
    name = directory_name(place)
    if name is None:
        raise OSError(errno.EINVAL, "no local directory can have this name: download_to() chooses one", place.key.uri)
    return layout.local_path(f"{tree}/{name}")


def _objects_below(paths: LocalPaths, directory: str) -> Iterator[str]:
    for name in paths.files_below(directory):
        record = paths.record_at(name)
        file = None if record is None else record.at(name)
        if file is not None and file.kind is Kind.OBJECT:
            yield name
