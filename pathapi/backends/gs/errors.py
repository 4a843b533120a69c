"""Which error each answer of Google Cloud Storage and of its SDK becomes: by reason, by status, by exception."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pathapi.backends import error_table
from pathapi.backends.error_table import ErrorTable, ErrorTemplate, names_of
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathPermissionError,
    CloudUnavailableError,
    MissingCredentialsError,
)

# The fields of a message: uri, bucket, endpoint, permission, doubt, code, reason.
_NO_BUCKET: Final = ErrorTemplate(BucketNotFoundError, "{uri}: there is no bucket {bucket!r} at {endpoint}")
_FORBIDDEN: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: {endpoint} denied access{doubt}: these credentials need {permission} ({reason})"
)
_LOG_IN: Final = "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS"
_NOT_PUBLIC: Final = ErrorTemplate(
    MissingCredentialsError,
    "{uri}: no Google credentials were found, and the object is not public{doubt}",
    f"{_LOG_IN} or give the client credentials that have {{permission}}",
    f"{_LOG_IN} or use --credentials of an account that has {{permission}}",
)
_DOUBT: Final = " (without storage.objects.list, Google also answers 403 for objects that do not exist)"
_BAD_LOGIN: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} does not accept these credentials, or they have expired ({reason}): log in again",
)
_PROTECTED: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: a retention policy or a hold protects the object from changes ({reason}): remove that first",
)

BY_REASON: Final = {
    "conditionNotMet": error_table.CHANGED,
    **dict.fromkeys(
        ("rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "backendError", "internalError"),
        error_table.BUSY,
    ),
    "authError": _BAD_LOGIN,
    **dict.fromkeys(("retentionPolicyNotMet", "objectUnderActiveHold"), _PROTECTED),
    "invalidBucketName": error_table.BAD_NAME,
    "notImplemented": error_table.CANNOT,
}
"""By ``errors[0].reason`` of the response."""
BY_STATUS: Final = {
    **error_table.BY_STATUS,
    401: _BAD_LOGIN,
    403: _FORBIDDEN,
    408: error_table.BUSY,
    409: error_table.BUSY,
    410: ErrorTemplate(CloudUnavailableError, "{uri}: the server ended the upload ({code}): try again"),
}
BY_EXCEPTION: Final = {
    "DataCorruption": ErrorTemplate(
        ChecksumMismatchError, "{uri}: the bytes received do not match the checksum of {endpoint}: read it again"
    ),
    "DefaultCredentialsError": _NOT_PUBLIC,
    "RefreshError": _BAD_LOGIN,
    "TransportError": error_table.UNREACHABLE,
    "GoogleAuthError": _BAD_LOGIN,
    "RetryError": error_table.BUSY,
    "Timeout": error_table.STALLED,
    "ReadTimeoutError": error_table.STALLED,
    "IncompleteRead": error_table.CUT_OFF,
    "ChunkedEncodingError": error_table.BROKEN,
    "ProtocolError": error_table.BROKEN,
    "DecodeError": error_table.BROKEN,
    "HTTPException": error_table.BROKEN,
    "RequestException": error_table.UNREACHABLE,
    "HTTPError": error_table.UNREACHABLE,
    "GoogleAPIError": error_table.BUSY,
    "OSError": error_table.UNREACHABLE,
}
TABLE: Final = ErrorTable(
    BY_STATUS,
    BY_EXCEPTION,
    frozenset({"google", "requests", "urllib3", "http", "builtins"}),
    BY_REASON,
    unsent=frozenset(
        {
            "ConnectTimeout",
            "NewConnectionError",
            "ConnectTimeoutError",
            "ProxyError",
            "SSLError",
            "GoogleAuthError",
            "DefaultCredentialsError",
            "TransportError",
        }
    ),
)

RETRIED: Final = frozenset((408, 409, 429, 500, 502, 503, 504))
"""Statuses to retry. A 409 means another write at the same time: the condition was not evaluated."""
RETRIED_EXCEPTIONS: Final = frozenset(("ConnectionError", "Timeout", "ChunkedEncodingError", "TransportError"))

PERMISSIONS: Final = {
    "head": "storage.objects.get",
    "read": "storage.objects.get",
    "list": "storage.objects.list",
    "write": "storage.objects.create (and storage.objects.delete where the object exists)",
    "copy": "storage.objects.get on the source, storage.objects.create on the target (and storage.objects.delete "
    "where it exists)",
    "delete": "storage.objects.delete",
}
"""The permissions that each call of the backend needs."""
_READS: Final = frozenset({"head", "read", "copy"})
_WITHOUT_OBJECT: Final = frozenset({"list", "write"})
"""Calls whose 404 always means a missing bucket."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a response says about its failure."""

    status: int
    reason: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Refusal:
        """Return that of the SDK's error for a response; all fields are empty for any other error."""
        status = getattr(error, "code", None)
        if not isinstance(status, int) or not hasattr(error, "errors"):
            return cls(0, "", "")
        first: Any = next(iter(error.errors), {})
        return cls(int(status), str(first.get("reason", "")), str(first.get("message", "")))

    @property
    def is_ambiguous(self) -> bool:
        """Whether it is a 404 that does not say if the object or the bucket is missing; Google's own do."""
        return self.status == 404 and not self.message.startswith(("No such object", _NO_BUCKET_SAYS))


_NO_BUCKET_SAYS: Final = "The specified bucket does not exist"


def should_retry(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    refusal = Refusal.of(error)
    if refusal.status:
        return refusal.status in RETRIED or BY_REASON.get(refusal.reason) is error_table.BUSY
    return not RETRIED_EXCEPTIONS.isdisjoint(names_of(error, TABLE.modules))


def is_missing_object(error: BaseException) -> bool:
    """Return whether *error* is a 404 for the object to delete, not for its bucket."""
    refusal = Refusal.of(error)
    return refusal.status == 404 and not refusal.message.startswith(_NO_BUCKET_SAYS)


def translate(error: Exception, *, operation: str, is_signed: bool = True, **where: Any) -> CloudPathException | None:
    """Return what to raise for *error*; None if neither the SDK nor the network nor the server raised it.

    *where* gives uri, bucket and endpoint.
    """
    refusal = Refusal.of(error)
    template = _template_of(refusal, operation) if refusal.status else TABLE.of_exception(error)
    if template is None:
        return None
    if not is_signed and (template in (_FORBIDDEN, _BAD_LOGIN)):
        template = _NOT_PUBLIC
    return template.make(
        **where,
        permission=PERMISSIONS[operation],
        doubt=_DOUBT if operation in _READS else "",
        code=refusal.status or type(error).__name__,
        reason=refusal.message or refusal.reason or error,
    )


def _template_of(refusal: Refusal, operation: str) -> ErrorTemplate:
    status = refusal.status
    if status == 404 and (operation in _WITHOUT_OBJECT or refusal.message.startswith(_NO_BUCKET_SAYS)):
        return _NO_BUCKET
    if status == 400 and refusal.message.startswith(("Invalid bucket name", "Invalid object name")):
        return error_table.BAD_NAME
    return TABLE.of_answer(status, refusal.reason)
