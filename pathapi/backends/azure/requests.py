"""Requests to one container of Azure, with conditions and translated errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from casstore import Validator
from pathapi.backend import Absent
from pathapi.backends.azure.connection import AzureConnection
from pathapi.backends.azure.errors import translate
from pathapi.backends.error_table import GONE
from pathapi.backends.headers import format_etag
from pathapi.exceptions import CloudPathException, CloudPathFileNotFoundError, InvalidUriError, VersionMismatchError


class ResponseOpened(Exception):  # noqa: N818 (no error: it carries a response out of the SDK)
    """Raised by the SDK's hook: a response with its body still unread."""

    def __init__(self, response: Any) -> None:
        self.response = response


class AzureRequests:
    """A container as the SDK sees it; thread-safe, picklable with its connection."""

    def __init__(self, connection: AzureConnection, bucket: str) -> None:
        self.connection = connection
        self._bucket = bucket
        self._made: tuple[Any, Any] | None = None
        """A service client and its container client. A forked child has its own service client."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.connection, self._bucket)

    @property
    def origin(self) -> str:
        return self.connection.origin

    @property
    def bucket(self) -> str:
        return self._bucket

    def _settings(self, content_type: str | None, md5: bytes | None) -> Any:
        from azure.storage.blob import ContentSettings

        return ContentSettings(content_type=content_type, content_md5=None if md5 is None else bytearray(md5))

    def _tiered(self) -> dict[str, Any]:
        """Return the tier's argument of a request that creates a blob."""
        tier = self.connection.sdk_tier()
        return {} if tier is None else {"standard_blob_tier": tier}

    def _container(self) -> Any:
        service, made = self.connection.service_client, self._made
        if made is None or made[0] is not service:
            try:
                made = self._made = (service, service.get_container_client(self._bucket))
            except ValueError as error:
                raise InvalidUriError(f"az://{self._bucket}: Azure containers cannot have this name") from error
        return made[1]

    def _blob(self, key: str) -> Any:
        self._check(key)
        return self._container().get_blob_client(key)

    def _check(self, key: str) -> None:
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise InvalidUriError(f"{self._uri(key)}: a name must be valid UTF-8") from error
        # HTTP clients change such names: ``a/../b`` becomes ``b``.
        if not key or any(segment in (".", "..") for segment in key.split("/")):
            raise InvalidUriError(
                f"{self._uri(key)}: Azure blobs cannot have an empty name, or '.' and '..' as parts of it"
            )

    def _call(
        self,
        operation: str,
        key: str,
        method: Callable[..., Any],
        *arguments: Any,
        expect: Validator | Absent | None = None,
        **options: Any,
    ) -> Any:
        """Send one request about *key*. With *expect*, a missing object is a version mismatch."""
        retries: list[object] = []
        try:
            return method(*arguments, retry_hook=lambda **again: retries.append(again), **options)
        except (ResponseOpened, CloudPathException):
            raise
        except Exception as error:
            self.connection.scrub(error)
            meant = translate(error, operation=operation, **self._where(key))
            if meant is None:
                raise
            if isinstance(expect, Validator) and type(meant) is CloudPathFileNotFoundError:
                meant = GONE.make(uri=self._uri(key))
            if isinstance(meant, VersionMismatchError):
                meant.after_retry = bool(retries)
            raise meant from error

    def _uri(self, key: str) -> str:
        return f"az://{self._bucket}/{key}".encode("utf-8", "backslashreplace").decode()

    def _where(self, key: str) -> dict[str, Any]:
        return {
            "uri": self._uri(key),
            "bucket": self._bucket,
            "endpoint": self.connection.origin.removeprefix("azure@"),
            "is_signed": self.connection.account.is_signed,
        }


def condition_of(name: str, version: Validator | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    condition = {"match_condition": getattr(MatchConditions, name)}
    return condition if version is None else {"etag": format_etag(version), **condition}
