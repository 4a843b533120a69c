"""What a listing said long ago: no answer to questions any more, but a hint to reads, which have it confirmed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from casstore import Moment, Validator
from pathapi import S3Client, S3Path
from pathapi.backend import ObjectInfo
from pathapi.reading import listing_cache as listings
from pathapi.reading.listing_cache import SECONDS, ListedFact, Listings
from tests.harness.proxy import Proxy
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import S3RawBucket

DATA = os.urandom(60_000)
AGE = int(3 * SECONDS * 1e9)


class Clock:
    """Stands in for the boot clock; *ns* is what it says."""

    def __init__(self) -> None:
        self.ns = 10**15

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(listings, "boot_clock_ns", clock)
    return clock


def listed_at(clock: Clock, key: str = "a") -> ListedFact:
    return ListedFact(ObjectInfo(key, Validator(1, etag="e")), Moment(0, clock.ns, 0))


def test_an_old_listing_answers_nothing_and_is_still_a_hint(clock: Clock) -> None:
    known, said = Listings(), listed_at(clock)
    assert known.recall("b", "a", said) is said
    clock.ns += AGE
    assert known.recall("b", "a", said) is None
    assert known.recall_any_age("b", "a", said) is said


def test_a_write_through_the_client_ends_the_hint_for_good(clock: Clock) -> None:
    """Also once the client no longer remembers that very write, and forgot it on the occasion of another."""
    known, said = Listings(), listed_at(clock)
    clock.ns += 1
    known.forget("b", "a")
    assert known.recall_any_age("b", "a", said) is None
    clock.ns += AGE
    known.forget("b", "other")
    assert known.recall_any_age("b", "a", said) is None
    assert known.recall_any_age("b", "a", listed_at(clock)) is not None


@pytest.mark.usefixtures("md5_believed")
@pytest.mark.parametrize(("freshness", "requests"), [("immutable", {}), ("always", {"GET": 1})])
def test_an_object_listed_long_ago_whose_bytes_are_held_is_not_downloaded(
    make_client: MakeClient, ground: S3RawBucket, proxy: Proxy, at: str, freshness: str, requests: dict[str, int]
) -> None:
    """An epoch over a listed dataset takes longer than a listing is believed: the same bytes still travel once."""
    client = make_client(freshness=freshness)
    child = list_long_ago(client, ground, at)
    proxy.reset()
    assert child.read_bytes() == DATA
    assert proxy.counts.kinds == requests
    assert proxy.body_bytes == 0


@pytest.mark.usefixtures("md5_believed")
def test_an_object_listed_long_ago_is_read_as_it_is_now(client: S3Client, ground: S3RawBucket, at: str) -> None:
    child = list_long_ago(client, ground, at)
    ground.plant(at + "v2/a", b"changed")
    assert child.read_bytes() == b"changed"


def list_long_ago(client: S3Client, ground: S3RawBucket, at: str) -> S3Path:
    """A child whose bytes are held under another name, as a listing gave it well over `SECONDS` ago."""
    for version in ("v1", "v2"):
        ground.plant(f"{at}{version}/a", DATA)
    assert client.S3Path(f"s3://{ground.bucket}/{at}v1/a").read_bytes() == DATA
    client.cache.flush()
    (child,) = client.S3Path(f"s3://{ground.bucket}/{at}v2/").iterdir()
    said = child._listed
    assert said is not None
    moment = replace(said.moment, wall_ns=said.moment.wall_ns - AGE, boot_ns=said.moment.boot_ns - AGE)
    child._listed = said._replace(moment=moment)
    client.listings = Listings()  # The client itself no longer remembers.
    return child
