"""``casstore push``, run as a process: what it uploads, what it leaves, what it says."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Cache, Condition, Key, PendingState, PendingWrite
from pathapi import FileClient, S3Client
from pathapi.exceptions import CloudPathException
from pathapi.testing.intercepting_backend import interpose
from pathapi.testing.unfinished_writes import network_is_away
from tests.casstore.support.pending_writes import interrupt, pend
from tests.harness.faults import Answer
from tests.harness.proxy import Fault, Proxy
from tests.harness.servers import S3Server
from tests.harness.warm_command import RunCasstore, in_text
from tests.pathapi.support.raw_buckets import S3RawBucket

_COMMAND = [sys.executable, "-m", "casstore"]

Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def push(s3_environment: dict[str, str], run_casstore: RunCasstore) -> Push:
    def call(*arguments: str, command: str = "push") -> subprocess.CompletedProcess[str]:
        return in_text(run_casstore(command, *arguments, env=s3_environment))

    return call


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory that is a cloud."""
    directory = tmp_path / "cloud"
    directory.mkdir()
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return casstore.open(tmp_path / "store")


def _pend(store: Cache, path: Path, data: bytes = b"mine", **options: Any) -> PendingWrite:
    """Pending of a file."""
    return pend(store, data=data, key=Key(f"file://{path}", "file"), **options)


def _json(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_push_uploads_and_reports_the_writes_of_the_uris(push: Push, files: Path, store: Cache) -> None:
    one, two, other = (_pend(store, files / name, name.encode() * 1024) for name in ("a", "b b", "c"))
    done = push(one.uri, two.uri)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"pushed   1.0 KiB  {one.uri}", f"pushed   3.0 KiB  {two.uri}"]
    assert (files / "a").read_bytes() == b"a" * 1024 and (files / "b b").read_bytes() == b"b b" * 1024
    assert not (files / "c").exists()
    assert [write.name for write in store.pending.all()] == [other.name]


def test_push_all_skips_incomplete_writes(push: Push, files: Path, store: Cache) -> None:
    _pend(store, files / "a")
    _pend(store, files / "b", state=PendingState.EDIT, source="/view/b")
    left = _pend(store, files / "c", state=PendingState.INCOMPLETE)
    done = push("--all", "--json")
    note = (
        "casstore: 1 incomplete write was skipped: `casstore pending` lists what is left, and --incomplete uploads it\n"
    )
    assert (done.returncode, done.stderr) == (0, note)
    assert [(fact["uri"], fact["size"], fact["origin"]) for fact in _json(done)] == [
        ((files / name).as_uri(), 4, "file") for name in "ab"
    ]
    assert sorted(os.listdir(files)) == ["a", "b"]
    assert [write.name for write in store.pending.all()] == [left.name]
    done = push("--all")
    assert (done.stdout, done.stderr) == ("", note), "which is not nothing"
    assert push("--all", "--incomplete").returncode == 0
    assert (files / "c").read_bytes() == b"mine"
    assert push("--all").stdout == "nothing to push\n"


def test_push_all_reports_records_that_cannot_be_read(push: Push, files: Path, store: Cache) -> None:
    write = _pend(store, files / "a")
    record = Path(store.pending.path(write)).with_suffix(".json")
    record.chmod(0o600)
    record.write_text("{")
    done = push("--all")
    assert done.stdout == ""
    assert f"{record}: skipped, the record cannot be read" in done.stderr


def test_the_commands_that_pending_prints_reach_the_server_as_they_are(
    push: Push, s3_environment: dict[str, str], store: Cache, ground: S3RawBucket, seaweed: S3Server, at: str
) -> None:
    """One write is of a client with an endpoint, one a local file that was left by a process without a client."""
    names = ("aws_access_key_id", "aws_secret_access_key")
    login: dict[str, Any] = {name: s3_environment[name.upper()] for name in names}
    client = S3Client(endpoint_url=seaweed.endpoint, local_cache_dir=store.root, **login)
    path = client.CloudPath(f"s3://{ground.bucket}/{at}") / "a b.txt"
    interpose(client, ground.bucket).before["write"] = network_is_away
    with pytest.raises(CloudPathException):
        path.write_bytes(b"mine")
    left = Key(f"s3://{ground.bucket}/{at}left", client.origin)
    pend(store, data=b"left", key=left, condition=Condition.ABSENT, state=PendingState.INCOMPLETE, source="/left")
    for _ in range(2):
        commands = [line.partition("#")[0] for line in push(command="pending").stdout.splitlines()]
        command = next(command for command in commands if "casstore push" in command)
        assert f"--endpoint-url {seaweed.endpoint}" in command
        done = push(*shlex.split(command)[2:])
        assert done.returncode == 0, done.stderr
    assert ground.content(f"{at}a b.txt") == b"mine"
    assert ground.content(f"{at}left") == b"left"
    assert push(command="pending").stdout == "nothing is pending\n"


def test_a_failure_is_a_line_on_stderr_and_does_not_stop_the_others(push: Push, files: Path, store: Cache) -> None:
    conflict, good = _pend(store, files / "a"), _pend(store, files / "b")
    (files / "a").write_bytes(b"theirs")
    nothing = (files / "nothing").as_uri()
    done = push("--json", conflict.uri, nothing, good.uri)
    assert done.returncode == 1
    assert [fact.get("error") for fact in _json(done)] == [
        "OverwriteNewerCloudError",
        "CloudPathFileNotFoundError",
        None,
    ]
    refused, none, count = done.stderr.splitlines()
    assert conflict.uri in refused and store.pending.path(conflict) in refused
    assert "casstore push" in refused and "--force" in refused and "()" not in refused
    assert none == f"casstore: error: {nothing}: nothing is pending: `casstore pending` lists the pending writes"
    assert count == "casstore: 2 failed"
    assert (files / "a").read_bytes() == b"theirs" and (files / "b").read_bytes() == b"mine"


def test_force_overwrites_the_object_of_another_client(push: Push, files: Path, store: Cache) -> None:
    write = _pend(store, files / "a")
    (files / "a").write_bytes(b"theirs")
    assert push("--all").returncode == 1
    assert (files / "a").read_bytes() == b"theirs"
    assert push("--all", "--force").returncode == 0
    assert (files / "a").read_bytes() == b"mine"
    assert list(store.pending.of(write.key)) == []


def test_a_name_selects_one_of_several_writes(push: Push, files: Path, store: Cache) -> None:
    one, two = _pend(store, files / "a", b"one"), _pend(store, files / "a", b"two")
    for arguments in ([one.uri], ["--all"]):
        done = push(*arguments)
        assert done.returncode == 1
        assert "--name" in done.stderr and one.name in done.stderr and two.name in done.stderr
        assert os.listdir(files) == []
    assert push(one.uri, "--name", "nonsense").returncode == 1
    assert push(one.uri, "--name", one.name).returncode == 0
    assert (files / "a").read_bytes() == b"one"
    hostile = _pend(store, files / "a\nb", b"three")
    assert push("--name", hostile.name).stdout.endswith("a\\nb\n")
    assert (files / "a\nb").read_bytes() == b"three"


@pytest.mark.needs_locks
def test_an_interrupted_upload_is_repeated_unless_it_completed(
    push: Push, files: Path, store: Cache, tmp_path: Path
) -> None:
    for name in ("arrived", "lost"):
        key = Key((files / name).as_uri(), "file")
        interrupt(tmp_path / "store", data=name.encode(), key=key, condition=Condition.ABSENT)
    (files / "arrived").write_bytes(b"arrived")
    inode = (files / "arrived").stat().st_ino
    done = push("--all")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 2)
    assert (files / "lost").read_bytes() == b"lost"
    assert (files / "arrived").stat().st_ino == inode, "it was there, and not sent again"
    assert list(store.pending.all()) == []


@pytest.mark.needs_locks
def test_a_write_that_another_process_uploads_is_skipped(push: Push, files: Path, store: Cache) -> None:
    write = _pend(store, files / "a", state=PendingState.UPLOADING)
    done = push("--all")
    assert done.returncode == 0
    assert f"{write.uri}: skipped, another process is uploading it" in done.stderr
    assert os.listdir(files) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--all"),
        (["--all", "file:///x"], "--all"),
        (["--all", "--name", "x"], "--all"),
        (["file:///x", "file:///y", "--name", "x"], "one URI"),
        (["nonsense://x/y"], "nonsense"),
        (["file:///x", "--profile", "p"], "--profile is for s3:// URIs"),
        (["--all", "--endpoint-url", "http://"], "endpoint"),
    ],
)
def test_wrong_usage_is_status_2(push: Push, store: Cache, arguments: list[str], said: str) -> None:
    pend(store)
    done = push(*arguments)
    # An endpoint is looked at with the first write that goes there.
    assert done.returncode == (1 if "--endpoint-url" in arguments else 2)
    assert said in done.stderr and done.stdout == ""


def test_push_creates_no_store(push: Push, tmp_path: Path) -> None:
    done = push("--all")
    assert done.returncode == 1 and "there is no store here yet" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_bar_is_shown_on_a_terminal(s3_environment: dict[str, str], files: Path, store: Cache) -> None:
    for name in "ab":
        _pend(store, files / name)
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*_COMMAND, "push", "--all"], env={**s3_environment, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=child
    )
    os.close(child)
    out, _ = process.communicate()
    shown = os.read(parent, 1 << 16)
    os.close(parent)
    assert b"pushed" not in shown
    assert b"Pushing" in shown and b"/2 objects" in shown
    assert len(out.splitlines()) == 2 and b"\x1b" not in out


# --- S3 ---------------------------------------------------------------------------------------------------------------


def test_a_failed_write_is_pushed_when_the_network_is_back(
    push: Push, client: S3Client, ground: S3RawBucket, proxy: Proxy, at: str
) -> None:
    path = client.CloudPath(f"s3://{ground.bucket}/{at}log")
    path.write_text("one\n")
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", times=2))
    with pytest.raises(CloudPathException, match="casstore push"), path.open("a") as file:
        file.write("two\n")
    (fact,) = _json(push("--json", command="pending"))
    assert (fact["uri"], fact["state"]) == (str(path), "failed")
    done = push("--endpoint-url", proxy.endpoint, str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert ground.content(f"{at}log") == b"one\ntwo\n"
    assert push(command="pending").stdout == "nothing is pending\n"
    with path.open("a") as file:
        file.write("three\n")
    assert ground.content(f"{at}log") == b"one\ntwo\nthree\n"


def test_a_write_of_another_origin_is_not_sent_to_this_server(
    push: Push,
    s3_environment: dict[str, str],
    store: Cache,
    ground: S3RawBucket,
    proxy: Proxy,
    seaweed: S3Server,
    at: str,
) -> None:
    uri, place = f"s3://{ground.bucket}/{at}k", proxy.endpoint.removeprefix("http://")
    ours = pend(store, data=b"ours", key=Key(uri, f"s3@{place}"))
    for arguments in ([uri], ["--all"], ["--name", ours.name]):
        done = push(*arguments, "--endpoint-url", seaweed.endpoint)
        assert done.returncode == 1
        assert f"{uri}: the write belongs to {place}, but this command uses" in done.stderr
        assert seaweed.endpoint.removeprefix("http://") in done.stderr
        assert f"use --endpoint-url with the URL of {place}, such as http://{place}" in done.stderr
    assert ground.content(f"{at}k") is None
    amazon = pend(store, data=b"amazon's", key=Key(uri, "s3"))
    done = push("--all", "--endpoint-url", proxy.endpoint)
    assert done.stdout.split() == ["pushed", "4", "B", uri]
    assert "the write belongs to Amazon S3" in done.stderr and "omit --endpoint-url" in done.stderr
    assert ground.content(f"{at}k") == b"ours"
    assert [write.name for write in store.pending.all()] == [amazon.name]


def test_push_on_the_command_line_and_in_python_are_equivalent(
    push: Push, files: Path, store: Cache, tmp_path: Path
) -> None:
    write = _pend(store, files / "a")
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(write.uri)
    assert [found.name for found in path.pending] == [write.name]
    assert push(str(path)).returncode == 0
    assert path.pending == [] and path.read_bytes() == b"mine"


def test_a_key_is_shown_once_and_escaped_once(push: Push, files: Path, store: Cache) -> None:
    (files / "dog\x1b.txt").write_text("other")
    _pend(store, files / "dog\x1b.txt")
    done = push("--all")
    assert done.returncode == 1
    assert done.stderr.count("dog\\x1b.txt: ") == 1
    assert "\\\\" not in done.stderr
    assert done.stderr.isascii()
    assert "\x1b" not in done.stderr
