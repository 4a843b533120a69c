"""A cloud path that is copied, moved, renamed and deleted, from one cloud to another or to and from this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from casstore import copy_out
from pathapi.backend import ABSENT, ObjectInfo, head_or_none
from pathapi.client import forced
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
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.registry import implementation_registry
from pathapi.writing.opening import WritingPath

if TYPE_CHECKING:
    from pathlib import Path

    from casstore import Stored
    from pathapi.writing.conditional_put import WriteBase

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
        from pathapi.transfer.objects import delete, locked

        uri = self.uri
        at = self._target()
        with locked(at):
            listed = self._listed_info()
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
        with self._explaining():
            self._transfer(target, None, delete_source=True)
        return target

    def replace(self, target: str | Self) -> Self:
        """The same as `rename`."""
        return self.rename(target)

    # --- copying and moving -------------------------------------------------------------------------------------------

    def _any_path(self, target: AnyTarget) -> MovingPath | Path:
        from pathlib import Path  # only for whoever names one

        if isinstance(target, MovingPath):
            return target
        if isinstance(target, os.PathLike):
            return Path(target)
        if not isinstance(target, str):
            raise AnyPathTypeError(f"a source or a target is a str or a path, not {type(target).__name__}")
        if "://" not in target:
            return Path(target)
        path_class = implementation_registry.path_class(target)
        made: MovingPath = path_class(target, client=self.client if path_class is type(self) else None)
        return made

    def _below(self, directory: AnyTarget) -> MovingPath | Path:
        target = self._any_path(directory)
        if not isinstance(target, MovingPath):
            return target / self._local_name()
        return target._at_key(target._listing_prefix + self.name)

    def copy_to(self, target: MovingPath | Path, force: bool | None, *, delete_source: bool) -> MovingPath | Path:
        """The object, to where *target* says. Raises CloudPathFileNotFoundError itself where there is none."""
        if not isinstance(target, MovingPath):
            return self._copy_to_local(target, delete_source=delete_source)
        if not target.uri.key or target.uri.key.endswith("/"):
            target = self._below(target)
            assert isinstance(target, MovingPath)
        self._transfer(target, force, delete_source=delete_source)
        return target

    def _transfer(self, target: MovingPath, force: bool | None, *, delete_source: bool) -> None:
        """To another object. On the server where one can reach both."""
        from pathapi.transfer.objects import copy, copy_through, rename

        source, to = self._target(), target._target()
        if source.key == to.key:
            source.backend.head(source.object_key)  # nothing to do, if it is an object
            return
        over = target._target_condition(force)
        if self._shares_a_server(target):
            (rename if delete_source else copy)(source, to, self._listed_object(), over)
            return
        with self._open_version(delete_source=delete_source) as stored:
            copy_through(source, to, stored, over, delete_source=delete_source)

    def _shares_a_server(self, other: MovingPath) -> bool:
        return self.client is other.client and self.uri.bucket == other.uri.bucket

    # --- to this machine ----------------------------------------------------------------------------------------------

    def _copy_to_local(self, target: Path, *, delete_source: bool) -> Path:
        if target.is_dir():
            target = target / self._local_name()
        with self._open_version(delete_source=delete_source) as stored:
            self._copy_out(stored, os.fspath(target), delete_source=delete_source)
        return target

    def _copy_out(self, stored: Stored, target: str, *, delete_source: bool) -> None:
        """To the file *target*; where that *moves* it, the source is deleted once it is on the disk."""
        from pathapi.transfer.objects import delete_moved, locked

        copy_out(stored.descriptor, target, durable=delete_source)
        if delete_source:
            version = stored.validator
            assert version is not None
            if os.stat(target).st_size != stored.size:
                raise ChecksumMismatchError(f"{target} has another size than {self._shown}, which was kept")
            source = self._target()
            with locked(source):
                delete_moved(source, target, version)

    def _local_name(self) -> str:
        name = self.name
        if name in ("", ".", "..") or os.path.basename(name) != name:
            raise CloudPathLocalPathTraversalError(f"{self._shown} has a name that no file can have; name the target's")
        return name

    @contextmanager
    def _open_version(self, freshness: FreshnessArg = None, *, delete_source: bool) -> Iterator[Stored]:
        """One version's bytes; what *moves* is asked for now, whatever the policy."""
        stored = (
            self._open_identified(ALWAYS)
            if delete_source
            else self._read(self.client.reader.open, self._ask(freshness, None, None))
        )
        try:
            yield stored
        finally:
            os.close(stored.descriptor)

    # --- from this machine --------------------------------------------------------------------------------------------

    def _upload(self, path: str, force: bool | None) -> None:
        from pathapi.transfer.local_files import upload_file
        from pathapi.transfer.objects import forced_of, locked
        from pathapi.writing.conditional_put import WriteBase

        at = self._target()
        over = self._target_condition(force)
        with locked(at, forced=forced_of(at, over)):
            if over.assumed and over.condition_version is ABSENT and os.stat(path).st_size >= ASK_FROM:
                there = head_or_none(at.backend, self.uri.key)
                over = WriteBase(ABSENT if there is None else there.validator)
            upload_file(at, path, over)

    # --- what is known ------------------------------------------------------------------------------------------------

    def _target_condition(self, force: bool | None) -> WriteBase:
        """What is at this path, to be replaced: as a listing said, else nothing; the cloud has the last word."""
        from pathapi.writing.conditional_put import WriteBase

        if forced(force, "TO_CLOUD"):
            return WriteBase(None)
        listed = self._listed_object()
        return WriteBase(ABSENT if listed is None else listed.validator, assumed=True)

    def _listed_object(self) -> ObjectInfo | None:
        listed = self._listed_info()
        return None if listed is None else listed.info

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Say what a missing source is."""
        listed = self._recall_listed()
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
            f"{self._shown} is a directory, and no server renames one; move() moves what is below"
        )
