"""`OpenablePath`: the half of a `CloudPath` that opens, reads and writes an object's bytes."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack, overload

from pathapi.client import forced
from pathapi.enums import FileCacheMode
from pathapi.freshness import ALWAYS, FreshnessArg
from pathapi.path.located_path import LocatedPath
from pathapi.reading.entry_scopes import EntryHold, HoldingFile
from pathapi.writing import opening
from pathapi.writing.opening import OpenOptions, ReadOptions

if TYPE_CHECKING:
    from _typeshed import OpenBinaryModeReading, OpenBinaryModeUpdating, OpenBinaryModeWriting, OpenTextMode

_READ_MODES: Final = frozenset(("rb", "br"))
_NOT_CHECKED: Final = -1  # in place of a descriptor: the store was not asked for a fresh entry


class OpenArguments(TypedDict, total=False):
    """What `CloudPath.open` takes beside the built-in's arguments."""

    force_overwrite_from_cloud: bool | None
    force_overwrite_to_cloud: bool | None
    freshness: FreshnessArg
    verify: bool | None
    read_pending: bool


class OpenablePath(LocatedPath):
    """Reads through the store; a write is uploaded when its file is closed."""

    __slots__ = ()

    # fmt: off
    @overload
    def open(
        self, mode: OpenTextMode = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, **options: Unpack[OpenArguments],
    ) -> io.TextIOWrapper: ...
    @overload
    def open(  # type: ignore[overload-overlap] # 0 is an int too
        self, mode: OpenBinaryModeReading, buffering: Literal[0], encoding: None = None, errors: None = None,
        newline: None = None, **options: Unpack[OpenArguments],
    ) -> io.FileIO: ...
    @overload
    def open(
        self, mode: OpenBinaryModeReading, buffering: int = -1, encoding: None = None, errors: None = None,
        newline: None = None, **options: Unpack[OpenArguments],
    ) -> io.BufferedReader: ...
    @overload
    def open(
        self, mode: OpenBinaryModeWriting, buffering: int = -1, encoding: None = None, errors: None = None,
        newline: None = None, **options: Unpack[OpenArguments],
    ) -> io.BufferedWriter: ...
    @overload
    def open(
        self, mode: OpenBinaryModeUpdating, buffering: int = -1, encoding: None = None, errors: None = None,
        newline: None = None, **options: Unpack[OpenArguments],
    ) -> io.BufferedRandom: ...
    @overload
    def open(
        self, mode: str, buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, **options: Unpack[OpenArguments],
    ) -> IO[Any]: ...
    # fmt: on

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
        """Open an `io` object whose ``name`` is the URI.

        Reading: the bytes of one version, from the store if its copy is fresh by the policy; with *read_pending*, the
        newest bytes that this machine wrote and has not uploaded, if any. Writing (``w``, ``x``, ``a``, ``r+``): a
        private file that `close` uploads, if the object has not changed since; an exception inside the ``with`` block
        uploads nothing. If `close` raises, this machine keeps the bytes, and the error says where, and how to go on.

        Raises FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError; PendingWriteError and
        OverwriteNewerLocalError if such bytes await a decision; OverwriteNewerCloudError at close;
        `casstore.LockTimeoutError`, which names the other writer; `casstore.ReentrantWriteError`.
        """
        is_binary = mode in _READ_MODES and encoding is None and errors is None and newline is None
        if not is_binary and (mode not in ("r", "rt") or buffering == 0):
            options = OpenOptions.parse(mode, buffering, encoding, errors, newline)
            if not options.is_reading:
                return opening.open_for_writing(self.location, options, force_overwrite_to_cloud, freshness)
            is_binary = options.is_binary
        is_plain = freshness is None and verify is None and not force_overwrite_from_cloud
        descriptor = self._open_warm(read_pending) if is_plain else _NOT_CHECKED
        if descriptor is None or descriptor < 0:
            reading = ReadOptions(freshness, verify, force_overwrite_from_cloud, read_pending, descriptor is None)
            descriptor = opening.open_for_reading(self.location, reading)
        is_held = self._client.entry_scope is not None
        raw = HoldingFile(descriptor, self._hold_entry()) if is_held else io.FileIO(descriptor, "rb")
        raw.name = self._text
        if buffering == 0:
            return raw
        file = io.BufferedReader(raw) if buffering <= 1 else io.BufferedReader(raw, buffering)
        if is_binary:
            return file
        text = io.TextIOWrapper(file, io.text_encoding(encoding), errors, newline)
        text.mode = mode  # type: ignore[misc] # as the built-in open() does
        return text

    def _open_warm(self, read_pending: bool) -> int | None:
        """Open the blob without a request; None if there is no fresh entry, `_NOT_CHECKED` if only a request tells."""
        # The hottest code of the package: one more attribute shows in benchmarks.
        if read_pending and (waiting := opening.open_pending(self.location)) is not None:
            return waiting
        client = self._client or self.client
        policy = client.policy.of(self._text)
        if policy is ALWAYS or client.verify or forced(None, "FROM_CLOUD"):
            return _NOT_CHECKED
        descriptor: int | None = client.cache.open_fresh(self._key or self._store_key(), policy.max_age_ns)
        return descriptor

    def _hold_entry(self) -> EntryHold | None:
        """Keep the entry as long as the client's `FileCacheMode` says: with a file, or with this path."""
        client = self.client
        hold = None if client.entry_scope is None else client.entry_scope.hold(self._store_key())
        if client.file_cache_mode is FileCacheMode.cloudpath_object:
            self._hold = hold
        return hold

    def read_bytes(
        self,
        *,
        freshness: FreshnessArg = None,
        verify: bool | None = None,
        force_overwrite_from_cloud: bool | None = None,
        read_pending: bool = False,
    ) -> bytes:
        """Read all bytes of the object; with *read_pending*, what this machine wrote last and has not uploaded."""
        is_plain = freshness is None and verify is None and not force_overwrite_from_cloud
        descriptor = self._open_warm(read_pending) if is_plain else _NOT_CHECKED
        if descriptor is not None and descriptor >= 0:
            with io.FileIO(descriptor, "rb") as file:
                try:
                    return file.readall()
                except OSError:
                    pass  # the reader below finds out what is wrong with the blob
        options = ReadOptions(freshness, verify, force_overwrite_from_cloud, read_pending, descriptor is None)
        try:
            return opening.read_bytes(self.location, options)
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
        """Read the object's text, decoded like a file's; see `read_bytes`."""
        data = self.read_bytes(
            freshness=freshness,
            verify=verify,
            force_overwrite_from_cloud=force_overwrite_from_cloud,
            read_pending=read_pending,
        )
        return io.TextIOWrapper(io.BytesIO(data), io.text_encoding(encoding), errors, newline).read()

    def write_bytes(self, data: bytes, *, force_overwrite_to_cloud: bool | None = None) -> int:
        """Make *data* the object's content; return the number of bytes."""
        return opening.write(self.location, data, OpenOptions("w"), force_overwrite_to_cloud)

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        force_overwrite_to_cloud: bool | None = None,
    ) -> int:
        """Make *data*, encoded like a file's, the object's content; return the number of characters."""
        options = OpenOptions("w", False, False, -1, io.text_encoding(encoding), errors, newline)
        return opening.write(self.location, data, options, force_overwrite_to_cloud)
