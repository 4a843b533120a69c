"""One `Cache` per directory and process, and the hooks of forks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from casstore.cache import Cache
from casstore.errors import (
    IndexUnavailableError,
    ReentrantCallError,
    StoreReadOnlyError,
    StoreUnavailableError,
    printable,
)
from casstore.locks.mutex import new_mutex
from casstore.root import READ_ONLY, Root, open_root

if TYPE_CHECKING:
    from casstore.pass_through import PassThroughCache

_ANY_ROW: Final = b"\0"
_IMPORT_SECONDS: Final = 10.0
"""How long a fork waits for the imports of other threads."""

_caches: Final[WeakValueDictionary[str, Cache]] = WeakValueDictionary()
"""By directory. A cache that is closed, and that nothing refers to, is garbage-collected."""
_mutex = new_mutex(may_wait=True)
_is_opening = False
"""Whether the thread that has the mutex is opening a store."""
_is_complete, _pid = True, os.getpid()
"""Whether `_after_fork` has ended since the last `_before_fork`; the process of its last end."""


def open(
    root: str | os.PathLike[str] | None = None,
    *,
    digest: str | None = None,
    create: bool = True,
    or_uncached: bool = False,
    trust_root: bool | None = None,
) -> Cache:
    """Open the store at *root*, and create it unless *create* is False. Each directory has one `Cache`.

    Without *root*, ``CASSTORE_DIR``, else the user's cache directory. *digest* is the hash that names the blobs of a
    **new** store: ``xxh3-128`` (default), ``sha256`` or ``blake3``.

    With *or_uncached*, a store that cannot be used (no usable default directory, a read-only store, an index that
    cannot be shared, a full disk) causes one warning, and the result is a `PassThroughCache`, which keeps nothing. It
    reads what a read-only store holds. A named directory that cannot contain a store is still refused.

    *trust_root* uses a directory in which other users can replace files; None leaves it to the setting.

    Raises:
        NotAStoreError: the directory contains other files, or nothing and *create* is False.
        StoreFormatError: the store's marker is damaged, or of a newer format.
        StoreUnavailableError, StoreFullError: the directory cannot be used.
    """
    if not or_uncached:
        return _open(root, digest, trust_root, create=create)
    try:
        cache = _open(root, digest, trust_root, create=create)
        cache.index.get(_ANY_ROW)  # opens it: only then does it fail if it cannot be shared
    except OSError as error:
        named = root if root is not None else os.environ.get("CASSTORE_DIR")
        if named and type(error) is StoreUnavailableError:
            raise
        uncached = pass_through_for(error, os.fspath(named or error.filename or ""))
        uncached.warn()
        return uncached
    return cache


def pass_through_for(error: OSError, store: Cache | str) -> PassThroughCache:
    """Return the cache that reads without *store* (a cache, or its directory), which failed with *error*.

    Raises *error* itself if reading without a store cannot help, or is what failed. The caller warns.
    """
    # Imported here: few processes ever need it.
    from casstore.pass_through import PassThroughCache, should_bypass

    if not should_bypass(error) or isinstance(store, PassThroughCache):
        raise error
    directory = store if isinstance(store, str) else store.root
    # A store that became read-only in use is still looked into by its own cache.
    reads = (
        directory is store
        and isinstance(error, StoreReadOnlyError | IndexUnavailableError)
        and (error.errno in READ_ONLY)
    )
    name = f"uncached\0{reads}\0{directory}"
    with _mutex:
        known = _caches.get(name)
        if not isinstance(known, PassThroughCache):
            known = _caches[name] = PassThroughCache(directory, error, reads=reads)
        return known


def _open(root: str | os.PathLike[str] | None, digest: str | None, trust_root: bool | None, *, create: bool) -> Cache:
    messages: list[str] = []
    try:
        return _find_or_open(root, digest, trust_root, messages.append, create=create)
    finally:
        for message in messages:
            # Not inside of the mutex: what shows it may wait for another thread, which forks and waits for the mutex.
            import warnings

            warnings.warn(printable(message), stacklevel=3)


def _find_or_open(
    root: str | os.PathLike[str] | None,
    digest: str | None,
    trust_root: bool | None,
    warn: Callable[[str], object],
    *,
    create: bool,
) -> Cache:
    global _is_opening
    with _mutex:
        asked = _name_of(root)
        known = _caches.get(asked)
        if known is not None and digest in (None, known.algorithm):
            if not os.path.exists(known.layout.store):
                known.recreate()
            return known
        if _is_opening:
            # A second cache of one directory could not open the index.
            raise ReentrantCallError(
                f"{asked.partition(chr(0))[0]}: a signal handler interrupted this thread while it opened a store: call "
                "it again, or let the handler set a flag and do the work after it"
            )
        try:
            _is_opening = True
            opened = open_root(root, digest, os.environ, warn, create=create, trust_root=trust_root)
            return _open_new(opened, asked)
        finally:
            _is_opening = False


def _open_new(opened: Root, asked: str) -> Cache:
    name = os.path.realpath(opened.layout.root)
    cache = _caches.get(name)
    if cache is None:
        cache = Cache(opened)
    elif cache.algorithm != opened.algorithm:
        # Another store was put there; LMDB allows one environment per path and process.
        cache.close()
        cache = Cache(opened)
    _caches[name] = _caches[asked] = cache
    return cache


def _name_of(root: str | os.PathLike[str] | None) -> str:
    """Return the name of a cache: its directory, or the variables that determine the default (no path looks so)."""
    path = root if root is not None else os.environ.get("CASSTORE_DIR")
    if path:
        return os.path.realpath(os.path.expanduser(os.fspath(path)))
    return "\0".join(("default", *(os.environ.get(name, "") for name in ("HOME", "XDG_CACHE_HOME"))))


def _all() -> list[Cache]:
    """Return each cache once: the default one has two names."""
    return list({id(cache): cache for cache in _caches.values()}.values())


def _before_fork() -> None:
    global _is_complete
    try:
        deadline = time.monotonic() + _IMPORT_SECONDS
        while True:
            while _is_another_importing() and time.monotonic() < deadline:
                time.sleep(0.001)
            _mutex.acquire()
            _is_complete = False
            for cache in _all():
                cache.before_fork()
            # Again: what is imported may wait for the gates, so that these may not wait for it.
            if not _is_another_importing() or time.monotonic() >= deadline:
                return
            _after_fork()
    except BaseException:  # an interrupt, which `os.fork` discards: again
        _is_complete = False
        for cache in _all():
            cache.after_fork(in_child=False)
            cache.before_fork()
        raise


def _is_another_importing() -> bool:
    """Return whether another thread is importing a module, whose lock would stay locked in a forked child.

    The first use of many functions imports modules. importlib has no public way to tell.
    """
    from importlib import _bootstrap

    locks = [reference() for reference in list(getattr(_bootstrap, "_module_locks", {}).values())]
    return any(getattr(lock, "owner", None) not in (None, get_ident()) for lock in locks)


def _forget_imports_of_others() -> None:
    """Let a forked child import anew what other threads were importing: they may begin after the last look."""
    import sys
    from importlib import _bootstrap

    module_locks = getattr(_bootstrap, "_module_locks", {})
    for name, reference in list(module_locks.items()):
        if getattr(reference(), "owner", None) not in (None, get_ident()):
            module_locks.pop(name, None)
            if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
                sys.modules.pop(name, None)


def _after_fork() -> None:
    global _is_complete, _pid
    # Whatever a signal handler forked since `_before_fork`: that was complete.
    in_child = os.getpid() != _pid
    if in_child:
        _forget_imports_of_others()
    for cache in _all():
        cache.after_fork(in_child=in_child)
    _release()
    _is_complete, _pid = True, os.getpid()


def _complete_fork() -> None:
    if not _is_complete:
        _after_fork()


def _release() -> None:
    with contextlib.suppress(RuntimeError):  # an interrupt has ended `_before_fork`
        _mutex.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
    # Again, since `os.fork` discards an interrupt that ends a hook.
    os.register_at_fork(after_in_parent=_complete_fork, after_in_child=_complete_fork)
