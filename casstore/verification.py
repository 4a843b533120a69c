"""Verifying a store: every blob hashed again, every row held against a file and every file against a row.

It changes nothing, and runs beside processes that fill, evict and die: a publish in flight, an eviction between its two
steps and what a killed process leaves are no damage. The first two are told from damage by looking again; the last is
counted as left over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from casstore.blob_checks import BlobChecks
from casstore.findings import Checked, Findings, Leftovers, Problem, ProblemKind, Verified
from casstore.index import Index
from casstore.layout import Layout
from casstore.row_checks import RowChecks, reason


def verify(
    layout: Layout, index: Index, algorithm: str, store_id: str, progress: Callable[[Checked], None] | None = None
) -> Verified:
    """Check everything; *progress* is called often, in this thread.

    Raises OSError only for what says nothing of the store: too many open files, no memory, a fork without hooks.
    """
    findings = Findings()
    rows = RowChecks(layout, index, algorithm, findings)
    blobs = BlobChecks(layout, algorithm, rows, findings)

    def tell() -> None:
        if progress is not None:
            progress(Checked(rows.rows, blobs.files, blobs.read, rows.blobs, rows.bytes))

    _check_marker(layout, algorithm, store_id, findings)
    rows.check(tell)
    blobs.check(tell)
    # Looked for once more: a process that makes a store makes the index before the first blob.
    if rows.is_absent and blobs.files and not rows.find():
        detail = f"there is none, and {blobs.files:,} blobs are there"
        findings.add(Problem(ProblemKind.DAMAGED_INDEX, layout.index, detail))
    tell()
    leftovers = Leftovers(
        blobs.unknown,
        blobs.unknown_bytes,
        rows.unused,
        rows.unused_bytes,
        rows.stale,
        *_measure(layout.trash),
        *_measure(layout.quarantine),
        _count(layout.leases),
    )
    return Verified(
        blobs.files,
        blobs.bytes,
        rows.entries,
        rows.generation,
        findings.wrong,
        tuple(findings.problems),
        leftovers,
    )


def _check_marker(layout: Layout, algorithm: str, store_id: str, findings: Findings) -> None:
    detail = None
    try:
        with open(layout.store, "rb") as file:
            found = json.loads(file.read())
        if (found["digest"], found["id"]) != (algorithm, store_id):
            detail = "it is another store's than the one that was opened"
    except OSError as error:
        detail = reason(error)
    except (ValueError, LookupError, TypeError):
        detail = "it does not say which store this is"
    if detail is not None:
        findings.add(Problem(ProblemKind.DAMAGED_MARKER, layout.store, detail))


def _measure(directory: str) -> tuple[int, int]:
    """Files below a directory, and their bytes, as far as they can be seen: others take them away meanwhile."""
    files = size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                status = os.stat(f"{parent}/{name}", follow_symlinks=False)
            except OSError:
                continue
            files, size = files + 1, size + status.st_size
    return files, size


def _count(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        return 0
