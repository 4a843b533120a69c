"""All paths below a store's root; no other module builds one.

    <root>/
      CACHEDIR.TAG                backup tools skip the store
      store.json                  format, digest algorithm, store id; written last, by link
      config.toml                 optional settings of this store
      statistics.json             counters of all processes; may be lost
      index-v1/CURRENT            number of the live generation; a hint
      index-v1/<n>/               an LMDB environment; NEXT in it names its successor
      blobs/ab/cdef...            one immutable file per digest, mode 0444; the digest determines its mtime
      leases/<random>/            one per live process: lock, staging/, progress/, uses
      local/<n>/<origin>/...      local paths with the objects' own names: see `casstore.local.names`
      locks/fill                  its byte ranges are the fill locks and the queue of index writers
      locks/collector             locked during a collection
      locks/statistics            locked while a process adds its counters
      locks/write/<uri hash>      one file per URI being written
      pending/<uri hash>/         <lease>-<random>.data and .json: writes not yet uploaded;
                                  paths.json: what the local paths of the object are
      pins/<uri hash>             one small file per URI that is never evicted
      trash/ quarantine/          being removed; found damaged

Paths are plain strings: the warm path builds one per open.
"""

from __future__ import annotations

import os
import re

from casstore.format.digest import LENGTH_OF

PATHS_NAME = "paths.json"
"""The name of a record of local paths, among the pending writes of an object."""
FORMAT = 1
"""The format in ``store.json``; a higher one is refused."""
CACHEDIR_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This directory is a cache made by casstore. For information about cache directory tags, see:\n"
    b"#\thttps://bford.info/cachedir/\n"
)

_BLOB_NAME = re.compile(r"[0-9a-f]{2}/(?:[0-9a-f]{2})+")


class Layout:
    """The paths of one root; does no I/O. The tree at the head of this module explains them."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = root = os.path.abspath(root)
        self.tag = root + "/CACHEDIR.TAG"
        self.store = root + "/store.json"
        """Marks the directory as a store; a directory without it is never cleared."""
        self.config = root + "/config.toml"
        self.statistics = root + "/statistics.json"
        self.index = root + "/index-v1"
        self.current = root + "/index-v1/CURRENT"
        self.blobs = root + "/blobs"
        self.leases = root + "/leases"
        self.local = root + "/local"
        self.locks = root + "/locks"
        self.byte_lock_file = root + "/locks/fill"
        """Never deleted."""
        self.collector_lock = root + "/locks/collector"
        self.statistics_lock = root + "/locks/statistics"
        self.write_locks = root + "/locks/write"
        self.pending_directory = root + "/pending"
        self.pins = root + "/pins"
        self.trash = root + "/trash"
        """Any process may delete what is here."""
        self.quarantine = root + "/quarantine"
        self._blob_prefix = root + "/blobs/"
        self._pending_prefix = root + "/pending/"

    def generation(self, number: int) -> str:
        return f"{self.root}/index-v1/{number}"

    def index_file(self, number: int) -> str:
        return f"{self.root}/index-v1/{number}/data.mdb"

    def index_lock(self, number: int) -> str:
        """Return LMDB's lock file of one generation. Never open it: closing it drops LMDB's locks."""
        return f"{self.root}/index-v1/{number}/lock.mdb"

    def successor(self, number: int) -> str:
        """Return the file that names the next generation; made by link, so only one process wins."""
        return f"{self.root}/index-v1/{number}/NEXT"

    def shard(self, digest: bytes) -> str:
        return self._blob_prefix + digest[:1].hex()

    def blob(self, digest: bytes) -> str:
        """Return the file with the bytes of *digest* (the bare hash)."""
        name = digest.hex()
        return f"{self._blob_prefix}{name[:2]}/{name[2:]}"

    @staticmethod
    def digest_at(shard: str, name: str) -> bytes | None:
        """Return the bare hash whose `blob` is ``<shard>/<name>``, or None if that is no blob's name."""
        if _BLOB_NAME.fullmatch(f"{shard}/{name}") is None:
            return None
        digest = bytes.fromhex(shard + name)
        return digest if len(digest) in LENGTH_OF.values() else None

    def lease(self, name: str) -> str:
        return f"{self.root}/leases/{name}"

    def fallback_lock_file(self, number: int) -> str:
        """Return one of a fixed set of lock files, for platforms without byte-range locks."""
        return f"{self.root}/locks/fill-{number:03d}"

    def write_lock(self, name: str) -> str:
        return f"{self.root}/locks/write/{name}"

    def pending(self, name: str) -> str:
        return self._pending_prefix + name

    def pending_data(self, name: str, record: str) -> str:
        return f"{self._pending_prefix}{name}/{record}.data"

    def pending_record(self, name: str, record: str) -> str:
        return f"{self._pending_prefix}{name}/{record}.json"

    def path_record(self, name: str) -> str:
        return f"{self._pending_prefix}{name}/{PATHS_NAME}"

    def local_path(self, name: str) -> str:
        return f"{self.root}/local/{name}"

    def pin(self, name: str) -> str:
        return f"{self.root}/pins/{name}"

    def trashed(self, name: str) -> str:
        """Return a path in the trash; *name* must be unique."""
        return f"{self.root}/trash/{name}"

    def quarantined(self, name: str) -> str:
        """Return the path of a damaged blob; its reason has the same name with ``.txt``."""
        return f"{self.root}/quarantine/{name}"

    def directories(self) -> tuple[str, ...]:
        """Return all directories that a store needs, parents first."""
        names = (
            "index-v1",
            "blobs",
            "leases",
            "local",
            "locks",
            "locks/write",
            "pending",
            "pins",
            "trash",
            "quarantine",
        )
        return (self.root, *(f"{self.root}/{name}" for name in names))


class LeaseLayout:
    """The paths inside one lease; `casstore.leases.lease` explains them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = path + "/lock"
        self.staging = path + "/staging"
        self.progress = path + "/progress"
        self.uses = path + "/uses"


MAX_ROOT_BYTES = 4096 - 1 - 3072 - 63
"""Bytes of a root's path: PATH_MAX minus the longest local path below it."""
