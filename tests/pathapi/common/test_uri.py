"""URIs are taken apart and put together again without touching a character of the key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathapi.common import uri as uri_module
from pathapi.common.uri import SCHEMES, Uri, register_scheme
from pathapi.exceptions import AnyPathTypeError, InvalidPrefixError, InvalidUriError

BUCKETS = st.text(st.characters(exclude_characters="/\0?#:@", exclude_categories=["Cs"]), min_size=1).filter(
    lambda bucket: not bucket.startswith("arn:")
)
# Slashes, dots, percent signs and line ends far more often than chance would draw them.
KEYS = st.lists(
    st.sampled_from(["/", "//", ".", "..", "%2F", "?", "#", "\n", " ", "a", "\\", ":"])
    | st.characters(exclude_characters="\0", exclude_categories=["Cs"])
).map("".join)
SPELLINGS = st.sampled_from(["s3", "S3", "gs", "Gs", "az", "http", "https", "HTTPS"])


@pytest.fixture
def schemes() -> Iterator[dict[str, uri_module.Scheme]]:
    before = dict(SCHEMES)
    yield SCHEMES
    SCHEMES.clear()
    SCHEMES.update(before)


@given(scheme=SPELLINGS, bucket=BUCKETS, key=KEYS)
def test_bucket_and_key_survive_being_written_and_read(scheme: str, bucket: str, key: str) -> None:
    uri = Uri(scheme, bucket, key)
    assert Uri.parse(str(uri)) == uri


@given(scheme=SPELLINGS, bucket=BUCKETS, key=KEYS.filter(bool))
def test_text_survives_being_read_and_written(scheme: str, bucket: str, key: str) -> None:
    text = f"{scheme}://{bucket}/{key}"
    assert str(Uri.parse(text)) == text


@given(key=KEYS)
def test_file_uri_has_no_bucket_and_survives(key: str) -> None:
    text = f"file:///{key.replace('%', '%25')}"
    assert Uri.parse(text) == Uri("file", "", key)
    assert str(Uri.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("file:///my%20file%20%C3%BC", "my file ü"),
        ("file:///my file ü", "my file ü"),
        ("file:///100%25", "100%"),
        ("file:///100%", "100%"),
        ("file:///100%25%20", "100% "),
        ("file:///a%2520b", "a%20b"),
        ("file:///a+b?c#d", "a+b?c#d"),
        ("file:///caf%E9", "caf\udce9"),
        ("file://localhost/x", "x"),
        ("file://LOCALHOST/x%20y", "x y"),
        ("file://localhost/", ""),
    ],
)
def test_a_file_uri_is_decoded(text: str, key: str) -> None:
    uri = Uri.parse(text)
    assert uri == Uri("file", "", key)
    assert Uri.parse(str(uri)) == Uri.parse(uri.canonical) == uri
    if sys.version_info >= (3, 13):
        assert str(Path.from_uri(text)) == f"/{key}"
    with pytest.raises(InvalidUriError, match="NUL"):
        Uri.parse("file:///a%00")


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("s3://b/k", "b", "k"),
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://", "", ""),
        ("s3://b//k", "b", "/k"),
        ("s3://b/d/", "b", "d/"),
        ("s3://b/a//c/../d/./e", "b", "a//c/../d/./e"),
        ("s3://b/what?x=1#2%2F", "b", "what?x=1#2%2F"),
        ("s3://b/line\nend", "b", "line\nend"),
        ("az://container/k", "container", "k"),
        ("http://host:8080/p?q=/x", "host:8080", "p?q=/x"),
        ("http://host?q=/x", "host", "?q=/x"),
        ("file://", "", ""),
        ("file:///abs/key", "", "abs/key"),
        ("file:////abs", "", "/abs"),
        (
            "s3://arn:aws:s3::123456789012:accesspoint/alias.mrap/a/b",
            "arn:aws:s3::123456789012:accesspoint/alias.mrap",
            "a/b",
        ),
        (
            "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine",
            "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine",
            "",
        ),
    ],
)
def test_pieces_are_where_a_user_expects_them(text: str, bucket: str, key: str) -> None:
    uri = Uri.parse(text)
    assert (uri.bucket, uri.key) == (bucket, key)


def test_other_case_of_the_scheme_is_kept_in_the_text_but_is_one_entry() -> None:
    upper, lower = Uri.parse("S3://Bucket/Key"), Uri.parse("s3://Bucket/Key")
    assert str(upper) == "S3://Bucket/Key"
    assert upper.canonical == lower.canonical == "s3://Bucket/Key"


def test_a_bucket_with_and_without_slash_is_one_entry() -> None:
    assert Uri.parse("s3://b/").canonical == Uri.parse("s3://b").canonical == "s3://b"


@pytest.mark.parametrize("text", ["ftp://host/x", "b/k", "", "://b/k", "s3:b/k", "s 3://b"])
def test_unknown_scheme_names_those_that_are_known(text: str) -> None:
    with pytest.raises(InvalidPrefixError, match="s3://, gs://, az://, http://, https://, file://"):
        Uri.parse(text)


def test_only_the_schemes_asked_for_are_accepted() -> None:
    assert Uri.parse("mine://b/k", schemes=("mine",)) == Uri("mine", "b", "k")
    with pytest.raises(InvalidPrefixError, match=r"use one of gs://$"):
        Uri.parse("s3://b/k", schemes=("gs",))


def test_a_uri_that_went_through_pathlib_is_told_so() -> None:
    with pytest.raises(InvalidPrefixError, match="lost a slash"):
        Uri.parse(Path("s3://b/k"))


@pytest.mark.parametrize("text", ["s3:///x", "gs:///x/y", "http:///x", "az:////"])
def test_empty_bucket_is_refused_and_the_message_shows_a_right_one(text: str) -> None:
    with pytest.raises(InvalidUriError, match="://bucket/key"):
        Uri.parse(text)


@pytest.mark.parametrize("text", ["s3://b/a\0b", "s3://\0/k", "file:///\0"])
def test_nul_is_refused(text: str) -> None:
    with pytest.raises(InvalidUriError, match="NUL"):
        Uri.parse(text)


@pytest.mark.parametrize("text", ["file://host/x", "file://localhostess/x", "file://x"])
def test_file_uri_with_a_host_is_refused(text: str) -> None:
    with pytest.raises(InvalidUriError, match="file:///directory/name"):
        Uri.parse(text)


@pytest.mark.parametrize("value", [None, 0, b"s3://b/k", ["s3://b/k"]])
def test_what_is_no_text_is_a_type_error_that_names_the_type(value: object) -> None:
    with pytest.raises(AnyPathTypeError, match=type(value).__name__) as raised:
        Uri.parse(value)  # type: ignore[arg-type]
    assert isinstance(raised.value, TypeError)


@pytest.mark.parametrize("text", ["ftp://me:hunter2@host/x", "abfs://host/x?sig=hunter2", "http://me:hunter2@/\0"])
def test_no_password_or_signature_reaches_a_message(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|http") as raised:
        Uri.parse(text)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAKEY:hunter2@bucket/key",
        "s3://AKIAKEY:hun/ter2@bucket/key",
        "S3://hunter2@bucket/key",
        "gs://me:hunter2@bucket",
        "az://container@hunter2.blob/x",
    ],
)
def test_a_login_before_the_bucket_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(InvalidUriError, match="give credentials to the client") as raised:
        Uri.parse(text)
    assert "hun" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://me:hunter2@host:8080/p", "https://host:8080/p"),
        ("https://host/p@q?a=b@c", "https://host/p@q?a=b@c"),
        ("https://b.s3.amazonaws.com/k?versionId=3&X-Amz-Signature=f0&X-Amz-Expires=9", "https://b.s3.amazonaws.com/k?versionId=3"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Meta=1", "https://b.s3.amazonaws.com/k?X-Amz-Meta=1"),
        ("https://b.s3.amazonaws.com/k?AWSAccessKeyId=A&Signature=f0&Expires=9", "https://b.s3.amazonaws.com/k"),
        ("https://storage.googleapis.com/b/k?x-goog-signature=f0&X-Goog-Date=1#x", "https://storage.googleapis.com/b/k#x"),
        ("https://a.blob.core.windows.net/c/k?sv=1&se=2&sr=b&sp=r&sig=f0%3D&snapshot=4", "https://a.blob.core.windows.net/c/k?snapshot=4"),
        ("https://host/p?se=2&expires=3&policy=4", "https://host/p?se=2&expires=3&policy=4"),
    ],
)  # fmt: skip
def test_a_signed_url_is_filed_under_what_it_names(url: str, canonical: str) -> None:
    uri = Uri.parse(url)
    assert str(uri) == url
    assert uri.canonical == canonical
    assert Uri.parse(uri.canonical).canonical == canonical


def test_a_question_mark_belongs_to_the_key_where_keys_may_hold_one() -> None:
    for text in ("s3://b/k?versionId=3", "s3://b/k?X-Amz-Signature=f0", "file:///d/k?sig=1"):
        assert Uri.parse(text).canonical == text


def test_an_alias_is_filed_under_the_scheme_it_stands_for(schemes: dict[str, uri_module.Scheme]) -> None:
    register_scheme("S3A", canonical="s3")
    register_scheme("s3a", canonical="s3")
    uri = Uri.parse("s3a://b/k")
    assert str(uri) == "s3a://b/k"
    assert (uri.provider, uri.canonical) == ("s3", "s3://b/k")


def test_a_scheme_of_ones_own_needs_no_canonical_one(schemes: dict[str, uri_module.Scheme]) -> None:
    register_scheme("mine")
    assert Uri.parse("MINE://b/k").canonical == "mine://b/k"


def test_a_known_scheme_cannot_be_made_to_mean_another(schemes: dict[str, uri_module.Scheme]) -> None:
    with pytest.raises(InvalidPrefixError, match="already"):
        register_scheme("gs", canonical="s3")
    with pytest.raises(InvalidPrefixError, match="unknown"):
        register_scheme("mine", canonical="nowhere")
