"""What `receive` itself guards, whatever the body of a backend lets through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Key, Validator
from pathapi.backend import ObjectInfo
from pathapi.exceptions import TruncatedBodyError
from pathapi.reading.download import receive


class _Body:
    """Ends early, or late, and says nothing: the fault that is injected here."""

    length: int | None = None

    def __init__(self, data: bytes, announced: int) -> None:
        self.info = ObjectInfo("k", Validator(announced, "etag"))
        self._data = data

    def readinto(self, buffer: memoryview) -> int:
        piece, self._data = self._data[: len(buffer)], self._data[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        pass


@pytest.mark.parametrize("announced", [9, 11])
def test_a_body_of_another_size_than_the_object_is_refused(tmp_path: Path, announced: int) -> None:
    cache = casstore.open(tmp_path)
    backend: Any = None  # nothing is asked again
    with cache.begin(Key("s3://b/k", "s3")) as fill, pytest.raises(TruncatedBodyError):
        receive(backend, "k", _Body(b"0123456789", announced), fill)
    assert cache.usage().entries == 0
    cache.close()
