"""`CloudPath`: a path in a cloud that behaves like a `pathlib.Path`, and reads through the store."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from casstore import Stored
from pathapi.asking import FreshnessArg, forced
from pathapi.backend import ABSENT, ObjectInfo
from pathapi.claims import ClaimedFile
from pathapi.exceptions import (
    AnyPathTypeError,
    CloudPathFileExistsError,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
)
from pathapi.freshness import ALWAYS
from pathapi.moves import MovingPath
from pathapi.registry import implementation_registry
from pathapi.writing import Base, CloudBufferedRandom, CloudBufferedWriter, CloudTextWriter, Upload, head_or_none

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


class CloudPath(MovingPath, metaclass=CloudPathMeta):
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
    ) -> IO[Any]:
        """An `io` object whose ``name`` is the URI.

        Reading: the bytes of one version, from the store where it is fresh by the policy. Writing (``w``, ``x``, ``a``,
        ``r+``): a private file that is uploaded at `close`, on the condition that nobody has changed the object since;
        an exception inside the ``with`` block uploads nothing. Raises FileNotFoundError, FileExistsError,
        IsADirectoryError, PermissionError, `OverwriteNewerCloudError` (at close).
        """
        if mode in _READ_MODES or mode == "r":
            client = self._client
            descriptor, looked = None, False
            if client is not None and freshness is None and verify is None and not force_overwrite_from_cloud:
                policy = client.policy.of(self._text)
                if policy is not ALWAYS and not client.verify and not forced(None, "FROM_CLOUD"):
                    descriptor = client.cache.open_fresh(self._key or self._store_key(), policy.max_age_ns)
                    looked = True
            if descriptor is None:
                stored = self._open_stored(freshness, verify, force_overwrite_from_cloud, looked=looked)
                descriptor = stored.descriptor
            raw = io.FileIO(descriptor, "rb") if self.client.claims is None else ClaimedFile(descriptor, self._hold())
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
                             freshness=freshness, verify=verify)  # fmt: skip
            return file if binary else io.TextIOWrapper(file, io.text_encoding(encoding), errors, newline)
        upload = self._begin_upload(kind, forced(to_cloud, "TO_CLOUD"), freshness)
        buffered: Any = CloudBufferedRandom(upload) if "+" in letters else CloudBufferedWriter(upload)
        if kind == "a":
            buffered.seek(0, os.SEEK_END)
        if binary:
            return buffered  # type: ignore[no-any-return]
        return CloudTextWriter(buffered, io.text_encoding(encoding), errors, newline, line_buffering=buffering == 1)

    def _begin_upload(self, kind: str, force: bool, freshness: FreshnessArg) -> Upload:
        client, uri = self.client, self.uri
        if not uri.key or uri.key.endswith("/"):
            raise CloudPathIsADirectoryError(
                f"{self} names a directory: an object to be written has a name after the last slash"
            )
        stored = None
        if kind in "ar":
            # What is added to is what was read: its version is the base.
            try:
                stored = self._open_stored(freshness, None, None)
                if stored.validator is not None and not stored.validator.identifies:
                    # An empty object may come without a version; asked again as what is held, it comes with one.
                    os.close(stored.descriptor)
                    stored = self._open_stored(ALWAYS, None, None)
            except CloudPathFileNotFoundError:
                if kind == "r":
                    raise
        base = self._base(kind, force, stored, freshness)
        try:
            upload = Upload(client, self._store_key(), uri.bucket, uri.key, base)
            if stored is not None:
                assert upload.staging is not None
                upload.staging.take(stored.descriptor)
        finally:
            if stored is not None:
                os.close(stored.descriptor)
        return upload

    def _base(self, kind: str, force: bool, stored: Stored | None, freshness: FreshnessArg) -> Base:
        client, uri = self.client, self.uri
        if kind == "x":
            return Base(ABSENT, exclusive=True)
        if force:
            return Base(None)
        if stored is not None and stored.validator is not None:
            return Base(stored.validator)
        if kind == "a" and stored is None:
            return Base(ABSENT)
        listed = self._recall()
        if (
            listed is not None
            and listed.info is not None
            and freshness is None
            and client.policy.of(self._text) is not ALWAYS
        ):
            return Base(listed.info.validator)
        if client.listings.is_absent(uri.bucket, uri.key):
            return Base(ABSENT, guessed=True)
        policy = client.policy.of_call(self._text, freshness)
        if policy is not ALWAYS:
            entry, now = client.cache.held(self._store_key()), client.now()
            if entry is not None and policy.allows(entry, now, now):
                return Base(entry.validator)
        info = head_or_none(client.backend(uri.bucket), uri.key)
        return Base(ABSENT if info is None else info.validator)

    def read_bytes(self, *, freshness: FreshnessArg = None, verify: bool | None = None) -> bytes:
        """All bytes of the object."""
        client, looked = self.client, False
        if freshness is None and verify is None and not client.verify:
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
            return client.reader.read_bytes(self._ask(freshness, verify, None), looked=looked)
        except CloudPathFileNotFoundError as error:
            raise self._explain_missing(error) from error
        finally:
            self._hold()

    def read_text(
        self,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        freshness: FreshnessArg = None,
        verify: bool | None = None,
    ) -> str:
        """The object's text, decoded like a file's."""
        data = io.BytesIO(self.read_bytes(freshness=freshness, verify=verify))
        return io.TextIOWrapper(data, io.text_encoding(encoding), errors, newline).read()

    # --- local paths --------------------------------------------------------------------------------------------------

    @property
    def fspath(self) -> str:
        """A local path with the object's name and bytes, good for this process's life whatever is evicted.

        Of a "directory", the local directory that holds the views of what is held below it; nothing is downloaded.
        """
        return self.__fspath__()

    def __fspath__(self) -> str:
        uri = self.uri
        if not uri.key or uri.key.endswith("/"):
            return self._view_of_directory()
        listed = self._recall()
        if listed is not None and listed.info is None:
            return self._view_of_directory()
        client = self.client
        try:
            stored = client.reader.open(self._ask(None, None, None))
        except CloudPathFileNotFoundError:
            if self._has_children():
                return self._view_of_directory()
            raise
        return self._view(stored)

    def _view(self, stored: Stored) -> str:
        try:
            return self.client.view(stored, self.uri)
        finally:
            os.close(stored.descriptor)
            self._hold()

    def _view_of_directory(self) -> str:
        """The directory in the tree of views, with a view for every entry held below (where a listing agrees, if the
        policy asks).
        """
        client, uri = self.client, self.uri
        cache, origin = client.cache, client.origin
        prefix = self._listing_prefix
        policy = client.policy.of(self._text)
        root = f"{uri.provider}://{uri.bucket}/"
        held = {entry.uri: entry for entry in cache.entries(root + prefix) if entry.key.origin == origin}
        if held and policy is ALWAYS:
            agreed = {
                self._at_key(item.key).uri.canonical: item.validator
                for item, _ in self._list(prefix, delimited=False)
                if isinstance(item, ObjectInfo)
            }
            held = {u: e for u, e in held.items() if u in agreed and agreed[u].same_version(e.validator)}
        directory = cache.view_directory(origin, uri.bucket, prefix)
        for entry in held.values():
            descriptor = cache.open_entry(entry)
            if descriptor is not None:
                try:
                    cache.view(entry, descriptor, uri.bucket, entry.uri[len(root) :], client.views)
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
        """Drop the entry, or the entries below; views that were handed out stay."""
        client = self.client
        origin, uri = client.origin, self.uri.canonical
        below = uri if uri.endswith("/") else uri + "/"
        client.cache.evict(
            lambda entry: entry.key.origin == origin and (entry.uri == uri or entry.uri.startswith(below)), uri
        )

    # --- writing ------------------------------------------------------------------------------------------------------

    def write_bytes(self, data: bytes, *, force_overwrite_to_cloud: bool | None = None) -> int:
        """Make *data* the object's content; the count of bytes."""
        view = memoryview(data)
        with self.open("wb", force_overwrite_to_cloud=force_overwrite_to_cloud) as file:
            return file.write(view)

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        force_overwrite_to_cloud: bool | None = None,
    ) -> int:
        """Make *data*, encoded like a file, the object's content; the count of characters."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        with self.open("w", -1, io.text_encoding(encoding), errors, newline,
                       force_overwrite_to_cloud=force_overwrite_to_cloud) as file:  # fmt: skip
            return file.write(data)

    def touch(self, exist_ok: bool = True, mode: int | None = None) -> None:
        """Make an empty object if there is none; an existing one stays as it is. Raises FileExistsError."""
        try:
            with self.open("xb"):
                pass
        except CloudPathFileExistsError:
            if not exist_ok:
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False, mode: int | None = None) -> None:
        """Nothing: "directories" of an object store exist while there is something in them."""
