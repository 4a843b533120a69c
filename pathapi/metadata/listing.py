"""A cloud path seen as a directory: children, patterns, walks; one listing is one request for a thousand keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Self

from pathapi.backend import ObjectInfo, Prefix
from pathapi.freshness import Freshness
from pathapi.metadata.globbing import Match, compile_pattern, walk_levels, walk_tree
from pathapi.metadata.head import AskingPath
from pathapi.reading.listing_cache import SECONDS, ListedFact


class ListingPath(AskingPath):
    """`CloudPath` as far as what is below it goes. Children carry what the listing said."""

    __slots__ = ()

    def _list(self, prefix: str, *, delimited: bool) -> Iterator[tuple[ObjectInfo | Prefix, ListedFact]]:
        client, bucket = self.client, self.uri.bucket
        if not client.policy.of(self._text).asks:
            now = client.now()
            held = self._held_below(prefix, delimited=delimited)
            return ((item, ListedFact(item if isinstance(item, ObjectInfo) else None, now)) for item in held)
        items = client.backend(bucket).list(prefix, delimited=delimited)
        return client.listings.remember(bucket, prefix, client.now(), items)

    def _held_below(self, prefix: str, *, delimited: bool) -> Iterator[ObjectInfo | Prefix]:
        """What a listing would give if the store's entries were all there is."""
        origin, folded = self.client.origin, ""
        root = f"{self.uri.provider}://{self.uri.filed.bucket}/"
        for entry in self.client.cache.entries(root + prefix):
            if entry.key.origin != origin:
                continue
            key = entry.uri[len(root) :]
            end = key.find("/", len(prefix)) + 1
            if not delimited or not end:
                yield ObjectInfo(key, entry.validator)
            elif key[:end] != folded:
                folded = key[:end]
                yield Prefix(folded)

    def _child(self, key: str, listed: ListedFact | None) -> Self:
        child = (
            self._at_prefix(key) if key.endswith("/") and (listed is None or listed.info is None) else self._at_key(key)
        )
        child._listed = listed
        return child

    def _as_listed(self) -> Freshness:
        """What takes the listing's word, although it may be minutes old when its last objects have their turn; the
        policy where that word is no more than a name.
        """
        listed = self._listed
        if listed is not None and listed.info is not None and listed.info.is_named_only:
            return self.client.policy.of(self._text)
        age = 0 if listed is None else self.client.now().wall_ns - listed.moment.wall_ns
        return Freshness(max(int(SECONDS * 1e9), age + 10**9))

    def iterdir(self) -> Iterator[Self]:
        """The children, in the server's order; they carry what the listing said. One request for a thousand."""
        prefix = self._listing_prefix
        for item, listed in self._list(prefix, delimited=True):
            if item.key != prefix:  # an object of the directory's own name only marks it
                yield self._child(item.key, listed)

    def glob(
        self, pattern: str | os.PathLike[str], case_sensitive: bool | None = None, recurse_symlinks: bool = True
    ) -> Iterator[Self]:
        """Paths below this one that match, as `pathlib` does; lists no more than the pattern's fixed start allows."""
        return self._glob(compile_pattern(pattern, case_sensitive))

    def rglob(
        self, pattern: str | os.PathLike[str], case_sensitive: bool | None = None, recurse_symlinks: bool = True
    ) -> Iterator[Self]:
        """`glob` with ``**/`` before the pattern."""
        return self._glob(compile_pattern(pattern, case_sensitive, anywhere=True))

    def _glob(self, pattern: Any) -> Iterator[Self]:
        heard: dict[str, ListedFact] = {}

        def listing(prefix: str, *, delimited: bool) -> Iterator[Any]:
            for item, listed in self._list(prefix, delimited=delimited):
                heard.clear()
                heard[item.key] = listed
                yield item

        found: Iterator[Match] = pattern.select(
            self._listing_prefix,
            lambda prefix: listing(prefix, delimited=False),
            lambda prefix: listing(prefix, delimited=True),
        )
        for match in found:
            listed = heard.get(match.key)
            if heard and (match.info is None or listed is None):  # a directory, though an object may mark it
                listed = ListedFact(None, next(iter(heard.values())).moment)
            yield self._child(match.key, listed)

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
        lazy: bool = False,
    ) -> Iterator[tuple[Self, list[str], list[str]]]:
        """Like `pathlib.Path.walk`, by one recursive listing; with *lazy*, one listing for each directory, so that
        pruning *dirnames* saves requests.
        """
        prefix = self._listing_prefix
        try:
            if lazy:
                visits = walk_levels(
                    lambda at: (item for item, _ in self._list(at, delimited=True)), prefix, top_down=top_down
                )
            else:
                flat = (item for item, _ in self._list(prefix, delimited=False) if isinstance(item, ObjectInfo))
                visits = walk_tree(flat, prefix, top_down=top_down)
            for visit in visits:
                path = self if visit.key == prefix else self._at_prefix(visit.key)
                yield path, visit.dirnames, list(visit.files)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
