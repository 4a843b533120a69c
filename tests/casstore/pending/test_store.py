"""Pending writes survive: records, states, and what killed processes leave."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import Condition, Pending, PendingDamagedError, PendingState, PendingWrite, Staging, Validator
from casstore.fs import files
from casstore.leases.lease import Lease
from tests.casstore.support.fill import forked, key_of

KEY, OTHER = key_of("k"), key_of("k", "s3@elsewhere")
BASE = Validator(3, "e", mtime_ns=7)


def staged(cache: casstore.Cache, data: bytes) -> Staging:
    staging = cache.stage()
    staging.write(data)
    return staging


def keep(cache: casstore.Cache, data: bytes = b"mine", key: casstore.Key = KEY, **options: Any) -> PendingWrite:
    arguments: dict[str, Any] = {
        "state": PendingState.FAILED,
        "condition": Condition.MATCH,
        "base": BASE,
        "lease": cache.lease.name,
        "why": "because",
        **options,
    }
    staging = staged(cache, data)
    try:
        return cache.pending.record(key, staging, **arguments)
    finally:
        staging.close()


def bytes_of(pending: Pending, write: PendingWrite) -> bytes:
    with open(pending.open(write), "rb") as file:
        return file.read()


def test_what_was_recorded_is_found_again_by_everybody(root: Path, cache: casstore.Cache) -> None:
    assert not cache.pending.has(KEY) and cache.pending.of(KEY) == [] and list(cache.pending.all()) == []
    write = keep(cache, source="/somewhere/\udce4", exclusive=True)
    assert cache.pending.has(KEY)
    assert Pending(cache.layout).of(KEY) == [write] == list(cache.pending.all())
    assert bytes_of(cache.pending, write) == b"mine"
    assert (write.uri, write.size, write.base, write.digest.algorithm) == (KEY.uri, 4, BASE, "xxh3-128")
    assert write.blocks
    assert stat.S_IMODE(os.stat(cache.pending.path(write)).st_mode) == 0o444


def test_uris_of_two_origins_have_records_of_their_own(cache: casstore.Cache) -> None:
    one, two = keep(cache, b"one"), keep(cache, b"two", OTHER)
    assert (cache.pending.of(KEY), cache.pending.of(OTHER)) == ([one], [two])
    assert list(cache.pending.all()) == [one, two]


@pytest.mark.parametrize("base", [None, BASE, Validator(0, None, version="v", racy=True, weak=True)])
@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("state", [state for state in PendingState if state is not PendingState.UNREADABLE])
def test_a_record_is_read_as_it_was_written(
    cache: casstore.Cache, state: PendingState, condition: Condition, base: Validator | None
) -> None:
    write = keep(cache, state=state, condition=condition, base=base)
    assert cache.pending.of(KEY) == [write]
    assert write.blocks == (state in ("failed", "edit"))


def test_a_state_is_changed_in_place(cache: casstore.Cache) -> None:
    write = keep(cache, state=PendingState.UPLOADING)
    failed = cache.pending.mark(write, PendingState.FAILED, why="no network")
    assert cache.pending.of(KEY) == [failed]
    assert (failed.why, failed.lease, failed.digest) == ("no network", write.lease, write.digest)
    taken = cache.pending.mark(failed, PendingState.UPLOADING, lease="f" * 16)
    assert (taken.why, taken.lease, bytes_of(cache.pending, taken)) == ("no network", "f" * 16, b"mine")


def test_what_is_discarded_is_gone_and_its_directory_with_it(cache: casstore.Cache) -> None:
    one, two = keep(cache, b"one"), keep(cache, b"two", state=PendingState.EDIT)
    cache.pending.discard(one)
    assert cache.pending.of(KEY) == [two]
    cache.pending.discard(two)
    cache.pending.discard(two)
    assert not cache.pending.has(KEY)
    assert os.listdir(cache.layout.pending_directory) == []
    with pytest.raises(FileNotFoundError):
        cache.pending.mark(two, PendingState.FAILED)


def test_the_bytes_become_a_blob_without_a_copy(cache: casstore.Cache) -> None:
    write = keep(cache, b"x" * 100_000)
    inode = os.stat(cache.pending.path(write)).st_ino
    staging = cache.pending.adopt(write)
    entry = cache.record_write(cache.snapshot(KEY), staging, Validator(100_000, "new"), cache.now())
    assert entry is not None
    assert os.stat(cache.blob_path(entry)).st_ino == inode
    assert os.path.exists(cache.pending.path(write)), "the name is not the staging file's to remove"
    cache.pending.discard(write)
    assert os.stat(cache.blob_path(entry)).st_nlink == 1


def test_damaged_bytes_are_not_adopted(cache: casstore.Cache) -> None:
    write = keep(cache)
    path = Path(cache.pending.path(write))
    path.chmod(0o600)
    path.write_bytes(b"mime")
    with pytest.raises(PendingDamagedError, match=KEY.uri):
        cache.pending.adopt(write)
    assert path.read_bytes() == b"mime"


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "state": "odd"}', '{"state": "unreadable"}']
)
def test_a_record_that_cannot_be_read_is_told_and_kept(cache: casstore.Cache, damage: str) -> None:
    write = keep(cache)
    path = cache.layout.pending_record(KEY.name, write.name)
    Path(path).write_text(damage)
    (found,) = cache.pending.of(KEY)
    assert (found.key, found.name, found.state, found.blocks) == (KEY, write.name, PendingState.UNREADABLE, True)
    assert list(cache.pending.all()) == []
    assert cache.pending.unreadable() == [path]
    assert cache.pending.count() == 1
    assert list(cache.pending.orphans()) == []


def test_an_unreadable_record_may_tell_its_uri(cache: casstore.Cache) -> None:
    write = keep(cache)
    path = Path(cache.pending.record_path(write))
    sound = path.read_text()
    path.write_text(sound.replace('"format": 1', '"format": 2'))
    assert [found.state for found in cache.pending.all()] == [PendingState.UNREADABLE]
    path.write_text(sound.replace(KEY.uri, KEY.uri + "2"))
    assert [found.key for found in cache.pending.of(KEY)] == [KEY], "of the directory that it is in"
    assert cache.pending.unreadable() == [str(path)]


def test_an_unreadable_record_is_set_aside_with_the_digest_of_its_bytes(cache: casstore.Cache) -> None:
    write = keep(cache)
    Path(cache.pending.record_path(write)).write_text("{")
    (found,) = cache.pending.of(KEY)
    marked = cache.pending.mark(found, PendingState.INCOMPLETE)
    assert cache.pending.of(KEY) == [marked]
    assert (marked.digest, marked.condition) == (write.digest, Condition.ABSENT)
    cache.pending.adopt(marked).close()


def test_half_a_record_is_debris_of_its_lease(cache: casstore.Cache) -> None:
    one, two = keep(cache), keep(cache, b"two")
    os.unlink(cache.pending.path(one))
    os.unlink(cache.layout.pending_record(KEY.name, two.name))
    Path(cache.layout.pending(KEY.name), "0123456789abcdef").touch()
    assert cache.pending.of(KEY) == []
    found = {(os.path.basename(path), lease) for path, lease in cache.pending.orphans()}
    lease = cache.lease.name
    assert found == {(f"{one.name}.json", lease), (f"{two.name}.data", lease), ("0123456789abcdef", "")}


def test_what_could_not_be_recorded_leaves_nothing(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    staging = staged(cache, b"mine")
    lease = cache.lease.name
    for name in ("casstore.fs.files.sync", "casstore.fs.files.write_all", "casstore.fs.files.sync_directory"):
        with monkeypatch.context() as patched:
            patched.setattr(name, fail)
            wanted = casstore.StoreUnavailableError if name == "casstore.fs.files.sync" else casstore.StoreFullError
            with pytest.raises(wanted):
                cache.pending.record(KEY, staging, PendingState.UPLOADING, Condition.ABSENT, None, lease=lease, why="")
        assert os.listdir(cache.layout.pending_directory) == []
    staging.close()


def test_a_directory_that_goes_away_meanwhile_is_made_again(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.makedirs, []

    def make_and_lose(path: Any, *arguments: Any, **options: Any) -> None:
        real(path, *arguments, **options)
        calls.append(path)
        if len(calls) < 3:
            os.rmdir(path)

    staging = staged(cache, b"mine")
    lease = cache.lease.name
    monkeypatch.setattr(os, "makedirs", make_and_lose)
    cache.pending.record(KEY, staging, PendingState.FAILED, Condition.ABSENT, None, lease=lease, why="")
    staging.close()
    assert len(cache.pending.of(KEY)) == 1


def test_a_directory_that_goes_away_while_it_is_looked_at_is_made_again(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, mkdir, lost = cache.layout.pending(KEY.name), os.mkdir, []

    def fail_and_lose(path: Any, *arguments: Any, **options: Any) -> None:
        try:
            mkdir(path, *arguments, **options)
        except FileExistsError:
            os.rmdir(directory)  # as whoever discards the last record does
            lost.append(path)
            raise

    os.makedirs(directory)
    staging = staged(cache, b"mine")
    lease = cache.lease.name
    monkeypatch.setattr(os, "mkdir", fail_and_lose)
    cache.pending.record(KEY, staging, PendingState.FAILED, Condition.ABSENT, None, lease=lease, why="")
    staging.close()
    assert lost == [directory]
    assert len(cache.pending.of(KEY)) == 1


def test_what_others_discard_while_it_is_being_recorded_does_not_come_back(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_directory = casstore.fs.files.sync_directory
    discarded: list[casstore.PendingWrite] = []

    def lose_and_sync(path: str) -> None:
        if not discarded:
            (write,) = cache.pending.of(KEY)
            discarded.append(write)
            cache.pending.discard(write)
        sync_directory(path)

    staging = staged(cache, b"mine")
    lease = cache.lease.name
    monkeypatch.setattr(casstore.fs.files, "sync_directory", lose_and_sync)
    write = cache.pending.record(KEY, staging, PendingState.EDIT, Condition.ABSENT, None, lease=lease, why="")
    staging.close()
    assert discarded == [write]
    assert cache.pending.of(KEY) == []


@pytest.mark.needs_locks
def test_an_upload_is_interrupted_once_its_process_is_proved_dead(root: Path, cache: casstore.Cache) -> None:
    def work() -> None:
        keep(casstore.open(root), state=PendingState.UPLOADING)
        os.kill(os.getpid(), 9)

    assert forked(work) == -9
    mine = keep(cache, b"alive", state=PendingState.UPLOADING)
    theirs = next(write for write in cache.pending.of(KEY) if write.name != mine.name)
    assert cache.pending.is_interrupted(theirs)
    assert not cache.pending.is_interrupted(mine)
    assert not cache.pending.is_interrupted(cache.pending.mark(theirs, PendingState.FAILED))


def test_where_locks_do_not_exclude_nobody_is_dead(cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Lease(cache.layout)
    write = keep(cache, state=PendingState.UPLOADING, lease=dead.name)
    dead._file.close()
    monkeypatch.setattr("casstore.pending.store.locks_are_exclusive", lambda _: False)
    assert not cache.pending.is_interrupted(write)


def test_everything_is_synced_in_the_order_that_a_power_cut_asks_for(
    cache: casstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def watch(owner: Any, name: str, tell: Any) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            done.append(tell(*arguments))
            return result

        monkeypatch.setattr(owner, name, call)

    def kind(path: str) -> str:
        return os.path.basename(path).partition(".")[2] or os.path.basename(path)

    staging = staged(cache, b"mine")
    lease = cache.lease.name
    watch(os, "fsync", lambda fd: "sync " + ("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"))
    watch(os, "link", lambda source, target: f"link {kind(target)}")
    watch(os, "unlink", lambda path: f"unlink {kind(path)}")
    write = cache.pending.record(KEY, staging, PendingState.FAILED, Condition.ABSENT, None, lease=lease, why="")
    staging.close()
    steps = [step for step in done if not step.startswith("unlink")]
    assert steps == ["sync file", "sync file", "link data", "link json", "sync directory", "sync directory"]
    done.clear()
    watch(os, "rename", lambda source, target: f"rename {kind(target)}")
    write = cache.pending.mark(write, PendingState.UPLOADING)
    assert done == ["sync file", "rename json", "sync directory"]
    done.clear()
    cache.pending.discard(write)
    assert done == ["unlink json", "sync directory", "unlink data"]


def test_the_record_says_in_plain_text_what_the_bytes_are(cache: casstore.Cache) -> None:
    """Whoever has lost everything but the disk can still tell what belongs where."""
    write = keep(cache)
    with open(cache.layout.pending_record(KEY.name, write.name), encoding="ascii") as file:
        record = json.load(file)
    assert (record["uri"], record["origin"], record["state"], record["why"]) == (KEY.uri, "s3", "failed", "because")


def test_a_write_that_was_discarded_meanwhile_does_not_come_back(cache: casstore.Cache) -> None:
    write, other = keep(cache), keep(cache, b"other")
    cache.pending.discard(write)
    with pytest.raises(FileNotFoundError, match="pushed or dropped meanwhile"):
        cache.pending.mark(write, PendingState.INCOMPLETE)
    assert cache.pending.of(KEY) == [other]
    assert list(cache.pending.orphans()) == []


def test_a_write_is_not_saved_into_the_store(cache: casstore.Cache) -> None:
    write = keep(cache)
    for place in (cache.pending.path(write), f"{cache.root}/blobs/mine"):
        with pytest.raises(OSError, match="is in the store"):
            cache.pending.save(write, place)
    assert bytes_of(cache.pending, write) == b"mine"


def test_a_write_that_is_saved_is_on_the_disk_before_its_record_goes(
    cache: casstore.Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = keep(cache)
    (tmp_path / "saved").mkdir()
    steps: list[str] = []
    sync, sync_directory, discard = files.sync, files.sync_directory, Pending.discard

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        steps.append("file")

    def note_sync_directory(path: str) -> None:
        sync_directory(path)
        if path == str(tmp_path / "saved"):
            steps.append("directory")

    def note_discard(self: Pending, discarded: PendingWrite) -> None:
        steps.append("discard")
        discard(self, discarded)

    monkeypatch.setattr(files, "sync", note_sync)
    monkeypatch.setattr(files, "sync_directory", note_sync_directory)
    monkeypatch.setattr(Pending, "discard", note_discard)
    cache.pending.save(write, str(tmp_path / "saved" / "file"))
    assert steps == ["file", "directory", "discard"]
    assert (tmp_path / "saved" / "file").read_bytes() == b"mine"
