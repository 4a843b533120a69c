"""What Google Cloud Storage and its SDK can answer, and which of our errors each answer is.

One table for the reasons that the service gives, one for bare statuses, one for exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
    TruncatedBodyError,
    VersionMismatchError,
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    raises: type[CloudPathException]
    says: str
    """What happened and the way out; fields: uri, bucket, endpoint, permission, doubt, code, reason."""


_NO_OBJECT: Final = _Meaning(CloudPathFileNotFoundError, "{uri} does not exist")
_NO_BUCKET: Final = _Meaning(BucketNotFoundError, "there is no bucket {bucket!r} at {endpoint}, asked for {uri}")
_CHANGED: Final = _Meaning(
    VersionMismatchError, "{uri} is not, or no longer, the version asked for; nothing was changed"
)
_FORBIDDEN: Final = _Meaning(
    CloudPathPermissionError, "{endpoint} refused {uri}: these credentials need {permission}{doubt} ({reason})"
)
_NOT_PUBLIC: Final = _Meaning(
    MissingCredentialsError,
    "no Google credentials were found, and {uri} is not public{doubt}: run `gcloud auth application-default login`, "
    "set GOOGLE_APPLICATION_CREDENTIALS or give the client credentials that have {permission}",
)
_DOUBT: Final = " (without storage.objects.list a missing object is answered so too; it is not known to be absent)"
_BAD_LOGIN: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri}: it does not accept these credentials, or they have expired ({reason}); log in again",
)
_BUSY: Final = _Meaning(
    CloudUnavailableError, "{endpoint} kept failing for {uri} ({code}) after several tries; try again later"
)
_HELD: Final = _Meaning(
    CloudPathPermissionError, "{uri} is under a retention policy or a hold and cannot be replaced or deleted ({reason})"
)
_CANNOT: Final = _Meaning(CloudPathNotImplementedError, "{endpoint} cannot do this for {uri} ({code}: {reason})")
_BAD_NAME: Final = _Meaning(InvalidUriError, "{endpoint} takes no such name: {uri} ({reason})")
_REFUSED: Final = _Meaning(InvalidConfigurationException, "{endpoint} refused the request for {uri} ({code}: {reason})")

BY_REASON: Final = {
    "conditionNotMet": _CHANGED,
    "rateLimitExceeded": _BUSY,
    "userRateLimitExceeded": _BUSY,
    "quotaExceeded": _BUSY,
    "backendError": _BUSY,
    "internalError": _BUSY,
    "authError": _BAD_LOGIN,
    "retentionPolicyNotMet": _HELD,
    "objectUnderActiveHold": _HELD,
    "invalidBucketName": _BAD_NAME,
    "notImplemented": _CANNOT,
}
"""By ``errors[0].reason`` of the answer."""
BY_STATUS: Final = {
    400: _REFUSED,
    401: _BAD_LOGIN,
    403: _FORBIDDEN,
    404: _NO_OBJECT,
    405: _CANNOT,
    408: _BUSY,
    409: _BUSY,
    410: _Meaning(CloudUnavailableError, "the upload of {uri} was ended by the server ({code}); try again"),
    412: _CHANGED,
    429: _BUSY,
    501: _CANNOT,
}
_UNREACHABLE: Final = _Meaning(
    CloudUnavailableError, "{endpoint} could not be reached for {uri}: check the network, the endpoint and the proxy"
)
_STALLED: Final = _Meaning(CloudUnavailableError, "{endpoint} stood still while {uri} was asked for; try again")
_BROKEN: Final = _Meaning(TruncatedBodyError, "the connection to {endpoint} broke while {uri} was read")
BY_EXCEPTION: Final = {
    "DataCorruption": _Meaning(
        ChecksumMismatchError, "the bytes received of {uri} do not have the checksum that {endpoint} states"
    ),
    "DefaultCredentialsError": _NOT_PUBLIC,
    "RefreshError": _BAD_LOGIN,
    "TransportError": _UNREACHABLE,
    "GoogleAuthError": _BAD_LOGIN,
    "RetryError": _BUSY,
    "Timeout": _STALLED,
    "ReadTimeoutError": _STALLED,
    "IncompleteRead": _Meaning(TruncatedBodyError, "{uri} ended early: the server stopped sending"),
    "ChunkedEncodingError": _BROKEN,
    "ProtocolError": _BROKEN,
    "DecodeError": _BROKEN,
    "HTTPException": _BROKEN,
    "RequestException": _UNREACHABLE,
    "HTTPError": _UNREACHABLE,
    "GoogleAPIError": _BUSY,
    "OSError": _UNREACHABLE,
}
"""By the name of the class or of its nearest parent that is listed, so that no SDK has to be imported here."""
_SDK_MODULES: Final = frozenset({"google", "requests", "urllib3", "http", "builtins"})

RETRIED: Final = frozenset((408, 409, 429, 500, 502, 503, 504))
"""Statuses after which the same request is sent again; 409 is another write at the same time, and no decision."""
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
"""What a role must hold for each of the backend's calls."""
_READS: Final = frozenset({"head", "read", "copy"})
_OF_NO_OBJECT: Final = frozenset({"list", "write"})
"""Calls that fail with 404 for want of a bucket alone."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an answer says of its failure."""

    status: int
    reason: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Refusal:
        """Of the SDK's error for an answer; all empty for any other error."""
        status = getattr(error, "code", None)
        if not isinstance(status, int) or not hasattr(error, "errors"):
            return cls(0, "", "")
        first: Any = next(iter(error.errors), {})
        return cls(int(status), str(first.get("reason", "")), str(first.get("message", "")))

    @property
    def leaves_open(self) -> bool:
        """Whether it is a 404 that does not say whether the object or the bucket is missing; Google's do."""
        return self.status == 404 and not self.message.startswith(("No such object", _NO_BUCKET_SAYS))


_NO_BUCKET_SAYS: Final = "The specified bucket does not exist"


def should_retry(error: BaseException) -> bool:
    """Whether *error* may be gone at the next try."""
    refusal = Refusal.of(error)
    if refusal.status:
        return refusal.status in RETRIED or BY_REASON.get(refusal.reason) is _BUSY
    return any(
        kind.__name__ in RETRIED_EXCEPTIONS and kind.__module__.partition(".")[0] in _SDK_MODULES
        for kind in type(error).__mro__
    )


def says_no_object(error: BaseException) -> bool:
    """Whether *error* says that the object to delete is gone already, and not its bucket."""
    refusal = Refusal.of(error)
    return refusal.status == 404 and not refusal.message.startswith(_NO_BUCKET_SAYS)


def translate(
    error: Exception, *, uri: str, bucket: str, endpoint: str, operation: str, is_signed: bool = True
) -> CloudPathException | None:
    """What to raise for *error*, or None where it is not the SDK's, the network's or the server's."""
    refusal = Refusal.of(error)
    meaning = _meaning_of(refusal, operation) if refusal.status else _meaning_of_exception(error)
    if meaning is None:
        return None
    if not is_signed and (meaning in (_FORBIDDEN, _BAD_LOGIN)):
        meaning = _NOT_PUBLIC
    text = meaning.says.format(
        uri=uri,
        bucket=bucket,
        endpoint=endpoint,
        permission=PERMISSIONS[operation],
        doubt=_DOUBT if operation in _READS else "",
        code=refusal.status or type(error).__name__,
        reason=refusal.message or refusal.reason or error,
    )
    return meaning.raises(text)


def _meaning_of(refusal: Refusal, operation: str) -> _Meaning:
    status = refusal.status
    if status == 404 and (operation in _OF_NO_OBJECT or refusal.message.startswith(_NO_BUCKET_SAYS)):
        return _NO_BUCKET
    if status == 400 and refusal.message.startswith(("Invalid bucket name", "Invalid object name")):
        return _BAD_NAME
    return BY_REASON.get(refusal.reason) or BY_STATUS.get(status) or (_BUSY if status >= 500 else _REFUSED)


def _meaning_of_exception(error: Exception) -> _Meaning | None:
    for kind in type(error).__mro__:
        meaning = BY_EXCEPTION.get(kind.__name__)
        if meaning is not None and kind.__module__.partition(".")[0] in _SDK_MODULES:
            return meaning
    return None
