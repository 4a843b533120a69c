"""A store's directory: created, recognised or refused.

``store.json`` is written last and by link: of two creators one wins, and a half-made store is completed. A directory
with files and without that marker is refused; nothing in it is touched. So is one in which another user can replace
files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from casstore.config.settings import Settings, load_settings
from casstore.errors import (
    NotAStoreError,
    StoreFormatError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from casstore.format.digest import ALGORITHMS, name_hash
from casstore.format.layout import CACHEDIR_TAG, FORMAT, MAX_ROOT_BYTES, Layout
from casstore.fs import files, ownership
from casstore.fs import mounts as machine

_WAY_OUT = "name a directory that you can write to (CASSTORE_DIR, local_cache_dir)"
_TRUST = "set CASSTORE_TRUST_ROOT=1 if you trust them"
_TRIES = 5
_LARGEST_MARKER = 1 << 16
_DEBRIS = re.compile("[0-9a-f]{16}")
"""The names of temporary files of a creator that was killed."""

Result = TypeVar("Result")

READ_ONLY: Final = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))
_OF_THE_PROCESS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR))
"""Temporary errors of the process, not of the directory."""
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS))


@dataclass(slots=True)
class Root:
    """A usable store: *store_id* is random, *boot_mount* is a 64-bit tag of boot and mount, *boot* of the boot clock.

    Neither is 0.
    """

    layout: Layout
    algorithm: str
    store_id: str
    boot_mount: int
    boot: int
    settings: Settings

    def recreate(self) -> None:
        """Create the store again, empty: its directory was removed while it is in use.

        Raises what `open_root` does if that is impossible; StoreFormatError for a store with another digest.
        """
        trust_root = self.settings.trust_root
        self.store_id = open_root(self.layout.root, self.algorithm, os.environ, trust_root=trust_root).store_id


def default_root(environment: Mapping[str, str]) -> tuple[str, bool]:
    """Return the default directory, and whether ``CASSTORE_DIR`` names it; else it is the user's cache directory.

    Raises: StoreUnavailableError if this user has no home.
    """
    named = environment.get("CASSTORE_DIR")
    if named:
        return named, True
    # Imported here: only the default needs it.
    import platformdirs

    try:
        return platformdirs.user_cache_dir("casstore", appauthor=False), False
    except RuntimeError as error:
        message = f"user {os.geteuid()} has no home directory: set CASSTORE_DIR"
        raise StoreUnavailableError(errno.ENOENT, message, "~/.cache/casstore") from error


def open_root(
    path: str | os.PathLike[str] | None,
    algorithm: str | None,
    environment: Mapping[str, str],
    report: Callable[[str], object] = lambda _: None,
    *,
    create: bool = True,
    trust_root: bool | None = None,
) -> Root:
    """Open the store at *path* (without it, the default one); create it unless *create* is False.

    If the default directory is unusable, a private directory below the system's temporary directory replaces it, with
    one warning; a named one is refused. *report* gets the warnings: the caller may have a lock, and shows them later.

    Raises:
        NotAStoreError, StoreFormatError, StoreFullError, StoreUnavailableError: nothing was changed.
        StoreReadOnlyError: the store exists, and this user may only read it; its owner is trusted.
    """
    root, named = "" if path is None else os.fspath(path), path is not None
    try:
        if path is None:
            root, named = default_root(environment)
        return _open_at(root, algorithm, environment, report, create, trust_root)
    except (StoreUnavailableError, StoreFullError) as error:
        if named:
            raise
        try:
            fallback = f"{files.temporary_directory()}/casstore-{os.geteuid()}"
            _check_private(fallback)
            opened = _open_at(fallback, algorithm, environment, report, create, trust_root)
        except (NotAStoreError, StoreUnavailableError, StoreFullError, FileNotFoundError) as worse:
            message = f"{error.strerror}; nor can the temporary directory serve: {worse}"
            raise StoreUnavailableError(error.errno, message, root) from worse
        root = root or error.filename
        report(f"{root}: {error.strerror}; using {opened.layout.root} for now: set CASSTORE_DIR to a local directory")
        return opened


def _open_at(
    path: str,
    algorithm: str | None,
    environment: Mapping[str, str],
    report: Callable[[str], object],
    create: bool,
    trust_root: bool | None,
) -> Root:
    if algorithm is not None:
        _check_algorithm(algorithm)
    layout = Layout(os.path.expanduser(path))
    if len(os.fsencode(layout.root)) > MAX_ROOT_BYTES:
        message = (
            f"the store's path is too long (limit: {MAX_ROOT_BYTES} bytes): choose a shorter one (CASSTORE_DIR, "
            "local_cache_dir)"
        )
        raise StoreUnavailableError(errno.ENAMETOOLONG, message, layout.root)
    description = _read_marker(layout)
    settings = load_settings(layout, environment)
    if trust_root is not None:
        settings = replace(settings, trust_root=trust_root)
    if not settings.trust_root:
        _check_users(layout, report, exists=description is not None)
    if description is None:
        description = _create(layout, algorithm or environment.get("CASSTORE_DIGEST") or ALGORITHMS[0], create=create)
        if not settings.trust_root:
            # Before it was created, another user may have been faster.
            _check_users(layout, lambda _: None, exists=True)
    mount = machine.mount_of(layout.root)
    _check_mount(layout, mount)
    _complete(layout)
    stored = description["digest"]
    if algorithm is not None and algorithm != stored:
        raise StoreFormatError(
            f"the store at {layout.root} names its blobs by {stored}, not {algorithm}: open it without naming an "
            "algorithm, or choose another directory"
        )
    # Unknown: then what another process wrote or validated is not known to be of this boot.
    boot = machine.boot_id() or os.urandom(16)
    boot_mount = _tag(boot + b"\0" + str(mount.number).encode())
    clock = _tag(boot + b"\0" + machine.time_namespace())
    return Root(layout, stored, description["id"], boot_mount, clock, settings)


def _tag(what: bytes) -> int:
    return int.from_bytes(name_hash(what)[:8], "big") | 1


def _read_marker(layout: Layout) -> dict[str, str] | None:
    """Return what ``store.json`` says; None if there is no store yet."""
    try:
        with files.open_regular(layout.store) as file:
            text = file.read(_LARGEST_MARKER)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unfit(layout, error) from error
    way_out = "move it away (its blobs can be fetched again), or choose another directory"
    try:
        found = json.loads(text)
        version, algorithm, identity = found["format"], found["digest"], found["id"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreFormatError(f"{layout.store} is damaged: {way_out}") from error
    if isinstance(version, int) and version > FORMAT:
        raise StoreFormatError(
            f"the store at {layout.root} has format {version}, newer than this casstore reads ({FORMAT}): "
            "upgrade casstore, or choose another directory"
        )
    if version != FORMAT or algorithm not in ALGORITHMS or not isinstance(identity, str):
        raise StoreFormatError(f"{layout.store} is damaged: {way_out}")
    return {"digest": algorithm, "id": identity}


def check_marker(layout: Layout, store_id: str) -> None:
    """Raise NotAStoreError unless the directory is still the store *store_id*: nothing else is ours to clear."""
    found = _read_marker(layout)
    if found is None or found["id"] != store_id:
        what = "the marker is gone" if found is None else "another store's marker is there"
        message = f"{what}: nothing was cleared, because these files may not be the store's"
        raise NotAStoreError(errno.ENOENT, message, layout.store)


def _create(layout: Layout, algorithm: str, *, create: bool) -> dict[str, str]:
    _check_algorithm(algorithm)
    try:
        present = set(os.listdir(layout.root))
    except FileNotFoundError:
        present = set()
    except OSError as error:
        raise _unfit(layout, error) from error
    # The marker counts as ours: another creator may have finished since we looked for it.
    paths = (*layout.directories(), layout.tag, layout.config, layout.statistics, layout.store)
    ours = {os.path.basename(path) for path in paths}
    foreign = sorted(name for name in present - ours if not _DEBRIS.fullmatch(name))
    if foreign:
        message = f"the directory contains other files ({foreign[0]!r}) and no store: name an empty or a new directory"
        raise NotAStoreError(errno.ENOTEMPTY, message, layout.root)
    if not create:
        message = "there is no store here yet; the first object that is read makes one"
        raise NotAStoreError(errno.ENOENT, message, layout.root)
    existing = layout.root
    while not os.path.exists(existing) and existing != os.path.dirname(existing):  # nor may "/" be looked at
        existing = os.path.dirname(existing)
    _check_mount(layout, machine.mount_of(existing))
    description = {"format": FORMAT, "digest": algorithm, "id": os.urandom(16).hex()}

    def make() -> dict[str, str]:
        _make_directories(layout)
        mode = stat.S_IMODE(os.stat(layout.root).st_mode)
        if mode & 0o022 and ownership.find_owner(layout.root) is None:
            os.chmod(layout.root, mode & ~0o022)  # it existed, empty: from now on, it is private to the store
        files.create_synced(layout.tag, CACHEDIR_TAG, 0o644)
        files.create_synced(layout.store, json.dumps(description).encode() + b"\n", 0o644)
        found = _read_marker(layout)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), layout.store)
        return found

    try:
        return _persistently(make)
    except OSError as error:
        raise _unfit(layout, error) from error


def _check_algorithm(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise StoreFormatError(f"unknown digest algorithm {algorithm!r}: one of {', '.join(ALGORITHMS)}")


def _make_directories(layout: Layout) -> None:
    for directory in layout.directories():
        if not os.path.isdir(directory):
            _make_directory(directory, 0o700)


def _make_directory(path: str, mode: int) -> None:
    """Make a directory, and its missing parents, which no other user may write to, whatever the umask."""
    parent = os.path.dirname(path)
    if parent != path and not os.path.isdir(parent):
        _make_directory(parent, 0o755)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        # Another process made it now.


def _persistently(make: Callable[[], Result]) -> Result:
    """Return what *make* does; try again while another process removes the store."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return make()
    return make()


def _complete(layout: Layout) -> None:
    """Make missing directories. Raises StoreReadOnlyError if this user cannot write."""
    try:
        _persistently(lambda: _make_directories(layout))
        if not os.access(layout.index, os.W_OK):
            raise PermissionError(errno.EROFS, "read-only")
    except OSError as error:
        if error.errno in READ_ONLY:
            message = f"this user cannot write to the store ({os.strerror(error.errno)}): {_WAY_OUT}"
            raise StoreReadOnlyError(error.errno, message, layout.root) from error
        raise _unfit(layout, error) from error


def _unfit(layout: Layout, error: OSError) -> OSError:
    """Return *error* as an error of the directory; as it is, if it is one of the process."""
    if isinstance(error, NotADirectoryError):
        return NotAStoreError(errno.ENOTDIR, f"the cache directory is a file: {_WAY_OUT}", layout.root)
    if error.errno in _OF_THE_PROCESS:
        return OSError(error.errno, os.strerror(error.errno or 0), error.filename or layout.root)
    what = "cannot make or use a store there"
    if error.filename2 is not None and error.errno in _NO_LINKS:
        what = "the file system has no hard links, which a store needs"
    kind = StoreFullError if error.errno in files.NO_SPACE else StoreUnavailableError
    return kind(error.errno, f"{what} ({os.strerror(error.errno or 0)}): {_WAY_OUT}", layout.root)


def _check_users(layout: Layout, report: Callable[[str], object], *, exists: bool) -> None:
    """Refuse a store in which a user who is not trusted can replace files.

    Root is only warned about what belongs to others: in containers, those are often its own user outside. So is the
    user of a container about its volumes. Raises StoreReadOnlyError if a part belongs to another, trusted, user.
    """
    intruders, owner = list(ownership.find_movers(layout.root)), None
    for path in (*layout.directories(), layout.store, layout.config) if exists else (layout.root,):
        found, other = ownership.find_changers(path), ownership.find_owner(path)
        if other is None and found is not None and exists:
            message = f"{found.name} can replace files in it: run chmod go-w {shlex.quote(path)}, or {_TRUST}"
            raise StoreUnavailableError(errno.EPERM, message, path)
        if other is not None:
            intruders += [found] if found is not None else []
            owner = owner or (None if path in (layout.root, layout.config) else (other, path))
    if (intruder := ownership.gravest(intruders)) is not None:
        message = (
            f"{intruder.name} can write to {intruder.path} and replace files of the store: name a directory that only "
            f"you can write to (CASSTORE_DIR, local_cache_dir), or {_TRUST}"
        )
        if not ownership.is_tolerated(intruder):
            raise StoreUnavailableError(errno.EPERM, message, layout.root)
        report(f"{layout.root}: {message}")
    if owner is not None:
        message = (
            f"the store belongs to another user (uid {owner[0]}, the owner of {owner[1]}) and is only read: "
            f"{_WAY_OUT}, or set CASSTORE_TRUST_ROOT=1 to write to it"
        )
        raise StoreReadOnlyError(errno.EPERM, message, layout.root)


def _check_private(path: str) -> None:
    """Refuse what has this name in a directory that every user writes to, unless it is private to this user."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        message = "another user may have made it: remove it, or set CASSTORE_DIR to a local directory"
        raise StoreUnavailableError(errno.EPERM, message, path)


def _check_mount(layout: Layout, mount: machine.Mount) -> None:
    if mount.is_linkless:
        message = f"a {mount.kind} file system has no hard links, which a store needs: {_WAY_OUT}"
    elif mount.is_shared:
        message = (
            f"the directory is on a {mount.kind} file system, where an index is not safe: name a directory on a local "
            "disk (CASSTORE_DIR, local_cache_dir)"
        )
    else:
        return
    raise StoreUnavailableError(errno.ENOTSUP, message, layout.root)
