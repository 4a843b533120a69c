"""The bare transports and the peers that the benchmarks compare with, all on one server."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.harness.servers import S3Server

Read = Callable[[str], int]
"""Reads one key into the contestant's cache or directory, and returns the number of bytes."""


def in_threads(read: Read, keys: Sequence[str], threads: int) -> float:
    """Return the seconds that *threads* threads need to read all *keys*."""
    left = iter(keys)
    mutex = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while True:
            with mutex:
                key = next(left, None)
            if key is None:
                return
            try:
                assert read(key) > 0
            except BaseException as error:
                failures.append(error)
                raise

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    if failures:
        raise failures[0]
    return seconds


def ours(server: S3Server, store: Path, *, fast: bool = False, **habits: Any) -> Any:
    """Return a client with its own store; *fast* reads through obstore."""
    from pathapi import S3Client

    # Read by the first request to each bucket, before the next contestant starts.
    os.environ["CASSTORE_FAST"] = "1" if fast else "0"

    return S3Client(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region=server.region,
        endpoint_url=server.endpoint,
        local_cache_dir=store,
        **habits,
    )


def boto3_client(server: S3Server) -> Any:
    """Return boto3's client, configured as in `ours`."""
    from pathapi.backends.s3.connection import S3Connection

    return S3Connection(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region=server.region,
        endpoint_url=server.endpoint,
    ).client


def boto3_files(client: Any, bucket: str, directory: Path) -> Read:
    """Return a function that writes an object to a plain file."""

    def read(key: str) -> int:
        data = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        with open(directory / key.replace("/", "_"), "wb") as file:
            return file.write(data)

    return read


def obstore_store(server: S3Server, bucket: str) -> Any:
    """Return obstore's store of the bucket."""
    from obstore.store import S3Store

    return S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region=server.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def obstore_files(store: Any, directory: Path) -> Read:
    """Return a function that writes an object to a plain file, through obstore."""
    import obstore

    def read(key: str) -> int:
        data = obstore.get(store, key).bytes()
        with open(directory / key.replace("/", "_"), "wb") as file:
            return file.write(data)

    return read


def scratch() -> str:
    """Create a directory on the contestants' disk."""
    return tempfile.mkdtemp(prefix="casstore-bench-")


def remove(directory: str | os.PathLike[str]) -> None:
    """Delete a `scratch` directory."""
    shutil.rmtree(directory, ignore_errors=True)


def cloudpathlib_client(server: S3Server, directory: Path) -> Any:
    """Return cloudpathlib's client, with a persistent cache."""
    import cloudpathlib

    return cloudpathlib.S3Client(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        endpoint_url=server.endpoint,
        local_cache_dir=directory,
    )


def cloudpathlib_read(server: S3Server, bucket: str, directory: Path) -> Read:
    """Return cloudpathlib's `read_bytes`."""
    client = cloudpathlib_client(server, directory)

    def read(key: str) -> int:
        return len(client.CloudPath(f"s3://{bucket}/{key}").read_bytes())

    return read


def cloudpathlib_write(server: S3Server, bucket: str, directory: Path, content: Callable[[], bytes]) -> Read:
    """Return cloudpathlib's `write_bytes`."""
    client = cloudpathlib_client(server, directory)

    def write(key: str) -> int:
        return int(client.CloudPath(f"s3://{bucket}/{key}").write_bytes(content()))

    return write


def simplecache(server: S3Server, directory: Path) -> Any:
    """Return fsspec's simplecache over s3fs."""
    import fsspec

    os.environ.setdefault("AWS_DEFAULT_REGION", server.region)
    target = {"key": server.access_key, "secret": server.secret_key, "client_kwargs": {"endpoint_url": server.endpoint}}
    return fsspec.filesystem(
        "simplecache",
        target_protocol="s3",
        target_options=target,
        cache_storage=str(directory),
        skip_instance_cache=True,
    )


def simplecache_read(server: S3Server, bucket: str, directory: Path) -> Read:
    """Return simplecache's `open` and `read`."""
    system = simplecache(server, directory)

    def read(key: str) -> int:
        with system.open(f"{bucket}/{key}", "rb") as file:
            return len(file.read())

    return read
