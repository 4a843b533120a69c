"""An index without a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from casstore.format.layout import Layout
from casstore.index.database import Index
from casstore.locks.byte_locks import ByteLocks


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "store")
    for directory in layout.directories():
        os.mkdir(directory)
    return layout


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(layout: Layout, said: list[str]) -> Iterator[Callable[[], Index]]:
    """Makes an index whose locks are its own, as in another process; one of them is to be open at a time."""
    made: list[Index] = []

    def new() -> Index:
        made.append(Index(layout, ByteLocks(layout), said.append))
        return made[-1]

    yield new
    for index in made:
        index.close()
