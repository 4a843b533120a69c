"""Deletes of many on Azurite, whose answers come in another order, without their numbers, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from casstore import Validator
from pathapi.backends.azure.backend import AzureBackend
from pathapi.exceptions import CloudPathPermissionError, CloudUnavailableError, VersionMismatchError
from tests.harness.azure_servers import AzureServer
from tests.harness.faults import Action
from tests.harness.http_messages import Head
from tests.harness.proxy import Fault, Proxy
from tests.pathapi.support.raw_buckets import AzureRawBucket, azure_connection_to

Parts = list[bytes]


@dataclass(frozen=True)
class Rearrange(Action):
    """Other parts in the answer to a batch than the server's: what *change* makes of them."""

    change: Callable[[Parts], Sequence[bytes]]

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.set("Content-Length", None)
        response.set("Transfer-Encoding", "chunked")

    def body(self, chunks: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
        whole = b"".join(chunks)
        boundary = whole.partition(b"\r\n")[0]
        _, *parts, end = whole.split(boundary)
        yield b"".join(boundary + part for part in [*self.change(parts), end])


@pytest.fixture(scope="module")
def ground(azurite: AzureServer, shared_container: str) -> AzureRawBucket:
    return AzureRawBucket(azurite.client(), shared_container)


@pytest.fixture
def backend(azurite: AzureServer, azure_proxy: Proxy, ground: AzureRawBucket) -> Iterator[AzureBackend]:
    connection = azure_connection_to(azurite, azure_proxy.endpoint)
    yield AzureBackend(connection, ground.bucket)
    connection.close()


@pytest.fixture
def rearrange(azure_proxy: Proxy) -> Callable[[Callable[[Parts], Sequence[bytes]]], None]:
    def add(change: Callable[[Parts], Sequence[bytes]]) -> None:
        azure_proxy.add(Fault(Rearrange(change), match=lambda record: "comp=batch" in record.query))

    return add


Change = Callable[[Callable[[Parts], Sequence[bytes]]], None]


def plant_versions(backend: AzureBackend, ground: AzureRawBucket, names: Sequence[str]) -> dict[str, Validator]:
    for name in names:
        ground.plant(name, b"first")
    return {name: backend.head(name).validator for name in names}


@pytest.mark.parametrize("turn", [lambda parts: parts, lambda parts: parts[::-1], lambda parts: parts[1:] + parts[:1]])
def test_an_answer_is_of_the_object_that_its_number_names(
    backend: AzureBackend, ground: AzureRawBucket, rearrange: Change, turn: Callable[[Parts], Parts]
) -> None:
    names = ["turned/1", "turned/2", "turned/3"]
    versions = plant_versions(backend, ground, names)
    ground.plant("turned/1", b"second")
    rearrange(turn)
    with pytest.raises(VersionMismatchError) as raised:
        backend.delete(names, versions=versions)
    assert raised.value.keys == ("turned/1",)
    assert [ground.content(name) for name in names] == [b"second", None, None]


def test_a_refusal_names_the_object_that_it_is_of(
    backend: AzureBackend, ground: AzureRawBucket, rearrange: Change
) -> None:
    names = ["leased/1", "leased/2", "leased/3"]
    plant_versions(backend, ground, names)
    lease = ground.client.get_blob_client("leased/3").acquire_lease()
    rearrange(lambda parts: parts[::-1])
    with pytest.raises(CloudPathPermissionError, match="leased/3: the blob has a lease"):
        backend.delete(names)
    lease.break_lease(0)


def test_a_batch_that_is_not_answered_for_every_object_is_an_error(
    backend: AzureBackend, ground: AzureRawBucket, rearrange: Change
) -> None:
    plant_versions(backend, ground, ["unanswered/1", "unanswered/2"])
    rearrange(lambda parts: parts[1:])
    with pytest.raises(CloudUnavailableError, match="1 deletes were not answered"):
        backend.delete(["unanswered/1", "unanswered/2"])


def test_an_answer_without_a_number_is_of_the_whole_batch(
    backend: AzureBackend, ground: AzureRawBucket, rearrange: Change
) -> None:
    refused = (
        b"\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 403 Forbidden\r\n"
        b"x-ms-error-code: AuthorizationPermissionMismatch\r\nContent-Length: 0\r\n\r\n"
    )
    plant_versions(backend, ground, ["refused/1", "refused/2"])
    rearrange(lambda parts: [refused])
    with pytest.raises(CloudPathPermissionError, match="delete blobs") as raised:
        backend.delete(["refused/1", "refused/2"])
    assert "2 of 2" in raised.value.__notes__[0]
