"""`CloudPathInfo`: what `pathlib.Path.info` is, for cloud paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from pathapi.metadata import head
from pathapi.metadata.location import Location


class CloudPathInfo:
    """The answers of `CloudPath`, each requested once. Calling it returns it, as cloudpathlib's `info` is a method."""

    __slots__ = ("_answers", "_location")

    def __init__(self, location: Location) -> None:
        self._location = location  # and not the path, which keeps this: a cycle would delay the end of both
        self._answers: dict[Callable[[Location], bool], bool] = {}

    def __call__(self) -> Self:
        return self

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._ask(head.exists)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._ask(head.is_file)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._ask(head.is_dir)

    def is_symlink(self) -> bool:
        """Always False: object stores have no links."""
        return False

    def _ask(self, question: Callable[[Location], bool]) -> bool:
        if question not in self._answers:
            self._answers[question] = question(self._location)
        return self._answers[question]
