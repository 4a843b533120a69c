"""Patches of `open`, `os` and `glob`: for cloud paths only, and only as long as they were asked for."""

from __future__ import annotations

import builtins
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pathapi import CloudPath, patch_all_builtins, patch_glob, patch_open, patch_os_functions, patches
from pathapi.exceptions import InvalidGlobArgumentsError
from pathapi.local import LocalS3Client, LocalS3Path

IN_OS = ("fspath", "listdir", "makedirs", "mkdir", "remove", "rename", "replace", "rmdir", "scandir", "stat", "walk")
IN_PATH = ("basename", "commonpath", "exists", "getsize", "isdir", "isfile", "join", "split", "splitext")
PATCHED: Any = [
    *[(builtins, "open"), (CloudPath, "__fspath__"), (glob, "glob"), (glob, "iglob")],
    *[(os, name) for name in IN_OS],
    *[(os.path, name) for name in IN_PATH],
]


@pytest.fixture
def root() -> Iterator[Any]:
    before = [getattr(owner, name) for owner, name in PATCHED]
    root: Any = LocalS3Path("s3://bucket/root")
    for name in ("a.txt", "b.csv", "d/c.txt", "d/e/f.txt"):
        (root / name).write_text(name)
    yield root
    assert [getattr(owner, name) for owner, name in PATCHED] == before
    LocalS3Client.reset_default_storage_dir()


def test_open_takes_cloud_paths_and_others(root: Any, tmp_path: Path) -> None:
    with patch_open() as patched:
        assert patched is open
        with open(root / "new.txt", "w") as file:
            file.write("hello")
        with open(file=root / "new.txt") as file:
            assert file.read() == "hello"
        with open(tmp_path / "local", "w") as local:
            local.write("local")
        assert (root / "a.txt").__fspath__() == root / "a.txt"
    assert (root / "new.txt").read_text() == "hello" and (tmp_path / "local").read_text() == "local"
    with open(root / "a.txt") as copy:
        assert copy.name == (root / "a.txt").fspath


def test_another_open_gets_the_rest(root: Any) -> None:
    with patch_open(lambda *args, **kwargs: "mine"):
        opened: Any = open("anything")  # noqa: SIM115 (it opens nothing)
        assert opened == "mine"
        with open(root / "a.txt") as file:
            assert file.read() == "a.txt"


def test_os_reads_lists_and_walks(root: Any) -> None:
    with patch_os_functions():
        assert os.fspath(root) == root
        assert sorted(map(str, os.listdir(root))) == sorted(map(str, root.iterdir()))
        assert sorted(entry.name for entry in os.scandir(root)) == ["a.txt", "b.csv", "d"]
        assert os.stat(root / "a.txt").st_size == os.lstat(root / "a.txt").st_size == 5
        walked = [(str(top), sorted(dirs), sorted(files)) for top, dirs, files in os.walk(root)]
        assert walked[0] == ("s3://bucket/root", ["d"], ["a.txt", "b.csv"])
        assert [*os.walk(root, topdown=False)][-1][0] == root


def test_os_changes(root: Any) -> None:
    with patch_os_functions():
        os.rename(root / "a.txt", root / "moved.txt")
        os.replace(root / "b.csv", root / "moved.txt")
        os.renames(root / "d/e/f.txt", root / "g/f.txt")
        os.remove(root / "moved.txt")
        os.unlink(root / "d/c.txt")
        os.makedirs(root / "x/y", exist_ok=True)
        os.mkdir(root / "x")
        for call in (os.remove, os.unlink, os.stat):
            with pytest.raises(FileNotFoundError):
                call(root / "a.txt")
        with pytest.raises(OSError, match="not empty"):
            os.rmdir(root / "g")
    assert [*map(str, root.rglob("*.*"))] == ["s3://bucket/root/g/f.txt"]


def test_os_path_knows_them(root: Any) -> None:
    path = root / "d/c.txt"
    with patch_os_functions():
        assert os.path.exists(path) and os.path.isfile(path) and os.path.isdir(root / "d")
        assert not os.path.exists(root / "x") and not os.path.isfile(root) and not os.path.isdir(path)
        assert os.path.getsize(path) == 7 and os.path.getmtime(path) == path.stat().st_mtime
        assert (os.path.getatime(path), os.path.getctime(path)) == (path.stat().st_atime, path.stat().st_ctime)
        found: Any = (os.path.basename(path), os.path.dirname(path), os.path.split(path), os.path.splitext(path))
        assert found == ("c.txt", root / "d", (root / "d", "c.txt"), ("s3://bucket/root/d/c", ".txt"))
        joined: Any = os.path.join(root, "d", "c.txt")
        assert joined == path and os.path.splitext(root)[1] == ""
        common: Any = os.path.commonpath([path, root / "d/e/f.txt"])
        assert common == root / "d"
        assert os.path.commonprefix([path, root / "d/cc"]) == "s3://bucket/root/d/c"  # noqa: RUF071
        with pytest.raises(ValueError, match="anchor"):
            os.path.commonpath([path, CloudPath("gs://b/k")])


def test_other_arguments_go_to_the_originals(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "link").symlink_to("a")
    with patch_all_builtins():
        assert sorted(os.listdir(str(tmp_path))) == ["a", "link"] and os.listdir() == os.listdir(".")
        assert os.path.commonpath(["/a/b", "/a/c"]) == "/a"
        assert os.path.commonprefix(["ab", "ac"]) == "a"  # noqa: RUF071
        assert os.path.join("a", "b") == "a/b" and os.fspath(tmp_path) == str(tmp_path)
        assert glob.glob(f"{tmp_path}/l*") == [f"{tmp_path}/link"] and [*glob.iglob("a", root_dir=tmp_path)] == ["a"]
        assert shutil.copy(tmp_path / "link", tmp_path / "copied", follow_symlinks=False)
        shutil.copystat(tmp_path / "link", tmp_path / "copied", follow_symlinks=False)
        shutil.rmtree(tmp_path)
    assert not tmp_path.exists()


def test_what_was_patched_is_not_kept() -> None:
    def known() -> int:
        return sum(map(len, (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks)))

    before = known()
    with patch_all_builtins():
        assert known() > before
    assert known() == before


class _Interrupted:
    name = "before"

    def __setattr__(self, name: str, value: object) -> None:
        if value != "before":
            raise KeyboardInterrupt


def test_an_interrupt_half_way_restores_all(monkeypatch: pytest.MonkeyPatch, root: Any) -> None:
    monkeypatch.setattr(patches, "_for_glob", lambda: [(glob, "glob", print), (_Interrupted(), "name", "new")])
    with pytest.raises(KeyboardInterrupt):
        patch_all_builtins()


def test_glob(root: Any) -> None:
    def names(pathname: Any, **options: Any) -> list[str]:
        found: Any = glob.glob(pathname, **options)
        assert all(isinstance(path, LocalS3Path) for path in found)
        assert [*glob.iglob(pathname, **options)] == found
        return sorted(path.name for path in found)

    with patch_glob():
        assert names(root / "*.txt") == ["a.txt"]
        assert names(root / "**/*.txt") == ["a.txt", "c.txt", "f.txt"]
        assert names(root / "*/*.txt") == ["c.txt"]
        assert names(root / "[ab].*") == names("[ab].*", root_dir=root) == ["a.txt", "b.csv"]
        assert names(root) == ["a.txt", "b.csv", "d"]
        assert names(root / "d/*.txt", root_dir=root) == ["c.txt"]
        for root_dir in ("/", CloudPath("s3://elsewhere")):
            with pytest.raises(InvalidGlobArgumentsError, match="root_dir"):
                names(root / "*.txt", root_dir=root_dir)


@pytest.mark.parametrize("patch", [patch_open, patch_os_functions, patch_glob, patch_all_builtins])
def test_a_decorator_patches_each_call(root: Any, patch: Any) -> None:
    before = [getattr(owner, name) for owner, name in PATCHED]

    @patch()  # type: ignore[untyped-decorator]
    def changed(first: int, *, second: int) -> tuple[int, int, bool]:
        return first, second, before != [getattr(owner, name) for owner, name in PATCHED]

    for _ in range(2):
        assert changed(1, second=2) == (1, 2, True)
        assert before == [getattr(owner, name) for owner, name in PATCHED]
    assert changed.__name__ == "changed"


def test_a_call_patches_for_good_until_its_block_ends(root: Any) -> None:
    patch = patch_all_builtins()
    with open(root / "a.txt") as file:
        assert file.read() == "a.txt" and os.path.exists(root) and len(glob.glob(root / "*")) == 3
    with pytest.raises(ZeroDivisionError), patch, patch_open():
        _ = 1 // 0
    with patch:
        assert os.path.isdir(root)


CODE = """
import builtins, glob, os
before = builtins.open, os.stat, glob.glob
import pathapi
print(*[new is not old for new, old in zip((builtins.open, os.stat, glob.glob), before)])
"""


@pytest.mark.parametrize(
    ("variable", "patched"),
    [
        ("CLOUDPATHLIB_PATCH_OPEN", "True False False"),
        ("CLOUDPATHLIB_PATCH_OS", "False True False"),
        ("CLOUDPATHLIB_PATCH_OS_FUNCTIONS", "False True False"),
        ("CLOUDPATHLIB_PATCH_GLOB", "False False True"),
        ("CLOUDPATHLIB_PATCH_ALL", "True True True"),
        ("CLOUDPATHLIB_PATCH", "False False False"),
    ],
)
def test_the_environment_patches_at_import(variable: str, patched: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env={**os.environ, variable: "1"}
    )
    assert (done.stdout, done.stderr) == (patched + "\n", "")
