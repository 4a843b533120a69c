"""Uploads and copies in parts: in parallel and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO, Final, TypeVar

from pathapi.exceptions import TruncatedBodyError

THREADS: Final = 8

Part = TypeVar("Part")
Result = TypeVar("Result")


def read_exactly(source: BinaryIO, size: int, uri: str) -> bytes:
    """Read *size* bytes. Raises TruncatedBodyError if *source* ends before."""
    data = source.read(size)
    if len(data) != size:
        raise TruncatedBodyError(f"{uri}: the source of the upload ended {size - len(data)} bytes early")
    return data


def read_parts(source: BinaryIO, size: int, part_size: int, uri: str) -> Iterator[bytes]:
    """Read *size* bytes in parts of *part_size*. Raises TruncatedBodyError if *source* ends before."""
    for start in range(0, size, part_size):
        yield read_exactly(source, min(part_size, size - start), uri)


def send_parts(send: Callable[[int, Part], Result], parts: Iterable[Part], threads: int = THREADS) -> list[Result]:
    """Call ``send(number, part)`` for each part, numbered from 1, and return the results in the order of the parts.

    Holds *threads* + 1 parts in memory. Returns or raises once no call is running: a part that arrived after its upload
    was aborted would stay, and cost money.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="casstore-part")
    try:
        futures: list[Future[Result]] = []
        pending: set[Future[Result]] = set()
        for number, part in enumerate(parts, start=1):
            future = pool.submit(send, number, part)
            futures.append(future)
            pending.add(future)
            if len(pending) >= threads:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for sent in done:
                    sent.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
