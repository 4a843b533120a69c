"""Cold reads of many small objects, compared with the bare transport that writes plain files, and with the peers."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from harness import contestants as transports
from harness.rounds import Contestant, compete, options

from tests.harness.servers import s3_server


def main() -> None:
    args = options(__doc__ or "", objects=1000, size=65536, threads=8, rounds=7, peer_objects=100)
    with s3_server() as server:
        bucket = server.new_bucket("bench")
        client = transports.boto3_client(server)
        keys = [f"small/{number:05d}" for number in range(args.objects)]
        transports.in_threads(
            lambda key: len(client.put_object(Bucket=bucket, Key=key, Body=os.urandom(args.size))), keys, args.threads
        )
        few = keys[: args.peer_objects]
        # Read other objects first: connections, endpoint rules and imports are not part of a cold read.
        first = [f"first/{number:05d}" for number in range(4 * args.threads)]
        transports.in_threads(
            lambda key: len(client.put_object(Bucket=bucket, Key=key, Body=b"x")), first, args.threads
        )

        def timed(read: transports.Read, wanted: list[str]) -> float:
            transports.in_threads(read, first, args.threads)
            return transports.in_threads(read, wanted, args.threads)

        store = transports.obstore_store(server, bucket)

        def boto3_files(work: Path) -> float:
            return timed(transports.boto3_files(client, bucket, work), keys)

        def obstore_files(work: Path) -> float:
            return timed(transports.obstore_files(store, work), keys)

        def ours(work: Path, fast: bool = False) -> float:
            cloud = transports.ours(server, work / "store", fast=fast, freshness="immutable")
            seconds = timed(lambda key: len(cloud.CloudPath(f"s3://{bucket}/{key}").read_bytes()), keys)
            cloud.cache.close()
            return seconds

        def peer(make: object, work: Path) -> float:
            read = make(server, bucket, work)  # type: ignore[operator]
            return timed(read, few) * len(keys) / len(few)

        compete(
            f"cold read of {args.objects} x {args.size >> 10} KiB, {args.threads} threads",
            [
                Contestant("boto3, plain files", boto3_files),
                Contestant("ours", ours, "boto3, plain files", "<= 1.11"),
                Contestant("obstore, plain files", obstore_files, "boto3, plain files"),
                Contestant("ours, fast", partial(ours, fast=True), "obstore, plain files", "<= 1.11"),
                Contestant("cloudpathlib", partial(peer, transports.cloudpathlib_read), "ours", ">= 8"),
                Contestant("cloudpathlib, again", partial(peer, transports.cloudpathlib_read), "ours, fast", ">= 20"),
                Contestant("fsspec simplecache", partial(peer, transports.simplecache_read), "ours"),
            ],
            args.rounds,
            as_json=args.json,
        )


if __name__ == "__main__":
    main()
