"""Responses with a field that is missing, or of another kind: one error of our own, and a write is looked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pathapi.exceptions import CloudUnavailableError
from tests.harness.faults import Action, Fault, SetHeader
from tests.harness.http_messages import Head
from tests.pathapi.support.proxied import DATA, Cloud


@dataclass(frozen=True, slots=True)
class Replace(Action):
    """A success with other bytes as its body."""

    data: bytes
    kind: str

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set("Content-Type", self.kind)
        response.set("Content-Length", str(len(self.data)))
        response.set("Transfer-Encoding", None)

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        for _ in chunks:
            pass
        yield self.data


HEADS: dict[str, Action] = {
    "s3": SetHeader("Last-Modified", "false"),
    "gs": Replace(b'{"name": "a", "generation": "1", "etag": 1}', "application/json"),
    "az": SetHeader("x-ms-blob-type", "?"),
}
WRITES: dict[str, Action] = {
    "s3": SetHeader("x-amz-object-size", "?"),
    "gs": Replace(b"[]", "application/json"),
    "az": Replace(b"\xff\xfe", "application/xml"),
}


@pytest.fixture(params=["s3", "gs", "az"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cloud(request: pytest.FixtureRequest, name: str) -> Cloud:
    found: Cloud = request.getfixturevalue(name)
    return found


@pytest.mark.parametrize("call", ["stat", "exists", "is_file"])
def test_a_malformed_description_is_an_error_of_our_own(cloud: Cloud, name: str, call: str) -> None:
    cloud.plant()
    cloud.proxy.add(Fault(HEADS[name], kind="HEAD", times=None))
    with pytest.raises(CloudUnavailableError, match="a: the server's response cannot be read: check the endpoint"):
        getattr(cloud.path, call)()


def test_a_write_with_a_malformed_response_is_looked_for(cloud: Cloud, name: str) -> None:
    cloud.fail(WRITES[name])
    assert cloud.path.write_bytes(DATA) == len(DATA)
    assert cloud.content == DATA
    assert cloud.path.pending == []


def test_a_copy_with_a_malformed_response_is_an_error_and_the_source_stays(cloud: Cloud, name: str) -> None:
    cloud.plant()
    xml = b"<CopyObjectResult><LastModified>?</LastModified></CopyObjectResult>"
    action = Replace(xml, "application/xml") if name == "s3" else WRITES[name]
    cloud.proxy.add(Fault(action, match=lambda record: record.method in ("PUT", "POST"), times=None))
    with pytest.raises(CloudUnavailableError, match=r"cannot be read|did not answer as"):
        cloud.path.rename(cloud.path.parent / "b")
    assert cloud.content == DATA


def test_a_304_without_a_condition_is_an_error(cloud: Cloud) -> None:
    cloud.plant()
    cloud.proxy.add(Fault(NotModified(), kind="GET", times=None))
    with pytest.raises(CloudUnavailableError, match="answered 304 without a condition"):
        cloud.path.read_bytes()


@pytest.mark.parametrize("time", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"])
@pytest.mark.parametrize("name", ["s3", "gs", "az", "http"])
def test_a_time_that_no_entry_can_have_is_no_time(cloud: Cloud, time: str) -> None:
    cloud.proxy.add(Fault(SetHeader("Last-Modified", time), times=None))
    cloud.path.write_bytes(DATA)
    assert cloud.path.read_bytes() == DATA
    cloud.plant(b"other")
    assert cloud.path.read_bytes() == b"other"


@dataclass(frozen=True, slots=True)
class NotModified(Action):
    def answer(self, request: Head) -> tuple[Head, bytes]:
        return Head(("HTTP/1.1", "304", "Not Modified"), []), b""
