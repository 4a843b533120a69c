"""Statistics: what processes count together, and at what cost."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from casstore import Cache, Statistics, Validator
from casstore import counters as tallies
from casstore.cli.main import run
from casstore.counters import NAMES
from casstore.locks.lock_files import create_locked
from tests.casstore.support.fill import fill, fork, forked, key_of, read, status_of


def _total(cache: Cache) -> Statistics:
    """As another process sees it that has counted nothing."""
    return tallies.Counters(cache.layout).statistics()


def test_a_process_counts_what_it_does(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")
    fill(cache, key_of("b"), b"alpha")
    assert read(cache, key_of("a")) == b"alpha"
    entry = cache.lookup(key_of("a"))
    assert entry is not None
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    with cache.begin(key_of("c")) as filling:
        filling.link(entry.digest, descriptor, Validator(5, "e"))
    os.close(descriptor)
    cache.flush()
    cache.evict(lambda _: True)
    found = cache.stats()
    assert (found.misses, found.cloud_bytes, found.shared, found.shared_bytes) == (2, 10, 1, 5)
    assert (found.hits, found.disk_bytes, found.linked, found.linked_bytes) == (1, 5, 1, 5)
    assert (found.evicted_entries, found.evicted_blobs, found.evicted_bytes) == (3, 1, 5)
    assert found.hit_ratio == pytest.approx(1 / 3)


@pytest.mark.needs_locks
def test_the_counts_of_processes_that_ended_add_up(cache: Cache) -> None:
    for name in "abc":
        fill(cache, key_of(name), name.encode() * 100)
    cache.close()

    def use() -> None:
        for _ in range(7):
            assert read(cache, key_of("a")) == b"a" * 100
        cache.close()

    pids = [fork(use) for _ in range(5)]
    assert [status_of(pid) for pid in pids] == [0] * 5
    found = _total(cache)
    assert (found.hits, found.disk_bytes, found.misses) == (35, 3500, 3)
    assert cache.stats() == found
    assert abs(found.since_ns - time.time_ns()) < 100 * 10**9


def test_a_process_that_only_reads_adds_its_hits_when_it_ends(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")
    cache.close()
    code = (
        "import os, sys, casstore; cache = casstore.open(sys.argv[1], create=False); "
        "os.close(cache.open_fresh(casstore.Key('s3://bucket/a', 's3'), None))"
    )
    from tests.casstore.support.fill import run as run_python

    assert run_python(code, cache.root).returncode == 0
    assert _total(cache).hits == 1


def test_no_hit_writes_anything(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")
    cache.close()
    before = os.stat(cache.layout.statistics)
    for _ in range(1000):
        assert read(cache, key_of("a")) == b"alpha"
    after = os.stat(cache.layout.statistics)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert cache.stats().hits == 1000
    cache.close()
    assert _total(cache).hits == 1000
    assert cache.stats().hits == 1000


def test_a_killed_process_loses_what_it_had_not_added(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "FLUSH_SECONDS", 0.0)

    def work_and_die() -> None:
        cache.counters.flush_if_due()
        fill(cache, key_of("a"), b"alpha")
        fill(cache, key_of("b"), b"beta")  # at the latest here the first is added
        for _ in range(10):
            read(cache, key_of("a"))
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(work_and_die) == -signal.SIGKILL
    found = _total(cache)
    assert 1 <= found.misses <= 2
    assert found.hits == 0


def test_a_forked_child_does_not_count_what_its_parent_counted(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")

    def work() -> None:
        assert read(cache, key_of("a")) == b"alpha"
        assert cache.counts()["hits"] == 1
        cache.close()

    assert forked(work) == 0
    cache.close()
    assert (_total(cache).misses, _total(cache).hits) == (1, 1)


@pytest.mark.needs_locks
def test_while_another_process_adds_the_counts_stay_for_the_next_time(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")
    held = create_locked(cache.layout.statistics_lock)
    cache.counters.flush()
    assert _total(cache) == Statistics()
    held.close()
    cache.counters.flush()
    cache.counters.flush()
    assert _total(cache).misses == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"since": 1, "counts": {"hits": "x"}}', b"\xff" * 100])
def test_a_damaged_file_of_counts_is_begun_anew(cache: Cache, damage: bytes) -> None:
    fill(cache, key_of("a"), b"alpha")
    Path(cache.layout.statistics).write_bytes(damage)
    cache.close()
    assert _total(cache).misses == 1


def test_counts_that_cannot_be_read_just_now_are_not_begun_anew(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")
    cache.counters.flush()
    kept = Path(cache.layout.statistics).rename(f"{cache.root}/kept")
    os.symlink("statistics.json", cache.layout.statistics)  # a loop: an error that even root meets
    fill(cache, key_of("b"), b"beta")
    cache.counters.flush()
    kept.replace(cache.layout.statistics)
    cache.counters.flush()
    assert _total(cache).misses == 2


def test_a_place_that_is_no_store_any_more_gets_no_file(cache: Cache) -> None:
    fill(cache, key_of("a"), b"alpha")
    os.unlink(cache.layout.store)
    cache.counters.flush()
    assert not os.path.exists(cache.layout.statistics)


@pytest.mark.needs_locks
def test_a_wait_for_another_process_is_counted_once(cache: Cache) -> None:
    name = key_of("a").row_key
    lock = cache._locks.try_acquire(name)
    assert lock is not None
    with cache.flights.acquire(name) as flight:
        for count, _ in enumerate(flight.polls()):
            if count == 5:
                break
        else:
            pytest.fail("the lock is held")
    lock.release()
    assert cache.counts()["waits"] == 1


# --- at the shell ----------------------------------------------------------------------------------------------------


def test_stats_are_shown_and_in_json_and_part_of_info(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    fill(cache, key_of("a"), b"a" * 2048)
    assert read(cache, key_of("a")) is not None
    assert run(["--dir", cache.root, "stats"]) == 0
    lines = {
        line.rpartition("  ")[0].strip(): line.rpartition("  ")[2].strip()
        for line in capsys.readouterr().out.splitlines()
    }
    assert (lines["hits"], lines["cloud bytes"], lines["hit ratio"]) == ("1", "2.0 KiB", "50.0%")
    assert run(["--dir", cache.root, "stats", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["root"], found["hits"], found["cloud_bytes"], found["hit_ratio"]) == (cache.root, 1, 2048, 0.5)
    assert run(["--dir", cache.root, "info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["statistics"]["hits"] == 1
    assert run(["--dir", cache.root, "info"]) == 0
    assert "disk bytes" in capsys.readouterr().out


def test_prometheus_gets_a_file_that_is_replaced_as_a_whole(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(cache, key_of("a"), b"alpha")
    target = tmp_path / "casstore.prom"
    target.write_text("old")
    before = target.stat().st_ino
    assert run(["--dir", cache.root, "stats", "--output", str(target)]) == 0
    text = target.read_text()
    assert target.stat().st_ino != before
    assert target.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path).count("casstore.prom") == 1
    assert not [name for name in os.listdir(tmp_path) if name not in ("casstore.prom", "store")]
    samples = _parse(text)
    label = f'{{root="{cache.root}"}}'
    assert samples[f"casstore_misses_total{label}"] == 1
    assert samples[f"casstore_stored_bytes{label}"] == 5
    assert {f"casstore_{name}_total{label}" for name in NAMES} <= set(samples)
    assert run(["--dir", cache.root, "stats", "--prometheus"]) == 0
    assert set(_parse(capsys.readouterr().out)) == set(samples)


def _parse(text: str) -> dict[str, float]:
    """The samples of the text format, each of which must have its help and its type before it."""
    samples: dict[str, float] = {}
    said: dict[str, set[str]] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("#"):
            _, kind, name, rest = line.split(" ", 3)
            assert rest
            said.setdefault(name, set()).add(kind)
            continue
        sample, value = line.rsplit(" ", 1)
        assert said[sample.partition("{")[0]] == {"HELP", "TYPE"}
        samples[sample] = float(value)
    return samples


def test_a_target_that_cannot_be_written_is_one_line_and_status_1(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(cache, key_of("a"), b"alpha")
    assert run(["--dir", cache.root, "stats", "--output", "/no/such/directory/x.prom"]) == 1
    assert (
        "/no/such/directory/x.prom: cannot be written (No such file or directory): use --output with another file"
        in capsys.readouterr().err
    )
    assert run(["--dir", cache.root, "stats", "--json", "--output", "x"]) == 2
