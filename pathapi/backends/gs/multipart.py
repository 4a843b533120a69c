"""Uploads: in one request with the metadata, or piece by piece in a session that resumes after a failure.

Google checks the bytes against the CRC32C sent with the metadata, and the condition when it creates the object.
"""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

from pathapi.backends.gs.requests import GSRequests, Reply, multipart_upload
from pathapi.backends.gs.responses import FIELDS, has_fast_crc32c
from pathapi.backends.parallel_parts import read_exactly, read_parts
from pathapi.exceptions import CloudPathException, CloudUnavailableError
from pathapi.parallel.part_threads import undone_on_error

THRESHOLD: Final = 8 << 20
"""Bytes from which an upload is a session: below, one more request costs more than sending all again."""
PIECE: Final = 16 << 20
"""Bytes per request of a session; Google requires a multiple of 256 KiB."""
_ROUNDS: Final = 4
"""How often in a row a session is resumed, or a copy continued, without progress."""
_RANGE: Final = re.compile(r"bytes=0-(\d+)")
_LONGEST_PAUSE: Final = 5.0


class Progress:
    """Raises CloudUnavailableError once *what* made no progress `_ROUNDS` times in a row, with a pause after each."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._reached = self._stalled = 0

    def reach(self, position: int) -> None:
        """Record that the server is at *position*; one that is not beyond all before is no progress."""
        if position > self._reached:
            self._reached, self._stalled = position, 0
            return
        self._stalled += 1
        if self._stalled > _ROUNDS:
            raise CloudUnavailableError(f"{self._what} makes no progress at the server: try again")
        time.sleep(min(random.uniform(0.0, 0.2) * 2**self._stalled, _LONGEST_PAUSE))


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
    at_once = size < THRESHOLD
    data = read_exactly(source, size, requests.uri(key)) if at_once else b""
    if has_fast_crc32c():
        from google_crc32c import Checksum

        hasher = Checksum()
        for piece in (data,) if at_once else read_parts(source, size, 1 << 20, requests.uri(key)):
            hasher.update(piece)
        resource["crc32c"] = base64.b64encode(hasher.digest()).decode()
    query = {"fields": FIELDS, **conditions}
    if not at_once:
        return _upload_in_session(requests, key, resource, source, size, query)
    body, body_type = multipart_upload(resource, data)
    options: dict[str, Any] = {"prefix": "/upload", "data": body, "headers": {"Content-Type": body_type}}
    query["uploadType"] = "multipart"
    return requests.json(requests.call("write", key, "POST", requests.path("o"), query, **options), key)


def _upload_in_session(
    requests: GSRequests, key: str, resource: Mapping[str, Any], source: BinaryIO, size: int, query: Mapping[str, str]
) -> dict[str, Any]:
    """Upload in pieces. The session's URL is a secret: it allows writing the object. Ends the session on any error."""
    headers = {
        "Content-Type": "application/json; charset=UTF-8",
        "X-Upload-Content-Type": str(resource.get("contentType", "application/octet-stream")),
        "X-Upload-Content-Length": str(size),
    }
    options: dict[str, Any] = {"prefix": "/upload", "data": json.dumps(dict(resource)).encode(), "headers": headers}
    query = {"uploadType": "resumable", "name": key, **query}
    try:
        url = requests.call("write", key, "POST", requests.path("o"), query, **options).headers.get("location", "")
    except CloudPathException as error:
        error.outcome_unknown = False  # a session is no object yet
        raise
    if not url:
        raise CloudUnavailableError(f"{requests.uri(key)}: the server did not begin an upload: try again")

    def send(data: bytes, stated: str, *, again: bool) -> Reply:
        headers = {"Content-Range": stated}
        try:
            return requests.send("write", key, "PUT", url, data=data, headers=headers, accept=(308,), again=again)
        except CloudPathException as error:
            if getattr(error.__cause__, "code", None) in (404, 410):
                raise CloudUnavailableError(
                    f"{requests.uri(key)}: the server ended the upload: try again"
                ) from error.__cause__
            raise

    with undone_on_error(lambda: requests.send("write", key, "DELETE", url, accept=(308, 499))):
        return requests.json(_send_pieces(send, source, size, requests.uri(key)), key)


def _send_pieces(send: Callable[..., Reply], source: BinaryIO, size: int, uri: str) -> Reply:
    """Send *size* bytes by ``send(data, content_range, again=...)``; return the response that completes the upload."""
    at, failures, is_unknown = 0, 0, False
    progress = Progress(f"{uri}: the upload")
    try:
        while True:
            source.seek(at)
            data = read_exactly(source, min(PIECE, size - at), uri)
            try:
                # Not simply retried: after a lost response the piece may have arrived. The session knows.
                reply = send(data, f"bytes {at}-{at + len(data) - 1}/{size}", again=False)
                failures = 0
            except CloudUnavailableError as error:
                failures += 1
                # Only the last piece creates the object.
                is_unknown = is_unknown or (error.outcome_unknown and at + len(data) == size)
                if failures > _ROUNDS:
                    raise
                time.sleep(random.uniform(0.0, 0.2) * 2**failures)
                reply = send(b"", f"bytes */{size}", again=True)
            if reply.status != 308:
                return reply
            arrived = _RANGE.fullmatch(reply.headers.get("range", ""))
            at = int(arrived[1]) + 1 if arrived is not None else 0
            is_unknown = at >= size  # the session is not complete, but has everything that completes it
            if at >= size:
                raise CloudUnavailableError(f"{uri}: the server does not complete the upload: try again")
            progress.reach(at)
    except CloudPathException as error:
        error.outcome_unknown = is_unknown
        raise
