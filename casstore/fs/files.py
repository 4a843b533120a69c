"""The file system, as far as correctness hangs on it: links, renames, syncs, clones, and what lies underneath.

The only module that links, renames and syncs. Everything takes plain paths and descriptors; errors are the `OSError` of
the call, with `StoreFullError` for a full disk or quota where `full_disk` wraps it.
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
from typing import Final

from casstore.errors import CasstoreError, StoreFullError, StoreReadOnlyError

_NO_UNNAMED: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT))
_PAUSES: Final = (0.001, 0.01)
NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""No room: the disk's, the quota's, and the process's own limit for a file (``ulimit -f``)."""
_TMP_NAMES: Final = ("TMPDIR", "TEMP", "TMP")
_TMP_DIRECTORIES: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 (compared with, not written to)
_NO_PROC: Final = frozenset((errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR))


@contextlib.contextmanager
def full_disk(root: str) -> Iterator[None]:
    """Turn ENOSPC, EDQUOT and EFBIG inside the block into `StoreFullError` that names *root*; EROFS, of a file system
    that was remounted, into `StoreReadOnlyError`.
    """
    try:
        yield
    except CasstoreError:
        raise  # it says more of it
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StoreFullError(
                error.errno,
                f"no room for another blob: free some space, or set a budget ({os.strerror(error.errno)})",
                root,
            ) from error
        if error.errno == errno.EROFS:
            raise read_only(root) from error
        raise


def read_only(root: str) -> StoreReadOnlyError:
    """The error for a store whose file system was written to and cannot be any more."""
    return StoreReadOnlyError(
        errno.EROFS,
        "the file system has become read-only: look at the system's log, or name another directory "
        "(CASSTORE_DIR, local_cache_dir)",
        root,
    )


def list_names(directory: str) -> list[str]:
    """What lies in a directory; nothing where there is none."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def lstat_or_none(path: str) -> os.stat_result | None:
    """Of whatever is there; None for what is gone."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def lstat_regular(path: str) -> os.stat_result | None:
    """Of a regular file; None for what is gone, or is something else, which somebody put there."""
    status = lstat_or_none(path)
    return status if status is not None and stat.S_ISREG(status.st_mode) else None


def open_unnamed(directory: str, mode: int = 0o444) -> int | None:
    """A new file on *directory*'s file system that has no name yet; None where there is no O_TMPFILE, or no ``/proc``
    by which `link_descriptor` could name it.

    Open for writing although its *mode* is a blob's already, as far as the umask allows.
    """
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None or not _has_proc():
        return None
    flag |= os.O_RDWR | os.O_CLOEXEC
    for pause in _PAUSES:
        # ext4 calls it so, too, that a directory is just being removed: a moment later its name is gone, or another's.
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
    """A new private file in *directory* under a random name."""
    path = f"{directory}/{os.urandom(8).hex()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path


def link_descriptor(descriptor: int, target: str) -> None:
    """Give the unnamed file behind *descriptor* the name *target*; FileExistsError where it is taken."""
    # With no src_dir_fd, Python calls link(), which does not follow /proc's magic link (EXDEV); with one it is
    # linkat(AT_SYMLINK_FOLLOW). Which descriptor it is does not matter: the source path is absolute.
    os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor, follow_symlinks=True)


def link(source: str, target: str) -> None:
    """A second name for *source*; FileExistsError where *target* is taken."""
    os.link(source, target)


def rename(source: str, target: str) -> None:
    """Move, replacing *target*."""
    os.rename(source, target)


def unlink_quietly(path: str) -> None:
    """Remove the name if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def reopen(descriptor: int) -> int:
    """A descriptor for reading the same file from its start; the file need not have a name."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NO_PROC:
            raise
    # No /proc (macOS, a bare chroot): the two share a position. Whoever writes a staging file is done with it by then.
    copy = os.dup(descriptor)
    os.lseek(copy, 0, os.SEEK_SET)
    return copy


def temporary_directory() -> str:
    """Where this system keeps temporary files; FileNotFoundError where nothing of that kind can be written to."""
    import tempfile  # only for whoever has no store to write to

    directory = tempfile.gettempdir()
    # Its last resort is where the process happens to be: no place for files that nobody expects there.
    if directory == os.getcwd() and directory not in (*map(os.environ.get, _TMP_NAMES), *_TMP_DIRECTORIES):
        raise FileNotFoundError(errno.ENOENT, "no temporary directory can be written to", directory)
    return directory


def open_private() -> int:
    """A new file without a name in the temporary directory. Raises what `temporary_directory` does."""
    directory = temporary_directory()
    descriptor = open_unnamed(directory)
    if descriptor is None:
        descriptor, path = open_named(directory)
        unlink_quietly(path)
    return descriptor


def open_memory() -> int:
    """A new file in memory alone; raises OSError (EOPNOTSUPP) where the platform has none."""
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.EOPNOTSUPP, "this platform has no files in memory")
    return os.memfd_create("casstore", os.MFD_CLOEXEC)


def reserve(descriptor: int, size: int) -> None:
    """Make an empty file *size* bytes long, with room for all of them; the OSError of a full disk comes here."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Bytes and metadata of one file to the disk. On error the bytes may be lost: never try the same file again."""
    os.fsync(descriptor)


def sync_file_system(path: str) -> bool:
    """Everything of *path*'s file system to the disk; False where it failed, or where a failure would not be told.

    That is Linux before 5.8, and everything else. A failure that somebody else's `syncfs` was told before is not told
    again.
    """
    if not sys.platform.startswith("linux") or _kernel() < (5, 8):
        return False
    import ctypes  # only for whoever collects

    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def _kernel() -> tuple[int, ...]:
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())


def sync_directory(path: str) -> None:
    """The names in *path* to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """`os.write` until everything is written: one call may be short."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pwrite_all(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """`os.pwrite` until everything is written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view = view[count:]
        offset += count


def create_synced(
    path: str, data: bytes, mode: int = 0o600, *, before_link: Callable[[], object] | None = None
) -> bool:
    """Make *path* with these bytes, whole or not at all and synced; False where it exists already.

    *first* is called when nothing more than a name is lacking: what it names in the same directory is synced as well.
    """
    directory = os.path.dirname(path)
    descriptor, temporary = open_named(directory)
    try:
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        if before_link is not None:
            before_link()
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    finally:
        os.close(descriptor)
        unlink_quietly(temporary)
    # Where it is gone, somebody has removed what has just got its name, and there is nothing left to be synced.
    with contextlib.suppress(FileNotFoundError):
        sync_directory(directory)
    return True


def replace(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make *path* hold these bytes, the old ones or the new ones at any moment; after a power cut perhaps neither."""
    _replace(path, data, mode, durable=False)


def replace_synced(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make *path* hold these bytes, the old ones or the new ones at any moment, synced."""
    _replace(path, data, mode, durable=True)
    sync_directory(os.path.dirname(path))


def _replace(path: str, data: bytes, mode: int, *, durable: bool) -> None:
    directory = os.path.dirname(path)
    descriptor, temporary = open_named(directory)
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
