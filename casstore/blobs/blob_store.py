"""Blobs: immutable files named by the digest of their bytes.

A staging file is filled first, gets mode 0444 and the mtime of its digest, and is then linked into ``blobs/``: no
process ever sees an incomplete blob. If the name exists, the blob is shared, after a comparison of the bytes if equal
digests prove nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from casstore.blobs.staging import AddedBlob, Inode, Staging
from casstore.errors import BlobDamagedError, StoreUnavailableError
from casstore.format.digest import Digest, digest_mtime, hash_descriptor
from casstore.format.layout import Layout
from casstore.fs import copying, files

OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Do not follow links, nor wait for a pipe, that a user put in place of a blob."""
_NOT_A_FILE: Final = frozenset((errno.ELOOP, errno.ENXIO))  # errors of opening a symbolic link and a socket


class BlobModifiedError(BlobDamagedError):
    """A blob's size or mtime differs from its entry: another program touched or changed it."""


class CollisionError(BlobDamagedError):
    """Two different contents have the same digest; the second cannot be stored."""


class BlobStore:
    """The files under ``blobs/`` of one store. Knows no index; callers decide which existing blobs to trust."""

    def __init__(self, layout: Layout, algorithm: str) -> None:
        self._layout = layout
        self._algorithm = algorithm
        self._uid = os.geteuid()
        self._open_sets_mode: bool | None = None

    def stage(self, fallback_directory: Callable[[], str] | None = None) -> Staging:
        """Return a new staging file, unnamed if possible, else in *fallback_directory()*. Raises: StoreFullError."""
        with files.full_disk(self._layout.root):
            descriptor = files.open_unnamed(self._layout.blobs)
            if descriptor is not None:
                if self._open_sets_mode is None:
                    # The umask may remove bits. Checked once: beside busy threads, each system call counts.
                    self._open_sets_mode = stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o444
                return Staging(descriptor, None, self._algorithm, has_mode=self._open_sets_mode)
            if fallback_directory is None:
                raise OSError(errno.EOPNOTSUPP, "this file system has no unnamed files (O_TMPFILE)", self._layout.blobs)
            directory = fallback_directory()
            os.makedirs(directory, 0o700, exist_ok=True)
            return Staging(*files.open_named(directory), self._algorithm)

    def add(self, staging: Staging, digest: Digest, *, compare: bool = False) -> AddedBlob:
        """Link *staging* as the blob *digest*.

        If the name exists, share that blob if size and bytes are equal; bytes of a cryptographic digest are compared
        only with *compare*. Raises: CollisionError if both contents have that digest. BlobDamagedError if the existing
        blob is damaged; the caller removes it and retries.
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
                        raise  # the staging file has lost its last name
                    # Another thread may be creating the directory: only a second ENOENT means the staging file.
                    has_shard = True
                    try:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(self._layout.shard(digest.value), 0o700)
                    except FileNotFoundError:
                        message = "the store was deleted while in use: open it again"
                        raise StoreUnavailableError(errno.ENOENT, message, self._layout.root) from error
                    continue
                else:
                    return AddedBlob(digest, staging.size, Inode.of(os.fstat(staging.descriptor)), is_new=True)
            try:
                existing = self.open_any(digest.value)
            except FileNotFoundError:
                continue  # swept meanwhile
            try:
                added = self._match_existing(staging, digest, existing, compare=compare or not digest.is_cryptographic)
            except BaseException:
                os.close(existing)
                raise
            staging.keep_open(existing)
            return added
        raise OSError(errno.EAGAIN, "a blob was created and deleted 100 times meanwhile: try again", target)

    def _match_existing(self, staging: Staging, digest: Digest, existing: int, *, compare: bool) -> AddedBlob:
        status = os.fstat(existing)
        if not stat.S_ISREG(status.st_mode):
            raise BlobDamagedError(errno.EIO, "a blob is not a regular file", str(digest))
        size_differs = status.st_size != staging.size
        # A changed mtime may mean changed bytes, and a foreign owner other bytes.
        compare = compare or status.st_mtime_ns != digest.mtime * 1_000_000_000 or status.st_uid != self._uid
        if size_differs or (compare and not _if_readable(lambda: copying.same_bytes(staging.descriptor, existing))):
            if not self.verify(existing, digest):
                raise BlobDamagedError(errno.EIO, "a blob's bytes do not match its digest", str(digest))
            raise CollisionError(errno.EEXIST, "two different contents have one digest", str(digest))
        return AddedBlob(digest, staging.size, Inode.of(status), is_new=False)

    def inode(self, digest: Digest) -> Inode | None:
        try:
            return Inode.of(os.stat(self._layout.blob(digest.value), follow_symlinks=False))
        except FileNotFoundError:
            return None

    def open(self, digest: bytes, size: int) -> int:
        """Open the blob for reading: one open, one fstat.

        Raises: FileNotFoundError if it is missing, BlobModifiedError if its size or mtime was changed, or its owner.
        """
        descriptor = self.open_any(digest)
        try:
            status = os.fstat(descriptor)
            is_unchanged = status.st_size == size and status.st_mtime_ns == digest_mtime(digest) * 1_000_000_000
            if is_unchanged and stat.S_ISREG(status.st_mode) and status.st_uid == self._uid:
                return descriptor
            raise BlobModifiedError(errno.EIO, "a blob was touched since it was stored", self._layout.blob(digest))
        except BaseException:
            os.close(descriptor)
            raise

    def open_any(self, digest: bytes) -> int:
        """Open whatever has the blob's name, even if it was touched or is a directory.

        Raises: FileNotFoundError if it is missing, BlobModifiedError if it cannot be opened because of what it is.
        """
        path = self._layout.blob(digest)
        try:
            return os.open(path, OPEN_FLAGS)
        except OSError as error:
            if error.errno in _NOT_A_FILE or _is_unreadable(path, error):
                raise BlobModifiedError(errno.EIO, "a blob is not a readable file", path) from error
            raise

    def verify(self, descriptor: int, digest: Digest) -> bool:
        """Return whether the open file has the bytes of *digest*; False if the disk cannot read it."""
        return _if_readable(lambda: hash_descriptor(descriptor, digest.algorithm) == digest)


def _is_unreadable(path: str, error: OSError) -> bool:
    """Return whether opening failed because this file, not the store, lost its read permission."""
    if error.errno != errno.EACCES:
        return False
    try:
        return not os.lstat(path).st_mode & stat.S_IRUSR
    except OSError:
        return False


def _if_readable(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False
