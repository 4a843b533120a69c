"""The stand-in for a store that cannot be used: it has a cache's calls, and raises why for those that need a store."""

from __future__ import annotations

import errno
import inspect

import pytest

from casstore import Cache
from casstore.errors import StoreUnavailableError
from casstore.pass_through import PassThroughCache
from tests.casstore.support.fill import key_of

OWN = {"warn"}
"""What only the stand-in has."""


@pytest.fixture
def stand_in() -> PassThroughCache:
    return PassThroughCache("/nowhere", StoreUnavailableError(errno.ENOTSUP, "no store here", "/nowhere"))


def test_every_call_of_the_stand_in_is_a_call_of_a_cache(cache: Cache, stand_in: PassThroughCache) -> None:
    """Else a renamed call of the cache would raise where reads have to work."""
    names = {name for name in dir(stand_in) if not name.startswith("_")}
    assert names - set(dir(cache)) == OWN


def test_its_calls_take_what_those_of_a_cache_take(cache: Cache, stand_in: PassThroughCache) -> None:
    for name in dir(stand_in):
        call, other = getattr(stand_in, name, None), getattr(cache, name, None)
        if name.startswith("_") or name in OWN or not inspect.ismethod(call) or not inspect.ismethod(other):
            continue
        signature = inspect.signature(call)
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            continue
        assert list(signature.parameters) == list(inspect.signature(other).parameters), name


@pytest.mark.parametrize(
    "name", ["plan", "execute", "clear", "verify", "info", "pin", "pins", "index", "lease", "stats"]
)
def test_what_needs_a_store_raises_why_there_is_none(stand_in: PassThroughCache, name: str) -> None:
    with pytest.raises(StoreUnavailableError, match="no store here") as raised:
        getattr(stand_in, name)
    assert raised.value is stand_in.unavailable


def test_it_is_asked_for_private_names_like_any_object(stand_in: PassThroughCache) -> None:
    assert not hasattr(stand_in, "__deepcopy__")
    assert not hasattr(stand_in, "_locks")


def test_it_finds_nothing_and_keeps_nothing(stand_in: PassThroughCache) -> None:
    key = key_of("a")
    assert (stand_in.lookup(key), stand_in.open_fresh(key, None), list(stand_in.entries())) == (None, None, [])
    assert stand_in.snapshot(key).entry is None
    stand_in.record_delete(key)
    stand_in.flush()
    stand_in.close()
