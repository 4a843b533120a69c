"""What HTTP's headers mean to every cloud alike: ETags, dates, ranges."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Final

from casstore import Validator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_etag(text: str | None) -> tuple[str | None, bool]:
    """An ETag without quotes and weak prefix, and whether it had that prefix; None for an empty one."""
    if text is None:
        return None, False
    weak = text.startswith("W/")
    bare = text[2:] if weak else text
    if len(bare) >= 2 and bare[0] == bare[-1] == '"':
        bare = bare[1:-1]
    return bare or None, weak and bool(bare)


def format_etag(validator: Validator) -> str | None:
    """The inverse of `parse_etag`, for a condition."""
    if validator.etag is None:
        return None
    return f'{"W/" if validator.weak else ""}"{validator.etag}"'


def range_of(start: int, end: int | None) -> str | None:
    """The ``Range`` header of ``[start, end)``; None for the whole object."""
    if end is None:
        return f"bytes={start}-" if start else None
    return f"bytes={start}-{end - 1}"


def parse_date(text: str) -> datetime | None:
    """A ``Last-Modified`` as every cloud writes it; None for anything else."""
    with contextlib.suppress(ValueError):
        return datetime(
            int(text[12:16]),
            _MONTHS.index(text[8:11]) + 1,
            int(text[5:7]),
            int(text[17:19]),
            int(text[20:22]),
            int(text[23:25]),
            tzinfo=UTC,
        )
    return None


def nanoseconds_of(moment: datetime) -> int:
    """Since the epoch; exact, where `datetime.timestamp` rounds."""
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
