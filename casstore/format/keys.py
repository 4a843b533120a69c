"""Keys of the index: one byte says the kind of a row, the rest names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from casstore.format.digest import name_hash, name_hash_hex

ENTRY: Final = b"E"


BLOB: Final = b"B"


USER: Final = b"U"


CHECKSUM: Final = b"C"


COUNT: Final = b"N"


POLICY: Final = b"P"


STRIPES: Final = 4096
"""How many counts of local writes there are; two URIs that share one only repeat a download now and then."""


MAX_KEY_BYTES: Final = 511


HASH_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Key:
    """What an entry is found by: the URI, and the origin (provider plus endpoint or account) that it is read from.

    ``s3://b/k`` on two endpoints are two keys. The URI is compared as it stands, byte for byte.
    """

    uri: str
    origin: str
    encoded: bytes = field(init=False, repr=False, compare=False)
    row_key: bytes = field(init=False, repr=False, compare=False)
    """The key of its row in the index."""

    def __post_init__(self) -> None:
        if "\0" in self.origin:
            raise ValueError(f"an origin has no NUL: {self.origin!r}")  # it ends the URI, which may have some
        # surrogatepass gives different strings different bytes; surrogateescape turns some surrogates into letters.
        whole = self.uri.encode("utf-8", "surrogatepass") + b"\0" + self.origin.encode("utf-8", "surrogatepass")
        row = ENTRY + whole
        if len(row) >= MAX_KEY_BYTES:
            row = row[: MAX_KEY_BYTES - HASH_BYTES] + name_hash(whole)
        object.__setattr__(self, "encoded", whole)
        object.__setattr__(self, "row_key", row)

    @classmethod
    def parse(cls, encoded: bytes) -> Key:
        """The inverse of `whole`."""
        uri, _, origin = encoded.decode("utf-8", "surrogatepass").rpartition("\0")
        return cls(uri, origin)

    @property
    def name(self) -> str:
        """32 hex digits that stand for it in file names and locks."""
        return name_hash_hex(self.encoded)


def row_name(row: bytes) -> bytes:
    """The bytes of `Key.name`, of the key whose row this is."""
    return row[-HASH_BYTES:] if len(row) == MAX_KEY_BYTES else name_hash(row[1:])


def entry_prefix(uri_prefix: str) -> bytes:
    """What the rows of all URIs that start with *uri_prefix* start with, up to the length of a row's key."""
    return (ENTRY + uri_prefix.encode("utf-8", "surrogatepass"))[: MAX_KEY_BYTES - HASH_BYTES]


def blob_row(digest: bytes) -> bytes:
    """The key of a blob's row."""
    return BLOB + digest


def ghost_row(digest: bytes) -> bytes:
    """The key of the row that may say that a blob was evicted; others have the same, and the latest has it."""
    return POLICY + digest[:2]


def user_row(digest: bytes, key: Key) -> bytes:
    """The key of the row that says: this URI uses that blob."""
    return USER + digest + name_hash(key.encoded)


def user_name(row: bytes) -> bytes:
    """The bytes of the `Key.name` of the URI whose `user_row` this is."""
    return row[-HASH_BYTES:]


def user_prefix(digest: bytes) -> bytes:
    """What the user rows of one blob start with."""
    return USER + digest


def count_row(key: Key) -> bytes:
    """The key of the write count that this URI shares with others."""
    stripe = int.from_bytes(name_hash(key.encoded)[:2], "big") % STRIPES
    return COUNT + stripe.to_bytes(2, "big")
