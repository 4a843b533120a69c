"""A tree that is interrupted by Ctrl-C or killed anywhere on its way: every file that is there is whole, no file's only
copy is lost, and the same call, made again, brings it to its end.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pathapi import S3Client, S3Path
from pathapi.exceptions import CloudPathNotExistsError
from tests.casstore.support.fill import fork, status_of
from tests.harness.faults import Call, Fault
from tests.harness.proxy import Proxy
from tests.harness.sampling import by_pass
from tests.pathapi.support.raw_buckets import S3RawBucket
from tests.pathapi.support.trees import local, make_local, plant

INTERRUPTED = 7
Op = Callable[[S3Path, Path], object]

OPS: dict[str, tuple[Op, str]] = {
    # What is done, and the kind of request that there is one of for each file.
    "upload": (lambda root, here: (root / "to").upload_from(here / "from"), "PUT"),
    "download": (lambda root, here: root.client.CloudPath(f"{root}/from/").download_to(here / "to"), "GET"),
    "copytree": (lambda root, here: (root / "from").copytree(f"{root}/to/"), "COPY"),
    "move": (lambda root, here: root.client.CloudPath(f"{root}/from/").move(f"{root}/to/"), "COPY"),
    "move home": (lambda root, here: root.client.CloudPath(f"{root}/from/").move(here / "to"), "DELETE"),
}


def tree_of(count: int) -> dict[str, bytes]:
    return {f"{n % 10}/{n}": b"content %d " % n * (n % 50) for n in range(count)}


def interrupt(work: Callable[[], object], how: int, proxy: Proxy, kind: str, after: int) -> int | None:
    """Run *work* in a forked child, and send it a signal as it sends its request of that number; None where it had
    ended before.
    """

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)

    begun, sent = threading.Event(), threading.Event()
    children: list[int] = []

    def send() -> None:
        begun.wait(1_000)
        sent.set()
        os.kill(children[0], how)

    proxy.add(Fault(Call(send), kind=kind, nth=after))
    children.append(fork(run))
    begun.set()
    status = status_of(children[0])
    proxy.clear_faults()
    if not sent.is_set():
        assert status == 0
        return None
    return status


def md5_of(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def in_the_cloud(ground: S3RawBucket, prefix: str) -> dict[str, str]:
    """The MD5 of every object, as the server's listing states it: four thousand downloads would take a minute."""
    pages = ground.client.get_paginator("list_objects_v2").paginate(Bucket=ground.bucket, Prefix=prefix)
    return {item["Key"][len(prefix) :]: item["ETag"].strip('"') for page in pages for item in page.get("Contents", ())}


def here(directory: Path) -> dict[str, str]:
    return {name: md5_of(data) for name, data in local(directory).items()}


def check_whole(tree: dict[str, str], *places: dict[str, str]) -> None:
    for name, md5 in tree.items():
        found = [place[name] for place in places if name in place]
        assert found, f"the only copy of {name} is lost"
        assert all(content == md5 for content in found), f"{name} is not whole"
    for place in places:
        assert set(place) <= set(tree), "something is left that nobody asked for"


MOMENTS = 10
"""How often each large tree is interrupted."""

SIZES = [
    pytest.param(by_pass(quick=100, full=300), by_pass(quick=2, full=3), id="small"),
    pytest.param(2_000, MOMENTS, id="large", marks=pytest.mark.torture),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("files", "times"), SIZES)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("op", list(OPS))
def test_a_tree_that_is_interrupted_goes_on(
    client: S3Client,
    ground: S3RawBucket,
    at: str,
    tmp_path: Path,
    proxy: Proxy,
    op: str,
    how: signal.Signals,
    files: int,
    times: int,
) -> None:
    at = at.replace(" ", "-")
    root = client.S3Path(f"s3://{ground.bucket}/{at.removesuffix('/')}")
    tree, (act, kind) = tree_of(files), OPS[op]
    if op == "upload":
        make_local(tmp_path / "from", tree)
    else:
        plant(ground, at + "from/", tree)
    md5s = {name: md5_of(data) for name, data in tree.items()}
    chance = random.Random(f"{op} {how} {files}")
    interrupted, is_home = 0, op in ("download", "move home")
    for _ in range(times):
        after = chance.randrange(1, max(2, 2 * files // (times + 1)))
        status = interrupt(lambda: act(root, tmp_path), how, proxy, kind, after)
        if status is None:
            break
        assert status in (INTERRUPTED if how == signal.SIGINT else -how, 0)
        interrupted += status != 0
        sources = here(tmp_path / "from") if op == "upload" else in_the_cloud(ground, at + "from/")
        targets = here(tmp_path / "to") if is_home else in_the_cloud(ground, at + "to/")
        check_whole(md5s, sources, targets)
        if not op.startswith("move"):
            assert sources == md5s
    assert interrupted
    try:
        act(root, tmp_path)
    except CloudPathNotExistsError:
        assert op.startswith("move"), "all of it has moved"
    assert (here(tmp_path / "to") if is_home else in_the_cloud(ground, at + "to/")) == md5s
    if op.startswith("move"):
        assert in_the_cloud(ground, at + "from/") == {}
    if not is_home:
        # And the store tells the truth.
        for name in list(tree)[:: files // 20]:
            assert (root / "to" / name).read_bytes() == tree[name]
    assert list(root.client.cache.pending.all()) == []
