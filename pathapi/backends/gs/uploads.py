"""Uploads: in one request with the metadata, or piece by piece in a session that goes on after a failure.

The service checks the bytes against the CRC32C that goes ahead of them, and the condition when it makes the object.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from pathapi.backends.gs.requests import Reply, Requests, as_base64, multipart_upload
from pathapi.backends.gs.responses import FIELDS, Hashing, computes_crc32c
from pathapi.exceptions import (
    CloudPathException,
    CloudUnavailableError,
    TruncatedBodyError,
    VersionMismatchError,
)

THRESHOLD: Final = 8 << 20
"""Bytes from which an upload is a session: below, one request more costs more than sending all again would."""
PIECE: Final = 16 << 20
"""Bytes of one request of a session; a multiple of 256 KiB, as Google asks."""
_RESUMED: Final = 4
"""How often in a row a session may go on without having got further."""
_RANGE: Final = re.compile(r"bytes=0-(\d+)")


def upload(
    requests: Requests,
    key: str,
    source: BinaryIO,
    size: int,
    *,
    content_type: str | None,
    conditions: Mapping[str, str],
) -> dict[str, Any]:
    """Upload *size* bytes of *source*, in memory of `PIECE` at most, and return the object's metadata."""
    resource: dict[str, Any] = {"name": key}
    if content_type is not None:
        resource["contentType"] = content_type
    if requests.connection.storage_class is not None:
        resource["storageClass"] = requests.connection.storage_class
    if size < THRESHOLD:
        data = _read(requests, key, source, size)
        if computes_crc32c():
            resource["crc32c"] = _crc32c(data)
        return _upload_at_once(requests, key, resource, data, conditions)
    if computes_crc32c():
        resource["crc32c"] = _crc32c_of(requests, key, source, size)
    return _Session(requests, key, resource, source, size, conditions).run()


def _read(requests: Requests, key: str, source: BinaryIO, amount: int) -> bytes:
    data = source.read(amount)
    if len(data) != amount:
        raise TruncatedBodyError(f"the source of {requests.uri(key)} ended {amount - len(data)} bytes early")
    return data


def _crc32c(data: bytes) -> str:
    hashing = Hashing("crc32c")
    hashing.update(data)
    return as_base64(hashing.hex())


def _crc32c_of(requests: Requests, key: str, source: BinaryIO, size: int) -> str:
    hashing, left = Hashing("crc32c"), size
    while left:
        data = _read(requests, key, source, min(left, 1 << 20))
        hashing.update(data)
        left -= len(data)
    source.seek(0)
    return as_base64(hashing.hex())


def _upload_at_once(
    requests: Requests, key: str, resource: Mapping[str, Any], data: bytes, conditions: Mapping[str, str]
) -> dict[str, Any]:
    body, content_type = multipart_upload(resource, data)
    query = {"uploadType": "multipart", "fields": FIELDS, **conditions}
    headers = {"Content-Type": content_type}
    path = requests.path("o")
    reply = requests.call("write", key, "POST", path, query, prefix="/upload", data=body, headers=headers)
    return requests.json(reply, key)


class _Session:
    """One resumable upload. Its URI is a secret: whoever has it may write the object."""

    def __init__(
        self,
        requests: Requests,
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
            raise CloudUnavailableError(f"the server began no upload of {requests.uri(key)}")

    def run(self) -> dict[str, Any]:
        """All pieces. Ends the session where anything goes wrong."""
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
            data = _read(self._requests, self._key, self._source, min(PIECE, self._size - at))
            stated = f"bytes {at}-{at + len(data) - 1}/{self._size}"
            try:
                # Not simply sent again after a lost answer: it may be there already. The session knows how far it is.
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
                raise CloudUnavailableError(f"the server took all of {self._requests.uri(self._key)} and does not end")

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
                    f"the upload of {self._requests.uri(self._key)} was ended by the server; try again"
                ) from error.__cause__
            raise
