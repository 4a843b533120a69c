"""What workers do until they are killed: read, write, append, delete, evict, fork, and look at all they were given."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import xxhash

import casstore
import pathapi.reading
import pathapi.transfer
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    NotCachedError,
    OverwriteNewerCloudError,
    StaleReadError,
)
from tortures.ledger import LedgerClient
from tortures.run import Run

KEYS: Final = tuple(f"data/{number}" for number in range(24))
"""Objects that everybody overwrites and deletes."""

LOGS: Final = tuple(f"log/{number}" for number in range(4))
"""Objects that are only appended to: no line may ever be lost."""

_SIZES: Final = (0, 1, 60, 4096, 5000, 70_000, 300_000)
_CONTENTS: Final = 24
_HOT: Final = (0, 1, 2, 3)
"""Contents that many objects get at once."""

_VIEWS: Final = 12


def scale_down() -> None:
    """Make what happens to objects of many megabytes happen to small ones: parallel parts, bodies left unread."""
    for module in (pathapi.transfer, pathapi.reading):
        vars(module)["PART"] = 64 << 10
    vars(pathapi.reading)["UNREAD_FROM"] = 4096


def content(number: int) -> bytes:
    """One of a few contents that many objects share."""
    chance = random.Random(number)
    return chance.randbytes(chance.choice(_SIZES))


class Worker:
    """One process's work, by a random sequence of its own."""

    def __init__(self, run: Run, seed: str) -> None:
        self._run = run
        self._random = random.Random(seed)
        habits: dict[str, Any] = {
            "local_cache_dir": run.store,
            "views": self._random.choice(("auto", "link", "copy")),
            "freshness": self._random.choice(("always", "always", "immutable", 0.01)),
        }
        self._is_fresh = habits["freshness"] == "always"
        self._clients = {
            origin: LedgerClient(ledger, origin.partition("@")[2], **habits) for origin, ledger in run.ledgers.items()
        }
        self._views: list[tuple[str, bytes]] = []

    def work(self, steps: int | None = None) -> None:
        """Do *steps* things, or go on until killed."""
        warnings.showwarning = self._warned  # type: ignore[assignment]
        doings: list[tuple[int, Callable[[], None]]] = [
            (10, self.read),
            (3, self.view),
            (4, self.overwrite),
            (3, self.append),
            (1, self.delete),
            (2, self.evict),
            (6, self.churn),
            (1, self.collect),
            (2, self.change),
            (1, self.inspect),
            (1, self.fork),
            (1, self.read_in_threads),
        ]
        weights, calls = zip(*doings, strict=True)
        done = 0
        while steps is None or done < steps:
            (call,) = self._random.choices(calls, weights)
            try:
                call()
                self.look_at_views()
            except Exception:  # noqa: BLE001 - whatever it is, it is a finding
                self._run.fail(call.__name__)
            done += 1

    def _warned(self, message: Warning | str, category: type[Warning], *_: object) -> None:
        if self._run.is_healthy and not issubclass(category, DeprecationWarning | ResourceWarning):
            self._run.violate(f"a warning in good health: {message}")

    def _pick(self, keys: tuple[str, ...] = (*KEYS, *LOGS)) -> tuple[str, str, Any]:
        origin, key = self._random.choice(list(self._clients)), self._random.choice(keys)
        return origin, key, self._clients[origin].CloudPath(f"ledger://bucket/{key}")

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        self._read(*self._pick(), self._random.choice(("open", "bytes", "offline")))

    def _read(self, origin: str, key: str, path: Any, way: str) -> None:
        ledger = self._run.ledgers[origin]
        before = ledger.latest(key) if self._is_fresh and way != "offline" else 0
        found: bytes | None = None
        try:
            if way == "open":
                with path.open("rb") as file:
                    found = file.read()
            else:
                found = path.read_bytes(freshness="offline" if way == "offline" else None)
        except CloudPathFileNotFoundError:
            pass
        except (NotCachedError, StaleReadError):
            return
        after = ledger.latest(key)
        if not any(ledger.content(key, number) == found for number in range(after, before - 1, -1)):
            said = "nothing" if found is None else f"{len(found)} bytes, {hashlib.sha256(found).hexdigest()[:16]},"
            self._run.violate(
                f"{path} of {origin} read as {said} by {way}: no version from {before} to {after} is that"
            )
        self._count("reads")

    def read_in_threads(self) -> None:
        picked = [self._pick() for _ in range(3)]
        threads = [threading.Thread(target=self._read_quietly, args=args) for args in picked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _read_quietly(self, origin: str, key: str, path: Any) -> None:
        try:
            self._read(origin, key, path, "open")
        except Exception:  # noqa: BLE001 - as in `work`
            self._run.fail("read in a thread")

    def view(self) -> None:
        origin, key, path = self._pick()
        ledger = self._run.ledgers[origin]
        before = ledger.latest(key) if self._is_fresh else 0
        try:
            local = path.fspath
        except (CloudPathFileNotFoundError, StaleReadError):
            return
        with open(local, "rb") as file:
            found = file.read()
        if not any(ledger.content(key, number) == found for number in range(ledger.latest(key), before - 1, -1)):
            self._run.violate(f"the view of {path} of {origin} has {len(found)} bytes of no version since {before}")
        if len(self._views) < _VIEWS:
            self._views.append((local, found))
        self._count("views")

    def look_at_views(self) -> None:
        """Every path that this process was given has the bytes that it had."""
        for local, bytes_then in self._views:
            with open(local, "rb") as file:
                if file.read() != bytes_then:
                    self._run.violate(f"the view {local} changed")

    # --- writing -----------------------------------------------------------------------------------------------------

    def _new_content(self) -> bytes:
        if self._random.random() < 0.6:
            return content(self._random.randrange(_CONTENTS))
        return os.urandom(16) + content(self._random.randrange(_CONTENTS))

    def overwrite(self) -> None:
        origin, key, path = self._pick(KEYS)
        data = self._new_content()
        try:
            path.write_bytes(data)
        except (OverwriteNewerCloudError, CloudPathFileExistsError):
            self._count("conflicts")
            return
        self._run.acknowledge(origin, key, hashlib.sha256(data).hexdigest())
        self._count("writes")

    def append(self) -> None:
        origin, key, path = self._pick(LOGS)
        token = os.urandom(8).hex()
        try:
            with path.open("ab") as file:
                file.write(token.encode() + b"\n")
        except (OverwriteNewerCloudError, CloudPathFileExistsError, StaleReadError):
            self._count("conflicts")
            return
        self._run.acknowledge(origin, key, token)
        self._count("appends")

    def delete(self) -> None:
        _, _, path = self._pick(KEYS)
        try:
            path.unlink(missing_ok=True)
        except OverwriteNewerCloudError:
            self._count("conflicts")
        self._count("deletes")

    def change(self) -> None:
        """Somebody else, on another machine, writes an object."""
        origin, key, _ = self._pick(KEYS)
        self._run.ledgers[origin].put(key, self._new_content())
        self._count("changes")

    # --- the rest ----------------------------------------------------------------------------------------------------

    def evict(self) -> None:
        share = self._random.choice((0.05, 0.05, 0.05, 0.3, 1.0))
        self._cache().evict(lambda _: self._random.random() < share)
        self._count("evictions")

    def collect(self) -> None:
        cache = self._cache()
        cache.execute(cache.plan(max_size=self._random.choice((0, 200_000, 1_000_000))))
        self._count("collections")

    def churn(self) -> None:
        """Objects get one of a few contents, are read, and the users of one of these are evicted: by several processes
        at once, so that blobs are swept while others, who have just found them, have not yet committed.
        """
        cache = self._cache()
        hot = {xxhash.xxh3_128_digest(content(number)) for number in _HOT}
        for _ in range(4):
            origin, key, path = self._pick(KEYS)
            self._run.ledgers[origin].put(key, content(self._random.choice(_HOT)))
            self._read(origin, key, path, "open")
            doomed = self._random.choice(sorted(hot))
            cache.evict(partial(_has_digest, doomed))
        self._count("evictions")

    def inspect(self) -> None:
        cache = self._cache()
        for entry in cache.entries():
            if entry.key.origin not in self._clients:
                self._run.violate(f"an entry of {entry.key.origin}")
        damage = {name: count for name, count in cache.counts().items() if name.startswith("damaged")}
        if damage and self._run.is_healthy:
            self._run.violate(f"nothing damages this store, and it counted {damage}")

    def _cache(self) -> casstore.Cache:
        cache: casstore.Cache = next(iter(self._clients.values())).cache
        return cache

    def fork(self) -> None:
        """A child that goes on reading and writing for a while; nobody waits for it."""
        self._count("forks")
        pid = os.fork()
        if pid == 0:
            try:
                self._random.seed(os.getpid())
                self._run.slot += 1
                for call in (self.read, self.look_at_views, self.view, self.overwrite, self.evict, self.read):
                    call()
            except Exception:  # noqa: BLE001 - as in `work`
                self._run.fail("in a forked child")
            finally:
                os._exit(0)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return

    def _count(self, what: str) -> None:
        self._run.tally.add(self._run.slot, what)


def _has_digest(digest: bytes, entry: casstore.Entry) -> bool:
    return entry.digest.value == digest


def run_worker(run: Run, seed: str, steps: int | None = None) -> None:
    """The whole life of a worker process; does not return."""
    try:
        os.setpgid(0, 0)
        Worker(run, seed).work(steps)
    except BaseException:  # noqa: BLE001 - as in `work`
        run.fail("a worker")
    finally:
        sys.stderr.flush()
        os._exit(0)
