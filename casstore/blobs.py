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
from dataclasses import dataclass
from typing import Final

from casstore import files
from casstore.digest import Digest, Hasher, digest_mtime, new_hasher
from casstore.errors import BlobDamagedError, StoreUnavailableError
from casstore.layout import Layout

OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Of whatever has a blob's name: a pipe that somebody put there must not be waited for."""

_NO_FILE: Final = frozenset((errno.ELOOP, errno.ENXIO))
"""What opening gives for a symbolic link and for a socket."""


@dataclass(frozen=True, slots=True)
class Inode:
    """Which file a name means: (device, inode)."""

    device: int
    number: int

    @classmethod
    def of(cls, status: os.stat_result) -> Inode:
        """From a stat or fstat."""
        return cls(status.st_dev, status.st_ino)


class BlobTrippedError(BlobDamagedError):
    """A blob's size or mtime is not what its name and its entry say: somebody touched or changed it."""


class CollisionError(BlobDamagedError):
    """Two different contents have one digest, and both are right; the newcomer cannot be stored."""


class Staging:
    """A private file on its way into the store; belongs to one thread at a time.

    Bytes are hashed as they are written in order (`write`), or by `hash_to` behind writers that go by offset.
    """

    __slots__ = ("_has_mode", "_hasher", "_keeps_name", "_met", "_path", "algorithm", "descriptor", "hashed", "size")

    def __init__(
        self, descriptor: int, path: str | None, algorithm: str, *, has_mode: bool = False, keeps_name: bool = False
    ) -> None:
        """*has_mode*: the file was made with the mode of a blob. *keeps_name*: *path* outlives the staging file."""
        self.descriptor = descriptor
        self._met = -1
        self._has_mode = has_mode
        self._keeps_name = keeps_name
        self._path = path
        self.algorithm = algorithm
        self._hasher: Hasher = new_hasher(algorithm)
        self.size = 0
        self.hashed = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append and hash. Raises OSError of the write."""
        files.write_all(self.descriptor, data)
        self._hasher.update(data)
        self.size += len(data)
        self.hashed = self.size

    def take(self, source: int) -> None:
        """Begin with a copy of another open file's bytes, shared where the file system can; then go to its start."""
        if not files.clone(source, self.descriptor):
            files.copy_bytes(source, self.descriptor)
            os.lseek(self.descriptor, 0, os.SEEK_SET)

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write anywhere, unhashed; safe from several threads as long as their ranges differ."""
        files.pwrite_all(self.descriptor, data, offset)

    def hash_to(self, end: int, buffer: memoryview) -> None:
        """Hash what lies between `hashed` and *end*, all of it written; through *buffer*, which holds a piece."""
        while self.hashed < end:
            piece = buffer[: min(len(buffer), end - self.hashed)]
            count = os.preadv(self.descriptor, [piece], self.hashed)
            if count == 0:
                raise OSError(errno.EIO, "a staging file is shorter than what was written to it")
            self._hasher.update(piece[:count])
            self.hashed += count
        self.size = max(self.size, self.hashed)

    def restart(self) -> None:
        """Forget all bytes: the object changed while it was read."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self._hasher = new_hasher(self.algorithm)
        self.size = self.hashed = 0

    def rehash(self) -> Digest:
        """Hash everything from the start, for a file that was written without `write`."""
        self._hasher = new_hasher(self.algorithm)
        self.size = self.hashed = 0
        self.hash_to(os.fstat(self.descriptor).st_size, memoryview(bytearray(1 << 20)))
        return self.digest()

    def digest(self) -> Digest:
        """Of all bytes hashed so far."""
        return Digest(self.algorithm, self._hasher.digest())

    def seal(self, digest: Digest) -> None:
        """Give the file the mode and the mtime of a blob."""
        if not self._has_mode:
            os.fchmod(self.descriptor, 0o444)
        os.utime(self.descriptor, (digest.mtime, digest.mtime))

    def link(self, target: str) -> None:
        """Give it a name in the store; FileExistsError where that is taken."""
        if self._path is None:
            files.link_descriptor(self.descriptor, target)
        else:
            files.link(self._path, target)

    def hold(self, met: int) -> None:
        """Keep the file that these bytes were found equal to open, until `close`: else its inode's number could become
        another file's before the index is asked whether the name still means that file. Takes *met* over.
        """
        met, self._met = self._met, met
        if met >= 0:
            os.close(met)

    def copy_into(self, other: Staging) -> None:
        """Put the same bytes into *other*, an empty staging file: this one's last name is gone for good."""
        files.copy_bytes(self.descriptor, other.descriptor)
        other.rehash()

    def forget(self) -> None:
        """In a forked child: give up the inherited descriptor; a name is the parent's to remove."""
        descriptor, self.descriptor = self.descriptor, -1
        self._path = None
        if descriptor >= 0:
            os.close(descriptor)
        self.hold(-1)

    def close(self) -> None:
        """Give up the descriptor and the private name; a name in the store stays."""
        # In this order: a fork between the two leaves the child a descriptor too many. In the other, the child would
        # close a number that is nobody's, or by then somebody else's.
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            if self._path is not None and not self._keeps_name:
                files.unlink_quietly(self._path)
        self.hold(-1)


@dataclass(frozen=True, slots=True)
class Added:
    """A blob that has just got its name, or was found to have it: *inode* is what the index must still find there."""

    digest: Digest
    size: int
    inode: Inode
    is_new: bool


class Blobs:
    """The files under ``blobs/`` of one store. Knows no index: what may be trusted about a taken name, callers say."""

    __slots__ = ("_algorithm", "_gives_mode", "_layout")

    def __init__(self, layout: Layout, algorithm: str) -> None:
        self._layout = layout
        self._algorithm = algorithm
        self._gives_mode: bool | None = None

    def stage(self, named_in: Callable[[], str] | None = None) -> Staging:
        """A new staging file; one with a name, in the directory that *named_in* gives, only where unnamed files do not
        exist.

        Raises StoreFullError.
        """
        with files.full_disk(self._layout.root):
            descriptor = files.open_unnamed(self._layout.blobs)
            if descriptor is not None:
                if self._gives_mode is None:
                    # The umask may take bits away; asked once, since every system call counts beside busy threads.
                    self._gives_mode = stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o444
                return Staging(descriptor, None, self._algorithm, has_mode=self._gives_mode)
            if named_in is None:
                raise OSError(errno.EOPNOTSUPP, "the file system has no unnamed files", self._layout.blobs)
            directory = named_in()
            os.makedirs(directory, 0o700, exist_ok=True)
            return Staging(*files.open_named(directory), self._algorithm)

    def add(self, staging: Staging, digest: Digest, *, distrust: bool = False) -> Added:
        """Link *staging* under *digest*.

        Where the name is taken: a dedup hit if size and, for a digest that is not cryptographic or with *distrust*,
        every byte are equal. Raises CollisionError where both contents have that digest, BlobDamagedError where the
        one that is there is wrong; the caller has it taken away and tries again.
        """
        target = self._layout.blob(digest.value)
        staging.seal(digest)
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
                    return Added(digest, staging.size, Inode.of(os.fstat(staging.descriptor)), is_new=True)
            try:
                held = self.open_any(digest.value)
            except FileNotFoundError:
                continue  # swept since
            try:
                added = self._meet(staging, digest, held, compare=distrust or not digest.is_cryptographic)
            except BaseException:
                os.close(held)
                raise
            staging.hold(held)
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

    def _meet(self, staging: Staging, digest: Digest, held: int, *, compare: bool) -> Added:
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
        return Added(digest, staging.size, Inode.of(status), is_new=False)

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
            raise BlobTrippedError(errno.EIO, "a blob was touched since it was made", self._layout.blob(digest))
        return descriptor

    def open_any(self, digest: bytes) -> int:
        """Whatever has the name, open; it may be touched, or a directory.

        Raises FileNotFoundError where nothing has it, BlobTrippedError for what cannot be opened by its own fault.
        """
        path = self._layout.blob(digest)
        try:
            return os.open(path, OPEN_FLAGS)
        except OSError as error:
            if error.errno in _NO_FILE or _is_locked_away(path, error):
                raise BlobTrippedError(errno.EIO, "what has a blob's name is no file to read", path) from error
            raise

    def verify(self, descriptor: int, digest: Digest) -> bool:
        """Whether the open file holds the bytes of *digest*; one that the disk cannot read does not."""
        try:
            return hash_descriptor(descriptor, digest.algorithm) == digest
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False


def _is_locked_away(path: str, error: OSError) -> bool:
    """Whether opening failed because somebody took the right to read from this very file, and not from the store."""
    if error.errno != errno.EACCES:
        return False
    try:
        return not os.lstat(path).st_mode & stat.S_IRUSR
    except OSError:
        return False


def _same_bytes(one: int, other: int) -> bool:
    try:
        return files.same_bytes(one, other)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False  # which of the two cannot be read, hashing will tell


def hash_descriptor(descriptor: int, algorithm: str) -> Digest:
    """The digest of an open file's bytes, from its start, leaving its position alone."""
    return Digest(algorithm, hash_bytes_of(descriptor, algorithm))


def hash_bytes_of(descriptor: int, algorithm: str) -> bytes:
    """The bare hash, by any algorithm that `new_hasher` knows."""
    hasher = new_hasher(algorithm)
    buffer = memoryview(bytearray(1 << 20))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()
