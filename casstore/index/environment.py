"""Open an LMDB environment: map size, reader slots, and pages in reserve for a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

import lmdb

from casstore.errors import IndexUnavailableError, StoreFullError
from casstore.index.generations import PROCESS_LIMITS
from casstore.locks.lock_files import directory_lock

MAP_SIZES: Final = (1 << 40, 1 << 36, 1 << 33, 1 << 30)
"""Bytes of address space tried in turn: files are sparse, address space may be limited (ulimit -v, containers)."""


MAX_READERS: Final = 2048
"""Concurrent read transactions of all processes; a slot takes 64 bytes."""


_RESERVE: Final = 64 << 10
"""Bytes: some four commits of one blob each."""


_RESERVE_TRANSACTIONS: Final = 2
"""Transactions that making the reserve takes."""


RESERVE_ROW: Final = b"R"
"""There only while the reserve is made, and for good where that was cut off; it is nobody's."""


_OPENING_SECONDS: Final = 1.0
"""How long to wait for others who are opening it: a stopped one must not stop all."""


DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)


def open_environment(path: str, *, reserves: bool = False) -> lmdb.Environment:
    # The first to open it resets its lock file, and then puts the number of the last transaction there. Were it killed
    # in between while another waits, that one would count from 0 again, and commit over what is newest.
    with directory_lock(path, _OPENING_SECONDS):
        env = _open(path)
        if reserves and int(env.info()["last_txnid"]) < _RESERVE_TRANSACTIONS:
            env.close()
            _reserve(path)
            env = _open(path)
        return env


def _reserve(path: str) -> None:
    """Give a new index pages that its commits can use again.

    Deleting takes new pages, too, and on a full disk there are only those that earlier commits have left. The first
    ones would find none, and nothing could be taken away. Where somebody is killed in between, the next one repeats it;
    where it fails in between, the row may stay, which harms nobody.
    """
    # Unsynced: there is nothing in it yet, and the first commit syncs the whole file.
    with _open(path, sync=False) as env, contextlib.suppress(lmdb.Error):
        # Where there is no room, whoever commits says so.
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
                create=False,  # the directory: whoever believes in an old generation must not make it anew
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
                f"LMDB's lock file cannot be shared ({error}): two containers that use one store need one PID "
                "namespace, or a store each (CASSTORE_DIR)",
                path,
            ) from error
        except lmdb.ReadonlyError as error:
            message = f"this user cannot write to the index ({error}): name another directory"
            raise IndexUnavailableError(errno.EROFS, f"{message} (CASSTORE_DIR, local_cache_dir)", path) from error
        except DAMAGE:
            raise
        except lmdb.DiskError as error:
            raise StoreFullError(errno.ENOSPC, f"no room for the index: {error}", path) from error
        except lmdb.Error as error:
            if not os.path.isdir(path):
                raise FileNotFoundError(errno.ENOENT, "the index went away", path) from error
            for number in (*PROCESS_LIMITS, errno.EROFS):
                # LMDB gives the text alone. It says nothing of the index, nor of the place.
                if os.strerror(number) in str(error):
                    raise OSError(number, f"the index cannot be opened now: {error}", path) from error
            raise IndexUnavailableError(errno.EIO, f"the index cannot be opened: {error}", path) from error
    raise IndexUnavailableError(errno.ENOMEM, "no address space for the index (ulimit -v?)", path)
