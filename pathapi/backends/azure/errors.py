"""Which error each answer of Azure and of its SDK becomes.

Azure's error code says more than the status. A header repeats the code, so the response to a HEAD has one too.
"""

from __future__ import annotations

from typing import Any, Final

from pathapi.backends import error_table
from pathapi.backends.error_table import ErrorTable, ErrorTemplate
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathIsADirectoryError,
    CloudPathNotImplementedError,
    CloudPathPermissionError,
    CloudUnavailableError,
    DirectoryNotEmptyError,
    MissingCredentialsError,
)

# The fields of a message: uri, bucket, endpoint, permission, code, reason.
_NO_BUCKET: Final = ErrorTemplate(BucketNotFoundError, "{uri}: there is no container {bucket!r} at {endpoint}")
_FORBIDDEN: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: {endpoint} denied access ({code}): these credentials need {permission}"
)
_NOT_PUBLIC: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} denied access ({code}), the object is not public, and no credentials were given",
    "give the client a credential or a connection string, or set AZURE_STORAGE_CONNECTION_STRING",
    "set AZURE_STORAGE_CONNECTION_STRING",
)
_BAD_KEY: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} denied access, the key, signature or token is wrong ({code}): check that it belongs to this "
    "account",
)
_EXPIRED: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} denied access, the signature is not valid at this time ({code}): make a new one, and check the "
    "clock",
)
_LEASED: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: the blob has a lease ({code}); nothing was changed: end the lease first"
)
_ARCHIVED: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: the blob is in the archive tier ({code}): rehydrate it first"
)

BY_CODE: Final = {
    **dict.fromkeys(("BlobNotFound", "ResourceNotFound", "PathNotFound"), error_table.MISSING),
    **dict.fromkeys(("ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"), _NO_BUCKET),
    **dict.fromkeys(
        (
            "ConditionNotMet",
            "SourceConditionNotMet",
            "TargetConditionNotMet",
            "BlobAlreadyExists",
            "ResourceAlreadyExists",
            "BlobOverwritten",
        ),
        error_table.CHANGED,
    ),
    "AuthorizationFailure": ErrorTemplate(
        CloudPathPermissionError,
        "{uri}: {endpoint} denied access ({code}): the credentials must be this account's and need {permission}, and "
        "the account's network rules must admit this machine",
    ),
    **dict.fromkeys(
        (
            "AuthorizationPermissionMismatch",
            "AuthorizationProtocolMismatch",
            "AuthorizationResourceTypeMismatch",
            "AuthorizationServiceMismatch",
            "AuthorizationSourceIPMismatch",
            "InsufficientAccountPermissions",
            "UnauthorizedBlobOverwrite",
            "KeyBasedAuthenticationNotPermitted",
            "AccountIsDisabled",
        ),
        _FORBIDDEN,
    ),
    **dict.fromkeys(("NoAuthenticationInformation", "PublicAccessNotPermitted"), _NOT_PUBLIC),
    **dict.fromkeys(("AuthenticationFailed", "InvalidAuthenticationInfo"), _BAD_KEY),
    **dict.fromkeys(("LeaseIdMissing", "LeaseAlreadyPresent", "LeaseLost"), _LEASED),
    **dict.fromkeys(("BlobArchived", "BlobBeingRehydrated"), _ARCHIVED),
    "BlobImmutableDueToPolicy": ErrorTemplate(
        CloudPathPermissionError, "{uri}: a policy protects the blob from changes ({code}); nothing was changed"
    ),
    "SnapshotsPresent": ErrorTemplate(
        CloudPathPermissionError, "{uri}: the blob has snapshots ({code}): delete those first"
    ),
    "ResourceTypeMismatch": ErrorTemplate(CloudPathIsADirectoryError, "{uri} is a directory, not an object ({code})"),
    "DirectoryIsNotEmpty": ErrorTemplate(DirectoryNotEmptyError, "{uri}: the directory is not empty ({code})"),
    "InvalidBlobType": ErrorTemplate(
        CloudPathNotImplementedError, "{uri}: append and page blobs cannot be written ({code}): use a block blob"
    ),
    "InvalidBlockList": ErrorTemplate(
        CloudUnavailableError, "{uri}: other processes kept writing this blob ({code}); nothing was changed: try again"
    ),
    "PendingCopyOperation": ErrorTemplate(
        CloudUnavailableError,
        "{uri}: a copy to this blob is in progress ({code}); nothing was changed: try again later",
    ),
    "Md5Mismatch": ErrorTemplate(
        ChecksumMismatchError,
        "{uri}: the upload was damaged on its way to {endpoint} ({code}); nothing was changed: try again",
    ),
    **dict.fromkeys(
        ("FeatureNotSupportedForAccount", "UnsupportedHttpVerb", "APINotImplemented", "NotImplemented"),
        error_table.CANNOT,
    ),
    **dict.fromkeys(("InvalidResourceName", "InvalidUri", "OutOfRangeInput"), error_table.BAD_NAME),
    **dict.fromkeys(("ServerBusy", "InternalError", "OperationTimedOut", "TooManyRequests"), error_table.BUSY),
}
BY_STATUS: Final = {
    **error_table.BY_STATUS,
    401: _FORBIDDEN,
    403: _FORBIDDEN,
    408: error_table.BUSY,
    409: error_table.REFUSED,
}
_UNREACHABLE: Final = ErrorTemplate(
    CloudUnavailableError,
    "{uri}: {endpoint} could not be reached: check the network, the name of the account and the proxy",
)
_FOREIGN: Final = ErrorTemplate(
    CloudUnavailableError, "{uri}: {endpoint} did not answer as Azure does: check the account URL"
)
BY_EXCEPTION: Final = {
    # of a request
    "ClientAuthenticationError": ErrorTemplate(
        MissingCredentialsError,
        "{uri}: no token for {endpoint} was found",
        "log in (az login), or give the client a credential",
        "log in: az login",
    ),
    "AzureSigningError": ErrorTemplate(
        MissingCredentialsError, "{uri}: the account key is not an Azure key: it is not base64"
    ),
    "ServiceRequestError": _UNREACHABLE,
    "ServiceResponseTimeoutError": error_table.STALLED,
    "ServiceResponseError": ErrorTemplate(
        CloudUnavailableError, "{uri}: the connection to {endpoint} broke before a response came: try again"
    ),
    "IncompleteReadError": error_table.BROKEN,
    "DecodeError": _FOREIGN,
    "DeserializationError": _FOREIGN,
    "AzureError": ErrorTemplate(CloudUnavailableError, "{uri}: the SDK could not send the request ({reason})"),
    # of a body, which is read from the connection itself
    "ReadTimeoutError": error_table.STALLED,
    "IncompleteRead": error_table.CUT_OFF,
    "HTTPError": error_table.BROKEN,
    "RequestException": _UNREACHABLE,
    "OSError": error_table.BROKEN,
    "ParseError": _FOREIGN,
}
TABLE: Final = ErrorTable(
    BY_STATUS,
    BY_EXCEPTION,
    frozenset({"azure", "urllib3", "requests", "builtins", "xml"}),
    BY_CODE,
    unsent=frozenset({"ServiceRequestError", "ClientAuthenticationError", "AzureSigningError"}),
)

_CONTRIBUTOR: Final = "Storage Blob Data Contributor"
PERMISSIONS: Final = {
    **dict.fromkeys(("Get Blob", "Get Blob Properties"), "to read blobs (Storage Blob Data Reader; a SAS with r)"),
    "List Blobs": "to list blobs (Storage Blob Data Reader; a SAS of the container with l)",
    **dict.fromkeys(("Put Blob", "Put Block", "Put Block List"), f"to write blobs ({_CONTRIBUTOR}; a SAS with w)"),
    "Copy Blob": f"to read the source and write the target ({_CONTRIBUTOR}; a SAS with r and w)",
    "Get User Delegation Key": "to sign URLs (Storage Blob Delegator, or Storage Blob Data Reader)",
    "Delete Blob": f"to delete blobs ({_CONTRIBUTOR}; a SAS with d)",
}


def answer_of(error: BaseException) -> tuple[int, str]:
    """Return status and error code of the server's response; ``(0, "")`` if there was none."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return 0, ""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        code = headers.get("x-ms-error-code")
    return status, str(getattr(code, "value", code) or "")


def may_be_carried_out(error: BaseException) -> bool:
    """Return whether the server may have carried out the request that ended in *error*."""
    status, _ = answer_of(error)
    if 200 <= status < 300:
        return True  # the SDK could not read the rest of the response
    return error_table.may_be_carried_out(status) if status else TABLE.may_be_sent(error)


def translate(error: Exception, **where: Any) -> CloudPathException | None:
    """Return what to raise for *error*; None if neither the SDK nor the network nor the server raised it.

    *where* is for the message: see `translate_answer`.
    """
    status, code = answer_of(error)
    if status >= 300:
        return translate_answer(code, status, str(getattr(error, "message", "") or ""), **where)
    template = TABLE.of_exception(error)
    return None if template is None else template.make(**where, reason=error)


def translate_answer(
    code: str, status: int, reason: str, *, operation: str, is_signed: bool = True, **where: Any
) -> CloudPathException:
    """Return what to raise for a response, of an exception or of one part of a response about many keys.

    *where* gives uri, bucket and endpoint.
    """
    template = TABLE.of_answer(status, code)
    if not is_signed and status in (401, 403) and template.error is CloudPathPermissionError:
        template = _NOT_PUBLIC
    if template is _BAD_KEY and ("time frame" in reason or "expired" in reason.lower()):
        template = _EXPIRED
    return template.make(
        **where, permission=PERMISSIONS.get(operation, operation), code=code or status, reason=reason.partition("\n")[0]
    )
