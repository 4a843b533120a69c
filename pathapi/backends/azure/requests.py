"""Requests to one container of Azure, with conditions and translated errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from casstore import Validator
from pathapi.backend import Absent, WriteCondition
from pathapi.backends import error_table
from pathapi.backends.azure.connection import AzureConnection
from pathapi.backends.azure.errors import may_be_carried_out, translate
from pathapi.backends.bucket_requests import BucketRequests
from pathapi.backends.headers import format_etag
from pathapi.exceptions import CloudPathException, InvalidUriError
from pathapi.parallel.part_threads import heard

_CHANGES: Final = frozenset(("Put Blob", "Put Block List", "Copy Blob", "Delete Blob"))
"""Operations that change a blob; those that upload a block change none."""


class ResponseOpened(Exception):  # noqa: N818 (no error: it carries a response out of the SDK)
    """Raised by the SDK's hook: a response with its body still unread."""

    def __init__(self, response: Any) -> None:
        self.response = response


class AzureRequests(BucketRequests):
    """Requests about one container, by the SDK's clients."""

    connection: AzureConnection
    scheme = "az"
    compares = "Azure compares ETags"
    translate = staticmethod(translate)

    def __init__(self, connection: AzureConnection, bucket: str) -> None:
        super().__init__(connection, bucket)
        self._made: tuple[Any, Any] | None = None
        """A service client and its container client. A forked child has its own service client."""

    def condition_of(self, expect: Validator | Absent) -> dict[str, Any] | None:
        if isinstance(expect, Absent):
            return condition_of("IfMissing", None)
        return None if expect.etag is None else condition_of("IfNotModified", expect)

    def creation_options(self, content_type: str | None, md5: bytes | None) -> dict[str, Any]:
        """Return the arguments of a request that creates a blob."""
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_type=content_type, content_md5=None if md5 is None else bytearray(md5))
        return {"content_settings": settings, **self.tier_option()}

    def tier_option(self) -> dict[str, Any]:
        """Return the tier's argument of a request that creates or copies a blob."""
        tier = self.connection.sdk_tier()
        return {} if tier is None else {"standard_blob_tier": tier}

    def container(self) -> Any:
        service, made = self.connection.service_client, self._made
        if made is None or made[0] is not service:
            try:
                made = self._made = (service, service.get_container_client(self.bucket))
            except ValueError as error:
                raise InvalidUriError(f"az://{self.bucket}: Azure containers cannot have this name") from error
        return made[1]

    def blob(self, key: str) -> Any:
        self.check_name(key)
        # It calls `logging.getLogger`, which before Python 3.13 an interrupt leaves locked.
        return heard(lambda: self.container().get_blob_client(key))

    def check_name(self, key: str) -> None:
        with self.checking_utf8(key):
            key.encode()
        # HTTP clients change such names: ``a/../b`` becomes ``b``.
        if not key or any(segment in (".", "..") for segment in key.split("/")):
            raise InvalidUriError(
                f"{self.uri(key)}: Azure blobs cannot have an empty name, or '.' and '..' as parts of it"
            )

    def call(
        self,
        operation: str,
        key: str,
        method: Callable[..., Any],
        *arguments: Any,
        expect: WriteCondition = None,
        **options: Any,
    ) -> Any:
        """Send one request about *key*. With *expect*, a missing object is a version mismatch."""
        is_unknown = False

        def note(response: Any = None, error: BaseException | None = None, **_: Any) -> None:
            nonlocal is_unknown
            if response is not None and error_table.may_be_carried_out(int(response.status_code)):
                is_unknown = True
            is_unknown = is_unknown or (error is not None and may_be_carried_out(error))

        try:
            return method(*arguments, retry_hook=note, **options)
        except (ResponseOpened, CloudPathException):
            raise
        except Exception as error:  # noqa: BLE001 (always raised)
            note(error=error)
            unknown = is_unknown and operation in _CHANGES
            self.raise_translated(error, key, operation, expect, outcome_unknown=unknown)


def condition_of(name: str, version: Validator | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    condition = {"match_condition": getattr(MatchConditions, name)}
    return condition if version is None else {"etag": format_etag(version), **condition}
