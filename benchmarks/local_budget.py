"""Workers read a dataset of twice `max_size` by `open(path)`: hits, compared with `path.open("rb")`, and the budget.

What counts is the size of blobs and of local copies that may give way. What is in use, or was handed out within
`local_path_grace`, is beside the budget.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import contestants as transports
from harness.rounds import options

import casstore
from casstore.eviction.budget import stored_bytes
from casstore.eviction.local_copies import LocalInventory
from tests.harness.servers import S3Server, s3_server


def work(server: S3Server, bucket: str, store: Path, objects: int, seed: int, epochs: int, pace: int, by: str) -> None:
    """Read a part of all objects in each epoch, in a random order; a wrong or failed read ends the process."""
    client = transports.ours(server, store, freshness="immutable")
    chance = random.Random(seed)
    for _ in range(epochs):
        for number in chance.sample(range(objects), objects // 2):
            path: Any = client.CloudPath(f"s3://{bucket}/{number}")
            with open(path, "rb") if by == "local path" else path.open("rb") as file:
                if file.read()[:8] != number.to_bytes(8, "big"):
                    os._exit(4)
            time.sleep(pace / 1000)


def run(args: Any, server: S3Server, bucket: str, by: str) -> tuple[float, float]:
    """Return the ratio of hits, and the largest size that was seen in budgets."""
    context = multiprocessing.get_context("spawn")
    budget = args.objects * args.size // 2
    os.environ |= {
        "CASSTORE_MAX_SIZE": str(budget),
        "CASSTORE_MIN_FREE": "0",
        "CASSTORE_LOCAL_PATH_GRACE": str(args.grace_ms / 1000),
    }
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        cache = casstore.open(store)
        common = (server, bucket, store, args.objects)
        workers = [
            context.Process(target=work, args=(*common, seed, args.epochs, args.pace_ms, by))
            for seed in range(args.processes)
        ]
        for worker in workers:
            worker.start()
        most = 0
        while any(worker.is_alive() for worker in workers):
            counted = LocalInventory(cache.layout, args.grace_ms / 1000).bytes + stored_bytes(cache.index)
            most = max(most, counted)
            time.sleep(0.05)
        assert all(worker.exitcode == 0 for worker in workers), "a read failed"
        counts = cache.stats()
        cache.close()
        return counts.hits / (counts.hits + counts.misses), most / budget


def main() -> None:
    args = options(__doc__ or "", objects=200, size=262144, processes=8, epochs=2, pace_ms=50, grace_ms=500, rounds=3)
    found: dict[str, list[tuple[float, float]]] = {"local path": [], 'open("rb")': []}
    with s3_server() as server:
        bucket = server.new_bucket("bench")
        raw = transports.boto3_client(server)
        for number in range(args.objects):
            body = number.to_bytes(8, "big") + os.urandom(args.size - 8)
            raw.put_object(Bucket=bucket, Key=str(number), Body=body)
        for _ in range(args.rounds):
            for by in random.sample(list(found), 2):
                found[by].append(run(args, server, bucket, by))
    for by, rounds in found.items():
        hits, most = zip(*rounds, strict=True)
        spread = f"{statistics.median(hits):.3f} ({min(hits):.3f} to {max(hits):.3f})"
        print(f"{by}: hits {spread}, most {max(most):.2f} budgets")
    ratios = [one[0] / other[0] for one, other in zip(*found.values(), strict=True)]
    print(f"ratio of hits: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), wanted >= 0.85")


if __name__ == "__main__":
    main()
