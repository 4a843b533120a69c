"""No key and no text of a server reaches a terminal raw: not by an error, its causes and notes, a warning or a log."""

from __future__ import annotations

import ast
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from casstore.errors import CasstoreError, printable
from pathapi import AzureBlobClient, GSClient, HttpClient, S3Client
from pathapi.backends.http.errors import HttpStatusError
from pathapi.clouds.file import FileClient
from pathapi.common.redaction import redacted
from pathapi.common.uri import Uri
from pathapi.exceptions import CloudPathException
from pathapi.path.cloud_path import CloudPath

ROOT = Path(__file__).parents[2]
ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\rcasstore: fake\u202e"

# Where text leaves the program. The exceptions of both packages escape their own text and notes.
_SHOWING = ("warn", "warning", "info", "debug", "exception", "critical", "log", "print", "add_note")
_ESCAPING = ("printable", "say")
_REVIEWED = ("error.format_message()", "table", "f'casstore: {printable(message)}'")  # click's own, escaped cells
_ESCAPED_WITHIN = ("shell", "self._shell")  # its methods pass what they show through `printable`


def shown(error: BaseException) -> str:
    """All that Python prints of *error*, with its causes and notes."""
    return "".join(traceback.format_exception(error))


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_printable_text_stays_and_anything_else_is_escaped() -> None:
    assert printable("s3://b/käse\\x") == "s3://b/käse\\x"
    assert printable("a\x1b\\\n\udc80") == r"a\x1b\\\n\udc80"
    assert printable(ESCAPES).isprintable()
    assert printable(printable(ESCAPES)) == printable(ESCAPES)


@pytest.mark.parametrize("kind", [CasstoreError, CloudPathException])
def test_errors_and_their_notes_are_printable(kind: type[Exception]) -> None:
    error = kind(f"s3://b/{ESCAPES}: failed")
    error.add_note(ESCAPES)
    assert str(error).isprintable()
    assert is_clean(shown(error))


def test_texts_of_an_sdk_lose_their_escapes_and_keep_their_lines() -> None:
    assert redacted("Parameter\nvalidation \x1b[2Jfailed") == "Parameter\nvalidation \\x1b[2Jfailed"
    assert is_clean(str(HttpStatusError(400, ESCAPES)))


@pytest.mark.parametrize("start", ["s3://bucket/", "gs://bucket/", "az://bucket/", "https://host/", "file:///"])
def test_a_path_is_shown_printable_and_is_itself_unchanged(start: str, tmp_path: Path) -> None:
    path = CloudPath(start + ESCAPES)
    assert str(path) == str(Uri.parse(start + ESCAPES)) == start + ESCAPES
    assert repr(path).isprintable()
    assert path.uri.shown.isprintable()


class _Hostile(BaseHTTPRequestHandler):
    """Answers each request with escape sequences wherever HTTP has room for text."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        quoted = r"\u001b[2J\u009b31m"
        body = {
            "json": f'{{"error": {{"code": 400, "message": "{quoted}", "errors": [{{"reason": "{quoted}"}}]}}}}',
            "xml": "<?xml version='1.0'?><Error><Code>A&#x9b;2J</Code><Message>a\u0085\u009b31m</Message></Error>",
            "text": f"plain {ESCAPES}",
        }[self.server.form].encode()  # type: ignore[attr-defined]
        self.send_response_only(400, "Bad\x1b[2J\x9b")
        self.send_header("x-ms-error-code", "Bad\x1b[2J")
        self.send_header("Allow", "\x1b[2J")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 (http.server's names)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(params=["json", "xml", "text"])
def hostile(request: pytest.FixtureRequest) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    server.form = request.param  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _s3(url: str, store: Path) -> CloudPath:
    login: dict[str, Any] = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    return S3Client(endpoint_url=url, local_cache_dir=store, **login).CloudPath(f"s3://bucket/{ESCAPES}")


def _gs(url: str, store: Path) -> CloudPath:
    return GSClient(endpoint_url=url, local_cache_dir=store, no_sign_request=True).CloudPath(f"gs://bucket/{ESCAPES}")


def _azure(url: str, store: Path) -> CloudPath:
    string = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=YQ==;BlobEndpoint={url}/a;"
    return AzureBlobClient(connection_string=string, local_cache_dir=store).CloudPath(f"az://bucket/{ESCAPES}")


def _http(url: str, store: Path) -> CloudPath:
    return HttpClient(local_cache_dir=store).CloudPath(f"{url}/{ESCAPES}")


@pytest.mark.parametrize("make", [_s3, _gs, _azure, _http])
def test_an_answer_with_escape_sequences_is_printable_in_every_error(
    make: Callable[[str, Path], CloudPath], hostile: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(hostile, tmp_path / "store")
    calls: list[Callable[[], Any]] = [
        path.read_bytes,
        path.stat,
        lambda: list(path.parent.iterdir()),
        lambda: path.write_bytes(b"x", force_overwrite_to_cloud=True),
        path.read_bytes,  # refused now: the write is pending
        lambda: path.push(force_overwrite_to_cloud=True),
    ]
    for call in calls:
        with pytest.raises(CloudPathException) as caught:
            call()
        assert is_clean(shown(caught.value)), shown(caught.value)
    assert all(is_clean(record.getMessage()) for record in caplog.records if record.levelno >= logging.WARNING)


def test_a_missing_file_with_escape_sequences_in_its_name_is_shown_printable(tmp_path: Path) -> None:
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(tmp_path.as_uri()) / f"{ESCAPES}missing"
    for call in (path.read_bytes, path.stat, path.push):
        with pytest.raises(CloudPathException) as caught:
            call()
        assert is_clean(shown(caught.value))


def _showing_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and call.args:
            receiver, _, name = ast.unparse(call.func).rpartition(".")
            if name in _SHOWING and receiver not in _ESCAPED_WITHIN:
                yield call


def _is_escaped(argument: ast.expr) -> bool:
    if isinstance(argument, ast.Constant | ast.GeneratorExp):
        return True
    if isinstance(argument, ast.JoinedStr):  # only numbers of things that were counted
        return all(isinstance(part, ast.Constant) or "len" in ast.unparse(part) for part in argument.values)
    name = getattr(getattr(argument, "func", None), "attr", getattr(getattr(argument, "func", None), "id", ""))
    return isinstance(argument, ast.Call) and name in _ESCAPING


def test_every_warning_and_log_line_passes_through_the_one_function() -> None:
    found = []
    for path in sorted([*(ROOT / "casstore").rglob("*.py"), *(ROOT / "pathapi").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        if name.startswith("pathapi/testing/"):
            continue
        found += [
            f"{name}:{call.lineno}: {ast.unparse(call)}"
            for call in _showing_calls(ast.parse(path.read_text("utf-8")))
            if not _is_escaped(call.args[0]) and ast.unparse(call.args[0]) not in _REVIEWED
        ]
    assert not found, "\n".join(found)
