"""Names on disk."""

from __future__ import annotations

from casstore.format.layout import Layout


def test_blobs_lie_in_shards_by_their_first_byte() -> None:
    layout = Layout("/root")
    assert layout.blob(bytes.fromhex("abcdef")) == "/root/blobs/ab/cdef"
    assert layout.blob(bytes.fromhex("abcdef")).startswith(layout.shard(bytes.fromhex("abcdef")) + "/")
