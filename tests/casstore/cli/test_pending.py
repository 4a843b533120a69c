"""``casstore pending`` and ``casstore drop``: what they say of pending writes, and what they do to them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from casstore import Cache, PendingState
from casstore.cli.main import run
from tests.casstore.support.command import at_a_terminal
from tests.casstore.support.fill import REPOSITORY, key_of
from tests.casstore.support.pending_writes import interrupt, pend
from tests.casstore.support.threads import acquired

EVIL = "\x1b]0;owned\x07\n\r\u202etxt\\"


def _names(cache: Cache) -> list[str]:
    return [write.name for write in cache.pending.all()]


def _lines(capsys: pytest.CaptureFixture[str], cache: Cache, *arguments: str) -> list[str]:
    """What is printed; the store's directory is left out of the commands that are named."""
    assert run(["--dir", cache.root, *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.replace(f"casstore --dir {shlex.quote(cache.root)} ", "casstore ").splitlines()


# --- pending ----------------------------------------------------------------------------------------------------------


def test_a_failed_write_is_listed_with_its_reason_its_bytes_and_the_fixes(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    write = pend(cache, "a b", b"x" * 2048)
    lines = _lines(capsys, cache, "pending")
    assert lines[0].split() == ["SIZE", "AGE", "STATE", "URI"]
    assert lines[1].split(maxsplit=4) == ["2.0", "KiB", "now", "failed", "s3://bucket/a b"]
    assert [line.strip() for line in lines[2:4]] == [
        "the network was away",
        f"bytes: {cache.pending.path(write)}",
    ]
    commands = [line.split("#")[0].strip() for line in lines[6:]]
    assert commands == [
        "casstore push 's3://bucket/a b'",
        "casstore push --force 's3://bucket/a b'",
        "casstore drop --save-to PATH 's3://bucket/a b'",
        "casstore drop 's3://bucket/a b'",
    ]


def test_the_commands_are_for_the_store_that_was_asked(
    cache: Cache, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pend(cache, "a")
    for directory, lead in ((["--dir", cache.root], f"casstore --dir {cache.root} "), ([], "casstore ")):
        monkeypatch.setenv("CASSTORE_DIR", cache.root)
        assert run([*directory, "pending"]) == 0
        said = [line.strip() for line in capsys.readouterr().out.splitlines() if "# " in line]
        assert len(said) == 4 and all(line.startswith((f"{lead}push ", f"{lead}drop ")) for line in said)


def test_several_writes_of_a_state_can_be_pushed_by_one_command(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in (PendingState.FAILED, PendingState.INCOMPLETE):
        for number in range(2):
            pend(cache, f"{state}-{number}", state=state)
    commands = [line.partition("#")[0].strip() for line in _lines(capsys, cache, "pending")]
    assert [command for command in commands if command.startswith("casstore push --all")] == [
        "casstore push --all", "casstore push --all --incomplete"
    ]  # fmt: skip


def test_nothing_to_drop_asks_for_no_terminal(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    pend(cache, "a")
    assert run(["--dir", cache.root, "drop", "s3://bucket/none"]) == 1
    assert "s3://bucket/none: nothing is pending" in capsys.readouterr().err
    assert run(["--dir", cache.root, "drop", "s3://bucket/a"]) == 2
    assert "cannot ask without a terminal" in capsys.readouterr().err


def test_each_state_lists_its_fixes_once(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        pend(cache, f"failed-{number}")
    pend(cache, "edit", state=PendingState.EDIT, source="/view/edit", why="it was changed")
    pend(cache, "open", state=PendingState.INCOMPLETE, why="never closed")
    text = "\n".join(_lines(capsys, cache, "pending"))
    assert text.count("casstore push --force URI") == 1
    assert text.count("casstore push --force") == 2, "what is incomplete is not to overwrite anything"
    assert "casstore push s3://bucket/open" in text
    assert "source: /view/edit" in text


@pytest.mark.needs_locks
def test_an_interrupted_upload_has_its_own_state(root: Path, cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(root, "theirs")
    pend(cache, "mine", state=PendingState.UPLOADING)
    lines = _lines(capsys, cache, "pending")
    states = {line.split()[-1]: line.split()[3] for line in lines if line.split()[-1:] and "  s3://" in line}
    assert states == {"s3://bucket/mine": "uploading", "s3://bucket/theirs": "interrupted"}
    assert any("it may have reached the server; `casstore push` checks" in line for line in lines)
    facts = {fact["uri"]: fact for fact in map(json.loads, _lines(capsys, cache, "pending", "--json"))}
    assert [facts[f"s3://bucket/{name}"]["interrupted"] for name in ("mine", "theirs")] == [False, True]


def test_json_is_one_object_per_write_with_every_fact(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    write = pend(cache, "k", state=PendingState.EDIT, source="/somewhere")
    pend(cache, "other")
    (line,) = _lines(capsys, cache, "pending", "s3://bucket/k", "--json")
    fact = json.loads(line)
    assert fact.pop("created").startswith("20") and line.count('Z"') == 1
    assert Path(fact["path"]).read_bytes() == b"mine"
    assert fact == {
        "uri": "s3://bucket/k",
        "origin": "s3",
        "name": write.name,
        "state": "edit",
        "interrupted": False,
        "size": 4,
        "why": "the network was away",
        "digest": str(write.digest),
        "path": cache.pending.path(write),
        "source": "/somewhere",
        "blocks": True,
    }


def test_keys_and_reasons_are_escaped_and_the_commands_can_be_typed(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    write = pend(cache, EVIL, why=f"the server said {EVIL}")
    lines = _lines(capsys, cache, "pending")
    assert all(line.isprintable() for line in lines)
    assert lines[1].endswith(r"s3://bucket/\x1b]0;owned\x07\n\r\u202etxt\\")
    assert any(line.split("#")[0].strip() == f"casstore push --name {write.name}" for line in lines)
    (line,) = _lines(capsys, cache, "pending", "--json")
    assert json.loads(line)["uri"] == f"s3://bucket/{EVIL}"


def test_several_writes_of_one_uri_are_listed_by_name(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = pend(cache, data=b"one"), pend(cache, data=b"four", state=PendingState.INCOMPLETE)
    text = "\n".join(_lines(capsys, cache, "pending"))
    assert f"casstore push --name {one.name}" in text
    assert f"--name {two.name}  # incomplete, 4 B, s3://bucket/k" in text


def test_an_unreadable_record_is_a_warning_and_does_not_hide_the_others(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    write = pend(cache, "damaged")
    pend(cache, "good")
    path = cache.layout.pending_record(write.key.name, write.name)
    Path(path).write_text('{"format": 99}')
    assert run(["--dir", cache.root, "pending"]) == 0
    out, err = capsys.readouterr()
    assert "s3://bucket/good" in out
    assert path in err and f"{path.removesuffix('.json')}.data" in err
    assert f"casstore drop --name {write.name}" in err


def test_an_unreadable_record_can_be_saved_and_dropped(
    cache: Cache, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, two = pend(cache, "one", data=b"one"), pend(cache, "two", data=b"two")
    for write in (one, two):
        Path(cache.pending.record_path(write)).write_text("{")
    _lines(capsys, cache, "drop", "--name", one.name, "--save-to", str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b"one"
    (line,) = _lines(capsys, cache, "drop", "--all", "--yes")
    assert "(unknown URI)" in line
    assert cache.pending.count() == 0


def test_nothing_pending_is_a_line_of_text_and_no_line_of_json(
    cache: Cache, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _lines(capsys, cache, "pending") == ["nothing is pending"]
    assert _lines(capsys, cache, "pending", "--json") == []
    assert run(["--dir", f"{root}-none", "pending"]) == 1
    assert not Path(f"{root}-none").exists()


# --- drop -------------------------------------------------------------------------------------------------------------


def test_drop_discards_only_the_writes_of_the_uri(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    pend(cache, data=b"one"), pend(cache, data=b"two")
    kept = pend(cache, "k2")
    lines = _lines(capsys, cache, "drop", "s3://bucket/k", "--yes")
    assert [line.split()[0] for line in lines] == ["discarded", "discarded"]
    assert _names(cache) == [kept.name]
    assert not cache.pending.has(key_of("k"))


def test_a_name_selects_one_of_several_writes(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = pend(cache, data=b"one"), pend(cache, data=b"two"), pend(cache, EVIL)
    (line,) = _lines(capsys, cache, "drop", "s3://bucket/k", "--name", one.name, "--yes", "--json")
    dropped = json.loads(line)
    assert (dropped["name"], dropped["saved_to"]) == (one.name, None)
    assert _names(cache) == [three.name, two.name]
    _lines(capsys, cache, "drop", "--name", three.name, "--yes")
    assert _names(cache) == [two.name]


def test_drop_all_discards_everything(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        pend(cache, name)
    assert len(_lines(capsys, cache, "drop", "--all", "--yes")) == 3
    assert _names(cache) == []
    assert _lines(capsys, cache, "drop", "--all", "--yes") == []


def test_saving_moves_the_bytes_and_does_not_ask(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pend(cache, data=b"precious"), pend(cache, data=b"precious", state=PendingState.INCOMPLETE)
    synced: list[str] = []
    monkeypatch.setattr("casstore.fs.files.sync", lambda _: synced.append(str(len(_names(cache)))))
    target = tmp_path / "saved.bin"
    target.write_bytes(b"before")
    lines = _lines(capsys, cache, "drop", "s3://bucket/k", "--save-to", str(target))
    assert lines[0].endswith(f"s3://bucket/k: {target}")
    assert target.read_bytes() == b"precious"
    assert _names(cache) == []
    assert synced == ["2", "1"], "each was on the disk there before it was forgotten here"


def test_a_write_that_cannot_be_saved_stays_pending(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = pend(cache)
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe", tmp_path / "none" / "file", cache.pending.path(write), "/dev/null"):
        assert run(["--dir", cache.root, "drop", write.uri, "--save-to", str(target)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and f"still pending: {target}: " in err
        assert _names(cache) == [write.name]
        assert Path(cache.pending.path(write)).read_bytes() == b"mine"


def test_two_different_writes_do_not_fit_into_one_file(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = pend(cache, data=b"one"), pend(cache, data=b"two")
    target = tmp_path / "saved"
    assert run(["--dir", cache.root, "drop", one.uri, "--save-to", str(target)]) == 2
    err = capsys.readouterr().err
    assert one.name in err and two.name in err and not target.exists()
    _lines(capsys, cache, "drop", one.uri, "--name", two.name, "--save-to", str(target))
    assert target.read_bytes() == b"two"
    assert _names(cache) == [one.name]


def test_a_uri_without_pending_writes_fails_and_the_others_are_dropped(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    write = pend(cache)
    assert run(["--dir", cache.root, "drop", "s3://bucket/none", write.uri, "--yes"]) == 1
    err = capsys.readouterr().err
    assert "s3://bucket/none: nothing is pending: `casstore pending` lists the pending writes" in err
    assert _names(cache) == []
    assert run(["--dir", cache.root, "drop", "--name", write.name, "--yes"]) == 1


@pytest.mark.needs_locks
def test_a_write_in_progress_is_not_dropped(
    cache: Cache, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pend(cache, state=PendingState.UPLOADING)
    with acquired(cache.write_locks, write.key):
        environment = {**os.environ, "CASSTORE_LOCK_TIMEOUT": "0.2"}
        command = [sys.executable, "-m", "casstore", "--dir", cache.root, "drop", write.uri, "--yes"]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1_000)
    assert done.returncode == 1
    assert f": process {os.getpid()} " in done.stderr and "is writing it" in done.stderr
    assert _names(cache) == [write.name]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--all"),
        (["--all", "s3://bucket/k", "--yes"], "--all"),
        (["--all", "--save-to", "x"], "--all"),
        (["s3://bucket/k"], "--yes"),
        (["s3://bucket/k", "s3://bucket/l", "--save-to", "x"], "one URI"),
        (["s3://bucket/k", "s3://bucket/l", "--name", "x", "--yes"], "one URI"),
        (["s3://bucket/k", "--save-to", ""], "--save-to"),
    ],
)
def test_wrong_usage_is_status_2_and_discards_nothing(cache: Cache, arguments: list[str], said: str) -> None:
    write = pend(cache)
    done = subprocess.run(
        [sys.executable, "-m", "casstore", "--dir", cache.root, "drop", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1_000,
    )
    assert done.returncode == 2
    assert said in done.stderr and done.stdout == ""
    assert _names(cache) == [write.name]


@pytest.mark.parametrize(("answer", "status", "left"), [(b"y\n", 0, 0), (b"n\n", 130, 2)])
def test_at_a_terminal_it_lists_the_writes_and_asks(cache: Cache, answer: bytes, status: int, left: int) -> None:
    pend(cache, "a", b"x" * 1024), pend(cache, "b", b"y" * 1024)
    done = at_a_terminal(answer, "--dir", cache.root, "drop", "s3://bucket/a", "s3://bucket/b")
    assert "Discard 2 writes (2.0 KiB) for good? There is no other copy of these bytes. [y/N]" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[:2]] == ["discard", "discard"]
    assert "the network was away" in done.stdout
    assert (done.returncode, len(_names(cache))) == (status, left)
    assert ("nothing was changed" in done.stderr) == (status == 130)
