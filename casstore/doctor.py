"""Whether this machine and this directory are fit for a store, and what to do about each thing that is not.

It makes no store; what it tries, it tries with files of its own in the store's directory, or in the nearest one that
exists, and removes them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from casstore.cache import Cache
from casstore.config.settings import Settings, load_settings
from casstore.errors import CasstoreError, IndexDamagedError
from casstore.format.layout import Layout
from casstore.fs import copying, files
from casstore.fs import mounts as machine
from casstore.index.environment import MAX_READERS
from casstore.locks.lock_files import locks_are_exclusive
from casstore.opening import open as open_cache
from casstore.root import default_root

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_PROBE: Final = b"casstore doctor\n"
_MANY_READERS: Final = MAX_READERS * 9 // 10


class State(StrEnum):
    """How it stands. The values are words for people and scripts."""

    GOOD = "good"
    NOTE = "note"
    """It works without, less well or less fast."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do about it, if anything."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(root: str | os.PathLike[str] | None = None) -> Iterator[Check]:
    """Look at everything, one thing at a time; *root* is the store's directory, without it the default one."""
    directory = default_root(os.environ)[0] if root is None else os.fspath(root)
    layout = Layout(os.path.expanduser(directory))
    place = layout.root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    cache, check = _open(layout, place)
    yield check
    mount = _mount(place)
    yield mount
    if not os.access(place, os.W_OK):
        yield Check("directory", State.WRONG, f"{place} cannot be written to", "name another (--dir, CASSTORE_DIR)")
    else:
        yield from _try_files(place)
        yield _locks(place)
    yield _space(layout, place, cache)
    if cache is not None:
        yield _index(cache)
        yield _pending(cache)
    yield from _requirements()


def _open(layout: Layout, place: str) -> tuple[Cache | None, Check]:
    if not os.path.lexists(layout.store):
        found = f"there is none in {layout.root} yet, and none was made; the rest was tried in {place}"
        return None, Check("store", State.NOTE, found, "the first use makes it")
    try:
        return (cache := open_cache(layout.root, create=False)), Check("store", State.GOOD, cache.root)
    except (CasstoreError, OSError) as error:
        return None, Check("store", State.WRONG, str(error), "see the message; `--dir` or CASSTORE_DIR name another")


def _mount(place: str) -> Check:
    mount = machine.mount_of(place)
    if mount.is_shared or mount.is_linkless:
        what = "has no hard links" if mount.is_linkless else "may be used by other machines: an index is not safe there"
        advice = "name a directory on a local disk (--dir, CASSTORE_DIR)"
        return Check("file system", State.WRONG, f"{mount.kind} {what}", advice)
    return Check("file system", State.GOOD, mount.kind)


def _try_files(place: str) -> Iterator[Check]:
    try:
        descriptor, path = files.open_named(place)
    except OSError as error:
        yield Check("directory", State.WRONG, f"{place}: {error.strerror}", "name another (--dir, CASSTORE_DIR)")
        return
    try:
        files.write_all(descriptor, _PROBE)
        yield _links(path)
        yield _reflinks(descriptor, place)
        yield _unnamed(place)
    except OSError as error:
        yield Check("directory", State.WRONG, f"{place}: {error.strerror}", "make room, or name another (--dir)")
    finally:
        os.close(descriptor)
        files.unlink_quietly(path)


def _links(path: str) -> Check:
    other = f"{path}.link"
    try:
        files.link(path, other)
    except OSError as error:
        advice = "name a directory on a file system that has them (--dir, CASSTORE_DIR)"
        return Check("hard links", State.WRONG, f"none: {error.strerror}", advice)
    files.unlink_quietly(other)
    return Check("hard links", State.GOOD, "work")


def _reflinks(source: int, place: str) -> Check:
    descriptor, path = files.open_named(place)
    try:
        if copying.clone(source, descriptor):
            return Check(
                "reflinks", State.GOOD, "work: local paths cost no copy, and nobody writes into a blob by them"
            )
    finally:
        os.close(descriptor)
        files.unlink_quietly(path)
    advice = 'for local paths that may be written to, use XFS, Btrfs or bcachefs, or set views = "copy"'
    return Check("reflinks", State.NOTE, "none: local paths are hard links, or copies for root", advice)


def _unnamed(place: str) -> Check:
    descriptor = files.open_unnamed(place)
    if descriptor is None:
        found = (
            "none (O_TMPFILE, and /proc to name them): downloads under way have names, and a killed one leaves a file"
        )
        return Check("unnamed files", State.NOTE, found, "`casstore gc` removes what was left")
    os.close(descriptor)
    return Check("unnamed files", State.GOOD, "work")


def _locks(place: str) -> Check:
    if locks_are_exclusive(place):
        return Check("file locks", State.GOOD, "exclude a second process")
    return Check(
        "file locks",
        State.WRONG,
        "do not exclude a second process: every process may download the same, and nobody can be told to be dead",
        "name a directory on a local disk (--dir, CASSTORE_DIR)",
    )


def _space(layout: Layout, place: str, cache: Cache | None) -> Check:
    try:
        settings: Settings = load_settings(layout, os.environ) if cache is None else cache.settings
    except CasstoreError as error:
        return Check("free space", State.WRONG, str(error), "mend the setting")
    space = os.statvfs(place)
    free, least = space.f_bavail * space.f_frsize, settings.keep_free(space)
    found = f"{free:,} bytes, and {least:,} are to stay free"
    if free < least:
        return Check("free space", State.WRONG, found, "`casstore gc`, delete other things, or lower min_free")
    if space.f_files and not space.f_favail:
        return Check("free space", State.WRONG, "no inodes are left", "delete files, or name another directory")
    return Check("free space", State.GOOD, found)


def _index(cache: Cache) -> Check:
    try:
        health = cache.index.health()
    except FileNotFoundError:
        return Check("index", State.NOTE, "there is none yet", "the first use makes it")
    except IndexDamagedError as error:
        advice = "`casstore verify --repair` begins a new one, and keeps the blobs"
        return Check("index", State.WRONG, error.strerror or str(error), advice)
    except (CasstoreError, OSError) as error:
        return Check("index", State.WRONG, str(error), "see the message")
    found = (
        f"generation {health.generation}: {health.rows:,} rows in {health.used:,} of {health.map_size:,} bytes, "
        f"{health.readers:,} of {health.max_readers:,} readers"
    )
    if health.readers >= _MANY_READERS:
        return Check("index", State.WRONG, found, "`casstore gc` frees those of dead processes")
    if health.used > health.map_size * 9 // 10:
        return Check("index", State.WRONG, found, "raise the limit of address space (ulimit -v)")
    return Check("index", State.GOOD, found)


def _pending(cache: Cache) -> Check:
    count = sum(1 for _ in cache.pending.all())
    if not count:
        return Check("pending writes", State.GOOD, "none")
    return Check("pending writes", State.NOTE, f"{count:,} are not in the cloud", "`casstore pending` lists them")


# --- what is installed ------------------------------------------------------------------------------------------------


def _requirements() -> Iterator[Check]:
    """The Python and the packages that this distribution names, as its metadata say; extras may be missing."""
    from importlib.metadata import PackageNotFoundError, metadata

    from packaging.requirements import Requirement

    yield Check("python", State.GOOD, sys.version.split()[0])
    try:
        about = metadata("casstore")
    except PackageNotFoundError:
        yield Check("packages", State.NOTE, "casstore is not installed, only imported: what it needs is not known")
        return
    extras = ["", *(about.get_all("Provides-Extra") or ())]
    seen: set[str] = set()
    for requirement in map(Requirement, about.get_all("Requires-Dist") or ()):
        marker = requirement.marker
        extra = next((name for name in extras if marker is None or marker.evaluate({"extra": name})), None)
        # Extras name extras of ours, and what has no extra that would bring it is for another platform.
        if extra is not None and requirement.name not in {"casstore", *seen}:
            seen.add(requirement.name)
            yield _requirement(requirement, extra)


def _requirement(requirement: Requirement, extra: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    name, install = requirement.name, f"pip install 'casstore{f'[{extra}]' if extra else ''}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        state = State.NOTE if extra else State.WRONG
        return Check(name, state, "not installed" + (f": the extra {extra} has it" if extra else ""), install)
    if not requirement.specifier.contains(installed, prereleases=True):
        return Check(name, State.WRONG, f"{installed}, and {requirement.specifier} is needed", install)
    return Check(name, State.GOOD, installed)
