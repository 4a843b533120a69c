"""`scripts/mutate`: each safety line is in the code, and the tests beside it fail without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import sampling

ROOT = Path(__file__).parents[2]
LEAST = 120
SAMPLE = 8
HANGS_SECONDS = 36_000

_AGES = "tests/casstore/config/test_settings.py::test_ages_are_seconds_or_have_a_unit"
_SIZES = "tests/casstore/config/test_settings.py::test_what_is_no_size_is_refused"
_LINE = "    if text == NONE:\n        return None\n"


def entry(
    name: str, *, file: str = "casstore/config/units.py", line: str = _LINE, becomes: str = "", test: str = _AGES
) -> str:
    """One line of a list, in TOML."""
    fields = {"file": file, "protects": "the test of the tool", "line": line, "becomes": becomes}
    # A string of JSON is one of TOML.
    texts = "".join(f"{field} = {json.dumps(text)}\n" for field, text in fields.items())
    return f"[{name}]\n{texts}tests = {json.dumps([test])}\n"


def mutate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "mutation", *arguments, **environment)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = (str(ROOT / "scripts"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=HANGS_SECONDS,
    )


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """By the name of the line; the run's status must fit them."""
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    found = {line["name"]: line["outcome"] for line in said["lines"]}
    assert done.returncode == (0 if set(found.values()) <= {"noticed", "skipped"} else 1), done.stdout
    return found


def test_every_line_is_in_the_code_once_and_its_tests_exist() -> None:
    done = mutate("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(mutate("--list", "--json").stdout)
    assert len(lines) >= LEAST
    assert all(line["file"].startswith(("casstore/", "pathapi/")) for line in lines)


WRONG = {
    "stale": (entry("stale", line="this is not there"), "has its line 0 times"),
    "twice": (entry("twice", line="raise ValueError"), "has its line 3 times"),
    "gone": (entry("gone", file="casstore/gone.py"), "there is no casstore/gone.py"),
    "broken": (entry("broken", becomes="if (:\n"), "its replacement is no Python"),
    "idle": (entry("idle", becomes=_LINE), "its replacement changes nothing"),
    "no-test": (entry("no-test", test=f"{_AGES}_gone"), f"there is no test {_AGES}_gone"),
    "no-field": ("[no-field]\nfile = 'x'\n", "needs exactly becomes, file, line, protects, tests"),
    "list.toml": ("[no-toml\n", "at line 1"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", WRONG)
def test_an_entry_that_is_wrong_is_named(tmp_path: Path, what: str) -> None:
    text, reason = WRONG[what]
    (tmp_path / "list.toml").write_text(text)
    done = mutate("--lines", str(tmp_path), "--check")
    assert done.returncode == 1
    assert what in done.stdout + done.stderr and reason in done.stdout + done.stderr


NAMES = """
from mutation.verdicts import _is_of
assert _is_of("tests.a.test_b::test_c", "tests/a/test_b.py::test_c")
assert _is_of("tests.a.test_b::test_c[x]", "tests/a/test_b.py::test_c")
assert _is_of("tests.a.test_b::test_c[x]", "tests/a/test_b.py::test_c[x]")
assert _is_of("tests.a.test_b.TestD::test_c", "tests/a/test_b.py::TestD::test_c")
assert not _is_of("tests.a.test_b::test_cc", "tests/a/test_b.py::test_c")
assert not _is_of("tests.a.test_b::test_c[y]", "tests/a/test_b.py::test_c[x]")
assert not _is_of("tests.a.test_b.TestD::test_c", "tests/a/test_b.py::test_c")
"""


def test_a_failure_before_any_change_is_put_down_to_the_lines_that_name_the_test() -> None:
    done = python("-c", NAMES)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_in_the_list_is_refused() -> None:
    done = mutate("--only", "gone", "--check")
    assert done.returncode == 2
    assert "there is no line 'gone'" in done.stderr


@pytest.mark.slow
def test_what_the_tests_notice_and_what_they_do_not_is_told_apart(tmp_path: Path) -> None:
    lists, private = tmp_path / "lists", tmp_path / "t"
    lists.mkdir()
    private.mkdir()
    entries = [
        entry("noticed"),
        entry("survived", test=_SIZES),
        entry("stale", line="this is not there"),
        entry("failed", becomes="import nothing_of_this_name\n"),
    ]
    (lists / "list.toml").write_text("".join(entries))
    before = (ROOT / "casstore/config/units.py").stat()
    found = outcomes(mutate("--lines", str(lists), "--json", TMPDIR=str(private)))
    assert found == {name: name for name in found} and len(found) == 4
    # The control: a change of nothing is not noticed.
    only = ("--only", "noticed")
    assert outcomes(mutate("--lines", str(lists), "--json", "--control", *only)) == {"noticed": "survived"}
    assert (ROOT / "casstore/config/units.py").stat() == before, "the checkout is not touched"
    assert os.listdir(private) == [], "the copies are removed"


@pytest.mark.slow
def test_tests_that_fail_in_any_case_notice_nothing(tmp_path: Path) -> None:
    # A case that does not exist: only pytest finds that out.
    (tmp_path / "list.toml").write_text(entry("one", test=f"{_AGES}[gone]"))
    assert outcomes(mutate("--lines", str(tmp_path), "--json")) == {"one": "failed"}


@pytest.mark.slow
def test_a_sample_of_the_lines_is_noticed() -> None:
    sample = ("--sample", str(SAMPLE), "--seed", str(sampling.seed()))
    found = outcomes(mutate(*sample, "--json"))
    assert len(found) == SAMPLE
    assert set(found.values()) <= {"noticed", "skipped"}, found


@pytest.mark.torture
def test_every_line_is_noticed() -> None:
    found = outcomes(mutate("--json"))
    assert len(found) >= LEAST
    assert {name: outcome for name, outcome in found.items() if outcome not in ("noticed", "skipped")} == {}
