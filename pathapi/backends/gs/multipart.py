"""Uploads: in one request with the metadata, or piece by piece in a session that resumes after a failure.

Google checks the bytes against the CRC32C sent with the metadata, and the condition when it creates the object.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Final

from pathapi.backends.gs.requests import GSRequests, Reply, multipart_upload
from pathapi.backends.gs.responses import FIELDS, Crc32c, has_fast_crc32c
from pathapi.backends.parallel_parts import read_exactly, read_parts
from pathapi.exceptions import CloudPathException, CloudUnavailableError, VersionMismatchError

THRESHOLD: Final = 8 << 20
"""Bytes from which an upload is a session: below, one more request costs more than sending all again."""
PIECE: Final = 16 << 20
"""Bytes per request of a session; Google requires a multiple of 256 KiB."""
_RESUMED: Final = 4
"""How often in a row a session is resumed without progress."""
_RANGE: Final = re.compile(r"bytes=0-(\d+)")


def upload(
    requests: GSRequests,
    key: str,
    source: BinaryIO,
    size: int,
    *,
    content_type: str | None,
    conditions: Mapping[str, str],
) -> dict[str, Any]:
    """Upload *size* bytes of *source*, with at most `PIECE` bytes in memory, and return the object's metadata."""
    resource: dict[str, Any] = {"name": key}
    if content_type is not None:
        resource["contentType"] = content_type
    if requests.connection.storage_class is not None:
        resource["storageClass"] = requests.connection.storage_class
    if size < THRESHOLD:
        data = read_exactly(source, size, requests.uri(key))
        if has_fast_crc32c():
            resource["crc32c"] = _crc32c([data])
        return _upload_at_once(requests, key, resource, data, conditions)
    if has_fast_crc32c():
        resource["crc32c"] = _crc32c(read_parts(source, size, 1 << 20, requests.uri(key)))
        source.seek(0)
    return _Session(requests, key, resource, source, size, conditions).run()


def _crc32c(pieces: Iterable[bytes]) -> str:
    hasher = Crc32c()
    for piece in pieces:
        hasher.update(piece)
    return base64.b64encode(hasher.digest()).decode()


def _upload_at_once(
    requests: GSRequests, key: str, resource: Mapping[str, Any], data: bytes, conditions: Mapping[str, str]
) -> dict[str, Any]:
    body, content_type = multipart_upload(resource, data)
    query = {"uploadType": "multipart", "fields": FIELDS, **conditions}
    headers = {"Content-Type": content_type}
    path = requests.path("o")
    reply = requests.call("write", key, "POST", path, query, prefix="/upload", data=body, headers=headers)
    return requests.json(reply, key)


class _Session:
    """One resumable upload. Its URI is a secret: it allows writing the object."""

    def __init__(
        self,
        requests: GSRequests,
        key: str,
        resource: Mapping[str, Any],
        source: BinaryIO,
        size: int,
        conditions: Mapping[str, str],
    ) -> None:
        self._requests, self._key, self._source, self._size = requests, key, source, size
        query = {"uploadType": "resumable", "name": key, "fields": FIELDS, **conditions}
        headers = {
            "Content-Type": "application/json; charset=UTF-8",
            "X-Upload-Content-Type": str(resource.get("contentType", "application/octet-stream")),
            "X-Upload-Content-Length": str(size),
        }
        begun = requests.call(
            "write",
            key,
            "POST",
            requests.path("o"),
            query,
            prefix="/upload",
            data=json.dumps(dict(resource)).encode(),
            headers=headers,
        )
        self._uri = begun.headers.get("location", "")
        if not self._uri:
            raise CloudUnavailableError(f"{requests.uri(key)}: the server did not begin an upload: try again")

    def run(self) -> dict[str, Any]:
        """Send all pieces. Ends the session on any error."""
        try:
            return self._run()
        except BaseException:
            with contextlib.suppress(Exception):
                self._send("DELETE", None, accept=(499,))
            raise

    def _run(self) -> dict[str, Any]:
        at, failures = 0, 0
        while True:
            self._source.seek(at)
            data = read_exactly(self._source, min(PIECE, self._size - at), self._requests.uri(self._key))
            stated = f"bytes {at}-{at + len(data) - 1}/{self._size}"
            try:
                # Not simply retried: after a lost response the piece may have arrived. The session knows.
                reply = self._send("PUT", data, stated, again=False)
            except VersionMismatchError as error:
                error.after_retry = error.after_retry or failures > 0
                raise
            except CloudUnavailableError:
                failures += 1
                if failures > _RESUMED:
                    raise
                time.sleep(random.uniform(0.0, 0.2) * 2**failures)
                reply = self._send("PUT", b"", f"bytes */{self._size}")
            else:
                failures = 0
            if reply.status != 308:
                return self._requests.json(reply, self._key)
            arrived = _RANGE.fullmatch(reply.headers.get("range", ""))
            at = int(arrived[1]) + 1 if arrived is not None else 0
            if at >= self._size:
                raise CloudUnavailableError(
                    f"{self._requests.uri(self._key)}: the server does not complete the upload: try again"
                )

    def _send(
        self,
        method: str,
        data: bytes | None,
        stated: str | None = None,
        accept: tuple[int, ...] = (),
        *,
        again: bool = True,
    ) -> Reply:
        headers = {} if stated is None else {"Content-Range": stated}
        try:
            return self._requests.send(
                "write", self._key, method, self._uri, data=data, headers=headers, accept=(308, *accept), again=again
            )
        except CloudPathException as error:
            if getattr(error.__cause__, "code", None) in (404, 410):
                raise CloudUnavailableError(
                    f"{self._requests.uri(self._key)}: the server ended the upload: try again"
                ) from error.__cause__
            raise
