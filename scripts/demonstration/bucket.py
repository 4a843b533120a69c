"""Where the workers read: a bucket on a SeaweedFS behind a counting proxy, or a directory tree as a bucket."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from demonstration.dataset import Dataset
from pathapi import FileClient, S3Client
from tests.bench.proxy import RemoteProxy, proxy_process
from tests.bench.records import Record
from tests.bench.servers import S3Server, s3_server

_UPLOADS = 8
"""Parallel PUTs; two cores are busy with four."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the proxy saw of one phase. *extra_bytes* are body bytes that were sent for an object beyond its size.

    *refusals* are requests among the others that the server answered with an error of its own (5xx) or not at all, and
    that boto3 therefore sent again: SeaweedFS does that now and then on a busy machine.
    """

    lists: int
    gets: int
    heads: int
    others: int
    not_modified: int
    body_bytes: int
    extra_bytes: int
    refusals: int

    @property
    def requests(self) -> int:
        return self.lists + self.gets + self.heads + self.others

    @classmethod
    def of(cls, records: Iterable[Record], sizes: dict[str, int]) -> Traffic:
        """Sums over *records*; *sizes* of the objects by key."""
        kinds: Counter[str] = Counter()
        sent: Counter[str] = Counter()
        not_modified = refusals = 0
        for record in records:
            kinds[record.kind] += 1
            not_modified += record.status == 304
            refusals += record.status == 0 or record.status >= 500
            if record.kind == "GET" and record.status in (200, 206):
                sent[record.key] += record.body_bytes
        extra = sum(max(0, count - sizes.get(key, 0)) for key, count in sent.items())
        others = kinds.total() - kinds["LIST"] - kinds["GET"] - kinds["HEAD"]
        return cls(kinds["LIST"], kinds["GET"], kinds["HEAD"], others, not_modified, sent.total(), extra, refusals)


class Bucket(Protocol):
    """A bucket that holds the dataset."""

    uri: str
    """Of the bucket's root, with a slash at its end."""

    def client(self, store: str, freshness: str) -> Any:
        """A client that reads it through the store in that directory."""
        ...

    def traffic(self) -> Traffic | None:
        """What went over the wire since last asked; None where nobody counts."""
        ...


class S3Bucket:
    """On an S3 server, behind a proxy."""

    def __init__(self, server: S3Server, proxy: RemoteProxy, dataset: Dataset) -> None:
        self._server, self._proxy, self._dataset = server, proxy, dataset
        self._name = server.new_bucket("demo")
        self._sizes = {item.key: item.size for item in dataset.objects}
        self.uri = f"s3://{self._name}/"

    def client(self, store: str, freshness: str) -> S3Client:
        return S3Client(
            self._server.access_key,
            self._server.secret_key,
            endpoint_url=self._proxy.endpoint,
            addressing_style="path",
            region=self._server.region,
            local_cache_dir=store,
            freshness=freshness,
        )

    def traffic(self) -> Traffic:
        found = Traffic.of(self._proxy.records, self._sizes)
        self._proxy.reset()
        return found

    def upload(self, tell: Callable[[int, int], None]) -> None:
        """Put the dataset there with plain boto3, past the proxy: nothing of ours has a hand in what is the truth."""
        client = self._server.client(max_pool_connections=_UPLOADS)

        def put(key: str) -> None:
            client.put_object(Bucket=self._name, Key=key, Body=(self._dataset.directory / key).read_bytes())

        with ThreadPoolExecutor(_UPLOADS) as pool:
            try:
                for number, _ in enumerate(pool.map(put, self._sizes)):
                    tell(number + 1, len(self._sizes))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class FileBucket:
    """The dataset's own directory, by ``file://``."""

    def __init__(self, dataset: Dataset) -> None:
        self.uri = f"file://{dataset.directory}/"

    def client(self, store: str, freshness: str) -> FileClient:
        return FileClient(local_cache_dir=store, freshness=freshness)

    def traffic(self) -> None:
        return None


@contextlib.contextmanager
def proxied_server() -> Iterator[tuple[S3Server, RemoteProxy]]:
    """An S3 server, ours or the one that the environment names, and a proxy process in front of it."""
    with s3_server() as server, proxy_process(server.endpoint) as proxy:
        yield server, proxy
