"""Which classes stand for which scheme, and what is said where none does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pathapi import CloudPath, FileClient, FilePath, S3Path, implementation_registry
from pathapi.client import Client
from pathapi.exceptions import AnyPathTypeError, IncompleteImplementationError, InvalidPrefixError
from pathapi.registry import register_client_class, register_path_class


def test_a_scheme_gives_its_class_whatever_its_case() -> None:
    assert type(CloudPath("s3://bucket/key")) is type(CloudPath("S3://bucket/key")) is S3Path
    assert type(CloudPath("file:///a")) is FilePath
    assert type(CloudPath(CloudPath("file:///a"))) is FilePath
    assert {"s3", "file"} <= set(implementation_registry)
    assert implementation_registry["file"].client_class is FileClient


@pytest.mark.parametrize("text", ["nothing://bucket/key", "/local/path", "bucket/key", ""])
def test_an_unknown_scheme_is_refused(text: str) -> None:
    with pytest.raises(InvalidPrefixError):
        CloudPath(text)


@pytest.mark.parametrize("given", [None, 5, b"s3://bucket/key", ["s3://bucket/key"]])
def test_what_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(AnyPathTypeError, match=type(given).__name__):
        CloudPath(given)


def test_half_a_registration_says_which_half_lacks() -> None:
    known = dict(implementation_registry._known)
    try:

        @register_client_class("half")
        class HalfClient(Client[Any]):
            pass

        with pytest.raises(IncompleteImplementationError, match="half://: there is no path class"):
            CloudPath("half://bucket/key")

        @register_path_class("other")
        class OtherPath(CloudPath):
            cloud_prefix = "other://"

        with pytest.raises(IncompleteImplementationError, match="other://: there is no client class"):
            implementation_registry.client_class(OtherPath)
    finally:
        implementation_registry._known.clear()
        implementation_registry._known.update(known)


def test_an_import_that_an_interrupt_ended_is_made_again() -> None:
    code = """
import sys
from pathapi import CloudPath, registry

real = registry.register_client_class
def interrupt(name):
    raise KeyboardInterrupt
registry.register_client_class = interrupt
try:
    CloudPath("file:///")
except KeyboardInterrupt:
    registry.register_client_class = real
assert CloudPath("file:///").is_dir()
print("good")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "good\n", done.stderr
