"""``casstore verify``: what it prints, and the status it ends with."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from casstore import Cache
from casstore.cli.main import run
from tests.casstore.support.fill import REPOSITORY, fill, key_of

EVIL = "\x1b]0;owned\x07\x1b[31m\n\r\u202etxt\\[red]"


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Two contents, one of them under a name that means harm."""
    fill(cache, key_of("a"), b"alpha" * 1000)
    fill(cache, key_of(EVIL), b"beta")
    return cache


def _blob(cache: Cache, name: str) -> Path:
    entry = cache.lookup(key_of(name))
    assert entry is not None
    return Path(cache.blob_path(entry))


def test_a_sound_store_is_one_line_and_status_0(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", filled.root, "verify"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "hashed 2 blobs (4.9 KiB), checked 2 entries: no problems\n"
    assert captured.err == ""


def test_each_problem_is_a_line_and_the_status_is_1(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    _blob(filled, "a").chmod(0o644)
    os.truncate(_blob(filled, "a"), 3)
    Path(filled.layout.blobs, "README").write_text("x")
    assert run(["--dir", filled.root, "verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["PROBLEM", "WHERE", "WHAT"]
    assert sorted(line.split("  ")[0] for line in lines[1:-1]) == ["foreign name", "wrong bytes"]
    assert any("s3://bucket/a " in line and "its 3 bytes have the digest" in line for line in lines)
    assert lines[-1] == "hashed 2 blobs (7 B), checked 2 entries: 2 problems"


def test_leftovers_are_listed_and_are_no_problem(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    Path(filled.layout.trashed("x")).write_bytes(b"12")
    staging = filled.stage()
    staging.write(b"nobody knows me")
    filled.blobs.add(staging, staging.digest())
    staging.close()
    filled.close()
    assert run(["--dir", filled.root, "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["left over, but not damaged: 1 unindexed blobs (15 B), 1 files in the trash (2 B)"]


def test_names_are_escaped_for_the_terminal(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    _blob(filled, EVIL).unlink()
    Path(filled.layout.blobs, EVIL).write_text("x")
    assert run(["--dir", filled.root, "verify"]) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4
    assert all(line.isprintable() for line in out.splitlines())
    assert out.count("\\x1b]0;owned\\x07\\x1b[31m\\n\\r\\u202etxt\\\\[red]") == 2


def test_json_is_one_document_with_every_fact(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    entry = filled.lookup(key_of(EVIL))
    assert entry is not None
    path = filled.blob_path(entry)
    os.unlink(path)
    filled.close()
    assert run(["--dir", filled.root, "verify", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out.isascii()
    assert json.loads(captured.out) == {
        "root": filled.root,
        "is_sound": False,
        "left": 1,
        "blobs": 1,
        "bytes": 5000,
        "entries": 2,
        "generation": 1,
        "wrong": 1,
        "problems": [
            {
                "kind": "missing blob",
                "uri": f"s3://bucket/{EVIL}",
                "origin": "s3",
                "digest": str(entry.digest),
                "path": path,
                "detail": "a read downloads the object again",
                "repair": None,
            }
        ],
        "leftovers": {
            "unknown": 0,
            "unknown_bytes": 0,
            "unused": 0,
            "unused_bytes": 0,
            "stale_rows": 0,
            "trash": 0,
            "trash_bytes": 0,
            "quarantine": 0,
            "quarantine_bytes": 0,
            "leases": 0,
        },
        "skipped": 0,
        "skipped_bytes": 0,
        "mended": None,
    }


def test_a_repair_lists_its_actions_and_entries_with_status_0(
    filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(filled, key_of("a2"), b"alpha" * 1000)
    _blob(filled, "a").chmod(0o644)
    os.truncate(_blob(filled, "a"), 3)
    assert run(["--dir", filled.root, "verify", "--repair"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["PROBLEM", "WHERE", "WHAT", "REPAIR"]
    assert "the blob was quarantined (s3://bucket/a, s3://bucket/a2): " in lines[1]
    assert "repaired: 1 problems fixed" in lines
    assert run(["--dir", filled.root, "verify"]) == 0


def test_problems_without_a_repair_are_listed_with_status_1(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    Path(filled.layout.blobs, "README").write_text("x")
    assert run(["--dir", filled.root, "verify", "--repair"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "none: inspect it manually" in lines[1]
    assert "repaired: 1 not fixed" in lines
    assert run(["--dir", filled.root, "verify", "--repair", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["left"], found["problems"][0]["repair"], found["mended"]["problems"]) == (1, None, 0)


def test_a_repair_in_json_has_the_uris_and_where_the_blob_is(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    _blob(filled, "a").chmod(0o644)
    os.truncate(_blob(filled, "a"), 3)
    assert run(["--dir", filled.root, "verify", "--repair", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    repair = found["problems"][0]["repair"]
    assert (found["wrong"], found["left"], repair["uris"], repair["is_done"]) == (1, 0, ["s3://bucket/a"], True)
    assert os.path.getsize(repair["path"]) == 3
    assert found["mended"]["reaped"]["kept"] == []


def test_a_sample_reports_what_was_skipped(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", filled.root, "verify", "--newest", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] in ("skipped: 1 blobs (4 B)", "skipped: 1 blobs (4.9 KiB)")
    assert run(["--dir", filled.root, "verify", "--newest", "24h", "--sample", "100%"]) == 0
    assert "skipped" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--sample", "0"], ["--sample", "105%"], ["--sample", "x%"], ["--newest", "0"], ["--newest", "5y"]]
)
def test_an_invalid_fraction_is_wrong_usage(
    filled: Cache, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    assert run(["--dir", filled.root, "verify", *wrong]) == 2
    assert wrong[1] in capsys.readouterr().err


def test_a_damaged_marker_is_a_clear_error_and_status_1(filled: Cache) -> None:
    filled.close()
    Path(filled.layout.store).write_text("{")
    ended = _casstore(filled.root, "verify", "--json")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"casstore: error: {filled.layout.store} is damaged: ")


def test_a_damaged_index_is_reported_each_time_and_not_replaced(filled: Cache) -> None:
    filled.close()
    os.truncate(filled.layout.index_file(1), 4096)
    for _ in range(2):
        ended = _casstore(filled.root, "verify", "--json")
        assert (ended.returncode, ended.stderr) == (1, "")
        found = json.loads(ended.stdout)
        assert ([problem["kind"] for problem in found["problems"]], found["blobs"]) == (["damaged index"], 2)
    assert sorted(os.listdir(filled.layout.index)) == ["1", "CURRENT"]


def test_without_a_store_none_is_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(tmp_path / "none"), "verify"]) == 1
    assert "there is no store here yet" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_wrong_usage_is_status_2_and_an_interrupt_130(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--dir", filled.root, "verify", "extra"]) == 2

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cache, "verify", interrupt)
    assert run(["--dir", filled.root, "verify"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "casstore: interrupted"


def test_a_terminal_shows_a_bar_and_removes_it(filled: Cache) -> None:
    filled.close()
    reader, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "casstore", "--dir", filled.root, "verify"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(terminal)
        seen = b""
        try:
            while data := os.read(reader, 4096):
                seen += data
        except OSError:
            pass  # EIO: the other side is closed
        finally:
            os.close(reader)
        assert process.stdout is not None
        out = process.stdout.read().decode()
    assert (process.returncode, out) == (
        0,
        "hashed 2 blobs (4.9 KiB), checked 2 entries: no problems\n",
    )
    assert b"2/2 blobs" in seen
    assert b"4.9 KiB of 4.9 KiB" in seen


def _casstore(root: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "casstore", "--dir", root, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=1_000,
    )
