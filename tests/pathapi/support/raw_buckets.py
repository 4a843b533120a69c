"""The buckets under test, by other means than the backends: plain files, and the clouds' own SDKs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pathapi.backends.azure.connection import AzureConnection
from pathapi.backends.file.metadata import RACY_NS
from pathapi.backends.gs.connection import GSConnection
from pathapi.backends.s3.connection import S3Connection
from tests.harness.azure_servers import AzureServer
from tests.harness.servers import GCSServer, S3Server

TESTS_OF_COPY_CONDITIONS = (
    "test_a_copy_takes_only_the_version_expected",
    *(
        f"{test}[{way}]"
        for test in (
            "test_an_object_is_created_only_once",
            "test_a_stale_version_is_not_replaced",
            "test_one_of_concurrent_writers_wins",
        )
        for way in ("copy", "copy of a version", "copy across")
    ),
)
"""Tests of `BackendSuite` that fail on a server which ignores conditions on a copy."""


class FileRawBucket:
    """Files below *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def plant(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()

    def content(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def settle(self) -> None:
        time.sleep(2 * RACY_NS / 1e9)


class S3RawBucket:
    """One bucket, by a raw boto3 client."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self.bucket = bucket

    def plant(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def content(self, key: str) -> bytes | None:
        try:
            data: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except self.client.exceptions.ClientError as error:
            # By status: moto quotes a key with control characters in XML that nobody can read.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return data

    def settle(self) -> None:
        """ETags are never racy."""


class PrefixedRawBucket(S3RawBucket):
    """A part of a bucket."""

    def __init__(self, ground: S3RawBucket, prefix: str) -> None:
        super().__init__(ground.client, ground.bucket)
        self._prefix = prefix

    def plant(self, key: str, data: bytes) -> None:
        super().plant(self._prefix + key, data)

    def remove(self, key: str) -> None:
        super().remove(self._prefix + key)

    def content(self, key: str) -> bytes | None:
        return super().content(self._prefix + key)


class GCSRawBucket:
    """A bucket, or what is below *prefix* in it, by a raw client of google-cloud-storage."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self._bucket = client.bucket(bucket)
        self._prefix = prefix

    def _blob(self, key: str) -> Any:
        return self._bucket.blob(self._prefix + key)

    def plant(self, key: str, data: bytes) -> None:
        self._blob(key).upload_from_string(data)

    def remove(self, key: str) -> None:
        self._blob(key).delete()

    def content(self, key: str) -> bytes | None:
        from google.api_core.exceptions import NotFound

        try:
            data: bytes = self._blob(key).download_as_bytes(raw_download=True)
        except NotFound:
            return None
        return data

    def settle(self) -> None:
        """Generations are never racy."""


def gs_connection_to(server: GCSServer, endpoint: str | None = None, **settings: Any) -> GSConnection:
    """How the code under test reaches *server*, through a proxy at *endpoint* if there is one."""
    return GSConnection(endpoint_url=endpoint or server.endpoint, **settings)


class AzureRawBucket:
    """One container, or the part of it below *prefix*, by a raw client of the SDK."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self.client = client.get_container_client(bucket)
        self.bucket = bucket
        self._prefix = prefix

    def plant(self, key: str, data: bytes) -> None:
        self.client.upload_blob(self._prefix + key, data, overwrite=True)

    def remove(self, key: str) -> None:
        self.client.delete_blob(self._prefix + key)

    def content(self, key: str) -> bytes | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            data: bytes = self.client.download_blob(self._prefix + key).readall()
        except ResourceNotFoundError:
            return None
        return data

    def settle(self) -> None:
        """ETags are never racy."""


def azure_connection_to(server: AzureServer, endpoint: str | None = None, **settings: Any) -> AzureConnection:
    """How the code under test logs in to *server*, through a proxy at *endpoint* if there is one."""
    return AzureConnection(connection_string=server.connection_string(endpoint), **settings)


def connection_to(server: S3Server, endpoint: str | None = None, **settings: Any) -> S3Connection:
    """How the code under test logs in to *server*, through a proxy at *endpoint* if there is one."""
    return S3Connection(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region=server.region,
        endpoint_url=endpoint or server.endpoint,
        **settings,
    )
