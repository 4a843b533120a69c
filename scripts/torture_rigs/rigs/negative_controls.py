"""Negative controls: disable a protection in the workers. A rig that does not find the damage proves nothing."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Callable
from typing import Any, Final

import casstore.eviction.clear
import casstore.eviction.collector
import casstore.eviction.inventory
import casstore.fs.copying
import casstore.fs.files
import casstore.index.page_check
import casstore.local.paths
import casstore.opening
import casstore.pending.store
import casstore.root
import pathapi.writing.commit
import pathapi.writing.pending
from casstore.blobs.blob_store import BlobStore
from casstore.blobs.staging import AddedBlob, Inode
from casstore.format.digest import Digest
from casstore.format.keys import USER
from casstore.index.transactions import Txn
from casstore.index.updates import PublishEntry
from pathapi.writing.conditional_put import conditional_put


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"the protection {name} is elsewhere now"
    setattr(owner, name, value)


def _publish_unchecked() -> None:
    """An entry is put without a look, inside the transaction, at what its blob's name means by then."""
    apply = PublishEntry.apply

    class _Trusting:
        def __init__(self, added: AddedBlob) -> None:
            self._inode = added.inode

        def inode(self, digest: Digest) -> Inode:
            return self._inode

    def trusting(self: PublishEntry, txn: Txn, _: BlobStore, generation: int) -> bool:
        return apply(self, txn, _Trusting(self.added), generation)  # type: ignore[arg-type]

    _replace(PublishEntry, "apply", trusting)


def _sweep_unchecked() -> None:
    """A blob is swept without a look, inside the transaction, at who uses it by then."""
    scan, has = Txn.scan, Txn.has

    def scan_no_users(self: Txn, prefix: bytes, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return [] if prefix[:1] == USER else scan(self, prefix, start, limit)

    _replace(Txn, "scan", scan_no_users)
    _replace(Txn, "has", lambda self, prefix: prefix[:1] != USER and has(self, prefix))


def _every_place_is(place: int) -> None:
    """The tag of boot and mount is the same always, as if there were no power cuts; 0 calls every blob synced."""
    open_root = casstore.root.open_root

    def open_there(*args: Any, **kwargs: Any) -> Any:
        return dataclasses.replace(open_root(*args, **kwargs), boot_mount=place)

    for module in (casstore.root, casstore.opening):
        _replace(module, "open_root", open_there)


def _map_unchecked() -> None:
    """The index's file is mapped without a look at its size."""
    _replace(casstore.index.page_check, "check", lambda *_, **__: None)


def _pins_unseen() -> None:
    """Evictions and clearings ignore pins."""
    for module in (casstore.eviction.collector, casstore.eviction.clear):
        _replace(module, "is_pinned", lambda *_: False)
    _replace(casstore.eviction.inventory, "pinned_names", lambda _: frozenset())


class _Unsynced:
    """`casstore.fs.files` without any sync."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def sync(self, _descriptor: int) -> None:
        pass

    sync_directory = sync

    def create_synced(self, path: str, data: bytes, *, first: Callable[[], object]) -> None:
        self._named(path, data, lambda temporary: (first(), self._files.link(temporary, path)))

    def replace_synced(self, path: str, data: bytes) -> None:
        self._named(path, data, lambda temporary: self._files.rename(temporary, path))

    def _named(self, path: str, data: bytes, name: Callable[[str], object]) -> None:
        descriptor, temporary = self._files.open_named(os.path.dirname(path))
        try:
            self._files.write_all(descriptor, data)
            name(temporary)
        finally:
            os.close(descriptor)
            self._files.unlink_quietly(temporary)


def _pending_unsynced() -> None:
    """A pending write is promised before it is on the disk."""
    _replace(casstore.pending.store, "files", _Unsynced(casstore.fs.files))


def _pending_unrecorded() -> None:
    """Nothing is recorded before the upload."""
    _replace(pathapi.writing.commit, "_record", lambda *_: (None, None))


def _discard_early() -> None:
    """The pending write goes before its upload, not after."""

    def discard_and_send(target: Any, staging: Any, base: Any, **how: Any) -> Any:
        pending = target.client.cache.pending
        for write in pending.of(target.store_key):
            if write.state == "uploading":
                pending.discard(write)
        return conditional_put(target, staging, base, **how)

    for module in (pathapi.writing.commit, pathapi.writing.pending):
        _replace(module, "conditional_put", discard_and_send)


def _save_unsynced() -> None:
    """A pending write goes although the file that it was saved to may not be on the disk."""

    class _Hasty(types.SimpleNamespace):
        copy_out = staticmethod(lambda source, target, **_: casstore.copy_out(source, target))

    _replace(casstore.pending.store, "copying", _Hasty(**{**vars(casstore.fs.copying), "copy_out": _Hasty.copy_out}))


def _edits_unseen() -> None:
    """A use of a URI does not look at its local files."""
    _replace(casstore.local.paths.LocalPaths, "has_changes", lambda *_: False)


_CONTROLS: Final[dict[str, Callable[[], None]]] = {
    "publish-unchecked": _publish_unchecked,
    "sweep-unchecked": _sweep_unchecked,
    "place-unchecked": lambda: _every_place_is(1),
    "index-unchecked": _map_unchecked,
    "pins-unseen": _pins_unseen,
    "synced-unsynced": lambda: _every_place_is(0),
    "pending-unsynced": _pending_unsynced,
    "pending-unrecorded": _pending_unrecorded,
    "discard-early": _discard_early,
    "save-unsynced": _save_unsynced,
    "edits-unseen": _edits_unseen,
}

NAMES: Final = tuple(_CONTROLS)


def weaken(control: str | None) -> None:
    """Disable the protection of that name in this process."""
    if control is not None:
        _CONTROLS[control]()
