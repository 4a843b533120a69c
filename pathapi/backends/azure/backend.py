"""Azure Blob Storage, by azure-storage-blob.

Every condition is the server's own (`MatchConditions`), and the ETag is the version. The SDK's downloader reads a whole
part into memory before it gives any of it, and asks again where it likes: its answer is taken from its hook instead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import Absent, ObjectInfo, Prefix, require_gone
from pathapi.backends.azure.connection import AzureConnection, Login
from pathapi.backends.azure.errors import answer_of, translate, translate_answer
from pathapi.backends.azure.multipart import THRESHOLD, upload_in_blocks
from pathapi.backends.azure.requests import Answered, condition_of
from pathapi.backends.azure.responses import (
    AzureBody,
    BatchAnswer,
    NoAnswer,
    answers_of_batch,
    info_of_headers,
    info_of_properties,
    info_of_result,
    is_folder,
    placed,
)
from pathapi.backends.azure.urls import AzureUrls
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    TruncatedBodyError,
    VersionMismatchError,
)

__all__ = ["AzureBackend", "AzureConnection", "Login"]

PAGE: Final = 5_000
"""Blobs that one request lists at most (Azure's limit)."""
BATCH: Final = 256
"""Blobs that one request deletes at most (Azure's limit)."""
_GROWN_TRIES: Final = 3
_BLOCK_TRIES: Final = 3
_COPY_POLLS: Final = (0.1, 5.0)
"""Seconds between two looks at a copy: at first, and at most."""


class AzureBackend(AzureUrls):
    """One container; see `pathapi.backend.Backend`."""

    def head(self, key: str) -> ObjectInfo:
        return self._head(key, {})

    def read(
        self,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        expect: Validator | None = None,
        unless: Validator | None = None,
    ) -> AzureBody | None:
        conditions: dict[str, Any] = {}
        if expect is not None and expect.etag is not None:
            conditions = condition_of("IfNotModified", expect)
        elif unless is not None and unless.etag is not None and not unless.racy:
            conditions = condition_of("IfModified", unless)
        try:
            body = self._read_nothing(key, conditions) if end is not None and end <= start else None
            body = body or self._read(key, start, end, conditions)
        except CloudPathException as error:
            if answer_of(error.__cause__ or error)[0] == 304:
                return None
            raise
        found = body.info.validator
        if expect is not None and not expect.same_version(found):
            body.close()
            raise VersionMismatchError(f"{self._uri(key)} is no longer the version asked for; read it again")
        if unless is not None and not unless.racy and unless.same_version(found):
            body.close()
            return None
        return body

    def write(
        self,
        key: str,
        source: BinaryIO,
        size: int,
        *,
        expect: Validator | Absent | None = None,
        content_type: str | None = None,
    ) -> ObjectInfo:
        conditions = self._write_conditions(key, expect)

        def call(operation: str, method: str, *arguments: Any, md5: bytes | None = None, **options: Any) -> Any:
            if "content_type" in options:  # of the two that make the blob
                options["content_settings"] = self._settings(options.pop("content_type"), md5)
                options |= self._tiered()
            return self._call(operation, key, getattr(self._blob(key), method), *arguments, expect=expect, **options)

        if size < THRESHOLD:
            data = source.read(size)
            if len(data) != size:
                raise TruncatedBodyError(f"the source of {self._uri(key)} ended {size - len(data)} bytes early")
            options: dict[str, Any] = {
                "length": size,
                "overwrite": True,
                "validate_content": True,
                "content_type": content_type,
            }
            answer = call("Put Blob", "upload_blob", data, **options, **conditions)
            return info_of_result(key, size, answer, answer.get("content_md5"), content_type)
        for left in range(_BLOCK_TRIES - 1, -1, -1):
            try:
                answer, md5 = upload_in_blocks(call, source, size, content_type=content_type, conditions=conditions)
            except CloudPathException as error:
                # Whoever commits first discards everybody's blocks; a condition is decided once ours are there again.
                if answer_of(error.__cause__ or error)[1] != "InvalidBlockList" or not left:
                    raise
                source.seek(0)
            else:
                return info_of_result(key, size, answer, md5, content_type)
        raise AssertionError("unreachable")

    def list(
        self, prefix: str = "", *, delimited: bool = False, limit: int | None = None
    ) -> Iterator[ObjectInfo | Prefix]:
        container = self._container()
        ask = container.walk_blobs if delimited else container.list_blobs
        # With their metadata, which says what is a directory; it costs no request.
        options = {"name_starts_with": prefix or None, "include": ["metadata"]}
        left, token = limit, None
        while left is None or left > 0:
            pages = ask(**options, results_per_page=min(PAGE, left or PAGE)).by_page(token)
            page = self._call("List Blobs", prefix, lambda pages=pages, **_: list(next(pages, ())))
            for item in _in_order(page):
                yield item
                if left is not None:
                    left -= 1
                    if not left:
                        return
            token = pages.continuation_token
            if not token:
                return

    def copy(
        self,
        source: str,
        target: str,
        *,
        expect: Validator | None = None,
        over: Validator | Absent | None = None,
    ) -> ObjectInfo:
        # The answer to a copy does not say the size; asked before, it comes with the ETag that ties the copy to it.
        seen = expect if expect is not None and expect.etag is not None else self.head(source).validator
        if expect is not None and not expect.same_version(seen):
            raise VersionMismatchError(f"{self._uri(source)} is not, or no longer, the version asked for")
        conditions = self._write_conditions(target, over)
        conditions |= {f"source_{name}": value for name, value in condition_of("IfNotModified", seen).items()}
        # Not `requires_sync`: that one takes 256 MiB at most, and reads the source as a stranger would. Inside an
        # account this one is done when it answers, but for rare cases.
        blob = self._blob(target)
        try:
            options = {**conditions, **self._tiered()}
            answer = self._call("Copy Blob", source, blob.start_copy_from_url, self._blob(source).url, **options)
        except CloudPathFileNotFoundError as error:
            if not isinstance(over, Validator) or type(error) is not CloudPathFileNotFoundError:
                raise
            self.head(source)  # a 404 does not say which of the two is gone; if it is the source, this says so
            raise VersionMismatchError(f"{self._uri(target)} does not exist any more; nothing was changed") from error
        if answer.get("copy_status") == "success":
            return info_of_result(target, seen.size, answer, None, None)
        return self._await_copy(target, blob, answer.get("copy_id"))

    def delete(
        self,
        keys: Sequence[str],
        *,
        expect: Validator | None = None,
        versions: Mapping[str, Validator] | None = None,
    ) -> None:
        if expect is not None or (len(keys) == 1 and not versions):
            for key in keys:
                self._delete_one(key, expect)
            return
        refused: list[str] = []
        for begin in range(0, len(keys), BATCH):
            refused += self._delete_batch(keys[begin : begin + BATCH], versions or {})
        require_gone(self, refused)

    # --- reading ---------------------------------------------------------------------------------------------------

    def _head(self, key: str, conditions: dict[str, Any]) -> ObjectInfo:
        properties = self._call("Get Blob Properties", key, self._blob(key).get_blob_properties, **conditions)
        self._require_object(key, properties.metadata)
        return info_of_properties(key, properties)

    def _read(self, key: str, start: int, end: int | None, conditions: dict[str, Any]) -> AzureBody:
        for _ in range(_GROWN_TRIES):
            try:
                response = self._get(key, start, end, conditions)
            except CloudPathException as error:
                cause = error.__cause__ or error
                if answer_of(cause)[0] != 416:
                    raise
                # The object ends at or before *start*. The answer says of an empty one that it is empty, and not which
                # version it is: whoever named one is answered by another request.
                headers = getattr(getattr(cause, "response", None), "headers", {})
                if not start and not conditions and headers.get("content-range") == "bytes */0":
                    return self._nothing(ObjectInfo(key, Validator(0)))
                nothing = self._read_nothing(key, conditions)
                if nothing.info.size <= start:
                    return nothing
            else:
                return self._body(key, response, start, end)
        raise VersionMismatchError(f"{self._uri(key)} kept changing while it was read; read it again")

    def _get(self, key: str, start: int, end: int | None, conditions: dict[str, Any]) -> Any:
        """The head and the open body of one Get Blob, as `requests.Response`."""

        def ask(request: Any) -> None:
            # The SDK asks for what its first part may be and no more: 32 MiB, or what a user's own client says.
            request.http_request.headers["x-ms-range"] = f"bytes={start}-{'' if end is None else end - 1}"

        def take(response: Any) -> None:
            if response.http_response.status_code in (200, 206):
                raise Answered(response.http_response.internal_response)
            _read_out(response.http_response.internal_response)

        try:
            self._call(
                "Get Blob",
                key,
                self._blob(key).download_blob,
                offset=start,
                raw_request_hook=ask,
                raw_response_hook=take,
                **conditions,
            )
        except Answered as answered:
            return answered.response
        raise CloudUnavailableError(f"{self._uri(key)}: the SDK answered without an answer of the server's")

    def _body(self, key: str, response: Any, start: int, end: int | None) -> AzureBody:
        headers = response.headers
        try:
            self._require_object(key, headers)
            first, stop, size = placed(headers, response.status_code, start, end)
        except CloudPathFileNotFoundError:
            response.close()
            raise
        except CloudPathException as error:
            response.close()
            raise type(error)(f"{self._uri(key)}: {error}") from error
        wanted = size if end is None else min(end, size)
        length = max(0, min(stop, wanted) - start)
        if response.status_code == 206 and stop < wanted:
            response.close()
            raise TruncatedBodyError(f"{self._uri(key)}: asked up to {wanted}, the server answered up to {stop} only")
        info, skip = info_of_headers(key, headers, size), min(start - first, stop - first)
        reader = self._reader(key)
        return AzureBody(response, info, length, reader, uri=self._uri(key), skip=skip, is_cut=stop > wanted)

    def _read_nothing(self, key: str, conditions: dict[str, Any]) -> AzureBody:
        return self._nothing(self._head(key, conditions))

    def _nothing(self, info: ObjectInfo) -> AzureBody:
        return AzureBody(NoAnswer(), info, 0, self._reader(info.key), uri=self._uri(info.key))

    def _reader(self, key: str) -> Callable[[Exception], Exception]:
        def meaning(error: Exception) -> Exception:
            if isinstance(error, CloudPathException):
                return error
            self.connection.scrub(error)
            return translate(error, operation="Get Blob", **self._where(key)) or error

        return meaning

    def _require_object(self, key: str, metadata: Any) -> None:
        if is_folder(metadata):
            raise CloudPathFileNotFoundError(f"{self._uri(key)} does not exist: it is a directory")

    # --- copying and deleting --------------------------------------------------------------------------------------

    def _await_copy(self, key: str, blob: Any, copy_id: str | None) -> ObjectInfo:
        pause, longest = _COPY_POLLS
        try:
            while True:
                properties = self._call("Get Blob Properties", key, blob.get_blob_properties)
                copy = properties.copy
                if copy.id != copy_id:
                    raise VersionMismatchError(f"{self._uri(key)} was replaced by somebody while it was copied to")
                if copy.status == "success":
                    return info_of_properties(key, properties)
                if copy.status != "pending":
                    raise CloudUnavailableError(f"the copy to {self._uri(key)} {copy.status}; try again")
                time.sleep(pause)
                pause = min(2 * pause, longest)
        except BaseException:
            with contextlib.suppress(Exception):
                blob.abort_copy(copy_id)
            raise

    def _delete_one(self, key: str, expect: Validator | None) -> None:
        try:
            self._call(
                "Delete Blob", key, self._blob(key).delete_blob, expect=expect, **self._write_conditions(key, expect)
            )
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise

    def _delete_batch(self, keys: Sequence[str], versions: Mapping[str, Validator]) -> Sequence[str]:
        """In one request; the keys that are another version."""
        named = [{"name": key, **self._write_conditions(key, versions.get(key))} for key in keys]
        refused: list[str] = []
        for key in keys:
            self._check(key)
        answers: list[BatchAnswer] = []

        def take(response: Any) -> None:
            # The SDK pairs answers with requests by their order, which Azure does not promise.
            answers[:] = answers_of_batch(response.http_response)

        def ask(**_: Any) -> None:
            list(self._container().delete_blobs(*named, raise_on_any_failure=False, raw_response_hook=take))

        try:
            self._call("Delete Blob", keys[0], ask)
        except CloudPathNotImplementedError:
            for key in keys:
                try:
                    self._delete_one(key, versions.get(key))
                except VersionMismatchError:
                    refused.append(key)
            return refused
        failed: dict[int, CloudPathException] = {}
        for answer in answers:
            key = keys[answer.number] if 0 <= answer.number < len(keys) else keys[0]
            if answer.status >= 300:
                error = translate_answer(answer.code, answer.status, "", operation="Delete Blob", **self._where(key))
                if isinstance(error, VersionMismatchError):
                    refused.append(key)
                elif type(error) is not CloudPathFileNotFoundError:
                    failed[answer.number] = error
        if unanswered := set(range(len(keys))).difference(answer.number for answer in answers):
            silence = CloudUnavailableError(f"{len(unanswered)} deletes were not answered; try again")
            failed |= dict.fromkeys(unanswered, silence)
        if failed:
            error = next(iter(failed.values()))
            error.add_note(f"{len(failed.keys() - {-1})} of {len(keys)} objects were not deleted")
            raise error
        return refused

    # --- requests --------------------------------------------------------------------------------------------------

    def _write_conditions(self, key: str, expect: Validator | Absent | None) -> dict[str, Any]:
        if expect is None:
            return {}
        if isinstance(expect, Absent):
            return condition_of("IfMissing", None)
        if expect.etag is None:
            raise CloudPathNotImplementedError(f"{self._uri(key)}: Azure compares ETags, and that version has none")
        return condition_of("IfNotModified", expect)


def _in_order(page: Sequence[Any]) -> Iterator[ObjectInfo | Prefix]:
    """A page's objects and prefixes, without the marks of directories; the SDK gives the prefixes first."""
    for item in sorted(page, key=lambda item: item.name.encode("utf-8", "surrogatepass")):
        if not hasattr(item, "etag"):
            yield Prefix(item.name)
        elif not is_folder(item.metadata):
            yield info_of_properties(item.name, item)


def _read_out(response: Any) -> None:
    """Read an answer that is no object, so that its connection can serve again: the SDK drops it where it asks anew."""
    try:
        _ = response.content  # which keeps it for who looks at it next
    except Exception:  # noqa: BLE001 (its status says enough)
        response.close()
