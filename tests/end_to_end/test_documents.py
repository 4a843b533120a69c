"""README.md and docs/ as a reader follows them: each document's blocks run as printed, in order, in one directory.

The language of a fence decides: ``python``, ``pycon`` and ``sh`` run; ``toml`` is the ``config.toml`` of a store.
``console`` has commands that install or take minutes. ``text`` and ``ini`` are only shown.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import pytest
from PIL import Image

import casstore
from casstore.config.settings import load_settings
from tests.harness.azure_servers import AzureServer
from tests.harness.http_server import HttpOrigin
from tests.harness.servers import GCSServer, S3Server

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN: Final = ("python", "pycon", "sh")
SHOWN: Final = ("toml", "console", "text", "ini")

SERVER_OF: Final = {"gs.md": "_gs", "azure.md": "_azure", "http.md": "_http"}
"""The fixture with the environment of a document; S3's for all others."""

_CHILD: Final = """
import doctest, io, json, subprocess, sys

def run(kind, line, text):
    if kind == "python":
        exec(compile("\\n" * line + text, "the document", "exec"), names)
    elif kind == "pycon":
        test = doctest.DocTestParser().get_doctest(text, names, "the document", "the document", line)
        said = io.StringIO()
        doctest.DocTestRunner().run(test, out=said.write, clear_globs=False)
        names.update(test.globs)
        if said.getvalue():
            raise SystemExit(said.getvalue())
    elif (done := subprocess.run(["sh", "-ex"], input=text, text=True)).returncode != 0:
        raise SystemExit(f"status {done.returncode} in a block of commands at line {line}")

names = {"__name__": "__main__"}
for block in json.load(sys.stdin):
    run(*block)
"""


class Block(NamedTuple):
    """A fenced block; *line* is that of its fence, from 1."""

    language: str
    line: int
    text: str


def blocks_of(document: Path) -> list[Block]:
    """Return the fenced blocks of *document*, in order."""
    found: list[Block] = []
    start, language, lines = 0, "", list[str]()
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            found.append(Block(language, start, "".join(f"{line}\n" for line in lines)))
            start = 0
        else:
            start, language, lines = number, line[3:].strip(), []
    assert not start, f"{document.name}:{start}: this fence has no end"
    return found


def _name(document: Path) -> str:
    return str(document.relative_to(ROOT))


RUNNABLE: Final = [document for document in DOCUMENTS if any(block.language in RUN for block in blocks_of(document))]


def _photos() -> dict[str, bytes]:
    found = {}
    for name, size in {"cat": (64, 48), "dog": (32, 32)}.items():
        file = io.BytesIO()
        Image.effect_noise(size, 50).save(file, "PNG")
        found[f"photos/{name}.png"] = file.getvalue()
    return found


@pytest.fixture(scope="module")
def _s3(seaweed: S3Server) -> Iterator[dict[str, str]]:
    client = seaweed.client()
    client.create_bucket(Bucket="my-bucket")
    for key, data in _photos().items():
        client.put_object(Bucket="my-bucket", Key=key, Body=data)
    yield {
        "AWS_ENDPOINT_URL": seaweed.endpoint,
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "AWS_DEFAULT_REGION": seaweed.region,
    }
    for item in client.list_objects_v2(Bucket="my-bucket").get("Contents", []):
        client.delete_object(Bucket="my-bucket", Key=item["Key"])
    client.delete_bucket(Bucket="my-bucket")


@pytest.fixture
def _gs(gcs: GCSServer) -> Iterator[dict[str, str]]:
    bucket = gcs.client().create_bucket("my-bucket")
    for key, data in _photos().items():
        bucket.blob(key).upload_from_string(data)
    yield {"STORAGE_EMULATOR_HOST": gcs.endpoint}
    bucket.delete(force=True)


@pytest.fixture
def _azure(azurite: AzureServer) -> Iterator[dict[str, str]]:
    with azurite.client() as client:
        container = client.create_container("my-container")
        for key, data in _photos().items():
            container.upload_blob(key, data)
        yield {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string()}
        container.delete_container()


@pytest.fixture
def _http() -> Iterator[dict[str, str]]:
    """A server that is the proxy of all others, so that it answers for example.org."""
    with HttpOrigin() as origin:
        origin.plant("data/table.csv", b"number\n1\n")
        yield {"HTTP_PROXY": origin.url}


@pytest.mark.parametrize("document", RUNNABLE, ids=_name)
def test_the_blocks_of_a_document_run_as_printed(
    document: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """One process for a document, whose blocks share their names; a block of commands may not fail either."""
    given: dict[str, str] = request.getfixturevalue(SERVER_OF.get(document.name, "_s3"))
    foreign = ("AWS_", "AZURE_", "CASSTORE_", "CLOUDPATHLIB_", "GOOGLE_", "STORAGE_EMULATOR_", "HTTP", "NO_PROXY")
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(foreign)}
    environment |= given | {
        "CASSTORE_DIR": str(tmp_path / "store"),
        "CASSTORE_MIN_FREE": "0",
        "NO_PROXY": "127.0.0.1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / "work").mkdir()
    if document.name != "README.md":  # whose reader starts without a store
        casstore.open(tmp_path / "store").close()
    blocks = [(kind, line, _answered(text)) for kind, line, text in blocks_of(document) if kind in RUN]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(blocks),
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{_name(document)}:\n{done.stdout}\n{done.stderr}"


def _answered(text: str) -> str:
    """*text* with ``--yes`` for the commands that would ask: there is no terminal to answer at."""
    return re.sub(
        r"^(casstore (?:gc|clear|drop)\b(?:(?!--yes)[^#\n])*?)(\s*(?:#.*)?)$", r"\1 --yes\2", text, flags=re.MULTILINE
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_block_says_what_it_is(document: Path) -> None:
    """A block indented by four spaces has no language, so that no test could run it."""
    for block in blocks_of(document):
        assert block.language in RUN + SHOWN, f"{_name(document)}:{block.line}: {block.language or 'no language'}"
    is_fenced, before = False, ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        is_fenced ^= line.startswith("```")
        is_code = line.startswith("    ") and not is_fenced and not before
        assert not is_code, f"{_name(document)}:{number}: fence this block, with its language"
        before = line


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_settings_in_a_document_are_settings_of_a_store(document: Path, tmp_path: Path) -> None:
    for block in blocks_of(document):
        if block.language == "toml":
            (tmp_path / "config.toml").write_text(block.text, encoding="utf-8")
            load_settings(cast(Any, SimpleNamespace(config=tmp_path / "config.toml")), {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_scripts_and_links_in_a_document_exist(document: Path) -> None:
    """With their options, which the script or its modules define."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("http") or (document.parent / target).exists(), target
    sources = "".join(
        path.read_text(encoding="utf-8")
        for directory in ("scripts", "benchmarks")
        for path in sorted((ROOT / directory).rglob("*"))
        if path.is_file() and path.suffix in ("", ".py")
    )
    for block in blocks_of(document):
        if block.language != "console":
            continue
        for line in block.text.splitlines():
            command = line.partition("  #")[0]
            for script in re.findall(r"(?:^|\s)(scripts/\w+)", command):
                assert (ROOT / script).is_file(), f"{_name(document)}: {line}"
                for option in re.findall(r"\s--([\w-]+)", command):
                    # Some are made from a name in the code: `--no-locks` and `no_locks`.
                    found = re.search(rf"\b{option}\b|\b{option.replace('-', '_')}\b", sources)
                    assert found, f"{_name(document)}: {line}"
            for program in re.findall(r"scripts/bench (\w+)", command):
                assert (ROOT / "benchmarks" / f"{program}.py").is_file(), f"{_name(document)}: {line}"
