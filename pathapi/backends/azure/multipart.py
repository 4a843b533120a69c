"""Uploads in blocks: in parallel and in bounded memory. The condition goes with the commit, which makes the object.

Azure has no request that ends an upload: blocks that are not committed go with the next write of the object, or by
themselves after a week, and nobody sees them before.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, Final

from casstore import new_hasher
from pathapi.exceptions import TruncatedBodyError

BLOCK_SIZE: Final = 8 << 20
THRESHOLD: Final = 16 << 20
"""Bytes from which an upload goes in blocks: below, the extra request costs more than the parallel ones give."""
MAX_BLOCKS: Final = 50_000
"""Azure's limit."""
THREADS: Final = 8

Call = Callable[..., Any]
"""``call(operation, method, *arguments, **options)``: one request about the blob in question, errors in our words."""


def upload_in_blocks(call: Call, source: BinaryIO, size: int, *, content_type: str | None, conditions: Any) -> Any:
    """Upload *size* bytes of *source*; the answer to the commit and the MD5 of all bytes. Holds `THREADS` + 1 blocks.

    A block's name holds a number that nobody else draws: two writers of one object, whose blocks lie in one place
    until they are committed, can then never commit each other's.
    """
    block_size = max(BLOCK_SIZE, -(-size // MAX_BLOCKS))
    hasher, draw = new_hasher("md5"), uuid.uuid4().hex
    names = [f"{draw}-{number:05}" for number in range(-(-size // block_size))]
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="casstore-block")
    try:
        pending: set[Future[Any]] = set()
        left = size
        for name in names:
            data = source.read(min(block_size, left))
            left -= len(data)
            if len(data) != block_size and left:
                raise TruncatedBodyError(f"the source ended {left} bytes early")
            hasher.update(data)
            pending.add(
                pool.submit(call, "Put Block", "stage_block", name, data, length=len(data), validate_content=True)
            )
            if len(pending) >= THREADS:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in pending:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    md5 = hasher.digest()
    return call("Put Block List", "commit_block_list", names, md5=md5, content_type=content_type, **conditions), md5
