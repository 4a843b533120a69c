"""The writing half of a worker: writes of every kind, with the network away or not, and what becomes of those that
could not be sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import xxhash

import casstore
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    OverwriteNewerLocalError,
    PendingWriteError,
    StaleReadError,
)
from torture_rigs.oracle.pending_reader import directory_of, waiting_of
from torture_rigs.oracle.recording_bucket import LedgerClient
from torture_rigs.run_state import Run

KEYS: Final = tuple(f"data/{number}" for number in range(24))
"""Objects that all workers overwrite and delete."""

LOGS: Final = tuple(f"log/{number}" for number in range(4))
"""Objects that are only appended to: no line may ever be lost."""

CONTENTS: Final = 24
REFUSALS: Final = (PendingWriteError, OverwriteNewerLocalError)
"""Errors of an earlier write that blocks the URI."""

_CONFLICTS: Final = (OverwriteNewerCloudError, CloudPathFileExistsError)
_SIZES: Final = (0, 1, 60, 4096, 5000, 70_000, 300_000)
_KEPT: Final = re.compile(r"kept at \S*/pending/([0-9a-f]{32})/([0-9a-f]{16}-[0-9a-f]{16})\.data")
_ABSENCES: Final = (0.0, 0.0, 0.02, 0.1, 0.5)
"""How likely, in one life, it is for a call that the network is away."""


def content(number: int) -> bytes:
    """One of a few contents that many objects share."""
    chance = random.Random(number)
    return chance.randbytes(chance.choice(_SIZES))


class Writer:
    """A worker as far as it writes, by a random sequence of its own."""

    def __init__(self, run: Run, seed: str) -> None:
        self._run = run
        self._random = random.Random(seed)
        random.seed(f"{seed} network")  # what the ledgers use: else all forks of the rig would have the same
        habits: dict[str, Any] = {
            "local_cache_dir": run.store,
            "views": self._random.choice(("auto", "link", "copy")),
            "freshness": self._random.choice(("always", "always", "immutable", 0.01)),
        }
        self._is_fresh = habits["freshness"] == "always"
        absence = self._random.choice(_ABSENCES)
        for ledger in run.ledgers.values():
            ledger.absence = absence
        self._clients = {
            origin: LedgerClient(ledger, origin.partition("@")[2], **habits) for origin, ledger in run.ledgers.items()
        }
        self._left: set[tuple[str, str]] = set()

    def _pick(self, keys: tuple[str, ...] = (*KEYS, *LOGS)) -> tuple[str, str, Any]:
        origin, key = self._random.choice(list(self._clients)), self._random.choice(keys)
        return origin, key, self._path(origin, key)

    def _path(self, origin: str, key: str) -> Any:
        return self._clients[origin].CloudPath(f"ledger://bucket/{key}")

    def _cache(self) -> casstore.Cache:
        cache: casstore.Cache = next(iter(self._clients.values())).cache
        return cache

    def _count(self, what: str) -> None:
        self._run.tally.add(self._run.slot, what)

    def new_content(self) -> bytes:
        """Return bytes that other objects may have, or unique ones."""
        if self._random.random() < 0.6:
            return content(self._random.randrange(CONTENTS))
        return os.urandom(16) + content(self._random.randrange(CONTENTS))

    # --- writing -----------------------------------------------------------------------------------------------------

    def overwrite(self) -> None:
        """Sometimes over whatever is there."""
        origin, key, _ = self._pick(KEYS)
        force = self._random.random() < 0.15
        if self._write(origin, key, "wb", data := self.new_content(), _digest(data), force=force):
            self._count("forced" if force else "writes")

    def create(self) -> None:
        """Write what must not exist yet."""
        origin, key, _ = self._pick(KEYS)
        if self._write(origin, key, "xb", data := self.new_content(), _digest(data)):
            self._count("creations")

    def append(self) -> None:
        """A line of its own to a log."""
        origin, key, _ = self._pick(LOGS)
        self._append(origin, key, os.urandom(8).hex())

    def _append(self, origin: str, key: str, token: str) -> None:
        if self._write(origin, key, "ab", token.encode() + b"\n", token):
            self._count("appends")

    def _write(self, origin: str, key: str, mode: str, data: bytes, token: str, *, force: bool = False) -> bool:
        """Whether the cloud took it. What `close` says is what the checker holds it to."""
        try:
            file = self._path(origin, key).open(mode, force_overwrite_to_cloud=force or None)
        except REFUSALS:
            self.refused(origin, key)
            return False
        except CloudUnavailableError:
            self._count("absences")
            return False
        except StaleReadError:
            self._count("conflicts")
            return False
        file.write(data)
        try:
            file.close()
        except (*_CONFLICTS, CloudUnavailableError) as error:
            kept = _KEPT.search(str(error))
            if kept is not None:
                self._run.promise(origin, key, token, kept[2])
                self._count("pending")
            elif not isinstance(error, CloudPathFileExistsError):
                self._run.violate(f"close of {key} at {origin} raised, and did not say where its bytes are: {error!r}")
            self._count("absences" if isinstance(error, CloudUnavailableError) else "conflicts")
            return False
        self._run.acknowledge(origin, key, token)
        return True

    def leave_open(self) -> None:
        """Write a file and drop it on the floor."""
        origin, key, path = self._pick(KEYS)
        data = self.new_content()
        try:
            file = path.open("wb")
        except REFUSALS:
            self.refused(origin, key)
            return
        except CloudUnavailableError:
            self._count("absences")
            return
        file.write(data)
        self._left.add((directory_of(f"ledger://bucket/{key}", origin), _digest(data)))
        del file
        self._count("left open")
        if self._random.random() < 0.5:
            # Perhaps while what was left is being kept, by another thread.
            self._write(origin, key, "wb", data := self.new_content(), _digest(data))

    def edited(self, origin: str, key: str, path: Any, local: str) -> None:
        """By rename: in place, root could write into a blob that others are reading."""
        data = os.urandom(16) + self.new_content()
        with open(self._run.made, "wb") as file:
            file.write(data)
        edits = self._run.edits_of(local)
        for earlier in waiting_of(self._run.store, str(path), origin):
            if earlier.source == local:
                self._run.dropping(earlier.name)  # an edit of what was edited already takes its place
        os.replace(self._run.made, local)
        self._run.note_edit(local)
        outcome, is_refused = "gave no error", False
        try:
            path.read_bytes()
        except REFUSALS:
            outcome, is_refused = "was refused", True
        except (CloudPathFileNotFoundError, CloudUnavailableError, StaleReadError) as error:
            outcome = f"gave {error!r}"
        # Looked at from outside: `path.pending` would make the record that the read may have failed to make.
        waiting = waiting_of(self._run.store, str(path), origin)
        write = next((write for write in waiting if write.data == data), None)
        if write is not None:
            self._run.promise(origin, key, _digest(data), write.name)
            self._count("edits")
            if is_refused or write.state == "incomplete":  # a forced write has set it aside
                return
        # As soon as the record is there, others may push it or discard it: before the read looks at what is pending.
        is_decided = self._run.is_decided(origin, key, f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}")
        if not is_decided and not self._is_replaced(local, data, edits):
            outcome += ": the edit is " + ("nowhere" if write is None else write.state)
            self._run.violate(f"{path} of {origin} was edited at {local}, and reading it {outcome}")

    def _is_replaced(self, local: str, data: bytes, edits: int) -> bool:
        """Whether another worker has edited the same file since: the path is the same for all."""
        with contextlib.suppress(FileNotFoundError), open(local, "rb") as file:
            if file.read() != data:
                return True
        return self._run.edits_of(local) > edits + 1

    def hear(self) -> None:
        """Have what the API says of files that were left to be collected taken for a promise."""
        logger = logging.getLogger("pathapi.writing.unclosed")
        logger.propagate = False
        logger.addHandler(_Listener(self))

    def left(self, message: str) -> None:
        """The API says what became of a file that was left."""
        kept = _KEPT.search(message)
        if kept is None:
            if "nothing was written" not in message:
                self._run.violate(message)
            return
        for origin, key in ((origin, key) for origin in self._clients for key in KEYS):
            if directory_of(f"ledger://bucket/{key}", origin) == kept[1]:
                with contextlib.suppress(FileNotFoundError):  # resolved since
                    with open(f"{self._run.store}/pending/{kept[1]}/{kept[2]}.data", "rb") as file:
                        token = _digest(file.read())
                    if (kept[1], token) not in self._left:
                        self._run.violate(f"{key} at {origin}: kept, and never left like that: {message}")
                    self._run.promise(origin, key, token, kept[2])

    def delete(self) -> None:
        """If it is the version seen."""
        origin, key, path = self._pick(KEYS)
        try:
            path.unlink(missing_ok=True)
        except REFUSALS:
            self.refused(origin, key)
        except OverwriteNewerCloudError:
            self._count("conflicts")
        except CloudUnavailableError:
            self._count("absences")
        self._count("deletes")

    def change(self) -> None:
        """Write an object as another machine."""
        origin, key, _ = self._pick(KEYS)
        self._run.ledgers[origin].put(key, self.new_content())
        self._count("changes")

    # --- what is pending ---------------------------------------------------------------------------------------------

    def refused(self, origin: str, key: str) -> None:
        """Sometimes resolve the pending write that blocks the URI."""
        self._count("refusals")
        if self._random.random() < 0.3:
            self._settle_one(self._path(origin, key).pending)

    def settle(self) -> None:
        """Resolve one of all pending writes."""
        self._settle_one(self._cache().pending.all())

    def _settle_one(self, pending: Iterable[casstore.PendingWrite]) -> None:
        waiting = list(pending)
        if not waiting:
            return
        write = self._random.choice(waiting)
        way = self._random.choice((self._push, self._push, self._push, self._drop, self._save))
        if write.state is casstore.PendingState.UPLOADING:
            way = self._push  # while its process lives, it must not be discarded
        self._decide(write, way)

    def _decide(self, write: casstore.PendingWrite, way: Callable[[str, str, casstore.PendingWrite], None]) -> None:
        origin, key = write.key.origin, write.uri.split("/", 3)[3]
        self._run.deciding(origin, key, str(write.digest))
        # Another process has resolved it since; without locks, even during this call.
        with contextlib.suppress(FileNotFoundError):
            way(origin, key, write)

    def _push(self, origin: str, key: str, write: casstore.PendingWrite) -> None:
        try:
            with open(self._cache().pending.open(write), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return
        token = data.decode("ascii").splitlines()[-1] if key in LOGS else _digest(data)
        force = key not in LOGS and self._random.random() < 0.3
        try:
            self._path(origin, key).push(write, force_overwrite_to_cloud=force or None)
        except REFUSALS:
            self._count("refusals")  # another process is at it, or the network is away
        except (*_CONFLICTS, CloudUnavailableError) as error:
            kept = _KEPT.search(str(error))
            if kept is None or kept[2] != write.name:
                self._run.violate(f"push of {key} at {origin} raised, and did not say where its bytes are: {error!r}")
            self._run.promise(origin, key, token, write.name)
            if isinstance(error, CloudUnavailableError):
                self._count("absences")
                return
            self._count("conflicts")
            if key in LOGS:
                # What a user does: take what is there, and add the line to it.
                self._drop(origin, key, write)
                self._append(origin, key, token)
        else:
            self._run.acknowledge(origin, key, token)
            self._count("pushes")

    def _drop(self, origin: str, key: str, write: casstore.PendingWrite) -> None:
        self._run.dropping(write.name)
        dropped = [other.name for other in self._path(origin, key).drop(write)]
        if dropped != [write.name]:
            self._run.violate(f"drop of {write.name} discarded {dropped}")
        self._run.dropped(write.name)
        self._count("drops")

    def _save(self, origin: str, key: str, write: casstore.PendingWrite) -> None:
        target = self._run.saved(write.name)
        if not os.path.isdir(directory := os.path.dirname(target)):
            os.makedirs(directory, exist_ok=True)
            _sync(os.path.dirname(directory))
        self._run.saving(write.name)
        self._path(origin, key).save_pending(target, write)
        self._run.dropped(write.name)
        self._count("saves")

    def read_pending(self) -> None:
        """What this machine wrote last and has not sent."""
        waiting = list(self._cache().pending.all())
        if not waiting:
            return
        write = self._random.choice(waiting)
        origin, key = write.key.origin, write.uri.split("/", 3)[3]
        path, ledger = self._path(origin, key), self._run.ledgers[origin]
        before = path.pending
        try:
            found = path.read_bytes(read_pending=True)
        except (*REFUSALS, CloudUnavailableError, StaleReadError, CloudPathFileNotFoundError):
            return
        known = {str(write.digest) for write in (*before, *path.pending)}
        if f"xxh3-128:{xxhash.xxh3_128_hexdigest(found)}" in known:
            return
        if before == path.pending and not any(
            ledger.content(key, number) == found for number in range(ledger.latest(key), 0, -1)
        ):
            self._run.violate(f"{path} of {origin} read with read_pending as {len(found)} bytes that are nobody's")


class _Listener(logging.Handler):
    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.left(record.getMessage())


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
