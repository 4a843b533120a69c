"""Servers that list what nobody asked for, or without end: an error at once, and nothing is deleted or overwritten.

The pages are those of a fake; the rest is a real server behind the same proxy.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pathapi import AzureBlobClient, GSClient, S3Client
from pathapi.backend import Prefix
from pathapi.backends import bucket_backend
from pathapi.exceptions import CloudUnavailableError
from tests.harness.azure_servers import AzureServer
from tests.harness.faults import Action, Fault
from tests.harness.http_messages import Head
from tests.harness.proxy import Proxy
from tests.harness.servers import GCSServer, S3Server

Page = Callable[[Sequence[str], str | None], bytes]


@dataclass(frozen=True, slots=True)
class Pages(Action):
    """The pages of one listing, each as keys (those of "directories" end in ``/``) and the next page's token."""

    render: Page
    pages: Iterator[tuple[Sequence[str], str | None]]
    kind: str = "application/xml"
    sent: list[int] = field(default_factory=list)

    def answer(self, request: Head) -> tuple[Head, bytes]:
        self.sent.append(1)
        body = self.render(*next(self.pages))
        return Head(("HTTP/1.1", "200", "OK"), [("Content-Type", self.kind), ("Content-Length", str(len(body)))]), body


def s3_page(keys: Sequence[str], token: str | None) -> bytes:
    items = "".join(
        f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"
        if key.endswith("/")
        else f'<Contents><Key>{key}</Key><Size>1</Size><ETag>"1"</ETag></Contents>'
        for key in keys
    )
    more = "" if token is None else f"<NextContinuationToken>{token}</NextContinuationToken>"
    truncated = "false" if token is None else "true"
    return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{items}</ListBucketResult>".encode()


def gs_page(keys: Sequence[str], token: str | None) -> bytes:
    items = [{"name": key, "size": "1", "generation": "1"} for key in keys if not key.endswith("/")]
    page = {"items": items, "prefixes": [key for key in keys if key.endswith("/")]}
    return json.dumps(page if token is None else {**page, "nextPageToken": token}).encode()


def azure_page(keys: Sequence[str], token: str | None) -> bytes:
    items = "".join(
        f"<BlobPrefix><Name>{key}</Name></BlobPrefix>"
        if key.endswith("/")
        else f"<Blob><Name>{key}</Name><Properties><Content-Length>1</Content-Length><Etag>1</Etag>"
        "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        for key in keys
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{items}</Blobs>'
        f"<NextMarker>{token or ''}</NextMarker></EnumerationResults>"
    ).encode()


@dataclass
class Cloud:
    """A client behind a proxy, and how its server writes a page."""

    client: Any
    proxy: Proxy
    root: str
    render: Page
    content_type: str = "application/xml"

    def answers(self, pages: Iterator[tuple[Sequence[str], str | None]]) -> Pages:
        action = Pages(self.render, pages, self.content_type)
        self.proxy.add(Fault(action, kind="LIST", times=None))
        return action

    def path(self, key: str) -> Any:
        return self.client.CloudPath(self.root + key)

    @property
    def backend(self) -> Any:
        return self.path("d/").client.backend(self.root.split("/")[2])


@pytest.fixture
def s3_cloud(seaweed: S3Server, proxy: Proxy, shared_bucket: str) -> Iterator[Cloud]:
    client = S3Client(
        aws_access_key_id=seaweed.access_key, aws_secret_access_key=seaweed.secret_key, endpoint_url=proxy.endpoint
    )
    yield Cloud(client, proxy, f"s3://{shared_bucket}/", s3_page)
    client.connection.client.close()


@pytest.fixture
def gs_cloud(gcs: GCSServer, gcs_proxy: Proxy, gcs_bucket: str) -> Iterator[Cloud]:
    client = GSClient(endpoint_url=gcs_proxy.endpoint)
    yield Cloud(client, gcs_proxy, f"gs://{gcs_bucket}/", gs_page, "application/json")
    client.connection.client.close()


@pytest.fixture
def azure_cloud(azurite: AzureServer, azure_proxy: Proxy, shared_container: str) -> Iterator[Cloud]:
    client = AzureBlobClient(connection_string=azurite.connection_string(azure_proxy.endpoint))
    yield Cloud(client, azure_proxy, f"az://{shared_container}/", azure_page)
    client.connection.close()


@pytest.fixture(params=["s3", "gs", "azure"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    found: Cloud = request.getfixturevalue(f"{request.param}_cloud")
    return found


def one_page(*keys: str) -> Iterator[tuple[Sequence[str], str | None]]:
    return itertools.repeat((keys, None))


CALLS: dict[str, Callable[[Any], object]] = {
    "rmtree": lambda path: path.rmtree(),
    "rmdir": lambda path: path.rmdir(),
    "iterdir": lambda path: list(path.iterdir()),
    "rglob": lambda path: list(path.rglob("*")),
    "walk": lambda path: list(path.walk(on_error=None)),
    "is_dir": lambda path: path.is_dir(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("foreign", ["other/thesis", "c", "d", "D/a", "dd/a"])
def test_a_key_outside_the_prefix_is_an_error(cloud: Cloud, call: str, foreign: str) -> None:
    cloud.answers(one_page("d/a", foreign) if call != "is_dir" else one_page(foreign))
    with pytest.raises(CloudUnavailableError, match=f"d/?: the server listed '{foreign}', which was not requested"):
        CALLS[call](cloud.path("d/"))
    assert cloud.proxy.count("DELETE") == 0


@pytest.mark.parametrize("key", ["d/deep/er", "d/deep/er/", "e/"])
def test_a_deeper_key_in_a_delimited_listing_is_an_error(cloud: Cloud, key: str) -> None:
    cloud.answers(one_page("d/a", "d/b/", key))
    with pytest.raises(CloudUnavailableError, match="which was not requested"):
        list(cloud.backend.list("d/", delimited=True))


def test_what_was_requested_is_no_error(cloud: Cloud) -> None:
    cloud.answers(one_page("d/a", "d/b/c"))
    assert [item.key for item in cloud.backend.list("d/")] == ["d/a", "d/b/c"]
    cloud.proxy.clear_faults()
    cloud.answers(one_page("d", "d/", "d-e"))
    found = list(cloud.backend.list("d", delimited=True))
    assert [(item.key, isinstance(item, Prefix)) for item in found] == [("d", False), ("d-e", False), ("d/", True)]


def numbered(keys: Callable[[int], Sequence[str]], token: Callable[[int], str]) -> Iterator[tuple[Sequence[str], str]]:
    return ((keys(number), token(number)) for number in itertools.count())


ENDLESS: dict[str, Callable[[], Iterator[tuple[Sequence[str], str | None]]]] = {
    "one token": lambda: numbered(lambda number: [f"d/{number}"], lambda _: "same"),
    "three tokens": lambda: numbered(lambda number: [f"d/{number}"], lambda number: f"token-{number % 3}"),
    "one page": lambda: numbered(lambda _: ["d/a", "d/b"], lambda number: f"token-{number}"),
    "two pages": lambda: numbered(lambda number: [f"d/{number % 2}"], lambda number: f"token-{number}"),
    "nothing": lambda: numbered(lambda _: [], lambda number: f"token-{number}"),
}


@pytest.mark.parametrize("way", ENDLESS)
def test_a_listing_without_end_is_an_error(cloud: Cloud, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_backend, "MOST_EMPTY_PAGES", 7)
    fake = cloud.answers(ENDLESS[way]())
    with pytest.raises(CloudUnavailableError, match="d/: the server's listing does not end"):
        list(cloud.path("d/").rglob("*"))
    assert len(fake.sent) <= 10


def test_pages_without_an_item_are_no_end(cloud: Cloud) -> None:
    pages = [((), "1"), ((), "2"), (("d/a",), "3"), ((), "4"), (("d/b",), None)]
    cloud.answers(iter(pages))
    assert [item.key for item in cloud.backend.list("d/")] == ["d/a", "d/b"]


def test_a_truncated_page_without_a_token_is_an_error(s3_cloud: Cloud) -> None:
    s3_cloud.render = lambda keys, token: s3_page(keys, token).replace(b">false<", b">true<")
    s3_cloud.answers(one_page("d/a"))
    with pytest.raises(CloudUnavailableError, match="d/: the server's listing cannot be read"):
        list(s3_cloud.path("d/").iterdir())


@pytest.mark.parametrize("missing", ["Key", "Size"])
def test_an_item_without_a_name_or_a_size_is_an_error(s3_cloud: Cloud, missing: str) -> None:
    s3_cloud.render = lambda keys, token: s3_page(keys, token).replace(f"{missing}>".encode(), b"Other>")
    s3_cloud.answers(one_page("d/a"))
    with pytest.raises(CloudUnavailableError, match="d/: the server's listing cannot be read"):
        s3_cloud.path("d/").rmtree()
    assert s3_cloud.proxy.count("DELETE") == 0


NO_PAGES = {"s3": b"<html>Log in</html>", "gs": b"[]", "azure": b"<html>Log in</html>"}


@pytest.mark.parametrize("call", ["rmtree", "iterdir", "is_dir"])
def test_what_is_no_page_is_not_an_empty_one(request: pytest.FixtureRequest, cloud: Cloud, call: str) -> None:
    body = NO_PAGES[request.node.callspec.params["cloud"]]
    cloud.render = lambda keys, token: body
    cloud.answers(one_page())
    with pytest.raises(CloudUnavailableError, match=r"the server's listing cannot be read|did not answer as"):
        CALLS[call](cloud.path("d/"))
