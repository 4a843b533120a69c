"""One dataset on three clouds, read through one store: stored once, and none of them answers for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pathapi import AzureBlobClient, GSClient, S3Client
from tests.harness.azure_servers import AzureServer
from tests.harness.servers import GCSServer, S3Server
from tests.pathapi.support.raw_buckets import AzureRawBucket, GCSRawBucket, S3RawBucket

FILES = {f"data/{number}.bin": os.urandom(10_000 + number) for number in range(6)}


@pytest.fixture
def roots(
    tmp_path: Path,
    seaweed: S3Server,
    gcs: GCSServer,
    azurite: AzureServer,
    shared_bucket: str,
    gcs_bucket: str,
    shared_container: str,
) -> dict[str, tuple[Any, Any]]:
    """By scheme: a "directory" by a client of the one store, and its bucket by other means."""
    store = tmp_path / "store"
    name = f"{tmp_path.name}/"
    s3 = S3Client(
        aws_access_key_id=seaweed.access_key,
        aws_secret_access_key=seaweed.secret_key,
        region=seaweed.region,
        endpoint_url=seaweed.endpoint,
        local_cache_dir=store,
    )
    gs = GSClient(endpoint_url=gcs.endpoint, local_cache_dir=store)
    az = AzureBlobClient(connection_string=azurite.connection_string(), local_cache_dir=store)
    return {
        "s3": (s3.CloudPath(f"s3://{shared_bucket}/{name}"), S3RawBucket(seaweed.client(), shared_bucket)),
        "gs": (gs.CloudPath(f"gs://{gcs_bucket}/{name}"), GCSRawBucket(gcs.client(), gcs_bucket)),
        "az": (az.CloudPath(f"az://{shared_container}/{name}"), AzureRawBucket(azurite.client(), shared_container)),
    }


def test_what_three_clouds_hold_is_stored_once_and_du_says_so(
    roots: dict[str, tuple[Any, Any]], tmp_path: Path
) -> None:
    for root, ground in roots.values():
        for name, data in FILES.items():
            ground.plant(f"{root.uri.key}{name}", data)
    for root, _ in roots.values():
        assert {name: (root / name).read_bytes() for name in FILES} == FILES
    cache = roots["s3"][0].client.cache
    cache.flush()
    size = sum(map(len, FILES.values()))
    usage = cache.usage()
    assert (usage.entries, usage.blobs) == (3 * len(FILES), len(FILES))
    assert (usage.logical_bytes, usage.stored_bytes) == (3 * size, size)
    told = subprocess.run(
        [sys.executable, "-m", "casstore", "--dir", str(tmp_path / "store"), "du", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=1_000,
    )
    total = json.loads(told.stdout)["total"]
    assert (total["entries"], total["blobs"], total["stored_bytes"]) == (3 * len(FILES), len(FILES), size)


def test_one_key_in_three_clouds_is_three_objects(roots: dict[str, tuple[Any, Any]]) -> None:
    for scheme, (root, _) in roots.items():
        (root / "same").write_text(f"of {scheme}")
    for scheme, (root, _) in roots.items():
        for freshness in ("immutable", "always", "offline"):
            assert (root / "same").read_bytes(freshness=freshness) == f"of {scheme}".encode()
    roots["gs"][0].joinpath("same").unlink()
    assert (roots["s3"][0] / "same").read_text() == "of s3"
    assert (roots["az"][0] / "same").read_text() == "of az"
    with pytest.raises(FileNotFoundError):
        (roots["gs"][0] / "same").read_text()


def test_an_object_goes_from_cloud_to_cloud_and_back(roots: dict[str, tuple[Any, Any]]) -> None:
    s3, gs, az = (roots[scheme][0] for scheme in ("s3", "gs", "az"))
    (s3 / "travels").write_bytes(data := os.urandom(50_000))
    (s3 / "travels").move(gs / "travels")
    (gs / "travels").move(az / "travels")
    assert not (s3 / "travels").exists() and not (gs / "travels").exists()
    assert (az / "travels").read_bytes() == data
    (az / "travels").copy(s3 / "travels")
    assert roots["s3"][1].content(f"{s3.uri.key}travels") == data
