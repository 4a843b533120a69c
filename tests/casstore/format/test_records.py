"""The binary form of index rows: nothing is lost, nothing damaged is believed, no two keys are one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.errors import CasstoreError
from casstore.format.digest import Digest
from casstore.format.keys import Key, blob_row, count_row, entry_prefix, user_prefix, user_row
from casstore.format.records import (
    BlobRecord,
    ChecksumRecord,
    Entry,
    Moment,
    ProviderChecksum,
    Validator,
    pack_blob,
    pack_checksum,
    pack_count,
    pack_entry,
    peek_entry,
    unpack_blob,
    unpack_checksum,
    unpack_count,
    unpack_entry,
)

LONGEST_ROW = 511

texts = st.text(st.characters(codec=None))  # surrogates and NUL included
origins = texts.filter(lambda text: "\0" not in text)
uint64 = st.integers(0, 2**64 - 1)
digests = st.one_of(
    st.binary(min_size=16, max_size=16).map(lambda value: Digest("xxh3-128", value)),
    st.binary(min_size=32, max_size=32).map(lambda value: Digest("sha256", value)),
)
keys = st.builds(Key, texts, origins)
validators = st.builds(
    Validator,
    size=uint64,
    etag=st.none() | texts,
    weak=st.booleans(),
    version=st.none() | texts,
    mtime_ns=st.none() | st.integers(-(2**63), 2**63 - 1),
    granule_ns=uint64,
    racy=st.booleans(),
)
entries = st.builds(
    Entry,
    keys,
    digests,
    validators,
    st.builds(Moment, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), uint64),
    written_on=uint64,
    last_used_hour=st.integers(0, 2**32 - 1),
)


@given(entries)
def test_an_entry_survives_its_record(entry: Entry) -> None:
    record = pack_entry(entry)
    assert unpack_entry(entry.key.row_key, record) == entry
    assert unpack_entry(entry.key.row_key, record, entry.key) == entry
    held = peek_entry(entry.key, record)
    assert held == (entry.digest.value, entry.size, entry.validated.wall_ns, entry.written_on, entry.last_used_hour)


@given(keys)
def test_a_key_survives_its_bytes(key: Key) -> None:
    assert Key.parse(key.encoded) == key


def _entry(uri: str = "s3://bucket/key") -> Entry:
    validator = Validator(1234, "etag", version="v7", mtime_ns=10**18)
    return Entry(Key(uri, "s3"), Digest("xxh3-128", bytes(range(16))), validator, Moment(10**18, 5, 6), 7, 8)


@pytest.mark.parametrize("uri", ["s3://bucket/key", "s3://bucket/" + "k" * 600])
def test_every_flipped_bit_of_an_entry_makes_it_a_miss(uri: str) -> None:
    entry = _entry(uri)
    record = pack_entry(entry)
    for bit in range(len(record) * 8):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        assert unpack_entry(entry.key.row_key, bytes(damaged)) is None
        assert peek_entry(entry.key, bytes(damaged)) is None


@pytest.mark.parametrize("uri", ["s3://bucket/key", "s3://bucket/" + "k" * 600])
def test_every_truncated_entry_is_a_miss(uri: str) -> None:
    entry = _entry(uri)
    record = pack_entry(entry)
    for length in range(len(record)):
        assert unpack_entry(entry.key.row_key, record[:length]) is None
        assert peek_entry(entry.key, record[:length]) is None
    assert unpack_entry(entry.key.row_key, record + b"\0") is None


def test_a_record_under_another_key_is_a_miss() -> None:
    entry, other = _entry(), Key("s3://bucket/kez", "s3")
    assert unpack_entry(other.row_key, pack_entry(entry)) is None
    assert peek_entry(other, pack_entry(entry)) is None


def test_every_flipped_bit_of_the_other_records_makes_them_a_miss() -> None:
    digest = Digest("xxh3-128", bytes(range(16)))
    blob, stated, count = (
        blob_row(digest.value),
        ProviderChecksum("s3", "md5", "ff", 3).row_key,
        count_row(Key("s3://b/k", "s3")),
    )
    packed = {
        blob: pack_blob(blob, BlobRecord(5, 6)),
        stated: pack_checksum(stated, ChecksumRecord(digest, verified=True)),
        count: pack_count(count, 9),
    }
    assert unpack_blob(blob, packed[blob]) == BlobRecord(5, 6)
    assert unpack_checksum(stated, packed[stated]) == ChecksumRecord(digest, verified=True)
    assert unpack_count(count, packed[count]) == 9
    for row, record in packed.items():
        for bit in range(len(record) * 8):
            flipped = bytearray(record)
            flipped[bit // 8] ^= 1 << bit % 8
            damaged = bytes(flipped)
            assert {blob: unpack_blob, stated: unpack_checksum, count: unpack_count}[row](row, damaged) in (None, 0)


@pytest.mark.parametrize("length", [*range(490, 521), 1024, 4000])
def test_long_keys_fit_lmdb_and_are_compared_whole(length: int) -> None:
    key, twin = Key("u" * length, "s3"), Key("u" * (length - 1) + "v", "s3")
    assert len(key.row_key) <= LONGEST_ROW
    assert key.row_key != twin.row_key
    entry = replace(_entry(), key=key)
    assert unpack_entry(key.row_key, pack_entry(entry), key) == entry
    if len(key.row_key) == LONGEST_ROW:
        # As if the hashes of both were the same: the record says whose it is.
        forged = replace(twin)
        object.__setattr__(forged, "row_key", key.row_key)
        assert unpack_entry(key.row_key, pack_entry(entry), forged) is None
        assert peek_entry(forged, pack_entry(entry)) is None


@given(keys, keys)
def test_different_keys_have_different_rows(one: Key, other: Key) -> None:
    assert (one.row_key == other.row_key) == (one == other)
    assert (one.encoded == other.encoded) == (one == other)


@given(
    st.lists(st.sampled_from("ab\0\udcc3\udca9é/"), max_size=4),
    st.lists(st.sampled_from("ab\udcc3\udca9é"), max_size=3),
)
def test_near_keys_have_different_rows(uri: list[str], origin: list[str]) -> None:
    key = Key("".join(uri), "".join(origin))
    assert Key.parse(key.encoded) == key


def test_the_undecodable_and_the_decoded_form_of_a_letter_are_two_keys() -> None:
    assert Key("\udcc3\udca9", "s3").row_key != Key("é", "s3").row_key


def test_a_uri_with_nul_is_no_other_uri_of_another_origin() -> None:
    assert Key("a\0b", "c").row_key != Key("a", "b").row_key
    with pytest.raises(ValueError, match="NUL"):
        Key("a", "b\0c")


def test_one_uri_at_two_origins_has_two_rows() -> None:
    uris = {Key(uri, origin).row_key for uri in ("s3://b/k", "gs://b/k") for origin in ("s3", "s3+http://localhost")}
    assert len(uris) == 4


@given(st.text(), st.text(), origins)
def test_rows_of_a_prefix_begin_with_it(prefix: str, rest: str, origin: str) -> None:
    assert Key(prefix + rest, origin).row_key.startswith(entry_prefix(prefix))


def test_rows_of_users_are_found_by_their_blob() -> None:
    key = Key("u" * 4000, "s3")
    assert user_row(bytes(32), key).startswith(user_prefix(bytes(32)))
    assert len(user_row(bytes(32), key)) < LONGEST_ROW


def test_versions_are_compared_by_version_then_etag_then_size_and_mtime() -> None:
    assert Validator(1, "a").same_version(Validator(1, "a", mtime_ns=5))
    assert not Validator(1, "a").same_version(Validator(2, "a"))
    assert not Validator(1, "a").same_version(Validator(1, None, mtime_ns=5))
    assert not Validator(1, "a", mtime_ns=5).same_version(Validator(1, None, mtime_ns=5))
    assert Validator(1, "a", version="1").same_version(Validator(1, "b", version="1"))
    assert not Validator(1, "a", version="1").same_version(Validator(1, "a", version="2"))
    assert not Validator(1).same_version(Validator(1))
    second = 10**9
    assert Validator(1, mtime_ns=second).same_version(Validator(1, mtime_ns=second + 5))
    assert not Validator(1, mtime_ns=second).same_version(Validator(1, mtime_ns=2 * second))
    assert not Validator(1, mtime_ns=second, racy=True).same_version(Validator(1, mtime_ns=second))


def test_a_version_that_is_racy_or_weak_proves_no_equal_bytes() -> None:
    sure = Validator(1, "a")
    assert sure.proves_same_bytes(Validator(1, "a"))
    assert not sure.proves_same_bytes(Validator(1, "b"))
    for unsure in (Validator(1, "a", racy=True), Validator(1, "a", weak=True)):
        assert sure.same_version(unsure)
        assert not sure.proves_same_bytes(unsure) and not unsure.proves_same_bytes(sure)


def test_moments_of_two_boots_are_never_in_order() -> None:
    assert Moment(1, 5, 7).is_since(Moment(9, 5, 7))
    assert not Moment(1, 4, 7).is_since(Moment(1, 5, 7))
    assert not Moment(9, 9, 8).is_since(Moment(1, 1, 7))


@pytest.mark.parametrize("part", [{"etag": "e" * 65_536}, {"version": "v" * 65_536}, {"mtime_ns": 2**63}])
def test_a_version_that_no_record_can_have_is_an_error_of_the_store(part: dict[str, Any]) -> None:
    moment = Moment(1, 1, 1)
    entry = Entry(Key("s3://b/k", "s3"), Digest("xxh3-128", bytes(16)), Validator(0, **part), moment, 1, 1)
    with pytest.raises(CasstoreError, match="s3://b/k: its version cannot be recorded"):
        pack_entry(entry)
