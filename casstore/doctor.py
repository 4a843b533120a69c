"""Check that this machine and a directory are fit for a store, with a fix for each problem.

Creates no store. Tests use temporary files in the store's directory, or in the nearest parent that exists.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from casstore.cache import Cache
from casstore.config.settings import Settings, load_settings
from casstore.config.units import format_size
from casstore.errors import CasstoreError, IndexDamagedError, StoreFormatError
from casstore.format.layout import Layout
from casstore.fs import copying, files, mounts, ownership
from casstore.index.environment import MAX_READERS
from casstore.installation import find_damage
from casstore.locks.lock_files import locks_are_exclusive
from casstore.opening import open as open_cache
from casstore.root import default_root

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_PROBE: Final = b"casstore doctor\n"
_OTHER_DIRECTORY: Final = "use another directory (--dir, CASSTORE_DIR)"
_LOCAL_DISK: Final = "use a directory on a local disk (--dir, CASSTORE_DIR)"
_MANY_READERS: Final = MAX_READERS * 9 // 10


class CheckState(StrEnum):
    """The result of a check. The values are part of the JSON output."""

    OK = "good"
    WARNING = "note"
    """The store works, but slower or with fewer features."""
    FAILED = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, and how to fix it, if needed."""

    name: str
    state: CheckState
    found: str
    advice: str = ""


def examine(root: str | os.PathLike[str] | None = None) -> Iterator[Check]:
    """Run every check; *root* is the store's directory, or None for the default one."""
    directory = default_root(os.environ)[0] if root is None else os.fspath(root)
    layout = Layout(os.path.expanduser(directory))
    parent = layout.root
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    cache, check = _open(layout, parent)
    yield check
    yield _mount(parent)
    yield _other_users(layout)
    if not os.access(parent, os.W_OK):
        yield Check("directory", CheckState.FAILED, f"{parent} is not writable", _OTHER_DIRECTORY)
    else:
        yield from _try_files(parent)
        yield _locks(parent)
    yield _space(layout, parent, cache)
    if cache is not None:
        yield _index(cache)
        yield _pending(cache)
    damage = find_damage()
    state = CheckState.OK if damage is None else CheckState.FAILED
    yield Check("installed files", state, *(damage or ("as installed",)))
    yield from _requirements()


def _open(layout: Layout, parent: str) -> tuple[Cache | None, Check]:
    if not os.path.lexists(layout.store):
        found = f"there is no store in {layout.root} yet; the other checks used {parent}"
        return None, Check("store", CheckState.WARNING, found, "the first use creates it")
    try:
        return (cache := open_cache(layout.root, create=False)), Check("store", CheckState.OK, cache.root)
    except (CasstoreError, OSError) as error:
        return None, Check("store", CheckState.FAILED, str(error), f"see the message, or {_OTHER_DIRECTORY}")


def _mount(parent: str) -> Check:
    mount = mounts.mount_of(parent)
    if mount.is_shared or mount.is_linkless:
        why = "no hard links" if mount.is_linkless else "shared with other machines, where an index is not safe"
        return Check("file system", CheckState.FAILED, f"{mount.kind}: {why}", _LOCAL_DISK)
    return Check("file system", CheckState.OK, mount.kind)


def _other_users(layout: Layout) -> Check:
    found = ownership.gravest(ownership.find_movers(layout.root))
    if found is None:
        return Check("other users", CheckState.OK, "cannot replace the store")
    is_fatal = not ownership.is_tolerated(found)
    with contextlib.suppress(StoreFormatError, OSError):  # `_open` has reported it
        is_fatal = is_fatal and not load_settings(layout, os.environ).trust_root
    state = CheckState.FAILED if is_fatal else CheckState.WARNING
    advice = f"{_OTHER_DIRECTORY}, or set CASSTORE_TRUST_ROOT=1 if you trust them"
    return Check("other users", state, f"{found.name} can write to {found.path} and replace the store", advice)


def _try_files(parent: str) -> Iterator[Check]:
    try:
        with files.temporary_file(parent) as (descriptor, path):
            files.write_all(descriptor, _PROBE)
            yield _links(path)
            yield _reflinks(descriptor, parent)
            yield _unnamed(parent)
    except OSError as error:
        advice = f"free some space, or {_OTHER_DIRECTORY}"
        yield Check("directory", CheckState.FAILED, f"{parent}: {error.strerror}", advice)


def _links(path: str) -> Check:
    other = f"{path}.link"
    try:
        files.link(path, other)
    except OSError as error:
        return Check("hard links", CheckState.FAILED, f"not supported: {error.strerror}", _LOCAL_DISK)
    files.unlink_quietly(other)
    return Check("hard links", CheckState.OK, "work")


def _reflinks(source: int, parent: str) -> Check:
    with files.temporary_file(parent) as (descriptor, _):
        if copying.clone(source, descriptor):
            found = "work: local paths need no copy, and writing to one cannot change a blob"
            return Check("reflinks", CheckState.OK, found)
    found = "not supported: local paths are hard links, or copies for root"
    advice = 'if tools write to local paths, use XFS, Btrfs or bcachefs, or set views = "copy"'
    return Check("reflinks", CheckState.WARNING, found, advice)


def _unnamed(parent: str) -> Check:
    descriptor = files.open_unnamed(parent)
    if descriptor is None:
        found = "not supported (O_TMPFILE): a killed download leaves a file behind"
        return Check("unnamed files", CheckState.WARNING, found, "`casstore gc` removes such files")
    os.close(descriptor)
    return Check("unnamed files", CheckState.OK, "work")


def _locks(parent: str) -> Check:
    if locks_are_exclusive(parent):
        return Check("file locks", CheckState.OK, "work")
    found = "do not work: processes may download the same object twice, and crashed processes cannot be detected"
    return Check("file locks", CheckState.FAILED, found, _LOCAL_DISK)


def _space(layout: Layout, parent: str, cache: Cache | None) -> Check:
    try:
        settings: Settings = load_settings(layout, os.environ) if cache is None else cache.settings
    except CasstoreError as error:
        return Check("free space", CheckState.FAILED, str(error), "correct the setting")
    space = os.statvfs(parent)
    free, least = space.f_bavail * space.f_frsize, settings.keep_free(space)
    found = f"{format_size(free)} (minimum: {format_size(least)})"
    if free < least:
        advice = "run `casstore gc --yes`, delete other files, or lower min_free"
        return Check("free space", CheckState.FAILED, found, advice)
    if space.f_files and not space.f_favail:
        return Check("free space", CheckState.FAILED, "no inodes are left", f"delete files, or {_OTHER_DIRECTORY}")
    return Check("free space", CheckState.OK, found)


def _index(cache: Cache) -> Check:
    try:
        health = cache.index.health()
    except FileNotFoundError:
        return Check("index", CheckState.WARNING, "there is no index yet", "the first use creates it")
    except IndexDamagedError as error:
        advice = "`casstore verify --repair` creates a new index, and keeps the blobs"
        return Check("index", CheckState.FAILED, error.strerror or str(error), advice)
    except (CasstoreError, OSError) as error:
        return Check("index", CheckState.FAILED, str(error), "see the message")
    found = (
        f"generation {health.generation}: {health.rows:,} rows in {format_size(health.used)} of "
        f"{format_size(health.map_size)}, {health.readers:,} of {health.max_readers:,} readers"
    )
    if health.readers >= _MANY_READERS:
        return Check("index", CheckState.FAILED, found, "`casstore gc` frees the slots of dead processes")
    if health.used > health.map_size * 9 // 10:
        return Check("index", CheckState.FAILED, found, "raise the limit on address space: ulimit -v unlimited")
    return Check("index", CheckState.OK, found)


def _pending(cache: Cache) -> Check:
    count = cache.pending.count()
    if not count:
        return Check("pending writes", CheckState.OK, "none")
    return Check("pending writes", CheckState.WARNING, f"{count:,} not uploaded", "`casstore pending` lists them")


def _requirements() -> Iterator[Check]:
    """Check Python, and the packages that the metadata require; an extra's packages are optional."""
    from importlib.metadata import PackageNotFoundError, metadata

    from packaging.requirements import Requirement

    yield Check("python", CheckState.OK, sys.version.split()[0])
    try:
        about = metadata("casstore")
    except PackageNotFoundError:
        yield Check("packages", CheckState.WARNING, "casstore is imported, not installed: its requirements are unknown")
        return
    extras = ["", *(about.get_all("Provides-Extra") or ())]
    seen: set[str] = set()
    for requirement in map(Requirement, about.get_all("Requires-Dist") or ()):
        marker = requirement.marker
        extra = next((name for name in extras if marker is None or marker.evaluate({"extra": name})), None)
        # An extra may require casstore with other extras. Without a matching extra, it is for another platform.
        if extra is not None and requirement.name not in {"casstore", *seen}:
            seen.add(requirement.name)
            yield _requirement(requirement, extra)


def _requirement(requirement: Requirement, extra: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    name, install = requirement.name, f"pip install 'casstore{f'[{extra}]' if extra else ''}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        state = CheckState.WARNING if extra else CheckState.FAILED
        return Check(name, state, "not installed" + (f": part of the extra {extra}" if extra else ""), install)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Check(name, CheckState.FAILED, f"{installed}, but {requirement.specifier} is required", install)
    return Check(name, CheckState.OK, installed)
