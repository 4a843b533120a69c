"""Uploads in blocks: in parallel and in bounded memory. The condition belongs to the commit, which creates the object.

Azure has no request to abort an upload. Blocks that are not committed are invisible, and are deleted by the next write
of the object, or after a week.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from casstore import new_hasher
from pathapi.backends.parallel_parts import read_parts, send_parts

BLOCK_SIZE: Final = 8 << 20
THRESHOLD: Final = 16 << 20
"""Bytes from which an upload is in blocks: below, one more request costs more than parallel ones save."""
MAX_BLOCKS: Final = 50_000
"""Azure's limit."""

Call = Callable[..., Any]
"""``call(operation, method, *arguments, **options)``: one request about the blob, with errors translated."""


def upload_in_blocks(
    call: Call, source: BinaryIO, size: int, uri: str, *, content_type: str | None, conditions: Any
) -> Any:
    """Upload *size* bytes of *source*; return the response to the commit, and the MD5 of all bytes.

    Holds `THREADS` + 1 blocks in memory. The blocks' names contain a random number: all uncommitted blocks of an object
    share one namespace, and two writers must never commit each other's.
    """
    hasher, random = new_hasher("md5"), uuid.uuid4().hex
    block_size = max(BLOCK_SIZE, -(-size // MAX_BLOCKS))

    def blocks() -> Iterator[bytes]:
        for data in read_parts(source, size, block_size, uri):
            hasher.update(data)
            yield data

    def send(number: int, data: bytes) -> str:
        name = f"{random}-{number:05}"
        call("Put Block", "stage_block", name, data, length=len(data), validate_content=True)
        return name

    names = send_parts(send, blocks())
    md5 = hasher.digest()
    return call("Put Block List", "commit_block_list", names, md5=md5, content_type=content_type, **conditions), md5
