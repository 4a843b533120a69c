"""Plain English, as far as a program can check it: CONTRIBUTING.md has the rules.

A sentence that users read has at most 30 words. Some phrases are found in no text at all: they hide the actor.
"""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

ROOT: Final = Path(__file__).parents[1]

DOCUMENTS: Final = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")
PACKAGES: Final = ("casstore", "pathapi")
"""Folders of Python files; a package with a command also has its help checked."""
COMMANDS: Final = {"casstore": "casstore.cli.main:command", "pathapi": "pathapi.cli.main:commands"}

MOST_WORDS: Final = 30
FORBIDDEN: Final = re.compile(
    r"\b(who|whom)ever\b"
    r"|\b(some|any|every|no)body\b|\bit is said\b|\b(is|are|was|were|be|been) told\b|\bbut for\b|\bany more\b"
    r"|\bnot without\b|\b(let|lets|letting) go\b|\bcomes? of\b|\bjust now\b|\ball the same\b|\bin the way\b",
    re.IGNORECASE,
)
MESSAGES: Final = {"warn", "warning", "error", "echo", "secho", "ClickException", "UsageError", "BadParameter"}
"""Calls whose literals a user reads, beside `raise`."""

Text = tuple[int, str]
"""A line, and the prose that begins there."""


def of_document(path: Path) -> Iterator[Text]:
    """Paragraphs, items, headings and cells, without blocks of code."""
    text = re.sub(
        r"^```.*?^```$",
        lambda block: "\n" * block[0].count("\n"),
        path.read_text("utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    start, lines = 0, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if lines and (not line.strip() or re.match(r"\s*([*-]|\d+\.) |#|\|", line)):
            yield start, " ".join(lines)
            lines = []
        if line.startswith("|"):
            yield from ((number, cell) for cell in line.split("|"))
        elif line.strip():
            start, lines = start if lines else number, [*lines, re.sub(r"^\s*([*-]|\d+\.) ", "", line).strip()]


def of_help(name: str) -> Iterator[Text]:
    """The help of every command and option."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    waiting: list[click.Command] = [found] if isinstance(found, click.Command) else list(found)
    while waiting:
        command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            waiting += filter(None, (command.get_command(context, item) for item in command.list_commands(context)))
        yield from ((0, text) for text in re.split(r"\n\s*\n", command.help or ""))
        yield from ((0, getattr(option, "help", None) or "") for option in command.params)


def of_messages(tree: ast.Module) -> Iterator[Text]:
    """The literals of what is raised, warned of and echoed; a value in one counts as a word."""
    for node in ast.walk(tree):
        call: ast.AST | None = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in MESSAGES:
            call = node
        if isinstance(call, ast.Call):
            yield from ((argument.lineno, _literal(argument)) for argument in call.args)


def _literal(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return ""


def of_code(source: str, tree: ast.Module) -> Iterator[Text]:
    """Docstrings and comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def too_long(text: str) -> Iterator[str]:
    """The sentences of *text* that are too long; code counts as one word."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"``?[^`]+``?", "code", text))
    for sentence in re.split(r"(?<=[.!?:;])[)\"*]*\s+", text):
        if len(sentence.split()) > MOST_WORDS:
            yield f"{len(sentence.split())} words: {sentence}"


def forbidden(text: str) -> Iterator[str]:
    """The phrases of *text* that no text may have."""
    yield from (found[0] for found in FORBIDDEN.finditer(" ".join(re.sub(r"``?[^`]+``?", "code", text).split())))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_in_plain_english(name: str) -> None:
    files = sorted((ROOT / name).rglob("*.md")) or [ROOT / name]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {complaint}"
        for path in files
        for line, text in of_document(path)
        for complaint in [*too_long(text), *forbidden(text)]
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", PACKAGES)
def test_help_and_messages_and_comments_are_in_plain_english(name: str) -> None:
    help_texts = [(0, text) for _, text in of_help(name)]
    found = [f"--help: {text}" for _, help_text in help_texts for text in [*too_long(help_text), *forbidden(help_text)]]
    for path in sorted((ROOT / name).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        said = list(of_messages(tree))
        complaints = [(line, text) for line, message in said for text in too_long(message)]
        complaints += [(line, text) for line, words in [*said, *of_code(source, tree)] for text in forbidden(words)]
        found += [f"{path.relative_to(ROOT)}:{line}: {complaint}" for line, complaint in complaints]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_is_found(name: str) -> None:
    """Else the check of it would prove nothing."""
    assert sum(bool(text) for _, text in of_help(name)) > 30


def test_the_checks_find_what_they_forbid() -> None:
    """Neither a line break nor code in a sentence hides anything."""
    assert list(forbidden("Whoever asks\nis told that nobody\nlooks")) == ["Whoever", "is told", "nobody"]
    assert not list(forbidden("`nobody` may choose whatever it needs; however, another process waits"))
    assert not list(too_long("word " * 30)) and list(too_long("word " * 31))
    assert not list(too_long(f"`{'code ' * 40}` ends. {'word ' * 29}"))
    tree = ast.parse(
        f"raise ValueError(f'{{x}}: {'word ' * 31}')\nwarnings.warn('nobody')\n'''a docstring'''  # told\n"
    )
    assert [len(text.split()) for _, text in of_messages(tree)] == [32, 1]
    assert [text for _, text in of_code("x = 1  # told\n'''doc'''\n", ast.parse("x = 1\n'''doc'''"))] == [
        "doc",
        "# told",
    ]
