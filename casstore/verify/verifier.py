"""Verifying a store: every blob hashed again, every row held against a file and every file against a row.

It changes nothing unless it is given a `Repairer`, and runs beside processes that fill, evict and die: a publish in
flight, an eviction between its two steps and what a killed process leaves are no damage. The first two are told from
damage by looking again; the last is counted as left over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from casstore.format.layout import Layout
from casstore.index.database import Index
from casstore.leases.reaper import ReapResult
from casstore.verify.blob_checks import BlobChecks
from casstore.verify.index_checks import IndexChecks, reason
from casstore.verify.report import (
    Findings,
    Leftovers,
    Problem,
    ProblemKind,
    Repairer,
    RepairSummary,
    VerifyProgress,
    VerifyReport,
)
from casstore.verify.sampling import Sample


class Verifier:
    """One look at a store; *sample* says which blobs are hashed, *mender* puts right what it can."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        algorithm: str,
        sample: Sample,
        repairer: Repairer | None,
        progress: Callable[[VerifyProgress], None] | None,
    ) -> None:
        self._layout = layout
        self._algorithm = algorithm
        self._mender = repairer
        self._progress = progress
        self.findings = Findings()
        self._index = index
        self._rows = IndexChecks(layout, index, algorithm, self.findings, repairer)
        self._blobs = BlobChecks(layout, algorithm, self._rows, self.findings, sample, repairer)

    def run(self, store_id: str) -> None:
        """Look at everything."""
        _check_marker(self._layout, self._algorithm, store_id, self.findings)
        self._rows.check(self._tell)
        if self._mender is not None:
            self._repair_index(self._mender)
        self._blobs.check(self._tell)
        # Looked for once more: a process that makes a store makes the index before the first blob.
        if self._rows.is_absent and self._blobs.files and not self._rows.find():
            self._add_absence(self._blobs.files)
        self._tell()

    def _repair_index(self, mender: Repairer) -> None:
        """Go on with a new index, if the old one is damaged or gone."""
        if self._rows.is_absent:
            count = sum(len(names) for _, _, names in os.walk(self._layout.blobs))
            if not count or self._rows.find():
                return  # a new store
            self._add_absence(count)
        if not any(problem.kind is ProblemKind.DAMAGED_INDEX for problem in self.findings.problems):
            return
        repair = mender.replace_index()
        self.findings.settle(ProblemKind.DAMAGED_INDEX, repair)
        if repair.is_done:
            self._rows.is_absent = not self._rows.find()

    def _add_absence(self, blobs: int) -> None:
        detail = f"there is none, and {blobs:,} blobs are there"
        self.findings.add(Problem(ProblemKind.DAMAGED_INDEX, self._layout.index, detail))

    def _tell(self) -> None:
        if self._progress is not None:
            rows, blobs = self._rows, self._blobs
            self._progress(
                VerifyProgress(
                    rows.rows, blobs.files, blobs.read, rows.blobs, rows.bytes, blobs.skipped, blobs.skipped_bytes
                )
            )

    def result(self, reaped: ReapResult | None = None) -> VerifyReport:
        """What was found; with a mender, *reaped* is what dead processes had left."""
        rows, blobs, findings, layout = self._rows, self._blobs, self.findings, self._layout
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
        mended = None
        if self._mender is not None:
            mended = RepairSummary(findings.mended, blobs.adopted, blobs.adopted_bytes, rows.dropped, reaped)
        return VerifyReport(
            blobs.files,
            blobs.bytes,
            rows.entries,
            rows.generation,
            findings.wrong,
            tuple(findings.problems),
            leftovers,
            blobs.skipped,
            blobs.skipped_bytes,
            mended,
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
