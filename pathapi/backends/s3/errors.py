"""Which error each answer of S3 and of its SDK becomes.

S3's error code says more than the status. The response to a HEAD has no body: there the code is the bare status.
"""

from __future__ import annotations

from typing import Any, Final

from pathapi.backends import error_table
from pathapi.backends.error_table import ErrorTable, ErrorTemplate
from pathapi.exceptions import (
    BucketNotFoundError,
    ChecksumMismatchError,
    CloudPathException,
    CloudPathPermissionError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidUriError,
    MissingCredentialsError,
)

# The fields of a message: uri, bucket, endpoint, permission, doubt, region, code, reason.
_NO_BUCKET: Final = ErrorTemplate(BucketNotFoundError, "{uri}: there is no bucket {bucket!r} at {endpoint}")
_FORBIDDEN: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} denied access{doubt}",
    "these credentials need {permission}; no_sign_request=True reads public buckets",
    "these credentials need {permission}; --profile selects others; --no-sign-request reads public buckets",
)
_NOT_PUBLIC: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} denied access, the object is not public{doubt}",
    "log in, and remove no_sign_request=True",
    "log in, and omit --no-sign-request",
)
_DOUBT: Final = " (without s3:ListBucket, S3 also answers 403 for objects that do not exist)"
_READS: Final = frozenset({"GetObject", "HeadObject", "CopyObject"})
_CHECK_KEY: Final = "check the profile, the environment (AWS_ACCESS_KEY_ID) and that they belong to this endpoint"
_BAD_KEY: Final = ErrorTemplate(
    CloudPathPermissionError,
    "{uri}: {endpoint} does not know the access key or its secret ({code})",
    f"{_CHECK_KEY}; no_sign_request=True reads public buckets",
    f"{_CHECK_KEY}; --no-sign-request reads public buckets",
)
_EXPIRED: Final = ErrorTemplate(
    CloudPathPermissionError, "{uri}: {endpoint} denied access, the credentials have expired ({code}): log in again"
)
_ELSEWHERE: Final = ErrorTemplate(
    InvalidConfigurationException,
    "{uri}: the bucket is in {region}, and the request went to {endpoint} ({code}): set AWS_DEFAULT_REGION or the "
    "endpoint",
)

BY_CODE: Final = {
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion"), error_table.MISSING),
    "NoSuchBucket": _NO_BUCKET,
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled"), _FORBIDDEN),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"), _BAD_KEY),
    **dict.fromkeys(("ExpiredToken", "RequestExpired"), _EXPIRED),
    "RequestTimeTooSkewed": ErrorTemplate(
        CloudPathPermissionError, "{uri}: {endpoint} denied access, this machine's clock is wrong: set the clock"
    ),
    "InvalidObjectState": ErrorTemplate(
        CloudPathPermissionError, "{uri}: the object is in an archive class (Glacier): restore it first"
    ),
    "PreconditionFailed": error_table.CHANGED,
    "ConditionalRequestConflict": ErrorTemplate(
        CloudUnavailableError, "{uri}: other processes kept writing this object; nothing was changed: try again"
    ),
    "NoSuchUpload": ErrorTemplate(
        CloudUnavailableError, "{uri}: another process ended this upload, or its response was lost: try again"
    ),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed"), error_table.CANNOT),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _ELSEWHERE
    ),
    **dict.fromkeys(
        ("KeyTooLongError", "KeyTooLong", "InvalidBucketName", "InvalidURI", "XMinioInvalidObjectName"),
        error_table.BAD_NAME,
    ),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout"), error_table.BUSY),
}
BY_STATUS: Final = {**error_table.BY_STATUS, 301: _ELSEWHERE, 401: _FORBIDDEN, 403: _FORBIDDEN}
_SET_KEY: Final = "configure a profile or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_NO_CREDENTIALS: Final = ErrorTemplate(
    MissingCredentialsError,
    "{uri}: no AWS credentials were found",
    f"{_SET_KEY}; for a public bucket use no_sign_request=True",
    f"{_SET_KEY}; for a public bucket use --no-sign-request",
)
BY_EXCEPTION: Final = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "NoAuthTokenError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": _NO_CREDENTIALS,
    "SSOError": _NO_CREDENTIALS,
    "LoginError": _NO_CREDENTIALS,
    "ParamValidationError": ErrorTemplate(InvalidUriError, "{uri}: S3 objects cannot have this name ({reason})"),
    "FlexibleChecksumError": ErrorTemplate(
        ChecksumMismatchError, "{uri}: the bytes received do not match the checksum of {endpoint}: read it again"
    ),
    "IncompleteReadError": error_table.CUT_OFF,
    "ResponseStreamingError": error_table.BROKEN,
    "ReadTimeoutError": error_table.STALLED,
    "HTTPClientError": error_table.UNREACHABLE,
    "ConnectionError": error_table.UNREACHABLE,
    "ResponseParserError": ErrorTemplate(
        CloudUnavailableError, "{uri}: {endpoint} did not answer as S3 does: check the endpoint"
    ),
    "HTTPError": error_table.UNREACHABLE,
    "OSError": error_table.UNREACHABLE,
    "BotoCoreError": ErrorTemplate(CloudUnavailableError, "{uri}: boto3 could not send the request ({reason})"),
}
TABLE: Final = ErrorTable(
    BY_STATUS,
    BY_EXCEPTION,
    frozenset({"botocore", "urllib3", "builtins"}),
    BY_CODE,
    unsent=frozenset(
        {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError", "ConnectionRefusedError"}
    ),
)

PERMISSIONS: Final = {
    **dict.fromkeys(("HeadObject", "GetObject"), "s3:GetObject"),
    **dict.fromkeys(("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"), "s3:PutObject"),
    **dict.fromkeys(("CopyObject", "UploadPartCopy"), "s3:GetObject on the source and s3:PutObject on the target"),
    **dict.fromkeys(("DeleteObject", "DeleteObjects"), "s3:DeleteObject"),
    "ListObjectsV2": "s3:ListBucket",
}


def answer_of(error: BaseException) -> tuple[int, str]:
    """Return status and error code of a ClientError; ``(0, "")`` of anything else."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    facts = response.get("ResponseMetadata", {})
    return int(facts.get("HTTPStatusCode", 0)), str(response.get("Error", {}).get("Code", ""))


def may_be_carried_out(error: BaseException) -> bool:
    """Return whether the server may have carried out the request that ended in *error*."""
    status, _ = answer_of(error)
    return error_table.may_be_carried_out(status) if status else TABLE.may_be_sent(error)


def translate(error: Exception, **where: Any) -> CloudPathException | None:
    """Return what to raise for *error*; None if neither the SDK nor the network nor the server raised it.

    *where* is for the message: see `translate_answer`.
    """
    status, code = answer_of(error)
    if status:
        return translate_answer(error, code, status, **where)
    template = TABLE.of_exception(error)
    return None if template is None else template.make(**where, reason=error)


def translate_answer(
    error: Exception | None, code: str, status: int, *, operation: str, is_signed: bool = True, **where: Any
) -> CloudPathException:
    """Return what to raise for an error code of an exception, or of one line of a response about many keys.

    *where* gives uri, bucket and endpoint.
    """
    response: dict[str, Any] = getattr(error, "response", {})
    detail = response.get("Error", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    template = TABLE.of_answer(status, code)
    if template is _FORBIDDEN and not is_signed:
        template = _NOT_PUBLIC
    return template.make(
        **where,
        permission=PERMISSIONS.get(operation, operation),
        doubt=_DOUBT if operation in _READS else "",
        region=headers.get("x-amz-bucket-region") or detail.get("Region") or "another region",
        code=code or status,
        reason=detail.get("Message", ""),
    )
