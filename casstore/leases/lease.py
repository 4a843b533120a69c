"""A lease: this process's directory in the store, locked for the life of the process.

    leases/<random>/lock         flocked for life; a process that can lock it knows that the owner is dead
                    staging/     staging files on file systems without unnamed files
                    views/<n>/   trees of views: local paths with the objects' real names
                    views.list   a JSON line per local path, written before the file, and per file that needs no record
                    outbox/<n>/  trees of paths of objects that do not exist, at which tools create files
                    edits/       a directory for each copy that is being changed, to be uploaded at the end
                    progress/    byte counts of long downloads, for processes that wait for them

It is created and locked as ``.new-<random>``, then renamed: no process ever sees a lease without its lock. A forked
child creates its own lease on next use. The parent's stays locked until both have ended, which errs on the safe side.
"""

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import Inode
from casstore.errors import StillBeingWrittenError, printable
from casstore.format.digest import Digest, hash_descriptor
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout, view_path
from casstore.format.records import Validator
from casstore.fs import copying, files
from casstore.leases.changes import ChangeTracker
from casstore.leases.views import FileState, View, append_line
from casstore.locks.lock_files import LockedFile, create_locked, locks_are_exclusive
from casstore.locks.mutex import new_mutex

if TYPE_CHECKING:
    from casstore.leases.drafts import DraftPaths
    from casstore.leases.edits import EditRecorder
    from casstore.pending.records import PendingWrite

ROOT_COPY_LIMIT = 64 << 20
"""Bytes up to which root gets a copy instead of a hard link."""
_MAX_NAMED = 3  # files that a warning names
_CANNOT_LINK = frozenset((errno.ENOENT, errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP))


_forks = 0
"""How often this process has forked with Python's hooks."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork)


class Lease:
    """This process's claim on one store; thread-safe. Without *blobs*, no edit becomes a pending write."""

    def __init__(self, layout: Layout, view_mode: str = "auto", blobs: BlobStore | None = None) -> None:
        self._layout = layout
        self._blobs = blobs
        self._mutex = new_mutex()
        self._views: dict[tuple[Key, Digest], View] = {}
        self._pid = os.getpid()
        self._trees = 0
        self._made_drafts: DraftPaths | None = None
        self.view_mode = view_mode
        self._forks = _forks  # set first: a fork from now on gives the lease to a child
        self.name, self._file = _create(layout)
        self.paths = LeaseLayout(layout.lease(self.name))
        self.changes = ChangeTracker(self.paths, self._recorder)

    def _recorder(self) -> EditRecorder | None:
        from casstore.leases.edits import EditRecorder  # few processes need one

        return None if self._blobs is None else EditRecorder.of_lease(self._layout, self._blobs, self.name)

    def _drafts(self) -> DraftPaths:
        if self._made_drafts is None:
            from casstore.leases.drafts import DraftPaths  # few processes need one

            self._made_drafts = DraftPaths(self.paths, self.changes)
        return self._made_drafts

    def view(
        self,
        key: Key,
        digest: Digest,
        size: int,
        source: int,
        bucket: str,
        object_key: str,
        mode: str | None = None,
        validator: Validator | None = None,
    ) -> str:
        """Return a path with the object's name and the bytes of the open blob *source*; valid for the process's life.

        Returns the same path for the same URI and bytes until its file is changed. *validator* is the version that an
        edit of it starts from. Raises: StoreFullError.
        """
        with self._mutex, files.full_disk(self._layout.root):
            known = self._views.get((key, digest))
            if known is not None and (known.is_untouched() or known.has_bytes_of(source)):
                if known.validator != validator:
                    # The same bytes in a newer version of the object: later edits start from that version.
                    known = replace(known, validator=validator)
                    append_line(self.paths, known)
                    self._views[key, digest] = known
                    self.changes.replace(known)
                return known.path
            view = View(key, "", digest, FileState(Inode(0, 0), size, digest.mtime * 1_000_000_000), validator)
            return self._make(view, source, bucket, object_key, mode or self.view_mode).path

    def directory(self, origin: str, bucket: str, prefix: str) -> str:
        """Return the local directory for a "directory" of the bucket, in the newest tree without a file in its place.

        *prefix* is the prefix of its keys, with the final slash; empty for the bucket.
        """
        with self._mutex:
            for number in (*range(self._trees, -1, -1), self._trees + 1):
                tree = self.paths.view_tree(number)
                path = view_path(tree, origin, bucket, prefix[:-1]) if prefix else view_path(tree, origin, "", bucket)
                if not (prefix or bucket):
                    path = os.path.dirname(path)
                try:
                    os.makedirs(path, 0o700, exist_ok=True)
                except (FileExistsError, NotADirectoryError):
                    continue
                self._trees = max(self._trees, number)
                return path
            raise OSError(errno.EEXIST, "a new tree of views is not empty: delete it", self.paths.path)

    def _make(self, view: View, source: int, bucket: str, object_key: str, mode: str) -> View:
        # Every tree so far may have an older version, an edited file or a directory there; the last one is new.
        for number in range(self._trees + 2):
            path = view_path(self.paths.view_tree(number), view.key.origin, bucket, object_key)
            try:
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                continue  # a file of that tree has this directory's name
            self._trees = max(self._trees, number)
            made = self._create_at(replace(view, path=path), source, mode)
            if made is not None:
                return made
        raise OSError(errno.EEXIST, "a new tree of views is not empty: delete it", self.paths.path)

    def _create_at(self, view: View, source: int, mode: str) -> View | None:
        if os.path.lexists(view.path):
            return None
        temporary = None
        if mode != "link":
            # In mode auto, without reflinks: a hard link, except for root, whom mode 0444 does not stop from writing.
            must_copy = mode == "copy" or (os.geteuid() == 0 and view.state.size <= ROOT_COPY_LIMIT)
            temporary = self._copy(source, must_copy=must_copy)
        if temporary is None:
            linked = self._link_blob(view, source)
            if linked is not None:
                return linked
            temporary = self._copy(source)
        if temporary is None:
            raise OSError(errno.EIO, "cannot create a local copy", view.path)
        try:
            os.utime(temporary, (view.digest.mtime, view.digest.mtime))
            view = replace(view, state=view.state._replace(inode=Inode.of(os.stat(temporary))))
            append_line(self.paths, view)
            files.link(temporary, view.path)
        finally:
            files.unlink_quietly(temporary)
        return self._keep(view)

    def _keep(self, view: View) -> View:
        # Tracked by path too: a new view of the same version replaces an edited one, which stays tracked.
        self._views[view.key, view.digest] = view
        self.changes.add(view, view.state)
        return view

    def _link_blob(self, view: View, source: int) -> View | None:
        """Create the view as a hard link; return None if the blob was swept meanwhile, or cannot have more links."""
        blob = self._layout.blob(view.digest.value)
        try:
            status = os.stat(blob, follow_symlinks=False)
            if Inode.of(status) != Inode.of(os.fstat(source)):
                return None  # not the file that was checked
            state = view.state._replace(inode=Inode.of(status), mtime_ns=status.st_mtime_ns)
            view = replace(view, state=state)
            append_line(self.paths, view)
            files.link(blob, view.path)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return None
            raise
        # The blob may have been swept and filled again between the stat and the link.
        if not view.is_untouched():
            os.unlink(view.path)
            return None
        return self._keep(view)

    def _copy(self, source: int, *, must_copy: bool = True) -> str | None:
        """Create a private copy as a reflink, or with *must_copy* as a copy of the bytes; return None if neither."""
        os.makedirs(self.paths.staging, 0o700, exist_ok=True)
        descriptor, temporary = files.open_named(self.paths.staging)
        copied = False
        try:
            # Mode 0600: tools open copies for update.
            copied = copying.clone(source, descriptor)
            if not copied and must_copy:
                copying.copy_bytes(source, descriptor)
                copied = True
        finally:
            os.close(descriptor)
            if not copied:
                files.unlink_quietly(temporary)
        return temporary if copied else None

    def release_view(self, path: str) -> None:
        """Remove a view before the process ends; an edited one stays."""
        with self._mutex:
            for cached, view in list(self._views.items()):
                if view.path == path and view.is_untouched():
                    os.unlink(path)
                    del self._views[cached]
                    self.changes.drop(path)

    def rebase(self, path: str, digest: Digest, proof: Digest, validator: Validator) -> None:
        """Make *path* a view of version *validator*, because its edit, the bytes of the blob *digest*, was uploaded.

        Does nothing if it is no view of this lease, or its bytes are not those of the cryptographic digest *proof*.
        """
        with self._mutex:
            view = next((view for view in self.changes.views() if view.path == path), None)
            if view is None:
                return
            from casstore.leases.edits import stable_read

            try:
                with stable_read(path) as (descriptor, state):
                    if hash_descriptor(descriptor, proof.algorithm) != proof:
                        return
            except (FileNotFoundError, StillBeingWrittenError):
                return
            made = View(view.key, path, digest, state, validator)
            append_line(self.paths, made)
            self._views = {known: other for known, other in self._views.items() if other.path != path}
            self._keep(made)

    def outbox(self, key: Key, bucket: str, object_key: str) -> str:
        """Return a path where nothing exists, with the object's name, for a tool's file; the same until `release`."""
        with self._mutex, files.full_disk(self._layout.root):
            return self._drafts().outbox(key, bucket, object_key)

    def edit(self, key: Key, object_key: str, validator: Validator | None, source: int | None = None) -> str:
        """Return a new path with the object's name, to be changed and given back by `release`.

        *validator* is the version that the edit starts from. With *source*, an open file, the path has a copy of it.
        """
        with self._mutex, files.full_disk(self._layout.root):
            copy = None if source is None else self._copy(source)
            return self._drafts().edit(key, object_key, validator, copy)

    def release(self, path: str, digest: Digest | None = None) -> bool:
        """Forget a path of `outbox` or `edit`, and remove its file; return False if its bytes do not match *digest*."""
        with self._mutex:
            return self._drafts().release(path, digest)

    def report_progress(self, name: str, count: int) -> None:
        """Write a download's byte count for processes that wait for *name*; called about once a second."""
        os.makedirs(self.paths.progress, 0o700, exist_ok=True)
        with open(f"{self.paths.progress}/{name}", "w", encoding="ascii") as file:
            file.write(str(count))

    def end_progress(self, name: str) -> None:
        """Remove the byte count: the download has ended."""
        files.unlink_quietly(f"{self.paths.progress}/{name}")

    def close(self) -> None:
        """End the lease at a normal exit. Edits, and files that tools left, become pending writes, with a warning.

        A lease with a file that cannot be recorded stays, and so does one that a forked child still has.
        """
        if not self.abandon():
            return
        from casstore.leases.reaper import reap_lease  # only at the end

        with contextlib.suppress(OSError):  # the collector removes the rest
            # A lock that succeeds proves that no other process has the lease. If locks do not exclude, only a process
            # that never forked knows that.
            if self._forks != _forks and not locks_are_exclusive(self._layout.locks):
                from casstore.leases.scan import scan_lease

                recorder = self._recorder()
                if recorder is not None:
                    _warn_recorded(recorder.record(self.paths, scan_lease(self.paths).unrecorded))
                return
            outcome = reap_lease(self._layout, self.name, self._blobs)
            _warn_recorded(outcome.recorded)
            if outcome.retained is not None and outcome.retained.edited:
                edited = outcome.retained.edited
                message = (
                    f"{len(edited)} local files were edited or created, and not uploaded; they are kept at: "
                    f"{', '.join(edited[:_MAX_NAMED])}"
                )
                warnings.warn(printable(message), stacklevel=2)

    def abandon(self) -> bool:
        """Unlock the lease, and leave its directory; return False if this process does not have the lock."""
        if self._pid != os.getpid() or self._file.closed:
            return False  # the child of a fork without hooks: the parent lives on
        self._file.close()
        return True

    def exists(self) -> bool:
        return os.path.exists(self.paths.lock)


def _warn_recorded(writes: Sequence[PendingWrite]) -> None:
    if writes:
        uris = sorted({write.uri for write in writes})
        more = ", ..." if len(uris) > _MAX_NAMED else ""
        message = (
            f"{len(writes)} local files were changed or created, and not uploaded; they are kept as pending writes: "
            f"{', '.join(uris[:_MAX_NAMED])}{more}: run casstore pending to list them"
        )
        warnings.warn(printable(message), stacklevel=3)


def _create(layout: Layout) -> tuple[str, LockedFile]:
    for _ in range(100):
        name = os.urandom(8).hex()
        new = layout.lease(f".new-{name}")
        os.mkdir(new, 0o700)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            # Either error: another process reaped the directory before it was locked, or is about to: it has the lock.
            file = create_locked(LeaseLayout(new).lock)
            try:
                files.rename(new, layout.lease(name))
                return name, file
            except BaseException:
                file.close()
                raise
    raise OSError(errno.EAGAIN, "new leases were deleted 100 times: try again", layout.leases)
