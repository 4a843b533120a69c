"""Which failures of a write leave open whether the server carried it out, on every cloud; and what follows."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.retries.standard
import pytest
from azure.storage.blob import ExponentialRetry

from pathapi import FileClient
from pathapi.backend import ABSENT
from pathapi.backends.file import backend as file_backend
from pathapi.exceptions import (
    CloudPathFileExistsError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    VersionMismatchError,
)
from pathapi.testing import write
from tests.harness.faults import Action, Answer, Call, Fault, Reset
from tests.harness.http_messages import Head
from tests.pathapi.support.proxied import DATA, Cloud


@dataclass(frozen=True, slots=True)
class Disguise(Action):
    """The server carries the request out, and a gateway answers with *status*."""

    status: int

    def respond(self, response: Head, stop: threading.Event) -> None:
        response.start = (response.start[0], str(self.status), "disguised")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    monkeypatch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda self, context: 0)
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0)
    monkeypatch.setattr("random.uniform", lambda low, high: 0)


def close_error(file: Any, error: type[Exception]) -> Any:
    file.write(DATA)
    with pytest.raises(error) as caught:
        file.close()
    return caught.value


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_creation_that_was_refused_each_time_is_not_ours(cloud: Cloud, status: int) -> None:
    """Another machine creates the object with the same bytes meanwhile: only one of the two may succeed."""
    file = cloud.path.open("xb")
    cloud.fail(Call(cloud.plant))
    cloud.fail(Answer(status, "SlowDown"), times=None)
    assert not close_error(file, CloudUnavailableError).outcome_unknown
    cloud.proxy.clear_faults()
    (pending,) = cloud.path.pending
    assert not pending.outcome_unknown
    with pytest.raises(CloudPathFileExistsError):
        cloud.path.push()
    assert cloud.path.pending, "nor does a push believe it"


def test_a_creation_that_was_refused_and_then_came_too_late_is_not_ours(cloud: Cloud) -> None:
    file = cloud.path.open("xb")
    cloud.fail(Answer(503, "SlowDown"), Call(cloud.plant))
    close_error(file, CloudPathFileExistsError)


def test_of_two_machines_that_append_the_same_line_the_second_is_told(cloud: Cloud) -> None:
    """At the first try: no earlier one could have arrived."""
    cloud.plant(b"0\n")
    file = cloud.path.open("ab")
    cloud.plant(b"0\n" + DATA)
    close_error(file, OverwriteNewerCloudError)
    with pytest.raises(OverwriteNewerCloudError):
        cloud.path.push()
    assert cloud.content == b"0\n" + DATA
    assert cloud.path.pending


def test_a_connection_that_was_refused_carried_nothing_out(cloud: Cloud) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    path = cloud.make(endpoint).CloudPath(
        f"{endpoint}/d/a" if cloud.path.location.uri.scheme == "http" else str(cloud.path)
    )
    with pytest.raises(CloudUnavailableError) as caught:
        write(path.location.backend, path.location.key, DATA)
    assert not caught.value.outcome_unknown


# --- carried out, perhaps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [Reset(after=None), Disguise(500), Disguise(502), Disguise(504)], ids=repr)
@pytest.mark.parametrize("mode", ["xb", "ab"])
def test_a_write_that_arrived_is_ours_whatever_the_answer(cloud: Cloud, action: Action, mode: str) -> None:
    if mode == "ab":
        cloud.plant(b"0\n")
    cloud.fail(action)
    with cloud.path.open(mode) as file:
        file.write(DATA)
    assert cloud.content == (DATA if mode == "xb" else b"0\n" + DATA)
    assert cloud.path.pending == []


def test_the_last_try_alone_does_not_decide(cloud: Cloud) -> None:
    """The first was carried out and its response lost; a refusal of the others says nothing of that."""
    cloud.fail(Reset(after=None))
    cloud.fail(Answer(503, "SlowDown"), nth=2, times=None)
    with cloud.path.open("xb") as file:
        file.write(DATA)
    assert cloud.content == DATA


def test_an_unknown_outcome_is_found_out_by_a_push(cloud: Cloud) -> None:
    file = cloud.path.open("xb")

    def go_away() -> None:
        for kind in ("HEAD", "GET"):
            cloud.proxy.add(Fault(Answer(503), kind=kind, times=None))

    cloud.fail(Call(go_away), Disguise(502))
    cloud.fail(Answer(503), nth=2, times=None)
    assert close_error(file, CloudUnavailableError).outcome_unknown
    cloud.proxy.clear_faults()
    (pending,) = cloud.path.pending
    assert pending.outcome_unknown
    cloud.path.push()
    assert cloud.path.pending == []


def test_what_was_looked_for_in_vain_is_a_refusal_from_then_on(cloud: Cloud) -> None:
    file = cloud.path.open("xb")
    cloud.fail(Answer(502), times=None)
    close_error(file, CloudUnavailableError)
    cloud.proxy.clear_faults()
    cloud.plant()
    with pytest.raises(CloudPathFileExistsError):
        cloud.path.push()


def test_a_directory_that_cannot_be_synced_leaves_the_outcome_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError(5, "Input/output error")

    bucket = tmp_path / "bucket"
    bucket.mkdir()
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"{bucket.as_uri()}/a")
    monkeypatch.setattr(file_backend, "sync_directory", fail)
    with pytest.raises(CloudUnavailableError) as caught:
        write(path.location.backend, path.location.key, DATA, ABSENT)
    assert caught.value.outcome_unknown
    with pytest.raises(VersionMismatchError) as refused:
        write(path.location.backend, path.location.key, DATA, ABSENT)
    assert not refused.value.outcome_unknown
    with path.open("wb") as file:
        file.write(b"other")
    assert (bucket / "a").read_bytes() == b"other"
