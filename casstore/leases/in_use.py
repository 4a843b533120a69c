"""The local files that processes were given or have made, and still use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from casstore.blobs.staging import Inode
from casstore.format.keys import is_at_or_below
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.leases.scan import scan_lease
from casstore.leases.views import read_manifest


@dataclass(frozen=True, slots=True)
class InUse:
    """A file of *size* bytes that is not deleted with its entry: *path* was given out for an object of *uris*.

    If *path* is None, a blob that they used has links outside of the store. With *is_changed*, the bytes are a user's:
    an edit, or a file made by a tool. It becomes a pending write when its process ends or checks it.
    """

    uris: tuple[str, ...]
    path: str | None
    size: int
    is_changed: bool = False


def files_in_use(layout: Layout, prefix: str, linked: Mapping[Inode, InUse]) -> tuple[InUse, ...]:
    """Return the files in all leases for URIs at or below *prefix*, and the *linked* blobs that none of them links.

    *linked* are blobs that had other links when they were evicted.
    """
    found, known = [], set()
    for path, uri, is_changed in _handed_out(layout):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            known.add(Inode.of(status))
            if is_at_or_below(uri or "", prefix):
                found.append(InUse((uri,) if uri else (), path, status.st_size, is_changed))
    return (*found, *(file for inode, file in linked.items() if inode not in known))


def _handed_out(layout: Layout) -> Iterator[tuple[str, str | None, bool]]:
    """Yield path, URI (None if not given out) and whether its bytes are a user's, for each file in a lease."""
    for name in sorted(files.list_names(layout.leases)):
        lease = LeaseLayout(layout.lease(name))
        with contextlib.suppress(OSError):  # deleted meanwhile, or not a lease
            changed = {file.path for file in scan_lease(lease).unrecorded}
            for inside, handed in read_manifest(lease).handed_out.items():
                path = f"{lease.path}/{inside}"
                yield path, handed[-1].key.uri, path in changed
                changed.discard(path)
            yield from ((path, None, True) for path in sorted(changed))
