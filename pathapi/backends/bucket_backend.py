"""What the backends of buckets have in common: the flow of each call, and none of a cloud's requests."""

from __future__ import annotations

import contextlib
import functools
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar, cast

from casstore import Validator, boot_clock_ns
from pathapi.backend import Backend, Listing, ListItem, ObjectInfo, Prefix, WriteCondition, require_gone
from pathapi.backends.bodies import OutOfRange, RangedBody, ReadRequest, open_range
from pathapi.backends.bucket_requests import BucketRequests
from pathapi.backends.error_table import GONE, translating
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    VersionMismatchError,
)

Conditions = Mapping[str, Mapping[str, Any]]
"""By key: the arguments of a delete that name the version."""
CallT = TypeVar("CallT", bound=Callable[..., Any])

_MALFORMED: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the SDKs, and the code that looks for a field, raise for a response that is not one of the API."""
_CHANGES: Final = frozenset(("write", "copy_across", "delete"))


def checking_answers(call: CallT) -> CallT:
    """Return the method *call* of `Backend`, raising CloudUnavailableError for a malformed response."""

    @functools.wraps(call)
    def checked(self: BucketBackend, key: str | Sequence[str], *arguments: Any, **options: Any) -> Any:
        try:
            return call(self, key, *arguments, **options)
        except CloudPathException:
            raise
        except _MALFORMED as error:
            uri = self._requests.uri(key if isinstance(key, str) else key[0])
            unreadable = CloudUnavailableError(f"{uri}: the server's response cannot be read: check the endpoint")
            unreadable.outcome_unknown = call.__name__ in _CHANGES  # it may mean success
            raise unreadable from error

    return cast(CallT, checked)


class BucketBackend(Backend):
    """One bucket, by the `BucketRequests` of a cloud; each cloud derives its own."""

    _requests: BucketRequests
    _reading: ClassVar[str]
    """The operation of a read, for errors."""
    _batch: ClassVar[int]
    """Keys per delete request."""

    @property
    def connection(self) -> Any:
        return self._requests.connection

    @property
    def origin(self) -> str:
        return str(self.connection.origin)

    @property
    def bucket(self) -> str:
        return self._requests.bucket

    @checking_answers
    def head(self, key: str) -> ObjectInfo:
        return self._head(key, {})

    @checking_answers
    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> RangedBody | None:
        uri, translate = self._requests.uri(key), self._requests.translator(key, self._reading)
        return self._open(ReadRequest(key, start, end, expect, unless, uri, translate))

    def _open(self, asked: ReadRequest) -> RangedBody | None:
        conditions = self._read_conditions(asked)
        return open_range(
            asked, lambda ranged: self._get(asked, conditions, ranged=ranged), lambda: self._head(asked.key, conditions)
        )

    def copy(
        self, source: str, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        return self.copy_across(source, self, target, expect=expect, over=over)

    @abstractmethod
    def copy_across(
        self, source: str, to: Any, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        """See `pathapi.backend.CopiesAcross`; *to* may be this backend."""

    @checking_answers
    def delete(
        self, keys: Sequence[str], *, expect: Validator | None = None, versions: Mapping[str, Validator] | None = None
    ) -> None:
        if expect is not None or (len(keys) == 1 and not versions):
            for key in keys:
                self._delete_one(key, self._requests.conditions(key, expect), expect)
            return
        # Before the first request: a version that the server cannot compare must not fail the delete halfway.
        conditions = {key: self._requests.conditions(key, (versions or {}).get(key)) for key in keys}
        refused: list[str] = []
        for begin in range(0, len(keys), self._batch):
            refused += self._delete_batch(keys[begin : begin + self._batch], conditions)
        require_gone(self, refused)

    @abstractmethod
    def _read_conditions(self, asked: ReadRequest) -> Mapping[str, Any]: ...

    @abstractmethod
    def _head(self, key: str, conditions: Mapping[str, Any]) -> ObjectInfo: ...

    @abstractmethod
    def _get(self, asked: ReadRequest, conditions: Mapping[str, Any], *, ranged: bool) -> RangedBody | OutOfRange: ...

    @abstractmethod
    def _send_delete(self, key: str, conditions: Mapping[str, Any], expect: Validator | None) -> object: ...

    @abstractmethod
    def _delete_batch(self, keys: Sequence[str], conditions: Conditions) -> Sequence[str]:
        """Delete *keys* in one request; return those that are another version than *conditions* name."""

    def _delete_one(self, key: str, conditions: Mapping[str, Any], expect: Validator | None = None) -> None:
        try:
            self._send_delete(key, conditions, expect)
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise
            if expect is not None:
                raise GONE.make(uri=self._requests.uri(key)) from error

    def _list_buckets(self, names: Callable[[], Iterable[str]], *, delimited: bool) -> Iterator[ListItem]:
        """List the account's buckets as "directories": what the backend without a bucket lists."""
        scheme = self._requests.scheme
        if not delimited:
            raise CloudPathNotImplementedError(
                f"{scheme}://: it lists buckets alone: use iterdir(), and list one of them"
            )
        with translating(self._requests.translator("", "ListBuckets")):
            return iter([Prefix(f"{name}/") for name in names()])

    def _list_request(self, prefix: str, page: int, limit: int | None, *, delimited: bool) -> ListRequest:
        return ListRequest(prefix, delimited, limit, page, self._requests.uri(prefix))

    def _delete_each(self, keys: Iterable[str], conditions: Conditions) -> list[str]:
        """Delete *keys* by one request each; return those that are another version than *conditions* name."""
        refused = []
        for key in keys:
            try:
                self._delete_one(key, conditions[key])
            except VersionMismatchError:
                refused.append(key)
        return refused

    def _source_version(self, source: str, expect: Validator | None) -> Validator:
        """Return the version of *source* to copy: *expect*, or what a HEAD finds if *expect* has no ETag.

        The response to a copy does not state the size, and the ETag ties the copy to this version.

        Raises:
            VersionMismatchError: the object is not the version *expect*.
        """
        seen = expect if expect is not None and expect.etag is not None else self.head(source).validator
        if expect is not None and not expect.same_version(seen):
            raise VersionMismatchError(
                f"{self._requests.uri(source)}: the object is not the expected version; nothing was copied: read it "
                "again"
            )
        return seen

    @contextlib.contextmanager
    def _explaining_missing_target(self, source: str, to: Any, target: str, over: WriteCondition) -> Iterator[None]:
        """Raise VersionMismatchError for a 404 of a copy over the version *over*, unless the source is missing."""
        try:
            yield
        except CloudPathFileNotFoundError as error:
            if not isinstance(over, Validator) or type(error) is not CloudPathFileNotFoundError:
                raise
            self.head(source)  # raises if the source is missing
            raise GONE.make(uri=to._requests.uri(target)) from error  # noqa: SLF001 (another backend of this class)


MOST_EMPTY_PAGES: Final = 10_000
"""Pages without an item in a row: servers that scan deleted objects send some."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The arguments of one `Backend.list`; *uri* is for its errors. Pages have at most *page* items."""

    prefix: str
    delimited: bool
    limit: int | None
    page: int
    uri: str


def list_pages(asked: ListRequest, fetch: Callable[[int, Any], tuple[Iterable[ListItem], Any]]) -> Iterator[ListItem]:
    """Yield the items of a listing, each page in the order of the keys' bytes.

    ``fetch(size, token)`` requests one page of at most *size* items; it returns them and the next page's token.

    Raises:
        CloudUnavailableError: the server lists what was not asked for, or repeats itself; nothing of that page is
            yielded.
    """

    asked_ns = [boot_clock_ns()]

    def items() -> Iterator[ListItem]:
        listed = pages = empty = 0
        token = earlier = None
        before: list[ListItem] = []
        kept: list[ListItem] = []
        while True:
            size = asked.page if asked.limit is None else min(asked.page, asked.limit - listed)
            asked_ns[:] = [boot_clock_ns()]
            try:
                page, token = fetch(size, token)
                found = sorted(page, key=key_order)
            except CloudPathException:
                raise
            except _MALFORMED as error:
                raise CloudUnavailableError(f"{asked.uri}: the server's listing cannot be read: {_CHECK}") from error
            _require_asked(found, asked)
            listed += len(found)
            yield from found
            if not token:
                return
            pages += 1
            empty = 0 if found else empty + 1
            if token == earlier or (found and found in (before, kept)) or empty > MOST_EMPTY_PAGES:
                raise CloudUnavailableError(f"{asked.uri}: the server's listing does not end: {_CHECK}")
            before = found
            if not pages & (pages - 1):  # a power of two: what recurs in any period meets what is kept (Brent)
                earlier, kept = token, found

    return Listing(itertools.islice(items(), asked.limit), asked_ns)


_CHECK: Final = "check the endpoint, and whether the server supports listings"


def _require_asked(found: Iterable[ListItem], asked: ListRequest) -> None:
    """Raise CloudUnavailableError for a key that the listing was not asked for: it may be deleted, or overwritten."""
    prefix, delimited = asked.prefix, asked.delimited
    for item in found:
        key = item.key
        is_asked = key.startswith(prefix)
        if is_asked and delimited:
            slash = key.find("/", len(prefix))
            is_asked = slash == (len(key) - 1 if isinstance(item, Prefix) else -1)
        if not is_asked:
            raise CloudUnavailableError(f"{asked.uri}: the server listed {key!r}, which was not requested: {_CHECK}")


def key_order(item: ListItem) -> bytes:
    """Return a key's bytes: the order of a listing."""
    return item.key.encode("utf-8", "surrogatepass")
