"""Azure Blob Storage, by azure-storage-blob.

The server evaluates every condition (`MatchConditions`), and the ETag is the version. The SDK's downloader reads a
whole part into memory before it returns any of it, and sends more requests by itself. So a hook takes its response.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

from casstore import Validator
from pathapi.backend import WEEK, ListItem, ObjectInfo, Prefix, WriteCondition, check_expiry
from pathapi.backends.azure.connection import AzureConnection, Login
from pathapi.backends.azure.errors import answer_of, translate_answer
from pathapi.backends.azure.multipart import THRESHOLD, upload_in_blocks
from pathapi.backends.azure.requests import AzureRequests, ResponseOpened, condition_of
from pathapi.backends.azure.responses import (
    FOLDER,
    error_code_of,
    info_of_headers,
    info_of_properties,
    info_of_result,
    is_folder,
)
from pathapi.backends.bodies import OutOfRange, RangedBody, ReadRequest, md5_checksum, ranged_body
from pathapi.backends.bucket_backend import BucketBackend, Conditions, checking_answers, list_pages
from pathapi.backends.headers import format_etag, parse_batch, parse_range
from pathapi.backends.parallel_parts import read_exactly
from pathapi.exceptions import (
    CloudPathException,
    CloudPathFileNotFoundError,
    CloudPathNotImplementedError,
    CloudUnavailableError,
    InvalidConfigurationException,
    MissingCredentialsError,
    VersionMismatchError,
)
from pathapi.parallel.part_threads import undone_on_error

__all__ = ["AzureBackend", "AzureConnection", "Login"]

PAGE: Final = 5_000
"""Blobs per list request (Azure's limit)."""
_BLOCK_TRIES: Final = 3
_COPY_POLLS: Final = (0.1, 5.0)
"""Seconds between two looks at a copy in progress: the first pause, and the longest."""
_COPY_PATIENCE: Final = 600.0
"""Seconds without progress after which a copy is given up."""
_SKEW: Final = timedelta(minutes=5)
"""A key for signing is valid from this long ago on: the server's clock may be behind."""


class AzureBackend(BucketBackend):
    """One container; see `pathapi.backend.Backend`."""

    _requests: AzureRequests
    _reading = "Get Blob"
    _batch = 256  # Azure's limit

    def __init__(self, connection: AzureConnection, bucket: str) -> None:
        self._requests = AzureRequests(connection, bucket)

    @checking_answers
    def write(
        self, key: str, source: BinaryIO, size: int, *, expect: WriteCondition = None, content_type: str | None = None
    ) -> ObjectInfo:
        conditions = self._requests.conditions(key, expect)

        def call(operation: str, method: str, *arguments: Any, md5: bytes | None = None, **options: Any) -> Any:
            if "content_type" in options:  # of the two requests that create the blob
                options |= self._requests.creation_options(options.pop("content_type"), md5)
            return self._requests.call(
                operation, key, getattr(self._requests.blob(key), method), *arguments, expect=expect, **options
            )

        if size < THRESHOLD:
            data = read_exactly(source, size, self._requests.uri(key))
            options: dict[str, Any] = {
                "length": size,
                "overwrite": True,
                "validate_content": True,
                "content_type": content_type,
            }
            if key.endswith("/") and not size:  # a hierarchical namespace would make it a file
                options["metadata"] = {FOLDER: "true"}
            answer = call("Put Blob", "upload_blob", data, **options, **conditions)
            return info_of_result(key, size, answer, answer.get("content_md5"), content_type)
        is_unknown = False
        for left in range(_BLOCK_TRIES - 1, -1, -1):
            try:
                answer, md5 = upload_in_blocks(
                    call, source, size, self._requests.uri(key), content_type=content_type, conditions=conditions
                )
            except CloudPathException as error:
                is_unknown = error.outcome_unknown = error.outcome_unknown or is_unknown
                # A commit discarded our blocks, another writer's or our own. Once they are uploaded again, the
                # condition decides.
                if answer_of(error.__cause__ or error)[1] != "InvalidBlockList" or not left:
                    raise
                source.seek(0)
            else:
                return info_of_result(key, size, answer, md5, content_type)
        raise AssertionError("unreachable")

    def list(self, prefix: str = "", *, delimited: bool = False, limit: int | None = None) -> Iterator[ListItem]:
        if not self.bucket:
            listed = self.connection.service_client.list_containers
            return self._list_buckets(lambda: [container.name for container in listed()], delimited=delimited)
        # The metadata tell directories from objects, and cost no request.
        options = {"name_starts_with": prefix or None, "include": ["metadata"]}

        held: dict[str, ListItem] = {}

        def fetch(size: int, token: str | None) -> tuple[list[ListItem], str | None]:
            container = self._requests.container()
            ask = container.walk_blobs if delimited else container.list_blobs
            pages = ask(**options, results_per_page=size).by_page(token)
            page = self._requests.call("List Blobs", prefix, lambda **_: list(next(pages, ())))
            token = pages.continuation_token
            found: dict[str, ListItem] = {}
            for item in page:
                if not hasattr(item, "etag"):
                    found[item.name] = Prefix(item.name)
                elif is_folder(item.metadata):
                    key = item.name.removesuffix("/") + "/"
                    held[key] = Prefix(key) if delimited else info_of_properties(key, item)
                else:
                    found[item.name] = info_of_properties(item.name, item)
            # The mark of ``d/`` has the name ``d``: names such as ``d-1`` are listed between the two.
            last = max((item.name.encode() for item in page), default=b"")
            due = [key for key in held if not token or key.encode() <= last]
            return list(({key: held.pop(key) for key in due} | found).values()), token

        return list_pages(self._list_request(prefix, PAGE, limit, delimited=delimited), fetch)

    @checking_answers
    def copy_across(
        self, source: str, to: Any, target: str, *, expect: Validator | None = None, over: WriteCondition = None
    ) -> ObjectInfo:
        seen = self._source_version(source, expect)
        conditions = self._requests.conditions(target, over)
        conditions |= {f"source_{name}": value for name, value in condition_of("IfNotModified", seen).items()}
        # Not `requires_sync`: that copies 256 MiB at most, and reads the source without credentials. Inside one account
        # this copy is usually complete when Azure answers.
        blob = to._requests.blob(target)  # noqa: SLF001 (another backend of this class)
        with self._explaining_missing_target(source, to, target, over):
            options = {**conditions, **self._requests.tier_option()}
            answer = self._requests.call(
                "Copy Blob", source, blob.start_copy_from_url, self._requests.blob(source).url, **options
            )
        if answer.get("copy_status") == "success":
            return info_of_result(target, seen.size, answer, None, None)
        awaited: ObjectInfo = to._await_copy(target, blob, answer.get("copy_id"), seen.size)  # noqa: SLF001 (as above)
        return awaited

    def url(self, key: str) -> str:
        base = f"{self.connection.account.url}/{self._requests.quote(self.bucket, safe='/')}"
        if not key:
            return base
        self._requests.check_name(key)
        return f"{base}/{self._requests.quote(key, safe='~/')}"

    def signed_url(self, key: str, seconds: int) -> str:
        """Sign by the account's key, or by one that a token credential gets."""
        check_expiry(seconds)
        url = self.url(key)
        try:
            expiry = datetime.now(UTC) + timedelta(seconds=seconds)
        except OverflowError as error:
            message = f"expire_seconds={seconds}: the date is too far in the future: use fewer seconds"
            raise InvalidConfigurationException(message) from error
        service = self.connection.service_client
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        login = service.credential
        if getattr(login, "account_key", None):
            signer = {"account_name": login.account_name, "account_key": login.account_key}
        elif hasattr(login, "get_token"):
            check_expiry(seconds, WEEK)
            begin, ask = datetime.now(UTC) - _SKEW, service.get_user_delegation_key
            made = self._requests.call(
                "Get User Delegation Key", key, ask, key_start_time=begin, key_expiry_time=expiry
            )
            signer = {"account_name": service.account_name, "user_delegation_key": made}
        else:
            raise MissingCredentialsError(
                f"{self._requests.uri(key)}: signing a URL needs the account's key or a token credential of "
                "azure-identity: give credential= or a connection_string with AccountKey"
            )
        read = BlobSasPermissions(read=True)
        signature = generate_blob_sas(
            container_name=self.bucket, blob_name=key, permission=read, expiry=expiry, **signer
        )
        return f"{url}?{signature}"

    def _head(self, key: str, conditions: Mapping[str, Any]) -> ObjectInfo:
        properties = self._requests.call(
            "Get Blob Properties", key, self._requests.blob(key).get_blob_properties, **conditions
        )
        self._require_object(key, properties.metadata)
        return info_of_properties(key, properties)

    def _read_conditions(self, asked: ReadRequest) -> Mapping[str, Any]:
        if asked.expect is not None and asked.expect.etag is not None:
            return condition_of("IfNotModified", asked.expect)
        if asked.unless is not None and not asked.unless.racy and asked.unless.etag is not None:
            return condition_of("IfModified", asked.unless)
        return {}

    def _get(self, asked: ReadRequest, conditions: Mapping[str, Any], *, ranged: bool) -> RangedBody | OutOfRange:
        key, start, end = asked.key, asked.start, asked.end
        try:
            response = self._send_get(key, start, end, conditions)
        except CloudPathException as error:
            cause = error.__cause__ or error
            if answer_of(cause)[0] != 416:
                raise
            # The 416 for an empty object does not state its version, nor whether it is a directory: another request.
            return OutOfRange(None, keep_range=True)
        status, headers = response.status_code, response.headers
        if is_folder(headers):
            response.close()
        self._require_object(key, headers)
        return ranged_body(
            asked,
            response.raw,
            lambda: parse_range(status, headers.get("content-range"), headers.get("content-length"), start, end),
            lambda size, _: info_of_headers(key, headers, size),
            md5_checksum,
        )

    def _send_get(self, key: str, start: int, end: int | None, conditions: Mapping[str, Any]) -> Any:
        """Send one Get Blob; return its `requests.Response` with the body unread."""

        def ask(request: Any) -> None:
            # The SDK requests at most its first part: 32 MiB, or what a user's own client is set to.
            request.http_request.headers["x-ms-range"] = f"bytes={start}-{'' if end is None else end - 1}"

        def take(response: Any) -> None:
            if response.http_response.status_code in (200, 206):
                raise ResponseOpened(response.http_response.internal_response)
            _read_out(response.http_response.internal_response)

        try:
            self._requests.call(
                "Get Blob",
                key,
                self._requests.blob(key).download_blob,
                offset=start,
                raw_request_hook=ask,
                raw_response_hook=take,
                **conditions,
            )
        except ResponseOpened as opened:
            return opened.response
        raise CloudUnavailableError(f"{self._requests.uri(key)}: the SDK returned no response of the server: try again")

    def _require_object(self, key: str, metadata: Any) -> None:
        if is_folder(metadata):
            raise CloudPathFileNotFoundError(f"{self._requests.uri(key)} does not exist: it is a directory")

    def _await_copy(self, key: str, blob: Any, copy_id: str | None, size: int) -> ObjectInfo:
        pause, longest = _COPY_POLLS
        stalled, reached = 0.0, 0
        with undone_on_error(lambda: blob.abort_copy(copy_id)):
            while True:
                properties = self._requests.call("Get Blob Properties", key, blob.get_blob_properties)
                copy = properties.copy
                if copy.id != copy_id:
                    raise VersionMismatchError(
                        f"{self._requests.uri(key)}: another process replaced the object during the copy: copy it again"
                    )
                if copy.status == "success":
                    return info_of_properties(key, properties)
                if copy.status != "pending":
                    raise CloudUnavailableError(
                        f"{self._requests.uri(key)}: the copy ended as {copy.status!r}: try again"
                    )
                copied = min(int(str(copy.progress or 0).partition("/")[0]), size)
                stalled = stalled + pause if copied <= reached else 0.0
                reached = max(reached, copied)
                if stalled > _COPY_PATIENCE:
                    raise CloudUnavailableError(
                        f"{self._requests.uri(key)}: the copy makes no progress at the server: try again"
                    )
                time.sleep(pause)
                pause = min(2 * pause, longest)

    def marker(self, key: str) -> ObjectInfo | None:
        name = key.removesuffix("/")
        try:
            properties = self._requests.call("Get Blob Properties", name, self._requests.blob(name).get_blob_properties)
        except CloudPathFileNotFoundError as error:
            if type(error) is not CloudPathFileNotFoundError:
                raise
            return None
        return info_of_properties(key, properties) if is_folder(properties.metadata) else None

    def _send_delete(self, key: str, conditions: Mapping[str, Any], expect: Validator | None) -> object:
        marker = self.marker(key) if key.endswith("/") else None
        if marker is not None and conditions.get("etag") in (None, format_etag(marker.validator)):
            key, conditions = key[:-1], self._requests.conditions(key, marker.validator)
        method = self._requests.blob(key).delete_blob
        return self._requests.call("Delete Blob", key, method, expect=expect, **conditions)

    def _delete_batch(self, keys: Sequence[str], conditions: Conditions) -> Sequence[str]:
        refused = self._delete_each((key for key in keys if key.endswith("/")), conditions)
        keys = [key for key in keys if not key.endswith("/")]
        if not keys:
            return refused
        named = [{"name": key, **conditions[key]} for key in keys]
        for key in keys:
            self._requests.check_name(key)
        answers: list[tuple[int, int, bytes]] = []

        def take(response: Any) -> None:
            # The SDK pairs responses with requests by their order, which Azure does not guarantee.
            answers[:] = parse_batch(response.http_response.content_type, response.http_response.body())

        def ask(**_: Any) -> None:
            list(self._requests.container().delete_blobs(*named, raise_on_any_failure=False, raw_response_hook=take))

        try:
            self._requests.call("Delete Blob", keys[0], ask)
        except CloudPathNotImplementedError:
            return refused + self._delete_each(keys, conditions)
        failed: dict[int, CloudPathException] = {}
        for number, status, text in answers:
            key = keys[number] if 0 <= number < len(keys) else keys[0]
            if status >= 300:
                where = self._requests.where(key)
                error = translate_answer(error_code_of(text), status, "", operation="Delete Blob", **where)
                if isinstance(error, VersionMismatchError):
                    refused.append(key)
                elif type(error) is not CloudPathFileNotFoundError:
                    failed[number] = error
        if unanswered := set(range(len(keys))).difference(number for number, _, _ in answers):
            silence = CloudUnavailableError(
                f"{self._requests.uri(keys[0])} and others: {len(unanswered)} deletes were not answered: try again"
            )
            failed |= dict.fromkeys(unanswered, silence)
        if failed:
            error = next(iter(failed.values()))
            error.add_note(f"{len(failed.keys() - {-1})} of {len(keys)} objects were not deleted")
            raise error
        return refused


def _read_out(response: Any) -> None:
    """Read a response that is no object, so that its connection can be reused: the SDK drops it for a retry."""
    try:
        _ = response.content  # cached there for the SDK
    except Exception:  # noqa: BLE001 (its status says enough)
        response.close()
