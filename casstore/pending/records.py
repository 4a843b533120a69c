"""The record of a pending write: a small JSON file beside its bytes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, TypedDict

from casstore.format.digest import ALGORITHMS, Digest
from casstore.format.keys import Key
from casstore.format.records import Validator

_FORMAT: Final = 1


class PendingState(StrEnum):
    UPLOADING = "uploading"
    """Being uploaded. If the process of its lease is dead, the upload may or may not have completed."""
    FAILED = "failed"
    """The upload failed; reading and writing the URI raises until the user pushes or drops it."""
    EDIT = "edit"
    """A local copy was changed outside the API; the URI is blocked in the same way."""
    INCOMPLETE = "incomplete"
    """Never closed, left by a tool, or kept aside: blocks nothing, and is uploaded by name only."""
    UNREADABLE = "unreadable"
    """In no record: the record is damaged or of a newer format. Blocks the URI; its bytes can be saved or dropped."""


class Condition(StrEnum):
    """What the server must have for the upload to proceed."""

    MATCH = "match"
    """The version that the write started from."""
    ABSENT = "absent"
    """No object."""
    UNKNOWN = "unknown"
    """No object, since the server could not be asked for the version that the write starts from."""
    ANY = "any"
    """Anything: the user forced it."""


UNKNOWN: Final = Digest(ALGORITHMS[0], bytes(16))
"""The digest of an unreadable write: only its record has the right one."""


class PendingChanges(TypedDict, total=False):
    """The fields of a `PendingWrite` that change with its state."""

    why: str
    lease: str
    outcome_unknown: bool


class PendingDetails(TypedDict, total=False):
    """The fields of a `PendingWrite` that have defaults."""

    exclusive: bool
    source: str | None
    outcome_unknown: bool
    push_options: str


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """Bytes of *size* with *digest* that are not uploaded, recorded *created_ns* after the epoch.

    *base* is the version that they started from, for `Condition.MATCH`. *lease* is the process that handles them, or
    last did. *why* is a sentence for users. *exclusive*: the object must be created. *source* is the local path of an
    edit or a tool's file. *outcome_unknown*: an upload of these bytes may have completed, though it was not confirmed.
    *push_options* are the shell options, without secrets, by which ``casstore push`` reaches the server, if known.
    """

    key: Key
    name: str
    state: PendingState
    digest: Digest
    size: int
    condition: Condition
    base: Validator | None
    lease: str
    created_ns: int
    why: str
    exclusive: bool = False
    source: str | None = None
    outcome_unknown: bool = False
    push_options: str = ""

    @property
    def uri(self) -> str:
        return self.key.uri

    @property
    def blocks(self) -> bool:
        """Whether the URI cannot be read or written until the user pushes or drops this."""
        return self.state in (PendingState.FAILED, PendingState.EDIT, PendingState.UNREADABLE)

    def encode(self) -> bytes:
        fields = {name: value for name, value in asdict(self).items() if name not in ("key", "name")}
        key = {"uri": self.key.uri, "origin": self.key.origin}
        record = {"format": _FORMAT, **key, **fields, "digest": str(self.digest)}
        return json.dumps(record, indent=1).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, name: str, data: bytes) -> PendingWrite:
        """Parse a record file. Raises: ValueError for an invalid record or a newer format."""
        try:
            record: dict[str, Any] = json.loads(data)
            if record["format"] != _FORMAT:
                raise ValueError(f"record format {record['format']}: only {_FORMAT} is supported")
            if record["state"] == PendingState.UNREADABLE:
                raise ValueError("no record has this state")
            base = record["base"]
            return cls(
                key=Key(str(record["uri"]), str(record["origin"])),
                name=name,
                state=PendingState(record["state"]),
                digest=Digest.parse(record["digest"]),
                size=int(record["size"]),
                condition=Condition(record["condition"]),
                base=None if base is None else Validator(**base),
                lease=str(record["lease"]),
                created_ns=int(record["created_ns"]),
                why=str(record["why"]),
                exclusive=bool(record["exclusive"]),
                source=record["source"],
                outcome_unknown=bool(record.get("outcome_unknown", False)),
                push_options=str(record.get("push_options") or ""),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"invalid record of a pending write: {error!r}") from error


@dataclass(frozen=True, slots=True)
class UnknownKey(Key):
    """The key of an unreadable write whose URI is unknown: only the name of its *directory*, the hash of the URI."""

    directory: str = ""

    @property
    def name(self) -> str:
        return self.directory


def key_in(data: bytes, directory: str) -> Key:
    """Return the key that an unreadable record names, if *directory* is its; else an `UnknownKey`."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        record = json.loads(data)
        key = Key(str(record["uri"]), str(record["origin"]))
        if key.name == directory:
            return key
    return UnknownKey("(unknown URI)", "", directory)
