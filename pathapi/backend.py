"""The protocol between the path API and a cloud: six calls, one bucket, no policy.

The layers above implement caching, freshness, globbing, walking and retries after a changed version, once for all
clouds. Bytes, `ObjectInfo` and the errors of `pathapi.exceptions` cross this boundary. `pathapi.testing.BackendSuite`
is the executable form of this contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final, Protocol, TypeAlias, runtime_checkable

from casstore import Validator
from pathapi.exceptions import CloudPathFileNotFoundError, InvalidConfigurationException, VersionMismatchError

WEEK: Final = 604_800
"""Seconds that a signed URL is valid at most, by the rules of S3 and of Google."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum that a provider states: *kind* names the algorithm, *value* is lower-case hex.

    ``md5``, ``sha256``, ``sha1``, ``crc32c``, ``crc64nvme``: hashes of the whole object. ``etag-md5``: an S3 ETag of
    32 hex digits. It is an MD5 unless the object is encrypted with KMS or customer keys, which a client cannot find
    out: rely on it only if hashing the bytes gives the same. An ETag of any other form is no checksum.
    """

    kind: str
    value: str


COMPARABLE: Final = frozenset(("md5", "etag-md5", "sha1", "sha256"))
"""Kinds of checksums that `casstore.new_hasher` can compute, to compare cached bytes."""

COLLISION_FREE: Final = frozenset(("sha256",))
"""Those of them that prove equal bytes. Two objects with one MD5 are easily made; a CRC besides adds nothing."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What one response says of one object; *validator* contains ETag, version, size and mtime.

    *is_named_only*: a listing of names alone (an index page) contained it. The rest is empty: use `Backend.head`.
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

WriteCondition: TypeAlias = Validator | Absent | None
"""What a write replaces: this version, nothing, or anything."""
ListItem: TypeAlias = ObjectInfo | Prefix


class Listing(Iterator[ListItem]):
    """The items of a listing of several pages, and when the page of the last one was requested."""

    def __init__(self, items: Iterator[ListItem], asked_ns: list[int]) -> None:
        """The last of *asked_ns*, by the boot clock, is about the page of the last item."""
        self._items, self._asked_ns = items, asked_ns

    @property
    def asked_ns(self) -> int:
        return self._asked_ns[-1]

    def __next__(self) -> ListItem:
        return next(self._items)


class Body(Protocol):
    """The bytes of one response, read once and in order; its user closes it, also after an error.

    *info* is what **this** response says of the whole object (its `ObjectInfo.size` is the object's size, not the
    range's). *length* is the announced number of bytes of this body; None if the server does not announce it.
    """

    info: ObjectInfo
    length: int | None

    def readinto(self, buffer: memoryview) -> int:
        """Fill *buffer* from the front and return the count, which is 0 only at the end.

        Raises:
            TruncatedBodyError: the body is shorter or longer than *length*, or the connection broke.
            ChecksumMismatchError: the bytes do not match the checksum that the provider states.
            CloudUnavailableError: the server stopped sending.
        """
        ...

    def read(self) -> bytes:
        """Read all the rest at once, with the same checks and errors: fast for small objects."""
        ...

    def close(self) -> None:
        """Return the connection to the pool. Never raises."""
        ...


Nothing = BytesIO  # the name of before for an empty body


class Backend(Protocol):
    """One bucket of one cloud: six calls, no cache, no policy, thread-safe, usable in a forked child.

    Raises only `pathapi.exceptions`: `CloudPathFileNotFoundError` (404 for the object), `BucketNotFoundError`,
    `CloudPathPermissionError` (403), `MissingCredentialsError`, `VersionMismatchError` (412), `CloudUnavailableError`
    (after the SDK's own bounded retries).
    """

    @property
    def origin(self) -> str:
        """Provider plus endpoint or account: ``s3`` for Amazon's own, ``s3@127.0.0.1:8333`` elsewhere. No secrets."""
        ...

    @property
    def bucket(self) -> str:
        """The bucket's name; empty if the scheme has none (``file``)."""
        ...

    def head(self, key: str) -> ObjectInfo:
        """Return what the object is now: one request.

        Raises:
            NoStatError: the object exists, and finding out its size would be a long download.
        """
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

        An *end* past the object's is the object's. A server without ranges may send the whole object if *start* is 0;
        `Body.length` shows it. ``read(key, 0, n)`` of an empty object returns an empty body, whose validator may have
        the size alone (S3 answers 416). With *unless*, returns None if the object still is that version (304). Errors
        are raised here, not at the first chunk.

        Raises:
            VersionMismatchError: the object is not the version *expect*.
        """
        ...

    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        """Upload *size* bytes from *source* (seekable, at 0) and return what the object now is.

        Atomic: readers see the old object or the new one. With *expect*, replaces only that version, or creates only a
        new object. The `mtime_ns` of the result is None if the provider does not state it in the same response.

        Raises:
            VersionMismatchError: the object is another version; it is unchanged, unless `outcome_unknown`.
            CloudUnavailableError: the object is unchanged, unless `outcome_unknown`.
        """
        ...

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        """Yield objects whose key starts with *prefix* (a string, not a path), in the server's order, page by page.

        *delimited* folds everything below the next ``/`` into one `Prefix`. *limit* stops after that many items, and
        requests no more than that. A prefix without objects yields nothing.

        Raises:
            CloudUnavailableError: the server lists keys that were not asked for, or the same page again.
        """
        ...

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        """Copy inside the bucket on the server, content type and metadata included, and return what *target* now is.

        A copy of an object onto itself gives it the time of now.

        Atomic like `write`. With *expect*, copies only that version of *source*; with *over*, replaces only that
        version of *target*, or creates only a new object.

        Raises:
            VersionMismatchError: one of the two is another version; *target* is unchanged.
        """
        ...

    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        """Delete objects, many in one request if the cloud can; a key that does not exist is no error.

        *expect* is for one key, *versions* for many: an object that they name is deleted only if it is that version.

        Raises:
            VersionMismatchError: some were not deleted; `keys` has them. All others are deleted.
        """
        ...


@runtime_checkable
class HasUrls(Protocol):
    """URLs of a backend's objects, for programs without an SDK; not every backend has them."""

    def url(self, key: str) -> str:
        """Return the object's HTTP URL, quoted, without a login; the bucket's for an empty key. Sends nothing."""
        ...

    def signed_url(self, key: str, seconds: int) -> str:
        """Return a URL that allows a GET of the object for *seconds*. It is a secret, and in no message.

        Raises:
            InvalidConfigurationException: *seconds* is not valid; raised before anything else.
            MissingCredentialsError: there is nothing to sign with.
            CloudPathNotImplementedError: a signature cannot give access.
        """
        ...


@runtime_checkable
class CopiesAcross(Protocol):
    """A backend whose server also copies to other buckets; not every backend has several, or such a server."""

    def copy_across(
        self,
        source: str,
        to: Backend,
        target: str,
        *,
        expect: Validator | None = None,
        over: WriteCondition = None,
    ) -> ObjectInfo:
        """Copy *source* to *target* in the bucket of *to*, a backend of the same connection; see `Backend.copy`."""
        ...


@runtime_checkable
class HasMarkers(Protocol):
    """A backend whose directories may be objects of their own names, beside what is below; not every backend has such.

    `Backend.list` yields each as an empty object whose key ends with a slash, and `Backend.delete` takes this key. It
    may refuse a directory that is not empty.
    """

    def marker(self, key: str) -> ObjectInfo | None:
        """Return the object that is the directory *key*, which ends with a slash; None if there is none.

        One request.
        """
        ...


def marker_of(backend: Backend, prefix: str) -> ObjectInfo | None:
    """Return the object that is the directory *prefix* and that no listing of *prefix* has; None if there is none."""
    named: object = backend
    return named.marker(prefix) if prefix and isinstance(named, HasMarkers) else None


def check_expiry(seconds: object, most: int | None = None) -> None:
    """Raise InvalidConfigurationException unless *seconds* is a time for which a URL can be signed."""
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds <= 0:
        raise InvalidConfigurationException(f"expire_seconds={seconds!r}: use a positive whole number")
    if most is not None and seconds > most:
        raise InvalidConfigurationException(
            f"expire_seconds={seconds}: signed URLs of this cloud expire earlier: use at most {most}"
        )


def head_or_none(backend: Backend, key: str) -> ObjectInfo | None:
    """Return what the object is, or None if it does not exist."""
    try:
        return backend.head(key)
    except CloudPathFileNotFoundError:
        return None


def delete_each(backend: Backend, keys: Sequence[str], versions: Mapping[str, Validator]) -> None:
    """Implement `Backend.delete` with *versions* by one request per key."""
    refused = []
    for key in keys:
        try:
            backend.delete([key], expect=versions.get(key))
        except VersionMismatchError:
            refused.append(key)
    require_gone(backend, refused)


def require_gone(backend: Backend, refused: Sequence[str]) -> None:
    """Raise the VersionMismatchError of `Backend.delete` for those of the *refused* keys that exist.

    Some servers refuse a condition on a missing object; or the SDK repeated a delete after it lost the response.
    """
    left = tuple(key for key in refused if head_or_none(backend, key) is not None)
    if left:
        more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
        error = VersionMismatchError(f"{left[0]!r}{more}: not the expected version; not deleted: read it again")
        error.keys = left
        raise error
