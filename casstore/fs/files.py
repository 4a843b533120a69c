"""File system calls that correctness depends on: link, rename, sync, unnamed files. No other module makes them.

All take plain paths and descriptors, and raise the call's `OSError`; inside `full_disk`, StoreFullError.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from casstore.errors import CasstoreError, StoreFullError, StoreReadOnlyError

_NO_UNNAMED: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT))
_PAUSES: Final = (0.001, 0.01)
NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""Errors of a full disk, a full quota, and the process's file size limit (``ulimit -f``)."""
_TMP_NAMES: Final = ("TMPDIR", "TEMP", "TMP")
_TMP_DIRECTORIES: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 (compared with, not written to)
NO_PROC: Final = frozenset((errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR))


@contextlib.contextmanager
def full_disk(root: str) -> Iterator[None]:
    """Raise StoreFullError with *root* for ENOSPC, EDQUOT and EFBIG inside the block, StoreReadOnlyError for EROFS."""
    try:
        yield
    except CasstoreError:
        raise  # already translated
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StoreFullError(
                error.errno,
                f"no room for another blob ({os.strerror(error.errno)}): free some space, or set max_size",
                root,
            ) from error
        if error.errno == errno.EROFS:
            raise read_only(root) from error
        raise


def read_only(root: str) -> StoreReadOnlyError:
    """Return the error for a store whose file system has become read-only."""
    return StoreReadOnlyError(
        errno.EROFS,
        "the file system has become read-only: check the system log, or choose another directory "
        "(CASSTORE_DIR, local_cache_dir)",
        root,
    )


def list_names(directory: str) -> list[str]:
    """Return the names in a directory; none if it is missing."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def lstat_or_none(path: str) -> os.stat_result | None:
    """Return the status of *path* itself, or None if it is missing."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def lstat_regular(path: str) -> os.stat_result | None:
    """Return the status of a regular file; None if it is missing or anything else."""
    status = lstat_or_none(path)
    return status if status is not None and stat.S_ISREG(status.st_mode) else None


def open_unnamed(directory: str, mode: int = 0o444) -> int | None:
    """Return a new file without a name on *directory*'s file system, open for writing whatever its *mode*.

    None if there is no O_TMPFILE, or no ``/proc`` for `link_descriptor`. The umask limits *mode*.
    """
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not _has_proc():
        return None
    flag |= os.O_RDWR | os.O_CLOEXEC
    for pause in _PAUSES:
        # ext4 raises PermissionError also while the directory is being removed: a moment later it is gone or replaced.
        with contextlib.suppress(PermissionError):
            return _open_unnamed(directory, flag, mode)
        time.sleep(pause)
    return _open_unnamed(directory, flag, mode)


def _open_unnamed(directory: str, flags: int, mode: int) -> int | None:
    try:
        return os.open(directory, flags, mode)
    except OSError as error:
        if error.errno in _NO_UNNAMED and os.path.isdir(directory):
            return None
        raise


@functools.cache
def _has_proc() -> bool:
    return os.path.exists("/proc/self/fd")


def open_named(directory: str) -> tuple[int, str]:
    """Create a private file with a random name in *directory*; return its descriptor and path."""
    path = f"{directory}/{os.urandom(8).hex()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path


@contextlib.contextmanager
def temporary_file(directory: str) -> Iterator[tuple[int, str]]:
    """Yield a file of `open_named` for the block; it may get other names in it."""
    descriptor, path = open_named(directory)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        unlink_quietly(path)


def link_descriptor(descriptor: int, target: str) -> None:
    """Give the unnamed file behind *descriptor* the name *target*. Raises: FileExistsError."""
    # Without src_dir_fd, Python calls link(), which does not follow /proc's magic link (EXDEV); with it, it calls
    # linkat(AT_SYMLINK_FOLLOW). The source path is absolute, so any descriptor will do.
    os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor, follow_symlinks=True)


def link(source: str, target: str) -> None:
    """Give *source* a second name. Raises: FileExistsError."""
    os.link(source, target)


def rename(source: str, target: str) -> None:
    os.rename(source, target)


def unlink_quietly(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove(path: str) -> int:
    """Delete a file or a tree, as another process may; return the bytes freed."""
    import shutil  # few processes remove a directory

    size = _bytes_in(path)
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):  # macOS raises PermissionError for a directory
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return 0
    return size - _bytes_in(path)


def _bytes_in(path: str) -> int:
    """Return the bytes that deleting *path* would free: files with other names free nothing."""
    size = 0
    found = [path]
    while found:
        path = found.pop()
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                found.extend(f"{path}/{name}" for name in os.listdir(path))
            if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                size += status.st_blocks * 512
    return size


def discard_directory(path: str, target: str) -> int | None:
    """Delete a directory by way of *target*, at once; return the bytes freed, None if it is missing."""
    try:
        rename(path, target)
    except FileNotFoundError:
        return None
    return remove(target)


@contextlib.contextmanager
def opened(path: str, flags: int, mode: int = 0o600) -> Iterator[int]:
    """Open *path*, close-on-exec, for the block."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_nonblock(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading. Raises: OSError for a pipe, which would wait, or a device without end."""
    file = open(path, "rb", opener=_open_nonblock)  # noqa: SIM115 (its reader closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", path)
    return file


def reopen(descriptor: int) -> int:
    """Open the same file, which may have no name, for reading from its start."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in NO_PROC:
            raise
    # No /proc (macOS, a bare chroot): both share a position. The writer of a staging file has finished by then.
    copy = os.dup(descriptor)
    os.lseek(copy, 0, os.SEEK_SET)
    return copy


def temporary_directory() -> str:
    """Return the system's directory for temporary files. Raises: FileNotFoundError if none is writable."""
    import tempfile  # only for pass-through caches

    directory = tempfile.gettempdir()
    # Its last resort is the working directory, where users do not expect such files.
    if directory == os.getcwd() and directory not in (*map(os.environ.get, _TMP_NAMES), *_TMP_DIRECTORIES):
        raise FileNotFoundError(errno.ENOENT, "no temporary directory is writable: set TMPDIR", directory)
    return directory


def open_private() -> int:
    """Return a new unnamed file in the temporary directory. Raises: as `temporary_directory`."""
    directory = temporary_directory()
    descriptor = open_unnamed(directory)
    if descriptor is None:
        descriptor, path = open_named(directory)
        unlink_quietly(path)
    return descriptor


def open_memory() -> int:
    """Return a new file in memory. Raises: OSError (EOPNOTSUPP) if the platform has none."""
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.EOPNOTSUPP, "memfd_create: not available on this platform")
    return os.memfd_create("casstore", os.MFD_CLOEXEC)


def reserve(descriptor: int, size: int) -> None:
    """Make an empty file *size* bytes long and allocate them, so that a full disk fails here."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Flush one file to the disk. On error its bytes may be lost: never retry with the same file."""
    os.fsync(descriptor)


def sync_file_system(path: str) -> bool:
    """Flush all of *path*'s file system; return False if that failed or its failure could not be detected.

    That is so before Linux 5.8 and on other systems. The kernel reports a failure to one `syncfs` only, of any process.
    """
    if not sys.platform.startswith("linux") or _kernel() < (5, 8):
        return False
    import ctypes  # only for collections

    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return False
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        return bool(syncfs(descriptor) == 0)


def _kernel() -> tuple[int, ...]:
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())


def sync_directory(path: str) -> None:
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of *data*: `os.write` may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count


def create_synced(
    path: str, data: bytes, mode: int = 0o600, *, before_link: Callable[[], object] | None = None
) -> bool:
    """Create *path* with these bytes, all or nothing, synced; return False if it exists.

    Calls *before_link* just before the file gets its name; names that it links in the same directory are synced too.
    """
    directory = os.path.dirname(path)
    with temporary_file(directory) as (descriptor, temporary):
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        if before_link is not None:
            before_link()
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    # If the directory is gone, another process has removed it with the new file: nothing is left to sync.
    with contextlib.suppress(FileNotFoundError):
        sync_directory(directory)
    return True


def replace_synced(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace the bytes of *path* atomically, synced."""
    replace(path, data, mode, durable=True)
    sync_directory(os.path.dirname(path))


def replace(path: str, data: bytes, mode: int = 0o600, *, durable: bool = False, by: str = "") -> None:
    """Replace the bytes of *path* atomically, by way of a file in the directory *by*, or in its own.

    Unless *durable*, a power cut may lose the old and the new ones.
    """
    descriptor, temporary = open_named(by or os.path.dirname(path))
    try:
        try:
            write_all(descriptor, data)
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        unlink_quietly(temporary)
        raise
