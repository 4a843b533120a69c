"""What is taken out of texts and errors of others, and what is left of a URL that signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathapi.common.redaction import MASK, redacted, scrub, unsigned, without_user

WORDS = st.text("abc/:=&%-. ", max_size=12)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("The specified key does not exist.", "The specified key does not exist."),
        ('Could not connect to "http://me:word@host:1/b/k"', f'Could not connect to "{MASK}@host:1/b/k"'),
        ("Invalid endpoint: me:wo/rd@host", f"Invalid endpoint: {MASK}@host"),
        ("see http://host/k?list-type=2&sig=f0 now", f"see http://host/k?{MASK} now"),
        ("really? yes = no", "really? yes = no"),
        ("Invalid header value b'token\\n and all'", f"Invalid header value {MASK}"),
        ("AWS4 Credential=AKIA/2026, Signature=f0ad", f"AWS4 Credential={MASK}, Signature={MASK}"),
        ("arn:aws:iam::123456789012:user/me", "arn:aws:iam::123456789012:user/me"),
    ],
)
def test_the_shapes_of_secrets_are_masked_and_the_rest_stays(text: str, left: str) -> None:
    assert redacted(text) == left


def test_known_secrets_are_masked_wherever_they_stand_unless_they_are_mere_words() -> None:
    assert redacted("a the-secret-key b the-secret-key", ["the-secret-key"]) == f"a {MASK} b {MASK}"
    assert redacted("the test of a test", ["test", ""]) == "the test of a test"


@given(st.lists(WORDS, max_size=5), WORDS)
def test_nothing_before_an_at_sign_is_left_of_a_word(words: list[str], host: str) -> None:
    shown = redacted("@".join(["SECRET", *words]) + "@" + host)
    assert "SECRET" not in shown


def test_all_that_an_error_was_raised_from_is_scrubbed_once_though_it_goes_in_circles() -> None:
    inner, context, outer = ValueError("u:secret@inner"), OSError("u:secret@context"), RuntimeError("u:secret@outer", 3)
    wrapped = KeyError(inner, "u:secret@wrapped")
    outer.__cause__, inner.__context__, context.__cause__ = wrapped, context, outer
    scrub(outer)
    for error in (inner, context, outer, wrapped):
        assert "secret" not in repr(error)
    assert outer.args == (f"{MASK}@outer", 3)


def test_an_error_without_secrets_is_left_as_it_was() -> None:
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    missing = FileNotFoundError(2, "No such file", "/a")
    before = [(str(one), one.args) for one in (error, missing)]
    scrub(error)
    scrub(missing)
    assert [(str(one), one.args) for one in (error, missing)] == before


@given(WORDS, st.lists(st.tuples(WORDS, WORDS), max_size=4))
def test_what_is_left_of_a_url_is_left_of_it_again(path: str, parameters: list[tuple[str, str]]) -> None:
    query = "&".join(
        f"{name}={value}" for name, value in [*parameters, ("X-Amz-Signature", "SECRET"), ("sig", "SECRET")]
    )
    left = unsigned(f"https://me:SECRET@host/{path}?{query}")
    assert "SECRET" not in left
    assert unsigned(left) == left
    assert without_user(left) == left


@given(st.text().filter(lambda text: "?" not in text))
def test_a_url_that_neither_signs_nor_logs_in_stays(path: str) -> None:
    assert unsigned(f"https://host/{path}") == f"https://host/{path}"
    assert unsigned(f"https://host/{path}?a=b&c") == f"https://host/{path}?a=b&c"


def test_what_is_left_cannot_move_the_cursor_and_keeps_its_lines() -> None:
    assert redacted("one\x1b[2J\ntwo\r") == "one\\x1b[2J\ntwo\\r"
