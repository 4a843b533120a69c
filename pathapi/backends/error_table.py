"""From what a server or an SDK answers to the errors of `pathapi.exceptions`: one visible table per cloud."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidUriError,
    TruncatedBodyError,
    VersionMismatchError,
)


class NotModifiedError(InvalidConfigurationException):
    """A 304: the answer to a conditional read, which `open_range` expects; else a refusal like any other."""


@dataclass(frozen=True, slots=True)
class ErrorTemplate:
    """An error class, and its message with fields in braces: ``<object>: <what failed>: <how to fix it>``.

    *hint* and *shell_hint* are the fix in Python and on the command line, if they differ: see `CloudPathException`.
    """

    error: type[CloudPathException]
    message: str
    hint: str = ""
    shell_hint: str = ""

    def make(self, **fields: object) -> CloudPathException:
        """Return the error with *fields* in its message."""
        texts = [text.format(**fields) for text in (self.message, self.hint, self.shell_hint)]
        return self.error(texts[0], hint=texts[1], shell_hint=texts[2])


MISSING: Final = ErrorTemplate(CloudPathFileNotFoundError, "{uri} does not exist")
CHANGED: Final = ErrorTemplate(
    VersionMismatchError, "{uri}: the object is not the expected version; nothing was changed: read it again"
)
GONE: Final = ErrorTemplate(
    VersionMismatchError, "{uri}: the object no longer exists; nothing was changed: read it again"
)
BUSY: Final = ErrorTemplate(
    CloudUnavailableError, "{uri}: {endpoint} kept failing ({code}) after several tries: try again later"
)
CANNOT: Final = ErrorTemplate(
    CloudPathNotImplementedError, "{uri}: {endpoint} does not support this ({code}: {reason})"
)
BAD_NAME: Final = ErrorTemplate(InvalidUriError, "{uri}: {endpoint} refuses this name ({code}: {reason})")
REFUSED: Final = ErrorTemplate(
    InvalidConfigurationException, "{uri}: {endpoint} refused the request ({code}: {reason})"
)
NOT_MODIFIED: Final = ErrorTemplate(NotModifiedError, REFUSED.message)
UNREACHABLE: Final = ErrorTemplate(
    CloudUnavailableError, "{uri}: {endpoint} could not be reached: check the network, the endpoint and the proxy"
)
STALLED: Final = ErrorTemplate(CloudUnavailableError, "{uri}: {endpoint} stopped responding: try again")
BROKEN: Final = ErrorTemplate(
    TruncatedBodyError, "{uri}: the connection to {endpoint} broke during the read: try again"
)
CUT_OFF: Final = ErrorTemplate(TruncatedBodyError, "{uri}: the server stopped sending before the end: try again")

_NOT_CARRIED_OUT: Final = frozenset((501, 503, 505, 507, 508, 511))


def may_be_carried_out(status: int) -> bool:
    """Return whether the server may have carried out a request that it answered with the failure *status*.

    A gateway's 502 and 504, and a 500, do not exclude it; a refusal (4xx, 503) does.
    """
    return status >= 500 and status not in _NOT_CARRIED_OUT


BY_STATUS: Final = {400: REFUSED, 404: MISSING, 405: CANNOT, 412: CHANGED, 429: BUSY, 501: CANNOT}
"""The statuses that every provider uses alike."""


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """One cloud's errors. An error code is more specific than a status; a status that is not listed is a refusal.

    *by_exception* names classes: the nearest listed parent counts, if its module belongs to *modules*. So no SDK has to
    be imported here. *unsent* names those raised before a request was sent, themselves or as a reason of another.
    """

    by_status: Mapping[int, ErrorTemplate]
    by_exception: Mapping[str, ErrorTemplate]
    modules: frozenset[str]
    by_code: Mapping[str, ErrorTemplate] = field(default_factory=dict)
    unsent: frozenset[str] = frozenset()

    def of_answer(self, status: int, code: str = "") -> ErrorTemplate:
        """Return the template for a response that is no success."""
        if status == 304:  # Azure gives it the code of a 412.
            return NOT_MODIFIED
        return self.by_code.get(code) or self.by_status.get(status) or (BUSY if status >= 500 else REFUSED)

    def of_exception(self, error: BaseException) -> ErrorTemplate | None:
        """Return the template for an exception; None if neither the SDK nor the network raised it."""
        return next(filter(None, (self.by_exception.get(name) for name in names_of(error, self.modules))), None)

    def may_be_sent(self, error: BaseException) -> bool:
        """Return whether the server may have received the request that ended in *error*, without a response."""
        if self.of_exception(error) is None:
            return False  # not of the network
        reasons = (error, getattr(error, "reason", None), *error.args)
        reasons += tuple(getattr(reason, "reason", None) for reason in error.args)
        return not any(
            self.unsent.intersection(names_of(reason, self.modules))
            for reason in reasons
            if isinstance(reason, BaseException)
        )


def names_of(error: BaseException, modules: frozenset[str]) -> Iterator[str]:
    """Yield the names of the classes of *error* that belong to *modules*, the nearest first."""
    return (kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] in modules)


@contextlib.contextmanager
def translating(translate: Callable[[Exception], Exception]) -> Iterator[None]:
    """Raise what *translate* returns for an error of the block, from that error."""
    try:
        yield
    except Exception as error:
        translated = translate(error)
        if translated is error:
            raise
        raise translated from error
