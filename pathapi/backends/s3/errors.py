"""What S3 and its SDK can answer, and which of our errors each answer is: one table for codes, one for exceptions.

S3 tells more by its error code than by the status; a HEAD has no body, so that its code is the bare status.
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
    """What happened and the way out; fields: uri, bucket, endpoint, permission, doubt, region, code, reason."""


_NO_OBJECT: Final = _Meaning(CloudPathFileNotFoundError, "{uri} does not exist")
_NO_BUCKET: Final = _Meaning(BucketNotFoundError, "there is no bucket {bucket!r} at {endpoint}, asked for {uri}")
_CHANGED: Final = _Meaning(
    VersionMismatchError, "{uri} is not, or no longer, the version asked for; nothing was changed"
)
_FORBIDDEN: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri}: these credentials need {permission}{doubt}; no_sign_request=True reads public buckets",
)
_NOT_PUBLIC: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri}: it is not public{doubt}; no_sign_request=True was asked for, leave it out and log in",
)
_DOUBT: Final = " (without s3:ListBucket a missing object is answered so too; it is not known to be absent)"
_READS: Final = frozenset({"GetObject", "HeadObject", "CopyObject"})
_BAD_KEY: Final = _Meaning(
    CloudPathPermissionError,
    "{endpoint} refused {uri}: it does not know the access key or its secret ({code}); check the profile, the "
    "environment (AWS_ACCESS_KEY_ID) and that they belong to this endpoint. no_sign_request=True reads public buckets",
)
_EXPIRED: Final = _Meaning(
    CloudPathPermissionError, "{endpoint} refused {uri}: the credentials have expired ({code}); log in again"
)
_BUSY: Final = _Meaning(
    CloudUnavailableError, "{endpoint} kept failing for {uri} ({code}) after several tries; try again later"
)
_ELSEWHERE: Final = _Meaning(
    InvalidConfigurationException,
    "the bucket of {uri} is in {region}, not where {endpoint} looked ({code}); set AWS_DEFAULT_REGION or the endpoint",
)
_CANNOT: Final = _Meaning(CloudPathNotImplementedError, "{endpoint} cannot do this for {uri} ({code}: {reason})")
_BAD_NAME: Final = _Meaning(InvalidUriError, "{endpoint} takes no such name: {uri} ({code}: {reason})")
_REFUSED: Final = _Meaning(InvalidConfigurationException, "{endpoint} refused the request for {uri} ({code}: {reason})")

BY_CODE: Final = {
    "NoSuchKey": _NO_OBJECT,
    "NoSuchVersion": _NO_OBJECT,
    "NoSuchBucket": _NO_BUCKET,
    "AccessDenied": _FORBIDDEN,
    "AllAccessDisabled": _FORBIDDEN,
    "InvalidAccessKeyId": _BAD_KEY,
    "SignatureDoesNotMatch": _BAD_KEY,
    "InvalidToken": _BAD_KEY,
    "ExpiredToken": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "RequestTimeTooSkewed": _Meaning(
        CloudPathPermissionError, "{endpoint} refused {uri}: this machine's clock is wrong; set it and try again"
    ),
    "InvalidObjectState": _Meaning(
        CloudPathPermissionError, "{uri} lies in an archive class (Glacier) and cannot be read; restore it first"
    ),
    "PreconditionFailed": _CHANGED,
    "ConditionalRequestConflict": _Meaning(
        CloudUnavailableError, "others kept writing {uri} at the same time; nothing was changed, try again"
    ),
    "NoSuchUpload": _Meaning(
        CloudUnavailableError, "the upload of {uri} was ended by somebody else, or its answer was lost"
    ),
    "NotImplemented": _CANNOT,
    "MethodNotAllowed": _CANNOT,
    "PermanentRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "KeyTooLongError": _BAD_NAME,
    "KeyTooLong": _BAD_NAME,
    "InvalidBucketName": _BAD_NAME,
    "InvalidURI": _BAD_NAME,
    "XMinioInvalidObjectName": _BAD_NAME,
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
    "RequestTimeout": _BUSY,
}
BY_STATUS: Final = {
    301: _ELSEWHERE,
    400: _REFUSED,
    401: _FORBIDDEN,
    403: _FORBIDDEN,
    404: _NO_OBJECT,
    405: _CANNOT,
    412: _CHANGED,
    429: _BUSY,
    501: _CANNOT,
}
_UNREACHABLE: Final = _Meaning(
    CloudUnavailableError, "{endpoint} could not be reached for {uri}: check the network, the endpoint and the proxy"
)
_NO_CREDENTIALS: Final = _Meaning(
    MissingCredentialsError,
    "no AWS credentials were found for {uri}: configure a profile or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    "for a public bucket say no_sign_request=True",
)
BY_EXCEPTION: Final = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "NoAuthTokenError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": _NO_CREDENTIALS,
    "SSOError": _NO_CREDENTIALS,
    "LoginError": _NO_CREDENTIALS,
    "ParamValidationError": _Meaning(InvalidUriError, "no object of S3 can be named {uri} ({reason})"),
    "FlexibleChecksumError": _Meaning(
        ChecksumMismatchError, "the bytes received of {uri} do not have the checksum that {endpoint} states"
    ),
    "IncompleteReadError": _Meaning(TruncatedBodyError, "{uri} ended early: the server stopped sending"),
    "ResponseStreamingError": _Meaning(TruncatedBodyError, "the connection to {endpoint} broke while {uri} was read"),
    "ReadTimeoutError": _Meaning(CloudUnavailableError, "{endpoint} stood still while {uri} was asked for; try again"),
    "HTTPClientError": _UNREACHABLE,
    "ConnectionError": _UNREACHABLE,
    "ResponseParserError": _Meaning(CloudUnavailableError, "{endpoint} gave an answer for {uri} that is not S3's"),
    "HTTPError": _UNREACHABLE,
    "OSError": _UNREACHABLE,
    "BotoCoreError": _Meaning(CloudUnavailableError, "boto3 could not ask {endpoint} for {uri} ({reason})"),
}
"""By the name of the class or of its nearest parent that is listed, so that no SDK has to be imported here."""
_SDK_MODULES: Final = frozenset({"botocore", "urllib3", "builtins"})

PERMISSIONS: Final = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": "s3:GetObject on the source and s3:PutObject on the target",
    "UploadPartCopy": "s3:GetObject on the source and s3:PutObject on the target",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
}


def answer_of(error: BaseException) -> tuple[int, str]:
    """Status and error code of a ClientError; ``(0, "")`` of anything else."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))


def retries_of(error: BaseException) -> int:
    """How often the SDK had sent the request before the answer that *error* is."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0
    return int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def translate(
    error: Exception, *, uri: str, bucket: str, endpoint: str, operation: str, is_signed: bool = True
) -> CloudPathException | None:
    """What to raise for *error*, or None where it is not the SDK's, the network's or the server's."""
    status, code = answer_of(error)
    if status:
        return translate_answer(
            error, code, status, uri=uri, bucket=bucket, endpoint=endpoint, operation=operation, is_signed=is_signed
        )
    for kind in type(error).__mro__:
        meaning = BY_EXCEPTION.get(kind.__name__)
        if meaning is not None and kind.__module__.partition(".")[0] in _SDK_MODULES:
            return meaning.raises(meaning.says.format(uri=uri, bucket=bucket, endpoint=endpoint, reason=error))
    return None


def translate_answer(
    error: Exception | None,
    code: str,
    status: int,
    *,
    uri: str,
    bucket: str,
    endpoint: str,
    operation: str,
    is_signed: bool = True,
) -> CloudPathException:
    """What to raise for an error code, whether an exception brought it or a line of an answer to many keys."""
    response: dict[str, Any] = getattr(error, "response", {})
    detail = response.get("Error", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    meaning = BY_CODE.get(code) or BY_STATUS.get(status) or (_BUSY if status >= 500 else _REFUSED)
    if meaning is _FORBIDDEN and not is_signed:
        meaning = _NOT_PUBLIC
    text = meaning.says.format(
        uri=uri,
        bucket=bucket,
        endpoint=endpoint,
        permission=PERMISSIONS.get(operation, operation),
        doubt=_DOUBT if operation in _READS else "",
        region=headers.get("x-amz-bucket-region") or detail.get("Region") or "another region",
        code=code or status,
        reason=detail.get("Message", ""),
    )
    return meaning.raises(text)
