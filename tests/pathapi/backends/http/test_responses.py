"""What a response proves: whose version a 304 is of, and what a body's length is."""

from __future__ import annotations

import pytest

from casstore import Validator
from pathapi.backends.http.responses import confirms, format_time, length_of, validator_of

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
