"""The protocol between the path API and a cloud: six calls, one bucket, no policy.

Caching, freshness, globbing, walking and retries after a changed version are written once, above this. What crosses
the boundary is bytes, `ObjectInfo` and the errors of `pathapi.exceptions`. `pathapi.testing.BackendSuite` is the
executable form of this contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, runtime_checkable

from casstore import Validator
from pathapi.exceptions import CloudPathFileNotFoundError, InvalidConfigurationException, VersionMismatchError

WEEK: Final = 604_800
"""Seconds that a signed URL holds at most, by the rules of S3 and of Google."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a provider says of an object's bytes: *kind* names the algorithm, *value* is lower-case hex.

    ``md5``, ``sha256``, ``sha1``, ``crc32c``, ``crc64nvme``: hashes of the whole object. ``etag-md5``: an S3 ETag of
    32 hex digits that is an MD5 unless the object is encrypted with KMS or customer keys, which nobody can tell from
    outside; to be believed only where hashing the bytes gave it. An ETag of any other shape is no checksum.
    """

    kind: str
    value: str


COMPARABLE: Final = frozenset(("md5", "etag-md5", "sha1", "sha256"))
"""Kinds of checksums that held bytes can be compared with: those that `casstore.new_hasher` makes."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What one response said of one object; *validator* carries ETag, version, size and mtime.

    *is_named_only*: a listing that knows names and nothing else (an index page) named it; the rest is empty and says
    nothing, and who wants to know asks `Backend.head`.
    """

    key: str
    validator: Validator
    checksums: tuple[Checksum, ...] = ()
    content_type: str | None = None
    is_named_only: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return self.validator.size


@dataclass(frozen=True, slots=True)
class Prefix:
    """A "directory" of a delimited listing: *key* ends with ``/``."""

    key: str


@dataclass(frozen=True, slots=True)
class Absent:
    """A condition: the object must not exist."""


ABSENT: Final = Absent()


class Body(Protocol):
    """The bytes of one response, read once and in order; closed by its user, also after an error.

    *info* is what **this** response says of the whole object (its `ObjectInfo.size` is the object's size, not the
    range's). *length* is the number of bytes that this body holds, as announced; None where the server does not say.
    """

    info: ObjectInfo
    length: int | None

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* from the front and return the count, which is 0 only at the end.

        Raises `TruncatedBodyError` where the body is shorter or longer than *length* or the connection breaks,
        `ChecksumMismatchError` where the provider stated a checksum of these bytes that they do not have,
        `CloudUnavailableError` on a stall.
        """
        ...

    def read(self) -> bytes:
        """All the rest at once: the short way for small objects, with the same checks and errors."""
        ...

    def close(self) -> None:
        """Give the connection back. Never raises."""
        ...


class Nothing:
    """The stream of a body that holds nothing."""

    def read(self, amount: int | None = None) -> bytes:
        return b""

    def readinto(self, buffer: memoryview) -> int:
        return 0

    def close(self) -> None:
        pass


class Backend(Protocol):
    """One bucket of one cloud: six calls, no cache, no policy, thread-safe, usable in a forked child.

    Raises only `pathapi.exceptions`: `CloudPathFileNotFoundError` (404 on the object), `BucketNotFoundError`,
    `CloudPathPermissionError` (403 that is no missing object), `MissingCredentialsError`, `VersionMismatchError`
    (412), `CloudUnavailableError` (after the SDK's own bounded retries).
    """

    @property
    def origin(self) -> str:
        """Provider plus endpoint or account: ``s3`` for Amazon's own, ``s3@127.0.0.1:8333`` elsewhere. No secrets."""
        ...

    @property
    def bucket(self) -> str:
        """The bucket's name; empty where the scheme has none (``file``)."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """What the object is now: one request."""
        ...

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> Body | None:
        """Open the bytes ``[start, end)`` of the object: one request.

        An *end* past the object's is cut there. A server that knows no ranges sends the whole to who asks from 0, and
        `Body.length` shows it. ``read(key, 0, n)`` of an empty object gives an empty body (S3 answers
        416; the backend turns it into what it means, and its validator may know the size alone). With *expect*, only
        of that version: raises `VersionMismatchError`. With *unless*, None says that the object still is that version
        (304).
        Errors are raised here, not at the first chunk.
        """
        ...

    def write(
        self,
        key: str,
        source: BinaryIO,
        size: int,
        *,
        expect: Validator | Absent | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        """Upload *size* bytes from *source* (seekable, at 0) and return what the object now is.

        Atomic: other readers see the old object or the new one. With *expect*, only over that version or over
        nothing: raises `VersionMismatchError` and leaves the object alone. The `mtime_ns` of the answer may be None
        where the provider does not say it in the same response.
        """
        ...

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        """Objects whose key starts with *prefix* (a string prefix, not a path), in the server's order, page by page.

        *delimited* folds everything below the next ``/`` into one `Prefix`. *limit* stops after that many items and
        asks the server for no more than that. A prefix without objects is empty, not an error.
        """
        ...

    def copy(
        self,
        source: str,
        target: str,
        *,
        expect: Validator | None = None,
        over: Validator | Absent | None = None,
    ) -> ObjectInfo:
        """Copy inside the bucket on the server, content type and metadata included, and return what *target* now is.

        Atomic like `write`. With *expect*, only of that version of *source*; with *over*, only over that version of
        *target* or over nothing: else raises `VersionMismatchError` (which of the two it was is not said) and leaves
        *target* alone.
        """
        ...

    def delete(
        self,
        keys: Sequence[str],
        *,
        expect: Validator | None = None,
        versions: Mapping[str, Validator] | None = None,
    ) -> None:
        """Delete objects, many in one request where the cloud can; a key that does not exist is no error.

        *expect* goes with one key: only that version, else `VersionMismatchError`. *versions* goes with many: of those
        that it names, only that version or nothing; when all others are gone, `VersionMismatchError` has in its `keys`
        the ones that were left alone.
        """
        ...


@runtime_checkable
class HasUrls(Protocol):
    """What a backend may have beside the six calls: URLs of its objects, for programs that know no cloud."""

    def url(self, key: str) -> str:
        """Where the object is asked for by HTTP, quoted, without any login; sends nothing. The bucket's for no key."""
        ...

    def signed_url(self, key: str, seconds: int) -> str:
        """A URL by which whoever has it may GET the object for so long. It is a secret, and in no message.

        Raises InvalidConfigurationException for a time that cannot be, before anything else; `MissingCredentialsError`
        where there is nothing to sign with, `CloudPathNotImplementedError` where no signature would do.
        """
        ...


def check_expiry(seconds: object, most: int | None = None) -> None:
    """Raise InvalidConfigurationException unless *seconds* is a time for which a URL can be signed."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds <= 0:
        raise InvalidConfigurationException(f"expire_seconds is a positive whole number, not {seconds!r}")
    if most is not None and seconds > most:
        raise InvalidConfigurationException(
            f"expire_seconds={seconds} is too long: a URL of this cloud is signed for {most} seconds at most"
        )


def head_or_none(backend: Backend, key: str) -> ObjectInfo | None:
    """What the object is, or None where there is none."""
    try:
        return backend.head(key)
    except CloudPathFileNotFoundError:
        return None


def delete_each(backend: Backend, keys: Sequence[str], versions: Mapping[str, Validator]) -> None:
    """`Backend.delete` with *versions*, by a request for each key."""
    refused = []
    for key in keys:
        try:
            backend.delete([key], expect=versions.get(key))
        except VersionMismatchError:
            refused.append(key)
    require_gone(backend, refused)


def require_gone(backend: Backend, refused: Sequence[str]) -> None:
    """Raise the VersionMismatchError of `Backend.delete` for those of the *refused* keys that are there.

    Some servers refuse a condition on what is gone, and the SDK may have asked twice, its first answer lost.
    """
    left = tuple(key for key in refused if head_or_none(backend, key) is not None)
    if left:
        more = f", nor are {len(left) - 1:,} more" if len(left) > 1 else ""
        error = VersionMismatchError(f"{left[0]!r} is not the version expected{more}; not deleted")
        error.keys = left
        raise error
