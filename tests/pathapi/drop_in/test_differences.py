"""The table of differences names tests of this folder."""

from __future__ import annotations

from pathlib import Path

from tests.pathapi.drop_in.conftest import differences


def test_every_difference_that_names_a_test_has_it() -> None:
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert differences()
    assert [name for name in differences() if f"def {name}(" not in tests] == []
