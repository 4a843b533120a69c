"""What Azure and its SDK can answer, and which of our errors each answer is: one table for codes, one for exceptions.

Azure tells more by its error code than by the status, and repeats the code in a header, so that a HEAD has one too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    DirectoryNotEmptyError,
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
    """What happened and the way out; fields: uri, bucket, endpoint, permission, code, reason."""


_NO_OBJECT: Final = _Meaning(CloudPathFileNotFoundError, "{uri} does not exist")
_NO_BUCKET: Final = _Meaning(BucketNotFoundError, "there is no container {bucket!r} at {endpoint}, asked for {uri}")
_CHANGED: Final = _Meaning(
    VersionMismatchError, "{uri} is not, or no longer, the version asked for; nothing was changed"
)
_FORBIDDEN: Final = _Meaning(
    CloudPathPermissionError, "{endpoint} refused {uri} ({code}): these credentials need {permission}"
)
_NOT_PUBLIC: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri} ({code}): it is not public, and no credentials were given; give the client a credential "
    "or a connection string, or set AZURE_STORAGE_CONNECTION_STRING",
)
_BAD_KEY: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri}: the key, signature or token is wrong ({code}); check that it belongs to this account",
)
_EXPIRED: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri}: the signature is not valid at this time ({code}); make a new one, and check the clock",
)
_BUSY: Final = _Meaning(
    CloudUnavailableError, "{endpoint} kept failing for {uri} ({code}) after several tries; try again later"
)
_CANNOT: Final = _Meaning(CloudPathNotImplementedError, "{endpoint} cannot do this for {uri} ({code}: {reason})")
_BAD_NAME: Final = _Meaning(InvalidUriError, "{endpoint} takes no such name: {uri} ({code}: {reason})")
_REFUSED: Final = _Meaning(InvalidConfigurationException, "{endpoint} refused the request for {uri} ({code}: {reason})")
_LEASED: Final = _Meaning(CloudPathPermissionError, "{uri} is leased by somebody ({code}); nothing was changed")
_ARCHIVED: Final = _Meaning(
    CloudPathPermissionError, "{uri} lies in the archive tier ({code}) and cannot be read; rehydrate it first"
)
_IMMUTABLE: Final = _Meaning(CloudPathPermissionError, "{uri} is protected by a policy ({code}); nothing was changed")
_SNAPSHOTS: Final = _Meaning(
    CloudPathPermissionError, "{uri} has snapshots ({code}), which would go with it; delete those first"
)

BY_CODE: Final = {
    "BlobNotFound": _NO_OBJECT,
    "ResourceNotFound": _NO_OBJECT,
    "PathNotFound": _NO_OBJECT,
    "ContainerNotFound": _NO_BUCKET,
    "ContainerBeingDeleted": _NO_BUCKET,
    "ContainerDisabled": _NO_BUCKET,
    "ConditionNotMet": _CHANGED,
    "SourceConditionNotMet": _CHANGED,
    "TargetConditionNotMet": _CHANGED,
    "BlobAlreadyExists": _CHANGED,
    "ResourceAlreadyExists": _CHANGED,
    "BlobOverwritten": _CHANGED,
    "AuthorizationFailure": _Meaning(
        CloudPathPermissionError,
        "{endpoint} refused {uri} ({code}): the credentials must be this account's and need {permission}, and the "
        "account's network rules must let this machine in",
    ),
    "AuthorizationPermissionMismatch": _FORBIDDEN,
    "AuthorizationProtocolMismatch": _FORBIDDEN,
    "AuthorizationResourceTypeMismatch": _FORBIDDEN,
    "AuthorizationServiceMismatch": _FORBIDDEN,
    "AuthorizationSourceIPMismatch": _FORBIDDEN,
    "InsufficientAccountPermissions": _FORBIDDEN,
    "UnauthorizedBlobOverwrite": _FORBIDDEN,
    "KeyBasedAuthenticationNotPermitted": _FORBIDDEN,
    "AccountIsDisabled": _FORBIDDEN,
    "NoAuthenticationInformation": _NOT_PUBLIC,
    "PublicAccessNotPermitted": _NOT_PUBLIC,
    "AuthenticationFailed": _BAD_KEY,
    "InvalidAuthenticationInfo": _BAD_KEY,
    "LeaseIdMissing": _LEASED,
    "LeaseAlreadyPresent": _LEASED,
    "LeaseLost": _LEASED,
    "BlobArchived": _ARCHIVED,
    "BlobBeingRehydrated": _ARCHIVED,
    "BlobImmutableDueToPolicy": _IMMUTABLE,
    "SnapshotsPresent": _SNAPSHOTS,
    "ResourceTypeMismatch": _Meaning(CloudPathIsADirectoryError, "{uri} is a directory, not an object ({code})"),
    "DirectoryIsNotEmpty": _Meaning(DirectoryNotEmptyError, "{uri} is a directory and not empty ({code})"),
    "InvalidBlobType": _Meaning(
        CloudPathNotImplementedError, "{uri} is an append or page blob ({code}); only block blobs are written here"
    ),
    "InvalidBlockList": _Meaning(
        CloudUnavailableError, "others kept writing {uri} at the same time ({code}); nothing was changed, try again"
    ),
    "PendingCopyOperation": _Meaning(
        CloudUnavailableError, "{uri} is still being copied to ({code}); nothing was changed, try again later"
    ),
    "Md5Mismatch": _Meaning(ChecksumMismatchError, "{uri} arrived damaged at {endpoint} ({code}); nothing was changed"),
    "FeatureNotSupportedForAccount": _CANNOT,
    "UnsupportedHttpVerb": _CANNOT,
    "APINotImplemented": _CANNOT,
    "NotImplemented": _CANNOT,
    "InvalidResourceName": _BAD_NAME,
    "InvalidUri": _BAD_NAME,
    "OutOfRangeInput": _BAD_NAME,
    "ServerBusy": _BUSY,
    "InternalError": _BUSY,
    "OperationTimedOut": _BUSY,
    "TooManyRequests": _BUSY,
}
BY_STATUS: Final = {
    400: _REFUSED,
    401: _FORBIDDEN,
    403: _FORBIDDEN,
    404: _NO_OBJECT,
    405: _CANNOT,
    408: _BUSY,
    409: _REFUSED,
    412: _CHANGED,
    429: _BUSY,
    501: _CANNOT,
}
_UNREACHABLE: Final = _Meaning(
    CloudUnavailableError,
    "{endpoint} could not be reached for {uri}: check the network, the name of the account and the proxy",
)
_STOOD_STILL: Final = _Meaning(CloudUnavailableError, "{endpoint} stood still while {uri} was asked for; try again")
_BROKE: Final = _Meaning(TruncatedBodyError, "the connection to {endpoint} broke while {uri} was read")
BY_EXCEPTION: Final = {
    # of a request
    "ClientAuthenticationError": _Meaning(
        MissingCredentialsError,
        "no token could be had to ask {endpoint} for {uri}: log in (az login), or give the client a credential",
    ),
    "AzureSigningError": _Meaning(
        MissingCredentialsError, "the account key for {uri} is no key of Azure's: it is not even base64"
    ),
    "ServiceRequestError": _UNREACHABLE,
    "ServiceResponseTimeoutError": _STOOD_STILL,
    "ServiceResponseError": _Meaning(
        CloudUnavailableError, "the connection to {endpoint} broke while {uri} was asked for; try again"
    ),
    "IncompleteReadError": _BROKE,
    "DecodeError": _Meaning(CloudUnavailableError, "{endpoint} gave an answer for {uri} that is not Azure's"),
    "DeserializationError": _Meaning(CloudUnavailableError, "{endpoint} gave an answer for {uri} that is not Azure's"),
    "AzureError": _Meaning(CloudUnavailableError, "the SDK could not ask {endpoint} for {uri} ({reason})"),
    # of a body, which is read from the connection itself
    "ReadTimeoutError": _STOOD_STILL,
    "IncompleteRead": _Meaning(TruncatedBodyError, "{uri} ended early: the server stopped sending"),
    "HTTPError": _BROKE,
    "RequestException": _UNREACHABLE,
    "OSError": _BROKE,
    "ParseError": _Meaning(CloudUnavailableError, "{endpoint} gave a listing for {uri} that is not Azure's"),
}
"""By the name of the class or of its nearest parent that is listed, so that no SDK has to be imported here."""
_SDK_MODULES: Final = frozenset({"azure", "urllib3", "requests", "builtins", "xml"})

PERMISSIONS: Final = {
    "Get Blob": "to read blobs (Storage Blob Data Reader; a SAS with r)",
    "Get Blob Properties": "to read blobs (Storage Blob Data Reader; a SAS with r)",
    "List Blobs": "to list blobs (Storage Blob Data Reader; a SAS of the container with l)",
    "Put Blob": "to write blobs (Storage Blob Data Contributor; a SAS with w)",
    "Put Block": "to write blobs (Storage Blob Data Contributor; a SAS with w)",
    "Put Block List": "to write blobs (Storage Blob Data Contributor; a SAS with w)",
    "Copy Blob": "to read the source and write the target (Storage Blob Data Contributor; a SAS with r and w)",
    "Get User Delegation Key": "to sign URLs (Storage Blob Delegator, or Storage Blob Data Reader)",
    "Delete Blob": "to delete blobs (Storage Blob Data Contributor; a SAS with d)",
}


def answer_of(error: BaseException) -> tuple[int, str]:
    """Status and error code of what the server answered; ``(0, "")`` where it answered nothing."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return 0, ""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        code = headers.get("x-ms-error-code")
    return status, str(getattr(code, "value", code) or "")


def translate(
    error: Exception, *, uri: str, bucket: str, endpoint: str, operation: str, is_signed: bool = True
) -> CloudPathException | None:
    """What to raise for *error*, or None where it is not the SDK's, the network's or the server's."""
    status, code = answer_of(error)
    if status >= 300:
        reason = str(getattr(error, "message", "") or "")
        return translate_answer(
            code,
            status,
            reason,
            uri=uri,
            bucket=bucket,
            endpoint=endpoint,
            operation=operation,
            is_signed=is_signed,
        )
    for kind in type(error).__mro__:
        meaning = BY_EXCEPTION.get(kind.__name__)
        if meaning is not None and kind.__module__.partition(".")[0] in _SDK_MODULES:
            return meaning.raises(meaning.says.format(uri=uri, bucket=bucket, endpoint=endpoint, reason=error))
    return None


def translate_answer(
    code: str,
    status: int,
    reason: str,
    *,
    uri: str,
    bucket: str,
    endpoint: str,
    operation: str,
    is_signed: bool = True,
) -> CloudPathException:
    """What to raise for an answer, whether an exception brought it or a part of an answer to many keys."""
    meaning = BY_CODE.get(code) or BY_STATUS.get(status) or (_BUSY if status >= 500 else _REFUSED)
    if not is_signed and status in (401, 403) and meaning.raises is CloudPathPermissionError:
        meaning = _NOT_PUBLIC
    if meaning is _BAD_KEY and ("time frame" in reason or "expired" in reason.lower()):
        meaning = _EXPIRED
    text = meaning.says.format(
        uri=uri,
        bucket=bucket,
        endpoint=endpoint,
        permission=PERMISSIONS.get(operation, operation),
        code=code or status,
        reason=reason.partition("\n")[0],
    )
    return meaning.raises(text)
