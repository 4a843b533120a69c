"""A cloud path that can be asked about: its client, what a listing or the store says of it, and the requests."""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from casstore import Key, Stored
from pathapi.backend import HasUrls, ObjectInfo, head_or_none
from pathapi.client import forced
from pathapi.enums import FileCacheMode
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotImplementedError,
    InvalidUriError,
    NoStatError,
)
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.location import Location
from pathapi.metadata.info import CloudPathInfo
from pathapi.pure_path import PureCloudPath
from pathapi.reading.entry_scopes import EntryHold
from pathapi.reading.listing_cache import ListedFact
from pathapi.reading.reader import LocalChangeFoundError, ReadRequest
from pathapi.registry import implementation_registry

if TYPE_CHECKING:
    from pathapi.client import Client

ResultT = TypeVar("ResultT")


class AskingPath(PureCloudPath):
    """`CloudPath` as far as one object, or the question whether there is anything below, goes."""

    __slots__ = ("_hold", "_key", "_listed")

    _hold: EntryHold | None
    _key: Key | None
    _listed: ListedFact | None

    def __init__(self, cloud_path: str | PureCloudPath, *parts: str, client: Client[Any] | None = None) -> None:
        if client is not None and not isinstance(client, implementation_registry.client_class(type(self))):
            implementation_registry.refuse_client(type(self), client)
        super().__init__(cloud_path, *parts, client=client)
        self._key = None
        self._listed = None
        self._hold = None

    def _derive(self, uri_text: str) -> Self:
        path = super()._derive(uri_text)
        path._key = None
        path._listed = None
        path._hold = None
        return path

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_path, (type(self), self._text, self._client)

    @classmethod
    def validate(cls, value: str) -> Self:
        """The same as calling the class, for pydantic."""
        made: Self = cls(value)
        return made

    @property
    def client(self) -> Client[Any]:
        """The client; the class's default one from first need on."""
        if self._client is None:
            self._client = implementation_registry.client_class(type(self)).get_default_client()
        client: Client[Any] = self._client
        return client

    # --- asking the cloud ---------------------------------------------------------------------------------------------

    def _store_key(self) -> Key:
        key = self._key
        if key is None:
            key = self._key = self.client.store_key(self.uri)
        return key

    def _recall_listed(self) -> ListedFact | None:
        uri = self.uri
        return self.client.listings.recall(uri.bucket, uri.key, self._listed)

    def _listed_info(self) -> ListedFact | None:
        """What a listing tells of it; None where it tells the name of an object and no more."""
        return _telling(self._recall_listed())

    def _ask(
        self,
        freshness: FreshnessArg,
        verify: bool | None,
        force: bool | None,
        *,
        require_store: bool = False,
        with_content: bool = False,
        ignore_pending: bool = False,
    ) -> ReadRequest:
        client, uri = self.client, self.uri
        if not uri.key:
            raise CloudPathIsADirectoryError(f"{self._shown} is a bucket, not an object")
        return ReadRequest(
            self._target(),
            client.policy.of_call(self._text, freshness),
            # Of any age: an epoch lasts longer than a listing is believed. The policy or the server has the last word.
            _telling(client.listings.recall_any_age(uri.bucket, uri.key, self._listed)),
            client.verify if verify is None else verify,
            forced(force, "FROM_CLOUD"),
            require_store,
            with_content,
            ignore_pending,
        )

    def _read(self, read: Callable[..., ResultT], request: ReadRequest, *, checked_cache: bool = False) -> ResultT:
        """Return *read* (of the client's reader) of *request*, once no pending write of the object blocks reading."""
        is_changed = not request.ignore_pending and self.client.cache.has_local_changes(request.key)
        while True:
            if is_changed:
                from pathapi.writing.pending import ensure_no_conflict  # most readers meet nothing pending

                ensure_no_conflict(self._target(), force=request.force, may_request=request.freshness.asks)
            try:
                return read(request, checked_cache=checked_cache)
            except LocalChangeFoundError:
                is_changed, checked_cache = True, False

    def _target(self) -> Location:
        uri = self.uri
        return Location(self.client, self._store_key(), uri.bucket, uri.key)

    def _open_stored(
        self,
        freshness: FreshnessArg,
        verify: bool | None,
        force: bool | None,
        *,
        checked_cache: bool = False,
        require_store: bool = False,
    ) -> Stored:
        cache = self.client.cache
        if require_store and cache.unavailable is not None:
            raise cache.unavailable
        try:
            request = self._ask(freshness, verify, force, require_store=require_store)
            return self._read(self.client.reader.open, request, checked_cache=checked_cache)
        except CloudPathFileNotFoundError as error:
            raise self._explain_missing(error) from error

    def _open_identified(self, freshness: FreshnessArg, *, ignore_pending: bool = False) -> Stored:
        """The object as some version. An empty one may come without; asked again as what is held, it comes with one."""
        read = self.client.reader.open
        stored = self._read(read, self._ask(freshness, None, None, ignore_pending=ignore_pending))
        if stored.validator is None or stored.validator.identifies:
            return stored
        os.close(stored.descriptor)
        return self._read(read, self._ask(ALWAYS, None, None, ignore_pending=ignore_pending))

    def _hold_entry(self) -> EntryHold | None:
        """What keeps the entry where the client's mode lets it go: held by a file, or by this path."""
        client = self.client
        hold = None if client.entry_scope is None else client.entry_scope.hold(self._store_key())
        if client.file_cache_mode is FileCacheMode.cloudpath_object:
            self._hold = hold
        return hold

    def _explain_missing(self, error: CloudPathFileNotFoundError) -> CloudPathException:
        """Reading a "directory" is a mistake of its own; the extra request is spent only on the way to an error."""
        with suppress(CloudPathException):  # credentials may allow no listing
            if type(error) is CloudPathFileNotFoundError and self._has_children():
                return CloudPathIsADirectoryError(
                    f"{self._shown} is a directory: nothing of that very name, only objects below it"
                )
        return error

    def _head(self) -> ObjectInfo | None:
        """What the object is, by the policy's standard of fresh; None where there is none."""
        client, uri = self.client, self.uri
        if not uri.key:
            return None
        listed = self._listed_info()
        if listed is not None:
            return listed.info
        if client.listings.is_absent(uri.bucket, uri.key):
            return None
        policy = client.policy.of(self._text)
        if policy is not ALWAYS:
            entry = client.cache.lookup(self._store_key())
            now = client.now()
            if entry is not None and entry.validator.mtime_ns is not None and policy.allows(entry, now, now):
                return ObjectInfo(uri.key, entry.validator)
            if not policy.asks:
                return None if entry is None else ObjectInfo(uri.key, entry.validator)
        return head_or_none(client.backend(uri.bucket), uri.key)

    def _stated(self, kind: str, *, by_listing: bool = True) -> str | None:
        """The object's checksum of that kind as the cloud states it, in hex; None where it states none, or may not be
        asked. What a listing says of it counts where *by_listing*. Raises FileNotFoundError.
        """
        client, uri = self.client, self.uri
        policy = client.policy.of(self._text)
        info = self._head() if by_listing or not policy.asks else None
        is_entry = info is not None and not info.checksums and policy is not ALWAYS  # which keeps no checksums
        if policy.asks and (is_entry or not by_listing) and uri.key:
            info = head_or_none(client.backend(uri.bucket), uri.key)
        if info is None:
            raise CloudPathFileNotFoundError(f"{self._shown} does not exist")
        return next((checksum.value for checksum in info.checksums if checksum.kind == kind), None)

    def _has_children(self) -> bool:
        client, uri = self.client, self.uri
        if not client.policy.of(self._text).asks:
            below = f"{uri.provider}://{uri.filed.bucket}/{self._listing_prefix}"
            return any(entry.key.origin == client.origin for entry in client.cache.entries(below))
        listing = client.backend(uri.bucket).list(self._listing_prefix, limit=1)
        return next(iter(listing), None) is not None

    @property
    def info(self) -> CloudPathInfo:
        """What is known of the path, asked for once; also callable, for those who know it as a method."""
        return CloudPathInfo(self)

    def exists(self, follow_symlinks: bool = True) -> bool:
        """Whether there is an object of that name or anything below it."""
        listed = self._recall_listed()
        if listed is not None:
            return True
        return self._head() is not None or self._has_children()

    def is_file(self, follow_symlinks: bool = True) -> bool:
        """Whether there is an object of that name."""
        listed = self._recall_listed()
        return listed.info is not None if listed is not None else self._head() is not None

    def is_dir(self, follow_symlinks: bool = True) -> bool:
        """Whether there is anything below that name."""
        listed = self._recall_listed()
        if listed is not None and (listed.info is None or listed is self._listed):
            # A listing's child is one or the other; a name that is both comes as two children.
            return listed.info is None
        return self._has_children()

    def stat(self, follow_symlinks: bool = True) -> os.stat_result:
        """Size, mtime and a mode that says "regular file". Raises NoStatError for a directory, FileNotFoundError."""
        info = self._head()
        if info is None:
            if self._has_children():
                raise NoStatError(f"{self._shown} is a directory: object stores keep no size or time for those")
            raise CloudPathFileNotFoundError(f"{self._shown} does not exist")
        mtime_ns = info.validator.mtime_ns or 0
        fields = (stat_module.S_IFREG | 0o644, 0, 0, 1, 0, 0, info.size, 0, mtime_ns // 10**9, 0)
        return os.stat_result(
            fields, {"st_mtime": mtime_ns / 1e9, "st_mtime_ns": mtime_ns, "st_atime_ns": 0, "st_ctime_ns": 0}
        )

    @property
    def etag(self) -> str:
        """The object's ETag, without quotes. Raises FileNotFoundError."""
        info = self._head()
        if info is None:
            raise CloudPathFileNotFoundError(f"{self._shown} does not exist")
        return info.validator.etag or ""

    def as_url(self, presign: bool = False, expire_seconds: int = 3600) -> str:
        """The object's ``https://`` URL at the client's endpoint; with *presign*, one by which whoever has it may GET
        the object for *expire_seconds*. Nobody looks whether there is such an object.

        Raises `MissingCredentialsError` where there is nothing to sign with, `CloudPathNotImplementedError` where the
        cloud has no signed URLs, `InvalidConfigurationException` for a time that it takes no signature for.
        """
        uri = self.uri
        if not uri.bucket and self.cloud_prefix != "file://":
            raise InvalidUriError(f"{self._shown} names no bucket")
        if presign and not uri.key:
            raise CloudPathIsADirectoryError(f"{self._shown} is a bucket, not an object")
        backend: object = self.client.backend(uri.bucket)
        if not isinstance(backend, HasUrls):
            raise CloudPathNotImplementedError(f"{self._shown}: its backend knows no URLs")
        return backend.signed_url(uri.key, expire_seconds) if presign else backend.url(uri.key)


def _telling(listed: ListedFact | None) -> ListedFact | None:
    """*listed*, unless it names an object and tells nothing of it."""
    return None if listed is not None and listed.info is not None and listed.info.is_named_only else listed


def _restore_path(cls: type[AskingPath], text: str, client: Any) -> AskingPath:
    path: AskingPath = cls(text, client=client)
    return path
