"""Check LMDB's data file before it is mapped.

LMDB maps the file and trusts it. A used page past the end of the file kills the process (SIGBUS); so may a damaged
pointer, length or flag inside a page. This checks the structure only: records have their own checksums.

It checks both meta pages, then the trees, breadth first: all pages if the file may be truncated or on request, else the
first `FIRST_PAGES`. These are all of a small index and the upper part of a large one. A full check takes some 10 us a
page, 3 s for 1 GiB: too slow for each opening.

The file's size alone does not show truncation. A transaction that frees the last pages it allocated never writes them:
then an intact file is shorter than its last page number says (one commit in six of a mixed workload).

Format: lmdb.h and mdb.c of engine 0.9, 64-bit.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections import deque
from typing import Final, NamedTuple

from casstore.fs import files

FIRST_PAGES: Final = 128
"""Tree pages checked when an index is opened: at most 2 ms."""
_MAGIC: Final = 0xBEEFC0DE
_FORMAT: Final = 1
HEADER: Final = struct.Struct("<Q2xHHH")
"""Of every page: number, flags, end of the node pointers, start of the nodes (or the page count of a run)."""
_META: Final = struct.Struct("<IIQQ")
_TREE: Final = struct.Struct("<IHHQQQQQ")
"""Page size (in the first tree) and flags, depth, branch, leaf and overflow pages, entries, root."""
_TAIL: Final = struct.Struct("<QQ")
NODE: Final = struct.Struct("<HHHH")

BRANCH, LEAF, _RUN, _IS_META = 0x01, 0x02, 0x04, 0x08
_KEYS_ARE_NUMBERS: Final = 0x08
DATA_IS_ELSEWHERE: Final = 0x01
_NO_ROOT: Final = (1 << 64) - 1
_MAX_KEY_BYTES: Final = 511
_LARGEST_MAP: Final = 1 << 46
_MOST_UNWRITTEN: Final = 1 << 30
_ATTEMPTS: Final = 5


class _Tree(NamedTuple):
    depth: int
    entries: int
    root: int


class _Meta(NamedTuple):
    page_size: int
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int


class UnsoundError(Exception):
    """LMDB must not map this file; the message says why."""


class UnfinishedError(UnsoundError):
    """The file's creation was interrupted between its first two pages; it never had data."""


def check(path: str, *, whole: bool = False) -> None:
    """Raise UnsoundError if the file is no LMDB file, lacks used pages, or has damaged pages.

    Checks the first `FIRST_PAGES` tree pages; all if the file may be truncated, or with *whole*. A missing or empty
    file is valid: LMDB fills it. Other processes may write to the file meanwhile.
    """
    with contextlib.suppress(FileNotFoundError), files.opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsoundError("it is not a regular file")
        if status.st_size == 0:
            return
        for _ in range(_ATTEMPTS):
            before = read_metas(descriptor)
            try:
                meta = newest_meta(before)
                # After the meta page: a growing file must not look too short.
                size = os.fstat(descriptor).st_size
                excess = (meta.last_page + 1) * meta.page_size - size
                if excess > _MOST_UNWRITTEN:
                    raise UnsoundError("it is truncated")
                _Walk(descriptor, meta, size).run(None if whole or excess > 0 else FIRST_PAGES)
            except UnsoundError:
                # Pages of an older transaction may be overwritten meanwhile; then this result is void.
                if read_metas(descriptor) == before:
                    raise
            else:
                return
        # Another process commits faster than this check: it uses the file without problems.


def read_metas(descriptor: int) -> tuple[bytes, bytes]:
    first = os.pread(descriptor, 256, 0)
    sizes = HEADER.size + _META.size
    size = int.from_bytes(first[sizes : sizes + 4], "little")
    return first, os.pread(descriptor, 256, size if 512 <= size <= 65536 else 4096)


def newest_meta(pages: tuple[bytes, bytes]) -> _Meta:
    first = _parse_meta(pages[0], 0)
    if not pages[1] and first.transaction == 0:
        raise UnfinishedError("its creation was interrupted")
    metas = first, _parse_meta(pages[1], 1)
    older, newer = sorted(metas, key=lambda meta: meta.transaction)
    # Transaction n writes meta page n modulo 2. A new file has two of number 0.
    expected = (newer.transaction - 1, metas[newer.transaction % 2]) if newer.transaction else (0, newer)
    if (older.transaction, newer) != expected or older.page_size != newer.page_size:
        raise UnsoundError("its meta pages do not belong together")
    return newer


def _parse_meta(page: bytes, number: int) -> _Meta:
    start = HEADER.size
    tail = start + _META.size + 2 * _TREE.size
    if len(page) < tail + _TAIL.size:
        raise UnsoundError("it is truncated")
    own, flags, _, _ = HEADER.unpack_from(page)
    magic, version, address, map_size = _META.unpack_from(page, start)
    size, free_flags, free_depth, _, _, _, free_entries, free_root = _TREE.unpack_from(page, start + _META.size)
    _, flags_of_main, depth, _, _, _, entries, root = _TREE.unpack_from(page, start + _META.size + _TREE.size)
    last_page, transaction = _TAIL.unpack_from(page, tail)
    if magic != _MAGIC or version != _FORMAT or not 512 <= size <= 32768 or size & (size - 1):
        raise UnsoundError("it does not begin as an LMDB file")
    free, main = _Tree(free_depth, free_entries, free_root), _Tree(depth, entries, root)
    is_sound = (
        (own, flags, address, free_flags, flags_of_main) == (number, _IS_META, 0, _KEYS_ARE_NUMBERS, 0)
        and (last_page + 1) * size <= map_size <= _LARGEST_MAP
        and all((tree.depth == 0) == (tree.entries == 0) == (tree.root == _NO_ROOT) for tree in (free, main))
    )
    if not is_sound:
        raise UnsoundError(f"meta page {number} is damaged")
    return _Meta(size, free, main, last_page, transaction)


class _Walk:
    """One pass over the pages that a meta page's trees reach. Raises UnsoundError at the first damaged page."""

    def __init__(self, descriptor: int, meta: _Meta, size: int) -> None:
        self._descriptor = descriptor
        self._meta = meta
        self._end = min(size // meta.page_size, meta.last_page + 1)
        self._left: deque[tuple[int, _Tree, int]] = deque()
        self._used: set[int] = set()
        self._entries: dict[int, int] = {}
        self._is_whole = True

    def run(self, limit: int | None) -> None:
        """Check all pages, or *limit* of them without counting entries."""
        self._is_whole = limit is None or self._meta.last_page <= limit
        trees = [tree for tree in (self._meta.main, self._meta.free) if tree.root != _NO_ROOT]
        self._left.extend((tree.root, tree, 1) for tree in trees)
        checked = 0
        while self._left:
            if checked == limit:
                return
            checked += 1
            self._visit(*self._left.popleft())
        for tree in trees:
            if self._entries.get(tree.root, 0) != tree.entries:
                raise UnsoundError("pages of a tree are missing")

    def _visit(self, number: int, tree: _Tree, depth: int) -> None:
        self._mark_used(number, 1)
        page_size = self._meta.page_size
        page = os.pread(self._descriptor, page_size, number * page_size)
        own, flags, lower, upper = HEADER.unpack_from(page)
        kind = LEAF if depth == tree.depth else BRANCH
        start = HEADER.size
        if own != number or flags != kind or not start < lower <= upper <= page_size or lower % 2:
            raise UnsoundError(f"page {number} is damaged")
        nodes = struct.unpack_from(f"<{(lower - start) // 2}H", page, start)
        if min(nodes) < upper or max(nodes) > page_size - NODE.size:
            raise UnsoundError(f"page {number} is damaged")
        if kind == BRANCH:
            for node in nodes:
                low, high, top, key_size = NODE.unpack_from(page, node)
                if node + NODE.size + key_size > len(page) or key_size > _MAX_KEY_BYTES:
                    raise UnsoundError(f"page {number} is damaged")
                self._left.append((low | high << 16 | top << 32, tree, depth + 1))
        else:
            self._leaf(page, number, nodes, tree)

    def _leaf(self, page: bytes, number: int, nodes: tuple[int, ...], tree: _Tree) -> None:
        self._entries[tree.root] = self._entries.get(tree.root, 0) + len(nodes)
        end, unpack, header = len(page), NODE.unpack_from, NODE.size
        for node in nodes:
            low, high, flags, key_size = unpack(page, node)
            data = node + header + key_size
            size = low | high << 16
            if flags == 0 and data + size <= end and 0 < key_size <= _MAX_KEY_BYTES:
                if tree is self._meta.free:
                    self._free(page[data : data + size])
            elif flags == DATA_IS_ELSEWHERE and data + 8 <= end and 0 < key_size <= _MAX_KEY_BYTES:
                self._run(int.from_bytes(page[data : data + 8], "little"), size, tree)
            else:
                raise UnsoundError(f"page {number} is damaged")

    def _run(self, number: int, size: int, tree: _Tree) -> None:
        """Check data in pages of its own; only the first one has a header."""
        self._mark_used(number, 1)
        page_size = self._meta.page_size
        is_free = tree is self._meta.free
        first = os.pread(self._descriptor, HEADER.size + (size if is_free else 0), number * page_size)
        pages = int.from_bytes(first[12:16], "little")
        if HEADER.unpack_from(first)[:2] != (number, _RUN) or HEADER.size + size > pages * page_size:
            raise UnsoundError(f"page {number} is damaged")
        if pages > 1:
            self._mark_used(number + 1, pages - 1)
        if is_free:
            self._free(first[HEADER.size :])

    def _free(self, record: bytes) -> None:
        """Check a list of free pages, which LMDB will write to: a count, and their numbers."""
        count = int.from_bytes(record[:8], "little")
        is_complete = len(record) >= 8 * (count + 1)
        numbers = struct.unpack_from(f"<{count}Q", record, 8) if is_complete else ()
        if not is_complete or min(numbers, default=2) < 2 or max(numbers, default=2) > self._meta.last_page:
            raise UnsoundError("a list of free pages is damaged")
        if self._is_whole:
            if len(self._used) + count > self._meta.last_page + 1 or not self._used.isdisjoint(numbers):
                raise UnsoundError("a page is both in use and free")
            self._used.update(numbers)

    def _mark_used(self, number: int, count: int) -> None:
        """Mark pages as used; each may be used once."""
        if number < 2 or number + count > self._end:
            if number <= self._meta.last_page:
                raise UnsoundError(f"it is truncated: page {number} is in use")
            raise UnsoundError(f"page {number}, which is in use, does not exist")
        for page in range(number, number + count):
            if page in self._used:
                raise UnsoundError(f"page {page} is in use twice")
            self._used.add(page)
