"""Uploads and copies in parts: in parallel and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO, Final, TypeVar

from pathapi.exceptions import TruncatedBodyError
from pathapi.parallel.part_threads import PartThreads

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


def send_parts(
    send: Callable[[int, Part], Result],
    parts: Iterable[Part],
    threads: int = THREADS,
    on_late: Callable[[], object] | None = None,
) -> list[Result]:
    """Call ``send(number, part)`` for each part, numbered from 1, and return the results in the order of the parts.

    Holds *threads* + 1 parts in memory. Returns, or raises an error, once no call is running: a part that arrived after
    its upload was aborted would stay, and cost money. An interrupt is raised at once; then *on_late* is called after
    each call that ends later.
    """
    pool: PartThreads[tuple[int, Result]] = PartThreads(threads, on_late)
    results: dict[int, Result] = {}

    def call(number: int, part: Part) -> tuple[int, Result]:
        return number, send(number, part)

    def keep(ended: tuple[int, Result]) -> None:
        results[ended[0]] = ended[1]

    try:
        try:
            for number, part in enumerate(parts, start=1):
                pool.submit(partial(call, number, part))
                if pool.running >= threads:
                    keep(pool.result())
            while pool.running:
                keep(pool.result())
        except Exception:
            pool.drain()
            raise
    finally:
        pool.close()
    return [results[number] for number in sorted(results)]
