"""A blob that is open for reading, with its entry."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.format.records import Entry, Validator


@dataclass(frozen=True, slots=True)
class Stored:
    """What a reader has in the end: an open blob, and the entry it belongs to.

    *descriptor* is the caller's to close. *entry* is None where the bytes could not be stored (a digest collision, no
    store that can serve) and were only streamed; *streamed* then says which version they are. *size* in bytes.
    """

    descriptor: int
    size: int
    entry: Entry | None
    streamed: Validator | None = None

    @property
    def validator(self) -> Validator | None:
        """Which version the bytes are."""
        return self.streamed if self.entry is None else self.entry.validator
