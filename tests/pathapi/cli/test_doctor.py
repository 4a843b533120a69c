"""``casstore doctor URI``: whether a cloud can be reached and holds to conditions, at a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.faults import Answer, Call, DropRequestHeader, Fault, Stall
from tests.harness.proxy import Proxy
from tests.harness.warm_command import RunCasstore
from tests.pathapi.support.raw_buckets import S3RawBucket

Doctor = Callable[..., tuple[int, dict[str, tuple[str, str]]]]


@pytest.fixture
def doctor(s3_environment: dict[str, str], tmp_path: Path, proxy: Proxy, run_casstore: RunCasstore) -> Doctor:
    environment = s3_environment | {"AWS_MAX_ATTEMPTS": "1"}

    def call(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        """The status; state and finding of each check of a URI."""
        done = run_casstore("doctor", "--json", "--endpoint-url", proxy.endpoint, *arguments, env=environment)
        assert done.stderr == b""
        assert not (tmp_path / "store").exists()
        checks = json.loads(done.stdout)["checks"]
        found = {check["name"]: (check["state"], check["found"]) for check in checks if "://" in check["name"]}
        return done.returncode, {name.rpartition(" ")[0]: check for name, check in found.items()}

    return call


@pytest.fixture
def uri(ground: S3RawBucket) -> str:
    return f"s3://{ground.bucket}/doctor/"


def _keys(ground: S3RawBucket) -> list[str]:
    listed = ground.client.list_objects_v2(Bucket=ground.bucket, Prefix="doctor/")
    return [found["Key"] for found in listed.get("Contents", ())]


def _states(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: state for name, (state, _) in found.items()}


@pytest.mark.needs_locks
def test_a_server_with_conditions_is_good_and_no_object_is_left(
    doctor: Doctor, uri: str, ground: S3RawBucket, proxy: Proxy
) -> None:
    status, found = doctor(uri, "--write")
    assert (status, _states(found)) == (0, {"reach": "good", "conditional writes": "good", "delete": "good"})
    assert _keys(ground) == []
    assert all("doctor/casstore-doctor-" in record.key for record in proxy.records if record.kind == "PUT")


@pytest.mark.needs_locks
def test_without_write_nothing_is_written(doctor: Doctor, uri: str, proxy: Proxy) -> None:
    status, found = doctor(uri)
    assert (status, _states(found)) == (0, {"reach": "good", "conditional writes": "note"})
    assert proxy.count("PUT") == 0


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_wrong_and_no_object_is_left(
    doctor: Doctor, uri: str, ground: S3RawBucket, proxy: Proxy, header: str
) -> None:
    proxy.add(Fault(DropRequestHeader(header), kind="PUT", times=None))
    status, found = doctor(uri, "--write")
    assert (status, found["conditional writes"][0]) == (1, "wrong")
    assert "the server overwrote" in found["conditional writes"][1]
    assert _keys(ground) == []


@pytest.mark.needs_locks
def test_a_server_without_conditions_is_a_note(doctor: Doctor, uri: str, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(501, "NotImplemented"), kind="PUT", times=None))
    status, found = doctor(uri, "--write")
    assert (status, found["conditional writes"][0]) == (0, "note")


def test_a_missing_permission_is_wrong(doctor: Doctor, uri: str, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="PUT", times=None))
    status, found = doctor(uri, "--write")
    assert (status, found["conditional writes"][0]) == (1, "wrong")


def test_an_object_that_cannot_be_deleted_is_named(doctor: Doctor, uri: str, ground: S3RawBucket, proxy: Proxy) -> None:
    proxy.add(Fault(Answer(403, "AccessDenied"), kind="DELETE", times=None))
    status, found = doctor(uri, "--write")
    (left,) = _keys(ground)
    assert (status, found["delete"]) == (1, ("wrong", f"{left} may still exist"))
    ground.remove(left)


def test_a_missing_bucket_or_server_is_wrong(doctor: Doctor, proxy: Proxy, uri: str) -> None:
    status, found = doctor("s3://no-such-bucket-here/x/", "--write")
    assert (status, _states(found)) == (1, {"reach": "wrong"})
    proxy.close()
    status, found = doctor(uri)
    assert (status, _states(found)) == (1, {"reach": "wrong"})


def test_an_interrupt_is_heard_though_the_server_stalls_also_the_deletion(
    s3_environment: dict[str, str], uri: str, proxy: Proxy
) -> None:
    stalled = threading.Event()
    proxy.add(Fault(Call(stalled.set), kind="PUT"))
    proxy.add(Fault(Stall(600, after=None), kind="PUT", times=None))
    proxy.add(Fault(Stall(600, after=None), kind="DELETE", times=None))
    process = subprocess.Popen(
        [sys.executable, "-m", "casstore", "doctor", "--endpoint-url", proxy.endpoint, "--write", uri],
        env=s3_environment | {"AWS_MAX_ATTEMPTS": "2"},
        stderr=subprocess.PIPE,
    )
    assert stalled.wait(1_000)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=1_000)[1].endswith(b"casstore: interrupted\n")
    assert process.returncode == 130
    assert proxy.count("DELETE") <= 1  # it did not wait until it would have tried again
