"""Open an LMDB environment: map size, reader slots, and spare pages for a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

import lmdb

from casstore.errors import IndexUnavailableError, StoreFullError
from casstore.fs import files
from casstore.index.generations import PROCESS_LIMITS
from casstore.locks.lock_files import DirectoryLock

MAP_SIZES: Final = (1 << 40, 1 << 36, 1 << 33, 1 << 30)
"""Bytes of address space, tried in turn. Files are sparse; address space may be limited (ulimit -v, containers)."""
MAX_READERS: Final = 2048
"""Concurrent read transactions of all processes; a slot takes 64 bytes."""
_RESERVE: Final = 64 << 10  # bytes: about four commits of one blob each
_RESERVE_TRANSACTIONS: Final = 2  # transactions of `_reserve`
RESERVE_ROW: Final = b"R"
"""Exists only while the reserve is made, or if that was interrupted; has no meaning."""
_OPENING_SECONDS: Final = 1.0
"""How long to wait for other processes that are opening it: a stopped one must not block all."""
_LOW_SPACE: Final = 1 << 20  # bytes: more than one commit writes at a time
DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)


def open_environment(path: str, *, reserves: bool = False) -> lmdb.Environment:
    # The first process to open it resets its lock file, and then writes the last transaction's number to it. If it is
    # killed in between while another waits, that one would count from 0, and overwrite the newest commits.
    lock, env = DirectoryLock(path, _OPENING_SECONDS), None
    try:
        with lock, lock:
            env = _open(path)
            if reserves and int(env.info()["last_txnid"]) < _RESERVE_TRANSACTIONS:
                env.close()
                _reserve(path)
                env = _open(path)
        return env
    except BaseException:
        if env is not None:
            env.close()  # a process can open it only once, and a traceback may live for long
        raise


def _reserve(path: str) -> None:
    """Give a new index pages that its commits can reuse.

    Deleting rows needs new pages too: on a full disk, pages that earlier commits freed, or nothing could be evicted. If
    a process is killed here, the next one repeats it. If it fails here, the row stays and is harmless.
    """
    # Unsynced: it has no data yet, and the first commit syncs the whole file.
    with _open(path, sync=False) as env, contextlib.suppress(lmdb.Error):
        # On a full disk, the next commit reports it.
        with env.begin(write=True) as txn:
            txn.put(RESERVE_ROW, bytes(_RESERVE))
        with env.begin(write=True) as txn:
            txn.delete(RESERVE_ROW)


def _open(path: str, *, sync: bool = True) -> lmdb.Environment:
    for size in MAP_SIZES:
        try:
            return lmdb.open(
                path,
                map_size=size,
                subdir=True,
                create=False,  # the directory: a process with an old generation must not recreate it
                mode=0o600,
                sync=sync,
                max_readers=MAX_READERS,
                max_spare_txns=0,
                max_dbs=0,
                lib_version=0,
            )
        except lmdb.MemoryError:
            continue
        except lmdb.LockError as error:
            raise IndexUnavailableError(
                errno.EBUSY,
                f"cannot share LMDB's lock file ({error}): containers that share a store need one PID "
                "namespace; else give each its own store (CASSTORE_DIR)",
                path,
            ) from error
        except lmdb.ReadonlyError as error:
            message = f"this user cannot write to the index ({error}): choose another directory"
            raise IndexUnavailableError(errno.EROFS, f"{message} (CASSTORE_DIR, local_cache_dir)", path) from error
        except DAMAGE:
            raise
        except lmdb.DiskError as error:
            raise StoreFullError(errno.ENOSPC, f"no room for the index: {error}", path) from error
        except lmdb.Error as error:
            if not os.path.isdir(path):
                raise FileNotFoundError(errno.ENOENT, "the index was deleted", path) from error
            for number in (*PROCESS_LIMITS, errno.EROFS):
                # LMDB gives only the text. The error is not about the index's data or directory.
                if os.strerror(number) in str(error):
                    raise OSError(number, f"cannot open the index now: {error}", path) from error
            raise IndexUnavailableError(errno.EIO, f"cannot open the index: {error}", path) from error
    raise IndexUnavailableError(errno.ENOMEM, "no address space for the index: raise ulimit -v", path)


def is_disk_full(error: lmdb.Error, directory: str) -> bool:
    """Return whether the disk was full: by LMDB's text, or by the free space after the EIO of a short write."""
    if any(os.strerror(number) in str(error) for number in files.NO_SPACE):
        return True
    if os.strerror(errno.EIO) not in str(error):
        return False
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize < _LOW_SPACE


def usage_of(env: lmdb.Environment) -> tuple[int, int]:
    """Return the number of rows of all kinds, and the bytes in use."""
    stat = env.stat()
    return int(stat["entries"]), (int(env.info()["last_pgno"]) + 1) * int(stat["psize"])
