"""The list of safety lines: ``lines/*.toml``, one file for each area of the code.

::

    [publish-inode]                          # the line's name
    file = "casstore/index/updates.py"
    protects = "what breaks without it, in one sentence"
    line = "if a != b:"                      # occurs once in the file; with several lines, in triple quotes
    becomes = "if False:"                    # what replaces it
    tests = ["tests/...::test_name"]         # each is a pytest node id; one of them must fail
"""

from __future__ import annotations

import ast
import functools
import random
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent / "lines"
_FIELDS: Final = {"file", "protects", "line", "becomes", "tests"}
_SUITES: Final = ("pathapi/testing", "tests/pathapi/support")
"""Its classes have tests that those of other files inherit."""


@dataclass(frozen=True, slots=True)
class SafetyLine:
    """The text *line* of *file*, what replaces it, and the *tests* of which one must fail then."""

    name: str
    file: str
    protects: str
    line: str
    becomes: str
    tests: tuple[str, ...]

    def applied_to(self, code: str) -> str:
        """Return *code* with the line replaced. Raises StaleLineError if it does not occur exactly once."""
        count = code.count(self.line)
        if count != 1:
            raise StaleLineError(f"{self.name}: {self.file} has its line {count} times, not once: correct the list")
        return code.replace(self.line, self.becomes)


class StaleLineError(Exception):
    """The code does not have the line any more, or more than once."""


class InvalidListError(Exception):
    """A file of the list is malformed."""


def load(directory: Path = DIRECTORY) -> list[SafetyLine]:
    """Read all files of *directory*. Raises InvalidListError."""
    lines: dict[str, SafetyLine] = {}
    for path in sorted(directory.glob("*.toml")):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise InvalidListError(f"{path.name}: {error}") from error
        for name, table in tables.items():
            if not isinstance(table, dict) or set(table) != _FIELDS or not table["tests"]:
                raise InvalidListError(f"{path.name}: {name}: needs exactly {', '.join(sorted(_FIELDS))}")
            if name in lines:
                raise InvalidListError(f"{path.name}: {name}: there are two lines of this name")
            lines[name] = SafetyLine(name, **{**table, "tests": tuple(table["tests"])})
    return list(lines.values())


def chosen(lines: Sequence[SafetyLine], only: Sequence[str], sample: int | None, seed: int) -> list[SafetyLine]:
    """Return the lines called *only* (none: all), or *sample* of them. Raises KeyError for an unknown name."""
    by_name = {line.name: line for line in lines}
    found = [by_name[name] for name in only] if only else list(lines)
    if sample is None or sample >= len(found):
        return found
    numbers = random.Random(seed).sample(range(len(found)), sample)
    return [found[number] for number in sorted(numbers)]


def problems(lines: Iterable[SafetyLine], root: Path) -> list[str]:
    """Return what is wrong with *lines* in the tree at *root*; runs nothing."""
    found = []
    for line in lines:
        try:
            code = (root / line.file).read_text(encoding="utf-8")
            ast.parse(line.applied_to(code))
        except FileNotFoundError:
            found.append(f"{line.name}: there is no {line.file}")
        except StaleLineError as error:
            found.append(str(error))
        except SyntaxError as error:
            found.append(f"{line.name}: its replacement is no Python: {error}")
        if line.becomes == line.line:
            found.append(f"{line.name}: its replacement changes nothing")
        found += [f"{line.name}: there is no test {test}" for test in line.tests if not _exists(root, test)]
    return found


def _exists(root: Path, test: str) -> bool:
    file, *names = test.partition("[")[0].split("::")
    if not (root / file).is_file() or not names:
        return False
    here = _definitions(root / file)
    if names[0] not in here:
        return False
    suites = (_definitions(path) for folder in _SUITES for path in sorted((root / folder).glob("*.py")))
    return len(names) == 1 or names[1] in here or any(names[1] in suite for suite in suites)


@functools.cache
def _definitions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
