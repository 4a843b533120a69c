"""Checksums that providers report: rows that map each to the blob with those bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from casstore.format.digest import Digest, algorithm_of, name_hash
from casstore.format.keys import CHECKSUM
from casstore.format.records import append_checksum, strip_checksum


@dataclass(frozen=True, slots=True)
class ProviderChecksum:
    """A provider's checksum of an object's bytes: *kind* and *value* as the backend gives them, *size* in bytes.

    *scope* is an origin; it is empty if equal checksums of all origins mean equal bytes.
    """

    scope: str
    kind: str
    value: str
    size: int

    @property
    def row_key(self) -> bytes:
        text = f"{self.scope}\0{self.kind}\0{self.value}\0{self.size}"
        return CHECKSUM + name_hash(text.encode("utf-8", "surrogatepass"))


_HEAD: Final = struct.Struct("<BBB")
_VERSION: Final = 1


class ChecksumRecord(NamedTuple):
    """The blob with a checksum's bytes; *verified* once hashing that blob gave the same checksum."""

    digest: Digest
    verified: bool


def pack_checksum(row: bytes, record: ChecksumRecord) -> bytes:
    return append_checksum(row, _HEAD.pack(_VERSION, record.verified, record.digest.number) + record.digest.value)


def unpack_checksum(row: bytes, record: bytes | None) -> ChecksumRecord | None:
    value = strip_checksum(row, record)
    if value is None:
        return None
    _, proved, number = _HEAD.unpack_from(value)
    return ChecksumRecord(Digest(algorithm_of(number), value[_HEAD.size :]), bool(proved))
