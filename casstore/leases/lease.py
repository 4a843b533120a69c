"""A lease: this process's directory in the store, held by a kernel lock for the life of the process.

    leases/<random>/lock         flocked for life; whoever can take it knows that the process is dead
                    staging/     staging files, where they need a name
                    views/<n>/   trees of views: local paths with the objects' real names
                    views.list   a JSON line per path handed out, written before, and per file that needs no record
                    outbox/<n>/  trees of paths of objects that do not exist, for tools to make files at
                    edits/       a directory for each copy that is being changed, to be uploaded at the end
                    progress/    byte counts of long downloads, for whoever waits for them

Born as ``.new-<random>`` with its lock taken, then renamed: nobody ever sees a lease without its lock. A forked child
takes a lease of its own on next use; the parent's stays locked until both are gone, which errs on the safe side.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import Inode
from casstore.errors import StillBeingWrittenError
from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.layout import Layout, LeaseLayout, view_path
from casstore.format.records import Validator
from casstore.fs import copying, files
from casstore.leases.changes import ChangeTracker
from casstore.leases.scan import scan_lease
from casstore.leases.views import View, append_line
from casstore.locks.lock_files import create_locked, locks_are_exclusive

if TYPE_CHECKING:
    from casstore.leases.drafts import DraftPaths
    from casstore.leases.edits import EditRecorder
    from casstore.pending.records import PendingWrite

VIEW_MODES = ("auto", "copy", "link")
"""How a view is made: ``auto`` is a reflink where the file system has them, else for root (whom mode 0444 does not
stop) a copy up to `ROOT_COPY_LIMIT`, else a hard link.
"""

ROOT_COPY_LIMIT = 64 << 20
"""Bytes up to which root gets a private copy instead of a hard link."""

_MAX_NAMED = 3
"""How many files a warning names."""

_CANNOT_LINK = frozenset((errno.ENOENT, errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP))


_forks = 0
"""How often this process has forked, Python's hooks being run."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_count_fork)


class Lease:
    """This process's claim on one store; thread-safe.

    Without *blobs*, nothing becomes a pending write: what was edited or made stays where it is.
    """

    def __init__(self, layout: Layout, view_mode: str = "auto", blobs: BlobStore | None = None) -> None:
        self._layout = layout
        self._blobs = blobs
        self._mutex = threading.Lock()
        self._views: dict[tuple[Key, Digest], View] = {}
        self._pid = os.getpid()
        self._trees = 0
        self.view_mode = view_mode
        self._forks = _forks  # before: a fork from now on gives the lease to a child
        self.name, self._descriptor = _create(layout)
        self.paths = LeaseLayout(layout.lease(self.name))
        self.changes = ChangeTracker(self.paths, self._recorder)
        self._made_drafts: DraftPaths | None = None

    def _recorder(self) -> EditRecorder | None:
        from casstore.leases.edits import EditRecorder  # few processes ever need one

        return None if self._blobs is None else EditRecorder.of_lease(self._layout, self._blobs, self.name)

    @property
    def _drafts(self) -> DraftPaths:
        if self._made_drafts is None:
            from casstore.leases.drafts import DraftPaths  # as above

            self._made_drafts = DraftPaths(self.paths, self.changes)
        return self._made_drafts

    def tree(self) -> str:
        """The root of the newest tree of views."""
        return self.paths.view_tree(self._trees)

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
        """A path named like the object that holds what the open blob *source* does; it stays for the process's life.

        One path per URI and bytes: asked again, the same path, as long as nobody changed it. *validator* is the version
        that an edit of it will be said to start from. Raises StoreFullError.
        """
        with self._mutex, files.full_disk(self._layout.root):
            known = self._views.get((key, digest))
            if known is not None and (known.is_untouched() or known.has_its_bytes()):
                if known.validator != validator:
                    # The same bytes in a newer version of the object: whoever edits them from now on has seen that one.
                    known = replace(known, validator=validator)
                    append_line(self.paths, known.line())
                    self._views[key, digest] = known
                    self.changes.replace(known)
                return known.path
            view = View(key, "", digest, size, Inode(0, 0), digest.mtime * 1_000_000_000, validator)
            return self._make(view, source, bucket, object_key, mode or self.view_mode).path

    def directory(self, origin: str, bucket: str, prefix: str) -> str:
        """The local directory that stands for a cloud's "directory", in the newest tree where no file has its name.

        *prefix* is what the keys below it begin with, its last slash included; empty for the bucket.
        """
        with self._mutex:
            for number in range(self._trees, -1, -1):
                tree = self.paths.view_tree(number)
                path = view_path(tree, origin, bucket, prefix[:-1]) if prefix else self._bucket(number, origin, bucket)
                try:
                    os.makedirs(path, 0o700, exist_ok=True)
                except (FileExistsError, NotADirectoryError):
                    continue
                return path
            self._trees += 1
            path = view_path(self.tree(), origin, bucket, prefix[:-1])
            os.makedirs(path, 0o700, exist_ok=True)
            return path

    def _bucket(self, number: int, origin: str, bucket: str) -> str:
        path = view_path(self.paths.view_tree(number), origin, "", bucket)
        return path if bucket else os.path.dirname(path)

    def _make(self, view: View, source: int, bucket: str, object_key: str, mode: str) -> View:
        for number in range(self._trees + 1):
            path = view_path(self.paths.view_tree(number), view.key.origin, bucket, object_key)
            try:
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                continue  # a file of that tree stands where this name needs a directory
            made = self._create_at(replace(view, path=path), source, mode)
            if made is not None:
                return made
        # An older version, an edited file or a directory has the name in every tree so far.
        self._trees += 1
        path = view_path(self.tree(), view.key.origin, bucket, object_key)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        made = self._create_at(replace(view, path=path), source, mode)
        if made is None:
            raise OSError(errno.EEXIST, "a new tree of views is not empty", path)
        return made

    def _create_at(self, view: View, source: int, mode: str) -> View | None:
        """The view at its path, complete; None where the name is taken."""
        if os.path.lexists(view.path):
            return None
        temporary = self._copy_for_view(source, view.size, mode)
        if temporary is None:
            linked = self._link_blob(view, source)
            if linked is not None:
                return linked
            temporary = self._copy(source)
        if temporary is None:
            raise OSError(errno.EIO, "cannot make a local copy", view.path)
        try:
            os.utime(temporary, (view.digest.mtime, view.digest.mtime))
            view = replace(view, inode=Inode.of(os.stat(temporary)))
            append_line(self.paths, view.line())
            files.link(temporary, view.path)
        finally:
            files.unlink_quietly(temporary)
        return self._keep(view)

    def _keep(self, view: View) -> View:
        # Watched by path as well: an edited view gives way to a new one of its version, and is still looked for.
        self._views[view.key, view.digest] = view
        self.changes.add(view, view.state)
        return view

    def _link_blob(self, view: View, source: int) -> View | None:
        """A hard link to the blob as view; None where it was swept since it was opened, or can have no more links."""
        blob = self._layout.blob(view.digest.value)
        try:
            status = os.stat(blob, follow_symlinks=False)
            if Inode.of(status) != Inode.of(os.fstat(source)):
                return None  # another file than the one that was checked
            view = replace(view, inode=Inode.of(status), mtime_ns=status.st_mtime_ns)
            append_line(self.paths, view.line())
            files.link(blob, view.path)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return None
            raise
        # Between the stat and the link the blob may have been swept and filled again.
        if not view.is_untouched():
            os.unlink(view.path)
            return None
        return self._keep(view)

    def _copy_for_view(self, source: int, size: int, mode: str) -> str | None:
        """A private copy with a temporary name; None where a hard link is to serve."""
        if mode == "link":
            return None
        by_hand = mode == "copy" or (os.geteuid() == 0 and size <= ROOT_COPY_LIMIT)
        return self._copy(source, by_hand=by_hand)

    def _copy(self, source: int, *, by_hand: bool = True) -> str | None:
        """A private copy, by reflink or, with *by_hand*, byte by byte; None where neither is to be."""
        os.makedirs(self.paths.staging, 0o700, exist_ok=True)
        descriptor, temporary = files.open_named(self.paths.staging)
        copied = False
        try:
            # Mode 0600: a copy is the process's own, and tools that open for update get what they expect.
            copied = copying.clone(source, descriptor)
            if not copied and by_hand:
                copying.copy_bytes(source, descriptor)
                copied = True
        finally:
            os.close(descriptor)
            if not copied:
                files.unlink_quietly(temporary)
        return temporary if copied else None

    def release_view(self, path: str) -> None:
        """Take back one path before the process ends; an edited one stays."""
        with self._mutex:
            for known, view in list(self._views.items()):
                if view.path == path and view.is_untouched():
                    os.unlink(path)
                    del self._views[known]
                    self.changes.drop(path)

    def rebase(self, path: str, digest: Digest, validator: Validator) -> None:
        """The cloud has, as *validator*, the bytes of *digest* that somebody made of the view at *path*: it is a view
        of that version from now on. Does nothing where it is no view of this lease, or has other bytes by now.
        """
        with self._mutex:
            view = next((view for view in self.changes.views() if view.path == path), None)
            if view is None:
                return
            from casstore.leases.edits import stable_read  # as above

            try:
                with stable_read(path) as (descriptor, state):
                    if hash_descriptor(descriptor, digest.algorithm) != digest:
                        return
            except (FileNotFoundError, StillBeingWrittenError):
                return
            made = View(view.key, path, digest, state.size, state.inode, state.mtime_ns, validator)
            append_line(self.paths, made.line())
            self._views = {known: other for known, other in self._views.items() if other.path != path}
            self._keep(made)

    def outbox(self, key: Key, bucket: str, object_key: str) -> str:
        """A path named like the object, which does not exist, where nothing is: for a tool to make a file at.

        Asked again, the same path, whatever was made there, until `release`.
        """
        with self._mutex, files.full_disk(self._layout.root):
            return self._drafts.outbox(key, bucket, object_key)

    def edit(self, key: Key, object_key: str, validator: Validator | None, source: int | None = None) -> str:
        """A path of its own with the object's name, to be changed and given back by `release`; *validator* is the
        version that this starts from. With *source*, an open file, it holds a copy of that; else nothing is there.
        """
        with self._mutex, files.full_disk(self._layout.root):
            copy = None if source is None else self._copy(source)
            return self._drafts.edit(key, object_key, validator, copy)

    def release(self, path: str, digest: Digest | None = None) -> bool:
        """Remove what is at a path of `outbox` or `edit`, and forget the path. With *digest*, a file with other bytes
        stays, and the path with it: False.
        """
        with self._mutex:
            return self._drafts.release(path, digest)

    def edited(self) -> list[View]:
        """The views whose bytes somebody changed, or whose file somebody replaced."""
        return [
            view
            for view in self.changes.views()
            if os.path.exists(view.path) and not (view.is_untouched() or view.has_its_bytes())
        ]

    def report_progress(self, name: str, count: int) -> None:
        """Leave a byte count where waiters of *name* look; called about once a second by a long download."""
        os.makedirs(self.paths.progress, 0o700, exist_ok=True)
        with open(f"{self.paths.progress}/{name}", "w", encoding="ascii") as file:
            file.write(str(count))

    def end_progress(self, name: str) -> None:
        """The download is over."""
        files.unlink_quietly(f"{self.paths.progress}/{name}")

    def close(self) -> None:
        """A normal exit: give the lease up and drop it; edits, and what tools left, become pending writes, and that is
        said. A forked child that still holds it keeps it, and so does a file that cannot be recorded.
        """
        if self._pid != os.getpid():
            return  # a child of a fork that ran no hooks: the parent lives on
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        os.close(descriptor)
        from casstore.leases.reaper import reap_lease  # at the end only

        with contextlib.suppress(OSError):  # what cannot be removed now is the collector's
            # A lock that can be taken proves that nobody else has the lease. Where locks are for show, only a process
            # that never forked knows that.
            if self._forks != _forks and not locks_are_exclusive(self._layout.locks):
                recorder = self._recorder()
                if recorder is not None:
                    _warn_recorded(recorder.record(self.paths, scan_lease(self.paths).unrecorded))
                return
            outcome = reap_lease(self._layout, self.name, self._blobs)
            _warn_recorded(outcome.recorded)
            if outcome.retained is not None and outcome.retained.edited:
                edited = outcome.retained.edited
                warnings.warn(
                    f"{len(edited)} local files were edited or made, and not uploaded; they stay at: "
                    f"{', '.join(edited[:_MAX_NAMED])}",
                    stacklevel=2,
                )

    def abandon(self) -> None:
        """Let go of a lease whose directory somebody removed."""
        if self._pid == os.getpid() and self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def exists(self) -> bool:
        """Whether nobody removed the directory, with the whole store maybe."""
        return os.path.exists(self.paths.lock)


def _warn_recorded(writes: Sequence[PendingWrite]) -> None:
    if writes:
        uris = sorted({write.uri for write in writes})
        more = ", ..." if len(uris) > _MAX_NAMED else ""
        warnings.warn(
            f"{len(writes)} local files were changed or made, and not uploaded; they are kept as pending writes "
            f"(casstore pending lists them): {', '.join(uris[:_MAX_NAMED])}{more}",
            stacklevel=3,
        )


def _create(layout: Layout) -> tuple[str, int]:
    for _ in range(100):
        name = os.urandom(8).hex()
        new = layout.lease(f".new-{name}")
        os.mkdir(new, 0o700)
        descriptor = -1
        try:
            descriptor = create_locked(LeaseLayout(new).lock)
            files.rename(new, layout.lease(name))
        except (FileNotFoundError, BlockingIOError):
            # Somebody reaped the directory before it had its lock, or is about to: has the lock himself.
            if descriptor >= 0:
                os.close(descriptor)
            continue
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return name, descriptor
    raise OSError(errno.EAGAIN, "a new lease was taken away a hundred times", layout.leases)
