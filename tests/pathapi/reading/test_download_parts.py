"""A large object that is read in parts: each is whole, and they are hashed in their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore
from casstore import Key, Validator
from pathapi.backend import ObjectInfo
from pathapi.exceptions import TruncatedBodyError
from pathapi.reading import download
from pathapi.reading.download import receive
from tests.casstore.support.fill import forked

DATA = b"0123456789AB"
INFO = ObjectInfo("k", Validator(len(DATA), "etag"))


class _Body:
    """*length* bytes are announced, and *data* comes: the fault that is injected here."""

    def __init__(self, data: bytes, length: int) -> None:
        self.info, self.length, self._data = INFO, length, data

    def readinto(self, buffer: memoryview) -> int:
        piece, self._data = self._data[: len(buffer)], self._data[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        pass


class _Bucket:
    """Has `DATA`; the range that begins at *short* ends a byte early."""

    origin, bucket = "s3@parts", "b"

    def __init__(self, short: int = -1) -> None:
        self._short = short

    def read(self, key: str, start: int, end: int, *, expect: Validator | None = None) -> _Body:
        return _Body(DATA[start : end - (start == self._short)], end - start)


@pytest.fixture
def fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[casstore.Fill]:
    """Of an object that is downloaded in parts of four bytes."""
    monkeypatch.setattr(download, "PART", 4)
    cache = casstore.open(tmp_path)
    with cache.begin(Key("s3://b/k", "s3")) as filling:
        yield filling
    cache.close()


@pytest.mark.parametrize("start", [0, 4, 8])
def test_a_part_that_ends_early_is_refused(fill: casstore.Fill, start: int) -> None:
    bucket = _Bucket(start)
    with pytest.raises(TruncatedBodyError):
        receive(bucket, "k", bucket.read("k", 0, 4), fill)  # type: ignore[arg-type]


def test_parts_that_arrive_in_another_order_are_hashed_in_theirs(fill: casstore.Fill) -> None:
    fill.resize(len(DATA))
    parts = download._Parts(_Bucket(), "k", INFO, fill)  # type: ignore[arg-type]
    for start in (8, 0, 4):
        fill.write_at(memoryview(DATA[start : start + 4]), start)
        parts._arrive(start, start + 4)
    hasher = casstore.new_hasher(fill.staging.algorithm)
    hasher.update(DATA)
    assert fill.staging.digest().value == hasher.digest()


def test_a_forked_child_has_the_slots_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of its parent may have taken some."""
    slots = download._slots_of(_Bucket())  # type: ignore[arg-type]
    for _ in range(download.THREADS):
        slots.get_nowait()

    def look() -> None:
        assert download._slots_of(_Bucket()).qsize() == download.THREADS  # type: ignore[arg-type]

    assert forked(look) == 0
    download._slots.clear()
