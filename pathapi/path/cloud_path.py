"""`CloudPath`: a path in a cloud that behaves like a `pathlib.Path`, and reads through the store.

Each method passes the path's `Location` to one function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pathapi.client import Client, forced
from pathapi.cloudpath_info import CloudPathInfo
from pathapi.common.lazy import LazyModule
from pathapi.exceptions import CloudPathFileExistsError, CloudPathNotImplementedError
from pathapi.metadata import head, listing
from pathapi.metadata.globbing import compile_pattern
from pathapi.path.located_path import AnyTarget
from pathapi.path.openable_path import OpenablePath
from pathapi.path.pure_path import PureCloudPath
from pathapi.registry import CloudPathMeta, implementation_registry
from pathapi.writing import opening
from pathapi.writing.opening import OpenOptions, require_object_name

if TYPE_CHECKING:
    from casstore import PendingWrite
    from pathapi.parallel.progress import ProgressCallback
    from pathapi.transfer import dispatch, local_paths, tree_delete
    from pathapi.transfer.tree_items import Ignore
    from pathapi.writing import pending as pending_writes
else:
    dispatch = LazyModule("pathapi.transfer.dispatch")
    local_paths = LazyModule("pathapi.transfer.local_paths")
    tree_delete = LazyModule("pathapi.transfer.tree_delete")
    pending_writes = LazyModule("pathapi.writing.pending")


class CloudPath(OpenablePath, metaclass=CloudPathMeta):
    """One object or "directory" of a cloud. ``CloudPath("s3://bucket/key")`` gives the class of its scheme.

    Reads go through the store: *freshness*, *verify* and *force_overwrite_from_cloud* of a call override its client's.
    `is_file` and `stat` of a listing's children send no request for ten seconds. A 403 raises CloudPathPermissionError.

    Calls on a "directory" transfer eight files at a time. However such a call ends, every file that exists is complete,
    and the same call resumes. The first error is raised once the transfers in progress have ended. *progress* is called
    some ten times a second with a `pathapi.Progress`; `pathapi.progress_bar` draws one.
    """

    __slots__ = ("_info",)

    _info: CloudPathInfo

    def __init__(self, cloud_path: str | PureCloudPath, *parts: str, client: Client[Any] | None = None) -> None:
        if (implementation := getattr(self, "_cloud_meta", None)) is not None:
            implementation.validate_completeness()
        if client is not None and not isinstance(client, implementation_registry.client_class(type(self))):
            implementation_registry.refuse_client(type(self), client)
        super().__init__(cloud_path, *parts, client=client)

    @property
    def fspath(self) -> str:
        """The local path of the object, the same in every process until the object changes.

        Of a "directory", to look at: the local tree as far as it is cached; `os.fspath`, which tools call, downloads
        all of it, or raises. If there is no object: a path where a tool may create a file, which then waits for `push`.
        It stays while this `CloudPath` is alive; later it may give way to other downloads. A change of it is not
        uploaded: the next use raises `OverwriteNewerLocalError`. To change an object, use `writing` or `edit`.
        """
        path, self._use = local_paths.shown_path(self.location)
        self._hold_entry()
        return path

    def __fspath__(self) -> str:
        path, self._use = local_paths.tool_path(self.location)
        self._hold_entry()
        return path

    def local(self, *, siblings: bool | str = False) -> AbstractContextManager[str]:
        """Return a local path for the length of the ``with`` block; its end releases the path.

        Beside it lie *siblings*: the objects with the same stem (``g.shx`` of ``g.shp``), or that match a pattern.
        """
        return local_paths.local_copy(self.location, siblings)

    def clear_cache(self) -> None:
        """Evict the entry, or the entries below, except pinned ones. Local paths and pending writes are kept."""
        self.client.clear_cache(self.uri)

    @property
    def info(self) -> CloudPathInfo:
        """What is known of the path, each answer requested once; also callable, as cloudpathlib's method is."""
        try:
            return self._info
        except AttributeError:
            self._info = CloudPathInfo(self.location)
            return self._info

    def exists(self, follow_symlinks: bool = True) -> bool:
        """Return whether there is an object of that name or anything below it."""
        return head.exists(self.location)

    def is_file(self, follow_symlinks: bool = True) -> bool:
        """Return whether there is an object of that name."""
        return head.is_file(self.location)

    def is_dir(self, follow_symlinks: bool = True) -> bool:
        """Return whether there is anything below that name."""
        return head.is_dir(self.location)

    def stat(self, follow_symlinks: bool = True) -> os.stat_result:
        """Return size, mtime and a mode of a regular file. Raises NoStatError; also FileNotFoundError for nothing."""
        return head.stat(self.location)

    @property
    def etag(self) -> str:
        """The object's ETag, without quotes. Raises FileNotFoundError."""
        location = self.location
        return head.require(location, head.head(location)).validator.etag or ""

    def as_url(self, presign: bool = False, expire_seconds: int = 3600) -> str:
        """Return the object's ``https://`` URL; with *presign*, one that permits a GET for *expire_seconds*.

        Raises MissingCredentialsError, InvalidConfigurationException; CloudPathNotImplementedError if none is signed.
        """
        return head.url(self.location, expire_seconds if presign else None)

    def iterdir(self) -> Iterator[Self]:
        """List the children, in the server's order; they carry what the listing said. One request for a thousand."""
        return starmap(self.child, listing.children(self.location))

    def glob(
        self, pattern: str | os.PathLike[str], case_sensitive: bool | None = None, recurse_symlinks: bool = True
    ) -> Iterator[Self]:
        """List paths below that match, as `pathlib` does; lists no more than the pattern's fixed start allows."""
        compiled = compile_pattern(self._pattern(pattern), case_sensitive)
        return starmap(self.child, listing.select(self.location, compiled))

    def rglob(
        self, pattern: str | os.PathLike[str], case_sensitive: bool | None = None, recurse_symlinks: bool = True
    ) -> Iterator[Self]:
        """`glob` with ``**/`` before the pattern."""
        compiled = compile_pattern(self._pattern(pattern), case_sensitive, anywhere=True)
        return starmap(self.child, listing.select(self.location, compiled))

    def _pattern(self, pattern: str | os.PathLike[str]) -> str | os.PathLike[str]:
        """Return *pattern*, of a path below this one the rest. Raises CloudPathNotImplementedError, ValueError."""
        if self.location.is_account:
            raise CloudPathNotImplementedError(f"{self}: no bucket: iterdir() lists the buckets; search in one of them")
        return pattern.relative_to(self) if isinstance(pattern, PureCloudPath) else pattern

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[Exception], object] | None = None,
        follow_symlinks: bool = False,
        lazy: bool = False,
    ) -> Iterator[tuple[Self, list[str], list[str]]]:
        """Walk as `pathlib` does, by one recursive listing; if *lazy*, one for each directory that *dirnames* keeps."""
        prefix = self.location.prefix
        for visit in listing.walk(self.location, top_down=top_down, on_error=on_error, lazy=lazy):
            path = self if visit.key == prefix else self._at_prefix(visit.key)
            yield path, visit.dirnames, list(visit.files)

    def touch(self, exist_ok: bool = True, mode: int | None = None) -> None:
        """Create an empty object if there is none, or give it the time of now: the server copies it onto itself.

        Raises FileExistsError, OverwriteNewerCloudError if it changes in the meantime. On HTTP an existing object stays
        as it is.
        """
        try:
            opening.open_for_writing(self.location, OpenOptions("x")).close()
        except CloudPathFileExistsError:
            if not exist_ok:
                raise
            dispatch.touch(self.location)

    def mkdir(
        self,
        parents: bool = False,
        exist_ok: bool = False,
        mode: int | None = None,
        *,
        parent_mode: int | None = None,
    ) -> None:
        """Do nothing: "directories" of an object store exist while there is something in them."""

    def edit(self, *, force_overwrite_to_cloud: bool | None = None) -> AbstractContextManager[str]:
        """Return a private local copy with the object's name, for tools that take a path and change the file.

        The end of the block uploads it, with the errors of `close` and `casstore.StillBeingWrittenError`; an exception
        inside uploads nothing. If there is no object, a file that is at the path at the end becomes the object.
        """
        return opening.Edit(self.location, force_overwrite_to_cloud)

    def writing(self, *, force_overwrite_to_cloud: bool | None = None) -> AbstractContextManager[str]:
        """Return a private local path at which a tool makes the file, without a download; otherwise as `edit`."""
        return opening.Edit(self.location, force_overwrite_to_cloud, with_bytes=False)

    @property
    def pending(self) -> list[PendingWrite]:
        """This machine's writes that are not uploaded, oldest first: failed ones, local edits, files never closed."""
        return pending_writes.pending_of(require_object_name(self.location))

    def push(self, which: PendingWrite | None = None, *, force_overwrite_to_cloud: bool | None = None) -> None:
        """Upload a pending write, if the cloud's object is the version that it started from; *which* of several.

        Of a "directory": all that are pending below. If a tool made files at the local path with suffixes of its own:
        those. If nothing is pending, the cloud has the bytes already.

        Raises OverwriteNewerCloudError for another version, which *force_overwrite_to_cloud* overwrites;
        FileNotFoundError if nothing is pending and there is no object, PendingWriteError if several different writes
        are.
        """
        pending_writes.push_all(self.location, which, force=forced(force_overwrite_to_cloud, "TO_CLOUD"))

    def drop(self, which: PendingWrite | None = None) -> list[PendingWrite]:
        """Discard the pending writes for good, all of them or *which*; return those discarded."""
        return pending_writes.drop(require_object_name(self.location), which)

    def save_pending(self, destination: str | os.PathLike[str], which: PendingWrite | None = None) -> None:
        """Move a pending write to the local file *destination*, which is replaced as a whole.

        Raises as `push` does; InvalidConfigurationException for a destination that is not a local path.
        """
        pending_writes.save(require_object_name(self.location), os.fspath(destination), which)

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object, if it still is the version seen, and its entry.

        Raises IsADirectoryError, FileNotFoundError unless *missing_ok*, `OverwriteNewerCloudError` if it has changed.
        """
        dispatch.unlink(self.location, missing_ok=missing_ok)

    def rmdir(self) -> None:
        """Delete an object that only marks it. Raises `DirectoryNotEmptyError`, `CloudPathNotADirectoryError`."""
        tree_delete.remove_empty(self.location)

    def rmtree(self, ignore_errors: bool = False, *, progress: ProgressCallback | None = None) -> None:
        """Delete everything below this path, and its entries; do nothing if there is nothing.

        Only versions that were listed are deleted, if the server can compare: others stay, and OverwriteNewerCloudError
        names them at the end. If there are pending writes below, PendingWriteError names them, and nothing is deleted.
        Raises CloudPathNotADirectoryError for an object. With *ignore_errors*, what cannot be deleted stays.
        """
        tree_delete.remove_tree(self.location, progress, ignore_errors=ignore_errors)

    def rename(self, target: str | Self) -> Self:
        """Give the object another name, replacing what has it; return the path of the new name.

        The target always exists: the server copies over the version seen there, then deletes the version that was
        copied. Raises TypeError for another kind, FileNotFoundError, IsADirectoryError, `OverwriteNewerCloudError`.
        """
        if isinstance(target, str):
            target = self.client.CloudPath(target)
        if type(target) is not type(self):
            raise TypeError(f"{self!r} can be renamed to a {type(self).__name__}, not to {target!r}; use move()")
        dispatch.rename(self.location, target.location)
        return target

    def replace(self, target: str | Self) -> Self:
        """The same as `rename`."""
        return self.rename(target)

    def copy(
        self,
        target: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Copy to another cloud path, or to a path of this machine; return that path.

        A str without a scheme is a path of this machine. An object keeps its name below a target that ends with a slash
        or is a directory; a "directory" is copied by `copytree`. Inside a bucket the server copies; else one
        version passes through the store. Raises FileNotFoundError, and as `copytree`; OverwriteNewerCloudError for an
        object at the target that is not older and has other bytes, or that changes in the meantime.
        """
        return self._transfer(self._any_path(target), force_overwrite_to_cloud, progress, delete_source=False)

    def copy_into(
        self,
        target_dir: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """`copy` below *target_dir*, under this name, without asking what is there."""
        target, force = self._below(target_dir), force_overwrite_to_cloud
        return self._transfer(target, force, progress, delete_source=False, is_named=True)

    def move(
        self,
        target: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """`copy`, then delete the version that was copied, once the copy is complete; objects of a tree one by one."""
        return self._transfer(self._any_path(target), force_overwrite_to_cloud, progress, delete_source=True)

    def move_into(
        self,
        target_dir: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """`move` below *target_dir*, under this name, without asking what is there."""
        target, force = self._below(target_dir), force_overwrite_to_cloud
        return self._transfer(target, force, progress, delete_source=True, is_named=True)

    def copytree(
        self,
        destination: AnyTarget,
        force_overwrite_to_cloud: bool | None = None,
        ignore: Ignore | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Copy everything below this path to directly below *destination*; return that path.

        *ignore* is as for `shutil.copytree`. Objects that exist with the same bytes are skipped. Raises
        FileNotFoundError, CloudPathNotADirectoryError; CloudPathFileExistsError if *destination* is an object or a
        file, InvalidConfigurationException if it is inside this path; and as `download_to`.
        """
        target = self._any_path(destination)
        to = target.location if isinstance(target, CloudPath) else target
        ignored = None if ignore is None else partial(self._ask, ignore)
        dispatch.copy_tree(self.location, to, force_overwrite_to_cloud, ignored, progress)
        return target

    def download_to(self, destination: str | os.PathLike[str], *, progress: ProgressCallback | None = None) -> Path:
        """Copy to a path of this machine, as `copy` does; return that path.

        All of a file or nothing appears; files that exist with the same bytes are skipped. Raises FileNotFoundError;
        FileExistsError for a directory where a file is to be, or the reverse; and, before anything is written,
        CloudPathLocalPathTraversalError for a key that cannot be a file below *destination* (``..``, ``a//b``, a NUL).
        """
        target = self._any_path(destination)
        if isinstance(target, CloudPath):
            raise TypeError(f"download_to() saves to this machine: to reach {target.uri.shown}, use copy()")
        return Path(self._transfer(target, None, progress, delete_source=False))

    def upload_from(
        self,
        source: AnyTarget,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Self:
        """Upload a file, or all files below a directory; return the path of what was uploaded. From a cloud: `copy`.

        A file keeps its name below a path that ends with a slash or is a "directory". Files of a directory whose bytes
        the cloud has are skipped. Raises FileNotFoundError; StaleReadError for a file that changes in the meantime,
        OverwriteNewerCloudError for an object that does, or that is not older and has other bytes.
        """
        local = self._any_path(source)
        if isinstance(local, CloudPath):
            uploaded: Self = local.copy(self, force_overwrite_to_cloud=force_overwrite_to_cloud, progress=progress)
            return uploaded
        location = self.location
        reached = dispatch.upload(location, local, force_overwrite_to_cloud, progress)
        return self if reached is location else self._at_key(reached.key)

    def _transfer(self, target: Any, force: bool | None, progress: Any, **how: bool) -> Any:
        """Copy or move to *target*, a cloud path or one of this machine; return where the bytes are now."""
        is_cloud = isinstance(target, CloudPath)
        to = target.location if is_cloud else target
        reached: Any = dispatch.transfer(self.location, self.name, to, force, progress, **how)
        return target if reached is to else target._at_key(reached.key) if is_cloud else reached
