"""What Google Cloud Storage documents and fake-gcs-server leaves out, put in front of it by a proxy.

The fake honours ifGenerationMatch on uploads in one request alone, answers no 304, and does not say whether an object
or its bucket is missing. Here every condition is looked at first, and what passes is sent on, one change at a time.
"""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.bench.faults import Action
from tests.bench.http1 import Head
from tests.bench.records import GOOGLE


@dataclass(frozen=True, slots=True)
class GCSRules(Action):
    """Stands in front of the server at *upstream*."""

    upstream: str
    _one_at_a_time: Any = field(default_factory=threading.Lock)

    def answer(self, request: Head) -> tuple[Head, bytes] | None:
        method, target, _ = request.start
        parts = urlsplit(target)
        found = GOOGLE.match(parts.path)
        if found is None:
            return None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        bucket = unquote(found["bucket"])
        if found["how"] == "upload":
            return self._check_upload(bucket, query)
        if found["key"] is None:
            return None if self._ask("GET", f"/storage/v1/b/{bucket}")[0] == 200 else _no_bucket()
        with self._one_at_a_time:
            refusal = self._check(method, bucket, unquote(found["key"]), found["to"], query)
            if refusal is not None or method == "GET":
                return refusal
            # Nobody changes what was looked at before it is changed here.
            status, body = self._ask(method, target)
            return _head(status, body), body

    def _check_upload(self, bucket: str, query: dict[str, str]) -> tuple[Head, bytes] | None:
        if self._ask("GET", f"/storage/v1/b/{bucket}")[0] != 200:
            return _no_bucket()
        wanted = query.get("ifGenerationMatch")
        if wanted is None or "upload_id" in query or query.get("uploadType") != "resumable":
            return None
        return None if wanted == (self._generation(bucket, query["name"]) or "0") else _not_met()

    def _check(
        self, method: str, bucket: str, key: str, to: str | None, query: dict[str, str]
    ) -> tuple[Head, bytes] | None:
        found = self._generation(bucket, key)
        if found is None or ("generation" in query and query["generation"] != found):
            if self._ask("GET", f"/storage/v1/b/{bucket}")[0] != 200:
                return _no_bucket()
            return _error(404, "notFound", f"No such object: {bucket}/{key}")
        target = found
        if to is not None:
            if query.get("ifSourceGenerationMatch", found) != found:
                return _not_met()
            target = self._generation(bucket, unquote(to.rpartition("/")[2])) or "0"
        if query.get("ifGenerationMatch", target) != target:
            return _not_met()
        if query.get("ifGenerationNotMatch") == target:
            return Head(("HTTP/1.1", "304", "Not Modified"), []), b""
        return None

    def _generation(self, bucket: str, key: str) -> str | None:
        status, body = self._ask("GET", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}")
        return str(json.loads(body)["generation"]) if status == 200 else None

    def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=30)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _head(status: int, body: bytes) -> Head:
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return Head(("HTTP/1.1", str(status), "-"), headers)


def _error(status: int, reason: str, message: str) -> tuple[Head, bytes]:
    told = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
    body = json.dumps({"error": told}).encode()
    return _head(status, body), body


def _no_bucket() -> tuple[Head, bytes]:
    return _error(404, "notFound", "The specified bucket does not exist.")


def _not_met() -> tuple[Head, bytes]:
    return _error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
