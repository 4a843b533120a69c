"""``casstore gc``: what it prints, asks and removes, and the status it ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from casstore import Cache
from casstore.cli.main import run
from tests.casstore.support.command import at_a_terminal
from tests.casstore.support.fill import REPOSITORY, fill, forked, key_of, view
from tests.casstore.support.stores import HOUR, stored, tree_of, used_at


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Three blobs of 1000 bytes; the one used longest ago has two entries."""
    for name, hour in {"a": 1, "a-too": 1, "b": 2, "c": 3}.items():
        used_at(cache, fill(cache, key_of(name), name[:1].encode() * 1000), HOUR + hour)
    return cache


def _gc(cache: Cache, *arguments: str) -> int:
    return run(["--dir", cache.root, "gc", "--min-free", "0", *arguments])


def _held_by_a_view(cache: Cache, name: str) -> str:
    entry = cache.lookup(key_of(name))
    assert entry is not None
    descriptor = cache.open_entry(entry)
    assert descriptor is not None
    try:
        return view(cache, entry, descriptor, name, "link")
    finally:
        os.close(descriptor)


def test_gc_evicts_down_to_the_size_and_reports_every_eviction(
    filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gc(filled, "--max-size", "1.1kB", "--yes") == 0
    captured = capsys.readouterr()
    removed = [line.split()[-1] for line in captured.out.splitlines() if line.startswith("evicted")]
    assert sorted(removed) == ["s3://bucket/a", "s3://bucket/a-too", "s3://bucket/b"]
    assert "freed 2.0 KiB: 2 blobs, 3 entries" in captured.out
    assert captured.err == ""
    assert [entry.uri for entry in filled.entries()] == ["s3://bucket/c"]


def test_gc_in_json_is_one_document_with_every_uri(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gc(filled, "--max-size", "2500", "--yes", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    (removed,) = report.pop("removed")
    assert (sorted(removed["uris"]), removed["bytes"]) == (["s3://bucket/a", "s3://bucket/a-too"], 1000)
    reaped, free = report.pop("reaped"), report.pop("free_bytes")
    assert (reaped["leases"], reaped["generations"], free > 0) == (0, 0, True)
    assert report == {
        "dry_run": False,
        "max_size": 2500,
        "min_free": 0,
        "max_age": None,
        "stored_bytes": 3000,
        "asked_bytes": 500,
        "freed_bytes": 1000,
        "short_bytes": 0,
        "overdue_bytes": 0,
        "within_budget": True,
        "kept_blobs": 0,
        "held": [],
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_reports_the_same_and_changes_nothing(
    filled: Cache, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    before = tree_of(filled.root)
    assert _gc(filled, "--max-size", "1100", "--dry-run", *(["--json"] if as_json else [])) == 0
    assert tree_of(filled.root) == before
    out = capsys.readouterr().out
    if as_json:
        report = json.loads(out)
        assert (report["dry_run"], report["freed_bytes"], len(report["removed"])) == (True, 2000, 2)
        uris = [uri for removed in report["removed"] for uri in removed["uris"]]
    else:
        uris = [line.split()[-1] for line in out.splitlines() if line.startswith("evict ")]
        assert "would free 2.0 KiB in 2 blobs" in out
    assert sorted(uris) == ["s3://bucket/a", "s3://bucket/a-too", "s3://bucket/b"]


def test_without_options_the_settings_are_the_budget(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gc(filled, "--yes") == 0
    assert stored(filled) == 3000
    with open(filled.layout.config, "w") as file:
        file.write('max_size = "2500"\n')
    command = [sys.executable, "-m", "casstore", "--dir", filled.root, "gc", "--yes"]
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=1_000).returncode == 0
    assert stored(filled) == 2000


def test_kept_blobs_are_listed_and_the_status_is_1_over_the_budget(
    filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    path, use = _held_by_a_view(filled, "b"), filled.local.use(key_of("b"))
    for arguments in (["--dry-run"], ["--yes"]):
        assert _gc(filled, "--max-size", "0", *arguments) == 1
        captured = capsys.readouterr()
        (kept,) = (line for line in captured.out.splitlines() if line.startswith("kept"))
        assert "s3://bucket/b" in kept and path in kept
        assert "over the budget by 1.0 KiB: 1.0 KiB in 1 blobs are linked from outside the store" in captured.err
    assert _gc(filled, "--max-size", "0", "--yes", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["within_budget"], report["short_bytes"]) == (False, 1000)
    del use
    (held,) = report["held"]
    assert (held["uris"], held["linked_from"]) == (["s3://bucket/b"], [path])
    with open(path, "rb") as file:
        assert file.read() == b"b" * 1000


def test_free_space_that_the_store_cannot_provide_is_over_the_budget(
    filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--dir", filled.root, "gc", "--min-free", "1000T", "--yes"]) == 1
    assert "other files use the rest of the disk" in capsys.readouterr().err
    assert stored(filled) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-size", "much", "--yes"], "--max-size"),
        (["--max-size", "-1", "--yes"], "--max-size"),
        (["--min-free", "1.5", "--yes"], "--min-free"),
        (["--max-size", "0"], "--yes"),
        (["--max-size", "0", "--json"], "--yes"),
    ],
)
def test_wrong_usage_is_status_2_and_removes_nothing(filled: Cache, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "casstore", "--dir", filled.root, "gc", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1_000,
    )
    assert done.returncode == 2
    assert said in done.stderr and done.stdout == ""
    assert stored(filled) == 3000


@pytest.mark.parametrize(("answer", "status", "left"), [(b"y\n", 0, 1000), (b"n\n", 130, 3000)])
def test_at_a_terminal_it_lists_the_victims_and_asks(filled: Cache, answer: bytes, status: int, left: int) -> None:
    done = at_a_terminal(answer, "--dir", filled.root, "gc", "--max-size", "1100", "--min-free", "0")
    assert "Evict 2 blobs (2.0 KiB)? [y/N]" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["evict"] * 3
    assert (done.returncode, stored(filled)) == (status, left)
    assert ("nothing was changed" in done.stderr) == (status == 130)


def test_a_directory_without_a_store_stays_without_one(
    cache: Cache, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--dir", str(tmp_path / "nothing"), "gc", "--max-size", "0", "--yes"]) == 1
    assert not (tmp_path / "nothing").exists()


@pytest.mark.needs_locks
@pytest.mark.parametrize("as_json", [True, False])
def test_edits_of_dead_processes_are_reported(filled: Cache, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def edit() -> None:
        path = _held_by_a_view(filled, "b")
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(b"mine")

    assert forked(edit) == 0
    assert _gc(filled, "--yes", *["--json"] * as_json) == 0
    out = capsys.readouterr().out
    (write,) = filled.pending.all()
    if as_json:
        (shown,) = json.loads(out)["reaped"]["recorded"]
        assert (shown["uri"], shown["state"], shown["name"], shown["bytes"]) == (write.uri, "edit", write.name, 4)
    else:
        (line,) = (line for line in out.splitlines() if line.startswith("pending"))
        assert "s3://bucket/b: its local copy was changed outside the API" in line


# --- ages and rules --------------------------------------------------------------------------------------------------


def test_max_age_evicts_older_blobs_with_the_reason(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    fill(filled, key_of("new"), b"new")
    assert _gc(filled, "--max-age", "30d", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "maximum age: 30d" in out
    assert sum(line.endswith(": not used within the maximum age") for line in out.splitlines()) == 4
    assert _gc(filled, "--max-age", "30d", "--yes") == 0
    assert [entry.uri for entry in filled.entries()] == ["s3://bucket/new"]


@pytest.mark.parametrize("age", ["soon", "-1", "1.5d", "none"])
def test_an_invalid_age_is_wrong_usage(filled: Cache, age: str) -> None:
    assert _gc(filled, "--max-age", age, "--yes") == 2


def test_an_unmet_rule_is_an_error_with_the_reason(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    with open(filled.layout.config, "w") as file:
        file.write('[[rules]]\nprefix = "s3://bucket/a"\nmax_size = 100\n')
    filled.pin("s3://bucket/a")
    command = [sys.executable, "-m", "casstore", "--dir", filled.root, "gc", "--yes"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1_000)
    assert (done.returncode, stored(filled)) == (1, 3000)
    assert "over the budget of the rules by 900 B: 1.0 KiB in 1 blobs are pinned" in done.stderr
    filled.unpin("s3://bucket/a")
    done = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, timeout=1_000)
    report = json.loads(done.stdout)
    assert (done.returncode, report["overdue_bytes"], report["freed_bytes"]) == (0, 0, 1000)
