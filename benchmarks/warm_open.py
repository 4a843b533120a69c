"""Warm `open("rb")` and close of cached objects, compared with the built-in `open` of the same files, and the peers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import contestants as transports
from harness.rounds import Contestant, compete, options

import casstore
from casstore.index.transactions import Txn
from tests.harness.servers import s3_server


def percentile(opens: Sequence[Callable[[], Any]], repeat: int) -> float:
    """Return the median of single opens in seconds: outliers of the scheduler do not count."""
    clock = time.perf_counter
    times = []
    for _ in range(repeat):
        for one in opens:
            start = clock()
            one().close()
            times.append(clock() - start)
    times.sort()
    return times[len(times) // 2]


def in_threads(opens: Sequence[Callable[[], Any]], repeat: int, threads: int) -> float:
    """Return the seconds per open, over all threads."""
    barrier = threading.Barrier(threads + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(repeat):
            for one in opens:
                one().close()
        barrier.wait()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return seconds / (repeat * len(opens) * threads)


def fill_index(cache: casstore.Cache, entries: int, bucket: str, origin: str) -> None:
    """Add *entries* rows that share one blob: the cost of a lookup depends on the depth of the tree."""
    from casstore.format.records import BlobRecord
    from casstore.index.entries import put_entry

    with cache.begin(casstore.Key("s3://filler/blob", origin)) as fill:
        fill.write(b"x")
        stored = fill.publish(casstore.Validator(1, "etag"))
    os.close(stored.descriptor)
    cache.flush()
    assert stored.entry is not None
    digest = stored.entry.digest

    def put(numbers: range, txn: Txn) -> None:
        for number in numbers:
            key = casstore.Key(f"s3://{bucket}/filler/{number:08d}/object-with-a-usual-name.parquet", origin)
            entry = casstore.Entry(key, digest, casstore.Validator(1, "etag"), cache.now(), cache.boot_mount)
            put_entry(txn, entry, None, BlobRecord(1, cache.boot_mount))

    for start in range(0, entries, 20_000):
        cache.index.write(partial(put, range(start, min(start + 20_000, entries))))


def main() -> None:
    args = options(__doc__ or "", objects=500, size=65536, entries=200_000, threads=8, repeat=20, rounds=7)
    with s3_server() as server:
        bucket = server.new_bucket("bench")
        raw = transports.boto3_client(server)
        keys = [f"warm/{number:05d}" for number in range(args.objects)]
        transports.in_threads(
            lambda key: len(raw.put_object(Bucket=bucket, Key=key, Body=os.urandom(args.size))), keys, 8
        )
        root = Path(transports.scratch())
        client = transports.ours(server, root / "store", freshness="immutable")
        fill_index(client.cache, args.entries, bucket, client.origin)
        paths = [client.CloudPath(f"s3://{bucket}/{key}") for key in keys]
        for path in paths:
            path.read_bytes()
        client.cache.flush()
        blobs = [client.cache.blob_path(client.cache.lookup(client.store_key(path.uri))) for path in paths]
        always = transports.ours(server, root / "store")
        peer = transports.cloudpathlib_client(server, root / "cloudpathlib")
        peers = [peer.CloudPath(str(path)) for path in paths[:20]]
        simple = transports.simplecache(server, root / "simplecache")
        names = [f"{bucket}/{key}" for key in keys[:100]]
        for path in peers:
            path.read_bytes()
        for name in names:
            simple.cat_file(name)

        builtin_opens = [partial(open, blob, "rb") for blob in blobs]
        our_opens = [partial(path.open, "rb") for path in paths]
        asking_opens = [partial(always.CloudPath(str(path)).open, "rb") for path in paths[:100]]
        peer_opens = [partial(path.open, "rb") for path in peers]
        simple_opens = [partial(simple.open, name, "rb") for name in names]
        many = args.threads
        compete(
            f"warm open and close, p50, {args.entries:,} entries",
            [
                Contestant("built-in open", lambda _: percentile(builtin_opens, args.repeat)),
                Contestant("ours", lambda _: percentile(our_opens, args.repeat), "built-in open", "<= 3"),
                Contestant(f"built-in open, {many} threads", lambda _: in_threads(builtin_opens, args.repeat, many)),
                Contestant(
                    f"ours, {many} threads",
                    lambda _: in_threads(our_opens, args.repeat, many),
                    f"built-in open, {many} threads",
                    "<= 4",
                ),
                Contestant("ours, always (a 304 each)", lambda _: percentile(asking_opens, 1), "ours"),
                Contestant("cloudpathlib", lambda _: percentile(peer_opens, 1), "ours"),
                Contestant("fsspec simplecache", lambda _: percentile(simple_opens, 1), "ours"),
            ],
            args.rounds,
            unit=1e6,
            unit_name="us",
            as_json=args.json,
        )
        client.cache.close()
        transports.remove(root)


if __name__ == "__main__":
    main()
