"""When an entry may be served without a request.

``always`` (the default) sends one conditional request per open; a number of seconds, or a `timedelta`, trusts a
response for that long; ``immutable`` requests only what is not cached; ``offline`` requests nothing. A client has one
policy, or one for each of some prefixes; a call can override it; ``CASSTORE_OFFLINE`` overrides all.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from casstore import Entry, Moment
from pathapi.exceptions import InvalidConfigurationException


@dataclass(frozen=True, slots=True)
class Freshness:
    """One policy. *max_age_ns*: how old a response may be; None for any age, negative for none.

    *may_request* is False if not even objects that are not cached may be requested.
    """

    max_age_ns: int | None
    may_request: bool = True

    def allows(self, entry: Entry, now: Moment, began: Moment) -> bool:
        """Return whether *entry* may be served at *now*, without a request, to a call that *began* then.

        The response to a request that was sent after the call began is always fresh enough: a call that waited for
        another's download gets it.
        """
        if self.max_age_ns is None or entry.validated.is_between(began, now):
            return True
        return self.serves_age(now.wall_ns - entry.validated.wall_ns)

    def serves_age(self, age_ns: int) -> bool:
        """Return whether a response of that age is fresh; one from the future is not, since a clock was set."""
        return self.max_age_ns is None or 0 <= age_ns <= self.max_age_ns


ALWAYS: Final = Freshness(-1)
IMMUTABLE: Final = Freshness(None)
OFFLINE: Final = Freshness(None, may_request=False)
_BY_NAME: Final = {"always": ALWAYS, "immutable": IMMUTABLE, "offline": OFFLINE}


def parse_freshness(value: object) -> Freshness:
    """Return the policy that users write as *value*. Raises InvalidConfigurationException."""
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
            f"freshness: {value!r} is not a policy: use 'always', 'immutable', 'offline' or a number of seconds"
        )
    return IMMUTABLE if math.isinf(value) else Freshness(int(value * 1e9))


FreshnessLike: TypeAlias = Literal["always", "immutable", "offline"] | float | timedelta | Freshness
FreshnessArg: TypeAlias = FreshnessLike | None
"""A policy for one call, as `pathapi.freshness` reads it; None for the client's."""


class FreshnessPolicy:
    """A client's policy: one for everything, or one for each of some URI prefixes, the longest that matches.

    *given* may be a mapping of prefixes to policies; the prefix ``""`` is for the rest, ``always`` by default.
    """

    def __init__(self, given: FreshnessLike | Mapping[str, FreshnessLike] | None) -> None:
        if given is None:
            given = parse_freshness(os.environ.get("CASSTORE_FRESHNESS") or ALWAYS)
        self._prefixes: tuple[tuple[str, Freshness], ...] = ()
        if isinstance(given, Mapping):
            parsed = {str(prefix): parse_freshness(policy) for prefix, policy in given.items()}
            self.default = parsed.pop("", ALWAYS)
            self._prefixes = tuple(sorted(parsed.items(), key=lambda item: -len(item[0])))
        else:
            self.default = parse_freshness(given)
        self._is_offline = False
        if os.environ.get("CASSTORE_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            self.go_offline()

    def go_offline(self) -> None:
        """Request nothing from now on, whatever calls say."""
        self.default, self._prefixes, self._is_offline = OFFLINE, (), True

    def of_call(self, uri: str, given: FreshnessArg) -> Freshness:
        """Return the policy of one call on *uri*, which may name its own."""
        return self.of(uri) if given is None or self._is_offline else parse_freshness(given)

    def of(self, uri: str) -> Freshness:
        """Return the policy for *uri*."""
        for prefix, policy in self._prefixes:
            if uri.startswith(prefix):
                return policy
        return self.default
