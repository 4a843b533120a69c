"""A blob that is open for reading, with its entry."""

from __future__ import annotations

from dataclasses import dataclass

from casstore.format.records import Entry, Validator


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of a read: an open blob, and the entry it belongs to.

    The caller closes *descriptor*. *entry* is None if the bytes could not be stored (a digest collision, no store that
    can serve) and were only streamed; *streamed* is then their version. *size* in bytes. *content* is the whole body if
    the reader asked for it and has just received it; *descriptor* is -1 then.
    """

    descriptor: int
    size: int
    entry: Entry | None
    streamed: Validator | None = None
    content: bytes | None = None

    @property
    def validator(self) -> Validator | None:
        """The version of the bytes."""
        return self.streamed if self.entry is None else self.entry.validator
