"""Uploads and copies in parts: in parallel, in bounded memory, and aborted when anything goes wrong.

The condition goes with the last request, which is the one that makes the object.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, Final

from pathapi.exceptions import TruncatedBodyError

PART_SIZE: Final = 8 << 20
THRESHOLD: Final = 16 << 20
"""Bytes from which an upload goes in parts: below, the two extra requests cost more than the parallel ones give."""
MAX_PARTS: Final = 10_000
"""S3's limit."""
COPY_PART_SIZE: Final = 512 << 20
THREADS: Final = 8

Call = Callable[..., Any]
"""``call(operation, **arguments)``: one request for the key in question, with errors in our words."""


def threshold_of(config: Any) -> int:
    """Bytes from which to upload in parts, by boto3's `TransferConfig` if there is one."""
    return max(1, int(getattr(config, "multipart_threshold", THRESHOLD)))


def part_size_of(size: int, config: Any) -> int:
    """Bytes per part, such that their number stays within S3's limit."""
    wanted = int(getattr(config, "multipart_chunksize", PART_SIZE))
    return max(wanted, -(-size // MAX_PARTS))


def upload_in_parts(
    call: Call,
    source: BinaryIO,
    size: int,
    *,
    part_size: int,
    threads: int | None,
    described: Mapping[str, Any],
    conditions: Mapping[str, Any],
) -> Any:
    """Upload *size* bytes of *source* and return the answer to the completion. Holds *threads* + 1 parts in memory."""

    def jobs() -> Iterator[Mapping[str, Any]]:
        for start in range(0, size, part_size):
            length = min(part_size, size - start)
            data = source.read(length)
            if len(data) != length:
                raise TruncatedBodyError(f"the source ended {size - start - len(data)} bytes early")
            yield {"Body": data}

    return _transfer(call, "UploadPart", jobs(), threads or THREADS, described, conditions)


def copy_in_parts(
    call: Call,
    size: int,
    *,
    arguments: Mapping[str, Any],
    described: Mapping[str, Any],
    conditions: Mapping[str, Any],
) -> Any:
    """Copy an object that is too large for one CopyObject; *arguments* name the source and its version."""
    part_size = max(COPY_PART_SIZE, -(-size // MAX_PARTS))
    jobs = (
        {**arguments, "CopySourceRange": f"bytes={start}-{min(start + part_size, size) - 1}"}
        for start in range(0, size, part_size)
    )
    return _transfer(call, "UploadPartCopy", jobs, THREADS, described, conditions)


def _transfer(
    call: Call,
    operation: str,
    jobs: Iterator[Mapping[str, Any]],
    threads: int,
    described: Mapping[str, Any],
    conditions: Mapping[str, Any],
) -> Any:
    upload = {"UploadId": call("CreateMultipartUpload", **described)["UploadId"]}

    def send(number: int, job: Mapping[str, Any]) -> dict[str, Any]:
        answer = call(operation, PartNumber=number, **upload, **job)
        result = answer.get("CopyPartResult", answer)
        stated = {name: result[name] for name in result if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number, "ETag": result["ETag"], **stated}

    try:
        parts: list[dict[str, Any]] = []
        pool = ThreadPoolExecutor(threads, thread_name_prefix="casstore-part")
        try:
            pending: set[Future[dict[str, Any]]] = set()
            for number, job in enumerate(jobs, start=1):
                pending.add(pool.submit(send, number, job))
                if len(pending) >= threads:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    parts += [future.result() for future in done]
            parts += [future.result() for future in pending]
        finally:
            # Parts that arrive after the abort would stay, and be paid for.
            pool.shutdown(wait=True, cancel_futures=True)
        parts.sort(key=lambda part: int(part["PartNumber"]))
        return call("CompleteMultipartUpload", MultipartUpload={"Parts": parts}, **upload, **conditions)
    except BaseException:
        with contextlib.suppress(Exception):
            call("AbortMultipartUpload", **upload)
        raise
