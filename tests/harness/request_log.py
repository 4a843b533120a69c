"""What a proxy remembers of each request, and the sums that tests and the demo look at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from tests.harness.http_messages import Head


@dataclass(slots=True)
class Record:
    """One request, filled in as it goes on; what `Proxy.records` gives are copies.

    *kind* is the method, but for ``LIST`` (a GET below no key), ``COPY`` (a PUT with a source), ``DELETE`` (also of
    many keys by POST) and ``BUCKET`` (whatever else concerns no object). Of Google's JSON API, ``HEAD`` asks for
    metadata, and ``PUT`` is each request of an upload. *status* is 0 until there is one, and stays
    0 where the client never got one. *body_bytes* are those of the response's body handed to the client's socket,
    *sent_bytes* those of the request's body that the client sent. *path* is without the account that Azurite has in it.
    """

    kind: str
    method: str
    path: str
    query: str
    range: str | None
    if_match: str | None
    if_none_match: str | None
    status: int = 0
    body_bytes: int = 0
    sent_bytes: int = 0

    @property
    def bucket(self) -> str:
        google = GOOGLE.match(self.path)
        return unquote(google["bucket"] if google else self.path[1:].partition("/")[0])

    @property
    def key(self) -> str:
        google = GOOGLE.match(self.path)
        return unquote((google["key"] or "") if google else self.path[1:].partition("/")[2])

    @classmethod
    def of(cls, head: Head) -> Record:
        """The record of a request that has just come in."""
        method, target, _ = head.start
        path, _, query = target.partition("?")
        if head.get("x-ms-version") is not None:
            # Azurite has the account before the container.
            path = "/" + path[1:].partition("/")[2]
        return cls(
            _kind(head, method, path, query),
            method,
            path,
            query,
            head.get("x-ms-range") or head.get("range"),
            head.get("if-match"),
            head.get("if-none-match"),
        )


GOOGLE = re.compile(
    r"/(?:(?P<how>upload|download)/)?storage/v1/b/(?P<bucket>[^/]+)(?:/o(?:/(?P<key>[^/]+)(?P<to>/.*)?)?)?$"
)
"""A request's path in Google's JSON API."""


def _kind_of_google(method: str, how: str | None, key: str | None, to: str | None) -> str:
    if how == "upload":
        return "PUT"
    if to is not None:
        return "COPY"
    if method == "GET":
        return "GET" if how == "download" else "HEAD" if key else "LIST"
    return method if key else "BUCKET"


def _kind(head: Head, method: str, path: str, query: str) -> str:
    if path == "/batch/storage/v1":
        return "DELETE"
    google = GOOGLE.match(path)
    if google is not None:
        return _kind_of_google(method, google["how"], google["key"], google["to"])
    if path[1:].partition("/")[2]:
        is_copy = head.get("x-amz-copy-source") or head.get("x-ms-copy-source")
        return "COPY" if method == "PUT" and is_copy else method
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if method == "POST" and ("delete" in parameters or parameters.get("comp") == "batch"):
        return "DELETE"
    is_list = "list-type" in parameters or parameters.get("comp") == "list"
    if method == "GET" and (is_list or not parameters or "prefix" in parameters):
        return "LIST"
    return "BUCKET"


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over records. *body_bytes* are those of object bodies (GET answered 200 or 206), listings not among them.

    *repeats* counts the bodies sent for a path and range of which a body had been sent before.
    """

    kinds: dict[str, int]
    statuses: dict[str, int]
    body_bytes: int
    repeats: int

    @classmethod
    def of(cls, records: Iterable[Record]) -> Counts:
        kinds: Counter[str] = Counter()
        statuses: Counter[str] = Counter()
        bodies: Counter[tuple[str, str | None]] = Counter()
        body_bytes = 0
        for record in records:
            kinds[record.kind] += 1
            statuses[str(record.status)] += 1
            if record.kind == "GET" and record.body_bytes and record.status in (200, 206):
                bodies[record.path, record.range] += 1
                body_bytes += record.body_bytes
        return cls(dict(kinds), dict(statuses), body_bytes, sum(bodies.values()) - len(bodies))
