"""What workers do until they are killed: read, write (see `torture_rigs.workload.writes`), evict, fork, and check
every path that they were given.
"""

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
import pathapi.reading.download
import pathapi.reading.reader
from pathapi.exceptions import CloudPathFileNotFoundError, CloudUnavailableError, NotCachedError, StaleReadError
from torture_rigs.run_state import Run
from torture_rigs.workload.writes import KEYS, REFUSALS, Writer, content

_HOT: Final = (0, 1, 2, 3)
"""Contents that many objects get at once."""

_VIEWS: Final = 12


def scale_down() -> None:
    """Make what happens to objects of many megabytes happen to small ones: parallel parts, bodies left unread."""
    for module in (pathapi.reading.download, pathapi.reading.reader):
        vars(module)["PART"] = 64 << 10
    vars(pathapi.reading.reader)["UNREAD_FROM"] = 4096


class Worker(Writer):
    """One process's work."""

    def __init__(self, run: Run, seed: str) -> None:
        super().__init__(run, seed)
        self._views: list[tuple[Any, str, bytes]] = []

    def work(self, steps: int | None = None) -> None:
        """Do *steps* things, or go on until killed."""
        warnings.showwarning = self._warned  # type: ignore[assignment]
        self.hear()
        # Half of all lives are a writer's: else most of a short one would go by with reading.
        much = self._random.choice((1, 4))
        doings: list[tuple[int, Callable[[], None]]] = [
            (10, self.read),
            (3, self.view),
            (4 * much, self.overwrite),
            (3 * much, self.append),
            (1 * much, self.create),
            (1 * much, self.leave_open),
            (1 * much, self.edit),
            (3 * much, self.settle),
            (1 * much, self.read_pending),
            (1, self.read_by_force),
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
        if "push() uploads it" in str(message):
            return  # an edit that was set aside
        if self._run.is_healthy and not issubclass(category, DeprecationWarning | ResourceWarning):
            self._run.violate(f"a warning in good health: {message}")

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        self._read(*self._pick(), self._random.choice(("open", "bytes", "offline")))

    def read_by_force(self) -> None:
        """What the cloud has, whatever is pending."""
        self._read(*self._pick(KEYS), "force")

    def _read(self, origin: str, key: str, path: Any, way: str) -> None:
        ledger = self._run.ledgers[origin]
        before = ledger.latest(key) if way == "force" or (self._is_fresh and way != "offline") else 0
        found: bytes | None = None
        try:
            if way == "open":
                with path.open("rb") as file:
                    found = file.read()
            elif way == "force":
                found = path.read_bytes(force_overwrite_from_cloud=True)
            else:
                found = path.read_bytes(freshness="offline" if way == "offline" else None)
        except CloudPathFileNotFoundError:
            pass
        except REFUSALS as error:
            if way == "force" and "cannot be reached to check" not in str(error):
                raise
            self.refused(origin, key)
            return
        except CloudUnavailableError:
            self._count("absences")
            return
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
        except REFUSALS:
            self.refused(origin, key)
            return
        except CloudUnavailableError:
            self._count("absences")
            return
        try:
            with open(local, "rb") as file:
                found = file.read()
        except FileNotFoundError:
            return  # there is no object
        self._count("views")
        if key in KEYS:
            return  # others edit it there
        if not any(ledger.content(key, number) == found for number in range(ledger.latest(key), before - 1, -1)):
            self._run.violate(f"the view of {path} of {origin} has {len(found)} bytes of no version since {before}")
        if len(self._views) < _VIEWS:
            self._views.append((path, local, found))  # its CloudPath is alive, so it stays

    def edit(self) -> None:
        """Replace a local copy by another file; the next use of the URI must find it."""
        origin, key, path = self._pick(KEYS)
        try:
            local = path.fspath
        except (CloudPathFileNotFoundError, CloudUnavailableError, StaleReadError, *REFUSALS):
            return
        if not os.path.exists(local):
            return
        self._views = [view for view in self._views if view[1] != local]
        self.edited(origin, key, path, local)

    def look_at_views(self) -> None:
        """Every path that this process was given has the bytes that it had."""
        for _, local, bytes_then in self._views:
            with open(local, "rb") as file:
                if file.read() != bytes_then:
                    self._run.violate(f"the view {local} changed")

    # --- the rest ----------------------------------------------------------------------------------------------------

    def evict(self) -> None:
        share = self._random.choice((0.05, 0.05, 0.05, 0.3, 1.0))
        self._cache().evict(lambda _: self._random.random() < share)
        self._count("evictions")

    def collect(self) -> None:
        cache = self._cache()
        size = self._random.choice((0, 200_000, 1_000_000, None))
        if size is None:
            cache.clear()
        else:
            cache.execute(cache.plan(max_size=size))
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

    def fork(self) -> None:
        """Fork a child that reads and writes for a while; its parent does not wait for it."""
        self._count("forks")
        pid = os.fork()
        if pid == 0:
            try:
                self._random.seed(os.getpid())
                random.seed(os.getpid())
                self._left.clear()
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
