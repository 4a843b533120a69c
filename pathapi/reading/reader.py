"""Read one object through the store: what is cached and fresh, else a conditional request, else one download.

index (one short read) -> fresh enough? -> open the blob                                 the warm path, in `Cache`
cached, freshness unknown -> conditional GET: 304 -> the blob that is open already
not cached -> a blob has the checksum that a listing stated? -> link it
           -> flight -> GET (the validator comes from this response) -> blob -> entry
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from casstore import (
    Cache,
    Digest,
    Entry,
    Fill,
    Flight,
    Flights,
    IndexSnapshot,
    Key,
    Moment,
    ProviderChecksum,
    Stored,
    Validator,
    pass_through_for,
)
from pathapi.backend import COLLISION_FREE, COMPARABLE, Backend, Body, ObjectInfo
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathException,
    CloudPathIsADirectoryError,
    CloudUnavailableError,
    NotCachedError,
    StaleReadError,
    TruncatedBodyError,
    VersionMismatchError,
)
from pathapi.freshness import Freshness
from pathapi.reading.download import PART, read_whole, receive
from pathapi.reading.listing_cache import ListedFact

TRIES: Final = 4
"""Downloads of one object that are begun before a changing object or a broken connection is an error."""

LOOKS: Final = 100
"""How often one reader looks again because the readers that download a newer version end without a result."""

BELIEVED: Final = {"strong": COLLISION_FREE, "origin": COMPARABLE, "all": COMPARABLE, "off": frozenset[str]()}
"""By a client's `dedup_by_checksum`: the kinds of checksums that, if they are equal, stand for equal bytes."""

UNREAD_FROM: Final = 8 << 20
"""Bytes: the body of a larger object is not read if its checksum is known. The server has sent a smaller one anyway."""

_REFRESH_NS: Final = 60 * 10**9
"""How old a validation must be before a 304 under ``always`` is worth recording."""


class LocalChangeFoundError(Exception):
    """Opening the blob has shown a local change that blocks reading; the caller resolves it, or raises, and retries."""


class ObjectSource(Protocol):
    """One object: what the reader uses of a `pathapi.metadata.location.Location`; its backend logs in on first use."""

    @property
    def store_key(self) -> Key: ...

    @property
    def key(self) -> str: ...

    @property
    def backend(self) -> Backend: ...

    def learn(self, info: ObjectInfo) -> None:
        """Record what the server now says of the object."""
        ...


class ReadRequest(NamedTuple):
    """One object to read, and how.

    *verify* None leaves it to the store's setting. *force* downloads the server's version whatever is cached. With
    *require_store*, the read fails if the store does. *with_content* returns a small body in `Stored.content`.
    *ignore_pending* is for callers that have the write lock and have dealt with pending writes.
    """

    location: ObjectSource
    freshness: Freshness
    listed: ListedFact | None = None
    verify: bool | None = None
    force: bool = False
    require_store: bool = False
    with_content: bool = False
    ignore_pending: bool = False

    @property
    def store_key(self) -> Key:
        return self.location.store_key

    @property
    def info(self) -> ObjectInfo | None:
        """The object as a recent listing described it."""
        return None if self.listed is None else self.listed.info


class Reader:
    """Reads through one store with one client's settings; thread-safe."""

    def __init__(
        self, cache: Cache, dedup_by_checksum: str, on_fill: Callable[[Entry, bool], object] | None = None
    ) -> None:
        """*on_fill* is called with every entry that this reader makes, and whether there was none before."""
        self._cache = cache
        self._believed = BELIEVED[dedup_by_checksum]
        self._is_scoped = dedup_by_checksum != "all"
        self._on_fill = on_fill

    def open(self, request: ReadRequest, *, checked_cache: bool = False) -> Stored:
        """Return an open blob with the object's bytes; the caller closes its descriptor.

        *checked_cache* says that `Cache.open_fresh` has just found nothing: the next look is the one in the flight.

        Raises:
            NotCachedError: under ``offline``.
            StaleReadError: if the object keeps changing.
            LocalChangeFoundError: unless *ignore_pending*.
            CloudPathException: whatever `Backend.read` raises.
        """
        try:
            return self._read(request, checked_cache)
        except CloudPathException:
            raise
        except OSError as error:
            if request.require_store:
                raise
            failure = error
        # The store cannot take the bytes, or return those that it has: this read does without.
        uncached = pass_through_for(failure, self._cache)
        stored = Reader(uncached, "off")._read(request, checked_cache=True)  # noqa: SLF001 (of another reader)
        uncached.warn()
        return stored

    def read_bytes(self, request: ReadRequest, *, checked_cache: bool = False) -> bytes:
        """Return the object's bytes: those of the response if there was one and it was small; raises as `open`."""
        stored = self.open(request, checked_cache=checked_cache)
        if stored.content is not None:
            return stored.content
        try:
            with open(stored.descriptor, "rb") as file:
                return file.read()
        except OSError as error:
            if error.errno != errno.EIO or request.verify:
                raise
        # The disk cannot read the blob: with *verify* the store finds it damaged, and downloads the object again.
        return self.read_bytes(request._replace(verify=True))

    def _read(self, request: ReadRequest, checked_cache: bool) -> Stored:
        began = self._cache.now()
        failure: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                import random  # takes a while to load, and is needed here only

                time.sleep(random.uniform(0.01, 0.05) * 2**attempt)
            try:
                for _ in range(LOOKS):
                    stored = self._try(request, began, checked_cache)
                    checked_cache = False
                    if stored is not None:
                        return stored
                raise VersionMismatchError(f"{request.store_key.uri}: changed {LOOKS} times while others read it")
            except (VersionMismatchError, TruncatedBodyError, ChecksumMismatchError) as error:
                failure = error
            except CloudUnavailableError as error:
                raise self._with_hint(request, error) from error
        assert failure is not None
        if isinstance(failure, VersionMismatchError):
            raise StaleReadError(
                f"{request.store_key.uri}: changed {TRIES} times while it was read: try again later"
            ) from failure
        if isinstance(failure, CloudUnavailableError):
            raise self._with_hint(request, failure) from failure
        raise failure

    def _with_hint(self, request: ReadRequest, error: CloudUnavailableError) -> CloudUnavailableError:
        """Return the same error, with how to read the cached copy if there is one."""
        entry = self._cache.lookup(request.store_key)
        if entry is None:
            return error
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.validated.wall_ns / 1e9))
        return error.extended(
            f". A copy of {request.store_key.uri} is cached, as of {when}",
            hint="read it with freshness='offline' or CASSTORE_OFFLINE=1",
            shell_hint="read it with --freshness offline or CASSTORE_OFFLINE=1",
        )

    def _try(self, request: ReadRequest, began: Moment, checked_cache: bool) -> Stored | None:
        """Read once; None if something has changed meanwhile and the caller must look again."""
        if not checked_cache or request.listed is not None or not request.freshness.may_request:
            cached = None if request.force else self._open_cached(request, self._cache.lookup(request.store_key))
            if cached is not None:
                return self._serve(request, cached, began)
        if not request.freshness.may_request:
            why = self._cache.unavailable or self._cache.root
            raise NotCachedError(f"{request.store_key.uri}: not cached, and the policy is offline: {why}")
        blob = self._find_blob(request)
        return self._download(request, began) if blob is None else self._link(request, *blob)

    def _open_cached(self, request: ReadRequest, entry: Entry | None) -> Stored | None:
        if entry is None:
            return None
        descriptor = self._cache.open_entry(entry, verify=request.verify)
        if descriptor is not None:
            return Stored(descriptor, entry.size, entry)
        # Opening the blob may have shown that a program wrote to it through a local copy.
        is_suspect = not request.ignore_pending and self._cache.pending.has(request.store_key)
        if is_suspect and any(write.blocks for write in self._cache.pending.of(request.store_key)):
            raise LocalChangeFoundError(request.store_key.uri)
        return None

    # --- cached ------------------------------------------------------------------------------------------------------

    def _serve(self, request: ReadRequest, cached: Stored, began: Moment) -> Stored | None:
        """Return *cached*, after a conditional request if the policy needs one; a newer version; None to look again."""
        assert cached.entry is not None
        try:
            is_fresh = self._is_fresh(request, cached.entry, began)
            if is_fresh:
                self._cache.count_hit(cached.size)
                return cached
        except BaseException:
            os.close(cached.descriptor)
            raise
        served = self._revalidate(request, cached, cached.entry, began)
        if served is cached:
            self._cache.count_hit(cached.size)
        return served

    def _is_fresh(self, request: ReadRequest, entry: Entry, began: Moment) -> bool:
        now, listed, freshness = self._cache.now(), request.listed, request.freshness
        is_allowed = freshness.allows(entry, now, began)
        if listed is None or listed.info is None or freshness.max_age_ns in (None, -1):
            return is_allowed
        # A listing is an answer too, under a policy that accepts answers of some age.
        agrees = listed.info.validator.same_version(entry.validator)
        is_newer = listed.moment.is_since(entry.validated)
        if is_allowed and (agrees or not is_newer):
            return True
        if agrees and is_newer and freshness.serves_age(now.wall_ns - listed.moment.wall_ns):
            self._cache.refresh(entry, listed.moment)
            return True
        return False

    def _revalidate(self, request: ReadRequest, cached: Stored, entry: Entry, began: Moment) -> Stored | None:
        is_current = False
        try:
            with self._cache.begin(request.store_key) as fill, fill:
                body = self._request(request, entry.size, unless=entry.validator)
                if body is not None and entry.validator.proves_same_bytes(body.info.validator):
                    body.close()  # the server ignores conditions
                    body = None
                if body is None:
                    age = fill.noted.moment.wall_ns - entry.validated.wall_ns
                    if request.freshness.max_age_ns != -1 or age > _REFRESH_NS:
                        self._cache.refresh(entry, fill.noted.moment)
                    is_current = True
                    return cached
                with closing(body):
                    # The object has changed. One of all readers that find that out reads its body.
                    flights = self._cache.flights
                    if flights.try_grant(fill.join(flights.acquire(request.store_key.row_key))):
                        return self._receive(request, fill, body)
        finally:
            if not is_current:
                os.close(cached.descriptor)
        with Flights() as granted, granted:
            flight = granted.add(flights.acquire(request.store_key.row_key))
            for _ in flight.polls():
                newer = self._cache.lookup(request.store_key)
                if newer is not None and newer.validated.is_between(began, self._cache.now()):
                    stored = self._open_cached(request, newer)
                    if stored is not None:
                        self._cache.count_hit(stored.size)
                        return stored
            if not flight.passes_by:
                return None  # what is cached by now may be current
            with self._cache.begin(request.store_key, granted) as fill, fill:
                body = self._request(request, entry.size)
                assert body is not None
                with closing(body):
                    return self._receive(request, fill, body)

    # --- not cached --------------------------------------------------------------------------------------------------

    def _find_blob(self, request: ReadRequest) -> tuple[Digest, int] | None:
        """Return a blob that has the bytes a listing stated, open; or None."""
        checksums = self.checksums(request.store_key, request.info)
        return self._cache.find_by_checksum(checksums) if checksums and not request.force else None

    def _link(self, request: ReadRequest, digest: Digest, descriptor: int) -> Stored:
        """Serve the blob that a listing names; ask the server first if the listing is too old for the policy."""
        listed, info = request.listed, request.info
        assert listed is not None and info is not None
        try:
            with self._cache.begin(request.store_key) as fill, fill:
                moment = body = None
                if request.freshness.serves_age(self._cache.now().wall_ns - listed.moment.wall_ns):
                    moment = listed.moment
                else:
                    body = self._request(request, info.size, unless=info.validator)
                if body is None:
                    entry = self._filled(fill, fill.link(digest, descriptor, info.validator, moment))
                    return Stored(descriptor, info.size, entry)
                with closing(body):
                    stored = self._receive(request, fill, body)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return stored

    def _download(self, request: ReadRequest, began: Moment) -> Stored | None:
        """Download once for all readers: the URI has a flight, and so has each checksum that a listing stated."""
        key, blob = request.store_key, None
        flights = self._cache.flights
        with Flights() as granted, granted:
            cached, snapshot = self._wait_for_entry(request, granted.add(flights.acquire(key.row_key)))
            for item in self.checksums(key, request.info) if cached is None else ():
                blob = self._wait_for_blob(request, granted.add(flights.acquire(item.row_key)))
                if blob is not None:
                    break
            if cached is None and blob is None:
                # The snapshot of the first flight still serves if there was no second one to wait for.
                is_recent = len(granted.requests) == 1
                with self._cache.begin(key, granted, snapshot if is_recent else None) as fill, fill:
                    body = self._request(request, None if request.info is None else request.info.size)
                    assert body is not None
                    with closing(body):
                        return self._receive(request, fill, body)
        # Another reader's result. The flights are released by now: serving it may send a request.
        if blob is not None:
            return self._link(request, *blob)
        assert cached is not None
        return self._serve(request, cached, began)

    def _wait_for_entry(self, request: ReadRequest, flight: Flight) -> tuple[Stored | None, IndexSnapshot | None]:
        snapshot = None
        for _ in flight.polls():
            snapshot = self._cache.snapshot(request.store_key)
            cached = None if request.force else self._open_cached(request, snapshot.entry)
            if cached is not None:
                return cached, snapshot
        return None, snapshot

    def _wait_for_blob(self, request: ReadRequest, flight: Flight) -> tuple[Digest, int] | None:
        for _ in flight.polls():
            blob = self._find_blob(request)
            if blob is not None:
                return blob
        return None

    def _request(self, request: ReadRequest, size: int | None, *, unless: Validator | None = None) -> Body | None:
        """Send the first request: for all of the object if it is known to fit into one part."""
        end = None if size is not None and size <= PART else PART
        body = request.location.backend.read(request.location.key, 0, end, unless=unless)
        if body is not None:
            request.location.learn(body.info)
        return body

    def _receive(self, request: ReadRequest, fill: Fill, body: Body) -> Stored:
        """Put a response's object into the store: its body, or a link if a blob has its checksum.

        Raises CloudPathIsADirectoryError for an empty object of a directory's name, which only marks the directory.
        """
        info = body.info
        if not info.size and request.location.key.endswith("/"):
            raise CloudPathIsADirectoryError(f"{fill.key.uri} is a directory, not an object")
        checksums = self.checksums(fill.key, info)
        blob = self._cache.find_by_checksum(checksums) if info.size > UNREAD_FROM and not request.force else None
        if blob is not None:
            body.close()
            digest, descriptor = blob
            try:
                return Stored(descriptor, info.size, self._filled(fill, fill.link(digest, descriptor, info.validator)))
            except BaseException:
                os.close(descriptor)
                raise
        if request.with_content and body.length == info.size and info.size <= PART:
            content = read_whole(body)
            fill.write(content)
            stored = replace(fill.publish(info.validator, checksums, reading=False), content=content)
        else:
            receive(request.location.backend, request.location.key, body, fill)
            stored = fill.publish(info.validator, checksums)
        if stored.entry is not None:
            self._filled(fill, stored.entry)
        return stored

    def _filled(self, fill: Fill, entry: Entry) -> Entry:
        if self._on_fill is not None:
            self._on_fill(entry, fill.noted.entry is None)
        return entry

    def checksums(self, key: Key, info: ObjectInfo | None) -> list[ProviderChecksum]:
        """Return the provider's checksums to remember or to look for; none of plain HTTP servers."""
        if info is None or not info.size or key.origin.startswith("http"):
            return []
        scope = key.origin if self._is_scoped else ""
        return [ProviderChecksum(scope, c.kind, c.value, info.size) for c in info.checksums if c.kind in self._believed]
