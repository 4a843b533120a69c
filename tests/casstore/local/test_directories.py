"""Local paths of "directories": all of one, or an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from casstore import Cache
from casstore.local.directories import exact_directory
from casstore.local.names import Place
from casstore.local.paths import Content
from tests.casstore.support.fill import fill, key_of


def item_of(cache: Cache, name: str) -> tuple[Place, Content, Callable[[], Any]]:
    entry = fill(cache, key_of(name), name.encode())
    return Place(entry.key, "bucket", name), Content.of_entry(entry), partial(cache.open_entry, entry)


@pytest.mark.parametrize("names", [("d/a", "d/a/b"), ("d/a", "d//b"), ("d/a", "d/" + "x" * 300)], ids=str)
def test_a_directory_that_cannot_hold_an_object_is_an_error(cache: Cache, names: tuple[str, ...]) -> None:
    items = [item_of(cache, name) for name in names]
    place = Place(key_of("d/"), "bucket", "d/")
    with pytest.raises(OSError, match=r"pass its files one by one.*s3://bucket/d/"):
        exact_directory(cache.local, place, items)
    shown = exact_directory(cache.local, place, items, is_whole=False)
    assert shown.endswith("/0/s3/bucket/d")
