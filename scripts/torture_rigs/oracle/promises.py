"""The guarantees of writes: a comparison of the buckets' histories with the results that users saw."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import casstore
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    NotCachedError,
    OverwriteNewerCloudError,
    OverwriteNewerLocalError,
    PendingWriteError,
)
from pathapi.freshness import FreshnessArg
from torture_rigs.oracle.pending_reader import Waiting, all_waiting, waiting_of
from torture_rigs.oracle.recording_bucket import Ledger, LedgerClient
from torture_rigs.run_state import Run
from torture_rigs.workload.writes import LOGS

READ_SECONDS: Final = 60
"""Seconds until a process that reads everything counts as hung."""


class Writes:
    """Follows what workers said of their writes, looking at each version and each saying once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], set[str]] = {}
        self._last: dict[tuple[str, str], bytes] = {}
        self._judged = 0
        self._promised: dict[str, tuple[str, str, str]] = {}
        """By the name of the pending write: origin, key and token."""
        self._given_up: set[str] = set()
        self._gone: set[str] = set()
        self._saved: set[str] = set()
        self.kept = 0
        """How often promised bytes were found pending, or saved."""

    def check(self) -> Iterator[str]:
        """Messages about lost bytes."""
        for origin, ledger in self._run.ledgers.items():
            for key in ledger.keys():  # noqa: SIM118 (no mapping)
                yield from self._follow(origin, key)
        said = self._run.said()
        for kind, *rest in said[self._judged :]:
            if kind == "done":
                origin, key, token = rest
                if token not in self._held.get((origin, key), ()):
                    yield f"an acknowledged write of {key} at {origin} is nowhere: {token}"
            elif kind == "pending":
                origin, key, token, name = rest
                self._promised[name] = origin, key, token
            else:
                {"dropping": self._given_up, "dropped": self._gone, "saving": self._saved}[kind].add(rest[0])
        self._judged = len(said)
        waiting = {write.name: write for write in all_waiting(self._run.store)}
        for name in self._gone & waiting.keys():
            yield f"a pending write that had been dealt with is back: {name} of {waiting[name].uri}"
        for name in list(self._promised):
            yield from self._keep_promise(name, waiting.get(name))

    def _keep_promise(self, name: str, waiting: Waiting | None) -> Iterator[str]:
        origin, key, token = self._promised[name]
        if name in self._given_up or token in self._held.get((origin, key), ()):
            del self._promised[name]
        elif waiting is not None and (waiting.origin, waiting.key) == (origin, key) and _has(key, waiting.data, token):
            self.kept += 1
        elif name in self._saved and _has(key, _bytes_of(self._run.saved(name)), token):
            self.kept += 1
            del self._promised[name]
        else:
            yield f"a write of {key} at {origin} that was said to be pending as {name} is nowhere: {token}"
            del self._promised[name]

    def forget(self) -> None:
        """Record that the store and its pending writes are about to be removed."""
        self._promised.clear()

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


def _has(key: str, data: bytes | None, token: str) -> bool:
    if data is None:
        return False
    if key in LOGS:
        return token in data.decode("ascii", "replace").splitlines()
    return hashlib.sha256(data).hexdigest() == token


def _bytes_of(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_everything(run: Run, *, is_strict: bool, settles: bool, locks_exclude: bool = True) -> list[str]:
    """Have a fresh process read every object through the public API; what it found wrong.

    *is_strict*: nothing has damaged the store. *settles*: it then pushes what is pending, and discards the rest.
    """

    def work() -> Iterator[str]:
        yield from read_all(run.store, run.ledgers, is_strict=is_strict, locks_exclude=locks_exclude)
        if settles:
            yield from settle_all(run.store, run.ledgers, run.dropping)

    return read_of(work)


def read_of(work: Callable[[], Iterable[str]]) -> list[str]:
    """Return the findings of *work* in a forked child, or its signal, hang or exception."""
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


def read_all(root: str, ledgers: Mapping[str, Ledger], *, is_strict: bool, locks_exclude: bool = True) -> Iterator[str]:
    """Return messages about objects that differ from their bucket, or that can be read although a write is pending.

    Call it in a new process. Without *locks_exclude*, dead processes cannot be detected.
    """
    said: list[str] = []
    told: set[str] = set()
    warnings.showwarning = lambda message, *_: said.append(str(message))
    for origin, ledger in ledgers.items():
        client = LedgerClient(ledger, origin.partition("@")[2], local_cache_dir=root)
        for key in ledger.keys():  # noqa: SIM118 (no mapping)
            path, number = client.CloudPath(f"ledger://bucket/{key}"), ledger.latest(key)
            # What was deleted in the bucket may still be read offline, as it last was.
            oldest = 1 if ledger.content(key, number) is None else number
            steps: list[tuple[FreshnessArg, int]] = [("offline", 1), ("always", number), ("offline", oldest)]
            for way, least in steps:
                before = waiting_of(root, str(path), origin)
                is_refused = is_held = False
                found: bytes | None = None
                try:
                    found = path.read_bytes(freshness=way)
                except (PendingWriteError, OverwriteNewerLocalError):
                    is_refused = True
                except CloudPathFileNotFoundError:
                    pass
                except NotCachedError:
                    is_held = True
                after = waiting_of(root, str(path), origin)
                told.update(_told_of(write) for write in (*before, *after) if _is_aside(write))
                yield from _judge_refusal(
                    f"{path} of {origin} read {way}",
                    is_refused=is_refused,
                    before=before,
                    after=after,
                    is_overruled=way == "always" and _are_overruled(before, after, found),
                    locks_exclude=locks_exclude,
                )
                if is_refused or is_held:
                    continue
                if not any(ledger.content(key, one) == found for one in range(number, least - 1, -1)):
                    yield f"{path} of {origin} read {way} is none of versions {least} to {number}"
    cache = casstore.open(root)
    cache.close()
    counts = {name: count for name, count in cache.counts().items() if name.startswith("damaged") and count}
    said = [message for message in said if message not in told]
    if is_strict and (counts or said):
        yield f"nothing damages this store, and a fresh process counted {counts} and said {said}"


def _is_aside(write: Waiting) -> bool:
    """Whether it is a local file that blocks no read: the first read of the URI warns of it."""
    return write.state == "incomplete" and write.source is not None


def _told_of(write: Waiting) -> str:
    return f"{write.uri}: {write.why} ({write.source}): push() uploads it, drop() discards it"


def _are_overruled(before: list[Waiting], after: list[Waiting], found: bytes | None) -> bool:
    """Whether an interrupted write that was forced over all the others has been found to have arrived: then it is
    settled, and they, each of them still there, are set aside.
    """
    left = {write.name: write.state for write in after}
    return any(
        (write.state, write.condition, write.data) == ("uploading", "any", found) and write.name not in left
        for write in before
    ) and all(left.get(write.name) == "incomplete" for write in before if write.blocks)


def _judge_refusal(
    what: str,
    *,
    is_refused: bool,
    before: list[Waiting],
    after: list[Waiting],
    is_overruled: bool,
    locks_exclude: bool,
) -> Iterator[str]:
    """Refused is what has a failed write or an edit, nothing else: what became of an interrupted upload is found out,
    or, offline, cannot be. Not refused either is what *is_overruled*.
    """
    is_unknown = any(write.state == "uploading" for write in before)
    states = sorted(write.state for write in before)
    # The read is the first to look at what a killed worker left at the local path.
    is_noticed = any(write.state == "edit" and write not in before for write in after)
    if is_refused and not is_unknown and not is_noticed and not any(write.blocks for write in before):
        yield f"{what} was refused, and what is pending is {states}"
    elif is_refused and what.endswith("always") and not any(write.blocks for write in after):
        yield f"{what} was refused, and afterwards nothing stands in the way any more"
    elif not is_refused and any(write.blocks for write in before) and not is_overruled:
        yield f"{what} was not refused, and what is pending is {states}"
    elif not is_refused and is_unknown and locks_exclude and not what.endswith("always"):
        yield f"{what} was not refused, although nobody knows what became of an upload"
    elif not is_refused and locks_exclude and any(write.blocks or write.state == "uploading" for write in after):
        yield f"{what} was not refused, and what is pending is {sorted(write.state for write in after)} afterwards"


def settle_all(root: str, ledgers: Mapping[str, Ledger], dropping: Callable[[str], None]) -> Iterator[str]:
    """Push everything that is pending, discard what conflicts; then all reads as what the buckets hold. As `read_all`.

    *dropping* is called before something is discarded.
    """
    clients = {
        origin: LedgerClient(ledger, origin.partition("@")[2], local_cache_dir=root)
        for origin, ledger in ledgers.items()
    }
    casstore.open(root).record_local()  # what a power cut has made of local files is pending, too
    expected = {write.name: write for write in all_waiting(root)}
    listed = list(casstore.open(root).pending.all())
    if {write.name for write in listed} != expected.keys():
        yield f"pending are {sorted(expected)}, and listed {sorted(write.name for write in listed)}"
    for write in listed:
        waiting, origin = expected[write.name], write.key.origin
        ledger, path = ledgers[origin], clients[origin].CloudPath(write.uri)
        if all(one.name != write.name for one in waiting_of(root, write.uri, origin)):
            continue  # the same bytes as those of another, which was pushed
        number, held = ledger.now(waiting.key)
        fits = {
            "any": True,
            "absent": held is None,
            "unknown": held is None,
            "match": waiting.base == str(number) and held is not None,
        }
        try:
            path.push(write)
        except (OverwriteNewerCloudError, CloudPathFileExistsError):
            if fits[waiting.condition]:
                yield f"{path} of {origin} was what {write.name} started from, and the push was called a conflict"
            dropping(write.name)
            path.drop(write)
        else:
            if not fits[waiting.condition] and held != waiting.data:
                yield f"{path} of {origin} was not what {write.name} started from, and was overwritten by a push"
            if ledger.now(waiting.key)[1] != waiting.data:
                yield f"{write.name} was pushed, and {path} of {origin} does not have its bytes"
        if any(one.name == write.name for one in waiting_of(root, write.uri, origin)):
            yield f"{write.name} of {path} at {origin} was dealt with, and is still pending"
    for write in listed:
        path, ledger = clients[write.key.origin].CloudPath(write.uri), ledgers[write.key.origin]
        found: bytes | None = None
        with contextlib.suppress(CloudPathFileNotFoundError):
            found = path.read_bytes()
        if found != ledger.now(expected[write.name].key)[1]:
            yield f"{path} of {write.key.origin} does not read as its bucket has it, with nothing pending"
    left = all_waiting(root)
    if left:
        yield f"everything was pushed or dropped, and {len(left)} writes are pending, {left[0].name} for one"
