"""Keys of the index's rows: the first byte is the kind, the rest is the name."""

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
"""Number of counters of local writes. Two URIs that share one may sometimes cause a repeated download."""
MAX_KEY_BYTES: Final = 511
HASH_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Key:
    """Identifies an entry: its URI and its origin (provider plus endpoint or account).

    ``s3://b/k`` on two endpoints are two keys. URIs are compared byte by byte.
    """

    uri: str
    origin: str
    encoded: bytes = field(init=False, repr=False, compare=False)
    row_key: bytes = field(init=False, repr=False, compare=False)
    """The key of its row in the index."""

    def __post_init__(self) -> None:
        if "\0" in self.origin:
            # NUL ends the URI, which may contain NULs itself
            raise ValueError(f"origin {self.origin!r}: it contains a NUL")
        # surrogatepass keeps different strings different; surrogateescape turns some surrogates into letters.
        encoded = self.uri.encode("utf-8", "surrogatepass") + b"\0" + self.origin.encode("utf-8", "surrogatepass")
        row_key = ENTRY + encoded
        if len(row_key) >= MAX_KEY_BYTES:
            row_key = row_key[: MAX_KEY_BYTES - HASH_BYTES] + name_hash(encoded)
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "row_key", row_key)

    @classmethod
    def parse(cls, encoded: bytes) -> Key:
        uri, _, origin = encoded.decode("utf-8", "surrogatepass").rpartition("\0")
        return cls(uri, origin)

    @property
    def name(self) -> str:
        """32 hex digits that name it in file names and locks."""
        return name_hash_hex(self.encoded)


def row_name(row: bytes) -> bytes:
    """Return the bytes of `Key.name` for the key with this row."""
    return row[-HASH_BYTES:] if len(row) == MAX_KEY_BYTES else name_hash(row[1:])


def entry_prefix(uri_prefix: str) -> bytes:
    """Return the common prefix of the rows of all URIs with *uri_prefix*, up to the length of a row's key."""
    return (ENTRY + uri_prefix.encode("utf-8", "surrogatepass"))[: MAX_KEY_BYTES - HASH_BYTES]


def is_at_or_below(uri: str, prefix: str) -> bool:
    """Return whether *prefix* names *uri*, or a directory above it: ``s3://b/1`` is not above ``s3://b/10``."""
    if not prefix or prefix.endswith("/"):
        return uri.startswith(prefix)
    return uri == prefix or uri.startswith(f"{prefix}/")


def blob_row(digest: bytes) -> bytes:
    return BLOB + digest


def ghost_row(digest: bytes) -> bytes:
    """Return the key of the row that says that a blob was evicted. Digests share rows; the latest eviction wins."""
    return POLICY + digest[:2]


def user_row(digest: bytes, key: Key) -> bytes:
    """Return the key of the row that says that this URI uses that blob."""
    return USER + digest + name_hash(key.encoded)


def user_prefix(digest: bytes) -> bytes:
    return USER + digest


def count_row(key: Key) -> bytes:
    """Return the key of the local write counter that this URI shares with others."""
    stripe = int.from_bytes(name_hash(key.encoded)[:2], "big") % STRIPES
    return COUNT + stripe.to_bytes(2, "big")
