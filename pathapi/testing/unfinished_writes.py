"""Tests of unfinished writes: no network, another writer, a file never closed; a part of `WriteSuite`."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from casstore import Condition, PendingState, ReentrantWriteError
from pathapi.exceptions import (
    CloudPathPermissionError,
    CloudUnavailableError,
    OverwriteNewerCloudError,
    PendingWriteError,
)
from pathapi.testing.intercepting_backend import InterceptingBackend, interpose
from pathapi.testing.path_suite import PathSuite, append, states
from pathapi.testing.raw_bucket import TIMEOUT, RawBucket, in_forked_child


def network_is_away() -> None:
    raise CloudUnavailableError("the network is away")


def _answer_is_lost() -> None:
    raise CloudUnavailableError("the answer was lost")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


class UnfinishedWrites(PathSuite):
    """Writes that were not uploaded when the file was closed."""

    # --- no network --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("data", [b"mine", b"the same"])
    def test_bytes_are_kept_without_a_network(
        self, path: Any, ground: RawBucket, wire: InterceptingBackend, data: bytes
    ) -> None:
        """Also those that the cloud had when the file was opened: it may have others now."""
        self.put(ground, b"the same")
        path.read_bytes()
        file = path.open("wb")
        file.write(data)
        wire.before.update(write=network_is_away, head=network_is_away, read=network_is_away)
        with pytest.raises(CloudUnavailableError, match=r"the network is away.*The bytes are kept at"):
            file.close()
        with pytest.raises(PendingWriteError, match="the network is away"):
            path.read_bytes()
        with pytest.raises(CloudUnavailableError):
            path.push()
        wire.before.clear()
        path.push()
        assert self.now(ground) == path.read_bytes() == data
        assert path.pending == []

    @pytest.mark.parametrize("there", [b"theirs", None], ids=["present", "absent"])
    @pytest.mark.parametrize("how", ["write_text", "w", "wb"])
    def test_bytes_are_kept_if_the_network_was_away_before_the_write(
        self, path: Any, ground: RawBucket, wire: InterceptingBackend, how: str, there: bytes | None
    ) -> None:
        if there is not None:
            self.put(ground, there)

        def write() -> None:
            if how == "write_text":
                path.write_text("mine")
                return
            with path.open(how) as file:
                file.write(b"mine" if how == "wb" else "mine")

        wire.before.update(write=network_is_away, head=network_is_away, read=network_is_away)
        with pytest.raises(CloudUnavailableError, match=r"the network is away.*The bytes are kept at"):
            write()
        assert [write.condition for write in path.pending] == [Condition.UNKNOWN]
        assert path.read_bytes(read_pending=True) == b"mine"
        wire.before.clear()
        if there is None:
            path.push()
            assert self.now(ground) == path.read_bytes() == b"mine"
            return
        with pytest.raises(OverwriteNewerCloudError, match=r"the object exists, .* could not be reached .*kept at"):
            path.push()
        assert self.now(ground) == there
        path.push(force_overwrite_to_cloud=True)
        assert self.now(ground) == path.read_bytes() == b"mine"
        assert path.pending == []

    def test_a_write_that_ends_in_its_call_tries_a_lost_network_once(
        self, path: Any, wire: InterceptingBackend
    ) -> None:
        wire.before.update(write=network_is_away, head=network_is_away, read=network_is_away)
        wire.calls.clear()
        with pytest.raises(CloudUnavailableError, match="kept at"):
            path.write_bytes(b"mine")
        assert wire.calls == {"head": 1}

    def test_a_network_that_is_back_at_the_close_takes_the_write(
        self, path: Any, ground: RawBucket, wire: InterceptingBackend
    ) -> None:
        wire.before.update(head=network_is_away)
        file = path.open("wb")
        wire.before.clear()
        file.write(b"mine")
        file.close()
        assert self.now(ground) == path.read_bytes() == b"mine"

    def test_a_forced_push_sets_others_aside(self, path: Any, ground: RawBucket, wire: InterceptingBackend) -> None:
        self.put(ground, b"old")
        wire.before.update(write=network_is_away, read=network_is_away)
        for data, force in ((b"mine", False), (b"forced", True)):
            with pytest.raises(CloudUnavailableError):
                path.write_bytes(data, force_overwrite_to_cloud=force)
        wire.before.clear()
        path.push(path.pending[-1])
        assert self.now(ground) == path.read_bytes() == b"forced"
        assert states(path) == [PendingState.INCOMPLETE]

    @pytest.mark.parametrize("cached", [b"old", None], ids=["cached", "unknown"])
    def test_a_write_offline_is_kept_until_the_network_is_back(
        self, make: Any, ground: RawBucket, at: str, monkeypatch: pytest.MonkeyPatch, cached: bytes | None
    ) -> None:
        if cached is not None:
            self.put(ground, cached)
            make().CloudPath(at + "d/a.txt").read_bytes()
        with monkeypatch.context() as offline:
            offline.setenv("CASSTORE_OFFLINE", "1")
            path = make().CloudPath(at + "d/a.txt")
            wire = interpose(path.client, path.uri.bucket)
            with pytest.raises(CloudUnavailableError, match=r"the policy is offline.*kept at"):
                path.write_bytes(b"mine")
            assert not wire.calls
            assert path.read_bytes(read_pending=True) == b"mine"
        make().CloudPath(at + "d/a.txt").push()
        assert self.now(ground) == b"mine"

    def test_a_lost_answer_is_no_failure(self, path: Any, ground: RawBucket, wire: InterceptingBackend) -> None:
        wire.after["write"] = _answer_is_lost
        path.write_bytes(b"mine")
        assert self.now(ground) == path.read_bytes() == b"mine"
        assert path.pending == []

    @pytest.mark.parametrize("is_refused", [False, True], ids=["at once", "after a refused push"])
    def test_an_arrived_upload_can_be_pushed(
        self, path: Any, ground: RawBucket, wire: InterceptingBackend, is_refused: bool
    ) -> None:
        def refuse() -> None:
            raise CloudPathPermissionError("denied")

        def lose() -> None:
            wire.before["head"] = _answer_is_lost
            _answer_is_lost()

        if is_refused:
            self.put(ground, b"old")
        wire.after["write"] = lose
        with pytest.raises(CloudUnavailableError, match="kept at"):
            path.write_bytes(b"mine")
        wire.after.clear()
        if is_refused:
            wire.before.update(write=refuse, head=refuse)
            with pytest.raises(CloudPathPermissionError, match="kept at"):
                path.push()
        wire.before.clear()
        path.push()
        assert self.now(ground) == b"mine"
        assert path.pending == []

    def test_an_interrupted_write_is_kept(self, path: Any, ground: RawBucket, wire: InterceptingBackend) -> None:
        wire.before["write"] = _interrupt
        with pytest.raises(KeyboardInterrupt) as caught:
            path.write_bytes(b"mine")
        assert "kept at" in "".join(caught.value.__notes__)
        wire.before.clear()
        path.push()
        assert self.now(ground) == b"mine"

    # --- one writer at a time ----------------------------------------------------------------------------------------

    def test_opening_twice_in_one_thread_is_an_error_and_no_deadlock(self, path: Any, ground: RawBucket) -> None:
        with path.open("w") as file:
            with pytest.raises(ReentrantWriteError, match=r"a\.txt: this thread already has it open for writing"):
                path.open("w")
            file.write("the first goes on")
        assert self.now(ground) == b"the first goes on"

    def test_the_next_writer_waits_for_the_one_before(self, path: Any, ground: RawBucket) -> None:
        with ThreadPoolExecutor(1) as pool:
            with path.open("ab") as file:
                second = pool.submit(append, path, b"second")
                file.write(b"first ")
            second.result(TIMEOUT)
        assert self.now(ground) == b"first second"

    def test_readers_do_not_wait_for_a_writer(self, path: Any, ground: RawBucket) -> None:
        self.put(ground, b"old")
        with path.open("wb") as file:
            file.write(b"new")
            file.flush()
            assert path.read_bytes() == b"old"
            assert in_forked_child(lambda: path.read_bytes() == b"old")
        assert path.read_bytes() == b"new"

    # --- files left open ---------------------------------------------------------------------------------------------

    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("in_cycle", [False, True])
    @pytest.mark.parametrize("mode", ["wb", "w", "r+b", "a"])
    def test_an_unclosed_file_is_set_aside(self, path: Any, ground: RawBucket, mode: str, in_cycle: bool) -> None:
        self.put(ground, b"old")
        expected = b"oldmine" if mode == "a" else b"mine"

        def forget() -> None:
            files: list[Any] = [path.open(mode)]
            files[0].write(b"mine" if "b" in mode else "mine")
            if in_cycle:
                files.append(files)
            del files
            gc.collect()

        with pytest.warns(ResourceWarning, match=r"a\.txt was opened for writing and never closed"):
            forget()
        _eventually(lambda: path.pending)
        assert states(path) == [PendingState.INCOMPLETE]
        assert path.read_bytes(read_pending=True) == expected
        assert path.read_bytes() == b"old"
        path.push()
        assert self.now(ground) == expected

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_a_finaliser_does_not_wait_for_locks(self, path: Any) -> None:
        """A finaliser may run while its thread holds a lock."""
        file = path.open("wb")
        file.write(b"mine")
        with path.client.cache.leases._mutex:  # noqa: SLF001 (a lock that keeping the write needs)
            del file
            gc.collect()
        _eventually(lambda: path.pending)

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_a_file_that_is_finalised_before_its_text_waits_for_that(self, path: Any) -> None:
        """In a cycle, the order is undefined, and another thread may run between the two."""
        text = path.open("w")
        text.write("mine")
        text.buffer.__del__()
        for _ in range(20):
            assert path.pending == []
            time.sleep(0.005)
        text.__del__()
        _eventually(lambda: path.pending)
        assert path.read_bytes(read_pending=True) == b"mine"

    def test_a_failed_cell_can_run_again(self, path: Any, ground: RawBucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
        left = path.open("w")
        left.write("half")
        with path.open("w") as file:
            file.write("whole")
        assert self.now(ground) == b"whole"
        assert (states(path), path.read_bytes(read_pending=True)) == ([PendingState.INCOMPLETE], b"half")
        left.close()
        assert self.now(ground) == b"whole"

    def test_a_forked_child_cannot_write_to_its_parents_file(self, path: Any, ground: RawBucket) -> None:
        file = path.open("wb")
        file.write(b"from the parent")

        def meddle() -> bool:
            file.write(b"from the child")
            file.flush()
            file.seek(0)
            file.truncate(0)
            file.close()
            return bool(file.closed)

        assert in_forked_child(meddle)
        file.write(b", all of it")
        file.close()
        assert self.now(ground) == b"from the parent, all of it"
        assert path.pending == []
