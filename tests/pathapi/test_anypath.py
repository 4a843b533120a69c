"""`AnyPath` decides by the text, and is the class of both kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathapi import AnyPath, HttpsPath, S3Client, S3Path
from pathapi.anypath import to_anypath
from pathapi.exceptions import AnyPathTypeError, InvalidUriError
from pathapi.url_utils import path_from_fileurl


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("s3://b/k", S3Path("s3://b/k")),
        ("https://host/k", HttpsPath("https://host/k")),
        (S3Path("s3://b/k"), S3Path("s3://b/k")),
        ("a/b", Path("a/b")),
        ("/a%20b", Path("/a%20b")),
        ("nothing://b/k", Path("nothing://b/k")),
        (Path("a"), Path("a")),
        ("file:///a%20b/c%23d", Path("/a b/c#d")),
        ("FILE:/a", Path("/a")),
        ("file://localhost/a", Path("/a")),
    ],
)
def test_a_uri_is_a_cloud_path_and_the_rest_is_of_this_machine(given: Any, made: Any) -> None:
    for path in (AnyPath(given), to_anypath(given), AnyPath.validate(given)):
        assert path == made and type(path) is type(made)


def test_parts_and_the_client_are_passed_on() -> None:
    client = S3Client()
    path: Any = AnyPath("s3://b", "d", "k", client=client)
    assert path == S3Path("s3://b/d/k") and path.client is client
    assert AnyPath("a", "b") == Path("a/b")
    assert AnyPath("file:///a", "b") == path_from_fileurl("file:///a/b") == Path("/a/b")


def test_both_kinds_are_instances_and_subclasses() -> None:
    for made in (S3Path("s3://b/k"), Path("a")):
        assert isinstance(made, AnyPath) and issubclass(type(made), AnyPath)
        assert to_anypath(made) is made
    assert not isinstance("a", AnyPath)


@pytest.mark.parametrize("given", [(), (0,), (None,), (b"a",), ("a", 0)])
def test_what_is_neither_is_refused(given: Any) -> None:
    with pytest.raises(AnyPathTypeError):
        AnyPath(*given)


def test_pydantic_gets_a_value_error() -> None:
    with pytest.raises(ValueError, match="int"):
        AnyPath.validate(0)


def test_a_uri_that_names_nothing_is_no_local_path() -> None:
    with pytest.raises(InvalidUriError):
        AnyPath("s3:///k")
