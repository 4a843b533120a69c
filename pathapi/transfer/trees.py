"""Whole trees on their way: to this machine, from it, and from one place in a cloud to another.

Every file is a transfer of its own, as safe as that of one object, so that a tree may be left at any moment: what is
there is whole, and the same call goes on. What it finds done it leaves; what it moves is gone from the source only
once its copy is good.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from casstore import make_directories, same_bytes
from pathapi.backend import ABSENT, ObjectInfo, head_or_none
from pathapi.client import forced
from pathapi.exceptions import (
    CloudPathFileExistsError,
    InvalidConfigurationException,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.location import Location
from pathapi.parallel.progress import ProgressCallback
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.transfer.dispatch import ASK_FROM, MovingPath
from pathapi.transfer.local_files import files_below, has_arrived, upload_file
from pathapi.transfer.objects import checksums_agree, copy, copy_through, delete_moved, forced_of, locked, rename
from pathapi.transfer.tree_items import Ignore, TreeItem, check_names, filter_ignored, list_items
from pathapi.writing.commit import stage
from pathapi.writing.conditional_put import WriteBase, conditional_put, matches_checksum, warn_of_conditions


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How a tree is to be transferred; *missing* is the error that there is no object of its very name."""

    delete_source: bool = False
    force: bool | None = None
    ignore: Ignore | None = None
    on_progress: ProgressCallback | None = None
    missing: Exception | None = None


def _size_of(leaf: TreeItem) -> int:
    return leaf.info.size


# --- to this machine --------------------------------------------------------------------------------------------------


def download(root: MovingPath, destination: str, order: TreeOptions) -> None:
    """All files below *root* to below the directory *destination*, which is made. Raises CloudPathNotExistsError,
    CloudPathLocalPathTraversalError and CloudPathFileExistsError before anything is written.
    """
    leaves = list(list_items(root, order.missing))
    if order.ignore is not None:
        leaves = filter_ignored(root, leaves, order.ignore)
    check_names(leaves)
    if os.path.lexists(destination) and not os.path.isdir(destination):
        raise CloudPathFileExistsError(f"{destination} is a file, where the directory {root.uri.shown} was to go")
    make_directories(destination, durable=order.delete_source)

    def one(leaf: TreeItem) -> bool:
        return _download_item(leaf, os.path.join(destination, *leaf.name.split("/")), delete_source=order.delete_source)

    WorkerPool(one, _size_of, order.on_progress, downloads=root.client.cache.underway).run(leaves)


def _download_item(leaf: TreeItem, target: str, *, delete_source: bool) -> bool:
    if leaf.is_marker:
        make_directories(target.rstrip(os.sep) or os.sep, durable=delete_source)
        if delete_source:
            source = leaf.path._target()
            with locked(source):
                delete_moved(source, target, leaf.info.validator)
        return False
    make_directories(os.path.dirname(target), durable=delete_source)
    there = _open_file(target)
    try:
        is_of_size = there is not None and os.fstat(there).st_size == leaf.info.size
        if there is not None and is_of_size and not delete_source and matches_checksum(leaf.info, there):
            return True
        with leaf.path._open_version(leaf.path._as_listed(), delete_source=delete_source) as stored:
            if there is not None and is_of_size and not delete_source and same_bytes(there, stored.descriptor):
                return True
            leaf.path._copy_out(stored, target, delete_source=delete_source)
            return False
    finally:
        if there is not None:
            os.close(there)


def _open_file(path: str) -> int | None:
    """The regular file that is there, open; None where nothing is. Raises CloudPathFileExistsError for what cannot make
    way: a directory, a pipe.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CloudPathFileExistsError(f"{path} is there and is no file; nothing was written to it")
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, PermissionError):
        return None  # what may not be read may still be replaced


# --- what is at the target --------------------------------------------------------------------------------------------


class TargetListing:
    """The objects below a target in a cloud: taken for none, until one turns out to be there; then one listing says."""

    def __init__(self, root: MovingPath, force: bool | None) -> None:
        self._root = root
        self._is_forced = forced(force, "TO_CLOUD")
        self._mutex = threading.Lock()
        self._known: dict[str, ObjectInfo] | None = None

    def look(self) -> dict[str, ObjectInfo]:
        with self._mutex:
            if self._known is None:
                prefix = self._root._listing_prefix
                items = self._root.client.backend(self._root.uri.bucket).list(prefix)
                self._known = {item.key[len(prefix) :]: item for item in items if isinstance(item, ObjectInfo)}
            return self._known

    def put(self, name: str, act: Callable[[WriteBase, ObjectInfo | None], bool], *, looks: bool = False) -> bool:
        """``act(over, there)``, with what there is to be replaced; once more where that was not known. With *looks*,
        before anything is sent: to be refused would be dear.
        """
        if self._is_forced:
            return act(WriteBase(None), None)
        known = self._known
        if known is None and not looks and self._root.client.conditional_writes != "off":
            try:
                return act(WriteBase(ABSENT), None)
            except OverwriteNewerCloudError:
                known = self.look()
        there, is_guess = (self.look() if known is None else known).get(name), True
        if there is not None and there.is_named_only:
            # An index page says of what version it is as little as how large.
            there, is_guess = head_or_none(self._root.client.backend(self._root.uri.bucket), there.key), False
        return act(WriteBase(ABSENT if there is None else there.validator, assumed=is_guess), there)


# --- inside a cloud, and from one to another --------------------------------------------------------------------------


def copy_tree(root: MovingPath, target: MovingPath, order: TreeOptions) -> None:
    """All objects below *root* to below *target*. Raises CloudPathNotExistsError; InvalidConfigurationException where
    one is inside the other, so that what is copied would be copied again.
    """
    prefix, to = root._listing_prefix, target._listing_prefix
    on_server, is_one_bucket = root._shares_a_server(target), _is_one_bucket(root, target)
    if is_one_bucket and to == prefix:
        next(list_items(root, order.missing))  # nothing to do, if there is anything
        return
    if is_one_bucket and to.startswith(prefix):
        raise InvalidConfigurationException(
            f"{root.uri.shown} cannot be copied or moved into itself, to {target.uri.shown}"
        )
    leaves: Iterable[TreeItem] = list_items(root, order.missing)
    if order.ignore is not None:
        leaves = filter_ignored(root, list(leaves), order.ignore)
    if is_one_bucket and prefix.startswith(to):
        leaves = list(leaves)
        _require_apart(leaves, target)
    there = TargetListing(target, order.force)

    def one(leaf: TreeItem) -> bool:
        at = target._at_key(to + leaf.name)
        if leaf.is_marker:
            return _mark(leaf, at._target() if on_server and at.uri.key else None, delete_source=order.delete_source)
        if on_server:
            return _copy_on_server(leaf, at._target(), there, delete_source=order.delete_source)
        return _copy_through(leaf, at._target(), there, delete_source=order.delete_source)

    WorkerPool(one, _size_of, order.on_progress).run(leaves, first_alone=not order.delete_source)


def _is_one_bucket(one: MovingPath, other: MovingPath) -> bool:
    """Whether both are in it, by whatever client: the server need not be asked by the same one to hold the same."""
    return one.client.origin == other.client.origin and one.uri.filed.bucket == other.uri.filed.bucket


def _require_apart(leaves: Iterable[TreeItem], target: MovingPath) -> None:
    prefix = target._listing_prefix
    keys = {leaf.path.uri.key for leaf in leaves}
    for leaf in leaves:
        if prefix + leaf.name in keys:
            over = target._at_key(prefix + leaf.name).uri.shown
            raise InvalidConfigurationException(
                f"{leaf.path.uri.shown} would overwrite {over}, which is to be copied or moved itself; nothing was "
                "done. Go by way of another directory"
            )


def _mark(leaf: TreeItem, target: Location | None, *, delete_source: bool) -> bool:
    """Make an empty object that marks a directory, as *leaf* does, unless there is one; not all servers copy those.

    To another cloud, whose directories may need none, nothing is made.
    """
    source, was_there = leaf.path._target(), False
    if target is not None:
        with locked(target):
            was_there = _has_marker(target) or not _make_marker(target)
    if delete_source:
        with locked(source):
            delete_moved(source, str(target or "its directory"), leaf.info.validator)
    return was_there


def _has_marker(target: Location) -> bool:
    """Asked for only where no condition tells it."""
    return target.client.conditional_writes == "off" and head_or_none(target.backend, target.object_key) is not None


def _make_marker(target: Location) -> bool:
    """Whether there was nothing of that name yet."""
    cache = target.client.cache
    staging = stage(cache)
    try:
        sent = conditional_put(target, staging, WriteBase(ABSENT))
    except VersionMismatchError:
        return False
    finally:
        staging.close()
        target.forget_listed()
        cache.record_delete(target.key)
    if sent.unconditional:
        warn_of_conditions(target)
    return True


def _copy_on_server(leaf: TreeItem, target: Location, there: TargetListing, *, delete_source: bool) -> bool:
    source = leaf.path._target()

    def act(over: WriteBase, known: ObjectInfo | None) -> bool:
        if known is not None and not delete_source and checksums_agree(known, leaf.info):
            return True
        (rename if delete_source else copy)(source, target, None if leaf.info.is_named_only else leaf.info, over)
        return False

    return there.put(leaf.name, act)


def _copy_through(leaf: TreeItem, target: Location, there: TargetListing, *, delete_source: bool) -> bool:
    with leaf.path._open_version(leaf.path._as_listed(), delete_source=delete_source) as stored:

        def act(over: WriteBase, known: ObjectInfo | None) -> bool:
            is_like = known is not None and not delete_source and known.size == stored.size
            if known is not None and is_like and matches_checksum(known, stored.descriptor):
                return True
            copy_through(leaf.path._target(), target, stored, over, delete_source=delete_source)
            return False

        return there.put(leaf.name, act, looks=stored.size >= ASK_FROM)


# --- from this machine ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    name: str
    size: int


def upload(root: MovingPath, directory: str, order: TreeOptions) -> None:
    """All files below *directory* to below *root*; those that the cloud has already are not sent."""
    prefix, there = root._listing_prefix, TargetListing(root, order.force)

    def one(file: _File) -> bool:
        at = root._at_key(prefix + file.name)._target()

        def act(over: WriteBase, known: ObjectInfo | None) -> bool:
            with locked(at, forced=forced_of(at, over)):
                if known is not None and has_arrived(at, file.path, known):
                    return True
                upload_file(at, file.path, over)
            return False

        return there.put(file.name, act, looks=file.size >= ASK_FROM)

    # The first alone: if it is there already, one listing says what else is, and none of it is sent in vain.
    WorkerPool(one, lambda file: file.size, order.on_progress).run(_files(directory), first_alone=True)


def _files(directory: str) -> Iterator[_File]:
    for path, name in files_below(directory):
        yield _File(path, name, os.stat(path).st_size)
