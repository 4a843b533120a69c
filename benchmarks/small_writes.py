"""Writes of many small objects: the cost of crash safety, compared with the bare transport and the peer."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from harness import contestants as transports
from harness.rounds import Contestant, compete, options

from tests.harness.servers import s3_server


def main() -> None:
    args = options(__doc__ or "", objects=200, size=65536, threads=8, rounds=7, peer_objects=50)
    with s3_server() as server:
        bucket = server.new_bucket("bench")
        client = transports.boto3_client(server)
        data = os.urandom(args.size)
        made = 0

        def timed(write: transports.Read, count: int) -> float:
            """Return the seconds for *count* new objects, after a warm-up."""
            nonlocal made
            made += 1
            transports.in_threads(write, [f"{made}/first/{number}" for number in range(2 * args.threads)], args.threads)
            keys = [f"{made}/{number:05d}" for number in range(count)]
            return transports.in_threads(write, keys, args.threads) * args.objects / count

        def boto3(_: Path, **conditions: Any) -> float:
            def put(key: str) -> int:
                client.put_object(Bucket=bucket, Key=key, Body=os.urandom(16) + data, **conditions)
                return 1

            return timed(put, args.objects)

        def ours(work: Path, force: bool = False) -> float:
            cloud = transports.ours(server, work / "store")

            def write(key: str) -> int:
                path = cloud.CloudPath(f"s3://{bucket}/{key}")
                if force:
                    return int(path.write_bytes(os.urandom(16) + data, force_overwrite_to_cloud=True))
                with path.open("xb") as file:
                    return int(file.write(os.urandom(16) + data))

            seconds = timed(write, args.objects)
            cloud.cache.close()
            return seconds

        def cloudpathlib(work: Path) -> float:
            write = transports.cloudpathlib_write(server, bucket, work, lambda: os.urandom(16) + data)
            return timed(write, args.peer_objects)

        compete(
            f"{args.objects} new objects of {args.size >> 10} KiB, {args.threads} threads",
            [
                Contestant("boto3 put_object", boto3),
                Contestant("boto3 put_object, If-None-Match", partial(boto3, IfNoneMatch="*"), "boto3 put_object"),
                Contestant("ours, open x", ours, "boto3 put_object, If-None-Match"),
                Contestant("ours, forced", partial(ours, force=True), "boto3 put_object"),
                Contestant("cloudpathlib", cloudpathlib, "ours, open x"),
            ],
            args.rounds,
            as_json=args.json,
        )


if __name__ == "__main__":
    main()
