"""``casstore clear``: what it prints, asks, keeps and removes, and the status it ends with."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from casstore import Cache, PendingState, Validator
from casstore import opening as processes
from casstore.cli.main import run
from tests.casstore.support.command import at_a_terminal
from tests.casstore.support.fill import REPOSITORY, fill, forked, key_of, read, view
from tests.casstore.support.pending_writes import pend
from tests.casstore.support.stores import stored, tree_of

A, B, C = "s3://bucket/a", "s3://bucket/b", "s3://bucket/d/c"


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Three blobs of 1000 bytes, of which the first has two entries."""
    for name in ("a", "a-too", "b", "d/c"):
        fill(cache, key_of(name), name[:1].encode() * 1000)
    return cache


@pytest.fixture
def full(filled: Cache) -> Iterator[Cache]:
    """The same with all that stays: a pin, a pending write and its entry, an edit, a local path."""
    filled.pin(A)
    pend(filled, "b")
    pend(filled, "edited", b"edit", state=PendingState.EDIT, why="its local copy was changed")
    entry = filled.lookup(key_of("d/c"))
    assert entry is not None
    descriptor = filled.open_entry(entry)
    assert descriptor is not None
    use = filled.local.use(entry.key)
    view(filled, entry, descriptor, "d/c", "link")
    os.close(descriptor)
    yield filled
    del use


def _clear(cache: Cache, *arguments: str) -> int:
    return run(["--dir", cache.root, "clear", *arguments])


def _uris(cache: Cache) -> list[str]:
    return [entry.uri for entry in cache.entries()]


def _command(cache: Cache, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "casstore", "--dir", cache.root, "clear", *arguments]


def test_clear_removes_everything_and_reports_each_uri(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _clear(filled, "--yes") == 0
    captured = capsys.readouterr()
    removed = [line.split()[-1] for line in captured.out.splitlines() if line.startswith("removed")]
    assert sorted(removed) == [A, "s3://bucket/a-too", B, C]
    assert "freed 2.9 KiB: 3 blobs, 4 entries\nkept     nothing: no pins" in captured.out
    assert captured.err == ""
    assert (_uris(filled), stored(filled)) == ([], 0)


def test_kept_things_are_listed_with_how_to_remove_them(full: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _clear(full, "--yes") == 0
    out = capsys.readouterr().out
    kept = [line.split(maxsplit=3)[-1] for line in out.splitlines() if line.startswith("kept")]
    assert kept[:4] == [
        f"{A}: pinned",
        f"{B}: pending: the network was away",
        "s3://bucket/edited: pending: its local copy was changed",
        f"{B}: cached, and a pending write is based on it",
    ]
    assert kept[4].startswith(f"{C}: in use: {full.layout.local}/")
    for command in ("casstore unpin URI", "casstore push", "casstore drop", "casstore pin", "casstore pending"):
        assert f"`{command}`" in out
    assert "local paths are removed when the processes that use them exit" in out
    assert _uris(full) == [A, B]
    assert {write.uri for write in full.pending.all()} == {B, "s3://bucket/edited"}


def test_json_is_one_document_with_every_uri_and_everything_kept(
    full: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _clear(full, "--yes", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    removed = {uri: one["bytes"] for one in report.pop("removed") for uri in one["uris"]}
    assert removed == {"s3://bucket/a-too": 0, C: 0}  # for a pin, and for a link
    kept = report.pop("kept")
    assert [pin["uri"] for pin in kept["pins"]] == [A]
    assert [(write["uri"], write["state"]) for write in kept["pending"]] == [
        (B, "failed"),
        ("s3://bucket/edited", "edit"),
    ]
    assert [entry["uri"] for entry in kept["bases"]] == [B]
    ((in_use),) = kept["in_use"]
    assert (in_use["uris"], in_use["size"], in_use["is_changed"]) == ([C], 1000, False)
    assert (kept["unreadable"], kept["young_blobs"], kept["young_bytes"]) == ([], 0, 0)
    assert report.pop("reaped")["leases"] == 0
    assert report == {
        "dry_run": False,
        "prefix": "",
        "entries": 2,
        "blobs": 1,
        "freed_bytes": 0,
        "quarantined": 0,
        "quarantined_bytes": 0,
    }


def test_a_prefix_without_a_scheme_is_a_usage_error(full: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _clear(full, "bucket/a", "--yes") == 2
    assert "bucket/a: not a URI: write it as `casstore ls` does, such as s3://bucket/a" in capsys.readouterr().err
    assert _clear(full, "s3://bucket/none", "--yes") == 0
    assert capsys.readouterr().err == "casstore: nothing cached starts with s3://bucket/none\n"


def test_a_prefix_limits_what_is_removed_and_reported(full: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    before = _uris(full)
    assert _clear(full, "s3://bucket/a-", "--yes") == 0
    said = capsys.readouterr()
    assert "freed 0 B: 0 blobs, 0 entries" in said.out
    (other,) = set(before) - {A, B, C}
    assert f"casstore: nothing is at or below s3://bucket/a-; {other} only starts with it" in said.err
    assert _uris(full) == before
    assert _clear(full, other, "--yes") == 0
    out = capsys.readouterr().out
    assert "freed 0 B: 0 blobs, 1 entries" in out
    assert f"kept     nothing: no pins, no pending writes, no local paths at or below {other}" in out
    assert _uris(full) == [A, B, C]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_does_not_ask_changes_nothing_and_reports_the_same(
    full: Cache, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    before = tree_of(full.root)
    assert _clear(full, "--dry-run", *["--json"] * as_json) == 0
    assert tree_of(full.root) == before
    dry = capsys.readouterr().out
    assert _clear(full, "--yes", *["--json"] * as_json) == 0
    wet = capsys.readouterr().out
    if as_json:
        one, other = json.loads(dry), json.loads(wet)
        assert (one.pop("dry_run"), other.pop("dry_run"), one.pop("reaped")) == (True, False, None)
        del other["reaped"]
        assert one == other
    else:
        assert dry.replace("remove  ", "removed ").replace("would free", "freed") == wet


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "--yes"), (["--json"], "--yes"), ([A], "--yes"), (["", "--yes"], "omit it"), (["a", "b"], "argument")],
)
def test_wrong_usage_is_status_2_and_removes_nothing(filled: Cache, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        _command(filled, *arguments),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1_000,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert stored(filled) == 3000


@pytest.mark.parametrize(("answer", "status", "left"), [(b"y\n", 0, 2), (b"n\n", 130, 4), (b"\n", 130, 4)])
def test_at_a_terminal_it_summarizes_on_stderr_and_asks(full: Cache, answer: bytes, status: int, left: int) -> None:
    done = at_a_terminal(answer, "--dir", full.root, "clear", "--json")
    assert "Remove 2 entries and 1 blobs (0 B)? [y/N]" in done.stderr
    assert "kept: 1 pins, 2 pending writes and local edits, 1 local paths" in done.stderr
    assert (done.returncode, len(_uris(full))) == (status, left)
    assert ("nothing was changed" in done.stderr) == (status == 130)
    if status == 0:
        assert json.loads(done.stdout)["entries"] == 2
    else:
        assert done.stdout == ""


def test_with_nothing_to_remove_it_does_not_ask(cache: Cache) -> None:
    done = at_a_terminal(b"", "--dir", cache.root, "clear", "s3://bucket/none")
    assert (done.returncode, "[y/N]" in done.stderr) == (0, False)
    assert "kept     nothing" in done.stdout


@pytest.mark.needs_locks
@pytest.mark.parametrize("as_json", [True, False])
def test_edits_of_dead_processes_become_pending_writes_and_are_reported(
    filled: Cache, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit() -> None:
        entry = filled.lookup(key_of("b"))
        assert entry is not None
        descriptor = filled.open_entry(entry)
        assert descriptor is not None
        path = Path(view(filled, entry, descriptor, "b", "link"))
        path.unlink()
        path.write_bytes(b"mine")

    assert forked(edit) == 0
    assert _clear(filled, "--yes", *["--json"] * as_json) == 0
    out = capsys.readouterr().out
    (write,) = filled.pending.all()
    assert Path(filled.pending.path(write)).read_bytes() == b"mine"
    if as_json:
        report = json.loads(out)
        assert [one["uri"] for one in report["reaped"]["recorded"]] == [B]
        assert [one["uri"] for one in report["kept"]["pending"]] == [B]
    else:
        assert f"{B}: pending: its local copy was changed outside the API" in out


def test_pins_pending_writes_and_edits_survive_every_removing_command(full: Cache) -> None:
    """Each by its command, one after the other, and an index that was lost at the end."""
    bytes_of = {write: Path(full.pending.path(write)).read_bytes() for write in full.pending.all()}

    def check() -> None:
        assert [pin.uri for pin in full.pins()] == [A]
        assert {write: Path(full.pending.path(write)).read_bytes() for write in full.pending.all()} == bytes_of

    commands = (["clear", "--yes"], ["gc", "--max-size", "0", "--yes"], ["verify", "--repair"], ["clear", "--yes"])
    for arguments in commands:
        run(["--dir", full.root, *arguments])
        check()
        assert read(full, key_of("a")) == b"a" * 1000
    full.evict(lambda _: True)
    check()
    assert _uris(full) == [A]
    full.index._supersede(full.index.generation, "for a test")
    full.index.close()
    with pytest.warns(UserWarning, match="index was damaged"):
        # What is fetched anew of the pinned URI is held by the pin of before.
        fill(full, key_of("a"), b"a" * 1000)
    check()
    assert _clear(full, "--yes") == 0
    check()
    assert (_uris(full), read(full, key_of("a"))) == ([A], b"a" * 1000)


@pytest.mark.parametrize("foreign", [None, "photos.zip"])
def test_a_directory_without_the_marker_is_refused_and_unchanged(
    filled: Cache, foreign: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.close()
    processes._caches.clear()
    os.unlink(filled.layout.store)
    if foreign is not None:
        Path(filled.root, foreign).touch()
    before = tree_of(filled.root)
    assert _clear(filled, "--yes") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("there is no store here yet" if foreign is None else "other files ('photos.zip')") in captured.err
    assert tree_of(filled.root) == before


def test_without_a_store_none_is_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(tmp_path / "nothing"), "clear", "--yes"]) == 1
    assert "there is no store here yet" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_read_only_store_is_a_clear_error(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.close()
    processes._caches.clear()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert _clear(filled, "--yes") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"cannot write to the store ({os.strerror(errno.EROFS)})" in captured.err
    assert stored(filled) == 3000


@pytest.mark.parametrize("disabled", ["", "1"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["clear", "--yes"], "64 entries"), (["gc", "--max-size", "0", "--yes"], "64/64 blobs")],
)
def test_progress_is_drawn_on_a_terminal_and_can_be_switched_off(
    cache: Cache, arguments: list[str], said: str, disabled: str
) -> None:
    for number in range(64):
        with cache.begin(key_of(str(number))) as filling:
            filling.write(b"%02d" % number * 512)
            os.close(filling.publish(Validator(1024, "e1")).descriptor)
    cache.close()
    parent, child = pty.openpty()
    try:
        command = [sys.executable, "-m", "casstore", "--dir", cache.root, *arguments]
        environment = {**os.environ, "TERM": "xterm", "CASSTORE_DISABLE_PROGRESS": disabled}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=child, timeout=1_000
        )
        os.write(child, b"end")  # so that there is something to read
        drawn = os.read(parent, 100_000).decode()
    finally:
        os.close(parent)
        os.close(child)
    assert (done.returncode, said in drawn and "64 KiB" in drawn, drawn == "end") == (0, not disabled, bool(disabled))
