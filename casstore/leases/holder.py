"""The lease of this process, taken when it is first needed, and its staging files."""

from __future__ import annotations

from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import Staging
from casstore.exit_hooks import ExitHook
from casstore.leases.lease import Lease
from casstore.locks.mutex import new_mutex
from casstore.root import Root


class LeaseHolder:
    """Takes and gives up the lease of one process; thread-safe. A forked child makes its own, and its own lease."""

    def __init__(self, root: Root, blobs: BlobStore, exit_hook: ExitHook) -> None:
        self._root = root
        self._blobs = blobs
        self._exit = exit_hook
        self._mutex = new_mutex()
        self.taken: Lease | None = None
        """The lease, if this process has one; read without a lock."""

    def get(self) -> Lease:
        """Return the lease; take one if this process has none, or if its directory was removed."""
        with self._mutex:
            if self.taken is not None and not self.taken.exists():
                self.taken.abandon()
                self.taken = None
            if self.taken is None:
                self.taken = self._take()
                self._exit.ensure()
            return self.taken

    def _take(self) -> Lease:
        try:
            return Lease(self._root.layout)
        except FileNotFoundError:
            self._root.recreate()
            return Lease(self._root.layout)

    def own_name(self) -> str | None:
        """Return the name of the lease, or None; takes none."""
        with self._mutex:
            return None if self.taken is None else self.taken.name

    def stage(self) -> Staging:
        """Return a private file on the store's file system, to become a blob or to be closed."""
        try:
            return self._blobs.stage(self._staging_directory)
        except FileNotFoundError:
            self._root.recreate()
            return self._blobs.stage(self._staging_directory)

    def _staging_directory(self) -> str:
        return self.get().paths.staging

    def close(self) -> None:
        """Give up the lease; the next use takes another."""
        with self._mutex:
            lease, self.taken = self.taken, None
        if lease is not None:
            lease.close()
