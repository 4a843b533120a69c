"""Pages of a listing that do not end, whatever cloud they are of: a bounded number is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from casstore import Validator
from pathapi.backend import Listing, ObjectInfo
from pathapi.backends.bucket_backend import ListRequest, list_pages
from pathapi.exceptions import CloudUnavailableError

_ENDLESS = 100
_ASKED = ListRequest("", False, None, 1_000, "s3://b/")


@pytest.mark.parametrize(
    ("key", "token"),
    [
        (lambda page: f"{page:09}", lambda page: "the same"),
        (lambda page: f"{page:09}", lambda page: f"{page % 3}"),
        (lambda page: "the same", lambda page: f"{page}"),
        (lambda page: f"{page % 3}", lambda page: f"{page}"),
    ],
    ids=["one token", "three tokens", "one page", "three pages"],
)
def test_a_listing_that_repeats_itself_is_an_error(key: Callable[[int], str], token: Callable[[int], str]) -> None:
    pages = itertools.count()

    def fetch(size: int, after: Any) -> tuple[list[ObjectInfo], str]:
        page = next(pages)
        assert page < _ENDLESS, "it is asked without end"
        return [ObjectInfo(key(page), Validator(1, "etag"))], token(page)

    with pytest.raises(CloudUnavailableError, match="does not end"):
        list(list_pages(_ASKED, fetch))


def test_a_listing_says_when_its_page_was_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 1_000, 100))
    monkeypatch.setattr("pathapi.backends.bucket_backend.boot_clock_ns", lambda: next(clock))
    items = [ObjectInfo(key, Validator(0)) for key in "abc"]
    pages: dict[str | None, Any] = {None: (items[:2], "more"), "more": (items[2:], None)}
    listing = list_pages(_ASKED, lambda size, token: pages[token])
    assert isinstance(listing, Listing)
    assert [(item.key, listing.asked_ns) for item in listing] == [("a", 200), ("b", 200), ("c", 300)]
