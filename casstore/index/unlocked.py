"""Read the index's file without LMDB, for stores that this user may only read.

LMDB's readers write to a lock file, and without it they trust pages that a writer may reuse meanwhile. Here each page
is read by one system call, and its structure is checked. A record has its own checksum: what another process overwrote
meanwhile is a miss, never another object's entry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final

from casstore.format.layout import Layout
from casstore.fs import files
from casstore.index.generations import PROCESS_LIMITS, Generations
from casstore.index.page_check import (
    BRANCH,
    DATA_IS_ELSEWHERE,
    HEADER,
    LEAF,
    NODE,
    UnsoundError,
    newest_meta,
    read_metas,
)

_ATTEMPTS: Final = 5
_MOST_LEVELS: Final = 64
_MOST_BYTES: Final = 1 << 20
"""Far more than any record has."""


class UnlockedIndex:
    """The rows of one store's index, as `Index` has them; thread-safe, keeps nothing open, changes nothing."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._generations = Generations(layout, lambda: None)

    def get(self, row: bytes) -> bytes | None:
        """Return one record, or None, also if it cannot be read."""
        return next((record for found, record in self.scan(row) if found == row), None)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows with *prefix*, in order; not one snapshot. Ends early where the file is damaged."""
        start = prefix
        for _ in range(_ATTEMPTS):
            try:
                for row, record in self._rows(start):
                    if not row.startswith(prefix):
                        return
                    yield row, record
                    start = row + b"\0"
                return
            except OSError as error:
                if error.errno in PROCESS_LIMITS:
                    raise
                return  # there is no index, or this user cannot read it
            except (UnsoundError, struct.error, OverflowError):
                pass  # perhaps another process wrote to these pages meanwhile

    def _rows(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        number = self._generations.newest()
        with files.opened(self._layout.index_file(number), os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            meta = newest_meta(read_metas(descriptor))
            if 0 < meta.main.depth <= _MOST_LEVELS:
                yield from _below(descriptor, meta.page_size, meta.main.root, meta.main.depth, start)


def _below(descriptor: int, size: int, number: int, depth: int, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows from *start* on of the page *number*, *depth* levels above the end of the tree."""
    page = os.pread(descriptor, size, number * size)
    own, flags, lower, _ = HEADER.unpack_from(page)
    if own != number or flags != (LEAF if depth == 1 else BRANCH) or not HEADER.size < lower <= size:
        raise UnsoundError(f"page {number} is damaged")
    nodes = struct.unpack_from(f"<{(lower - HEADER.size) // 2}H", page, HEADER.size)
    for position, node in enumerate(nodes):
        low, high, top, key_size = NODE.unpack_from(page, node)
        data = node + NODE.size + key_size
        if depth > 1:
            # The key of a branch is the first below it; all below are before the next one's.
            if position + 1 < len(nodes) and _key(page, nodes[position + 1]) <= start:
                continue
            yield from _below(descriptor, size, low | high << 16 | top << 32, depth - 1, start)
        elif (row := page[node + NODE.size : data]) >= start:
            length = min(low | high << 16, _MOST_BYTES)
            if top == DATA_IS_ELSEWHERE:
                place = int.from_bytes(page[data : data + 8], "little")
                yield row, os.pread(descriptor, length, place * size + HEADER.size)
            else:
                yield row, page[data : data + length]


def _key(page: bytes, node: int) -> bytes:
    start = node + NODE.size
    return page[start : start + NODE.unpack_from(page, node)[3]]
