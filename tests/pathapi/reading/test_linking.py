"""Bytes that the store holds under another name are not downloaded again, and nobody's word is taken for them."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import pytest

from casstore import ProviderChecksum
from pathapi import S3Client, S3Path, prefetch, prefetching
from pathapi.metadata import listing as tree
from pathapi.reading.download import PART
from pathapi.reading.reader import UNREAD_FROM
from tests.harness.faults import Fault, SetHeader
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

DATA = os.urandom(60_000)


def root_of(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    return client.S3Path(f"s3://{ground.bucket}/{at}")


def hold(client: S3Client, ground: S3RawBucket, key: str, data: bytes) -> None:
    """Have *data* in the store, read from *key*."""
    ground.plant(key, data)
    assert client.S3Path(f"s3://{ground.bucket}/{key}").read_bytes() == data
    client.cache.flush()


@pytest.mark.usefixtures("md5_believed")
@pytest.mark.parametrize(
    ("freshness", "requests"), [(60, {}), ("immutable", {}), ("always", {"GET": 1})], ids=["ttl", "immutable", "always"]
)
def test_a_listed_object_whose_bytes_are_held_is_not_downloaded(
    make_client: MakeClient, ground: S3RawBucket, proxy: Proxy, at: str, freshness: Any, requests: dict[str, int]
) -> None:
    client = make_client(freshness=freshness)
    hold(client, ground, at + "v1/a", DATA)
    ground.plant(at + "v2/a", DATA)
    (child,) = root_of(client, ground, at + "v2/").iterdir()
    proxy.reset()
    assert child.read_bytes() == DATA
    assert proxy.counts.kinds == requests
    assert proxy.body_bytes == 0
    proxy.reset()
    assert child.read_bytes() == DATA
    assert proxy.counts.kinds == requests
    client.cache.flush()
    assert client.cache.usage(f"s3://{ground.bucket}/{at}").blobs == 1


@pytest.mark.usefixtures("md5_believed")
def test_a_listed_object_that_changed_since_is_read_anew(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    hold(client, ground, at + "v1/a", DATA)
    ground.plant(at + "v2/a", DATA)
    (child,) = root_of(client, ground, at + "v2/").iterdir()
    ground.plant(at + "v2/a", b"changed")
    assert child.read_bytes() == b"changed"


@pytest.mark.usefixtures("md5_believed")
def test_a_statement_that_is_wrong_never_links(client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str) -> None:
    other = os.urandom(len(DATA))
    lie = hashlib.md5(other).hexdigest()
    ground.plant(at + "a", DATA)
    proxy.add(Fault(SetHeader("ETag", f'"{lie}"'), kind="GET"))
    path = root_of(client, ground, at) / "a"
    assert path.read_bytes() == DATA
    client.cache.flush()
    assert client.cache.may_have_checksum([ProviderChecksum(client.origin, "etag-md5", lie, len(DATA))]), (
        "the lie is remembered"
    )
    ground.plant(at + "b/a", other)
    (child,) = root_of(client, ground, at + "b/").iterdir()
    assert child.read_bytes(freshness="immutable") == other


@pytest.mark.usefixtures("md5_believed")
def test_the_etag_of_an_upload_in_parts_never_links(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    raw, data = ground.client, os.urandom(5 << 20) + b"end"
    for name in ("v1/a", "v2/a"):
        started = raw.create_multipart_upload(Bucket=ground.bucket, Key=at + name)["UploadId"]
        parts = []
        for number, piece in ((1, data[: 5 << 20]), (2, data[5 << 20 :])):
            where = {"Bucket": ground.bucket, "Key": at + name, "UploadId": started, "PartNumber": number}
            parts.append({"PartNumber": number, "ETag": raw.upload_part(Body=piece, **where)["ETag"]})
        raw.complete_multipart_upload(
            Bucket=ground.bucket, Key=at + name, UploadId=started, MultipartUpload={"Parts": parts}
        )
    (root_of(client, ground, at) / "v1/a").read_bytes()
    client.cache.flush()
    (child,) = root_of(client, ground, at + "v2/").iterdir()
    assert "-" in child.etag
    proxy.reset()
    assert child.read_bytes(freshness="immutable") == data
    assert proxy.body_bytes == len(data)
    client.cache.flush()
    assert client.cache.usage(f"s3://{ground.bucket}/{at}").blobs == 1, "the same bytes are kept once all the same"


@pytest.mark.usefixtures("md5_believed")
def test_a_large_body_whose_checksum_is_known_is_not_read(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    data = os.urandom(UNREAD_FROM + 3 * PART)
    hold(client, ground, at + "a", data)
    ground.plant(at + "b", data)
    proxy.reset()
    assert (root_of(client, ground, at) / "b").read_bytes() == data
    assert proxy.count("GET") == 1
    assert proxy.body_bytes <= PART


def test_statements_are_kept_apart_by_origin_unless_told_otherwise(
    make_client: MakeClient, ground: S3RawBucket, seaweed: S3Server, at: str
) -> None:
    """Two endpoints: the proxy's and the server's own. They share no entry, and blobs only by content."""
    ground.plant(at + "v1/a", DATA)
    ground.plant(at + "v2/a", DATA)
    with Proxy(seaweed.endpoint) as other:
        for mode, downloaded in (("origin", len(DATA)), ("off", len(DATA)), ("all", 0)):
            client = make_client(dedup_by_checksum=mode)
            client.cache.evict(lambda _: True)
            root_of(client, ground, at + "v1/a").read_bytes()
            client.cache.flush()
            elsewhere = make_client(dedup_by_checksum=mode, endpoint_url=other.endpoint)
            other.reset()
            (child,) = root_of(elsewhere, ground, at + "v2/").iterdir()
            assert child.read_bytes(freshness="immutable") == DATA
            assert other.body_bytes == downloaded, mode


def test_without_recognition_nothing_links(make_client: MakeClient, ground: S3RawBucket, proxy: Proxy, at: str) -> None:
    client = make_client(dedup_by_checksum="off")
    hold(client, ground, at + "v1/a", DATA)
    ground.plant(at + "v2/a", DATA)
    (child,) = root_of(client, ground, at + "v2/").iterdir()
    proxy.reset()
    assert child.read_bytes(freshness="immutable") == DATA
    assert proxy.body_bytes == len(DATA)


def test_two_servers_with_one_bucket_and_key_never_answer_for_each_other(
    make_client: MakeClient, ground: S3RawBucket, moto: S3Server, at: str
) -> None:
    moto.client().create_bucket(Bucket=ground.bucket)
    moto.client().put_object(Bucket=ground.bucket, Key=at + "a", Body=b"of moto")
    ground.plant(at + "a", b"of weed")
    one, two = make_client(freshness="immutable"), make_client(freshness="immutable", endpoint_url=moto.endpoint)
    for _ in range(2):
        assert root_of(one, ground, at + "a").read_bytes() == b"of weed"
        assert root_of(two, ground, at + "a").read_bytes() == b"of moto"
    assert one.cache is two.cache
    two.clear_cache()
    assert root_of(one, ground, at + "a").read_bytes(freshness="offline") == b"of weed"
    with pytest.raises(OSError, match="not cached"):
        root_of(two, ground, at + "a").read_bytes(freshness="offline")


def test_one_size_and_one_mtime_and_different_etags_are_two_versions(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    stamp = "Mon, 23 Nov 2026 00:00:00 GMT"
    proxy.add(Fault(SetHeader("Last-Modified", stamp), times=None))
    path = root_of(client, ground, at) / "a"
    for data in (b"first", b"other"):
        ground.plant(at + "a", data)
        assert path.read_bytes() == data
        assert path.stat().st_mtime == 1795392000


def test_a_version_with_an_older_mtime_is_a_new_version(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    path = root_of(client, ground, at) / "a"
    for data, year in ((b"first", 2026), (b"other", 2020)):
        proxy.clear_faults()
        proxy.add(Fault(SetHeader("Last-Modified", f"Mon, 23 Nov {year} 00:00:00 GMT"), times=None))
        ground.plant(at + "a", data)
        assert path.read_bytes() == data


def test_bytes_under_a_new_etag_are_stored_once(client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str) -> None:
    path = root_of(client, ground, at) / "a"
    ground.plant(at + "a", DATA)
    assert path.read_bytes() == DATA
    proxy.add(Fault(SetHeader("ETag", '"another"'), kind="GET"))
    ground.plant(at + "a", b"")
    ground.plant(at + "a", DATA)
    client.cache.flush()
    proxy.reset()
    assert path.read_bytes() == DATA
    client.cache.flush()
    usage = client.cache.usage(f"s3://{ground.bucket}/{at}")
    assert (usage.entries, usage.blobs) == (1, 1)


# --- prefetching ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("md5_believed")
def test_a_prefix_whose_bytes_are_all_held_elsewhere_is_fetched_without_a_body(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    contents = [os.urandom(2_000 + number) for number in range(30)]
    for number, data in enumerate(contents):
        ground.plant(f"{at}v1/{number}", data)
        ground.plant(f"{at}v2/deep/{number}", data)
    first = prefetch(root_of(client, ground, at + "v1/"))
    assert (first.files, first.held, first.errors) == (30, 0, [])
    assert proxy.body_bytes == sum(map(len, contents))
    proxy.reset()
    second = prefetch(root_of(client, ground, at + "v2/"))
    assert (second.files, second.bytes, second.errors) == (30, sum(map(len, contents)), [])
    assert proxy.body_bytes == 0
    assert proxy.counts.kinds == {"LIST": 1}
    proxy.reset()
    third = prefetch(root_of(client, ground, at + "v2/"))
    assert (third.files, third.held) == (30, 30)
    assert proxy.counts.kinds == {"LIST": 1}


def test_a_prefetch_takes_the_listed_version_though_an_older_one_was_just_validated(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    ground.plant(at + "a", b"first")
    assert (root_of(client, ground, at) / "a").read_bytes() == b"first"
    ground.plant(at + "a", b"other")
    prefetch(root_of(client, ground, at))
    assert (root_of(client, ground, at) / "a").read_bytes(freshness="offline") == b"other"


def test_a_prefetch_goes_on_after_one_object_failed(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    from tests.harness.faults import Answer

    for number in range(20):
        ground.plant(f"{at}{number}", str(number).encode())
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="GET", key=at + "7", times=None))
    done = prefetch([root_of(client, ground, at), root_of(client, ground, "nothing-there/")], threads=3)
    assert done.files == 19
    assert sorted(uri.rpartition("/")[2] for uri, _ in done.errors) == ["", "7"]
    assert all((root_of(client, ground, at) / str(n)).read_bytes(freshness="offline") for n in range(20) if n != 7)


@pytest.mark.usefixtures("md5_believed")
def test_a_long_prefetch_goes_by_its_listing_to_the_end(
    client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last objects of a million have their turn long after the listing began."""
    for number in range(5):
        ground.plant(f"{at}{number}", os.urandom(100))
    prefetch(root_of(client, ground, at))
    monkeypatch.setattr(tree, "SECONDS", 0)
    time.sleep(0.1)
    proxy.reset()
    assert prefetch(root_of(client, ground, at), threads=1).held == 5
    assert proxy.counts.kinds == {"LIST": 1}


def test_a_prefetch_ends_although_every_thread_meets_a_bug(
    client: S3Client, ground: S3RawBucket, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        ground.plant(f"{at}{number}", b"")

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(prefetching, "open_stored", fail)
    assert len(prefetch(root_of(client, ground, at), threads=2).errors) == 20
