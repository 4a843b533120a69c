"""What processes hold of a store: the local files that they were given, or have made, as long as they live."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from casstore.blobs.staging import Inode
from casstore.format.layout import Layout, LeaseLayout
from casstore.fs import files
from casstore.leases.scan import scan_lease
from casstore.leases.views import read_manifest


@dataclass(frozen=True, slots=True)
class InUse:
    """A file of *size* bytes that does not go with the store's entries: *path* was handed out for an object of *uris*.

    Where *path* is None, links outside of the store hold a blob that they used. With *is_changed* the bytes are
    somebody's own: an edit, or a file that a tool made, which becomes a pending write when its process ends, or looks.
    """

    uris: tuple[str, ...]
    path: str | None
    size: int
    is_changed: bool = False


def files_in_use(layout: Layout, prefix: str, linked: Mapping[Inode, InUse]) -> tuple[InUse, ...]:
    """The files in all leases that are of URIs that start with *prefix*; and of *linked*, blobs that had other links
    when they went, those of which none of these files is a link.
    """
    found, known = [], set()
    for path, uri, is_changed in _handed_out(layout):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            known.add(Inode.of(status))
            if (uri or "").startswith(prefix):
                found.append(InUse((uri,) if uri else (), path, status.st_size, is_changed))
    return (*found, *(file for inode, file in linked.items() if inode not in known))


def _handed_out(layout: Layout) -> Iterator[tuple[str, str | None, bool]]:
    """Every file in a lease that is not the store's own: path, URI (None where nobody handed it out), and whether its
    bytes are somebody's own.
    """
    for name in sorted(files.list_names(layout.leases)):
        lease = LeaseLayout(layout.lease(name))
        with contextlib.suppress(OSError):  # gone since, or no lease
            changed = {file.path for file in scan_lease(lease).unrecorded}
            for inside, handed in read_manifest(lease).handed_out.items():
                path = f"{lease.path}/{inside}"
                yield path, handed[-1].key.uri, path in changed
                changed.discard(path)
            yield from ((path, None, True) for path in sorted(changed))
