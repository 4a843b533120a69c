"""A tree of objects, and the same in local files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.pathapi.support.raw_buckets import S3RawBucket

TREE = {f"{'ab'[n % 2]}/{'deep/er/' if n % 3 else ''}{n}": b"%d" % n * (n + 1) for n in range(12)}


def plant(ground: S3RawBucket, prefix: str, tree: dict[str, bytes] | None = None) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: ground.plant(prefix + item[0], item[1]), (TREE if tree is None else tree).items()))


def planted(ground: S3RawBucket, prefix: str) -> dict[str, bytes | None]:
    pages = ground.client.get_paginator("list_objects_v2").paginate(Bucket=ground.bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    with ThreadPoolExecutor(8) as pool:
        return dict(zip((key[len(prefix) :] for key in keys), pool.map(ground.content, keys), strict=True))


def make_local(directory: Path, tree: dict[str, bytes] | None = None) -> Path:
    for name, data in (TREE if tree is None else tree).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def local(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
