"""Requests about one bucket of S3, by boto3's client."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from casstore import Validator
from pathapi.backend import Absent, WriteCondition
from pathapi.backends.bucket_requests import BucketRequests
from pathapi.backends.headers import format_etag
from pathapi.backends.s3.connection import S3Connection
from pathapi.backends.s3.errors import answer_of, may_be_carried_out, translate
from pathapi.backends.s3.events import watching_attempts
from pathapi.exceptions import CloudPathException

CONFLICT_TRIES: Final = 8
"""Tries after a 409: another write of the key was in progress, and the condition was not evaluated."""
_CHANGES: Final = frozenset(("PutObject", "CompleteMultipartUpload", "CopyObject", "DeleteObject"))
"""Operations that change an object; the others of an upload in parts change none."""
_METHOD: Final = re.compile(r"(?<=[a-z])([A-Z])")
"""Where boto3 divides the name of an operation: ``ListObjectsV2`` is ``list_objects_v2``."""


def pause(attempt: int) -> None:
    """Sleep before the next try after a 409."""
    time.sleep(random.uniform(0.2, 1.0) * min(2.0, 0.05 * 2**attempt))


class S3Requests(BucketRequests):
    """Requests about one bucket."""

    connection: S3Connection
    scheme = "s3"
    compares = "S3 compares ETags"
    service = "Amazon S3"
    translate = staticmethod(translate)

    def __init__(self, connection: S3Connection, bucket: str) -> None:
        super().__init__(connection, bucket)
        self._extra: dict[str, Mapping[str, Any]] = {}

    def call(
        self,
        operation: str,
        key: str | None,
        *,
        about: str | None = None,
        expect: WriteCondition = None,
        **arguments: Any,
    ) -> Any:
        """Send one request. Errors name *about* or *key*. With *expect*, a missing object is a version mismatch."""
        named = {"Bucket": self.bucket, **self.extra_of(operation), **arguments}
        if key is not None:
            named["Key"] = key
        with watching_attempts() as attempts:
            for attempt in range(CONFLICT_TRIES):
                try:
                    return getattr(self.connection.client, _METHOD.sub(r"_\1", operation).lower())(**named)
                except Exception as error:
                    if answer_of(error)[1] == "ConditionalRequestConflict" and attempt + 1 < CONFLICT_TRIES:
                        pause(attempt)
                        continue
                    if isinstance(error, CloudPathException):
                        raise
                    named_key = (key or "") if about is None else about
                    unknown = attempts.outcome_unknown or may_be_carried_out(error)
                    self.raise_translated(
                        error, named_key, operation, expect, outcome_unknown=unknown and operation in _CHANGES
                    )
        raise AssertionError("unreachable")

    def condition_of(self, expect: Validator | Absent) -> dict[str, Any] | None:
        if isinstance(expect, Absent):
            return {"IfNoneMatch": "*"}
        etag = format_etag(expect)
        return None if etag is None else {"IfMatch": etag}

    def extra_of(self, operation: str) -> Mapping[str, Any]:
        """Return those of the connection's extra arguments that *operation* accepts."""
        if not self.connection.extra_args:
            return {}
        known = self._extra.get(operation)
        if known is None:
            members = self.connection.client.meta.service_model.operation_model(operation).input_shape.members
            # The source of a copy is decrypted with the same key, unless it has its own.
            keys = {name: value for name, value in self.connection.extra_args.items() if "SSECustomer" in name}
            given = {f"CopySource{name}": value for name, value in keys.items()} | dict(self.connection.extra_args)
            known = self._extra[operation] = {name: value for name, value in given.items() if name in members}
        return known
