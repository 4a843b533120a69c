"""Python's own `open`, `os` and `glob` functions for cloud paths; other arguments go to the originals.

Each call patches at once, and for good. In a ``with`` statement the patches end with the block. As a decorator they
last as long as each call of the function. The environment variables ``CLOUDPATHLIB_PATCH_OPEN``, ``_OS``, ``_GLOB`` and
``_ALL``, if they are not empty, patch when `pathapi` is imported.
"""

from __future__ import annotations

import builtins
import functools
import glob
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

from pathapi.exceptions import InvalidGlobArgumentsError
from pathapi.path.cloud_path import CloudPath

P = ParamSpec("P")
R = TypeVar("R")

Replacement = tuple[Any, str, Any]
"""The owner of a name, the name, and its new value."""

_SUPPORTING: Final[tuple[set[Any], ...]] = (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks)
"""Where `shutil` looks functions up."""


class Patch:
    """Replacements that are in effect."""

    def __init__(self, make: Callable[[], list[Replacement]]) -> None:
        self._make = make
        self._before: list[Replacement] = []
        self._apply()

    def _apply(self) -> None:
        try:
            replacements = self._make()
            # All of them first: an interrupt between two replacements restores what it finds here.
            self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
            for replacement in replacements:
                setattr(*replacement)
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        while self._before:
            owner, name, original = self._before[-1]
            if (ours := getattr(owner, name)) is not original:
                for supporting in _SUPPORTING:
                    supporting.discard(ours)
            setattr(owner, name, original)
            self._before.pop()

    def __enter__(self) -> Any:
        if not self._before:
            self._apply()
        return builtins.open

    def __exit__(self, *error: object) -> None:
        try:
            self._restore()
        finally:  # again, after an interrupt
            self._restore()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        self._restore()

        @functools.wraps(function)
        def patched(*args: P.args, **kwargs: P.kwargs) -> R:
            with Patch(self._make):
                return function(*args, **kwargs)

        return patched


def patch_open(original_open: Callable[..., Any] | None = None) -> Patch:
    """Let `open` take cloud paths; *original_open* opens everything else. `os.fspath` leaves cloud paths as they are.

    So a library that asks for the text of a path before it opens the path gets the cloud path, too.
    """
    return Patch(lambda: _for_open(original_open))


def patch_os_functions() -> Patch:
    """Let functions of `os` and `os.path` take cloud paths: those that read, list, rename and delete, and joins."""
    return Patch(_for_os)


def patch_glob() -> Patch:
    """Let `glob.glob` and `glob.iglob` take cloud paths, with ``**`` for any number of directories."""
    return Patch(_for_glob)


def patch_all_builtins() -> Patch:
    """Do all of `patch_open`, `patch_os_functions` and `patch_glob`."""
    return Patch(lambda: _for_open() + _for_os() + _for_glob())


def patch_by_environment() -> None:
    """Patch for good what the environment variables name."""
    functions = {
        "OPEN": patch_open,
        "OS": patch_os_functions,
        "OS_FUNCTIONS": patch_os_functions,
        "GLOB": patch_glob,
        "ALL": patch_all_builtins,
    }
    for name, patch in functions.items():
        if os.environ.get(f"CLOUDPATHLIB_PATCH_{name}"):
            patch()


def _is_cloud(*args: Any, **kwargs: Any) -> bool:
    return isinstance(next(iter((*args, *kwargs.values())), None), CloudPath)


def _begins_with_cloud(paths: Any) -> bool:
    return isinstance(paths, list | tuple) and _is_cloud(*paths)


def _is_cloud_glob(*args: Any, root_dir: Any = None, **kwargs: Any) -> bool:
    return _is_cloud(*args, **kwargs) or isinstance(root_dir, CloudPath)


def _choosing(original: Any, ours: Callable[..., Any], is_ours: Callable[..., bool] = _is_cloud) -> Any:
    """Return a function that passes its arguments to *ours*, if they are, or to *original*."""

    @functools.wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        return (ours if is_ours(*args, **kwargs) else original)(*args, **kwargs)

    for supporting in _SUPPORTING:
        if original in supporting:
            supporting.add(choose)
    return choose


def _for_open(original: Callable[..., Any] | None = None) -> list[Replacement]:
    choosing = _choosing(original or builtins.open, lambda file, *args, **kwargs: file.open(*args, **kwargs))
    return [(builtins, "open", choosing), (CloudPath, "__fspath__", lambda path: path)]


def _for_os() -> list[Replacement]:
    own = {os: _OS, os.path: _OS_PATH}
    found = [(owner, name, _choosing(getattr(owner, name), ours)) for owner in own for name, ours in own[owner].items()]
    for name, ours in _OF_SEVERAL.items():
        found.append((os.path, name, _choosing(getattr(os.path, name), ours, _begins_with_cloud)))
    return found


def _for_glob() -> list[Replacement]:
    every = _choosing(glob.glob, lambda *args, **kwargs: list(_iglob(*args, **kwargs)), _is_cloud_glob)
    return [(glob, "glob", every), (glob, "iglob", _choosing(glob.iglob, _iglob, _is_cloud_glob))]


def _remove_empty(name: CloudPath) -> None:
    name.rmdir()
    with suppress(OSError):
        for directory in name.parents:
            directory.rmdir()


_OS: dict[str, Callable[..., Any]] = {
    "fspath": lambda path: path,
    "listdir": lambda path: list(path.iterdir()),
    "lstat": lambda path, **_: path.stat(),
    "makedirs": lambda name, mode=0o777, exist_ok=False: name.mkdir(True, exist_ok, mode),
    "mkdir": lambda path, mode=0o777, **_: path.mkdir(mode=mode),
    "remove": lambda path, **_: path.unlink(missing_ok=False),
    "removedirs": _remove_empty,
    "rename": lambda src, dst, **_: src.rename(dst),
    "renames": lambda old, new: old.rename(new),  # the empty directories are gone by themselves
    "replace": lambda src, dst, **_: src.replace(dst),
    "rmdir": lambda path, **_: path.rmdir(),
    "scandir": lambda path: path.iterdir(),
    "stat": lambda path, **_: path.stat(),
    "unlink": lambda path, **_: path.unlink(missing_ok=False),
    "walk": lambda top, topdown=True, onerror=None, followlinks=False: top.walk(topdown, onerror, followlinks),
}
_OS_PATH: dict[str, Callable[..., Any]] = {
    "basename": lambda p: p.name,
    "dirname": lambda p: p.parent,
    "exists": lambda path: path.exists(),
    "getatime": lambda filename: filename.stat().st_atime,
    "getctime": lambda filename: filename.stat().st_ctime,
    "getmtime": lambda filename: filename.stat().st_mtime,
    "getsize": lambda filename: filename.stat().st_size,
    "isdir": lambda s: s.is_dir(),
    "isfile": lambda path: path.is_file(),
    "join": lambda a, *p: a.joinpath(*p),
    "split": lambda p: (p.parent, p.name),
    "splitext": lambda p: (str(p).removesuffix(p.suffix), p.suffix),
}


def _common_start(sequences: Any) -> Any:
    return os.path.commonprefix(list(sequences))  # noqa: RUF071 (of names as well as of characters)


def _common_path(paths: Any) -> Any:
    common = _common_start(path.parts for path in paths)
    if not common:
        raise ValueError("the paths have no common anchor")
    return paths[0].client.CloudPath(*common)


_OF_SEVERAL: dict[str, Callable[..., Any]] = {
    "commonpath": _common_path,
    "commonprefix": lambda m: _common_start(map(str, m)),
}


def _iglob(pathname: Any, *, root_dir: Any = None, **_: Any) -> Iterator[Any]:
    if not isinstance(pathname, CloudPath):
        root, pattern = root_dir, str(pathname)
    elif root_dir is None:
        parts = pathname.parts
        at = next((at for at, part in enumerate(parts) if glob.escape(part) != part), len(parts))
        root, pattern = pathname.client.CloudPath(*parts[:at]), "/".join(parts[at:]) or "*"
    elif isinstance(root_dir, CloudPath) and pathname.is_relative_to(root_dir):
        root, pattern = root_dir, str(pathname.relative_to(root_dir))
    else:
        raise InvalidGlobArgumentsError(f"{pathname}: root_dir is not a cloud path above it: leave it out")
    yield from root.glob(pattern)
