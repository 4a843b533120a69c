"""A private copy of the tree, in which one line at a time is replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mutation.safety_lines import SafetyLine

_LEFT_OUT: Final = (".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", "build", "dist")


class PrivateCopy:
    """The tree *root*, copied to *directory*; belongs to one thread."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(root, directory, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        self._second = int(time.time())

    @contextlib.contextmanager
    def without(self, line: SafetyLine, *, control: bool = False) -> Iterator[None]:
        """Replace *line* in its file for the block; as a *control*, add a comment to the file instead.

        Raises StaleLineError.
        """
        path = self.directory / line.file
        code = path.read_text(encoding="utf-8")
        changed = line.applied_to(code)
        try:
            self._write(path, f"{code}# nothing is changed\n" if control else changed)
            yield
        finally:
            self._write(path, code)

    def _write(self, path: Path, code: str) -> None:
        path.write_text(code, encoding="utf-8")
        # Python takes compiled code for current by the second of the source's time and its size: both may be the same.
        self._second += 1
        os.utime(path, (self._second, self._second))
