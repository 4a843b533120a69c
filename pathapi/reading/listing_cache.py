"""Recent listings of one client.

A child of a listing knows its size, mtime and ETag for `SECONDS`, without a request, until the same client writes it or
something below. Only a complete listing of its "directory" shows that an object does **not** exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from casstore import Moment, boot_clock_ns, new_mutex
from pathapi.backend import Listing, ObjectInfo, Prefix

SECONDS: Final = 10.0
"""How long a listing is fresh: long enough to loop over it, short enough to surprise no user."""

MOST_REMEMBERED: Final = 10_000
"""Objects of one listing that the client remembers, some 8 MB; the children of a listing know the rest."""

MOST_IN_ALL: Final = 5 * MOST_REMEMBERED
"""Objects of all listings together; one more, and the client forgets all."""

_NS: Final = int(SECONDS * 1e9)


class ListedFact(NamedTuple):
    """One key in a listing, and when its page was requested; *info* is None for a "directory"."""

    info: ObjectInfo | None
    moment: Moment

    def is_fresh(self, now_ns: int) -> bool:
        """Whether it is fresh at *now_ns* of the boot clock."""
        return 0 <= now_ns - self.moment.boot_ns <= _NS


class Listings:
    """The recent listings of one client; thread-safe."""

    def __init__(self) -> None:
        self._mutex = new_mutex()
        self._listed: dict[tuple[str, str], ListedFact] = {}
        self._complete: dict[tuple[str, str], Moment] = {}
        self._written: dict[tuple[str, str], int] = {}
        self._cleaned = 0
        self._cleared = 0
        self._forgotten = 0

    def remember(
        self, bucket: str, prefix: str, moment: Moment, items: Iterable[ObjectInfo | Prefix]
    ) -> Iterator[tuple[ObjectInfo | Prefix, ListedFact]]:
        """Yield the items of a listing of *prefix*, each with its fact, and remember them; also that it is complete.

        *moment* is before the first request. The facts of a page count from its own request.
        """
        count, page = 0, moment
        cleared = self._cleared
        for item in items:
            if isinstance(items, Listing) and items.asked_ns > page.boot_ns:
                later = items.asked_ns - moment.boot_ns
                page = Moment(moment.wall_ns + later, items.asked_ns, moment.boot)
            listed = ListedFact(item if isinstance(item, ObjectInfo) else None, page)
            count += 1
            if count <= MOST_REMEMBERED:
                self._remember((bucket, item.key), listed)
            yield item, listed
        if count <= MOST_REMEMBERED and (not prefix or prefix.endswith("/")):
            with self._mutex:
                self._clean(boot_clock_ns())
                known = self._complete.get((bucket, prefix))
                # Items of this listing may be forgotten already, and a later one may have ended before it.
                if cleared == self._cleared and (known is None or known.boot_ns <= moment.boot_ns):
                    self._complete[bucket, prefix] = moment

    def _remember(self, at: tuple[str, str], listed: ListedFact) -> None:
        with self._mutex:
            known = self._listed.get(at)
            if known is None and len(self._listed) >= MOST_IN_ALL:
                # Together: a complete listing without the key means that it is absent.
                self._listed, self._complete = {}, {}
                self._cleared += 1
            if known is None or known.moment.boot_ns <= listed.moment.boot_ns:
                self._listed[at] = listed

    def recall(self, bucket: str, key: str, listed: ListedFact | None) -> ListedFact | None:
        """Return the fresh fact of *key*: *listed*, which the child itself carries, or what the client remembers."""
        found = self.recall_any_age(bucket, key, listed)
        return found if found is not None and found.is_fresh(boot_clock_ns()) else None

    def recall_any_age(self, bucket: str, key: str, listed: ListedFact | None) -> ListedFact | None:
        """Return the same of any age, unless this client has written *key* since: a reader confirms or accepts it."""
        found = listed or self._listed.get((bucket, key))
        if found is None:
            return None
        later = self._complete.get((bucket, _folder(key)))
        if later is not None and later.boot_ns > found.moment.boot_ns:
            # A later listing of the "directory" had this name, or did not.
            found = self._listed.get((bucket, key if found.info is not None else key + "/"))
            if found is None or found.moment.boot_ns < later.boot_ns:
                return None
        written = max(self._written.get((bucket, key), 0), self._forgotten)
        return None if written >= found.moment.boot_ns else found

    def is_absent(self, bucket: str, key: str) -> bool:
        """Whether a complete and fresh listing of its "directory" did not have *key*."""
        with self._mutex:
            moment = self._complete.get((bucket, _folder(key)))
            if moment is None or not ListedFact(None, moment).is_fresh(boot_clock_ns()):
                return False
            written = self._written.get((bucket, key))
            if written is not None and written >= moment.boot_ns:
                return False
            listed = self._listed.get((bucket, key))
            return listed is None or listed.moment.boot_ns < moment.boot_ns

    def forget(self, bucket: str, key: str) -> None:
        """Forget *key*, which was written or deleted, and the "directories" above it."""
        now = boot_clock_ns()
        with self._mutex:
            self._clean(now)
            self._written[bucket, key] = now
            self._listed.pop((bucket, key), None)
            end = key.rfind("/")
            while end > 0:
                self._written[bucket, key[:end]] = now
                end = key.rfind("/", 0, end)

    def _clean(self, now_ns: int) -> None:
        if now_ns - self._cleaned < _NS:
            return
        self._cleaned = now_ns
        self._listed = {key: listed for key, listed in self._listed.items() if listed.is_fresh(now_ns)}
        self._complete = {key: m for key, m in self._complete.items() if 0 <= now_ns - m.boot_ns <= _NS}
        for key, written in list(self._written.items()):
            if not 0 <= now_ns - written <= 2 * _NS:
                self._forgotten = max(self._forgotten, written)
                del self._written[key]


class NameListings(Listings):
    """Listings that need not be complete: an object may exist although the index page does not link to it."""

    def is_absent(self, bucket: str, key: str) -> bool:
        """Return False: it is never known."""
        return False


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]
