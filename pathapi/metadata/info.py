"""`CloudPathInfo`: what `pathlib.Path.info` is, for cloud paths."""

from __future__ import annotations

from typing import Protocol, Self


class _Questions(Protocol):
    """What is asked of a path."""

    def exists(self) -> bool: ...
    def is_file(self) -> bool: ...
    def is_dir(self) -> bool: ...


class CloudPathInfo:
    """Answers about one path, each requested once. Calling it returns it, as cloudpathlib's `info` is a method."""

    __slots__ = ("_answers", "_path")

    def __init__(self, path: _Questions) -> None:
        self._path = path
        self._answers: dict[str, bool] = {}

    def __call__(self) -> Self:
        return self

    def _once(self, question: str) -> bool:
        if question not in self._answers:
            self._answers[question] = getattr(self._path, question)()
        return self._answers[question]

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object, or anything below."""
        return self._once("exists")

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is an object."""
        return self._once("is_file")

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is anything below."""
        return self._once("is_dir")

    def is_symlink(self) -> bool:
        """Always False: object stores have no links."""
        return False
