"""The values of the index: which object, which version of it, which bytes; and their binary form.

Keys of the one LMDB database; the first byte says what the row is:

    E <uri> NUL <origin>          -> entry record, in URI order, so that listing a prefix is a scan
    B <hash>                      -> blob record: size, whether it is known to be on the disk
    U <hash> <16: hash of E key>  -> the E key: who uses a blob
    C <16: hash of a checksum>    -> checksum record: the blob of bytes for which a provider stated that checksum
    N <2: stripe>                 -> how often a URI of this stripe was written locally
    P                             -> how the ways of choosing what goes did lately (`casstore.policies`)
    P <2: start of a hash>        -> a blob that was evicted, and by which way
    R                             -> room that a new index begins with, while it is made (`casstore.index`)

LMDB takes keys of at most 511 bytes. A longer E key is cut and ends in a hash; its record holds the whole key.

Every record ends in a 64-bit checksum over its key and itself, since LMDB does not notice a flipped bit. A record whose
checksum is wrong decodes to None, which callers treat as a miss.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from casstore.format.digest import Digest, algorithm_length, algorithm_of, record_checksum
from casstore.format.keys import HASH_BYTES, MAX_KEY_BYTES, Key


def in_uri_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """*entries* as they come in the order of their rows, those whose rows are cut and hashed put in order as well.

    Holds in memory only what begins with the same 494 bytes.
    """
    alike: list[Entry] = []
    for entry in entries:
        if (
            alike
            and alike[0].key.row_key[: MAX_KEY_BYTES - HASH_BYTES] != entry.key.row_key[: MAX_KEY_BYTES - HASH_BYTES]
        ):
            yield from sorted(alike, key=_encoded_key)
            alike = []
        if len(entry.key.row_key) < MAX_KEY_BYTES - HASH_BYTES:
            yield entry
        else:
            alike.append(entry)
    yield from sorted(alike, key=_encoded_key)


def _encoded_key(entry: Entry) -> bytes:
    return entry.key.encoded


@dataclass(frozen=True, slots=True)
class Validator:
    """What identifies an object's content at one moment. Compare with `same_version`, never by ``<``.

    *etag* is opaque: without quotes and without a weak prefix (*weak* says that there was one). *version* is a
    generation or version id. *size* in bytes. *mtime_ns* since the epoch; *granule_ns* is how fine the provider tells
    it (one second over HTTP). *racy* says that the object could change again without a trace in any of these, since
    it was written within a granule of being read (git's rule for its index).
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
        """Whether there is anything to tell another content of the same size by."""
        return not (self.etag is None and self.version is None and self.mtime_ns is None)

    def same_version(self, other: Validator) -> bool:
        """Whether both identify the same content: by version, else by ETag, else by size and mtime.

        Never true where neither has anything to compare, nor where the mtime decides and either is *racy*.
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


@dataclass(frozen=True, slots=True)
class Moment:
    """When something was asked: wall clock for what outlives a boot, boot clock for what must not jump.

    *wall_ns* since the epoch; *boot_ns* since the boot that *boot* (a 64-bit tag of the boot id) names.
    """

    wall_ns: int
    boot_ns: int
    boot: int

    def is_since(self, other: Moment) -> bool:
        """Whether this surely came at or after *other*: same boot, and not before it on the boot clock."""
        return self.boot == other.boot and self.boot_ns >= other.boot_ns


@dataclass(frozen=True, slots=True)
class Entry:
    """An index row: the blob that holds the object's bytes, and the version of the object that they are.

    *validated* is when the request was sent that last said so. *place* is 0 once the blob's bytes are known to be on
    the disk, else a tag of the boot and mount on which they were written. *used_hour* counts hours since the epoch.
    """

    key: Key
    digest: Digest
    validator: Validator
    validated: Moment
    written_on: int = 0
    last_used_hour: int = 0

    @property
    def uri(self) -> str:
        """The object's URI."""
        return self.key.uri

    @property
    def size(self) -> int:
        """Bytes."""
        return self.validator.size

    def same_content(self, other: Entry) -> bool:
        """Whether both name the same blob for the same version; when that was asked does not matter."""
        return self.digest == other.digest and self.validator == other.validator


class PeekedEntry(NamedTuple):
    """What a warm open needs of an entry, without the cost of making one."""

    digest: bytes
    size: int
    validated_ns: int
    written_on: int
    last_used_hour: int


# version, flags, algorithm, size, validated_ns, place, used_hour, mtime_ns, granule_ns, boot_ns, boot, three lengths
_HEAD: Final = struct.Struct("<BBBQqQIqQqQHHH")
_USE: Final = struct.Struct("<BxB8xq8xI")
"""The same: version, algorithm, validated_ns, used_hour."""
_SUM: Final = struct.Struct("<Q")
_VERSION: Final = 1
_WEAK, _RACY, _ETAG, _GENERATION, _MTIME = 1, 2, 4, 8, 16


def append_checksum(row: bytes, value: bytes) -> bytes:
    """*value*, which begins with its version, as the record of *row*."""
    return value + _SUM.pack(record_checksum(row + value))


def strip_checksum(row: bytes, record: bytes) -> bytes | None:
    """The inverse; None where it is damaged."""
    value = record[:-8]
    if len(record) < 8 or record[-8:] != _SUM.pack(record_checksum(row + value)) or value[:1] != b"\1":
        return None
    return value


def pack_entry(entry: Entry) -> bytes:
    """The record of *entry*, for the row `Key.row_key`."""
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
    whole = entry.key.encoded if len(entry.key.row_key) >= MAX_KEY_BYTES else b""
    head = _HEAD.pack(
        _VERSION,
        flags,
        entry.digest.number,
        v.size,
        entry.validated.wall_ns,
        entry.written_on,
        entry.last_used_hour,
        v.mtime_ns or 0,
        v.granule_ns,
        entry.validated.boot_ns,
        entry.validated.boot,
        len(etag),
        len(version),
        len(whole),
    )
    return append_checksum(entry.key.row_key, b"".join((head, entry.digest.value, etag, version, whole)))


def peek_entry(key: Key, record: bytes) -> PeekedEntry | None:
    """The few fields of a record that a warm open needs; None where it is damaged or another URI's."""
    value = record[:-8]
    if record_checksum(key.row_key + value) != int.from_bytes(record[-8:], "little") or value[0] != _VERSION:
        return None
    fields = _HEAD.unpack_from(value)
    start = _HEAD.size
    end = start + algorithm_length(fields[2])
    if fields[13] and value[end + fields[11] + fields[12] :] != key.encoded:
        return None
    return PeekedEntry(value[start:end], fields[3], fields[4], fields[5], fields[6])


def scan_usage(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes, int, int, int]]:
    """Of the rows of all entries: row, digest, `Entry.validated` in ns, `Entry.last_used_hour`, `row_checksum`; those
    whose record is damaged are left out.

    Bare tuples, since making anything else takes longer than all the rest of this.
    """
    head, sum_of, use_of = _HEAD.size, _SUM.unpack_from, _USE.unpack_from  # looked up once, not a million times
    for row, record in rows:
        value = record[:-8]
        if len(value) < head:
            continue
        (checksum,) = sum_of(record, len(value))
        version, algorithm, validated_ns, used_hour = use_of(value)
        if checksum == record_checksum(row + value) and version == _VERSION:
            yield row, value[head : head + algorithm_length(algorithm)], validated_ns, used_hour, checksum


def row_checksum(record: bytes) -> int:
    """The checksum that a record ends in: two of one row differ in it if they differ at all."""
    return int.from_bytes(record[-8:], "little")


def unpack_entry(row: bytes, record: bytes, key: Key | None = None) -> Entry | None:
    """The entry of a record; None where it is damaged, or not *key*'s where that is given."""
    value = strip_checksum(row, record)
    if value is None:
        return None
    fields = _HEAD.unpack_from(value)
    _, flags, number, size, wall, place, used, mtime, granule, boot_ns, boot, etag_len, version_len, whole_len = fields
    start = _HEAD.size
    end = start + algorithm_length(number)
    digest = Digest(algorithm_of(number), value[start:end])
    etag = value[end : end + etag_len].decode("utf-8", "surrogatepass")
    version = value[end + etag_len : end + etag_len + version_len].decode("utf-8", "surrogatepass")
    whole = value[end + etag_len + version_len :] if whole_len else row[1:]
    if key is not None and whole != key.encoded:
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
    return Entry(key or Key.parse(whole), digest, validator, Moment(wall, boot_ns, boot), place, used)


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """What the index knows of a blob: *size* in bytes, and `Entry.written_on`'s tag."""

    size: int
    written_on: int


_BLOB: Final = struct.Struct("<BQQ")
_BLOB_SIZE: Final = struct.Struct("<BQ8xQ")
"""The same without the place, and with the checksum."""


def pack_blob(row: bytes, record: BlobRecord) -> bytes:
    """The record for `blob_row`."""
    return append_checksum(row, _BLOB.pack(_VERSION, record.size, record.written_on))


def unpack_blob(row: bytes, record: bytes) -> BlobRecord | None:
    """The inverse; None where it is damaged."""
    value = strip_checksum(row, record)
    return None if value is None else BlobRecord(*_BLOB.unpack(value)[1:])


def peek_blob(row: bytes, record: bytes) -> int | None:
    """The size alone, for whoever goes through all rows; None where the record is damaged."""
    if len(record) != _BLOB_SIZE.size:
        return None
    version, size, checksum = _BLOB_SIZE.unpack(record)
    return size if checksum == record_checksum(row + record[:-8]) and version == _VERSION else None


_COUNT: Final = struct.Struct("<BQ")


def pack_count(row: bytes, count: int) -> bytes:
    """The record for `count_row`."""
    return append_checksum(row, _COUNT.pack(_VERSION, count))


def unpack_count(row: bytes, record: bytes | None) -> int:
    """The inverse; 0 where there is none or it is damaged."""
    value = None if record is None else strip_checksum(row, record)
    return 0 if value is None else int(_COUNT.unpack(value)[1])
