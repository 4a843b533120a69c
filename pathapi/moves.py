"""A cloud path that is copied, moved, renamed and deleted, from one cloud to another or to and from this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from casstore import copy_out
from pathapi.asking import forced
from pathapi.backend import ABSENT, ObjectInfo, head_or_none
from pathapi.exceptions import (
    AnyPathTypeError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathLocalPathTraversalError,
    CloudPathNotExistsError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.freshness import ALWAYS
from pathapi.registry import implementation_registry
from pathapi.writable import WritingPath

if TYPE_CHECKING:
    from pathlib import Path

    from casstore import Stored
    from pathapi.uploading import Base

ASK_FROM: Final = 8 << 20
"""Bytes from which `upload_from` asks for the object before it uploads: to be refused after that many is dearer."""

AnyTarget: TypeAlias = "str | os.PathLike[str] | MovingPath"


class MovingPath(WritingPath):
    """`CloudPath` as far as whole objects go: one at a time, each change bound to the versions that were seen."""

    __slots__ = ()

    # --- deleting -----------------------------------------------------------------------------------------------------

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object, if it still is the version seen; its entry goes too.

        Raises IsADirectoryError, FileNotFoundError without *missing_ok*, `OverwriteNewerCloudError` where somebody has
        written it meanwhile.
        """
        from pathapi.moving import delete, locked

        uri = self.uri
        at = self._target()
        with locked(at):
            listed = self._told()
            info = listed.info if listed is not None else head_or_none(at.backend, uri.key) if uri.key else None
            if info is None:
                if (listed is not None and listed.info is None) or self._has_children():
                    raise CloudPathIsADirectoryError(f"{self._shown} is a directory; rmtree() removes those")
                if not missing_ok:
                    raise CloudPathFileNotFoundError(f"{self._shown} does not exist")
                self.client.cache.record_delete(self._store_key())
                return
            try:
                delete(at, info.validator)
            except VersionMismatchError as error:
                raise OverwriteNewerCloudError(
                    f"{self._shown} was changed by somebody else; it was not deleted"
                ) from error

    # --- renaming -----------------------------------------------------------------------------------------------------

    def rename(self, target: str | Self) -> Self:
        """Give the object another name, in place of whatever has it; the path of the new name.

        The target is never missing: it is copied over on the server, if it is what was seen there, and then the source
        is deleted, if it still is what was copied. Raises TypeError for a path of another kind, FileNotFoundError,
        IsADirectoryError, `OverwriteNewerCloudError`.
        """
        if isinstance(target, str):
            target = self.client.CloudPath(target)
        if type(target) is not type(self):
            raise TypeError(f"{self!r} can be renamed to a {type(self).__name__}, not to {target!r}; use move()")
        if not target.uri.key or target.uri.key.endswith("/"):
            raise CloudPathIsADirectoryError(f"{target} names a directory: an object has a name after the last slash")
        self._transfer(target, None, moves=True)
        return target

    def replace(self, target: str | Self) -> Self:
        """The same as `rename`."""
        return self.rename(target)

    # --- copying and moving -------------------------------------------------------------------------------------------

    def copy(
        self,
        target: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
    ) -> Any:
        """Copy to another cloud path, or to a path of this machine; that path.

        A str without a scheme is a path of this machine. A target that ends with a slash, and a directory of this
        machine, get the copy below them, under this name. Inside a bucket the server copies; else the bytes of one
        version go through the store. What is at the target in the cloud is replaced only if nobody changes it
        meanwhile. Raises FileNotFoundError, IsADirectoryError, `OverwriteNewerCloudError`.
        """
        return self._bring(target, force_overwrite_to_cloud, moves=False)

    def copy_into(
        self,
        target_dir: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
    ) -> Any:
        """`copy` below *target_dir*, under this name."""
        return self.copy(self._below(target_dir), force_overwrite_to_cloud=force_overwrite_to_cloud)

    def move(
        self,
        target: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
    ) -> Any:
        """`copy`, and then delete the source, once the copy is known good and if the source is what was copied."""
        return self._bring(target, force_overwrite_to_cloud, moves=True)

    def move_into(
        self,
        target_dir: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
    ) -> Any:
        """`move` below *target_dir*, under this name."""
        return self.move(self._below(target_dir), force_overwrite_to_cloud=force_overwrite_to_cloud)

    def _any_path(self, target: AnyTarget) -> MovingPath | Path:
        from pathlib import Path  # only for whoever names one

        if isinstance(target, MovingPath):
            return target
        if isinstance(target, os.PathLike):
            return Path(target)
        if not isinstance(target, str):
            raise AnyPathTypeError(f"a target is a str or a path, not {type(target).__name__}")
        if "://" not in target:
            return Path(target)
        path_class = implementation_registry.path_class(target)
        made: MovingPath = path_class(target, client=self.client if path_class is type(self) else None)
        return made

    def _below(self, directory: AnyTarget) -> MovingPath | Path:
        target = self._any_path(directory)
        if not isinstance(target, MovingPath):
            return target / self._local_name()
        return target._at_key(target._listing_prefix + self.name)  # noqa: SLF001 (one of us)

    def _bring(self, given: AnyTarget, force: bool | None, *, moves: bool) -> MovingPath | Path:
        target = self._any_path(given)
        if not isinstance(target, MovingPath):
            return self._bring_home(target, moves=moves)
        if not target.uri.key or target.uri.key.endswith("/"):
            target = self._below(target)
            assert isinstance(target, MovingPath)
        self._transfer(target, force, moves=moves)
        return target

    def _transfer(self, target: MovingPath, force: bool | None, *, moves: bool) -> None:
        """To another object. On the server where one can reach both."""
        from pathapi.moving import copy, copy_through, rename

        source, to = self._target(), target._target()
        if source.key == to.key:
            return
        over = target._over(force)
        with self._explaining():
            if source.client is to.client and source.bucket == to.bucket:
                listed = self._listed_object()
                (rename if moves else copy)(source, to, listed, over)
                return
            with self._open_version(moves=moves) as stored:
                copy_through(source, to, stored, over, moves=moves)

    # --- to this machine ----------------------------------------------------------------------------------------------

    def download_to(self, destination: str | os.PathLike[str]) -> Path:
        """Copy to a path of this machine, or into a directory there; that path. All of it or nothing appears.

        Raises FileNotFoundError, IsADirectoryError.
        """
        target = self._any_path(destination)
        if isinstance(target, MovingPath):
            raise TypeError(f"download_to() brings {self._shown} to this machine; copy() brings it to {target}")
        return self._bring_home(target, moves=False)

    def _bring_home(self, target: Path, *, moves: bool) -> Path:
        from pathapi.moving import delete_moved, locked

        if target.is_dir():
            target = target / self._local_name()
        source = self._target()
        with self._explaining(), self._open_version(moves=moves) as stored:
            copy_out(stored.descriptor, os.fspath(target), durable=moves)
            if moves:
                version = stored.validator
                assert version is not None
                if target.stat().st_size != stored.size:
                    raise ChecksumMismatchError(f"{target} has another size than {self._shown}, which was kept")
                with locked(source):
                    delete_moved(source, os.fspath(target), version)
        return target

    def _local_name(self) -> str:
        name = self.name
        if name in ("", ".", "..") or os.path.basename(name) != name:
            raise CloudPathLocalPathTraversalError(f"{self._shown} has a name that no file can have; name the target's")
        return name

    @contextmanager
    def _open_version(self, *, moves: bool) -> Iterator[Stored]:
        """One version's bytes; what *moves* is asked for now, whatever the policy."""
        try:
            stored = self._open_stored(ALWAYS if moves else None, None, None)
        except CloudPathIsADirectoryError as error:
            raise self._directory_error() from error
        try:
            if moves and stored.validator is not None and not stored.validator.identifies:
                # An empty object may come without a version; asked again as what is held, it comes with one.
                os.close(stored.descriptor)
                stored = self._open_stored(ALWAYS, None, None)
            yield stored
        finally:
            os.close(stored.descriptor)

    # --- from this machine --------------------------------------------------------------------------------------------

    def upload_from(self, source: AnyTarget, force_overwrite_to_cloud: bool | None = None) -> Self:
        """Upload a file, or all files below a directory; the path of what was uploaded.

        A file goes below a path that ends with a slash or is a "directory", under its own name. Its bytes are those of
        one moment: one that changes meanwhile is an error. What is there in the cloud is replaced only if nobody
        changes it meanwhile. Raises FileNotFoundError, `StaleReadError`, `OverwriteNewerCloudError`.
        """
        if isinstance(source, MovingPath):
            uploaded: Self = source.copy(self, force_overwrite_to_cloud=force_overwrite_to_cloud)
            return uploaded
        from pathlib import Path

        from pathapi.uploads import files_below, upload_all

        local = Path(source)
        if local.is_dir():
            prefix = self._listing_prefix
            files = ((path, self._at_key(prefix + name)) for path, name in files_below(os.fspath(local)))
            upload_all(files, lambda path, target: target._upload(path, force_overwrite_to_cloud))  # noqa: SLF001 (one of us)
            return self
        target = self
        if not self.uri.key or self.uri.key.endswith("/") or self.is_dir():
            target = self._at_key(self._listing_prefix + local.name)
        target._upload(os.fspath(local), force_overwrite_to_cloud)  # noqa: SLF001 (one of us)
        return target

    def _upload(self, path: str, force: bool | None) -> None:
        from pathapi.moving import locked
        from pathapi.uploading import Base
        from pathapi.uploads import upload_file

        at = self._target()
        over = self._over(force)
        with locked(at, forced=at if over.expect is None else None):
            if over.guessed and over.expect is ABSENT and os.stat(path).st_size >= ASK_FROM:
                there = head_or_none(at.backend, self.uri.key)
                over = Base(ABSENT if there is None else there.validator)
            upload_file(at, path, over)

    # --- what is known ------------------------------------------------------------------------------------------------

    def _over(self, force: bool | None) -> Base:
        """What is at this path, to be replaced: as a listing said, else nothing; the cloud has the last word."""
        from pathapi.uploading import Base

        if forced(force, "TO_CLOUD"):
            return Base(None)
        listed = self._listed_object()
        return Base(ABSENT if listed is None else listed.validator, guessed=True)

    def _listed_object(self) -> ObjectInfo | None:
        listed = self._told()
        return None if listed is None else listed.info

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what a missing source is."""
        listed = self._recall()
        if not self.uri.key or (listed is not None and listed.info is None):
            raise self._directory_error()
        try:
            yield
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise
            meant: CloudPathException = self._explain_missing(error)
            if isinstance(meant, CloudPathIsADirectoryError):
                raise self._directory_error() from error
            raise CloudPathNotExistsError(str(error)) from error

    def _directory_error(self) -> CloudPathIsADirectoryError:
        return CloudPathIsADirectoryError(
            f"{self._shown} is a directory: only single objects can be copied, moved, renamed or downloaded yet; do so "
            "with each file below it"
        )
