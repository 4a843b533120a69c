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
from pathapi.freshness import FreshnessLike
from tests.harness.proxy import RemoteProxy, proxy_process
from tests.harness.request_log import Record


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of one phase, as the proxy counted them. *extra_bytes* were sent for an object beyond its size.

    *refusals* are those that the server answered with a 5xx or not at all, so that the client repeated them. SeaweedFS
    does that now and then on a busy machine.
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
        """Sum up *records*; *sizes* are those of the objects, by key."""
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
    """The name of the server, for the title of the table."""
    note: str
    uri: str
    """The URI of the bucket's root, with a slash at its end."""
    states_checksums: bool

    def uri_of(self, key: str) -> str:
        """Return the URI of *key*, as a listing spells it."""
        ...

    def client(self, store: str, freshness: FreshnessLike) -> Any:
        """Return a client that reads the bucket through the store in the directory *store*."""
        ...

    def traffic(self) -> Traffic | None:
        """Return the requests since the last call; None if they are not counted."""
        ...


class ServedBucket:
    """A bucket on a server, behind a proxy."""

    def __init__(self, ground: Ground, proxy: RemoteProxy, dataset: Dataset) -> None:
        self._ground, self._proxy, self._dataset = ground, proxy, dataset
        self._sizes = {item.key: item.size for item in dataset.objects}
        self.place, self.note, self.states_checksums = ground.server, ground.note, ground.states_checksums
        self.uri = ground.root(proxy.endpoint)

    def uri_of(self, key: str) -> str:
        return self.uri + self._ground.spelled(key)

    def client(self, store: str, freshness: FreshnessLike) -> Any:
        # The dataset is not an attacker's: equal MD5s are equal bytes.
        habits = {"freshness": freshness, "dedup_by_checksum": "origin"}
        return self._ground.client(self._proxy.endpoint, local_cache_dir=store, **habits)

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
                raise UploadError(f"{self.place} refused {key}: {error}") from error

        with ThreadPoolExecutor(UPLOADS) as pool:
            try:
                for number, _ in enumerate(pool.map(put, self._sizes)):
                    on_progress(number + 1, len(self._sizes))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class UploadError(RuntimeError):
    """The server refused an object of the dataset."""


class FileBucket:
    """The directory of the dataset, read by ``file://``."""

    place = "a file:// bucket"
    note = ""
    states_checksums = True

    def __init__(self, dataset: Dataset) -> None:
        self.uri = f"file://{dataset.directory}/"

    def uri_of(self, key: str) -> str:
        return self.uri + key

    def client(self, store: str, freshness: FreshnessLike) -> FileClient:
        return FileClient(local_cache_dir=store, freshness=freshness)

    def traffic(self) -> None:
        return None


@contextlib.contextmanager
def served(cloud: str, dataset: Dataset) -> Iterator[ServedBucket]:
    """Start a server of *cloud* (or use the one that the environment names), a bucket and a proxy process."""
    with STARTED[cloud]() as ground, proxy_process(ground.endpoint, gcs_rules=not ground.follows_rules) as proxy:
        yield ServedBucket(ground, proxy, dataset)
