"""Staging files: private files that become blobs."""

from __future__ import annotations

import errno
import io
import os
from typing import NamedTuple

from casstore.format.digest import Digest, Hasher, new_hasher
from casstore.fs import copying, files


class Inode(NamedTuple):
    """Device and inode number: identifies a file."""

    device: int
    number: int

    @classmethod
    def of(cls, status: os.stat_result) -> Inode:
        return cls(status.st_dev, status.st_ino)

    @classmethod
    def at(cls, path: str) -> Inode | None:
        """Return the inode of *path* itself, or None if it cannot be read."""
        try:
            return cls.of(os.lstat(path))
        except (OSError, ValueError):
            return None


class _Duplicate(io.FileIO):
    """A duplicate of a descriptor, closed once nothing refers to it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__("", "r+", opener=lambda *_: os.dup(descriptor))

    __del__ = io.FileIO.close


class Staging:
    """A private file to be stored; used by one thread at a time.

    `write` hashes the bytes in order; `hash_to` hashes behind writers that write at offsets. Those may be other threads
    after `share`, and may still be in progress when the file is closed.
    """

    def __init__(
        self, descriptor: int, path: str | None, algorithm: str, *, has_mode: bool = False, keeps_name: bool = False
    ) -> None:
        """*has_mode*: the file was created with a blob's mode. *keeps_name*: *path* outlives this object."""
        self.descriptor = descriptor
        self._duplicate = -1
        self._shared: _Duplicate | None = None
        self._has_mode = has_mode
        self._keeps_name = keeps_name
        self._path = path
        self.algorithm = algorithm
        self._hasher: Hasher = new_hasher(algorithm)
        self.size = 0
        self.hashed = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append and hash. Raises: OSError of the write."""
        files.write_all(self.descriptor, data)
        self._hasher.update(data)
        self.size += len(data)
        self.hashed = self.size

    def copy_from(self, source: int) -> None:
        """Start with a copy of another open file's bytes, as a reflink if possible; the position is 0 afterwards."""
        if not copying.clone(source, self.descriptor):
            copying.copy_bytes(source, self.descriptor)
            os.lseek(self.descriptor, 0, os.SEEK_SET)

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write at an offset, unhashed; several threads may write different ranges."""
        shared = self._shared  # open for as long as this refers to it
        files.pwrite_all(self.descriptor if shared is None else shared.fileno(), data, offset)

    def hash_to(self, end: int, buffer: memoryview) -> None:
        """Hash the written bytes from `hashed` to *end*, through *buffer*."""
        shared = self._shared
        descriptor = self.descriptor if shared is None else shared.fileno()
        while self.hashed < end:
            piece = buffer[: min(len(buffer), end - self.hashed)]
            count = os.preadv(descriptor, [piece], self.hashed)
            if count == 0:
                raise OSError(errno.EIO, "a staging file is shorter than the bytes written to it")
            self._hasher.update(piece[:count])
            self.hashed += count
        self.size = max(self.size, self.hashed)

    def share(self) -> None:
        """Let other threads use `write_at` and `hash_to`; those that are in progress at `close` may continue."""
        self._shared = _Duplicate(self.descriptor)

    def unshare(self) -> None:
        """Close what `share` opened, once no thread uses it."""
        self._shared = None

    def rehash(self) -> Digest:
        """Hash everything from the start, for a file written without `write`."""
        self._hasher = new_hasher(self.algorithm)
        self.size = self.hashed = 0
        self.hash_to(os.fstat(self.descriptor).st_size, memoryview(bytearray(1 << 20)))
        return self.digest()

    def digest(self) -> Digest:
        return Digest(self.algorithm, self._hasher.digest())

    def finalize(self, digest: Digest) -> None:
        if not self._has_mode:
            os.fchmod(self.descriptor, 0o444)
        os.utime(self.descriptor, (digest.mtime, digest.mtime))

    def link(self, target: str) -> None:
        """Give it a name in the store. Raises: FileExistsError."""
        if self._path is None:
            files.link_descriptor(self.descriptor, target)
        else:
            files.link(self._path, target)

    def keep_open(self, duplicate: int) -> None:
        """Take over *duplicate*, an existing blob with the same bytes, until `close`.

        While it is open, its inode number cannot become another file's before the index checks it.
        """
        duplicate, self._duplicate = self._duplicate, duplicate
        if duplicate >= 0:
            os.close(duplicate)

    def close_in_child(self) -> None:
        """In a forked child: close the inherited descriptor; the parent removes the name."""
        descriptor, self.descriptor = self.descriptor, -1
        self._path = None
        if descriptor >= 0:
            os.close(descriptor)
        if self._shared is not None:
            self._shared.close()  # a thread of the parent may refer to it
        self.keep_open(-1)

    def close(self) -> None:
        """Close the descriptor and remove the private name; a name in the store stays."""
        # In this order: a fork between the two leaves the child an extra descriptor. In the other order, the child
        # would close a descriptor that is free, or by then another file's.
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            if self._path is not None and not self._keeps_name:
                files.unlink_quietly(self._path)
        self._shared = None  # after the descriptor: a thread that finds none must not find the other
        self.keep_open(-1)


class AddedBlob(NamedTuple):
    """The result of `BlobStore.add`: *inode* is what the index must still find under the name."""

    digest: Digest
    size: int
    inode: Inode
    is_new: bool
