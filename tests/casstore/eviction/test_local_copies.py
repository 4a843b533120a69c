"""Local copies give way: what nobody uses goes, the oldest first; whatever else has a claim to it stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import casstore
from casstore import Cache, Content, LocalUse, Place
from casstore.eviction import local_copies
from casstore.eviction.local_copies import RECORD_SECONDS, LocalInventory, files_in_use, forget_old, remove_copies
from casstore.format.layout import Layout
from casstore.fs import files
from casstore.local.record import Kind, PathRecord, records
from casstore.local.uses import UsesOfAll
from tests.casstore.support.fill import eventually, fill, fork, hand_out, key_of, status_of
from tests.casstore.support.local_edits import KEY, edit_of, held, in_place, outbox_of, reaped, view_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not uploaded:UserWarning")


@pytest.fixture
def cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """One that lets unused paths go at once."""
    monkeypatch.setenv("CASSTORE_LOCAL_PATH_GRACE", "0")
    return casstore.open(root)


def _empty(cache: Cache, grace: float = 0.0) -> int:
    """Remove all that may go; the bytes."""
    cache.local.uses.settle()
    return remove_copies(cache.local, LocalInventory(cache.layout, grace).chosen(1 << 60))[1]


def _date(cache: Cache, name: str, seconds: float) -> None:
    os.utime(cache.layout.path_record(key_of(name).name), (seconds, seconds))


# --- what goes, and in which order ------------------------------------------------------------------------------------


def test_the_oldest_copies_go_first_and_links_before_them(cache: Cache) -> None:
    paths = {name: view_of(cache, name, "copy", data=name.encode() * 10) for name in "abc"}
    link = view_of(cache, "link", "link", data=b"l" * 10)
    for number, name in enumerate(("link", "c", "a", "b")):
        _date(cache, name, 1_500_000_000 + number)
    inventory = LocalInventory(cache.layout, 0)
    assert inventory.bytes == 30, "a link takes nothing"
    assert [copy.key.uri[-1] for copy in inventory.chosen(11)] == ["k", "c", "a"]
    assert [copy.key.uri[-1] for copy in inventory.chosen(0)] == ["k"]
    assert remove_copies(cache.local, inventory.chosen(11)) == (0, 20)
    assert [name for name, path in paths.items() if path.exists()] == ["b"]
    assert not link.exists()


def test_copies_count_in_the_budget_and_go_before_blobs(cache: Cache) -> None:
    path = view_of(cache, data=b"x" * 1000)
    fill(cache, key_of("other"), b"y" * 1000)
    plan = cache.plan(max_size=2500, min_free=0)
    assert (plan.stored, plan.requested_bytes, len(plan.copies), len(plan.victims)) == (3000, 500, 1, 0)
    done = cache.execute(plan)
    assert (done.bytes, done.entries, done.shortfall, path.exists()) == (1000, 0, 0, False)
    assert cache.plan(max_size=2000, min_free=0).stored == 2000


def test_a_linked_blob_is_evicted_once_its_links_may_go(cache: Cache) -> None:
    path = view_of(cache, mode="link", data=b"x" * 1000)
    use = [cache.local.use(KEY)]
    (kept,) = cache.execute(cache.plan(max_size=0, min_free=0)).retained
    assert (kept.size, kept.holders) == (1000, (str(path),))
    use.clear()
    assert cache.execute(cache.plan(max_size=0, min_free=0)).bytes == 1000
    assert not path.exists()


def test_an_evicted_path_is_the_same_when_it_is_made_again_and_a_new_version_has_another(cache: Cache) -> None:
    path = view_of(cache)
    _empty(cache)
    assert not path.exists()
    assert view_of(cache, etag="e2", data=b"newer") != path
    assert view_of(cache) == path


def test_the_background_keeps_local_copies_within_the_budget(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOCAL_PATH_GRACE", "0"), ("MAX_SIZE", "40000"), ("MIN_FREE", "0")):
        monkeypatch.setenv(f"CASSTORE_{name}", value)
    cache = casstore.open(root)
    for number in range(20):
        assert view_of(cache, str(number), data=b"%d" % number * 1000).exists()
    eventually(lambda: cache.plan(max_size=40_000, min_free=0).requested_bytes == 0)


# --- what stays -------------------------------------------------------------------------------------------------------


def test_a_path_in_use_stays_with_its_directory_and_goes_when_the_use_ends(cache: Cache) -> None:
    path, other = view_of(cache, "d/used"), view_of(cache, "d/e/below")
    uses = [cache.local.use(key_of("d/used"))]
    _empty(cache)
    assert (path.exists(), other.exists()) == (True, False)
    uses[:] = [cache.local.use(key_of("d"), is_directory=True)]
    other = view_of(cache, "d/e/below")
    _empty(cache)
    assert path.exists() and other.exists()
    uses.clear()
    _empty(cache)
    assert not path.exists() and not other.exists()


@pytest.mark.needs_locks
def test_another_process_keeps_what_it_uses_until_it_is_killed(cache: Cache, tmp_path: Path) -> None:
    path, kept = view_of(cache), list[LocalUse]()

    def work() -> None:
        kept.append(cache.local.use(KEY))
        (tmp_path / "said").touch()
        signal.pause()

    pid = fork(work)
    eventually((tmp_path / "said").exists)
    _empty(cache)
    assert path.exists()
    os.kill(pid, signal.SIGKILL)
    status_of(pid)
    _empty(cache)
    assert not path.exists()


def test_a_path_stays_for_the_grace_time_while_a_process_may_have_its_text(cache: Cache) -> None:
    path = view_of(cache)
    assert LocalInventory(cache.layout, 1000).chosen(1) != [], "no process has ever used one"
    use = cache.local.use(key_of("another"))
    assert _empty(cache, grace=1000) == 0
    _date(cache, "k", 1_500_000_000)
    assert _empty(cache, grace=1000) == 5
    del use
    assert not path.exists()


def test_a_path_that_is_handed_out_while_paths_are_looked_at_has_its_time_of_grace(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = cache.local.use(key_of("another"))
    view_of(cache)

    def late(layout: Layout) -> Iterator[tuple[float, PathRecord]]:
        _date(cache, "k", time.time())
        yield from records(layout)

    monkeypatch.setattr(local_copies, "records", late)
    assert LocalInventory(cache.layout, 1000).chosen(1) == []
    del use


def _briefly(cache: Cache) -> None:
    entry = cache.lookup(KEY)
    assert entry is not None
    with open(cache.blob_path(entry), "rb") as blob:
        cache.local.path(Place(KEY, "bucket", "k"), Content.of_entry(entry), blob.fileno(), briefly=True)
    cache.local._recent.clear()


def test_a_path_that_a_block_gave_back_goes_first_and_its_number_is_remembered(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = cache.local.use(key_of("another"))
    view_of(cache, "old")
    path = view_of(cache)
    cache.local._recent.clear()
    _briefly(cache)
    assert LocalInventory(cache.layout, 1000).chosen(1) == [], "others were given it before"
    _date(cache, "k", 0)
    _briefly(cache)
    (copy,) = LocalInventory(cache.layout, 1000).chosen(1)
    assert copy.key == KEY
    assert _empty(cache, grace=1000) == 5 and not path.exists()
    forget_old(cache.local)
    assert view_of(cache, etag="e2", data=b"newer") != path
    del use


def _put_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


STAYING: dict[str, Callable[[Cache, Path], object]] = {
    "edited": lambda _, path: in_place(path),
    "touched": lambda _, path: os.utime(path),
    "replaced by a directory": lambda _, path: _put_a_directory(path),
    "pinned": lambda cache, _: cache.pin(KEY.uri),
}


@pytest.mark.parametrize("what", STAYING)
def test_what_somebody_may_want_stays(cache: Cache, what: str) -> None:
    path = view_of(cache)
    STAYING[what](cache, path)
    _empty(cache)
    assert path.exists()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux tells")
@pytest.mark.parametrize(("mode", "data"), [("copy", b"bytes"), ("copy", b""), ("link", b"bytes")])
def test_a_file_that_a_program_has_open_for_writing_stays_and_one_that_is_read_can_be_read_on(
    cache: Cache, mode: str, data: bytes
) -> None:
    path = view_of(cache, mode=mode, data=data)
    path.chmod(0o600)
    with path.open("r+b") as file:
        _empty(cache)
        file.write(b"mine")
    cache.record_changes(KEY)
    assert held(cache)[0][2][:4] == b"mine"
    other = view_of(cache, "other")
    with other.open("rb") as file:
        _empty(cache)
        assert not other.exists() and file.read() == b"bytes"


def test_a_saved_edit_goes_when_nobody_uses_it_and_one_in_the_making_stays(cache: Cache, tmp_path: Path) -> None:
    path, made, private = view_of(cache), outbox_of(cache, "made"), edit_of(cache, tmp_path, b"bytes")
    in_place(path)
    made.write_bytes(b"made")
    assert _empty(cache) == 0
    cache.record_local()
    assert _empty(cache) == 8
    assert (path.exists(), made.exists(), private.exists()) == (False, False, True)
    assert [data for _, _, data in held(cache)] == [b"mine", b"made"]
    cache.close()
    assert len(held(cache)) == 2, "a removed file is no change"


def test_what_is_handed_out_or_changed_between_the_look_and_the_removal_stays(cache: Cache) -> None:
    paths = {name: view_of(cache, name) for name in ("handed", "used", "edited", "newer", "gone")}
    for name in paths:
        _date(cache, name, 1_500_000_000)
    chosen = LocalInventory(cache.layout, 0).chosen(1 << 60)
    entry = cache.lookup(key_of("handed"))
    assert entry is not None and len(chosen) == 5
    hand_out(cache, entry, "copy")
    use = cache.local.use(key_of("used"))
    in_place(paths["edited"])
    view_of(cache, "newer", etag="e2")
    paths["gone"].unlink()
    assert remove_copies(cache.local, chosen) == (len(chosen), 0)
    assert [path.exists() for path in paths.values()] == [True] * 4 + [False]
    assert paths["edited"].read_bytes() == b"mine"
    assert not [name for name in os.listdir(cache.layout.local) if name.startswith("e")]
    del use


@pytest.mark.needs_locks
@pytest.mark.parametrize("moment", ["before the look", "after the look"])
def test_an_edit_that_meets_an_eviction_is_recorded_though_the_collector_is_killed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = view_of(cache)
    chosen = LocalInventory(cache.layout, 0).chosen(1)

    def work() -> None:
        rename = files.rename
        assert cache.lease.exists()

        def late(source: str, target: str) -> None:
            rename(source, target)
            in_place(Path(target))  # by a program that had opened it
            if moment == "before the look":
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(files, "rename", late)
        monkeypatch.setattr(files, "link", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        remove_copies(cache.local, chosen)

    pid = fork(work)
    assert status_of(pid) == -signal.SIGKILL
    assert not path.exists()
    reaped(cache)
    assert [data for _, _, data in held(cache)] == [b"mine"]
    assert reaped(cache).kept == ()


# --- what is told -----------------------------------------------------------------------------------------------------


def test_files_in_use_are_those_that_stay(cache: Cache) -> None:
    edited, pinned, free = (view_of(cache, name) for name in ("edited", "pinned", "free"))
    in_place(edited)
    cache.pin("s3://bucket/pinned")
    found = {file.path: (file.uris, file.size, file.is_changed) for file in files_in_use(cache.layout, "", 0, {})}
    assert found == {
        str(edited): (("s3://bucket/edited",), 4, True),
        str(pinned): (("s3://bucket/pinned",), 5, False),
    }
    assert files_in_use(cache.layout, "s3://bucket/other", 0, {}) == ()
    assert free.exists()


# --- what is forgotten ------------------------------------------------------------------------------------------------


def test_a_record_without_files_is_forgotten_after_a_month_and_one_with_a_file_is_not(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    view_of(cache), view_of(cache, "there")
    outbox_of(cache, "new")
    os.unlink(f"{cache.layout.local}/0/s3/bucket/k")
    later = time.time() + RECORD_SECONDS
    for shift, left in ((-60, {"k", "there", "new"}), (60, {"there"})):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda shift=shift: later + shift)
            forget_old(cache.local)
        known = {name for name in ("k", "there", "new") if PathRecord.read(cache.layout, key_of(name).name)}
        assert known == left


def test_old_empty_directories_go_and_those_of_paths_that_tools_may_write_to_stay(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone/a/b", "used/a", "open/a"):
        view_of(cache, name)
    outbox_of(cache, "made/new")
    record = PathRecord.read(cache.layout, key_of("made/new").name)
    assert record is not None and record.files[0].kind is Kind.ABSENT
    use = cache.local.use(key_of("used"), is_directory=True)
    for name in ("gone/a/b", "used/a", "open/a"):
        os.unlink(f"{cache.layout.local}/0/s3/bucket/{name}")
    forget_old(cache.local)
    directory = Path(cache.layout.local, "0/s3/bucket")
    assert sorted(os.listdir(directory)) == ["gone", "made", "open", "used"], "they are young"
    monkeypatch.setattr(local_copies, "EMPTY_SECONDS", -1)
    forget_old(cache.local)
    assert sorted(os.listdir(directory)) == ["made", "used"]
    assert UsesOfAll(cache.layout).has_processes
    del use
