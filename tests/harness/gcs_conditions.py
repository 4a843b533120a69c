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

from tests.harness.faults import Action
from tests.harness.http_messages import Head
from tests.harness.request_log import GOOGLE


@dataclass(frozen=True, slots=True)
class GCSRules(Action):
    """Stands in front of the server at *upstream*."""

    upstream: str
    _one_at_a_time: Any = field(default_factory=threading.Lock)
    _sessions: dict[str, str] = field(default_factory=dict)
    _this: Any = field(default_factory=threading.local)

    def before(self, request: Head) -> None:
        query = parse_qs(urlsplit(request.start[1]).query)
        self._this.upload = query.get("upload_id", [None])[0]

    def respond(self, response: Head, stop: threading.Event) -> None:
        # The fake ends an upload when it is asked how far it is.
        if self._this.upload is not None:
            self._sessions[self._this.upload] = (response.get("range") or "") if response.status == 308 else "done"

    def answer(self, request: Head) -> tuple[Head, bytes] | None:
        method, target, _ = request.start
        parts = urlsplit(target)
        found = GOOGLE.match(parts.path)
        if found is None:
            return None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        bucket = unquote(found["bucket"])
        if found["how"] == "upload":
            if method == "PUT" and (request.get("content-range") or "").startswith("bytes */"):
                return self._tell_progress(bucket, query)
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

    def _tell_progress(self, bucket: str, query: dict[str, str]) -> tuple[Head, bytes]:
        reached = self._sessions.get(query["upload_id"], "")
        if reached == "done":
            status, body = self._ask("GET", f"/storage/v1/b/{bucket}/o/{quote(query['name'], safe='')}")
            return _head(status, body), body
        headers = [("Content-Length", "0"), *([("Range", reached)] if reached else [])]
        return Head(("HTTP/1.1", "308", "Resume Incomplete"), headers), b""

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
            _, _, _, to_bucket, _, to_key = to.split("/")  # /rewriteTo/b/BUCKET/o/KEY
            target = self._generation(unquote(to_bucket), unquote(to_key)) or "0"
        if query.get("ifGenerationMatch", target) != target:
            return _not_met()
        if query.get("ifGenerationNotMatch") == target:
            return Head(("HTTP/1.1", "304", "Not Modified"), []), b""
        return None

    def _generation(self, bucket: str, key: str) -> str | None:
        status, body = self._ask("GET", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}")
        return str(json.loads(body)["generation"]) if status == 200 else None

    def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=1_000)
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


@dataclass(frozen=True, slots=True)
class Refuse(Action):
    """An error as Google words it, in place of the server's answer: ``Refuse(403, "forbidden")``."""

    status: int
    reason: str = ""
    message: str = "said the proxy"

    def answer(self, request: Head) -> tuple[Head, bytes]:
        return _error(self.status, self.reason, self.message)


@dataclass(frozen=True, slots=True)
class RefuseInBatch(Action):
    """One answer to a batch, of a status for each request in it; 403 and 404 as Google words them."""

    statuses: tuple[int, ...]

    def answer(self, request: Head) -> tuple[Head, bytes]:
        parts = [
            f"--of-batch\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n\r\n{self._body(status)}\r\n"
            for number, status in enumerate(self.statuses)
        ]
        body = ("".join(parts) + "--of-batch--\r\n").encode()
        headers = [("Content-Type", "multipart/mixed; boundary=of-batch"), ("Content-Length", str(len(body)))]
        return Head(("HTTP/1.1", "200", "OK"), headers), body

    def _body(self, status: int) -> str:
        if status == 404:
            return _no_bucket()[1].decode()
        return "" if status == 204 else _error(status, "", "said the proxy")[1].decode()


@dataclass(frozen=True, slots=True)
class DropParameter(Action):
    """The server does not see this parameter of the query: it then ignores a condition, as some servers do."""

    name: str

    def before(self, request: Head) -> None:
        method, target, version = request.start
        path, _, query = target.partition("?")
        kept = "&".join(part for part in query.split("&") if part.partition("=")[0] != self.name)
        request.start = (method, f"{path}?{kept}", version)
