"""The commands that look at a store: what they print, where to, and the status they end with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import casstore
from casstore import Cache
from casstore.cli import plugins
from casstore.cli.main import run
from casstore.cli.shell import age_text
from casstore.config.units import format_size
from casstore.errors import printable
from tests.casstore.support.fill import fill, key_of
from tests.casstore.support.pending_writes import pend

EVIL = "\x1b]0;owned\x07\x1b[31m\n\r\u202etxt\\"


@pytest.fixture
def filled(cache: Cache) -> Cache:
    """Five entries of three contents."""
    for name, data in {
        "images/b.png": b"x" * 3000,
        "images/a.png": b"x" * 3000,
        "labels.txt": b"one",
        "images/deep/c.png": b"x" * 3000,
        "images2/d.png": b"y" * 1000,
    }.items():
        fill(cache, key_of(name), data)
    return cache


def _lines(capsys: pytest.CaptureFixture[str], cache: Cache, *arguments: str) -> list[str]:
    assert run(["--dir", cache.root, *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def _document(capsys: pytest.CaptureFixture[str], cache: Cache, *arguments: str) -> Any:
    return json.loads("\n".join(_lines(capsys, cache, *arguments)))


def test_ls_lists_the_entries_that_start_with_the_prefix_in_the_order_of_their_uris(
    filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _lines(capsys, filled, "ls", "s3://bucket/images")
    assert [line.split()[-1] for line in lines] == [
        "s3://bucket/images/a.png",
        "s3://bucket/images/b.png",
        "s3://bucket/images/deep/c.png",
        "s3://bucket/images2/d.png",
    ]
    (entry,) = filled.entries("s3://bucket/images/a.png")
    assert lines[0].split() == ["2.9", "KiB", "now", entry.digest.value.hex()[:12], entry.uri]


def test_ls_in_json_has_every_fact_of_an_entry_and_its_path(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _lines(capsys, filled, "ls", "--json", "s3://bucket/labels")
    facts = json.loads(line)
    assert Path(facts.pop("path")).read_bytes() == b"one"
    times = [facts.pop(name) for name in ("validated", "last_used")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in times)
    (entry,) = filled.entries("s3://bucket/labels")
    assert facts == {
        "uri": "s3://bucket/labels.txt",
        "origin": "s3",
        "size": 3,
        "digest": str(entry.digest),
        "etag": "e1",
        "version": None,
        "modified": None,
    }


def test_no_key_can_move_the_cursor_or_fake_a_line(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    fill(cache, key_of(EVIL), b"1")
    for arguments in (["ls"], ["du"], ["du", "s3://bucket/"], ["ls", "--json"]):
        text = "\n".join(_lines(capsys, cache, *arguments))
        assert text.replace("\n", "").isprintable()
    (line,) = _lines(capsys, cache, "ls", "--json")
    assert json.loads(line)["uri"] == f"s3://bucket/{EVIL}"
    (line,) = _lines(capsys, cache, "ls")
    assert line.endswith(r"s3://bucket/\x1b]0;owned\x07\x1b[31m\n\r\u202etxt\\")


def test_no_key_is_read_as_markup(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    fill(cache, key_of("[bold]x :smile:"), b"1")
    name = "s3://bucket/[bold]x :smile:"
    assert [line for line in _lines(capsys, cache, "du", "s3://bucket/") if line.endswith(name)]


@pytest.mark.parametrize("text", ["plain", "日本語", "back\\slash", ""])
def test_what_is_printable_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_du_sums_by_the_next_part_of_the_path(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    report = _document(capsys, filled, "du", "--json", "s3://bucket/")
    assert [
        (child["name"], child["entries"], child["logical_bytes"], child["stored_bytes"]) for child in report["children"]
    ] == [
        ("s3://bucket/images/", 3, 9000, 3000),
        ("s3://bucket/images2/", 1, 1000, 1000),
        ("s3://bucket/labels.txt", 1, 3, 3),
    ]
    assert report["total"] == {
        "entries": 5,
        "logical_bytes": 10003,
        "blobs": 3,
        "stored_bytes": 4003,
        "ratio": round(4003 / 10003, 4),
    }


@pytest.mark.parametrize(
    ("prefix", "children"),
    [
        ("", ["s3://bucket/"]),
        ("s3:", ["s3://bucket/"]),
        ("s3://buc", ["s3://bucket/"]),
        ("s3://bucket", ["s3://bucket/images/", "s3://bucket/images2/", "s3://bucket/labels.txt"]),
        ("s3://bucket/images", ["s3://bucket/images/a.png", "s3://bucket/images/b.png", "s3://bucket/images/deep/", "s3://bucket/images2/"]),
        ("s3://bucket/images/", ["s3://bucket/images/a.png", "s3://bucket/images/b.png", "s3://bucket/images/deep/"]),
        ("s3://bucket/none", []),
    ],
)  # fmt: skip
def test_du_shows_what_follows_the_prefix(
    prefix: str, children: list[str], filled: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [child["name"] for child in _document(capsys, filled, "du", "--json", prefix)["children"]] == children


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("s3://bucket/none", ""),
        ("bucket/images", ": write it as in the URIs, such as s3://bucket/images"),
        ("s3://bucket/*.png", ": it is no pattern, and * and ? are part of it"),
    ],
)
def test_a_prefix_of_nothing_is_explained(
    filled: Cache, capsys: pytest.CaptureFixture[str], prefix: str, hint: str
) -> None:
    pend(filled, "a")
    for name, what in (("ls", "cached"), ("du", "cached"), ("pending", "pending")):
        assert run(["--dir", filled.root, name, prefix]) == 0
        said = capsys.readouterr()
        assert said.err == f"casstore: nothing {what} starts with {prefix}{hint}\n"
        assert "nothing" not in said.out
        assert run(["--dir", filled.root, name, "--json", prefix]) == 0
        assert capsys.readouterr().err == ""


def test_du_counts_shared_content_in_each_child_and_once_in_the_total(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("v1/a", "v2/a"):
        fill(cache, key_of(name), b"z" * 2048)
    header, first, second, total = _lines(capsys, cache, "du", "s3://bucket/")
    assert header.split() == ["ENTRIES", "SIZE", "STORED", "RATIO", "URI"]
    assert first.split() == ["1", "2.0", "KiB", "2.0", "KiB", "100%", "s3://bucket/v1/"]
    assert second.split()[-1] == "s3://bucket/v2/"
    assert total.split() == ["2", "4.0", "KiB", "2.0", "KiB", "50%", "total"]


def test_info_shows_what_the_cache_reports(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    said, true = _document(capsys, filled, "info", "--json"), filled.info()
    assert said.keys() == true.keys()
    del said["free_bytes"], true["free_bytes"]  # the disk is not ours alone
    assert said == true
    lines = _lines(capsys, filled, "info")
    assert any(line.split(maxsplit=1)[-1] == filled.root for line in lines)
    assert any(line.endswith("(10,003 bytes)") for line in lines)


def test_info_shows_the_settings_and_what_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.mkdir()
    (root / "config.toml").write_text(
        """
        policy = "lru"
        max_size = "5GB"
        min_free = 0
        max_age = "36h"

        [[rules]]
        prefix = "s3://bucket/tmp/"
        max_age = "12h"
        max_size = "1MiB"

        [[rules]]
        prefix = "s3://bucket/models/"
        max_age = "none"

        [[rules]]
        prefix = "s3://bucket/raw/"
        max_size = 90
        """
    )
    cache = casstore.open(root)
    for name in ("a", "b", "gone"):
        fill(cache, key_of(name), b"x" * 3000)
    cache.pin("s3://bucket/a", "s3://bucket/b", "s3://bucket/gone")
    cache.record_delete(key_of("gone"))
    pend(cache, "w", b"written")
    pend(cache, "e", b"edited", state=casstore.PendingState.EDIT)
    facts = _document(capsys, cache, "info", "--json")
    names = ["policy", "max_size", "min_free", "max_age"]
    assert [facts[name] for name in names] == ["lru", 5 * 10**9, int(os.environ["CASSTORE_MIN_FREE"]), 36 * 3600]
    assert facts["rules"] == [
        {"prefix": "s3://bucket/tmp/", "max_size": 1 << 20, "max_age": 12 * 3600},
        {"prefix": "s3://bucket/models/", "max_size": None, "max_age": None},
        {"prefix": "s3://bucket/raw/", "max_size": 90, "max_age": 36 * 3600},
    ]
    kept = ["pins", "pinned_bytes", "pending_writes", "pending_edits", "pending_bytes"]
    assert [facts[name] for name in kept] == [3, 3000, 2, 1, 13]
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in _lines(capsys, cache, "info"))
    assert (shown["policy"], shown["max size"], shown["max age"]) == ("lru", "4.7 GiB (5,000,000,000 bytes)", "36h")
    assert shown["rule for s3://bucket/models/"] == "max size no limit, max age no limit"
    assert shown["rule for s3://bucket/tmp/"] == "max size 1.0 MiB (1,048,576 bytes), max age 12h"
    assert (shown["pins"], shown["pending writes"], shown["pending edits"]) == ("3", "2", "1")


def test_info_counts_pins_and_writes_that_cannot_be_read(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    filled.pin("s3://bucket/labels.txt")
    Path(filled.layout.pin(key_of("labels.txt").name)).write_text("damaged")
    write = pend(filled, "w")
    Path(filled.layout.pending_record(key_of("w").name, write.name)).write_text("damaged")
    facts = _document(capsys, filled, "info", "--json")
    assert (facts["pins"], facts["pinned_bytes"], facts["pending_writes"]) == (1, 0, 1)
    assert (facts["max_size"], facts["max_age"], facts["rules"], facts["policy"]) == (None, None, [], "adaptive")


@pytest.mark.parametrize("name", ["ls", "du", "info"])
def test_reading_commands_create_no_store(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(root), name]) == 1
    assert capsys.readouterr() == (
        "",
        f"casstore: error: {root}: there is no store here yet; the first object that is read makes one\n",
    )
    assert not root.exists()


def test_an_empty_store_has_no_entries_and_a_total_of_nothing(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    assert _lines(capsys, cache, "ls") == []
    assert _lines(capsys, cache, "du")[-1].split() == ["0", "0", "B", "0", "B", "-", "total"]


@pytest.mark.parametrize(
    "arguments", [["ls", "--nonsense"], ["nonsense"], ["ls", "a", "b"], ["--dir"], ["--dir", "", "ls"]]
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"casstore: .*\(see casstore.* --help\)\n", err)


def test_without_a_command_it_prints_the_help_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"casstore {casstore.__version__}\n"


def test_plugins_are_loaded_and_a_broken_one_breaks_no_other_command(
    filled: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @click.pass_obj
    def joined(shell: Any) -> int:
        shell.line(shell.open_cache().root)
        return 3

    class Point:
        def __init__(self, name: str, found: object) -> None:
            self.name, self.value, self._found = name, f"{name}:commands", found

        def load(self) -> object:
            if isinstance(self._found, Exception):
                raise self._found
            return self._found

    points = [Point("broken", ImportError("half installed")), Point("good", [joined])]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    monkeypatch.setattr(plugins, "_load_plugins", plugins._load_plugins.__wrapped__)  # not what is loaded already
    assert run(["--dir", filled.root, "joined"]) == 3
    out, err = capsys.readouterr()
    assert out == f"{filled.root}\n"
    assert err.startswith("casstore: warning: ") and "broken:commands" in err and "half installed" in err


def test_the_help_and_ls_load_no_more_than_they_need(filled: Cache) -> None:
    code = (
        "import sys; from casstore.cli.main import run; status = run(sys.argv[1:]); "
        "print([name for name in ('rich', 'pathapi', 'boto3') if name in sys.modules], status)"
    )
    for arguments, loaded in ((["--version"], "[] 0"), (["--dir", filled.root, "ls"], "[] 0")):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == loaded, done.stderr


# --- as a process ----------------------------------------------------------------------------------------------------

_COMMAND = [sys.executable, "-m", "casstore"]


_INTERRUPTED_IMPORT = """
class Interrupts:
    def find_spec(self, name, *_):
        if name == "casstore.cli.main":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
"""
_INTERRUPTED_EXIT = """
import atexit, casstore.cli.main
casstore.cli.main.run = lambda: 130
atexit.register(signal.raise_signal, signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("before", "said"), [(_INTERRUPTED_IMPORT, "casstore: interrupted\n"), (_INTERRUPTED_EXIT, "")]
)
def test_an_interrupt_before_or_after_the_command_has_no_traceback(before: str, said: str) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{before}\nfrom casstore.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, said)


def test_a_closed_pipe_ends_ls_quietly(cache: Cache) -> None:
    with cache.begin(key_of("x" * 400)) as filling:
        filling.write(b"1")
        stored = filling.publish(casstore.Validator(1, "e"))
    os.close(stored.descriptor)
    for n in range(300):
        with cache.begin(key_of(f"{n:03}" + "x" * 400)) as filling:
            filling.write(b"1")
            filling.publish(casstore.Validator(1, "e"), reading=False)
    cache.flush()
    process = subprocess.Popen(
        [*_COMMAND, "--dir", cache.root, "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=4096
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert b"s3://bucket/000" in process.stdout.read(500)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_characters_that_stdout_cannot_encode_are_escaped(cache: Cache) -> None:
    fill(cache, key_of("日本"), b"1")
    done = subprocess.run(
        [*_COMMAND, "--dir", cache.root, "ls"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(rb"s3://bucket/\u65e5\u672c" + b"\n")


def _on_a_terminal(arguments: list[str]) -> str:
    """What the command shows on a terminal of 80 columns."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([*_COMMAND, *arguments], stdout=child, stderr=child, env=environment)
    os.close(child)
    text = b""
    while True:
        try:
            data = os.read(parent, 1 << 16)
        except OSError:  # Linux says so that the other side is closed.
            break
        if not data:
            break
        text += data
    os.close(parent)
    assert process.wait() == 0
    return text.decode().replace("\r\n", "\n")


def test_a_terminal_gets_headings_and_no_line_wider_than_itself(filled: Cache) -> None:
    fill(filled, key_of("images/" + "long" * 30), b"1")
    listing = _on_a_terminal(["--dir", filled.root, "ls"])
    assert listing.splitlines()[0].split() == ["SIZE", "CHECKED", "DIGEST", "URI"]
    table = re.sub(r"\x1b\[[0-9;]*m", "", _on_a_terminal(["--dir", filled.root, "du", "s3://bucket/images/"]))
    assert "─" in table.splitlines()[1]
    assert max(map(len, table.splitlines())) <= 80
    assert "long" * 30 in re.sub(r"\s", "", table), "a long name is folded, not cut"


# --- words for people ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (10 * 1024, "10 KiB"),
        (1023 * 1024, "1.0 MiB"),
        (1536 * 1024, "1.5 MiB"),
        (256 << 20, "256 MiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 60, "3072 PiB"),
    ],
)
def test_sizes_have_two_or_three_digits(count: int, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "?"), (-0.5, "now"), (0.2, "now"), (59, "59s"), (90, "2m"), (7200, "2h"), (864000, "10d")],
)
def test_ages_are_one_number(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
