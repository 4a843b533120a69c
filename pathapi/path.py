"""`CloudPath`: a path in a cloud that behaves like a `pathlib.Path`, and reads through the store."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from casstore import Stored
from pathapi.backend import ObjectInfo, head_or_none
from pathapi.client import forced
from pathapi.exceptions import (
    AnyPathTypeError,
    CloudPathFileNotFoundError,
)
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.reading.entry_scopes import HoldingFile
from pathapi.registry import implementation_registry
from pathapi.transfer.tree_commands import TreePath

_READ_MODES = frozenset(("rb", "br"))


class CloudPathMeta(type):
    """Makes ``CloudPath("s3://...")`` an `S3Path`."""

    def __call__(cls, cloud_path: Any = None, *parts: Any, **options: Any) -> Any:
        if cls is not CloudPath:
            return super().__call__(cloud_path, *parts, **options)
        if isinstance(cloud_path, CloudPath):
            return type(cloud_path)(cloud_path, *parts, **options)
        return implementation_registry.path_class(_text_of(cloud_path))(cloud_path, *parts, **options)


def _text_of(given: object) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, os.PathLike):
        return str(given)
    raise AnyPathTypeError(f"a URI is a str such as 's3://bucket/key', not {type(given).__name__}")


class CloudPath(TreePath, metaclass=CloudPathMeta):
    """One object or "directory" of a cloud. ``CloudPath("s3://bucket/key")`` gives the class of its scheme.

    Reads go through the store: *freshness*, *verify* and *force_overwrite_from_cloud* of a call override what its
    client does. Children of listings carry what the listing said, so that `is_file` and `stat` of them ask nothing for
    ten seconds. A 403 raises `CloudPathPermissionError`; it never reads as "does not exist".
    """

    __slots__ = ()

    # --- reading ------------------------------------------------------------------------------------------------------

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        force_overwrite_from_cloud: bool | None = None,
        force_overwrite_to_cloud: bool | None = None,
        *,
        freshness: FreshnessArg = None,
        verify: bool | None = None,
        read_pending: bool = False,
    ) -> IO[Any]:
        """An `io` object whose ``name`` is the URI.

        Reading: the bytes of one version, from the store where it is fresh by the policy; with *read_pending*, what
        this machine wrote last and the cloud does not have, if there is such. Writing (``w``, ``x``, ``a``, ``r+``): a
        private file that is uploaded at `close`, on the condition that nobody has changed the object since; an
        exception inside the ``with`` block uploads nothing. When `close` returns, the cloud has the bytes; when it
        raises, they are kept on this machine and the error says where, and how to go on.

        Raises FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError; `PendingWriteError` and
        `OverwriteNewerLocalError` where such bytes wait for a decision; `OverwriteNewerCloudError` at close;
        `casstore.LockTimeoutError`, which names the other writer, and `casstore.ReentrantWriteError`.
        """
        is_binary = mode in _READ_MODES and encoding is None and errors is None and newline is None
        if is_binary or (mode == "r" and buffering != 0):
            client = self._client
            descriptor, looked = self._open_pending() if read_pending else None, False
            is_plain = descriptor is None and freshness is None and verify is None and not force_overwrite_from_cloud
            if client is not None and is_plain:
                policy = client.policy.of(self._text)
                if policy is not ALWAYS and not client.verify and not forced(None, "FROM_CLOUD"):
                    descriptor = client.cache.open_fresh(self._key or self._store_key(), policy.max_age_ns)
                    looked = True
            if descriptor is None:
                stored = self._open_stored(freshness, verify, force_overwrite_from_cloud, checked_cache=looked)
                descriptor = stored.descriptor
            raw = (
                io.FileIO(descriptor, "rb")
                if self.client.entry_scope is None
                else HoldingFile(descriptor, self._hold_entry())
            )
            raw.name = self._text
            if mode == "r":
                return io.TextIOWrapper(io.BufferedReader(raw), io.text_encoding(encoding), errors, newline)
            if buffering == 0:
                return raw
            return io.BufferedReader(raw) if buffering < 0 else io.BufferedReader(raw, buffering)
        return self._open_otherwise(
            mode,
            buffering,
            encoding,
            errors,
            newline,
            force_overwrite_from_cloud,
            force_overwrite_to_cloud,
            freshness,
            verify,
            read_pending,
        )

    def _open_otherwise(
        self,
        mode: str,
        buffering: int,
        encoding: str | None,
        errors: str | None,
        newline: str | None,
        from_cloud: bool | None,
        to_cloud: bool | None,
        freshness: FreshnessArg,
        verify: bool | None,
        read_pending: bool,
    ) -> IO[Any]:
        letters = set(mode)
        kinds = letters & set("rwxa")
        if len(kinds) != 1 or len(letters) != len(mode) or letters - set("rwxabt+") or {"b", "t"} <= letters:
            raise ValueError(f"invalid mode: {mode!r}")
        binary, kind = "b" in letters, kinds.pop()
        if binary and (encoding is not None or errors is not None or newline is not None):
            raise ValueError("binary mode takes no encoding, errors or newline argument")
        if not binary and buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        if kind == "r" and "+" not in letters:
            file = self.open("rb", -1 if buffering == 1 else buffering, None, None, None, from_cloud, None,
                             freshness=freshness, verify=verify, read_pending=read_pending)  # fmt: skip
            return file if binary else io.TextIOWrapper(file, io.text_encoding(encoding), errors, newline)
        return self._open_for_writing(
            kind,
            to_cloud,
            freshness,
            is_updated="+" in letters,
            text=None if binary else (io.text_encoding(encoding), errors, newline, buffering == 1),
        )

    def read_bytes(
        self,
        *,
        freshness: FreshnessArg = None,
        verify: bool | None = None,
        force_overwrite_from_cloud: bool | None = None,
        read_pending: bool = False,
    ) -> bytes:
        """All bytes of the object; with *read_pending*, what this machine wrote last and the cloud does not have."""
        client, looked = self.client, False
        if read_pending:
            waiting = self._open_pending()
            if waiting is not None:
                with io.FileIO(waiting, "rb") as file:
                    return file.readall()
        if freshness is None and verify is None and not client.verify and not force_overwrite_from_cloud:
            policy = client.policy.of(self._text)
            if policy is not ALWAYS and not forced(None, "FROM_CLOUD"):
                descriptor, looked = client.cache.open_fresh(self._store_key(), policy.max_age_ns), True
                if descriptor is not None:
                    with io.FileIO(descriptor, "rb") as file:
                        try:
                            return file.readall()
                        except OSError:
                            looked = False  # the reader below finds out what is wrong with the blob
        try:
            request = self._ask(freshness, verify, force_overwrite_from_cloud, with_content=True)
            return self._read(client.reader.read_bytes, request, checked_cache=looked)
        except CloudPathFileNotFoundError as error:
            raise self._explain_missing(error) from error
        finally:
            self._hold_entry()

    def read_text(
        self,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        freshness: FreshnessArg = None,
        verify: bool | None = None,
        force_overwrite_from_cloud: bool | None = None,
        read_pending: bool = False,
    ) -> str:
        """The object's text, decoded like a file's; see `read_bytes`."""
        data = io.BytesIO(
            self.read_bytes(
                freshness=freshness,
                verify=verify,
                force_overwrite_from_cloud=force_overwrite_from_cloud,
                read_pending=read_pending,
            )
        )
        return io.TextIOWrapper(data, io.text_encoding(encoding), errors, newline).read()

    # --- local paths --------------------------------------------------------------------------------------------------

    @property
    def fspath(self) -> str:
        """A local path with the object's name and bytes, good for this process's life whatever is evicted.

        Of a "directory", the local directory that holds the views of what is held below it; nothing is downloaded. Of
        what does not exist, a path where a tool may make a file, which waits for `push` then. A copy that somebody
        changes is not uploaded either: using the path again raises `OverwriteNewerLocalError`, with the ways on. To
        change an object by a tool that takes a path, use `edit`.
        """
        return self.__fspath__()

    def __fspath__(self) -> str:
        uri = self.uri
        if not uri.key or uri.key.endswith("/"):
            return self._view_of_directory()
        known = self._recall_listed()
        if known is not None and known.info is None:
            return self._view_of_directory()
        client = self.client
        try:
            stored = self._read(client.reader.open, self._ask(None, None, None))
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise
            if self._has_children():
                return self._view_of_directory()
            return client.cache.outbox(self._store_key(), uri.filed.bucket, client.local_name(uri))
        return self._view(stored)

    def _view(self, stored: Stored) -> str:
        try:
            return self.client.view(stored, self.uri)
        finally:
            os.close(stored.descriptor)
            self._hold_entry()

    def _view_of_directory(self) -> str:
        """The directory in the tree of views, with a view for every entry held below (where a listing agrees, if the
        policy asks).
        """
        client, uri = self.client, self.uri
        cache, origin, bucket = client.cache, client.origin, uri.filed.bucket
        prefix = self._listing_prefix
        policy = client.policy.of(self._text)
        root = f"{uri.provider}://{bucket}/"
        held = {entry.uri: entry for entry in cache.entries(root + prefix) if entry.key.origin == origin}
        if held and policy is ALWAYS:
            listed = {
                self._at_key(item.key).uri.canonical: item
                for item, _ in self._list(prefix, delimited=False)
                if isinstance(item, ObjectInfo)
            }
            backend = client.backend(uri.bucket)
            agreed = {u: head_or_none(backend, i.key) if i.is_named_only else i for u, i in listed.items() if u in held}
            held = {u: held[u] for u, i in agreed.items() if i and i.validator.same_version(held[u].validator)}
        directory = cache.view_directory(origin, bucket, prefix)
        for entry in held.values():
            descriptor = cache.open_entry(entry)
            if descriptor is not None:
                try:
                    cache.view(entry, descriptor, bucket, entry.uri[len(root) :], client.views)
                finally:
                    os.close(descriptor)
        return directory

    @contextmanager
    def local(self) -> Iterator[str]:
        """A local path for the length of the ``with`` block, given back at its end."""
        path = self._view(self._open_stored(None, None, None))
        try:
            yield path
        finally:
            self.client.release_view(path)

    def clear_cache(self) -> None:
        """Drop the entry, or the entries below, but for pinned ones; local paths that were handed out stay, and what
        was written and waits for the cloud does.
        """
        client = self.client
        origin, uri = client.origin, self.uri.canonical
        below = uri if uri.endswith("/") else uri + "/"
        client.cache.evict(
            lambda entry: entry.key.origin == origin and (entry.uri == uri or entry.uri.startswith(below)), uri
        )
