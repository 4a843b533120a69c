"""`CloudPathInfo`: what `pathlib.Path.info` is, for cloud paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathapi.metadata.head import AskingPath


class CloudPathInfo:
    """Answers about one path, each asked for once; calling it returns it, for those who know `info` as a method."""

    __slots__ = ("_answers", "_path")

    def __init__(self, path: AskingPath) -> None:
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
        """Never: clouds have none."""
        return False
