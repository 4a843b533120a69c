"""``casstore verify --remote``: entries held against the cloud, by a process as a user starts it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.proxy import Proxy
from tests.harness.warm_command import RunCasstore, in_text
from tests.pathapi.support.raw_buckets import S3RawBucket

Casstore = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(s3_environment: dict[str, str], run_casstore: RunCasstore) -> Casstore:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return in_text(run_casstore(*arguments, env=s3_environment))

    return call


def _states(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    remote = json.loads(done.stdout)["remote"]
    return {found["uri"].rpartition("/")[2]: found["state"] for found in remote["differences"]}


def test_entries_are_same_stale_gone_or_of_another_server(
    command: Casstore, ground: S3RawBucket, proxy: Proxy, tmp_path: Path
) -> None:
    prefix = "remote/"
    uris = {name: f"s3://{ground.bucket}/{prefix}{name}" for name in ("same", "stale", "gone")}
    for name in uris:
        ground.plant(prefix + name, name.encode())
    local = tmp_path / "local"
    local.write_bytes(b"local")
    assert command("get", "--endpoint-url", proxy.endpoint, *uris.values(), local.as_uri()).returncode == 0
    everything = command("verify", "--remote", "--json", "--endpoint-url", proxy.endpoint)
    assert (everything.returncode, everything.stderr, _states(everything)) == (0, "", {})

    ground.plant(prefix + "stale", b"newer")
    ground.remove(prefix + "gone")
    proxy.reset()
    done = command("verify", "--remote", "--json", "--endpoint-url", proxy.endpoint)
    assert (done.returncode, _states(done)) == (1, {"stale": "stale", "gone": "gone"})
    assert proxy.count() == 3  # one request each
    remote = json.loads(done.stdout)["remote"]
    assert (remote["asked"], remote["same"], remote["unreachable"]) == (4, 2, 0)
    assert json.loads(done.stdout)["is_sound"] is True

    other = command("verify", "--remote", "--json", "--endpoint-url", "http://127.0.0.1:9", "--prefix", "s3://")
    assert (other.returncode, set(_states(other).values())) == (1, {"unreachable"})
    assert "it was downloaded from s3@127.0.0.1" in json.loads(other.stdout)["remote"]["differences"][0]["detail"]

    said = command("verify", "--remote", "--endpoint-url", proxy.endpoint)
    assert f"gone         {uris['gone']}" in said.stdout.splitlines()
    assert said.stdout.splitlines()[-1] == "4 entries compared with the server: 2 same, 1 stale, 1 gone"


def test_an_unreachable_server_makes_entries_unreachable(command: Casstore, ground: S3RawBucket, proxy: Proxy) -> None:
    ground.plant("away/a", b"a")
    uri = f"s3://{ground.bucket}/away/a"
    assert command("get", "--endpoint-url", proxy.endpoint, uri).returncode == 0
    proxy.close()
    done = command("verify", "--remote", "--json", "--endpoint-url", proxy.endpoint)
    assert (done.returncode, _states(done)) == (1, {"a": "unreachable"})
    assert json.loads(command("ls", "--json").stdout)["uri"] == uri


def test_without_remote_no_request_is_sent_and_its_options_are_wrong_usage(command: Casstore, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"local")
    assert command("get", local.as_uri()).returncode == 0
    local.unlink()
    done = command("verify", "--json")
    assert (done.returncode, "remote" in json.loads(done.stdout)) == (0, False)
    wrong = command("verify", "--prefix", "s3://")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--prefix needs --remote" in wrong.stderr
