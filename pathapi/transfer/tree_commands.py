"""A cloud path that is copied, moved, downloaded, uploaded and deleted with all that is below it.

What does the work is imported by the first call: most processes only read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathNotADirectoryError,
    CloudPathNotExistsError,
)
from pathapi.transfer.dispatch import AnyTarget, MovingPath

if TYPE_CHECKING:
    from pathlib import Path

    from pathapi.parallel.progress import ProgressCallback
    from pathapi.transfer.tree_items import Ignore
    from pathapi.transfer.trees import TreeOptions

Result = TypeVar("Result")


class TreePath(MovingPath):
    """`CloudPath` as far as whole "directories" go: eight files at a time, each by itself as safe as a single one.

    Wherever such a call ends, by an error, Ctrl-C or a kill, every file that is there is whole, and the same call goes
    on. The first error is raised once what is under way beside it has ended. *progress* is called some ten times a
    second with a `pathapi.Progress`; `pathapi.progress_bar` makes one that draws.
    """

    __slots__ = ()

    # --- copying and moving -------------------------------------------------------------------------------------------

    def copy(
        self,
        target: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Copy to another cloud path, or to a path of this machine; that path.

        A str without a scheme is a path of this machine. A target that ends with a slash, and a directory of this
        machine, get an object below them, under its name; a "directory" is copied as `copytree` does, and what is in it
        gets directly below the target. Inside a bucket the server copies; else the bytes of one version go through the
        store. What is at the target in the cloud is replaced only if nobody changes it meanwhile. Raises
        FileNotFoundError, `OverwriteNewerCloudError`, and what `copytree` does.
        """
        return self._bring_any(target, force_overwrite_to_cloud, progress, delete_source=False)

    def copy_into(
        self,
        target_dir: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """`copy` below *target_dir*, under this name."""
        return self._bring_any(self._below(target_dir), force_overwrite_to_cloud, progress, delete_source=False)

    def move(
        self,
        target: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """`copy`, and then delete the source, once the copy is known good and if the source is what was copied.

        Of a "directory", each object by itself.
        """
        return self._bring_any(target, force_overwrite_to_cloud, progress, delete_source=True)

    def move_into(
        self,
        target_dir: AnyTarget,
        follow_symlinks: bool = True,
        preserve_metadata: bool = False,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """`move` below *target_dir*, under this name."""
        return self._bring_any(self._below(target_dir), force_overwrite_to_cloud, progress, delete_source=True)

    def copytree(
        self,
        destination: AnyTarget,
        force_overwrite_to_cloud: bool | None = None,
        ignore: Ignore | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Any:
        """Copy everything below this path to directly below *destination*, a cloud path or one of this machine; that
        path.

        *ignore* is what `shutil.copytree` takes, such as `shutil.ignore_patterns`. Objects that are there already with
        the same bytes are left. Raises FileNotFoundError where there is nothing, `CloudPathNotADirectoryError` for an
        object, `CloudPathFileExistsError` where *destination* is one or a file, InvalidConfigurationException for one
        inside this path; to this machine what `download_to` does.
        """
        from pathapi.transfer.trees import TreeOptions

        target = self._any_path(destination)
        try:
            self._bring_tree(target, TreeOptions(False, force_overwrite_to_cloud, ignore, progress))
        except CloudPathNotExistsError:
            if not str(self).endswith("/") and self._head() is not None:
                raise self._not_a_directory() from None
            raise
        return target

    def _not_a_directory(self) -> CloudPathNotADirectoryError:
        return CloudPathNotADirectoryError(f"{self._shown} is an object, not a directory; copy() copies those")

    def _bring_any(
        self, given: AnyTarget, force: bool | None, progress: ProgressCallback | None, *, delete_source: bool
    ) -> MovingPath | Path:
        from pathapi.transfer.trees import TreeOptions

        target = self._any_path(given)
        missing = None
        if not self._names_a_directory():
            try:
                return self._one(lambda: self.copy_to(target, force, delete_source=delete_source), progress)
            except CloudPathFileNotFoundError as error:
                if type(error) is not CloudPathFileNotFoundError:
                    raise
                missing = error
        self._bring_tree(target, TreeOptions(delete_source, force, None, progress, missing))
        return target

    def _names_a_directory(self) -> bool:
        key = self.uri.key
        if not key or key.endswith("/"):
            return True
        listed = self._recall_listed()
        return listed is not None and listed.info is None

    def _bring_tree(self, target: MovingPath | Path, order: TreeOptions) -> None:
        from pathapi.transfer.trees import copy_tree, download

        if not isinstance(target, MovingPath):
            download(self, os.fspath(target), order)
            return
        if target.uri.key and not target.uri.key.endswith("/") and target._head() is not None:
            raise CloudPathFileExistsError(
                f"{target.uri.shown} is an object, where the directory {self._shown} was to go"
            )
        copy_tree(self, target, order)

    def _one(self, act: Callable[[], Result], progress: ProgressCallback | None) -> Result:
        """A single object, with progress only for whoever wants it."""
        if progress is None:
            return act()
        from pathapi.parallel.worker_pool import WorkerPool

        results: list[Result] = []

        def one(_: int) -> bool:
            results.append(act())
            return False

        def size_of(_: int) -> int:
            return self._known_size() if results else 0

        WorkerPool(one, size_of, progress, downloads=self.client.cache.underway).run([0])
        return results[0]

    def _known_size(self) -> int:
        listed = self._recall_listed()
        if listed is not None and listed.info is not None:
            return listed.info.size
        entry = self.client.cache.lookup(self._store_key())
        return 0 if entry is None else entry.size

    # --- to and from this machine -------------------------------------------------------------------------------------

    def download_to(self, destination: str | os.PathLike[str], *, progress: ProgressCallback | None = None) -> Path:
        """Copy to a path of this machine; that path. An object goes into a directory that is there, under its name;
        what is below a "directory" goes directly below *destination*, which is made.

        All of a file or nothing appears. Of a directory, files that are there with the same bytes are not written
        again. No key leads out of *destination*: before anything is written, `CloudPathLocalPathTraversalError` names
        one that no file below it can have (``..``, ``a//b``, a NUL, a name that is both file and directory). Raises
        FileNotFoundError, FileExistsError where a file is to be and something else is, or the reverse.
        """
        target = self._any_path(destination)
        if isinstance(target, MovingPath):
            raise TypeError(
                f"download_to() brings {self._shown} to this machine; copy() brings it to {target.uri.shown}"
            )
        brought = self._bring_any(target, None, progress, delete_source=False)
        assert not isinstance(brought, MovingPath)
        return brought

    def upload_from(
        self,
        source: AnyTarget,
        force_overwrite_to_cloud: bool | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Self:
        """Upload a file, or all files below a directory; the path of what was uploaded. From a cloud, `copy` to here.

        A file goes below a path that ends with a slash or is a "directory", under its own name. Its bytes are those of
        one moment: one that changes meanwhile is an error. What is there in the cloud is replaced only if nobody
        changes it meanwhile. Of a directory, files whose bytes the cloud has are not sent: the first that is there
        already has the target listed, once. Raises FileNotFoundError, `StaleReadError`, `OverwriteNewerCloudError`.
        """
        local = self._any_path(source)
        if isinstance(local, MovingPath):
            assert isinstance(local, TreePath)
            uploaded: Self = local.copy(self, force_overwrite_to_cloud=force_overwrite_to_cloud, progress=progress)
            return uploaded
        if local.is_dir():
            from pathapi.transfer.trees import TreeOptions, upload

            upload(self, os.fspath(local), TreeOptions(False, force_overwrite_to_cloud, None, progress))
            return self
        target = self
        if not self.uri.key or self.uri.key.endswith("/") or self.is_dir():
            target = self._at_key(self._listing_prefix + local.name)
        target._one(lambda: target._upload(os.fspath(local), force_overwrite_to_cloud), progress)
        return target

    # --- deleting -----------------------------------------------------------------------------------------------------

    def rmtree(self, ignore_errors: bool = False, *, progress: ProgressCallback | None = None) -> None:
        """Delete everything below this path, and its entries; nothing where there is nothing.

        Each object goes only in the version that was listed (where the server can be held to that): what somebody
        writes meanwhile stays, and `OverwriteNewerCloudError` names it when all else is gone. Where something below has
        writes that the cloud does not have, `PendingWriteError` names it and nothing is deleted. Raises
        `CloudPathNotADirectoryError` for an object. With *ignore_errors*, what cannot be deleted stays, unsaid.
        """
        from pathapi.transfer.tree_delete import remove_tree

        remove_tree(self, progress, ignore_errors=ignore_errors)

    def rmdir(self) -> None:
        """Nothing: an empty "directory" of an object store is not there (an object that marks one is deleted).

        Raises `DirectoryNotEmptyError`, and `CloudPathNotADirectoryError` for an object.
        """
        from pathapi.transfer.tree_delete import remove_empty

        remove_empty(self)
