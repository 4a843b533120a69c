"""Values of the index and their binary form.

Keys of the one LMDB database; the first byte is the kind of the row:

    E <uri> NUL <origin>          -> entry record, in URI order, so listing a prefix is a scan
    B <hash>                      -> blob record: size, whether it is known to be on the disk
    U <hash> <16: hash of E key>  -> the E key: an entry that uses a blob
    C <16: hash of a checksum>    -> checksum record: the blob whose bytes have a provider's checksum
    N <2: stripe>                 -> number of local writes to URIs of this stripe
    P                             -> scores of the eviction orders (`casstore.index.eviction_history`)
    P <2: start of a hash>        -> a blob that was evicted, and in which order
    R                             -> room reserved while a new index is made (`casstore.index.environment`)

LMDB keys have at most 511 bytes. A longer E key is cut and ends in a hash; its record has the whole key.

Every record ends in a 64-bit checksum over its key and itself, because LMDB does not detect flipped bits. A record
with a wrong checksum decodes to None; callers treat it as a miss.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from casstore.errors import CasstoreError
from casstore.format.digest import ALGORITHM_OF, LENGTH_OF, Digest, name_hash, record_checksum
from casstore.format.keys import CHECKSUM, HASH_BYTES, MAX_KEY_BYTES, Key


def in_uri_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield *entries*, given in row order, in URI order: sort those whose rows are cut and hashed.

    Keeps in memory only entries that share their first 494 bytes.
    """
    shown = MAX_KEY_BYTES - HASH_BYTES
    for _, alike in itertools.groupby(entries, lambda entry: entry.key.row_key[:shown]):
        yield from sorted(alike, key=lambda entry: entry.key.encoded)


@dataclass(frozen=True, slots=True)
class Validator:
    """Identifies one version of an object's content. Compare with `same_version`.

    *etag* is opaque, without quotes and weak prefix (*weak* says that it had one). *version* is a generation or version
    id. *size* is in bytes, *mtime_ns* since the epoch, *granule_ns* the provider's resolution of it (one second over
    HTTP). *racy*: written within a granule of being read, so a later change might be invisible (as in git's index).
    """

    size: int
    etag: str | None = None
    weak: bool = False
    version: str | None = None
    mtime_ns: int | None = None
    granule_ns: int = 1_000_000_000
    racy: bool = False

    @property
    def identifies(self) -> bool:
        """Whether it can distinguish contents of the same size."""
        return not (self.etag is None and self.version is None and self.mtime_ns is None)

    def same_version(self, other: Validator) -> bool:
        """Return whether both identify the same content: by version, else by ETag, else by size and mtime.

        False if neither can be compared, or if the mtime decides and either is *racy*.
        """
        if self.size != other.size:
            return False
        if self.version is not None and other.version is not None:
            return self.version == other.version
        if self.etag is not None or other.etag is not None:
            return self.etag == other.etag
        if self.mtime_ns is None or other.mtime_ns is None or self.racy or other.racy:
            return False
        granule = max(self.granule_ns, other.granule_ns, 1)
        return self.mtime_ns // granule == other.mtime_ns // granule

    def may_be(self, other: Validator) -> bool:
        """Return whether nothing shows that they are two versions: `same_version`, or only *racy* forbids to say so.

        For servers that evaluate no condition: without an ETag, the last write of this very process is *racy*, too.
        """
        return self.same_version(other) or replace(self, racy=False).same_version(replace(other, racy=False))

    def proves_same_bytes(self, other: Validator) -> bool:
        """Return whether both certainly identify the same bytes: `same_version`, and neither is *racy* or *weak*.

        A weak ETag means equivalent content, which may be other bytes.
        """
        return self.same_version(other) and not (self.racy or other.racy or self.weak or other.weak)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a request was sent: *wall_ns* since the epoch outlives a boot, *boot_ns* since boot never jumps.

    *boot* is a 64-bit tag of that boot clock: moments with different tags cannot be compared by it.
    """

    wall_ns: int
    boot_ns: int
    boot: int

    def is_since(self, other: Moment) -> bool:
        """Return whether this is certainly not before *other*: same boot, and not earlier on the boot clock."""
        return self.boot == other.boot and self.boot_ns >= other.boot_ns

    def is_between(self, earliest: Moment, now: Moment) -> bool:
        """Return whether this is certainly not before *earliest*, nor after *now* by another clock."""
        return self.is_since(earliest) and now.is_since(self)


@dataclass(frozen=True, slots=True)
class Entry:
    """An index row: the blob with the object's bytes, and the object's version.

    *validated* is when the latest request that confirmed it was sent. *written_on* is 0 once the blob is known to be on
    the disk, else a tag of the boot and mount that wrote it. *last_used_hour* counts hours since the epoch.
    """

    key: Key
    digest: Digest
    validator: Validator
    validated: Moment
    written_on: int = 0
    last_used_hour: int = 0

    @property
    def uri(self) -> str:
        return self.key.uri

    @property
    def size(self) -> int:
        return self.validator.size

    def same_content(self, other: Entry) -> bool:
        """Return whether both name the same blob for the same version, at whatever time."""
        return self.digest == other.digest and self.validator == other.validator


class PeekedEntry(NamedTuple):
    """The fields of an entry that a warm open needs; cheaper than an `Entry`."""

    digest: bytes
    size: int
    validated_ns: int
    written_on: int
    last_used_hour: int


# version, flags, number, size, validated_ns, written_on, last_used_hour, mtime_ns, granule_ns, boot_ns, boot, lengths
_HEAD: Final = struct.Struct("<BBBQqQIqQqQHHH")
_USE: Final = struct.Struct("<BxB8xq8xI")  # of the same: version, algorithm, validated_ns, last_used_hour
_SUM: Final = struct.Struct("<Q")
_VERSION: Final = 1
_WEAK, _RACY, _ETAG, _GENERATION, _MTIME = 1, 2, 4, 8, 16


def append_checksum(row: bytes, value: bytes) -> bytes:
    """Return *value*, which starts with its version, as the record of *row*."""
    return value + _SUM.pack(record_checksum(row + value))


def strip_checksum(row: bytes, record: bytes | None) -> bytes | None:
    """Return the record's value, or None if it is missing or damaged."""
    if record is None:
        return None
    value = record[:-8]
    if len(record) < 8 or record[-8:] != _SUM.pack(record_checksum(row + value)) or value[:1] != b"\1":
        return None
    return value


def pack_entry(entry: Entry) -> bytes:
    """Return the record of *entry*. Raises CasstoreError if it cannot have a field, such as an ETag of over 64 KiB."""
    v = entry.validator
    flags = (
        (_WEAK if v.weak else 0)
        | (_RACY if v.racy else 0)
        | (_ETAG if v.etag is not None else 0)
        | (_GENERATION if v.version is not None else 0)
        | (_MTIME if v.mtime_ns is not None else 0)
    )
    etag = (v.etag or "").encode("utf-8", "surrogatepass")
    version = (v.version or "").encode("utf-8", "surrogatepass")
    encoded_key = entry.key.encoded if len(entry.key.row_key) >= MAX_KEY_BYTES else b""
    try:
        head = _HEAD.pack(
            *(_VERSION, flags, entry.digest.number, v.size, entry.validated.wall_ns, entry.written_on),
            *(entry.last_used_hour, v.mtime_ns or 0, v.granule_ns, entry.validated.boot_ns, entry.validated.boot),
            *(len(etag), len(version), len(encoded_key)),
        )
    except struct.error as error:
        uri = entry.key.uri
        raise CasstoreError(f"{uri}: its version cannot be recorded ({error}): read it without the store") from error
    return append_checksum(entry.key.row_key, b"".join((head, entry.digest.value, etag, version, encoded_key)))


def peek_entry(key: Key, record: bytes) -> PeekedEntry | None:
    """Return the fields that a warm open needs; None if the record is damaged or another URI's."""
    value = record[:-8]
    if record_checksum(key.row_key + value) != int.from_bytes(record[-8:], "little") or value[0] != _VERSION:
        return None
    fields = _HEAD.unpack_from(value)
    start = _HEAD.size
    end = start + LENGTH_OF[fields[2]]
    if fields[13] and value[end + fields[11] + fields[12] :] != key.encoded:
        return None
    return PeekedEntry(value[start:end], fields[3], fields[4], fields[5], fields[6])


def scan_usage(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes, int, int, int]]:
    """Yield row, digest, `Entry.validated` in ns, `Entry.last_used_hour` and `row_checksum` of each undamaged entry.

    Bare tuples: making objects would take longer than all the rest.
    """
    head, sum_of, use_of = _HEAD.size, _SUM.unpack_from, _USE.unpack_from
    for row, record in rows:
        value = record[:-8]
        if len(value) < head:
            continue
        (checksum,) = sum_of(record, len(value))
        version, algorithm, validated_ns, used_hour = use_of(value)
        if checksum == record_checksum(row + value) and version == _VERSION:
            yield row, value[head : head + LENGTH_OF[algorithm]], validated_ns, used_hour, checksum


def row_checksum(record: bytes) -> int:
    """Return a record's checksum: different records of one row have different ones."""
    return int.from_bytes(record[-8:], "little")


def unpack_entry(row: bytes, record: bytes | None, key: Key | None = None) -> Entry | None:
    """Return the entry of a record; None if it is missing, damaged, or not *key*'s."""
    value = strip_checksum(row, record)
    if value is None:
        return None
    fields = _HEAD.unpack_from(value)
    _, flags, number, size, wall, place, used, mtime, granule, boot_ns, boot, etag_len, version_len, whole_len = fields
    start = _HEAD.size
    end = start + LENGTH_OF[number]
    digest = Digest(ALGORITHM_OF[number], value[start:end])
    etag = value[end : end + etag_len].decode("utf-8", "surrogatepass")
    version = value[end + etag_len : end + etag_len + version_len].decode("utf-8", "surrogatepass")
    encoded_key = value[end + etag_len + version_len :] if whole_len else row[1:]
    if key is not None and encoded_key != key.encoded:
        return None
    validator = Validator(
        size,
        etag if flags & _ETAG else None,
        bool(flags & _WEAK),
        version if flags & _GENERATION else None,
        mtime if flags & _MTIME else None,
        granule,
        bool(flags & _RACY),
    )
    return Entry(key or Key.parse(encoded_key), digest, validator, Moment(wall, boot_ns, boot), place, used)


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """The index's knowledge of a blob: *size* in bytes, and *written_on* as in `Entry`."""

    size: int
    written_on: int


_BLOB: Final = struct.Struct("<BQQ")
_BLOB_SIZE: Final = struct.Struct("<BQ8xQ")  # the same without *written_on*, with the checksum


def pack_blob(row: bytes, record: BlobRecord) -> bytes:
    return append_checksum(row, _BLOB.pack(_VERSION, record.size, record.written_on))


def unpack_blob(row: bytes, record: bytes | None) -> BlobRecord | None:
    value = strip_checksum(row, record)
    return None if value is None else BlobRecord(*_BLOB.unpack(value)[1:])


def peek_blob(row: bytes, record: bytes) -> int | None:
    """Return the size alone, for scans of all rows; None if the record is damaged."""
    if len(record) != _BLOB_SIZE.size:
        return None
    version, size, checksum = _BLOB_SIZE.unpack(record)
    return size if checksum == record_checksum(row + record[:-8]) and version == _VERSION else None


_COUNT: Final = struct.Struct("<BQ")


def pack_count(row: bytes, count: int) -> bytes:
    return append_checksum(row, _COUNT.pack(_VERSION, count))


def unpack_count(row: bytes, record: bytes | None) -> int:
    """Return the count; 0 if the record is missing or damaged."""
    value = strip_checksum(row, record)
    return 0 if value is None else int(_COUNT.unpack(value)[1])


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


_CHECKSUM: Final = struct.Struct("<BBB")


class ChecksumRecord(NamedTuple):
    """The blob with a checksum's bytes; *verified* once hashing that blob gave the same checksum."""

    digest: Digest
    verified: bool


def pack_checksum(row: bytes, record: ChecksumRecord) -> bytes:
    return append_checksum(row, _CHECKSUM.pack(_VERSION, record.verified, record.digest.number) + record.digest.value)


def unpack_checksum(row: bytes, record: bytes | None) -> ChecksumRecord | None:
    value = strip_checksum(row, record)
    if value is None:
        return None
    _, proved, number = _CHECKSUM.unpack_from(value)
    return ChecksumRecord(Digest(ALGORITHM_OF[number], value[_CHECKSUM.size :]), bool(proved))
