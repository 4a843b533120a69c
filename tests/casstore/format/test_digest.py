"""Digests: their text, their numbers, their mtime."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.errors import CasstoreError
from casstore.format.digest import ALGORITHM_OF, ALGORITHMS, LENGTH_OF, Digest, digest_mtime, new_hasher


@given(st.sampled_from(ALGORITHMS), st.data())
def test_text_and_back_gives_the_same_digest(algorithm: str, data: st.DataObject) -> None:
    hasher = new_hasher(algorithm)
    hasher.update(data.draw(st.binary()))
    digest = Digest(algorithm, hasher.digest())
    assert Digest.parse(str(digest)) == digest
    assert ALGORITHM_OF[digest.number] == algorithm
    assert LENGTH_OF[digest.number] == len(digest.value)


def test_hashes_are_those_of_the_standards() -> None:
    known = {
        "xxh3-128": "99aa06d3014798d86001c324468d497f",
        "sha256": hashlib.sha256().hexdigest(),
        "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "md5": "d41d8cd98f00b204e9800998ecf8427e",
        "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    }
    assert {name: new_hasher(name).digest().hex() for name in known} == known


@given(st.binary(min_size=16, max_size=16))
def test_the_mtime_is_in_the_past_and_follows_from_the_digest(value: bytes) -> None:
    assert 10**9 <= digest_mtime(value) < 10**9 + 2**29
    assert Digest("xxh3-128", value).mtime == digest_mtime(value)
    assert digest_mtime(value[:-1] + bytes([value[-1] ^ 1])) != digest_mtime(value)


def test_wrong_digests_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Digest("xxh3-128", b"short")
    for name in ("md5", "crc32"):
        with pytest.raises(ValueError, match="unknown"):
            Digest(name, b"x" * 16)
    with pytest.raises(ValueError, match="unknown"):
        new_hasher("crc32")


def test_a_missing_blake3_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(CasstoreError, match=r"casstore\[blake3\]"):
        new_hasher("blake3")
