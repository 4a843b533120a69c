"""What requests about one bucket have in common: its URIs, and how their errors are translated."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

from casstore import Validator
from pathapi.backend import Absent, WriteCondition
from pathapi.backends.bodies import Translate
from pathapi.backends.error_table import GONE
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    InvalidUriError,
)


class BucketRequests:
    """Requests about one bucket; a cloud derives its own."""

    scheme: str
    service: ClassVar[str] = ""
    """The name of the provider's own endpoint in messages."""
    compares: ClassVar[str]
    """What identifies a version for this server, for messages."""
    translate: ClassVar[Callable[..., CloudPathException | None]]

    def __init__(self, connection: Any, bucket: str) -> None:
        self.connection = connection
        self.bucket = bucket

    def uri(self, key: str) -> str:
        """Return the URI as users write it, for messages."""
        return f"{self.scheme}://{self.bucket}/{key}".encode("utf-8", "backslashreplace").decode()

    def quote(self, name: str, safe: str) -> str:
        """Quote a part of a URL. Raises InvalidUriError."""
        with self.checking_utf8(name):
            return urllib.parse.quote(name, safe=safe)

    @contextlib.contextmanager
    def checking_utf8(self, key: str) -> Iterator[None]:
        """Raise InvalidUriError if the block cannot encode a name."""
        try:
            yield
        except UnicodeEncodeError as error:
            raise InvalidUriError(f"{self.uri(key)}: a name must be valid UTF-8") from error

    def conditions(self, key: str, expect: WriteCondition) -> dict[str, Any]:
        """Return the arguments of a write that replaces *expect*. Raises CloudPathNotImplementedError."""
        if expect is None:
            return {}
        found = self.condition_of(expect)
        if found is None:
            raise CloudPathNotImplementedError(f"{self.uri(key)}: {self.compares}, and the expected version has none")
        return found

    def condition_of(self, expect: Validator | Absent) -> dict[str, Any] | None:
        """Return the arguments of a write that replaces *expect*; None if the server cannot compare it."""
        raise NotImplementedError

    def where(self, key: str) -> dict[str, Any]:
        """Return the fields of an error about *key*."""
        return {
            "uri": self.uri(key),
            "bucket": self.bucket,
            "endpoint": self.connection.origin.partition("@")[2] or self.service,
            "is_signed": self.connection.is_signed,
        }

    def translator(self, key: str, operation: str) -> Translate:
        """Return the translation of errors about *key*; removes secrets from them."""

        def translate(error: Exception) -> Exception:
            if not isinstance(error, CloudPathException):
                self.connection.scrub(error)
                error = type(self).translate(error, operation=operation, **self.where(key)) or error
            explained: Exception = self.connection.explain(error)
            return explained

        return translate

    def raise_translated(
        self, error: Exception, key: str, operation: str, expect: WriteCondition = None, *, outcome_unknown: bool
    ) -> NoReturn:
        """Raise the translation of *error*, or *error* itself. With *expect*, a 404 means another version.

        *outcome_unknown* is for the error raised; see `CloudPathException`.
        """
        translated = self.translator(key, operation)(error)
        if isinstance(expect, Validator) and type(translated) is CloudPathFileNotFoundError:
            translated = GONE.make(uri=self.uri(key))
        if translated is error:
            raise error
        if isinstance(translated, CloudPathException):
            translated.outcome_unknown = outcome_unknown
        raise translated from error
