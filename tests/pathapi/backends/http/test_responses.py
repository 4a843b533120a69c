"""What a response proves: whose version a 304 is of, and what a body's length is."""

from __future__ import annotations

import io

import pytest

from casstore import Validator
from pathapi.backends.http.responses import confirms, format_time, length_of, spool, validator_of

SECOND = 10**9
TIME = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("headers", "unless", "answer"),
    [
        ({"ETag": '"a"'}, Validator(1, "a"), True),
        ({"ETag": '"b"'}, Validator(1, "a"), False),
        ({}, Validator(1, "a"), True),
        ({"Last-Modified": format_time(TIME)}, Validator(1, mtime_ns=TIME), True),
        ({"Last-Modified": format_time(TIME + SECOND)}, Validator(1, mtime_ns=TIME), False),
        ({}, Validator(1, mtime_ns=TIME), None),
    ],
)
def test_a_304_confirms_the_version_that_it_names(
    headers: dict[str, str], unless: Validator, answer: bool | None
) -> None:
    assert confirms(headers, unless) is answer


def test_a_time_within_the_second_of_the_response_may_not_show_the_next_change() -> None:
    def at(modified: int, date: int | None) -> Validator:
        headers = {"Last-Modified": format_time(modified)} | ({} if date is None else {"Date": format_time(date)})
        return validator_of(headers, 1)

    assert at(TIME, TIME).racy and at(TIME, TIME + SECOND).racy and at(TIME, None).racy
    assert not at(TIME, TIME + 2 * SECOND).racy


def test_a_body_that_is_encoded_in_transfer_has_no_length() -> None:
    assert length_of({"Content-Length": "5"}) == 5
    assert length_of({"Content-Length": "5", "Transfer-Encoding": "chunked"}) is None
    assert length_of({}) is length_of({"Content-Length": "five"}) is None
    assert length_of({"Content-Length": "9" * 18}) == 10**18 - 1
    assert length_of({"Content-Length": "9" * 19}) is length_of({"Content-Length": "9" * 5_000}) is None


class _Endless:
    def __init__(self) -> None:
        self.reads = 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        assert self.reads < 100, "it is read without end"
        return bytes(1_000)


def test_a_body_of_unknown_length_is_read_up_to_a_bound() -> None:
    endless = _Endless()
    assert spool(endless, lambda error: error, 5_000) is None
    assert endless.reads == 6
    spooled = spool(io.BytesIO(b"12345"), lambda error: error, 5)
    assert spooled is not None
    assert (spooled[0].read(), spooled[1]) == (b"12345", 5)
    spooled[0].close()
