"""The record of a pending write: a small JSON file beside its bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from casstore.format.digest import Digest
from casstore.format.keys import Key
from casstore.format.records import Validator

_FORMAT: Final = 1


class PendingState(StrEnum):
    """What is to become of pending bytes."""

    UPLOADING = "uploading"
    """On their way; if the lease is dead, nobody knows whether they arrived."""
    FAILED = "failed"
    """The upload was refused or could not be made; reading and writing the URI raises until somebody decides."""
    EDIT = "edit"
    """Somebody changed a local copy outside the API; reading and writing the URI raises until somebody decides."""
    INCOMPLETE = "incomplete"
    """Never closed, left by a tool, or set aside: kept and listed, blocks nothing, uploaded by name only."""


class Condition(StrEnum):
    """What must be in the cloud for the upload to go ahead."""

    MATCH = "match"
    """The version that the write started from."""
    ABSENT = "absent"
    """Nothing."""
    ANY = "any"
    """Whatever there is: the user forced it."""


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """Bytes of *size* with *digest* that wait for the cloud, *created_ns* after the epoch.

    *base* is the version that they started from, under `Condition.MATCH`. *lease* is whoever deals with them or, last,
    did. *why* is a sentence for people. *exclusive* says that the object was to be created. *source* is the local
    path that the bytes came from, where they are an edit or a tool's file.
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

    @property
    def uri(self) -> str:
        """Where the bytes are to go."""
        return self.key.uri

    @property
    def blocks(self) -> bool:
        """Whether the URI can be neither read nor written until somebody decides."""
        return self.state in (PendingState.FAILED, PendingState.EDIT)

    def encode(self) -> bytes:
        """As its file has it."""
        record = {
            "format": _FORMAT,
            "state": self.state.value,
            "uri": self.key.uri,
            "origin": self.key.origin,
            "digest": str(self.digest),
            "size": self.size,
            "condition": self.condition.value,
            "base": None if self.base is None else asdict(self.base),
            "lease": self.lease,
            "created_ns": self.created_ns,
            "why": self.why,
            "exclusive": self.exclusive,
            "source": self.source,
        }
        return json.dumps(record, indent=1).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, name: str, data: bytes) -> PendingWrite:
        """The inverse of `encode`. Raises ValueError for what is no record, or one of a newer format."""
        try:
            record: dict[str, Any] = json.loads(data)
            if record["format"] != _FORMAT:
                raise ValueError(f"a record of format {record['format']}")
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
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a pending write: {error!r}") from error
