"""The proxy is what counts and faults are judged by, so it is tested against what it claims first."""

from __future__ import annotations

import http.client
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.harness.faults import (
    Answer,
    Call,
    DropRequestHeader,
    Fault,
    FlipByte,
    Reset,
    SetHeader,
    Stall,
    Surplus,
    Truncate,
    Understate,
)
from tests.harness.proxy import Proxy, proxy_process
from tests.harness.servers import S3Server, seaweedfs

BODY = bytes(range(256)) * 4096


@dataclass(frozen=True, slots=True)
class Bench:
    """A proxy in front of a bucket with one object of 1 MiB, ``big``."""

    proxy: Proxy
    server: S3Server
    bucket: str

    def get(self, key: str = "big", **headers: str) -> tuple[int, bytes]:
        """Status and body of a plain GET through the proxy, on a connection of its own."""
        connection = http.client.HTTPConnection(urlsplit(self.proxy.endpoint).netloc, timeout=1_000)
        try:
            connection.request("GET", f"/{self.bucket}/{key}", headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def planted(seaweed: S3Server) -> str:
    bucket = seaweed.new_bucket()
    seaweed.client().put_object(Bucket=bucket, Key="big", Body=BODY)
    return bucket


@pytest.fixture
def bench(seaweed: S3Server, planted: str) -> Iterator[Bench]:
    with Proxy(seaweed.endpoint) as proxy:
        yield Bench(proxy, seaweed, planted)


def test_requests_are_told_apart_by_kind_and_carry_their_conditions(bench: Bench) -> None:
    client = bench.server.client(bench.proxy.endpoint)
    etag = client.put_object(Bucket=bench.bucket, Key="a b/é", Body=b"12345", IfNoneMatch="*")["ETag"]
    client.head_object(Bucket=bench.bucket, Key="a b/é")
    client.get_object(Bucket=bench.bucket, Key="a b/é", Range="bytes=1-2", IfMatch=etag)["Body"].read()
    client.list_objects_v2(Bucket=bench.bucket, Prefix="a b/")
    client.copy_object(Bucket=bench.bucket, Key="c", CopySource={"Bucket": bench.bucket, "Key": "a b/é"})
    client.delete_objects(Bucket=bench.bucket, Delete={"Objects": [{"Key": "a b/é"}]})
    client.delete_object(Bucket=bench.bucket, Key="c")
    records = bench.proxy.records
    assert [record.kind for record in records] == ["PUT", "HEAD", "GET", "LIST", "COPY", "DELETE", "DELETE"]
    assert [record.status for record in records] == [200, 200, 206, 200, 200, 200, 204]
    put, _, get, *_ = records
    assert (put.bucket, put.key, put.if_none_match, put.sent_bytes) == (bench.bucket, "a b/é", "*", 5)
    assert (get.range, get.if_match, get.body_bytes) == ("bytes=1-2", etag, 2)
    assert bench.proxy.body_bytes == 2
    bench.proxy.reset()
    assert bench.proxy.records == []


def test_a_body_is_counted_by_the_time_the_client_has_it(bench: Bench) -> None:
    # Often, since counting after sending would lose this race only now and then.
    for number in range(300):
        assert bench.get(Range="bytes=0-9") == (206, BODY[:10])
        assert bench.proxy.body_bytes == (number + 1) * 10
    assert bench.proxy.counts.repeats == 299


def test_a_refused_conditional_put_and_a_304_pass_through(bench: Bench) -> None:
    client = bench.server.client(bench.proxy.endpoint)
    etag = client.head_object(Bucket=bench.bucket, Key="big")["ETag"]
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=bench.bucket, Key="big", Body=BODY, IfNoneMatch="*")
    with pytest.raises(client.exceptions.ClientError, match="304"):
        client.get_object(Bucket=bench.bucket, Key="big", IfNoneMatch=etag)
    assert [record.status for record in bench.proxy.records] == [200, 412, 304]
    assert bench.proxy.body_bytes == 0


def test_a_multipart_upload_passes_through_whole(bench: Bench, tmp_path: Any) -> None:
    from boto3.s3.transfer import TransferConfig

    source = tmp_path / "source"
    source.write_bytes(os.urandom(12 << 20))
    bench.server.client(bench.proxy.endpoint).upload_file(
        str(source), bench.bucket, "parts", Config=TransferConfig(multipart_chunksize=5 << 20)
    )
    assert bench.get("parts") == (200, source.read_bytes())


def test_signatures_for_the_proxys_host_are_accepted_by_a_server_that_checks_them() -> None:
    with seaweedfs(check_signatures=True) as server, Proxy(server.endpoint) as proxy:
        bucket = server.new_bucket()
        client = server.client(proxy.endpoint)
        client.put_object(Bucket=bucket, Key="k", Body=b"1")
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"
        with pytest.raises(client.exceptions.ClientError, match="SignatureDoesNotMatch"):
            S3Server(proxy.endpoint, server.access_key, "wrong", "us-east-1", "").client().get_object(
                Bucket=bucket, Key="k"
            )


def test_moto_works_behind_the_proxy(moto: S3Server) -> None:
    bucket = moto.new_bucket()
    with Proxy(moto.endpoint) as proxy:
        client = moto.client(proxy.endpoint)
        client.put_object(Bucket=bucket, Key="k", Body=BODY)
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == BODY
        assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
        assert proxy.counts.kinds == {"PUT": 1, "GET": 1, "LIST": 1}


def test_truncate_ends_the_body_early_under_the_full_content_length(bench: Bench) -> None:
    bench.proxy.add(Fault(Truncate(after=1000), kind="GET"))
    with pytest.raises(http.client.IncompleteRead) as caught:
        bench.get()
    assert caught.value.partial == BODY[:1000]
    assert bench.proxy.body_bytes == 1000
    assert bench.get() == (200, BODY), "the fault was for one request"


def test_reset_breaks_the_connection(bench: Bench) -> None:
    bench.proxy.add(Fault(Reset(after=1000), kind="GET"))
    with pytest.raises(ConnectionResetError):
        bench.get()
    assert bench.get() == (200, BODY)


def test_a_put_whose_answer_is_lost_was_done(bench: Bench) -> None:
    bench.proxy.add(Fault(Reset(after=None), kind="PUT"))
    client = bench.server.client(bench.proxy.endpoint)
    with pytest.raises(Exception, match=r"Connection was closed|Connection reset"):
        client.put_object(Bucket=bench.bucket, Key="lost", Body=b"done")
    assert bench.get("lost") == (200, b"done")
    assert bench.proxy.records[0].status == 0


def test_a_stall_holds_the_body_back_and_not_the_head(bench: Bench) -> None:
    bench.proxy.add(Fault(Stall(60, after=10), kind="GET"))
    connection = http.client.HTTPConnection(urlsplit(bench.proxy.endpoint).netloc, timeout=1_000)
    connection.request("GET", f"/{bench.bucket}/big")
    # Before the answer: that takes the socket over.
    sock = connection.sock
    response = connection.getresponse()
    assert response.read(10) == BODY[:10]
    sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        response.read()
    connection.close()


def test_closing_the_proxy_ends_a_stall(bench: Bench) -> None:
    bench.proxy.add(Fault(Stall(60, after=None), kind="GET"))
    connection = http.client.HTTPConnection(urlsplit(bench.proxy.endpoint).netloc, timeout=1_000)
    connection.request("GET", f"/{bench.bucket}/big")
    while not bench.proxy.records:
        time.sleep(0.01)
    bench.proxy.close()
    with pytest.raises(ConnectionError):
        connection.getresponse()
    connection.close()


def test_surplus_bytes_follow_the_announced_ones_on_the_connection(bench: Bench) -> None:
    bench.proxy.add(Fault(Surplus(5), kind="GET"))
    with socket.create_connection(("127.0.0.1", urlsplit(bench.proxy.endpoint).port or 0)) as sock:
        sock.sendall(f"GET /{bench.bucket}/big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(BODY)}".encode() in head.lower()
    assert body == BODY + b"!!!!!"


def test_surplus_bytes_in_chunks_are_part_of_the_body(bench: Bench) -> None:
    bench.proxy.add(Fault(Surplus(5, chunked=True), kind="GET"))
    assert bench.get() == (200, BODY + b"!!!!!")


def test_understate_announces_less_than_it_sends(bench: Bench) -> None:
    bench.proxy.add(Fault(Understate(by=100), kind="GET"))
    assert bench.get() == (200, BODY[:-100])


@pytest.mark.parametrize("at", [0, 1, 300_000, len(BODY) - 1])
def test_flip_changes_the_one_byte(bench: Bench, at: int) -> None:
    bench.proxy.add(Fault(FlipByte(at), kind="GET"))
    _, body = bench.get()
    assert [index for index in range(len(BODY)) if body[index] != BODY[index]] == [at]
    assert len(body) == len(BODY)


def test_answers_come_as_often_as_told_and_then_the_server_does(bench: Bench) -> None:
    bench.proxy.add(Fault(Answer(503, "SlowDown"), kind="GET", key="big", nth=2, times=2))
    answers = [bench.get() for _ in range(4)]
    assert [status for status, _ in answers] == [200, 503, 503, 200]
    assert b"<Code>SlowDown</Code>" in answers[1][1]


def test_an_answer_to_a_put_leaves_the_object_alone(bench: Bench) -> None:
    bench.proxy.add(Fault(Answer(500), kind="PUT"))
    client = bench.server.client(bench.proxy.endpoint)
    with pytest.raises(client.exceptions.ClientError, match="InternalError"):
        client.put_object(Bucket=bench.bucket, Key="put", Body=BODY)
    assert bench.get("put")[0] == 404
    client.put_object(Bucket=bench.bucket, Key="put", Body=BODY)
    assert bench.get("put") == (200, BODY)


def test_headers_can_be_altered_either_way(bench: Bench) -> None:
    bench.proxy.add(Fault(SetHeader("ETag", '"other"'), kind="HEAD"))
    bench.proxy.add(Fault(DropRequestHeader("Range"), kind="GET"))
    client = bench.server.client(bench.proxy.endpoint)
    assert client.head_object(Bucket=bench.bucket, Key="big")["ETag"] == '"other"'
    assert bench.get(Range="bytes=0-9") == (200, BODY)
    assert bench.get(Range="bytes=0-9") == (206, BODY[:10])


def test_a_call_can_replace_the_object_before_the_nth_request(bench: Bench) -> None:
    planting = bench.server.client()
    planting.put_object(Bucket=bench.bucket, Key="moving", Body=b"old")
    bench.proxy.add(
        Fault(
            Call(lambda: planting.put_object(Bucket=bench.bucket, Key="moving", Body=b"new")),
            match=lambda record: record.key == "moving",
            nth=2,
        )
    )
    assert [bench.get("moving")[1] for _ in range(3)] == [b"old", b"new", b"new"]


def test_a_server_that_is_gone_is_a_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Proxy(f"http://127.0.0.1:{port}") as proxy, pytest.raises(urllib.error.HTTPError, match="502"):
        urllib.request.urlopen(f"{proxy.endpoint}/b/k")


def test_a_cut_connection_is_cut_although_a_forked_child_lives(bench: Bench) -> None:
    connection = http.client.HTTPConnection(urlsplit(bench.proxy.endpoint).netloc, timeout=1_000)
    connection.request("GET", f"/{bench.bucket}/big", headers={"Range": "bytes=0-0"})
    connection.getresponse().read()
    leave, stay = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(stay)
        os.read(leave, 1)
        os._exit(0)
    bench.proxy.add(Fault(Reset(after=0), kind="GET"))
    try:
        connection.request("GET", f"/{bench.bucket}/big")
        with pytest.raises(ConnectionResetError):
            connection.getresponse().read()
    finally:
        os.close(stay)
        os.close(leave)
        os.waitpid(child, 0)
        connection.close()


def test_a_proxy_in_its_own_process_counts_the_same(bench: Bench) -> None:
    with proxy_process(bench.server.endpoint) as remote:
        with urllib.request.urlopen(f"{remote.endpoint}/{bench.bucket}/big") as response:
            assert response.read() == BODY
        assert remote.counts.kinds == {"GET": 1}
        assert remote.counts.body_bytes == len(BODY)
        assert [record.key for record in remote.records] == ["big"]
        remote.reset()
        assert remote.counts.kinds == {}
