"""`LocalClient`: each bucket is a directory below *local_storage_dir*."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import casstore
from pathapi.backend import Backend, ListItem
from pathapi.backends.file.backend import FileBackend
from pathapi.backends.settings import Connected, ConnectionSettings
from pathapi.client import Client, ContentType, guess_type
from pathapi.exceptions import CloudPathLocalPathTraversalError, CloudPathNotImplementedError
from pathapi.reading.listing_cache import ListedFact, NameListings
from pathapi.registry import CloudImplementation


class LocalClient(Connected, Client[Any]):
    """A client for tests. Other arguments than these and `pathapi.client.Client`'s are those of a cloud: not used.

    Without *local_storage_dir*, all clients of one class share a temporary directory until the process ends. Without
    *local_cache_dir* and its environment variables, all local clients of the process share a temporary store.
    """

    _default_storage_dir: ClassVar[Path | None] = None

    def __init__(
        self,
        *args: Any,
        local_storage_dir: str | os.PathLike[str] | None = None,
        file_cache_mode: Any = None,
        local_cache_dir: str | os.PathLike[str] | None = None,
        content_type_method: ContentType | None = guess_type,
        **kwargs: Any,
    ) -> None:
        self.connection: Any = _Directory(None if local_storage_dir is None else os.fspath(local_storage_dir))
        if local_cache_dir is None and not (
            os.environ.get("CASSTORE_DIR") or os.environ.get("CLOUDPATHLIB_LOCAL_CACHE_DIR")
        ):
            local_cache_dir = _temporary_store()
        options = {name: kwargs[name] for name in kwargs.keys() & (Client.__init__.__kwdefaults__ or {}).keys()}
        Client.__init__(self, file_cache_mode, local_cache_dir, content_type_method, **options)
        self.listings = _NoListings()

    @classmethod
    def get_default_storage_dir(cls) -> Path:
        """Return the directory of clients without *local_storage_dir*; the first call makes it."""
        if cls._default_storage_dir is None:
            cls._default_storage_dir = _make_temporary("casstore-buckets-")
        return cls._default_storage_dir

    @classmethod
    def reset_default_storage_dir(cls) -> Path:
        """Delete that directory, and return a new one, which all clients without *local_storage_dir* use now."""
        if cls._default_storage_dir is not None:
            shutil.rmtree(cls._default_storage_dir, ignore_errors=True)
        cls._default_storage_dir = None
        return cls.get_default_storage_dir()

    @property
    def local_storage_dir(self) -> Path:
        """The directory whose directories are the buckets."""
        given = self.connection.local_storage_dir
        return self.get_default_storage_dir() if given is None else Path(given)

    @property
    def origin(self) -> str:
        """Names the directory: another one has other objects."""
        return f"local@{self.local_storage_dir}"

    def backend(self, bucket: str) -> Backend:
        """Return a new backend: the directory may be another one since `reset_default_storage_dir`."""
        return self._make_backend(bucket)

    def _make_backend(self, bucket: str) -> Backend:
        # Without a bucket, the directory of all, to list them.
        uri = f"{self._cloud_meta.path_class.cloud_prefix}{bucket and bucket + '/'}"
        if bucket in (".", ".."):
            raise CloudPathLocalPathTraversalError(f"{uri}: no directory can stand for this bucket: use another name")
        return _DirectoryBackend(self.origin, bucket, uri, self.local_storage_dir, self._lock_timeout)

    def _settings(self) -> dict[str, Any]:
        return dict(self.connection.plain_settings())

    def _lock_timeout(self) -> float:
        return self.cache.settings.lock_timeout


def implementation_of(name: str, path_class: Any, client_class: type[LocalClient]) -> CloudImplementation:
    """Join the two classes; return what `implementation_registry` takes for them."""
    implementation = CloudImplementation(name, path_class, client_class)
    path_class._cloud_meta = client_class._cloud_meta = implementation
    path_class.__name__ = path_class.__name__.removeprefix("Local")  # paths print as those they stand for
    return implementation


@dataclass
class _Directory(ConnectionSettings):
    """What a pickle of the client contains."""

    local_storage_dir: str | None


class _DirectoryBackend(FileBackend):
    """The directory of a bucket, which the first write makes."""

    def __init__(self, origin: str, bucket: str, uri: str, root: Path, lock_timeout: Callable[[], float]) -> None:
        super().__init__(os.path.join(root, bucket), lock_timeout)
        self.origin, self.bucket, self._root_uri = origin, bucket, uri

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        if not self.bucket and not delimited:
            raise CloudPathNotImplementedError(
                f"{self._root_uri}: it lists buckets alone: use iterdir(), and list one of them"
            )
        return super().list(prefix, delimited=delimited, limit=limit)

    def url(self, key: str) -> str:
        return self._root_uri + key

    def signed_url(self, key: str, seconds: int) -> str:
        return f"{self._root_uri}{key}?expires={seconds}&signature=local"

    def _has_root(self) -> bool:
        return True  # an empty bucket until then


class _NoListings(NameListings):
    """Remembers nothing: tests change the directory by other means, too."""

    def recall_any_age(self, bucket: str, key: str, listed: ListedFact | None) -> ListedFact | None:
        """Return None."""
        return None


@cache
def _temporary_store() -> Path:
    return _make_temporary("casstore-local-")


def _make_temporary(prefix: str) -> Path:
    """Make a directory that the end of this process deletes; that of a child leaves it."""
    made, owner = Path(tempfile.mkdtemp(prefix=prefix)), os.getpid()

    def delete() -> None:
        if os.getpid() == owner:
            shutil.rmtree(made, ignore_errors=True)

    casstore.at_exit(delete)
    return made
