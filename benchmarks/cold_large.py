"""Cold reads of large objects, compared with the same transport without a store, and with the peers."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from harness import contestants as transports
from harness.rounds import Contestant, compete, options

from tests.harness.servers import s3_server

PART = 8 << 20


def boto3_parts(client: Any, bucket: str, key: str, size: int, target: Path, threads: int) -> None:
    """Download like `ours`, but without a store: ranged GETs in threads, written to one file."""
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, size)

    def part(start: int) -> None:
        end = min(start + PART, size)
        body = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")["Body"]
        buffer = memoryview(bytearray(1 << 20))
        while count := body.readinto(buffer):
            os.pwrite(descriptor, buffer[:count], start)
            start += count

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(0, size, PART)))
    os.close(descriptor)


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    args = options(__doc__ or "", mib=256, threads=8, rounds=5)
    size = args.mib << 20
    with s3_server() as server:
        bucket = server.new_bucket("bench")
        client = transports.boto3_client(server)
        key = "large/object.bin"
        with open(os.path.join(transports.scratch(), "source"), "wb+") as source:
            source.writelines(os.urandom(1 << 20) for _ in range(args.mib))
            source.seek(0)
            client.upload_fileobj(source, bucket, key)
            os.unlink(source.name)
        store = transports.obstore_store(server, bucket)

        def bare(work: Path) -> float:
            return timed(lambda: boto3_parts(client, bucket, key, size, work / "file", args.threads))

        def download_fileobj(work: Path) -> float:
            with open(work / "file", "wb") as file:
                return timed(lambda: client.download_fileobj(bucket, key, file))

        def obstore_stream(work: Path) -> float:
            import obstore

            def run() -> None:
                with open(work / "file", "wb") as file:
                    file.writelines(obstore.get(store, key).stream(min_chunk_size=1 << 20))

            return timed(run)

        def ours(work: Path, fast: bool = False) -> float:
            cloud = transports.ours(server, work / "store", fast=fast, freshness="immutable")
            cloud.backend(bucket).head(key)
            path = cloud.CloudPath(f"s3://{bucket}/{key}")

            def run() -> None:
                with path.open("rb") as file:
                    assert file.seek(0, os.SEEK_END) == size

            seconds = timed(run)
            cloud.cache.close()
            return seconds

        def cloudpathlib(work: Path) -> float:
            path = transports.cloudpathlib_client(server, work).CloudPath(f"s3://{bucket}/{key}")
            return timed(lambda: path.fspath)

        def simplecache(work: Path) -> float:
            system = transports.simplecache(server, work)
            return timed(lambda: system.open(f"{bucket}/{key}", "rb").close())

        compete(
            f"cold read of one object of {args.mib} MiB",
            [
                Contestant("boto3, parts to a plain file", bare),
                Contestant("ours", ours, "boto3, parts to a plain file", "<= 1.11"),
                Contestant("boto3 download_fileobj", download_fileobj, "boto3, parts to a plain file"),
                Contestant("obstore, stream to a plain file", obstore_stream, "boto3, parts to a plain file"),
                Contestant("ours, fast", partial(ours, fast=True), "obstore, stream to a plain file", "<= 1.05"),
                Contestant("cloudpathlib", cloudpathlib, "ours"),
                Contestant("fsspec simplecache", simplecache, "ours"),
            ],
            args.rounds,
            as_json=args.json,
        )


if __name__ == "__main__":
    main()
