"""Staging: a private file that becomes a blob, and the inode that it became."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from casstore.format.digest import Digest, Hasher, new_hasher
from casstore.fs import copying, files


@dataclass(frozen=True, slots=True)
class Inode:
    """Which file a name means: (device, inode)."""

    device: int
    number: int

    @classmethod
    def of(cls, status: os.stat_result) -> Inode:
        """From a stat or fstat."""
        return cls(status.st_dev, status.st_ino)


class Staging:
    """A private file on its way into the store; belongs to one thread at a time.

    Bytes are hashed as they are written in order (`write`), or by `hash_to` behind writers that go by offset.
    """

    __slots__ = (
        "_duplicate",
        "_has_mode",
        "_hasher",
        "_keeps_name",
        "_path",
        "algorithm",
        "descriptor",
        "hashed",
        "size",
    )

    def __init__(
        self, descriptor: int, path: str | None, algorithm: str, *, has_mode: bool = False, keeps_name: bool = False
    ) -> None:
        """*has_mode*: the file was made with the mode of a blob. *keeps_name*: *path* outlives the staging file."""
        self.descriptor = descriptor
        self._duplicate = -1
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

    def copy_from(self, source: int) -> None:
        """Begin with a copy of another open file's bytes, shared where the file system can; then go to its start."""
        if not copying.clone(source, self.descriptor):
            copying.copy_bytes(source, self.descriptor)
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

    def finalize(self, digest: Digest) -> None:
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

    def keep_open(self, descriptor: int) -> None:
        """Keep the file that these bytes were found equal to open, until `close`: else its inode's number could become
        another file's before the index is asked whether the name still means that file. Takes *met* over.
        """
        descriptor, self._duplicate = self._duplicate, descriptor
        if descriptor >= 0:
            os.close(descriptor)

    def copy_into(self, other: Staging) -> None:
        """Put the same bytes into *other*, an empty staging file: this one's last name is gone for good."""
        copying.copy_bytes(self.descriptor, other.descriptor)
        other.rehash()

    def close_in_child(self) -> None:
        """In a forked child: give up the inherited descriptor; a name is the parent's to remove."""
        descriptor, self.descriptor = self.descriptor, -1
        self._path = None
        if descriptor >= 0:
            os.close(descriptor)
        self.keep_open(-1)

    def close(self) -> None:
        """Give up the descriptor and the private name; a name in the store stays."""
        # In this order: a fork between the two leaves the child a descriptor too many. In the other, the child would
        # close a number that is nobody's, or by then somebody else's.
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            if self._path is not None and not self._keeps_name:
                files.unlink_quietly(self._path)
        self.keep_open(-1)


@dataclass(frozen=True, slots=True)
class AddedBlob:
    """A blob that has just got its name, or was found to have it: *inode* is what the index must still find there."""

    digest: Digest
    size: int
    inode: Inode
    is_new: bool
