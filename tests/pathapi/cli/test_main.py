"""The commands that need a cloud, run as a process, as a user does."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import pathapi.cli.cloud_options
from casstore.cli.shell import Shell
from tests.casstore.support.fill import eventually
from tests.harness.faults import Call, Stall
from tests.harness.proxy import Fault, Proxy
from tests.harness.servers import S3Server
from tests.harness.warm_command import RunCasstore
from tests.pathapi.support.raw_buckets import S3RawBucket

_COMMAND = [sys.executable, "-m", "casstore"]

Casstore = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def casstore_command(environment: dict[str, str], run_casstore: RunCasstore) -> Casstore:
    def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return run_casstore(*arguments, env=environment, **options)

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with three files, two of them alike."""
    directory = tmp_path / "data"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.bin").write_bytes(b"a" * 5000)
    (directory / "b.bin").write_bytes(b"b" * 100)
    (directory / "sub" / "a.bin").write_bytes(b"a" * 5000)
    return directory


def _json(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_shell_of_casstore_satisfies_the_protocol() -> None:
    shell: pathapi.cli.cloud_options.Shell = Shell(None)  # a question to mypy
    assert shell.directory is None


def test_get_reports_what_was_cached_and_the_path_of_the_bytes(casstore_command: Casstore, data: Path) -> None:
    uris = [(data / "b.bin").as_uri(), (data / "a.bin").as_uri()]
    first = casstore_command("get", "--json", *uris)
    assert (first.returncode, first.stderr) == (0, b"")
    facts = {line["uri"]: line for line in _json(first)}
    assert set(facts) == set(uris)
    for uri in uris:
        assert Path(facts[uri]["path"]).read_bytes() == Path(uri.removeprefix("file://")).read_bytes()
        assert facts[uri]["was_held"] is False
    assert all(line["was_held"] for line in _json(casstore_command("get", "--json", *uris)))

    table = casstore_command("get", *uris, uris[0]).stdout.decode().splitlines()
    assert [line.split()[-1] for line in table] == uris, "each once, in the order asked for"
    assert table[0].split()[:3] == ["100", "B", "cached"]
    (data / "b.bin").write_bytes(b"changed")
    assert casstore_command("get", uris[0]).stdout.decode().split()[:3] == ["7", "B", "downloaded"]


def test_get_of_a_directory_names_prefetch_and_stores_nothing(
    casstore_command: Casstore, environment: dict[str, str], ground: S3RawBucket, seaweed: S3Server, at: str
) -> None:
    environment |= {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_DEFAULT_REGION": seaweed.region,
        "AWS_ENDPOINT_URL": seaweed.endpoint,
    }
    ground.plant(f"{at}photos/cat.png", b"cat")
    for name in (f"s3://{ground.bucket}/{at}photos/", f"s3://{ground.bucket}/{at}photos"):
        done = casstore_command("get", name)
        assert (done.returncode, done.stdout) == (1, b""), done.stderr
        assert b"is a directory" in done.stderr and b"`casstore prefetch` downloads what is below it" in done.stderr
    assert casstore_command("ls").stdout == b""
    assert casstore_command("prefetch", name + "/").returncode == 0
    assert len(casstore_command("ls").stdout.splitlines()) == 1


def test_get_sends_one_request_for_each_object(
    casstore_command: Casstore,
    environment: dict[str, str],
    ground: S3RawBucket,
    proxy: Proxy,
    seaweed: S3Server,
    at: str,
) -> None:
    environment |= {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_DEFAULT_REGION": seaweed.region,
    }
    names = [f"{at}{n}" for n in range(3)]
    for name in names:
        ground.plant(name, name.encode())
    uris = [f"s3://{ground.bucket}/{name}" for name in names]
    done = casstore_command("get", "--endpoint-url", proxy.endpoint, *uris)
    assert (done.returncode, done.stderr) == (0, b"")
    assert proxy.count() == proxy.count("GET") == 3
    again = casstore_command("get", "--endpoint-url", proxy.endpoint, "--freshness", "immutable", *uris)
    assert again.returncode == 0
    assert proxy.count() == 3


def test_an_output_file_is_replaced_atomically_and_only_a_new_one_follows_the_umask(
    casstore_command: Casstore, data: Path, tmp_path: Path
) -> None:
    target, link = tmp_path / "out.bin", tmp_path / "link.bin"
    target.write_bytes(b"before")
    target.chmod(0o604)
    link.symlink_to(target)
    held = target.open("rb")
    done = casstore_command("get", "-o", str(link), (data / "a.bin").as_uri(), umask=0o027)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == b"a" * 5000
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert held.read() == b"before", "who reads the old file goes on reading it"
    held.close()
    new = tmp_path / "new.bin"
    casstore_command("get", "-o", str(new), (data / "a.bin").as_uri(), umask=0o027)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    new.unlink()
    assert sorted(os.listdir(tmp_path)) == ["data", "link.bin", "out.bin", "store"]
    # The copy is nobody else's: writing to it reaches no blob.
    target.write_bytes(b"mine")
    assert casstore_command("get", "-o", "-", (data / "a.bin").as_uri()).stdout == b"a" * 5000


def test_an_output_that_is_no_regular_file_is_written_into(
    casstore_command: Casstore, data: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert casstore_command("get", "-o", str(pipe), (data / "a.bin").as_uri()).returncode == 0
    reader.join(1_000)
    assert read == [b"a" * 5000]
    assert pipe.is_fifo()


def test_several_objects_go_into_a_directory_under_their_own_names(
    casstore_command: Casstore, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "into").mkdir()
    done = casstore_command("get", "-o", str(tmp_path / "into"), (data / "a.bin").as_uri(), (data / "b.bin").as_uri())
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_size for path in (tmp_path / "into").iterdir()} == {"a.bin": 5000, "b.bin": 100}


def test_stdout_gets_the_bytes_and_nothing_else(casstore_command: Casstore, data: Path) -> None:
    (data / "all").write_bytes(bytes(range(256)) * 9000)
    done = casstore_command("get", "-o", "-", (data / "all").as_uri())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == bytes(range(256)) * 9000


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("output", "names", "says"),
    [
        ("-", ["a.bin", "b.bin"], b"one URI, not 2"),
        ("out", ["a.bin", "b.bin"], b"existing directory"),
        ("none/out", ["a.bin"], b"the directory does not exist"),
        ("none/", ["a.bin"], b"the directory does not exist"),
        (".", ["a.bin", "sub/a.bin"], b"two of the objects are named a.bin"),
        (".", ["sub/.."], b"does not end in a file name"),
        (".", ["sub/"], b"does not end in a file name"),
    ],
)
def test_an_invalid_output_is_refused_before_any_download(
    output: str, names: Sequence[str], says: bytes, casstore_command: Casstore, data: Path, tmp_path: Path
) -> None:
    done = casstore_command("get", "-o", output, *(f"{data.as_uri()}/{name}" for name in names), cwd=data)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "store").exists()


def test_failures_are_listed_and_the_rest_is_done(casstore_command: Casstore, data: Path) -> None:
    good, bad = (data / "a.bin").as_uri(), (data / "none").as_uri()
    done = casstore_command("get", "--json", bad, good, f"{bad}2")
    assert done.returncode == 1
    failed = {line["uri"]: line["error"] for line in _json(done) if "error" in line}
    assert failed == {bad: "CloudPathFileNotFoundError", f"{bad}2": "CloudPathFileNotFoundError"}
    assert [line["uri"] for line in _json(done) if "size" in line] == [good]
    assert done.stderr.splitlines()[-1] == b"casstore: 2 failed"


def test_prefetch_downloads_prefixes_and_counts(casstore_command: Casstore, data: Path) -> None:
    (first,) = [casstore_command("prefetch", "--json", data.as_uri() + "/")]
    assert json.loads(first.stdout) == {
        "files": 3,
        "bytes": 10100,
        "held": 0,
        "evicted": 0,
        "unstored": 0,
        "errors": [],
    }
    again = casstore_command("prefetch", data.as_uri(), (data / "b.bin").as_uri())
    assert (again.returncode, again.stderr) == (0, b"")
    assert again.stdout == b"cached: 4 of 4 objects (10 KiB); 4 already were\n"
    listed = casstore_command("ls", "--json", data.as_uri())
    assert len(_json(listed)) == 3


def test_prefetch_counts_what_the_store_has_no_room_for(
    casstore_command: Casstore, data: Path, environment: dict[str, str]
) -> None:
    environment["CASSTORE_MIN_FREE"] = "1000TB"
    done = casstore_command("prefetch", data.as_uri())
    how = b"raise max_size, or lower min_free (`casstore info` shows them)\n"
    evicted = b"cached: 0 of 3 objects (9.9 KiB); 0 already were\nevicted again, to stay within the budget: 3: "
    assert (done.returncode, done.stdout) == (0, evicted + how)
    assert casstore_command("ls").stdout == b""
    environment |= {"CASSTORE_MIN_FREE": "0", "CASSTORE_MAX_SIZE": "50"}
    done = casstore_command("prefetch", data.as_uri())
    assert done.stdout == b"cached: 0 of 3 objects (9.9 KiB); 0 already were\nnot stored: 3: " + how


def test_an_empty_prefix_fails_and_does_not_stop_the_others(casstore_command: Casstore, data: Path) -> None:
    done = casstore_command("prefetch", f"{data.as_uri()}/none/", f"{data.as_uri()}/sub/")
    assert done.returncode == 1
    assert done.stdout == b"cached: 1 of 1 objects (4.9 KiB); 0 already were\n"
    assert b"nothing at or below" in done.stderr and b"/none/" in done.stderr


def test_an_option_of_s3_without_an_s3_uri_is_wrong_usage(casstore_command: Casstore, data: Path) -> None:
    done = casstore_command("get", "--profile", "x", (data / "a.bin").as_uri())
    assert done.returncode == 2
    assert b"--profile is for s3:// URIs" in done.stderr


def test_a_bar_is_shown_on_a_terminal_and_not_on_stdout(environment: dict[str, str], data: Path) -> None:
    shown = {}
    for disabled in ("", "1"):
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [*_COMMAND, "prefetch", data.as_uri() + "/"],
            env={**environment, "TERM": "xterm", "CASSTORE_DISABLE_PROGRESS": disabled},
            stdout=subprocess.PIPE,
            stderr=child,
        )
        os.close(child)
        out, _ = process.communicate()
        os.set_blocking(parent, False)
        try:
            shown[disabled] = os.read(parent, 1 << 16)
        except OSError:
            shown[disabled] = b""
        os.close(parent)
        assert out.startswith(b"cached: 3 of 3 objects") and b"\x1b" not in out
    assert b"file:///" in shown[""] and b"3/3 objects" in shown[""]
    assert shown["1"] == b""


def test_data_goes_to_stdout_beside_a_bar(environment: dict[str, str], data: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*_COMMAND, "get", "--json", (data / "a.bin").as_uri()],
        env={**environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=child,
    )
    os.close(child)
    out, _ = process.communicate()
    os.close(parent)
    assert json.loads(out)["size"] == 5000


def test_ctrl_c_ends_a_large_download_at_once_with_status_130_and_no_traceback(
    environment: dict[str, str], ground: S3RawBucket, proxy: Proxy, seaweed: S3Server, data: Path, at: str
) -> None:
    environment |= {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_DEFAULT_REGION": seaweed.region,
    }
    ground.plant(f"{at}large", bytes(24 << 20))
    stalled = threading.Event()
    proxy.add(Fault(Call(stalled.set), kind="GET", nth=2))
    # From the second part on: those are read by the threads of a pool, which a normal exit waits for.
    proxy.add(Fault(Stall(600), kind="GET", nth=2, times=None))
    process = subprocess.Popen(
        [
            *_COMMAND,
            "get",
            "--endpoint-url",
            proxy.endpoint,
            f"s3://{ground.bucket}/{at}large",
            (data / "a.bin").as_uri(),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert stalled.wait(1_000)
    small = (data / "a.bin").as_uri().encode()
    eventually(lambda: small in subprocess.run([*_COMMAND, "ls"], env=environment, capture_output=True).stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=1_000)  # far less than the server would have kept it waiting
    assert process.returncode == 130
    assert b"Traceback" not in err and err.endswith(b"casstore: interrupted\n")
    assert out == b""
    # What was complete when the user lost patience is kept.
    listed = subprocess.run([*_COMMAND, "ls"], env=environment, capture_output=True)
    assert listed.stdout.rstrip().endswith(small)
