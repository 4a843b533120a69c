"""LMDB's data file, read as a file: whether everything that is in use lies inside it.

LMDB maps the file, and reading a mapped page past the end of a file kills the process (SIGBUS). So a truncated file
must be found out before it is mapped. Its size alone does not tell: a transaction that gave back the last pages it took
never writes them, and then a sound file is shorter than its last page number says (one commit in six of a mixed
workload). Where it is shorter, the trees of the newest meta page are walked, and what they reach must be inside.

Format: lmdb.h and mdb.c of engine 0.9, 64-bit.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = 0xBEEFC0DE
_HEADER: Final = struct.Struct("<Q2xHHH")
"""Of every page: its number, flags, end of the pointers to nodes, begin of the nodes (the last two are the count of
pages where the page is the first of a run).
"""
_META: Final = struct.Struct("<II8xQ")
_TREE: Final = struct.Struct("<IHHQQQQQ")
"""Page size (in the first tree) and flags, depth, branch, leaf and overflow pages, entries, root."""
_TAIL: Final = struct.Struct("<QQ")
_NODE: Final = struct.Struct("<HHHH")

_BRANCH, _LEAF, _RUN, _IS_META = 0x01, 0x02, 0x04, 0x08
_DATA_IS_ELSEWHERE: Final = 0x01
_NO_ROOT: Final = (1 << 64) - 1
_PATIENCE: Final = 5


@dataclass(frozen=True, slots=True)
class _Meta:
    page_size: int
    roots: tuple[int, int]
    last_page: int
    transaction: int


class UnsoundError(Exception):
    """The file is not what LMDB may map; the message says why."""


def check(path: str) -> None:
    """Raise UnsoundError for a file that is no LMDB file, or that lacks pages which are in use.

    A missing or an empty one is fine, LMDB fills it. Others may write to the file meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if os.fstat(descriptor).st_size == 0:
            return
        for attempt in range(_PATIENCE):
            meta = _newest_meta(descriptor)
            # After the meta page: a file that grows while it is looked at must not look too short for it.
            size = os.fstat(descriptor).st_size
            if (meta.last_page + 1) * meta.page_size <= size:
                return
            try:
                _walk(descriptor, meta, size)
            except UnsoundError:
                # Pages of an older transaction may be written anew at any time: what was read of them is void.
                if attempt == _PATIENCE - 1 or _newest_meta(descriptor) == meta:
                    raise
            else:
                return
    finally:
        os.close(descriptor)


def _newest_meta(descriptor: int) -> _Meta:
    first = _read_meta(descriptor, 0)
    second = _read_meta(descriptor, first.page_size)
    return max(first, second, key=lambda meta: meta.transaction)


def _read_meta(descriptor: int, offset: int) -> _Meta:
    page = os.pread(descriptor, 256, offset)
    start = _HEADER.size
    tail = start + _META.size + 2 * _TREE.size
    if len(page) < tail + _TAIL.size:
        raise UnsoundError("it is truncated")
    magic, _, _ = _META.unpack_from(page, start)
    free = _TREE.unpack_from(page, start + _META.size)
    main = _TREE.unpack_from(page, start + _META.size + _TREE.size)
    size = free[0]
    if magic != _MAGIC or not _HEADER.unpack_from(page)[1] & _IS_META or not 512 <= size <= 65536 or size & (size - 1):
        raise UnsoundError("it does not begin as an LMDB file")
    last_page, transaction = _TAIL.unpack_from(page, tail)
    return _Meta(size, (free[-1], main[-1]), last_page, transaction)


def _walk(descriptor: int, meta: _Meta, size: int) -> None:
    """Visit every page that both trees reach; UnsoundError for the first that is not all inside *size* bytes."""
    left = [root for root in meta.roots if root != _NO_ROOT]
    visited = 0
    while left:
        number = left.pop()
        visited += 1
        page = _read_page(descriptor, meta, number, size)
        _, flags, lower, _ = _HEADER.unpack_from(page)
        if visited > meta.last_page or not flags & (_BRANCH | _LEAF) or not _HEADER.size <= lower <= meta.page_size:
            raise UnsoundError(f"page {number} is damaged")
        for at in range(_HEADER.size, lower - 1, 2):
            target = _target(page, int.from_bytes(page[at : at + 2], "little"), flags, number)
            if target is None:
                continue
            if flags & _BRANCH:
                left.append(target)
            else:
                first = _read_page(descriptor, meta, target, size)
                run = int.from_bytes(first[12:16], "little")
                if not _HEADER.unpack_from(first)[1] & _RUN or (target + run) * meta.page_size > size:
                    raise UnsoundError(f"it is truncated: {run} pages from {target} on are in use")


def _target(page: bytes, node: int, flags: int, number: int) -> int | None:
    """The page that a node leads to; None where its data lie in it."""
    if node + _NODE.size > len(page):
        raise UnsoundError(f"page {number} is damaged")
    low: int
    high: int
    extra: int
    key_size: int
    low, high, extra, key_size = _NODE.unpack_from(page, node)
    if flags & _BRANCH:
        return low | high << 16 | extra << 32
    if not extra & _DATA_IS_ELSEWHERE:
        return None
    at = node + _NODE.size + key_size
    if at + 8 > len(page):
        raise UnsoundError(f"page {number} is damaged")
    return int.from_bytes(page[at : at + 8], byteorder="little")


def _read_page(descriptor: int, meta: _Meta, number: int, size: int) -> bytes:
    if (number + 1) * meta.page_size > size:
        raise UnsoundError(f"it is truncated: page {number} is in use")
    return os.pread(descriptor, meta.page_size, number * meta.page_size)
