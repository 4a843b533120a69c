"""mypy and pyright give a user's program the types that `types.txt` states, and find its errors."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pathapi import CloudPath
from pathapi.client import Client, ClientOptions
from pathapi.path.openable_path import OpenArguments

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PROGRAM = HERE / "program.py"
EXPECTED = HERE / "types.txt"
PYRIGHT = Path(sys.prefix) / "node" / "node_modules" / "pyright" / "index.js"
_MODULE = re.compile(r"\b(?:[a-z0-9_]+\.)+(?=[A-Z_])")
_BUFFER = re.compile(r"(Text|Buffered)(\w+)\[_\w+\]")


def _compare(found: dict[int, list[str]], tmp_path: Path) -> None:
    """Compare the messages of each line with the file; what is inside a `TextIOWrapper` is typeshed's business."""
    lines = PROGRAM.read_text().splitlines()
    shown = [
        lines[number - 1].strip() + "\n    " + _BUFFER.sub(r"\1\2", _MODULE.sub("", message)) + "\n"
        for number, messages in sorted(found.items())
        for message in messages
    ]
    actual = tmp_path / "types.txt"
    actual.write_text("".join(shown))
    assert actual.read_text() == EXPECTED.read_text(), f"if this is right: cp {actual} {EXPECTED}"


def test_mypy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    command += ["--config-file", str(ROOT / "pyproject.toml"), str(PROGRAM)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found: dict[int, list[str]] = {}
    for line in done.stdout.splitlines():
        number, kind, message = re.fullmatch(r"[^:]+:(\d+): (\w+): (.*)", line).groups()  # type: ignore[union-attr]
        revealed = re.fullmatch(r'Revealed type is "(.*)"', message)
        if revealed or kind == "error":
            found.setdefault(int(number), []).append(revealed[1] if revealed else "an error")
    assert done.stderr == ""
    _compare(found, tmp_path)


def test_pyright(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not PYRIGHT.exists():
        assert not os.environ.get("CI"), "pyright needs Node.js, and is installed from npm by scripts/test"
        pytest.skip("there is no pyright here: scripts/test installs it from npm, if Node.js is there")
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(json.dumps({"extraPaths": [str(ROOT)], "pythonVersion": "3.11"}))
    command = [node, str(PYRIGHT), "--project", str(settings), "--pythonpath", sys.executable, "--outputjson"]
    command.append(str(PROGRAM))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found: dict[int, list[str]] = {}
    for item in json.loads(done.stdout)["generalDiagnostics"]:
        revealed = re.fullmatch(r'Type of ".*" is "(.*)"', item["message"])
        text = revealed[1] if revealed else f"an {item['severity']}"
        found.setdefault(item["range"]["start"]["line"] + 1, []).append(text)
    _compare(found, tmp_path)


def test_keyword_arguments_that_are_passed_on_are_those_of_the_function() -> None:
    taken = inspect.signature(Client.__init__).parameters.values()
    assert ClientOptions.__annotations__.keys() == {each.name for each in taken if each.kind is each.KEYWORD_ONLY}
    of_path, of_builtin = inspect.signature(CloudPath.open).parameters, inspect.signature(Path.open).parameters
    assert OpenArguments.__annotations__.keys() == of_path.keys() - of_builtin.keys()
