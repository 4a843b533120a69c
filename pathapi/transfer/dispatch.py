"""Choose how to copy, move, upload or delete: one object or a tree, on the server, through the store or to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from pathapi.backend import head_or_none
from pathapi.client import forced
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotADirectoryError,
    CloudPathNotExistsError,
    CloudPathPermissionError,
)
from pathapi.metadata.head import explain_missing, has_children, head, is_dir, names_directory
from pathapi.metadata.location import Location
from pathapi.parallel.progress import ProgressCallback
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.transfer import objects, trees
from pathapi.transfer.local_files import HEAD_FROM, upload_file
from pathapi.transfer.tree_items import Ignore
from pathapi.transfer.trees import TreeOptions, shares_server
from pathapi.writing.conditional_put import WriteBase
from pathapi.writing.opening import require_object_name

Place: TypeAlias = Location | Path
Result = TypeVar("Result")


def unlink(location: Location, *, missing_ok: bool) -> None:
    """Delete the object, if it still is the version seen. Raises as `CloudPath.unlink` does."""
    with objects.Locked(location) as locks, locks:
        listed = location.listed_info()
        info = listed.info if listed is not None else None
        if location.client.is_directory(location.uri):
            info = None  # an object of that name only marks it
        elif listed is None:
            info = head_or_none(location.backend, location.key)
        if info is None:
            if listed is not None or has_children(location):
                raise CloudPathIsADirectoryError(f"{location.shown} is a directory; rmtree() removes those")
            if not missing_ok:
                raise CloudPathFileNotFoundError(f"{location.shown} does not exist")
            location.client.cache.record_delete(location.store_key)
            return
        objects.delete(location, info.validator)


def touch(location: Location) -> None:
    """Give the object the time of now, if it still is the version seen. Raises as `CloudPath.touch` does."""
    if location.client.sets_times:
        objects.touch(location)


def rename(source: Location, target: Location) -> None:
    """Move one object to *target*, replacing what is there. Raises as `CloudPath.rename` does."""
    require_object_name(target)
    what = f"{source.shown} is a directory, and no server renames one; move() moves what is below"
    listed = source.recall()
    if not source.key or (listed is not None and listed.info is None):
        raise CloudPathIsADirectoryError(what)
    if source.client.is_directory(source.uri):
        if has_children(source):
            raise CloudPathIsADirectoryError(what)
        raise CloudPathNotExistsError(f"{source.shown} does not exist")
    try:
        _transfer_object(source, target, _target_base(target, None, spares_newer=False), delete_source=True)
    except CloudPathFileNotFoundError as error:
        if type(error) is not CloudPathFileNotFoundError:
            raise
        if isinstance(explain_missing(source, error), CloudPathIsADirectoryError):
            raise CloudPathIsADirectoryError(what) from error
        raise CloudPathNotExistsError(str(error)) from error


def _transfer_object(source: Location, target: Location, over: WriteBase, *, delete_source: bool) -> None:
    """Copy or move to another object; on the server, if it can reach both."""
    if source.store_key == target.store_key:
        source.backend.head(source.key)  # nothing to do, if it is an object
        return
    if shares_server(source, target):
        objects.copy_on_server(source, target, source.listed_object(), over, delete_source=delete_source)
        return
    with objects.open_version(source, delete_source=delete_source) as stored:
        objects.copy_through(source, target, stored, over, delete_source=delete_source)


def _target_base(target: Location, force: bool | None, *, spares_newer: bool = True, ask: bool = False) -> WriteBase:
    """Return what is at the target: what a listing said, else nothing; the server has the last word.

    Asks if *ask*, or if no condition would tell what is newer.
    """
    if forced(force, "TO_CLOUD"):
        return WriteBase(None)
    there = target.listed_object()
    ask = ask or (spares_newer and target.client.conditional_writes == "off")
    if there is None and ask:
        return WriteBase.over(head_or_none(target.backend, target.key), assumed=False, spares_newer=spares_newer)
    return WriteBase.over(there, assumed=True, spares_newer=spares_newer)


def transfer(
    source: Location,
    name: str,
    target: Place,
    force: bool | None,
    progress: ProgressCallback | None,
    *,
    delete_source: bool,
    is_named: bool = False,
) -> Place:
    """Copy or move the object or "directory" *source*; *name* is the last part of its path.

    Returns where it is now: below a target that is a directory, an object keeps its name. A target in a cloud that
    *is_named* has the new name already. Raises as `CloudPath.copy`.
    """
    missing = None
    if not names_directory(source):
        one = partial(_transfer_one, source, name, target, force, delete_source=delete_source, is_named=is_named)
        try:
            return _with_progress(source, one, progress)
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise
            missing = error
    _transfer_tree(source, target, TreeOptions(delete_source, force, None, progress, missing))
    return target


def copy_tree(
    source: Location, target: Place, force: bool | None, ignore: Ignore | None, progress: ProgressCallback | None
) -> None:
    """Copy everything below *source* to below *target*. Raises as `CloudPath.copytree` does."""
    try:
        _transfer_tree(source, target, TreeOptions(False, force, ignore, progress))
    except CloudPathNotExistsError:
        if not source.key.endswith("/") and head(source) is not None:
            raise CloudPathNotADirectoryError(
                f"{source.shown} is an object, not a directory; copy() copies those"
            ) from None
        raise


def _transfer_one(
    source: Location, name: str, target: Place, force: bool | None, *, delete_source: bool, is_named: bool
) -> Place:
    if isinstance(target, Location):
        if not is_named and _takes_files(target):
            target = target.at(target.prefix + name)
        _transfer_object(source, target, _target_base(target, force), delete_source=delete_source)
        return target
    if target.is_dir():
        target = target / source.file_name(name)
    with objects.open_version(source, delete_source=delete_source) as stored:
        objects.copy_to_local(source, stored, os.fspath(target), delete_source=delete_source)
    return target


def _takes_files(target: Location) -> bool:
    """Return whether a file that goes to *target* keeps its name below it. Asks once, unless a listing knows."""
    if names_directory(target):
        return True
    try:
        return target.listed_object() is None and is_dir(target)
    except CloudPathPermissionError:
        return False  # credentials may allow no listing


def _transfer_tree(source: Location, target: Place, options: TreeOptions) -> None:
    if not isinstance(target, Location):
        trees.download(source, os.fspath(target), options)
        return
    if target.key and not target.key.endswith("/") and head(target) is not None:
        raise CloudPathFileExistsError(f"{target.shown} is an object, where the directory {source.shown} was to go")
    trees.copy_tree(source, target, options)


def _with_progress(source: Location, act: Callable[[], Result], on_progress: ProgressCallback | None) -> Result:
    """Call *act*, which transfers one object, and report its progress."""
    if on_progress is None:
        return act()
    cache = source.client.cache

    def one(results: list[Result]) -> bool:
        results.append(act())
        return False

    def size_of(results: list[Result]) -> int:
        listed = source.recall() if results else None
        if listed is not None and listed.info is not None:
            return listed.info.size
        entry = cache.lookup(source.store_key) if results else None
        return 0 if entry is None else entry.size

    results: list[Result] = []
    WorkerPool(one, size_of, on_progress, downloads=cache.underway).run([results])
    return results[0]


def upload(target: Location, source: Path, force: bool | None, on_progress: ProgressCallback | None) -> Location:
    """Upload a file, or all files below a directory; return where. Raises as `CloudPath.upload_from` does."""
    if source.is_dir():
        trees.upload(target, os.fspath(source), TreeOptions(force=force, on_progress=on_progress))
        return target
    if _takes_files(target):
        target = target.at(target.prefix + source.name)

    def upload_one() -> None:
        over = _target_base(target, force)
        with objects.Locked(target, over=over) as locks, locks:
            if over.assumed and over.there is None and source.stat().st_size >= HEAD_FROM:
                over = _target_base(target, force, ask=True)
            upload_file(target, os.fspath(source), over)

    _with_progress(target, upload_one, on_progress)
    return target
