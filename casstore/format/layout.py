"""Where everything lies below a store's root; no other module builds such a path.

    <root>/
      CACHEDIR.TAG                backup tools skip the store
      store.json                  format, digest algorithm, store id; written last, by link
      config.toml                 settings of this store, where somebody wrote one
      statistics.json             what processes counted; may be lost
      index-v1/CURRENT            number of the live generation; a hint
      index-v1/<n>/               an LMDB environment; NEXT in it names its successor
      blobs/ab/cdef...            one immutable file per digest, mode 0444, an mtime that follows from the digest
      leases/<random>/            one per live process: lock, staging/, progress/, views.list, and what is handed out:
                                  views/<n>/, outbox/<n>/, edits/<random>/
      locks/fill                  byte ranges of it are the fill locks and the index writers' queue
      locks/collector             held while somebody collects
      locks/statistics            held while somebody adds to the counts
      locks/write/<uri hash>      one file per URI being written
      pending/<uri hash>/         <lease>-<random>.data and .json: writes that the cloud does not have
      pins/<uri hash>             one small file per URI that is never evicted
      trash/ quarantine/          on the way out; found bad

Paths are plain strings: the warm path builds one per open.
"""

from __future__ import annotations

import os
import re

from casstore.format.digest import LENGTHS, name_hash_hex

FORMAT = 1
"""The version that ``store.json`` names; a higher one is refused."""

CACHEDIR_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This directory is a cache made by casstore. For information about cache directory tags, see:\n"
    b"#\thttps://bford.info/cachedir/\n"
)

_BLOB_NAME = re.compile(r"[0-9a-f]{2}/(?:[0-9a-f]{2})+")


class Layout:
    """The paths of one root. Knows names; touches nothing."""

    __slots__ = ("_blob_prefix", "_pending_prefix", "root")

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(root)
        self._blob_prefix = self.root + "/blobs/"
        self._pending_prefix = self.root + "/pending/"

    @property
    def tag(self) -> str:
        """Tells backup tools that this is a cache."""
        return self.root + "/CACHEDIR.TAG"

    @property
    def store(self) -> str:
        """The marker: a directory without it is never cleared."""
        return self.root + "/store.json"

    @property
    def config(self) -> str:
        """The store's settings, where there are any."""
        return self.root + "/config.toml"

    @property
    def statistics(self) -> str:
        """What the processes of this store counted."""
        return self.root + "/statistics.json"

    @property
    def statistics_lock(self) -> str:
        """Held by the one process that adds to it."""
        return self.root + "/locks/statistics"

    @property
    def index(self) -> str:
        """Holds the generations of the index."""
        return self.root + "/index-v1"

    @property
    def current(self) -> str:
        """The number of the live generation, as text."""
        return self.root + "/index-v1/CURRENT"

    def generation(self, number: int) -> str:
        """The LMDB environment of one generation."""
        return f"{self.root}/index-v1/{number}"

    def index_file(self, number: int) -> str:
        """LMDB's data file of one generation; its lock file is for LMDB alone."""
        return f"{self.root}/index-v1/{number}/data.mdb"

    def index_lock(self, number: int) -> str:
        """LMDB's lock file of one generation, to be looked at and never opened."""
        return f"{self.root}/index-v1/{number}/lock.mdb"

    def successor(self, number: int) -> str:
        """Names the next generation once this one is superseded; made by link, so that one of many wins."""
        return f"{self.root}/index-v1/{number}/NEXT"

    @property
    def blobs(self) -> str:
        """Holds a directory for each first byte of a digest."""
        return self.root + "/blobs"

    def shard(self, digest: bytes) -> str:
        """The directory that a blob lies in."""
        return self._blob_prefix + digest[:1].hex()

    def blob(self, digest: bytes) -> str:
        """The file that holds the bytes of *digest* (the bare hash)."""
        name = digest.hex()
        return f"{self._blob_prefix}{name[:2]}/{name[2:]}"

    @staticmethod
    def digest_at(shard: str, name: str) -> bytes | None:
        """The bare hash whose `blob` is ``<shard>/<name>``; None for what no blob of any algorithm is named."""
        if _BLOB_NAME.fullmatch(f"{shard}/{name}") is None:
            return None
        digest = bytes.fromhex(shard + name)
        return digest if len(digest) in LENGTHS else None

    @property
    def leases(self) -> str:
        """Holds a directory for each live process."""
        return self.root + "/leases"

    def lease(self, name: str) -> str:
        """One process's directory."""
        return f"{self.root}/leases/{name}"

    @property
    def locks(self) -> str:
        """Holds every lock file but those of leases."""
        return self.root + "/locks"

    @property
    def byte_lock_file(self) -> str:
        """The one file whose byte ranges are locks; never deleted."""
        return self.root + "/locks/fill"

    @property
    def collector_lock(self) -> str:
        """Held by the one process that collects."""
        return self.root + "/locks/collector"

    def fallback_lock_file(self, number: int) -> str:
        """One of a fixed set of lock files, where the platform has no locks on byte ranges of open files."""
        return f"{self.root}/locks/fill-{number:03d}"

    def write_lock(self, name: str) -> str:
        """Held while the URI of hash *name* is being written."""
        return f"{self.root}/locks/write/{name}"

    def pending(self, name: str) -> str:
        """Records of writes that the cloud does not have, of the URI of hash *name*."""
        return self._pending_prefix + name

    def pending_data(self, name: str, record: str) -> str:
        """The bytes of one pending write."""
        return f"{self._pending_prefix}{name}/{record}.data"

    def pending_record(self, name: str, record: str) -> str:
        """What the bytes are, as JSON."""
        return f"{self._pending_prefix}{name}/{record}.json"

    @property
    def pins(self) -> str:
        """Holds a small file for each pin."""
        return self.root + "/pins"

    def pin(self, name: str) -> str:
        """Says that the URI of hash *name* is never evicted."""
        return f"{self.root}/pins/{name}"

    @property
    def trash(self) -> str:
        """What is renamed here may be unlinked by anybody."""
        return self.root + "/trash"

    def trashed(self, name: str) -> str:
        """A thing on its way out; *name* is its own."""
        return f"{self.root}/trash/{name}"

    @property
    def quarantine(self) -> str:
        """Blobs whose bytes were found wrong, with the reason beside them."""
        return self.root + "/quarantine"

    def quarantined(self, name: str) -> str:
        """A blob that was found bad; the reason has the same name with ``.txt``."""
        return f"{self.root}/quarantine/{name}"

    def directories(self) -> tuple[str, ...]:
        """Everything that must exist before the store is used, parents first."""
        names = ("index-v1", "blobs", "leases", "locks", "locks/write", "pending", "pins", "trash", "quarantine")
        return (self.root, *(f"{self.root}/{name}" for name in names))


class LeaseLayout:
    """The paths inside one lease."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def lock(self) -> str:
        """Held by the kernel for as long as the process lives."""
        return self.path + "/lock"

    @property
    def staging(self) -> str:
        """Private files on their way in, where they cannot go without a name."""
        return self.path + "/staging"

    @property
    def progress(self) -> str:
        """Byte counts of long downloads, for whoever waits for them."""
        return self.path + "/progress"

    @property
    def views_list(self) -> str:
        """One JSON line per path that is handed out, written before, and per file that needs no record."""
        return self.path + "/views.list"

    def view_tree(self, number: int) -> str:
        """The root of one tree of views."""
        return f"{self.path}/views/{number}"

    def outbox(self, number: int) -> str:
        """The root of one tree of paths at which tools may make files."""
        return f"{self.path}/outbox/{number}"

    def edit(self, name: str) -> str:
        """A directory of its own for a copy that is to be changed and uploaded."""
        return f"{self.path}/edits/{name}"


_MAX_NAME_BYTES = 255
"""Bytes; what every common Linux and macOS file system allows for a name."""

_MAX_VIEW_PATH = 3072
"""Bytes below a tree of views; PATH_MAX is 4096 with the root and the closing NUL."""

MAX_ROOT_BYTES = 4096 - 1 - _MAX_VIEW_PATH - 63
"""Bytes of a root's own path, so that every key has a view: PATH_MAX less that and ``/leases/<name>/views/<n>/``."""

_MAX_DEPTH = 128
"""Components; `shutil.rmtree` calls itself for each."""


def _escape(component: str) -> str:
    """One component of a key as a file name: injective, never special to a file system, readable where it can be.

    ``%`` marks what was escaped: control characters, ``%`` itself, undecodable bytes; an empty component is a bare
    ``%``, ``.`` and ``..`` are ``%2E`` and ``%2E%2E``. A name over 255 bytes keeps its beginning and ends in ``%~`` and
    a hash, which no other escape yields.
    """
    if component == "":
        return "%"
    if component in (".", ".."):
        return component.replace(".", "%2E")
    if component.isprintable() and "%" not in component and "/" not in component:
        return component
    return "".join(c if c.isprintable() and c not in "%/" else _percent(c) for c in component)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _hash_name(text: str) -> str:
    return "%~" + name_hash_hex(text.encode("utf-8", "surrogatepass"))


def component_name(component: str) -> str:
    """The file name that stands for one component of a key: injective, at most 255 bytes."""
    name = _escape(component)
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # the encoding of this process's locale lacks a letter
        name = "".join(c if c.isascii() else _percent(c) for c in name)
        encoded = name.encode("ascii")
    if len(encoded) <= _MAX_NAME_BYTES:
        return name
    suffix = _hash_name(component)
    return encoded[: _MAX_NAME_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix


def view_path(tree: str, origin: str, bucket: str, key: str) -> str:
    """Where the view of ``<bucket>/<key>`` of *origin* lies in *tree*; different keys never share a path.

    All objects of an origin have a bucket, or none has. A key whose path would be longer than systems take, or deeper
    than programs that walk trees do, is a hash and its last component.
    """
    parts = [origin, *([bucket] if bucket else []), *key.split("/")]
    names = [component_name(part) for part in parts]
    if len(names) > _MAX_DEPTH or sum(len(os.fsencode(name)) + 1 for name in names) > _MAX_VIEW_PATH:
        # No component is `%~` and a hash alone: a shortened one begins with 221 bytes of its own.
        names[-key.count("/") - 1 : -1] = [_hash_name(key)]
    return "/".join((tree, *names))
