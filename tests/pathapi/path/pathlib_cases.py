"""Calls of what Python 3.12 to 3.14 added to `pathlib.Path`, on a small tree; run, it records what pathlib answers."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

RECORDED: Final = Path(__file__).with_name("pathlib.json")
TREE: Final = {
    "a.txt": b"a\n",
    "B.TXT": b"B\r\n",
    ".hidden": b"",
    "50%41.txt": b"%",
    "d/b.txt": b"b",
    "d/c.bin": b"c",
    "d/e/f.txt": b"f",
    "sp ace/x y.txt": b"x y",
}
_PATTERNS: Final = [
    "*", "*.txt", "*.TXT", "**", "**/*", "**/*.txt", "**/", "*/", "d/*", "D/*", "d/**/*.txt", "?.txt", "[ab]*", "d",
    "nothing", "*/*", "*/*/*", "**/e/**", "./d", "**/**/f.*",
]  # fmt: skip

CASES: Final[dict[str, Callable[[Any], Any]]] = {}


def _names(root: Any, paths: Any) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in paths)


def _tree(root: Any) -> list[str]:
    return _names(root, (path for path in root.rglob("*") if path.is_file()))


def case(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[call.__name__] = call
    return call


def _select(pattern: str) -> Callable[[Any], Any]:
    def select(root: Any) -> Any:
        found: list[Any] = []
        for options in ({}, {"case_sensitive": True}, {"case_sensitive": False}):
            found.append(_names(root, root.glob(pattern, **options)))
            found.append(_names(root, root.rglob(pattern, **options)))
            found.append([key for key in TREE if (root / key).match(pattern, **options)])
            found.append([key for key in TREE if (root / key).full_match(f"**/root/{pattern}", **options)])
        return found

    return select


CASES.update((f"pattern {pattern}", _select(pattern)) for pattern in _PATTERNS)


@case
def patterns_may_be_paths(root: Any) -> Any:
    pattern = PurePosixPath("d/*.txt")
    return [_names(root, root.glob(pattern)), _names(root, root.rglob(PurePosixPath("*.txt")))]


@case
def links_are_followed_or_not(root: Any) -> Any:
    return [_names(root, root.glob("**/*", recurse_symlinks=follow)) for follow in (True, False)]


@case
def walk(root: Any) -> Any:
    return sorted([str(at.relative_to(root)), sorted(dirs), sorted(names)] for at, dirs, names in root.walk())


@case
def walk_bottom_up(root: Any) -> Any:
    seen = [str(at.relative_to(root)) for at, _, _ in root.walk(top_down=False)]
    return [sorted(seen), seen[-1], seen.index("d/e") < seen.index("d")]


@case
def walk_prunes(root: Any) -> Any:
    seen = []
    for at, dirs, _ in root.walk():
        seen.append(str(at.relative_to(root)))
        dirs[:] = [name for name in dirs if name != "e"]
    return sorted(seen)


@case
def walk_of_nothing(root: Any) -> Any:
    return list((root / "nothing").walk())


@case
def relative_to_walks_up(root: Any) -> Any:
    return [str((root / "d/e").relative_to(root / other, walk_up=True)) for other in ("d", "x", "d/e/f/g", "d/e")]


@case
def uris_lead_back(root: Any) -> Any:
    return [_names(root, [type(root).from_uri((root / key).as_uri())]) for key in TREE]


@case
def with_stem(root: Any) -> Any:
    return [(root / key).with_stem("new").name for key in TREE]


@case
def the_parser_is_posixpath(root: Any) -> Any:
    return root.parser.__name__


@case
def newlines_are_kept_or_translated(root: Any) -> Any:
    (root / "n").write_text("1\n2\n", newline="\r\n")
    data = (root / "n").read_bytes()
    return [data.decode(), *((root / "n").read_text(newline=newline) for newline in (None, "", "\r\n"))]


@case
def questions_take_follow_symlinks(root: Any) -> Any:
    return [
        [path.exists(follow_symlinks=False), path.is_file(follow_symlinks=False), path.is_dir(follow_symlinks=False)]
        for path in (root / "a.txt", root / "d", root / "nothing")
    ]


@case
def info_of_paths(root: Any) -> Any:
    infos = [(root / name).info for name in ("a.txt", "d", "nothing")]
    return [[info.exists(), info.is_file(), info.is_dir(), info.is_symlink()] for info in infos]


@case
def info_of_children(root: Any) -> Any:
    return sorted([path.name, path.info.is_file(), path.info.is_dir()] for path in root.iterdir())


@case
def copy_file(root: Any) -> Any:
    new = (root / "a.txt").copy(root / "sp ace" / "a.txt")
    return [*_names(root, [new]), new.read_text(), _tree(root)]


@case
def copy_over_a_file(root: Any) -> Any:
    new = (root / "a.txt").copy(root / "d/b.txt")
    return [*_names(root, [new]), new.read_text(), _tree(root)]


@case
def copy_file_into(root: Any) -> Any:
    new = (root / "a.txt").copy_into(root / "d")
    return [*_names(root, [new]), new.read_text(), _tree(root)]


@case
def copy_directory(root: Any) -> Any:
    return [*_names(root, [(root / "d").copy(root / "new")]), _tree(root)]


@case
def copy_directory_into(root: Any) -> Any:
    return [*_names(root, [(root / "d").copy_into(root / "sp ace")]), _tree(root)]


@case
def move_file(root: Any) -> Any:
    new = (root / "a.txt").move(root / "d" / "new.txt")
    return [*_names(root, [new]), new.read_text(), _tree(root)]


@case
def move_over_a_file(root: Any) -> Any:
    new = (root / "a.txt").move(root / "d/b.txt")
    return [*_names(root, [new]), new.read_text(), _tree(root)]


@case
def move_file_into(root: Any) -> Any:
    new = (root / "a.txt").move_into(root / "d")
    return [*_names(root, [new]), new.read_text(), _tree(root)]


@case
def move_directory(root: Any) -> Any:
    return [*_names(root, [(root / "d").move(root / "new")]), _tree(root)]


@case
def move_directory_into(root: Any) -> Any:
    return [*_names(root, [(root / "d").move_into(root / "sp ace")]), _tree(root)]


@case
def copy_of_nothing(root: Any) -> Any:
    return (root / "nothing").copy(root / "new")


@case
def move_of_nothing(root: Any) -> Any:
    return (root / "nothing").move(root / "new")


@case
def copy_of_a_directory_into_itself(root: Any) -> Any:
    return (root / "d").copy(root / "d" / "e" / "new")


def plant(root: Path) -> None:
    """Make `TREE` below a directory of this machine."""
    for key, data in TREE.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)


def outcome(name: str, root: Any) -> Any:
    """What a case answers, or the error that it raises."""
    try:
        return CASES[name](root)
    except Exception as error:  # noqa: BLE001 (it is the outcome)
        return error


def _record(name: str) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        plant(root)
        answer = outcome(name, root)
        if not isinstance(answer, Exception):
            return answer
        return {"raises": next(each.__name__ for each in type(answer).__mro__ if each.__module__ == "builtins")}


if __name__ == "__main__":
    assert sys.version_info >= (3, 14)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_record(name))}" for name in CASES)
    RECORDED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
