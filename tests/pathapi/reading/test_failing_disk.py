"""Readers, fills, trims and collectors at work while the disk of their store fails: right bytes, and clear words."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest

import casstore
from casstore.cli.main import run
from pathapi import FileClient
from tests.casstore.support.fill import eventually, fork, forked, replace_in, status_of
from tests.casstore.support.mounts import breakable_disk, mounted

NAMES = [f"object-{number}" for number in range(12)]
PINNED = NAMES[0]
BUDGET = 5 * 20_000
"""Bytes of five of them: fills make the store trim."""


def _data(name: str) -> bytes:
    return (name.encode() * 2000)[:20_000]


def _put(bucket: Path, name: str) -> None:
    temporary = bucket.with_name("new")
    temporary.write_bytes(_data(name))
    temporary.rename(bucket / name)


class _Word:
    """What a worker lets the test know, outside of the store."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, **facts: object) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(facts))
        temporary.rename(self._path)

    def rounds(self) -> int:
        return int(self.facts()["rounds"]) if self._path.exists() else 0

    def facts(self) -> dict[str, int]:
        facts: dict[str, int] = json.loads(self._path.read_text())
        return facts


def _read(root: Path, bucket: Path, word: _Word, stop: Path) -> None:
    """Everything again and again; how often it was said that reads go by the store, and that trims fail."""
    os.environ["CASSTORE_MAX_SIZE"] = str(BUDGET)
    said: list[str] = []
    warnings.showwarning = lambda message, *_, **__: said.append(str(message))
    warnings.simplefilter("always")
    failed: list[str] = []
    handler = logging.Handler(logging.ERROR)
    replace_in(handler, emit=lambda record: failed.append(record.getMessage()))
    logging.getLogger().addHandler(handler)
    client = FileClient(local_cache_dir=root)
    rounds = 0
    while not stop.exists():
        for name in sorted(os.listdir(bucket)):
            path = client.CloudPath(f"file://{bucket}/{name}")
            assert path.read_bytes() == _data(name)
            with path.open("rb") as file:
                assert file.read() == _data(name)
            rounds += 1
            word.say(rounds=rounds)
    client.cache.close()
    assert failed == []
    assert all("has become read-only" in message for message in said), said
    word.say(rounds=rounds, warnings=len(said))


def _collect(root: Path, word: _Word, stop: Path) -> None:
    """Collections and repairs without end; how many of them were refused since the disk failed."""
    rounds = refused = 0
    while not stop.exists():
        for command in (["gc", "--yes", "--max-size", str(BUDGET // 2)], ["verify", "--repair"]):
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err):
                status = run(["--dir", str(root), *command])
            refused += "has become read-only: check the system log" in err.getvalue()
            assert status in (0, 1)
            assert err.getvalue().count("\n") <= 1, err.getvalue()
        rounds += 1
        word.say(rounds=rounds, refused=refused)
    casstore.open(root).close()


@pytest.mark.slow
@pytest.mark.needs_root
def test_workers_beside_collectors_go_on_when_the_disk_of_the_store_turns_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASSTORE_MIN_FREE", "0")
    bucket, stop = tmp_path / "bucket", tmp_path / "stop"
    bucket.mkdir()
    for name in NAMES:
        _put(bucket, name)
    words = [_Word(tmp_path / f"word-{number}") for number in range(3)]

    def pin(root: Path) -> None:
        client = FileClient(local_cache_dir=root)
        client.CloudPath(f"file://{bucket}/{PINNED}").read_bytes()
        client.cache.pin(f"file://{bucket}/{PINNED}")
        client.cache.close()
        os.sync()

    def all_go_on() -> Callable[[], bool]:
        """Readers by two rounds of everything, the collector by two of its own."""
        wanted = [word.rounds() + more for word, more in zip(words, (30, 30, 2), strict=True)]
        return lambda: all(word.rounds() >= least for word, least in zip(words, wanted, strict=True))

    with breakable_disk(tmp_path / "disk", tmp_path / "image") as (disk, trigger):
        root = disk / "store"
        assert forked(lambda: pin(root)) == 0
        pids = [fork(partial(_read, root, bucket, word, stop)) for word in words[:2]]
        pids.append(fork(lambda: _collect(root, words[2], stop)))
        try:
            eventually(all_go_on(), 100)
            trigger.write_text("as if the disk had failed")
            _put(bucket, "zzz, which nobody has stored")
            eventually(all_go_on(), 100)
        finally:
            stop.touch()
            statuses = [status_of(pid) for pid in pids]
        assert statuses == [0, 0, 0]
        assert [word.facts()["warnings"] for word in words[:2]] == [1, 1]
        assert words[2].facts()["refused"] >= 2

    def go_on(root: Path) -> None:
        client = FileClient(local_cache_dir=root)
        assert client.cache.verify(repair=True).left == 0
        assert client.cache.verify().problems == ()
        assert [pin.uri for pin in client.cache.pins()] == [f"file://{bucket}/{PINNED}"]
        for name in NAMES:
            assert client.CloudPath(f"file://{bucket}/{name}").read_bytes() == _data(name)
        client.cache.close()

    with mounted(str(tmp_path / "image"), tmp_path / "disk", "-o", "loop") as disk:
        assert forked(lambda: go_on(disk / "store")) == 0
