"""Where the workers read: a bucket on a server behind a counting proxy, or a directory tree as a bucket."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from demos.shared.clouds import STARTED, UPLOADS, Ground
from demos.shared.dataset import Dataset
from pathapi import FileClient
from tests.harness.proxy import RemoteProxy, proxy_process
from tests.harness.request_log import Record


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the proxy saw of one phase. *extra_bytes* are body bytes that were sent for an object beyond its size.

    *refusals* are requests among the others that the server answered with an error of its own (5xx) or not at all, and
    that were therefore sent again: SeaweedFS does that now and then on a busy machine.
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
            # An index page has a key; no object of a dataset ends with a slash.
            is_page = record.kind == "GET" and record.path.endswith("/")
            kinds["LIST" if is_page else record.kind] += 1
            not_modified += record.status == 304
            refusals += record.status == 0 or record.status >= 500
            if record.kind == "GET" and not is_page and record.status in (200, 206):
                sent[record.key] += record.body_bytes
        extra = sum(max(0, count - sizes.get(key, 0)) for key, count in sent.items())
        others = kinds.total() - kinds["LIST"] - kinds["GET"] - kinds["HEAD"]
        return cls(kinds["LIST"], kinds["GET"], kinds["HEAD"], others, not_modified, sent.total(), extra, refusals)


class Bucket(Protocol):
    """A bucket that holds the dataset."""

    place: str
    """What it is on, for the table's title."""
    note: str
    uri: str
    """Of the bucket's root, with a slash at its end."""
    states_checksums: bool

    def uri_of(self, key: str) -> str:
        """Of an object, as a listing gives it."""
        ...

    def client(self, store: str, freshness: str) -> Any:
        """A client that reads it through the store in that directory."""
        ...

    def traffic(self) -> Traffic | None:
        """What went over the wire since last asked; None where nobody counts."""
        ...


class ServedBucket:
    """On a server, behind a proxy."""

    def __init__(self, ground: Ground, proxy: RemoteProxy, dataset: Dataset) -> None:
        self._ground, self._proxy, self._dataset = ground, proxy, dataset
        self._sizes = {item.key: item.size for item in dataset.objects}
        self.place, self.note, self.states_checksums = ground.server, ground.note, ground.states_checksums
        self.uri = ground.root(proxy.endpoint)

    def uri_of(self, key: str) -> str:
        return self.uri + self._ground.spelled(key)

    def client(self, store: str, freshness: str) -> Any:
        return self._ground.client(self._proxy.endpoint, local_cache_dir=store, freshness=freshness)

    def traffic(self) -> Traffic:
        found = Traffic.of(self._proxy.records, self._sizes)
        self._proxy.reset()
        return found

    def upload(self, on_progress: Callable[[int, int], None]) -> None:
        """Upload the dataset; *on_progress* is called with the objects done and the objects in all.

        Raises: UploadError.
        """

        def put(key: str) -> None:
            try:
                self._ground.plant(key, (self._dataset.directory / key).read_bytes())
            except Exception as error:
                raise UploadError(f"{self.place} did not take {key}: {error}") from error

        with ThreadPoolExecutor(UPLOADS) as pool:
            try:
                for number, _ in enumerate(pool.map(put, self._sizes)):
                    on_progress(number + 1, len(self._sizes))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class UploadError(RuntimeError):
    """The server did not take an object of the dataset."""


class FileBucket:
    """The dataset's own directory, by ``file://``."""

    place = "a file:// bucket"
    note = ""
    states_checksums = True

    def __init__(self, dataset: Dataset) -> None:
        self.uri = f"file://{dataset.directory}/"

    def uri_of(self, key: str) -> str:
        return self.uri + key

    def client(self, store: str, freshness: str) -> FileClient:
        return FileClient(local_cache_dir=store, freshness=freshness)

    def traffic(self) -> None:
        return None


@contextlib.contextmanager
def served(cloud: str, dataset: Dataset) -> Iterator[ServedBucket]:
    """A bucket on a server of *cloud*, ours or the one that the environment names, behind a proxy process."""
    with STARTED[cloud]() as ground, proxy_process(ground.endpoint, gcs_rules=not ground.follows_rules) as proxy:
        yield ServedBucket(ground, proxy, dataset)
