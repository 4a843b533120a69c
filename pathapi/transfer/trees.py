"""Whole trees on their way: to this machine, from it, and from one prefix to another.

Every file is a transfer of its own, as safe as that of one object, so that a call may end at any moment: every file
that exists is complete, and the same call resumes. Files that are there are skipped; a move deletes an object only once
its copy is known to be complete.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from casstore import make_directories, new_mutex, same_bytes
from pathapi.backend import ABSENT, CopiesAcross, ObjectInfo, head_or_none
from pathapi.client import forced
from pathapi.exceptions import (
    CloudPathFileExistsError,
    InvalidConfigurationException,
    OverwriteNewerCloudError,
    TargetInsideSourceError,
    VersionMismatchError,
)
from pathapi.metadata.listing import as_listed
from pathapi.metadata.location import Location
from pathapi.parallel.progress import ProgressCallback
from pathapi.parallel.worker_pool import WorkerPool
from pathapi.transfer.local_files import HEAD_FROM, files_below, has_arrived, upload_file
from pathapi.transfer.objects import (
    Locked,
    checksums_agree,
    copy_on_server,
    copy_through,
    copy_to_local,
    delete,
    has_bytes,
    open_version,
)
from pathapi.transfer.tree_items import Ignore, TreeItem, check_names, filter_ignored, list_items
from pathapi.writing.commit import stage
from pathapi.writing.conditional_put import WriteBase, conditional_put, warn_of_conditions


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How to transfer a tree, or an object; *missing* is the error that there is no object of its name."""

    delete_source: bool = False
    force: bool | None = None
    ignore: Ignore | None = None
    on_progress: ProgressCallback | None = None
    missing: Exception | None = None

    def items(self, root: Location) -> Iterable[TreeItem]:
        """List what is to be transferred. Raises CloudPathNotExistsError."""
        items = list_items(root, self.missing)
        return items if self.ignore is None else filter_ignored(list(items), self.ignore)


def download(root: Location, destination: str, options: TreeOptions) -> None:
    """Download all files below *root* to below the directory *destination*, which is created.

    Raises, before anything is written, CloudPathNotExistsError; CloudPathLocalPathTraversalError for a key that cannot
    be a file there, CloudPathFileExistsError if *destination* is a file.
    """
    items = list(options.items(root))
    check_names(items)
    if os.path.lexists(destination) and not os.path.isdir(destination):
        raise CloudPathFileExistsError(f"{destination} is a file, where the directory {root.shown} was to go")
    make_directories(destination, durable=options.delete_source)

    def one(item: TreeItem) -> bool:
        target = os.path.join(destination, *item.name.split("/"))
        return _download_item(item, target, delete_source=options.delete_source)

    WorkerPool(one, lambda item: item.info.size, options.on_progress, downloads=root.client.cache.underway).run(items)
    if options.delete_source:
        _delete_markers(items)


def _delete_markers(items: Iterable[TreeItem]) -> None:
    """Delete the empty objects that mark directories, the deepest first: a server may refuse one that is not empty."""
    for item in sorted((item for item in items if item.is_marker), key=lambda item: -item.name.count("/")):
        with Locked(item.location) as locks, locks:
            delete(item.location, item.info.validator, "its directory")


def _download_item(item: TreeItem, target: str, *, delete_source: bool) -> bool:
    source = item.location
    if item.is_marker:
        make_directories(target.rstrip(os.sep) or os.sep, durable=delete_source)
        return False
    make_directories(os.path.dirname(target), durable=delete_source)
    there = _open_file(target)
    try:
        may_be_same = there is not None and not delete_source and os.fstat(there).st_size == item.info.size
        if there is not None and may_be_same and has_bytes(source, item.info, there):
            return True
        with open_version(source, as_listed(source), delete_source=delete_source) as stored:
            if there is not None and may_be_same and same_bytes(there, stored.descriptor):
                return True
            copy_to_local(source, stored, target, delete_source=delete_source)
            return False
    finally:
        if there is not None:
            os.close(there)


def _open_file(path: str) -> int | None:
    """Open the regular file that is there, or return None. Raises CloudPathFileExistsError for anything else."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CloudPathFileExistsError(f"{path} exists and is not a file; nothing was written to it")
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None  # a file that may not be read may still be replaced


class TargetListing:
    """The objects below a target in a cloud: assumed absent, until a request shows one; then one listing tells."""

    def __init__(self, root: Location, force: bool | None) -> None:
        self._root = root
        self._is_forced = forced(force, "TO_CLOUD")
        self._mutex = new_mutex()
        self._known: dict[str, ObjectInfo] | None = None

    def _list(self) -> dict[str, ObjectInfo]:
        with self._mutex:
            if self._known is None:
                prefix = self._root.prefix
                items = self._root.backend.list(prefix)
                self._known = {item.key[len(prefix) :]: item for item in items if isinstance(item, ObjectInfo)}
            return self._known

    def put(self, name: str, act: Callable[[WriteBase, ObjectInfo | None], bool], *, lists_first: bool = False) -> bool:
        """Call ``act(over, there)`` with what is to be replaced; again, if that was not known.

        With *lists_first*, list before anything is sent: for uploads that would cost much to be refused.
        """
        if self._is_forced:
            return act(WriteBase(None), None)
        known = self._known
        if known is None and not lists_first and self._root.client.conditional_writes != "off":
            try:
                return act(WriteBase(ABSENT), None)
            except OverwriteNewerCloudError:
                known = self._list()
        there, is_assumed = (self._list() if known is None else known).get(name), True
        if there is not None and there.is_named_only:
            # An index page has neither versions nor sizes.
            there, is_assumed = head_or_none(self._root.backend, there.key), False
        return act(WriteBase.over(there, assumed=is_assumed, spares_newer=True), there)


def copy_tree(root: Location, target: Location, options: TreeOptions) -> None:
    """Copy all objects below *root* to below *target*.

    Raises CloudPathNotExistsError; InvalidConfigurationException if copies would be copied again.
    """
    prefix, to = root.prefix, target.prefix
    on_server = shares_server(root, target)
    is_one_bucket = root.client.origin == target.client.origin and root.root == target.root  # by whatever clients
    if is_one_bucket and to == prefix:
        next(list_items(root, options.missing))  # nothing to do, if there is anything
        return
    if is_one_bucket and to.startswith(prefix):
        raise TargetInsideSourceError(
            f"{root.shown}: it cannot be copied or moved into itself, to {target.shown}: name a target outside of it"
        )
    items = options.items(root)
    if is_one_bucket and prefix.startswith(to):
        items = list(items)
        keys = {item.location.key for item in items}
        for item in items:
            if to + item.name in keys:
                raise InvalidConfigurationException(
                    f"{item.location.shown} would overwrite {target.at(to + item.name).shown}, which is to be copied "
                    "or moved itself; nothing was done. Go by way of another directory"
                )
    there = TargetListing(target, options.force)
    markers: list[TreeItem] = []

    def one(item: TreeItem) -> bool:
        at = target.at(to + item.name)
        if item.is_marker:
            markers.append(item)
            return on_server and bool(at.key) and not _make_marker(at)
        copy_one = _copy_on_server if on_server else _copy_through
        return copy_one(item, at, there, delete_source=options.delete_source)

    WorkerPool(one, lambda item: item.info.size, options.on_progress).run(items, first_alone=not options.delete_source)
    if options.delete_source:
        _delete_markers(markers)


def shares_server(source: Location, target: Location) -> bool:
    """Return whether the server can copy from one to the other."""
    if source.client is not target.client:
        return False
    return source.uri.bucket == target.uri.bucket or isinstance(source.backend, CopiesAcross)


def _make_marker(target: Location) -> bool:
    """Create an empty object that marks a directory; return whether there was nothing of that name.

    It is not copied: not all servers can, and another cloud's directories may need none.
    """
    if target.client.conditional_writes == "off" and head_or_none(target.backend, target.key) is not None:
        return False  # no condition can tell
    cache = target.client.cache
    with Locked(target) as locks, locks:
        staging = stage(cache)
        try:
            sent = conditional_put(target, staging, WriteBase(ABSENT))
        except VersionMismatchError:
            return False
        finally:
            staging.close()
            target.forget_listed()
            cache.record_delete(target.store_key)
        if sent.unconditional:
            warn_of_conditions(target)
        return True


def _copy_on_server(item: TreeItem, target: Location, there: TargetListing, *, delete_source: bool) -> bool:
    def act(over: WriteBase, known: ObjectInfo | None) -> bool:
        if (
            known is not None
            and not delete_source
            and checksums_agree(known, item.info, target.client.believed_checksums)
        ):
            return True
        listed = None if item.info.is_named_only else item.info
        copy_on_server(item.location, target, listed, over, delete_source=delete_source)
        return False

    return there.put(item.name, act)


def _copy_through(item: TreeItem, target: Location, there: TargetListing, *, delete_source: bool) -> bool:
    source = item.location
    with open_version(source, as_listed(source), delete_source=delete_source) as stored:

        def act(over: WriteBase, known: ObjectInfo | None) -> bool:
            if known is not None and not delete_source and has_bytes(target, known, stored.descriptor):
                return True
            copy_through(source, target, stored, over, delete_source=delete_source)
            return False

        return there.put(item.name, act, lists_first=stored.size >= HEAD_FROM)


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    name: str
    size: int


def upload(root: Location, directory: str, options: TreeOptions) -> None:
    """Upload all files below *directory* to below *root*, except those whose bytes the cloud has."""
    prefix, there = root.prefix, TargetListing(root, options.force)

    def one(file: _File) -> bool:
        at = root.at(prefix + file.name)

        def act(over: WriteBase, known: ObjectInfo | None) -> bool:
            with Locked(at, over=over) as locks, locks:
                if known is not None and has_arrived(at, file.path, known):
                    return True
                upload_file(at, file.path, over)
            return False

        return there.put(file.name, act, lists_first=file.size >= HEAD_FROM)

    files = (_File(path, name, os.stat(path).st_size) for path, name in files_below(directory))
    # The first alone: if it exists, one listing tells which others do, and none of them is sent in vain.
    WorkerPool(one, lambda file: file.size, options.on_progress).run(files, first_alone=True)
