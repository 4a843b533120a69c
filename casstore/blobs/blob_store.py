"""Blobs: immutable files named by the digest of their bytes, and the staging files that become them.

Bytes first, name second. A staging file is filled, gets mode 0444 and the mtime that follows from its digest, and is
linked into ``blobs/``; nobody ever sees a name with half of its bytes. A name that is taken is a dedup hit, after the
bytes have been compared where equal digests prove nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from casstore.blobs.hashing import hash_descriptor
from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.errors import BlobDamagedError, StoreUnavailableError
from casstore.format.digest import Digest, digest_mtime
from casstore.format.layout import Layout
from casstore.fs import copying, files

OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Of whatever has a blob's name: a pipe that somebody put there must not be waited for."""

_NOT_A_FILE: Final = frozenset((errno.ELOOP, errno.ENXIO))
"""What opening gives for a symbolic link and for a socket."""


class BlobModifiedError(BlobDamagedError):
    """A blob's size or mtime is not what its name and its entry say: somebody touched or changed it."""


class CollisionError(BlobDamagedError):
    """Two different contents have one digest, and both are right; the newcomer cannot be stored."""


class BlobStore:
    """The files under ``blobs/`` of one store. Knows no index: what may be trusted about a taken name, callers say."""

    __slots__ = ("_algorithm", "_layout", "_open_sets_mode")

    def __init__(self, layout: Layout, algorithm: str) -> None:
        self._layout = layout
        self._algorithm = algorithm
        self._open_sets_mode: bool | None = None

    def stage(self, fallback_directory: Callable[[], str] | None = None) -> Staging:
        """A new staging file; one with a name, in the directory that *named_in* gives, only where unnamed files do not
        exist.

        Raises StoreFullError.
        """
        with files.full_disk(self._layout.root):
            descriptor = files.open_unnamed(self._layout.blobs)
            if descriptor is not None:
                if self._open_sets_mode is None:
                    # The umask may take bits away; asked once, since every system call counts beside busy threads.
                    self._open_sets_mode = stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o444
                return Staging(descriptor, None, self._algorithm, has_mode=self._open_sets_mode)
            if fallback_directory is None:
                raise OSError(errno.EOPNOTSUPP, "the file system has no unnamed files", self._layout.blobs)
            directory = fallback_directory()
            os.makedirs(directory, 0o700, exist_ok=True)
            return Staging(*files.open_named(directory), self._algorithm)

    def add(self, staging: Staging, digest: Digest, *, compare: bool = False) -> AddedBlob:
        """Link *staging* under *digest*.

        Where the name is taken: a dedup hit if size and, for a digest that is not cryptographic or with *distrust*,
        every byte are equal. Raises CollisionError where both contents have that digest, BlobDamagedError where the
        one that is there is wrong; the caller has it taken away and tries again.
        """
        target = self._layout.blob(digest.value)
        staging.finalize(digest)
        has_shard = False
        for _ in range(100):
            with files.full_disk(self._layout.root):
                try:
                    staging.link(target)
                except FileExistsError:
                    pass
                except FileNotFoundError as error:
                    if has_shard:
                        raise  # our own bytes lost their last name
                    # Another thread may make the directory just now: only a second ENOENT means our own file.
                    self._make_shard(digest, error)
                    has_shard = True
                    continue
                else:
                    return AddedBlob(digest, staging.size, Inode.of(os.fstat(staging.descriptor)), is_new=True)
            try:
                held = self.open_any(digest.value)
            except FileNotFoundError:
                continue  # swept since
            try:
                added = self._match_existing(staging, digest, held, compare=compare or not digest.is_cryptographic)
            except BaseException:
                os.close(held)
                raise
            staging.keep_open(held)
            return added
        raise OSError(errno.EAGAIN, "a blob's name came and went a hundred times", target)

    def _make_shard(self, digest: Digest, error: OSError) -> None:
        try:
            os.mkdir(self._layout.shard(digest.value), 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            message = "the store was removed while it was in use"
            raise StoreUnavailableError(errno.ENOENT, message, self._layout.root) from error

    def _match_existing(self, staging: Staging, digest: Digest, held: int, *, compare: bool) -> AddedBlob:
        status = os.fstat(held)
        if not stat.S_ISREG(status.st_mode):
            raise BlobDamagedError(errno.EIO, "something that is no file has a blob's name", str(digest))
        size_differs = status.st_size != staging.size
        # A file that was touched may have been written to.
        compare = compare or status.st_mtime_ns != digest.mtime * 1_000_000_000
        if size_differs or (compare and not _same_bytes(staging.descriptor, held)):
            if not self.verify(held, digest):
                raise BlobDamagedError(errno.EIO, "a blob does not hold the bytes that its name says", str(digest))
            raise CollisionError(errno.EEXIST, "two different contents have one digest", str(digest))
        return AddedBlob(digest, staging.size, Inode.of(status), is_new=False)

    def inode(self, digest: Digest) -> Inode | None:
        """Which file has that name now; None where none has."""
        try:
            return Inode.of(os.stat(self._layout.blob(digest.value), follow_symlinks=False))
        except FileNotFoundError:
            return None

    def open(self, digest: bytes, size: int) -> int:
        """A descriptor for reading the blob: one open, one fstat.

        Raises FileNotFoundError where there is none, BlobTrippedError where its size or mtime is not as it was made.
        """
        descriptor = self.open_any(digest)
        status = os.fstat(descriptor)
        is_as_made = status.st_size == size and status.st_mtime_ns == digest_mtime(digest) * 1_000_000_000
        if not is_as_made or not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise BlobModifiedError(errno.EIO, "a blob was touched since it was made", self._layout.blob(digest))
        return descriptor

    def open_any(self, digest: bytes) -> int:
        """Whatever has the name, open; it may be touched, or a directory.

        Raises FileNotFoundError where nothing has it, BlobTrippedError for what cannot be opened by its own fault.
        """
        path = self._layout.blob(digest)
        try:
            return os.open(path, OPEN_FLAGS)
        except OSError as error:
            if error.errno in _NOT_A_FILE or _is_unreadable(path, error):
                raise BlobModifiedError(errno.EIO, "what has a blob's name is no file to read", path) from error
            raise

    def verify(self, descriptor: int, digest: Digest) -> bool:
        """Whether the open file holds the bytes of *digest*; one that the disk cannot read does not."""
        try:
            return hash_descriptor(descriptor, digest.algorithm) == digest
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False


def _is_unreadable(path: str, error: OSError) -> bool:
    """Whether opening failed because somebody took the right to read from this very file, and not from the store."""
    if error.errno != errno.EACCES:
        return False
    try:
        return not os.lstat(path).st_mode & stat.S_IRUSR
    except OSError:
        return False


def _same_bytes(one: int, other: int) -> bool:
    try:
        return copying.same_bytes(one, other)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False  # which of the two cannot be read, hashing will tell
