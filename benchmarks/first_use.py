"""A fresh process: the time of `import pathapi`, and of the first hit after it (open the store, take a lease, read)."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from harness.rounds import Contestant, compete, options

PROGRAM = """
import sys, time
start = time.perf_counter()
import pathapi, pathapi.clouds.file
imported = time.perf_counter()
assert not {"boto3", "botocore", "obstore"} & set(sys.modules), "an SDK was loaded"
client = pathapi.FileClient(local_cache_dir=sys.argv[1], freshness="immutable")
path = client.CloudPath("file://" + sys.argv[2])
if sys.argv[3] == "fill":
    path.read_bytes()
else:
    used = time.perf_counter()
    path.open("rb").close()
    client.cache.lease
    print(imported - start, time.perf_counter() - used)
"""


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True
    ).stdout


def main() -> None:
    args = options(__doc__ or "", processes=15, rounds=5)

    def measured(work: Path, which: int) -> float:
        source = work / "object"
        source.write_bytes(b"x" * 65536)
        run(str(work / "store"), str(source), "fill")
        figures = [run(str(work / "store"), str(source), "hit").split() for _ in range(args.processes)]
        return statistics.median(float(figure[which]) for figure in figures)

    def bare(_: Path) -> float:
        modules = "lmdb, xxhash, dataclasses, json, pathlib"
        program = f"import time; start = time.perf_counter(); import {modules}; print(time.perf_counter() - start)"
        times = [
            float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
            for _ in range(args.processes)
        ]
        return statistics.median(times)

    compete(
        "a fresh process",
        [
            Contestant("import lmdb, xxhash and the standard library", bare),
            Contestant(
                "import pathapi",
                lambda work: measured(work, 0),
                "import lmdb, xxhash and the standard library",
                "60 ms",
            ),
            Contestant("open the store, first hit, lease", lambda work: measured(work, 1), "import pathapi", "5 ms"),
        ],
        args.rounds,
        unit=1e3,
        unit_name="ms",
        as_json=args.json,
    )


if __name__ == "__main__":
    main()
