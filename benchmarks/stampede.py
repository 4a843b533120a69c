"""Many processes read the same cold objects: the number of GETs, and the time compared with one process."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from harness import contestants as transports
from harness.rounds import Contestant, compete, options

from tests.harness.proxy import proxy_process
from tests.harness.servers import S3Server, s3_server


def work(
    kind: str,
    server: S3Server,
    bucket: str,
    keys: list[str],
    size: int,
    store: Path,
    shuffled: bool,
    ready: Any,
    go: Any,
) -> None:
    """Run one process: connect, wait for the others, read everything."""
    if kind == "ours":
        client = transports.ours(server, store, freshness="immutable")
        client.backend(bucket).head(keys[0])

        def read(key: str) -> int:
            return len(client.CloudPath(f"s3://{bucket}/{key}").read_bytes())
    else:
        make = {"cloudpathlib": transports.cloudpathlib_read, "fsspec simplecache": transports.simplecache_read}[kind]
        store.mkdir(exist_ok=True)
        read = make(server, bucket, store)
    if shuffled:
        random.shuffle(keys)
    ready.release()
    go.wait()
    try:
        if all(read(key) == size for key in keys):
            return
    except Exception as error:
        if kind == "ours":
            raise
        print(f"{kind}: {type(error).__name__}", file=sys.stderr)
    # A peer returned half a file, or none; the parent counts such processes.
    sys.exit(3)


def main() -> None:
    args = options(__doc__ or "", objects=1000, size=65536, processes=8, rounds=5, peer_objects=50)
    context = multiprocessing.get_context("spawn")
    gets: dict[str, list[int]] = {}
    with s3_server() as server, proxy_process(server.endpoint) as proxy:
        bucket = server.new_bucket("bench")
        raw = transports.boto3_client(server)
        keys = [f"same/{number:05d}" for number in range(args.objects)]
        transports.in_threads(
            lambda key: len(raw.put_object(Bucket=bucket, Key=key, Body=os.urandom(args.size))), keys, 8
        )
        front = S3Server(proxy.endpoint, server.access_key, server.secret_key, server.region, "proxy")

        def run(
            name: str, where: Path, kind: str = "ours", processes: int = args.processes, shuffled: bool = False
        ) -> float:
            wanted = keys if kind == "ours" else keys[: args.peer_objects]
            ready, go = context.Semaphore(0), context.Event()
            arguments = (kind, front, bucket, wanted, args.size, where / "store", shuffled, ready, go)
            workers = [context.Process(target=work, args=arguments, daemon=True) for _ in range(processes)]
            for worker in workers:
                worker.start()
            for _ in workers:
                if not ready.acquire(timeout=120):
                    sys.exit("a worker did not start; see above")
            proxy.reset()
            start = time.perf_counter()
            go.set()
            for worker in workers:
                worker.join()
                assert kind != "ours" or worker.exitcode == 0  # of a peer's failures we say the count
            seconds = time.perf_counter() - start
            failed = sum(worker.exitcode != 0 for worker in workers)
            gets.setdefault(name + (f", {failed} failed" if failed else ""), []).append(
                proxy.counts.kinds.get("GET", 0)
            )
            return seconds * len(keys) / len(wanted)

        many = args.processes
        alone, same, own = "one process", f"{many} processes, same order", f"{many} processes, own orders"
        compete(
            f"{many} processes read the same {args.objects} x {args.size >> 10} KiB, cold",
            [
                Contestant(alone, partial(run, alone, processes=1)),
                Contestant(same, partial(run, same), alone, "<= 1.15"),
                Contestant(own, partial(run, own, shuffled=True), alone, "<= 1.15"),
                Contestant("cloudpathlib", partial(run, "cloudpathlib", kind="cloudpathlib"), same),
                Contestant("fsspec simplecache", partial(run, "fsspec simplecache", kind="fsspec simplecache"), same),
            ],
            args.rounds,
            as_json=args.json,
        )
        for name, counts in gets.items():
            objects = args.objects if "process" in name else args.peer_objects
            print(f"{name}: {min(counts)} to {max(counts)} GETs for {objects} objects", file=sys.stderr)


if __name__ == "__main__":
    main()
