"""What lists, copies and deletes have in common on every cloud."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from casstore import Validator
from pathapi.backend import Backend, ListItem, WriteCondition, require_gone
from pathapi.backends.error_table import GONE
from pathapi.exceptions import CloudPathFileNotFoundError, VersionMismatchError


def list_pages(
    fetch: Callable[[int, Any], tuple[Iterable[ListItem], Any]], page: int, limit: int | None
) -> Iterator[ListItem]:
    """Yield at most *limit* items of a listing, each page in the order of the keys' bytes.

    ``fetch(size, token)`` requests one page of at most *page* items; it returns them and the next page's token.
    """

    def items() -> Iterator[ListItem]:
        listed, token = 0, None
        while True:
            found, token = fetch(page if limit is None else min(page, limit - listed), token)
            for item in sorted(found, key=key_order):
                listed += 1
                yield item
            if not token:
                return

    return itertools.islice(items(), limit)


def key_order(item: ListItem) -> bytes:
    """Return a key's bytes: the order of a listing."""
    return item.key.encode("utf-8", "surrogatepass")


def source_version(backend: Backend, source: str, expect: Validator | None, uri: str) -> Validator:
    """Return the version of *source* to copy: *expect*, or what a HEAD finds if *expect* has no ETag.

    The response to a copy does not state the size, and the ETag ties the copy to this version.

    Raises:
        VersionMismatchError: the object is not the version *expect*.
    """
    seen = expect if expect is not None and expect.etag is not None else backend.head(source).validator
    if expect is not None and not expect.same_version(seen):
        raise VersionMismatchError(f"{uri}: the object is not the expected version; nothing was copied: read it again")
    return seen


@contextlib.contextmanager
def explaining_missing_target(backend: Backend, source: str, over: WriteCondition, target_uri: str) -> Iterator[None]:
    """Raise VersionMismatchError for a 404 of a copy over the version *over*, unless the source is missing."""
    try:
        yield
    except CloudPathFileNotFoundError as error:
        if not isinstance(over, Validator) or type(error) is not CloudPathFileNotFoundError:
            raise
        backend.head(source)  # raises if the source is missing
        raise GONE.make(uri=target_uri) from error


def delete_in_batches(
    backend: Backend,
    keys: Sequence[str],
    expect: Validator | None,
    versions: Mapping[str, Validator] | None,
    *,
    delete_one: Callable[[str, Validator | None], None],
    delete_batch: Callable[[Sequence[str], Mapping[str, Validator]], Sequence[str]],
    batch: int,
) -> None:
    """`Backend.delete`. *delete_batch* returns the keys that are another version than *versions* names."""
    if expect is not None or (len(keys) == 1 and not versions):
        for key in keys:
            delete_one(key, expect)
        return
    refused: list[str] = []
    for begin in range(0, len(keys), batch):
        refused += delete_batch(keys[begin : begin + batch], versions or {})
    require_gone(backend, refused)
