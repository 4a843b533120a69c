"""When an entry may be served without asking the cloud.

``always`` (the default) asks once per open, conditionally; a number of seconds, or a `timedelta`, trusts an answer for
that long; ``immutable`` asks only for what is not held; ``offline`` never asks. A client has one policy, or one for
each of some prefixes; a call can override it; ``CASSTORE_OFFLINE`` overrides all.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from casstore import Entry, Moment
from pathapi.exceptions import InvalidConfigurationException

if TYPE_CHECKING:
    pass

FreshnessLike = "str | float | timedelta | Freshness"


@dataclass(frozen=True, slots=True)
class Freshness:
    """One policy. *max_age_ns*: how old an answer may be; None for ever, negative for never.

    *asks* is False where the cloud is not to be asked even for what is not held.
    """

    max_age_ns: int | None
    asks: bool = True

    def allows(self, entry: Entry, now: Moment, began: Moment) -> bool:
        """Whether *entry* may be served at *now* to a call that *began* then, without asking.

        An answer to a request that was sent after the call began is always fresh enough: that is what a caller who
        waited for another's download gets.
        """
        if self.max_age_ns is None or entry.validated.is_since(began):
            return True
        return self.serves_age(now.wall_ns - entry.validated.wall_ns)

    def serves_age(self, age_ns: int) -> bool:
        """Whether an answer of that age will do; one from the future has expired, for a clock was set."""
        return self.max_age_ns is None or 0 <= age_ns <= self.max_age_ns


ALWAYS: Final = Freshness(-1)
IMMUTABLE: Final = Freshness(None)
OFFLINE: Final = Freshness(None, asks=False)
_BY_NAME: Final = {"always": ALWAYS, "immutable": IMMUTABLE, "offline": OFFLINE}


def parse_freshness(value: object) -> Freshness:
    """A policy from what users write. Raises InvalidConfigurationException that shows what they may."""
    if isinstance(value, Freshness):
        return ALWAYS if value == ALWAYS else value  # unpickled ones are other objects
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        named = _BY_NAME.get(value.strip().lower())
        if named is not None:
            return named
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InvalidConfigurationException(
            f"freshness is 'always', 'immutable', 'offline', a number of seconds or a timedelta, not {value!r}"
        )
    return IMMUTABLE if math.isinf(value) else Freshness(int(value * 1e9))


class FreshnessPolicy:
    """A client's policy: one for everything, or one for each of some URI prefixes, the longest that fits.

    *given* may be a mapping of prefixes to policies; the prefix ``""`` stands for the rest, ``always`` if it is
    missing.
    """

    __slots__ = ("_is_offline", "_prefixes", "default")

    def __init__(self, given: str | float | timedelta | Freshness | Mapping[str, object] | None) -> None:
        if given is None:
            given = os.environ.get("CASSTORE_FRESHNESS") or ALWAYS
        self._prefixes: tuple[tuple[str, Freshness], ...] = ()
        if isinstance(given, Mapping):
            parsed = {str(prefix): parse_freshness(policy) for prefix, policy in given.items()}
            self.default = parsed.pop("", ALWAYS)
            self._prefixes = tuple(sorted(parsed.items(), key=lambda item: -len(item[0])))
        else:
            self.default = parse_freshness(given)
        self._is_offline = False
        if _is_offline():
            self.go_offline()

    def go_offline(self) -> None:
        """Ask nothing from now on, whatever calls say."""
        self.default, self._prefixes, self._is_offline = OFFLINE, (), True

    def of_call(self, uri: str, given: str | float | timedelta | Freshness | None) -> Freshness:
        """The policy for one call on *uri* that may name its own."""
        return self.of(uri) if given is None or self._is_offline else parse_freshness(given)

    def of(self, uri: str) -> Freshness:
        """The policy for *uri*."""
        for prefix, policy in self._prefixes:
            if uri.startswith(prefix):
                return policy
        return self.default


def _is_offline() -> bool:
    return os.environ.get("CASSTORE_OFFLINE", "").lower() in ("1", "true", "yes", "on")


FreshnessArg = str | float | timedelta | Freshness | None
"""A policy for one call, as `pathapi.freshness` reads it; None for the client's."""
