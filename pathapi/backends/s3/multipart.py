"""Uploads and copies in parts: in parallel, in bounded memory, and aborted on any error.

The condition belongs to the last request, which creates the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pathapi.backends.parallel_parts import THREADS, send_parts
from pathapi.parallel.part_threads import undone_on_error

PART_SIZE: Final = 8 << 20
MIN_PART_SIZE: Final = 5 << 20
"""S3's limit, except for the last part."""
THRESHOLD: Final = 16 << 20
"""Bytes from which an upload is in parts: below, two more requests cost more than parallel ones save."""
MAX_PARTS: Final = 10_000
"""S3's limit."""
COPY_PART_SIZE: Final = 512 << 20

Call = Callable[..., Any]
"""``call(operation, **arguments)``: one request about the object, with errors translated."""


def threshold_of(config: Any) -> int:
    """Return the bytes from which to upload in parts: of boto3's `TransferConfig` if there is one."""
    return max(1, int(getattr(config, "multipart_threshold", THRESHOLD)))


def part_size_of(size: int, config: Any) -> int:
    """Return the bytes per part; size and number of the parts stay within S3's limits."""
    wanted = int(getattr(config, "multipart_chunksize", PART_SIZE))
    return max(wanted, MIN_PART_SIZE, -(-size // MAX_PARTS))


def threads_of(config: Any) -> int:
    """Return how many parts are sent or read at a time; 0 if *config* says that the caller sends them itself."""
    return int(getattr(config, "max_concurrency", THREADS)) if getattr(config, "use_threads", True) else 0


def copy_ranges(size: int) -> Iterable[dict[str, str]]:
    """Yield the arguments of each part of a copy that is too large for one CopyObject."""
    part_size = max(COPY_PART_SIZE, -(-size // MAX_PARTS))
    return (
        {"CopySourceRange": f"bytes={start}-{min(start + part_size, size) - 1}"} for start in range(0, size, part_size)
    )


def send_multipart(
    call: Call,
    operation: str,
    parts: Iterable[Mapping[str, Any]],
    *,
    described: Mapping[str, Any],
    conditions: Mapping[str, Any],
    threads: int = THREADS,
) -> Any:
    """Send the arguments of each part to *operation* and return the response to the completion.

    Holds *threads* + 1 parts in memory.
    """
    upload = {"UploadId": call("CreateMultipartUpload", **described)["UploadId"]}

    def abort() -> None:
        call("AbortMultipartUpload", **upload)

    def send(number: int, part: Mapping[str, Any]) -> dict[str, Any]:
        answer = call(operation, PartNumber=number, **upload, **part)
        result = answer.get("CopyPartResult", answer)
        stated = {name: result[name] for name in result if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number, "ETag": result["ETag"], **stated}

    with undone_on_error(abort):
        sent = send_parts(send, parts, threads, on_late=abort)
        return call("CompleteMultipartUpload", MultipartUpload={"Parts": sent}, **upload, **conditions)
