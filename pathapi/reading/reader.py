"""Reading one object through the store: what is held and fresh, else a conditional request, else one download.

index (one short read) -> fresh enough? -> open the blob                                 the warm path, in `Cache`
held but to be asked about -> conditional GET: 304 -> the blob that is open already
not held -> known by a listing's checksum? -> link it
         -> flight -> GET (the validator comes from this response) -> blob -> entry
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, cast

from casstore import (
    Cache,
    Digest,
    Entry,
    Fill,
    Flight,
    IndexSnapshot,
    Key,
    Moment,
    ProviderChecksum,
    Stored,
    Validator,
    pass_through_for,
)
from pathapi.backend import COMPARABLE, Backend, Body, ObjectInfo
from pathapi.exceptions import (
    ChecksumMismatchError,
    CloudPathException,
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
"""How often one reader looks again because others, who read the new version that it found, ended without a result."""

DEDUP_MODES: Final = ("origin", "all", "off")

UNREAD_FROM: Final = 8 << 20
"""Bytes: the body of a larger object is not read where its checksum is known. A smaller one the server has sent anyway.
"""

_REFRESH_NS: Final = 60 * 10**9
"""How old a validation must be before a 304 under ``always`` is worth writing down."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One object to be read, and how. *verify* None leaves it to the store's setting; *force* takes the cloud's version
    whatever is held. With *must_store*, a store that cannot keep the bytes is an error. *settle* deals with what this
    machine has of the object and the cloud does not, or raises.
    """

    key: Key
    backend: Callable[[], Backend]
    object_key: str
    freshness: Freshness
    listed: ListedFact | None = None
    verify: bool | None = None
    force: bool = False
    require_store: bool = False
    settle: Callable[[], None] | None = None

    @property
    def info(self) -> ObjectInfo | None:
        """What a recent listing said."""
        return None if self.listed is None else self.listed.info


@dataclass(frozen=True, slots=True)
class _Linkable:
    """A blob that has the bytes a listing stated, open."""

    digest: Digest
    descriptor: int


_Look = Callable[[], "Stored | _Linkable | None"]


class Reader:
    """Reads through one store with one client's habits; thread-safe."""

    __slots__ = ("_cache", "_dedup", "_on_fill")

    def __init__(
        self, cache: Cache, dedup_by_checksum: str, on_fill: Callable[[Entry, bool], object] | None = None
    ) -> None:
        """*on_fill* is told of every entry that this reader made, and whether there was none before."""
        self._cache = cache
        self._dedup = dedup_by_checksum
        self._on_fill = on_fill

    def open(self, ask: ReadRequest, *, checked_cache: bool = False) -> Stored:
        """An open blob with the object's bytes; its descriptor is the caller's.

        *looked* says that `Cache.open_fresh` has just found nothing, so that the next look is the one in the flight.

        Raises NotCachedError under ``offline``, StaleReadError where the object keeps changing, and what `Backend.read`
        does.
        """
        return self._read(ask, None, checked_cache)

    def read_bytes(self, ask: ReadRequest, *, checked_cache: bool = False) -> bytes:
        """The object's bytes: those of the response in hand where there was one and it was small."""
        data: list[bytes] = []
        stored = self._read(ask, data, checked_cache)
        if data:
            return data[0]
        try:
            with open(stored.descriptor, "rb") as file:
                return file.read()
        except OSError as error:
            if error.errno != errno.EIO or ask.verify:
                raise
        # The disk cannot read the blob: checked, it is found damaged, and the object is fetched again.
        return self.read_bytes(replace(ask, verify=True))

    def _read(self, ask: ReadRequest, data: list[bytes] | None, checked_cache: bool) -> Stored:
        if ask.require_store and self._cache.unavailable is not None:
            raise self._cache.unavailable
        if ask.settle is not None and self._cache.has_local_changes(ask.key):
            ask.settle()
        try:
            return self._read_stored(ask, data, checked_cache)
        except OSError as error:
            failure = error
        return self._read_uncached(ask, data, failure)

    def _read_uncached(self, ask: ReadRequest, data: list[bytes] | None, failure: OSError) -> Stored:
        """The store cannot take the bytes, or give those that it holds: the reader gets them all the same."""
        uncached = None
        if not isinstance(failure, CloudPathException):
            uncached = pass_through_for(failure, self._cache.root)
        if uncached is None or uncached is self._cache or ask.require_store:
            raise failure
        stored = Reader(uncached, "off")._read_stored(ask, data, checked_cache=True)
        uncached.warn()
        return stored

    def _read_stored(self, ask: ReadRequest, data: list[bytes] | None, checked_cache: bool) -> Stored:
        began = self._cache.now()
        failure: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                import random  # takes a while to load, and is needed here only

                time.sleep(random.uniform(0.01, 0.05) * 2**attempt)
            try:
                for _ in range(LOOKS):
                    stored = self._try(ask, began, data, checked_cache)
                    checked_cache = False
                    if stored is not None:
                        return stored
                raise VersionMismatchError(f"{ask.key.uri} changed {LOOKS} times while others were reading it")
            except (VersionMismatchError, TruncatedBodyError, ChecksumMismatchError) as error:
                failure = error
            except CloudUnavailableError as error:
                raise self._with_way_out(ask, error) from error
        if isinstance(failure, VersionMismatchError):
            raise StaleReadError(f"{ask.key.uri} changed {TRIES} times while it was read; try again later") from failure
        if isinstance(failure, CloudUnavailableError):
            raise self._with_way_out(ask, failure) from failure
        assert failure is not None
        raise failure

    def _with_way_out(self, ask: ReadRequest, error: CloudUnavailableError) -> CloudUnavailableError:
        """The same error, which also says that a copy is held, where one is."""
        entry = self._cache.lookup(ask.key)
        if entry is None:
            return error
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.validated.wall_ns / 1e9))
        return type(error)(
            f"{error}. A copy of {ask.key.uri} is held, as it was on {when}: read it with freshness='offline' or "
            "CASSTORE_OFFLINE=1"
        )

    def _try(self, ask: ReadRequest, began: Moment, data: list[bytes] | None, checked_cache: bool) -> Stored | None:
        """One way through; None means: things have changed, look again."""
        if not checked_cache or ask.listed is not None or not ask.freshness.asks:
            held = None if ask.force else self._held(ask)
            if held is not None:
                return self._serve(ask, held, began, data)
        if not ask.freshness.asks:
            why = self._cache.unavailable or self._cache.root
            raise NotCachedError(f"{ask.key.uri} is not in the store, and the policy is offline: {why}")
        linkable = self._linkable(ask)
        if linkable is not None:
            return self._link(ask, linkable, data)
        return self._fill(ask, began, data)

    def _held(self, ask: ReadRequest) -> Stored | None:
        entry = self._cache.lookup(ask.key)
        return None if entry is None else self._open_held(ask, entry)

    def _open_held(self, ask: ReadRequest, entry: Entry) -> Stored | None:
        descriptor = self._cache.open_entry(entry, verify=ask.verify)
        if descriptor is None and ask.settle is not None and self._cache.pending.has(ask.key):
            ask.settle()  # looking at the blob has shown that somebody wrote to it through a local copy
        return None if descriptor is None else Stored(descriptor, entry.size, entry)

    def _serve(self, ask: ReadRequest, held: Stored, began: Moment, data: list[bytes] | None) -> Stored | None:
        answer = self._answer(ask, held, began, data)
        if answer is held:
            self._cache.count_hit(held.size)
        return answer

    def _answer(self, ask: ReadRequest, held: Stored, began: Moment, data: list[bytes] | None) -> Stored | None:
        """Serve what is held, after asking about it where the policy wants that."""
        entry = held.entry
        assert entry is not None
        now, listed = self._cache.now(), ask.listed
        if listed is None or listed.info is None or ask.freshness.max_age_ns in (None, -1):
            if ask.freshness.allows(entry, now, began):
                return held
        else:
            # A listing is an answer too, under a policy that accepts answers of some age.
            agrees = listed.info.validator.same_version(entry.validator)
            is_newer = listed.moment.is_since(entry.validated)
            if ask.freshness.allows(entry, now, began) and (agrees or not is_newer):
                return held
            if agrees and is_newer and ask.freshness.serves_age(now.wall_ns - listed.moment.wall_ns):
                self._cache.refresh(entry, listed.moment)
                return held
        return self._revalidate(ask, held, entry, began, data)

    def _revalidate(
        self, ask: ReadRequest, held: Stored, entry: Entry, began: Moment, data: list[bytes] | None
    ) -> Stored | None:
        keep = False
        try:
            with self._cache.begin(ask.key) as fill:
                body = ask.backend().read(ask.object_key, 0, _first_end(entry.size), unless=entry.validator)
                if body is not None and _is_unchanged(entry.validator, body.info.validator):
                    body.close()  # the server ignores conditions
                    body = None
                if body is None:
                    keep = True
                    if (
                        ask.freshness.max_age_ns != -1
                        or fill.noted.moment.wall_ns - entry.validated.wall_ns > _REFRESH_NS
                    ):
                        self._cache.refresh(entry, fill.noted.moment)
                    return held
                try:
                    # The object has changed. One of all who find that out reads its body.
                    flight = self._cache.flights.try_acquire(ask.key.row_key)
                    if flight is not None:
                        fill.join(flight)
                        return self._receive(ask, fill, body, data)
                finally:
                    body.close()
            got = self._cache.flights.acquire(ask.key.row_key, lambda: self._held_since(ask, began))
            if isinstance(got, Flight):
                got.release()
                return None
            self._cache.count_hit(got.size)
            return got
        finally:
            if not keep:
                os.close(held.descriptor)

    def _held_since(self, ask: ReadRequest, began: Moment) -> Stored | None:
        entry = self._cache.lookup(ask.key)
        return self._held(ask) if entry is not None and entry.validated.is_since(began) else None

    # --- not held ----------------------------------------------------------------------------------------------------

    def _linkable(self, ask: ReadRequest) -> _Linkable | None:
        stated = self.stated(ask.key, ask.info)
        known = self._cache.find_by_checksum(stated) if stated and not ask.force else None
        return None if known is None else _Linkable(*known)

    def _link(self, ask: ReadRequest, linkable: _Linkable, data: list[bytes] | None) -> Stored | None:
        """The listing says that the object has the bytes of a held blob: believe it, or ask, as the policy
        says.
        """
        listed, info = ask.listed, ask.info
        assert listed is not None and info is not None
        keep = False
        try:
            with self._cache.begin(ask.key) as fill:
                if ask.freshness.serves_age(self._cache.now().wall_ns - listed.moment.wall_ns):
                    entry = self._filled(
                        fill, fill.link(linkable.digest, linkable.descriptor, info.validator, listed.moment)
                    )
                else:
                    body = ask.backend().read(ask.object_key, 0, _first_end(info.size), unless=info.validator)
                    if body is not None:
                        try:
                            return self._receive(ask, fill, body, data)
                        finally:
                            body.close()
                    entry = self._filled(fill, fill.link(linkable.digest, linkable.descriptor, info.validator))
                keep = True
                return Stored(linkable.descriptor, info.size, entry)
        finally:
            if not keep:
                os.close(linkable.descriptor)

    def _fill(self, ask: ReadRequest, began: Moment, data: list[bytes] | None) -> Stored | None:
        """Download, once for all who want it: the URI has a flight, and so has what a listing stated."""
        flights: list[Flight] = []
        try:
            noted: IndexSnapshot | None = None

            def look_for_entry() -> Stored | _Linkable | None:
                nonlocal noted
                entry, noted = self._cache.lookup_or_snapshot(ask.key)
                return None if ask.force or entry is None else self._open_held(ask, entry)

            def look_for_bytes() -> Stored | _Linkable | None:
                return self._linkable(ask)

            names = [ask.key.row_key, *(item.row_key for item in self.stated(ask.key, ask.info))]
            for name in names:
                look: _Look = look_for_entry if name == ask.key.row_key else look_for_bytes
                got = cast("Flight | Stored | _Linkable", self._cache.flights.acquire(name, look))
                if isinstance(got, Flight):
                    flights.append(got)
                    continue
                for flight in flights:
                    flight.release()
                flights = []
                if isinstance(got, _Linkable):
                    return self._link(ask, got, data)
                return self._serve(ask, got, began, data)
            # What was noted in the first flight still serves if there was no second one to wait for.
            with self._cache.begin(ask.key, flights, noted if len(names) == 1 else None) as fill:
                flights = []
                body = ask.backend().read(ask.object_key, 0, _first_end(None if ask.info is None else ask.info.size))
                assert body is not None
                try:
                    return self._receive(ask, fill, body, data)
                finally:
                    body.close()
        finally:
            for flight in flights:
                flight.release()

    def _receive(self, ask: ReadRequest, fill: Fill, body: Body, data: list[bytes] | None) -> Stored:
        """Bring a response's object into the store, by its body or, where its checksum is known, without."""
        info = body.info
        stated = self.stated(fill.key, info)
        if info.size > UNREAD_FROM and not ask.force:
            known = self._cache.find_by_checksum(stated)
            if known is not None:
                body.close()
                digest, descriptor = known
                try:
                    return Stored(
                        descriptor, info.size, self._filled(fill, fill.link(digest, descriptor, info.validator))
                    )
                except BaseException:
                    os.close(descriptor)
                    raise
        if data is not None and body.length == info.size and info.size <= PART:
            content = read_whole(body)
            fill.write(content)
            stored = fill.publish(info.validator, stated, reading=False)
            if stored.entry is not None:
                self._filled(fill, stored.entry)
            data.append(content)
            return stored
        info = receive(ask.backend(), ask.object_key, body, fill)
        stored = fill.publish(info.validator, stated)
        if stored.entry is not None:
            self._filled(fill, stored.entry)
        return stored

    def _filled(self, fill: Fill, entry: Entry) -> Entry:
        if self._on_fill is not None:
            self._on_fill(entry, fill.noted.entry is None)
        return entry

    def stated(self, key: Key, info: ObjectInfo | None) -> list[ProviderChecksum]:
        """What to remember, or to look for, of what the provider says of the bytes; nothing of plain HTTP servers."""
        if info is None or not info.size or self._dedup == "off" or key.origin.startswith("http"):
            return []
        scope = key.origin if self._dedup == "origin" else ""
        return [ProviderChecksum(scope, c.kind, c.value, info.size) for c in info.checksums if c.kind in COMPARABLE]


def _is_unchanged(one: Validator, other: Validator) -> bool:
    return one.same_version(other) and not (one.racy or other.racy)


def _first_end(size: int | None) -> int | None:
    """Where the first request ends: nowhere if the object is known to fit into one part."""
    return None if size is not None and size <= PART else PART
