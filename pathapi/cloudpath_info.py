"""`CloudPathInfo`: what `pathlib.Path.info` is, for cloud paths."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Self


class CloudPathInfo:
    """The answers of `CloudPath`, each requested once. Calling it returns it, as cloudpathlib's `info` is a method."""

    __slots__ = ("_exists", "_is_dir", "_is_file")

    def __init__(self, exists: Callable[[], bool], is_file: Callable[[], bool], is_dir: Callable[[], bool]) -> None:
        self._exists, self._is_file, self._is_dir = cache(exists), cache(is_file), cache(is_dir)

    def __call__(self) -> Self:
        return self

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._exists()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_file()

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_dir()

    def is_symlink(self) -> bool:
        """Always False: object stores have no links."""
        return False
