"""What must hold between the buckets' histories and what the store's users were told."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import casstore
from pathapi.exceptions import CloudPathFileNotFoundError, NotCachedError
from tortures.ledger import Ledger, LedgerClient
from tortures.run import Run
from tortures.workload import LOGS

READ_SECONDS: Final = 60
"""How long a fresh process may take to read everything; a bound against hanging."""


class Writes:
    """Follows the acknowledged writes of a run, looking at each version once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], set[str]] = {}
        self._last: dict[tuple[str, str], bytes] = {}
        self._judged = 0

    def check(self) -> Iterator[str]:
        """Sentences about what was lost."""
        for origin, ledger in self._run.ledgers.items():
            for key in ledger.keys():  # noqa: SIM118 (no mapping)
                yield from self._follow(origin, key)
        acknowledged = self._run.acknowledged()
        for origin, key, token in acknowledged[self._judged :]:
            if token not in self._held.get((origin, key), ()):
                yield f"an acknowledged write of {key} at {origin} is nowhere: {token}"
        self._judged = len(acknowledged)

    def _follow(self, origin: str, key: str) -> Iterator[str]:
        ledger, name = self._run.ledgers[origin], (origin, key)
        held = self._held.setdefault(name, set())
        latest = ledger.latest(key)
        for number in range(self._seen.get(name, 0) + 1, latest + 1):
            data = ledger.content(key, number)
            if key not in LOGS:
                if data is not None:
                    held.add(hashlib.sha256(data).hexdigest())
                continue
            # Only ever appended to, so each version begins with the one before: who overwrote one that he had not seen?
            if data is None or not data.startswith(self._last.get(name, b"")):
                yield f"version {number} of {key} at {origin} lost lines of the one before"
            self._last[name] = data or b""
            held.update((data or b"").decode("ascii", "replace").splitlines())
        self._seen[name] = latest


def read_everything(run: Run, *, is_strict: bool) -> list[str]:
    """Have a fresh process read every object through the public API; what it found wrong.

    *is_strict*: nothing has damaged the store.
    """
    return read_of(lambda: read_all(run.store, run.ledgers, is_strict=is_strict))


def read_of(work: Callable[[], Iterable[str]]) -> list[str]:
    """What *work* gives in a forked child; a signal, a hang and an exception are findings too."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _answer(writing, work)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    found = [line for line in text.split("\0") if line]
    if status != 0:
        found.append(f"a fresh process that read everything ended with {status}")
    return found


def _answer(writing: int, work: Callable[[], Iterable[str]]) -> None:
    import signal
    import traceback

    status = 1
    signal.alarm(READ_SECONDS)  # its default action is to end the process, which is then a finding
    try:
        found = list(work())
        status = 0
    except BaseException:  # noqa: BLE001 - a finding
        found = [traceback.format_exc()]
    try:
        with open(writing, "w", encoding="utf-8", errors="backslashreplace") as pipe:
            pipe.write("\0".join(found))
    finally:
        sys.stderr.flush()
        os._exit(status)


def read_all(root: str, ledgers: Mapping[str, Ledger], *, is_strict: bool) -> Iterator[str]:
    """Sentences about objects that do not read as what their bucket holds; to be called in a process of its own."""
    said: list[str] = []
    warnings.showwarning = lambda message, *_: said.append(str(message))
    for origin, ledger in ledgers.items():
        client = LedgerClient(ledger, origin.partition("@")[2], local_cache_dir=root)
        for key in ledger.keys():  # noqa: SIM118 (no mapping)
            path, number = client.CloudPath(f"ledger://bucket/{key}"), ledger.latest(key)
            # What was deleted in the bucket may still be read offline, as it last was.
            after = 1 if ledger.content(key, number) is None else number
            for way, least in (("offline", 1), ("always", number), ("offline", after)):
                try:
                    found: bytes | None = path.read_bytes(freshness=way)
                except NotCachedError:
                    continue
                except CloudPathFileNotFoundError:
                    found = None
                if not any(ledger.content(key, one) == found for one in range(number, least - 1, -1)):
                    yield f"{path} of {origin} read {way} is none of versions {least} to {number}"
    cache = casstore.open(root)
    cache.close()
    counts = {name: count for name, count in cache.counts().items() if name.startswith("damaged") and count}
    if is_strict and (counts or said):
        yield f"nothing damages this store, and a fresh process counted {counts} and said {said}"
