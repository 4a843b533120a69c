"""The scripts for operators, run as they do: as programs, with nothing but the package."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore import Cache
from tests.casstore.support.fill import REPOSITORY, fill, key_of
from tests.casstore.support.pending_writes import pend

SCRIPTS = ("inspect_cache", "collect_garbage", "export_tree")
CONTENTS = {"data/a": b"alpha", "data/sub/b": b"beta" * 1000, "data/sub/c": b"alpha", "other": b"other"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    cache = casstore.open(tmp_path / "store")
    for name, data in CONTENTS.items():
        fill(cache, key_of(name), data)
    cache.close()
    return cache


@pytest.fixture
def run(store: Cache, tmp_path: Path) -> Run:
    """Runs a script in an empty directory, where it finds the package by PYTHONPATH alone."""
    (tmp_path / "elsewhere").mkdir()

    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "scripts" / script), *arguments],
            cwd=tmp_path / "elsewhere",
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CASSTORE_DIR": store.root},
            capture_output=True,
            text=True,
            timeout=1_000,
        )

    return call


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_uses_the_public_api_alone_and_can_be_started(script: str) -> None:
    path = REPOSITORY / "scripts" / script
    assert os.access(path, os.X_OK)
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in (alias.name.partition(".")[0] for alias in node.names):
                assert name == "casstore" or name in sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] in sys.stdlib_module_names
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "casstore":
            assert node.attr in casstore.__all__
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not [name for name in attributes if name.startswith("_")]


def _tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- inspect_cache ---------------------------------------------------------------------------------------------------


def test_inspect_says_what_is_held_where(run: Run, store: Cache) -> None:
    pend(store, "waiting")
    done = run("inspect_cache", "--json", "--max-size", "0")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["entries"], found["logical_bytes"], found["stored_bytes"]) == (4, 4015, 4010)
    assert found["directories"] == [
        {"uri": "s3://bucket/data/", "entries": 3, "bytes": 4010},
        {"uri": "s3://bucket/", "entries": 1, "bytes": 5},
    ]
    assert found["bytes_by_last_use"] == {"1 hour": 4015}
    assert (found["misses"], found["pending_writes"]) == (4, 1)
    assert found["would_free"] == {"blobs": 3, "bytes": 4010, "held": 0}
    said = run("inspect_cache", "s3://bucket/data/sub/").stdout.splitlines()
    assert said[0] == f"{store.root}: 2 entries of 3.9 KiB, stored in 3.9 KiB"
    assert len(list(store.entries())) == 4


def test_where_there_is_no_store_none_is_made(run: Run, tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    for script, *arguments in (["inspect_cache", "--dir", none], ["export_tree", "s3://b/", "x", "--dir", none]):
        done = run(script, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no store" in done.stderr
    assert run("collect_garbage", none).returncode == 0
    assert not os.path.exists(none)


# --- collect_garbage -------------------------------------------------------------------------------------------------


def test_collecting_removes_down_to_the_budget_and_says_what_went(run: Run, store: Cache) -> None:
    dry = run("collect_garbage", "--dry-run", "--max-size", "0", "--min-free", "0")
    assert (dry.returncode, len(list(store.entries()))) == (0, 4)
    done = run("collect_garbage", "--max-size", "0", "--min-free", "0")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sorted(lines[:-1]) == sorted(dry.stdout.splitlines()[:-1])
    assert any(
        line.split()[0] == "5" and set(line.split()[1:]) == {"s3://bucket/data/a", "s3://bucket/data/sub/c"}
        for line in lines
    )
    assert lines[-1] == f"{store.root}: 4,010 bytes freed, 3 blobs, 4 entries"
    assert list(store.entries()) == []


def test_a_budget_that_cannot_be_met_is_status_1(run: Run, store: Cache) -> None:
    os.link(store.blob_path(next(iter(store.entries()))), f"{store.root}/../held")
    done = run("collect_garbage", "--quiet", "--max-size", "0", "--min-free", "0")
    assert done.returncode == 1
    assert "5 bytes over the budget" in done.stderr


def test_a_rule_that_cannot_be_kept_is_status_1_and_an_age_can_be_given(run: Run, store: Cache) -> None:
    store.pin("s3://bucket/other")
    Path(store.layout.config).write_text('[[rules]]\nprefix = "s3://bucket/o"\nmax_size = 0\n')
    for arguments in ((), ("--dry-run",)):
        assert run("collect_garbage", "--min-free", "0", *arguments).returncode == 1
    assert "5 bytes over the budget" in run("collect_garbage", "--min-free", "0").stderr
    done = run("collect_garbage", "--quiet", "--min-free", "0", "--max-age", "999999999")
    assert "0 bytes freed" in done.stdout


@pytest.mark.needs_locks
def test_while_another_process_collects_it_is_left_to_that(run: Run, store: Cache) -> None:
    with store.evictor.lock.acquire(0) as file:
        assert file.is_locked
        Path(store.layout.config).write_text("lock_timeout = 0.1\n")
        done = run("collect_garbage", "--max-size", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "another process collects" in done.stdout
    assert len(list(store.entries())) == 4


def test_what_the_documentation_says_to_run_is_what_there_is() -> None:
    text = (REPOSITORY / "docs" / "operating.md").read_text()
    commands = re.findall(r"/opt/casstore/(\w+) (--\w+)", text)
    assert commands
    for script, option in commands:
        assert f'"{option}"' in (REPOSITORY / "scripts" / script).read_text()
    units = re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)
    assert units == ["Unit", "Service", "Unit", "Timer", "Install"]


# --- export_tree -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["copy", "link"])
def test_a_prefix_becomes_a_plain_directory(run: Run, store: Cache, tmp_path: Path, by: str) -> None:
    target = tmp_path / "target"
    expected = {"a": b"alpha", "sub/b": b"beta" * 1000, "sub/c": b"alpha"}
    for _ in range(2):  # the second replaces
        done = run("export_tree", "--by", by, "--check", "s3://bucket/data/", str(target))
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "3 files of 4,010 bytes\n")
        assert _tree(target) == expected
    blob = Path(store.blob_path(next(iter(store.entries("s3://bucket/data/a")))))
    assert (target / "a").samefile(blob) == (by == "link")
    assert store.verify().is_sound
    store.evict(lambda _: True)
    assert _tree(target) == expected


def test_by_reflink_shares_or_says_that_it_cannot(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = run("export_tree", "--by", "reflink", "s3://bucket/data/", str(target))
    if done.returncode == 0:
        assert _tree(target)["a"] == b"alpha"
    else:
        assert len(done.stderr.splitlines()) == 3
        assert _tree(target) == {}


@pytest.mark.parametrize("name", ["data/../../escape", "data//x", "data/./y", "data/" + "n" * 256, "data/a/below"])
def test_a_key_that_can_be_no_file_is_said_and_the_rest_is_exported(
    run: Run, store: Cache, tmp_path: Path, name: str
) -> None:
    fill(store, key_of(name), b"evil")
    store.close()
    target = tmp_path / "deep" / "target"
    done = run("export_tree", "s3://bucket/data/", str(target))
    assert done.returncode == 1
    assert done.stderr.startswith(f"export_tree: s3://bucket/{name}: ")
    assert _tree(tmp_path / "deep") == {
        f"target/{key.removeprefix('data/')}": CONTENTS[key] for key in list(CONTENTS)[:3]
    }


def test_damaged_bytes_are_not_exported(run: Run, store: Cache, tmp_path: Path) -> None:
    entry = next(iter(store.entries("s3://bucket/data/sub/b")))
    path = Path(store.blob_path(entry))
    path.chmod(0o644)
    path.write_bytes(b"x" * 4000)
    os.utime(path, (entry.digest.mtime, entry.digest.mtime))
    path.chmod(0o444)
    done = run("export_tree", "--check", "s3://bucket/data/sub/", str(tmp_path / "target"))
    assert (done.returncode, done.stdout) == (1, "1 files of 5 bytes, 1 failed\n")
    assert _tree(tmp_path / "target") == {"c": b"alpha"}


def test_two_servers_with_one_bucket_are_not_mixed(run: Run, store: Cache, tmp_path: Path) -> None:
    fill(store, key_of("data/a", "s3@other:1"), b"of another server")
    store.close()
    done = run("export_tree", "s3://bucket/data/", str(tmp_path / "one"))
    assert (done.returncode, "--origin" in done.stderr) == (1, True)
    assert not (tmp_path / "one").exists()
    done = run("export_tree", "--origin", "s3@other:1", "s3://bucket/data/", str(tmp_path / "two"))
    assert (done.returncode, _tree(tmp_path / "two")) == (0, {"a": b"of another server"})
