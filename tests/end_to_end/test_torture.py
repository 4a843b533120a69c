"""`scripts/torture`: a short run of each rig finds nothing; with a protection taken away, what that was for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_PATHS = (str(ROOT / "scripts"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]))


HANGS_SECONDS = 36_000


def _run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_PATHS)},
        capture_output=True,
        text=True,
        timeout=HANGS_SECONDS,
    )


def torture(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """What the rig says; skips where it says that this system does not allow it."""
    done = _run(tmp_path, "-m", "torture_rigs", *arguments, "--dir", str(tmp_path), "--json")
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    if said["skipped"]:
        pytest.skip(said["skipped"])
    assert done.returncode == (1 if said["violations"] else 0)
    return said


LOST = ["was said to be pending", "has been dealt with already"]
"""What a record that goes too early is found by: nothing is there to be checked, or nothing is there to be pushed."""


def is_found(finding: list[str], said: dict[str, Any]) -> bool:
    """Whether one of the violations is one of these."""
    assert said["violations"], "nothing was found"
    return any(text in violation for text in finding for violation in said["violations"])


@pytest.mark.slow
def test_killed_workers_leave_a_store_that_keeps_its_promises(tmp_path: Path) -> None:
    said = torture(tmp_path, "kill", "--kills", "120")
    assert said["violations"] == []
    assert said["counts"]["kills"] == 120 and said["counts"]["checks"] == 6
    assert said["counts"]["checked entries"] and said["counts"]["reads"] and said["counts"]["writes"]
    assert said["counts"]["pending"] and said["counts"]["kept promises"], "no write was in danger"
    assert os.listdir(tmp_path) == []


@pytest.mark.torture
@pytest.mark.parametrize(
    "arguments",
    [("kill", "--kills", "20000"), ("cut", "--cuts", "1000"), ("syscalls",)],
    ids=lambda arguments: arguments[0],
)
def test_hours_of_each_rig_find_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert torture(tmp_path, *arguments)["violations"] == []


@pytest.mark.slow
@pytest.mark.parametrize("control", ["publish-unchecked", "sweep-unchecked"])
def test_kills_find_a_check_that_is_not_made_inside_the_transaction(tmp_path: Path, control: str) -> None:
    said = torture(tmp_path, "kill", "--kills", "2000", "--control", control)
    assert said["violations"], "nothing was found"  # mostly a missing blob; which harm comes first is chance
    assert Path(said["kept"], "store.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("control", "finding"),
    [("pending-unrecorded", ["did not say where its bytes are"]), ("discard-early", LOST)],
)
def test_kills_find_writes_that_are_not_kept_while_they_are_sent(
    tmp_path: Path, control: str, finding: list[str]
) -> None:
    said = torture(tmp_path, "kill", "--kills", "400", "--control", control)
    assert is_found(finding, said), said["violations"]


@pytest.mark.slow
def test_kills_find_edits_that_nobody_looks_for(tmp_path: Path) -> None:
    said = torture(tmp_path, "kill", "--kills", "400", "--control", "edits-unseen")
    assert is_found(["was edited at"], said), said["violations"]


@pytest.mark.slow
@pytest.mark.needs_root
def test_power_cuts_leave_no_wrong_bytes_to_be_read(tmp_path: Path) -> None:
    said = torture(tmp_path, "cut", "--cuts", "25")
    assert said["violations"] == []
    assert said["counts"]["cuts"] == 25
    assert said["counts"]["checked damaged_blobs"], "the cuts did no damage, so they prove nothing"
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("control", "finding"),
    [
        ("place-unchecked", ["is none of versions"]),
        ("synced-unsynced", ["(place 0)"]),
        ("pending-unsynced", ["pending"]),  # an empty record, or bytes of another digest, or neither: chance decides
        ("discard-early", LOST),
        ("save-unsynced", ["was said to be pending"]),
    ],
)
def test_cuts_find_bytes_that_are_trusted_although_nobody_synced_them(
    tmp_path: Path, control: str, finding: list[str]
) -> None:
    said = torture(tmp_path, "cut", "--cuts", "300", "--control", control)
    assert is_found(finding, said), said["violations"]


@pytest.mark.slow
def test_failing_system_calls_do_no_harm(tmp_path: Path) -> None:
    programs = "create,fill,read,write,append,refuse,push,drop,gc,verify,mend"
    said = torture(tmp_path, "syscalls", "--points", "80", "--only", programs)
    assert said["violations"] == []
    assert said["counts"]["points"] == 80 and said["counts"]["refused"] and said["counts"]["killed"]
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.needs_locks
def test_failing_system_calls_of_collections_and_verifications_leave_work_that_the_next_one_finishes(
    tmp_path: Path,
) -> None:
    programs = "collect,clear,inspect,sample,repair,reindex"
    said = torture(tmp_path, "syscalls", "--points", "12", "--only", programs, "--ways", "EIO,EMFILE+,ENOSPC,KILL")
    assert said["violations"] == []
    counts = said["counts"]
    # Which ways to fail a few points meet is the dice's.
    assert counts["points"] == 12 == sum(counts.get(end, 0) for end in ("succeeded", "refused", "killed"))
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.needs_locks
@pytest.mark.parametrize("program", ["collect", "clear"])
def test_failing_system_calls_find_a_collection_or_clearing_that_looks_at_no_pins(tmp_path: Path, program: str) -> None:
    said = torture(tmp_path, "syscalls", "--points", "1", "--only", program, "--control", "pins-unseen")
    assert is_found(["the entry that is pinned is gone"], said), said["violations"]


@pytest.mark.slow
def test_failing_system_calls_find_an_index_that_is_mapped_unseen(tmp_path: Path) -> None:
    said = torture(tmp_path, "syscalls", "--points", "1", "--only", "mend", "--control", "index-unchecked")
    assert any("mend, undisturbed: it ended with -7" in violation for violation in said["violations"])


_DAMAGE = """
import json, os, sys
from pathlib import Path
import lmdb, xxhash
import casstore
from torture_rigs.oracle.checker import Checker
from torture_rigs.oracle.recording_bucket import Ledger, LedgerClient

here, damage = Path(sys.argv[1]), sys.argv[2]
root, ledgers = here / "store", {"ledger@one": Ledger(str(here / "one")), "ledger@two": Ledger(str(here / "two"))}
ledgers["ledger@one"].put("data/0", b"first")
ledgers["ledger@two"].put("data/0", b"other")

def fill():
    for origin, ledger in ledgers.items():
        client = LedgerClient(ledger, origin.partition("@")[2], local_cache_dir=root, views="copy")
        path = client.CloudPath("ledger://bucket/data/0")
        path.read_bytes()
        path.fspath
    client.cache.flush()
    os._exit(0)  # its lease and views stay

def fail_to_write():
    ledger = ledgers["ledger@one"]
    file = LedgerClient(ledger, "one", local_cache_dir=root).CloudPath("ledger://bucket/data/0").open("wb")
    file.write(b"unsent")
    ledger.absence = 1.0
    try:
        file.close()
    except ConnectionError:
        os._exit(0)

for work in (fill, fail_to_write):
    pid = os.fork()
    if pid == 0:
        work()
    os.waitpid(pid, 0)
if damage.startswith("eviction"):
    cache = casstore.open(root)
    cache.execute(cache.plan(max_size=0))
    cache.close()
(record,) = root.glob("pending/*/*-*.json")
blob = min(root.glob("blobs/*/*"), default=None)
if damage == "byte":
    blob.chmod(0o600)
    blob.write_bytes(bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:])
elif damage == "blob":
    blob.unlink()
elif damage == "mtime":
    os.utime(blob, (1, 1))
elif damage == "stranger":
    (root / "blobs" / "core").touch()
elif damage == "version":
    Path(ledgers["ledger@one"].path("data/0", 1)).write_bytes(b"never")
elif damage == "origins":
    ledgers["ledger@one"], ledgers["ledger@two"] = ledgers["ledger@two"], ledgers["ledger@one"]
elif damage == "view":
    view = next(path for path in root.glob("local/**/0") if path.is_file())
    times = view.stat()
    view.write_bytes(b"edited")
    os.utime(view, ns=(times.st_atime_ns, times.st_mtime_ns))
elif damage == "pending data":
    data = record.with_suffix(".data")
    data.chmod(0o600)
    data.write_bytes(b"UNSENT")
elif damage == "pending record":
    record.write_bytes(record.read_bytes()[:-20])
elif damage == "pending elsewhere":
    record.parent.rename(record.parent.with_name("0" * 32))
elif damage == "half":
    record.unlink()
elif damage in ("record", "user"):
    environment = lmdb.open(str(root / "index-v1" / "1"), map_size=1 << 30, lib_version=0)
    with environment.begin(write=True) as txn:
        cursor = txn.cursor()
        cursor.set_range(b"E" if damage == "record" else b"U")
        key, value = cursor.item()
        txn.put(key, value[:-9] + bytes([value[-9] ^ 1]) + value[-8:]) if damage == "record" else txn.delete(key)
    environment.close()
elif damage == "eviction to come":
    environment = lmdb.open(str(root / "index-v1" / "1"), map_size=1 << 30, lib_version=0)
    with environment.begin(write=True) as txn:
        cursor = txn.cursor()
        assert cursor.set_range(b"P\\0")
        key, value = cursor.item()
        value = value[:8] + (99).to_bytes(8, "little")
        txn.put(key, value + xxhash.xxh3_64_intdigest(key + value).to_bytes(8, "little"))
    environment.close()
(here / "scratch").mkdir()
print(json.dumps(Checker(str(root), ledgers, str(here / "scratch")).check().violations))
"""


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("nothing", None),
        ("byte", "does not hold the bytes of its name"),
        ("blob", "is missing"),
        ("mtime", "mtime 1"),
        ("stranger", "none of the store's names"),
        ("version", "not those of version"),
        ("origins", "not those of version"),
        ("view", "no longer has its bytes"),
        ("record", "checksum"),
        ("user", "is not among the users"),
        ("pending data", "does not have its digest"),
        ("pending record", "is no record"),
        ("pending elsewhere", "lies elsewhere"),
        ("half", None),
        ("eviction", None),
        ("eviction to come", "is of eviction 99 of 2"),
    ],
)
def test_the_checker_finds_what_is_planted(tmp_path: Path, damage: str, finding: str | None) -> None:
    done = _run(tmp_path, "-c", _DAMAGE, str(tmp_path), damage)
    assert done.returncode == 0, done.stderr
    violations = json.loads(done.stdout)
    if finding is None:
        assert violations == []
    else:
        assert any(finding in violation for violation in violations), violations


_WAITING = """
import json, os, sys, warnings
from pathlib import Path
import pathapi.exceptions, pathapi.writing.commit, pathapi.writing.pending
from torture_rigs.oracle.recording_bucket import Ledger, LedgerClient
from torture_rigs.oracle.promises import read_all

here, state, weakness = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
root, ledger = here / "store", Ledger(str(here / "one"))
ledger.put("data/0", b"first")
path = LedgerClient(ledger, "one", local_cache_dir=root, views="copy").CloudPath("ledger://bucket/data/0")

def in_child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

def fail_to_write():
    file = path.open("wb")
    file.write(b"unsent")
    ledger.absence = 1.0
    try:
        file.close()
    except ConnectionError:
        os._exit(0)

def edit():
    local = Path(path.fspath)
    (here / "made").write_bytes(b"edited")
    os.replace(here / "made", local)
    try:
        path.read_bytes()
    except pathapi.exceptions.OverwriteNewerLocalError:
        os._exit(0)

def die_in(name):
    setattr(pathapi.writing.commit, name, lambda *_, **__: os._exit(0))  # where a kill may hit
    path.write_bytes(b"forced", force_overwrite_to_cloud=True)

def read_by_force():
    assert path.read_bytes(force_overwrite_from_cloud=True) == b"first"
    os._exit(0)

def settle_loosely(target, staging, noted, info, moment, write, condition):
    pending = target.client.cache.pending
    for one in pending.of(target.store_key):
        pending.discard(one)

def check_loudly(target, *, force, may_request):
    warnings.warn("something is strange")
    return check(target, force=force, may_request=may_request)

in_child(edit if state == "edit taken back" else fail_to_write)
if state == "edit taken back":
    in_child(read_by_force)
else:
    in_child(lambda: die_in("finish_upload" if state == "forced and arrived" else "conditional_put"))
check = pathapi.writing.pending.ensure_no_conflict
if weakness == "nobody looks":
    pathapi.writing.pending.ensure_no_conflict = lambda *_, **__: None
elif weakness == "the others are discarded":
    pathapi.writing.pending.finish_upload = settle_loosely
elif weakness == "more is said":
    pathapi.writing.pending.ensure_no_conflict = check_loudly
print(json.dumps(list(read_all(str(root), {"ledger@one": ledger}, is_strict=True))))
"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("state", "weakness", "finding"),
    [
        ("forced and arrived", "none", None),
        ("forced and arrived", "nobody looks", "was not refused"),
        # Without locks nobody is known to be dead, so that nothing is settled and nothing set aside.
        pytest.param(
            "forced and arrived", "the others are discarded", "was not refused", marks=pytest.mark.needs_locks
        ),
        ("forced and not sent", "none", None),
        ("forced and not sent", "nobody looks", "was not refused"),
        ("edit taken back", "none", None),
        ("edit taken back", "more is said", "something is strange"),
    ],
)
def test_a_reader_is_judged_by_what_was_forced_and_what_was_set_aside(
    tmp_path: Path, state: str, weakness: str, finding: str | None
) -> None:
    done = _run(tmp_path, "-c", _WAITING, str(tmp_path), state, weakness)
    assert done.returncode == 0, done.stderr
    violations = json.loads(done.stdout)
    if finding is None:
        assert violations == []
    else:
        assert any(finding in violation for violation in violations), violations


_EDIT = """
import os, sys
from pathlib import Path
import casstore
from torture_rigs.run_state import Run
from torture_rigs.workload.writes import Writer

run = Run(Path(sys.argv[1]), sys.argv[1] + "/store")
run.ledgers["ledger@one"].put("data/0", b"first")
pid = os.fork()
if pid == 0:
    writer = Writer(run, "1")
    path = writer._path("ledger@one", "data/0")
    local = path.fspath
    os.replace = lambda *_: os._exit(0)  # a kill
    writer.edited("ledger@one", "data/0", path, local)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
(lease,) = os.listdir(run.store + "/leases")
cache = casstore.open(run.store)
cache.execute(cache.plan())
assert not os.path.exists(run.store + "/leases/" + lease)
"""


@pytest.mark.needs_locks
def test_a_worker_that_is_killed_while_it_edits_leaves_nothing_that_keeps_its_lease(tmp_path: Path) -> None:
    done = _run(tmp_path, "-c", _EDIT, str(tmp_path))
    assert done.returncode == 0, done.stderr


_DECISION = """
import json, os, sys
from pathlib import Path
import casstore
from torture_rigs.oracle.recording_bucket import LedgerClient
from torture_rigs.run_state import Run
from torture_rigs.workload.writes import Writer

run, decision = Run(Path(sys.argv[1]), sys.argv[1] + "/store"), sys.argv[2]
run.ledgers["ledger@one"].put("data/0", b"first")
path = LedgerClient(run.ledgers["ledger@one"], "one", local_cache_dir=run.store).CloudPath("ledger://bucket/data/0")
local = path.fspath
notice = casstore.Cache.record_changes

def decide():
    user = Writer(run, "somebody else")
    run.ledgers["ledger@one"].absence = 0.0
    if decision == "overruled":
        user._write("ledger@one", "data/0", "wb", b"forced", "", force=True)
    elif decision == "lost":
        next(Path(run.store).glob("pending/*/*-*.json")).unlink()
    else:
        (write,) = user._cache().pending.all()
        user._decide(write, {"pushed": user._push, "dropped": user._drop, "saved": user._save}[decision])
    os._exit(0)

def notice_and_wait(cache, key):
    casstore.Cache.record_changes = notice
    found = [] if decision == "unseen" else notice(cache, key)
    if decision not in ("none", "unseen"):
        pid = os.fork()
        if pid == 0:
            decide()
        os.waitpid(pid, 0)
    return found

casstore.Cache.record_changes = notice_and_wait
editor = Writer(run, "the editor")
run.ledgers["ledger@one"].absence = 0.0
editor.edited("ledger@one", "data/0", path, local)
print(json.dumps({"violations": run.violations(), "said": [line[0] for line in run.said()]}))
"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("decision", "said", "finding"),
    [
        ("none", ["pending"], None),
        ("pushed", ["done"], None),
        ("dropped", ["dropping", "dropped"], None),
        ("saved", ["saving", "dropped"], None),
        ("overruled", ["done", "pending"], None),
        ("lost", [], "the edit is nowhere"),
        ("unseen", [], "the edit is nowhere"),
    ],
)
def test_an_edit_may_go_unrefused_only_where_somebody_else_has_just_decided_about_it(
    tmp_path: Path, decision: str, said: list[str], finding: str | None
) -> None:
    done = _run(tmp_path, "-c", _DECISION, str(tmp_path), decision)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["said"] == said
    assert [finding in violation for violation in found["violations"]] == ([] if finding is None else [True])
