"""What users get wrong: from Python the right exception, in the shell one line without a traceback; nothing is changed.

Each case runs both ways. A message must name the thing and the way out, in the words of the caller: arguments in
Python, options in the shell.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore import NotAStoreError, StoreFormatError, StoreUnavailableError
from pathapi import CloudPath, FileClient
from pathapi.exceptions import (
    AnyPathTypeError,
    BucketNotFoundError,
    CloudPathFileNotFoundError,
    CloudPathIsADirectoryError,
    CloudUnavailableError,
    InvalidConfigurationException,
    InvalidPrefixError,
    InvalidUriError,
    MissingCredentialsError,
    MissingDependenciesError,
    NotCachedError,
)
from pathapi.registry import implementation_registry
from tests.harness import servers
from tests.harness.proxy import Proxy
from tests.harness.servers import S3Server

SECONDS = 600.0
"""A bound against hanging: most is refused within a second."""
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "nobody-must-see-this",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One mistake in naming an object. Braces in texts are filled with facts of the run (`facts`)."""

    uri: str
    raises: type[Exception]
    built_in: type[Exception]
    says: tuple[str, ...]
    """What both messages name."""
    python_says: tuple[str, ...] = ()
    shell_says: tuple[str, ...] = ()
    status: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


CASES = {
    "unknown scheme": Case(
        "ftp://host/file", InvalidPrefixError, ValueError, ("'ftp://host/file'", "s3://", "file://"), status=2
    ),
    "text where a path is wanted": Case(
        "data.csv", InvalidPrefixError, ValueError, ("'data.csv'", "not a URI", "s3://"), status=2
    ),
    "a lost slash": Case("s3:/bucket/key", InvalidPrefixError, ValueError, ("lost a slash", "s3://"), status=2),
    "empty bucket": Case(
        "s3:///key", InvalidUriError, ValueError, ("'s3:///key'", "no bucket", "s3://bucket/key"), status=2
    ),
    "a host in a file URI": Case(
        "file://host/data", InvalidUriError, ValueError, ("'file://host/data'", "file:///"), status=2
    ),
    "impossible bucket name": Case(
        "s3://no such/key", InvalidUriError, ValueError, ("s3://no such/key", "bucket name"), environment=KEYS, status=1
    ),
    "a bucket where an object is wanted": Case(
        "s3://bucket", CloudPathIsADirectoryError, IsADirectoryError, ("s3://bucket", "not an object")
    ),
    "a directory where an object is wanted": Case(
        "file://{data}/directory",
        CloudPathIsADirectoryError,
        IsADirectoryError,
        ("file://{data}/directory", "is a directory"),
        shell_says=("casstore prefetch",),
    ),
    "a prefix where an object is wanted": Case(
        "s3://{bucket}/directory",
        CloudPathIsADirectoryError,
        IsADirectoryError,
        ("s3://{bucket}/directory", "is a directory"),
        shell_says=("casstore prefetch",),
        environment={"AWS_ENDPOINT_URL": "{endpoint}", **KEYS},
    ),
    "no such file": Case(
        "file://{data}/none", CloudPathFileNotFoundError, FileNotFoundError, ("file://{data}/none", "does not exist")
    ),
    "no such object": Case(
        "s3://{bucket}/none",
        CloudPathFileNotFoundError,
        FileNotFoundError,
        ("s3://{bucket}/none", "does not exist"),
        environment={"AWS_ENDPOINT_URL": "{endpoint}", **KEYS},
    ),
    "no such bucket": Case(
        "s3://no-such-bucket-here/key",
        BucketNotFoundError,
        FileNotFoundError,
        ("no bucket 'no-such-bucket-here'", "{host}"),
        environment={"AWS_ENDPOINT_URL": "{endpoint}", **KEYS},
    ),
    "no credentials": Case(
        "s3://bucket/key",
        MissingCredentialsError,
        PermissionError,
        ("no AWS credentials", "s3://bucket/key", "public", "AWS_ACCESS_KEY_ID"),
        python_says=("no_sign_request=True",),
        shell_says=("--no-sign-request",),
        environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    ),
    "unreachable endpoint": Case(
        "s3://bucket/key",
        CloudUnavailableError,
        ConnectionError,
        ("127.0.0.1:{closed_port}", "s3://bucket/key", "could not be reached", "network"),
        arguments={"endpoint_url": "http://127.0.0.1:{closed_port}"},
        options=("--endpoint-url", "http://127.0.0.1:{closed_port}"),
        environment=KEYS,
    ),
    "an endpoint that is no S3 server": Case(
        "s3://bucket/key",
        CloudUnavailableError,
        ConnectionError,
        ("{chatter}", "s3://bucket/key"),
        arguments={"endpoint_url": "http://{chatter}"},
        options=("--endpoint-url", "http://{chatter}"),
        environment=KEYS,
    ),
    "an endpoint without a scheme": Case(
        "s3://bucket/key",
        InvalidConfigurationException,
        ValueError,
        ("endpoint", "http://host:port"),
        arguments={"endpoint_url": "localhost:9000"},
        options=("--endpoint-url", "localhost:9000"),
        environment=KEYS,
        status=2,
    ),
    "unknown profile": Case(
        "s3://bucket/key",
        InvalidConfigurationException,
        ValueError,
        ("profile", "nobody-has-this"),
        arguments={"profile_name": "nobody-has-this"},
        options=("--profile", "nobody-has-this"),
    ),
    "missing SDK": Case(
        "s3://bucket/key",
        MissingDependenciesError,
        ModuleNotFoundError,
        ("boto3", "pip install 'casstore[s3]'"),
        environment={"PYTHONPATH": "{without_boto3}", **KEYS},
    ),
    "unknown freshness": Case(
        "file://{data}/file",
        InvalidConfigurationException,
        ValueError,
        ("freshness", "'always'", "'sometimes'"),
        arguments={"freshness": "sometimes"},
        options=("--freshness", "sometimes"),
        status=2,
    ),
    "offline and not held": Case(
        "file://{data}/file",
        NotCachedError,
        OSError,
        ("file://{data}/file", "offline"),
        environment={"CASSTORE_OFFLINE": "1"},
    ),
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What the braces of the cases stand for; a real S3 server among it."""
    server: S3Server = request.getfixturevalue("seaweed")
    bucket = server.new_bucket()
    server.client().put_object(Bucket=bucket, Key="directory/object", Body=b"1")
    data = tmp_path_factory.mktemp("data")
    (data / "directory").mkdir()
    (data / "directory" / "object").write_bytes(b"1")
    (data / "file").write_bytes(b"1")
    without_boto3 = tmp_path_factory.mktemp("modules")
    (without_boto3 / "boto3.py").write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')\n")
    (closed_port,) = servers.free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        chatter = f"127.0.0.1:{listener.getsockname()[1]}"
        serving = subprocess.Popen(
            [sys.executable, "-c", _CHATTER], stdin=listener.fileno(), pass_fds=[listener.fileno()]
        )
        try:
            yield {
                "bucket": bucket,
                "endpoint": server.endpoint,
                "host": server.endpoint.removeprefix("http://"),
                "data": str(data),
                "without_boto3": str(without_boto3),
                "closed_port": str(closed_port),
                "chatter": chatter,
            }
        finally:
            serving.kill()
            serving.wait()


_CHATTER = """
import socket
listener = socket.socket(fileno=0)
while True:
    connection, _ = listener.accept()
    connection.recv(100)
    connection.sendall(b"220 mail.example.org ESMTP\\r\\n")
    connection.close()
"""


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An environment that configures no cloud and no store, set here and returned for children."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "CASSTORE_", "CLOUDPATHLIB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return dict(os.environ)


def _fill(value: Any, facts: dict[str, str]) -> Any:
    return value.format(**facts) if isinstance(value, str) else value


def _shell(arguments: list[str], environment: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "casstore", *arguments], env=environment, capture_output=True, text=True, **options
    )
    assert time.monotonic() - began < SECONDS
    return done


def _assert_refused(done: subprocess.CompletedProcess[str], status: int, says: tuple[str, ...]) -> None:
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("casstore: ")
    assert [word for word in says if word not in line] == [], line
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in line


@pytest.mark.parametrize("name", CASES)
def test_python_gets_an_exception_that_names_the_thing_and_the_way_out(
    name: str,
    facts: dict[str, str],
    bare_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    case = CASES[name]
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, _fill(value, facts))
    if "PYTHONPATH" in case.environment:
        monkeypatch.setitem(sys.modules, "boto3", None)
    made = []
    began = time.monotonic()

    def read() -> None:
        uri = _fill(case.uri, facts)
        path_class = implementation_registry.path_class(uri)
        arguments = {argument: _fill(value, facts) for argument, value in case.arguments.items()}
        client = implementation_registry.client_class(path_class)(local_cache_dir=tmp_path / "store", **arguments)
        made.append(client)
        path_class(uri, client=client).read_bytes()

    with pytest.raises(case.raises) as caught:
        read()
    assert time.monotonic() - began < SECONDS
    assert isinstance(caught.value, case.built_in)
    said = str(caught.value)
    assert [word for word in (*case.says, *case.python_says) if _fill(word, facts) not in said] == [], said
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in said
    for client in made:
        if client._cloud_meta.path_class.cloud_prefix == "s3://" and "client" in client.connection._process.made:
            client.connection._process.made["client"].close()
    gc.collect()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", CASES)
def test_the_shell_gets_one_line_and_a_status(
    name: str, facts: dict[str, str], bare_environment: dict[str, str], tmp_path: Path
) -> None:
    case = CASES[name]
    environment = bare_environment | {name: _fill(value, facts) for name, value in case.environment.items()}
    options = [_fill(option, facts) for option in case.options]
    done = _shell(["--dir", str(tmp_path / "store"), "get", _fill(case.uri, facts), *options], environment)
    _assert_refused(done, case.status, tuple(_fill(word, facts) for word in (*case.says, *case.shell_says)))
    if case.status == 2:
        assert not (tmp_path / "store").exists(), "a refused command made a store"


@pytest.mark.parametrize("given", [5, None, b"s3://bucket/key", 1.5, ["s3://bucket/key"]])
def test_what_is_no_text_is_a_type_error_that_shows_what_a_uri_looks_like(given: Any) -> None:
    with pytest.raises(AnyPathTypeError, match="s3://bucket/key") as caught:
        CloudPath(given)
    assert isinstance(caught.value, TypeError)


def test_a_local_path_object_is_told_what_a_uri_looks_like(tmp_path: Path) -> None:
    with pytest.raises(InvalidPrefixError, match="s3://"):
        CloudPath(tmp_path)  # type: ignore[arg-type]


# --- directories that cannot be a store ------------------------------------------------------------------------------


def _foreign(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").write_text("years of work")


def _file(root: Path) -> None:
    root.write_text("not a directory")


def _marker(text: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        casstore.open(root).close()
        (root / "store.json").chmod(0o644)
        (root / "store.json").write_text(text)

    return spoil


def _config(text: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        casstore.open(root).close()
        (root / "config.toml").write_text(text)

    return spoil


_NEWER = json.dumps({"format": 99, "digest": "xxh3-128", "id": "0" * 32})

ROOTS: dict[str, tuple[Callable[[Path], None], type[Exception], type[Exception], tuple[str, ...]]] = {
    "somebody else's files": (_foreign, NotAStoreError, OSError, ("{root}", "thesis.tex", "empty or a new")),
    "a file": (_file, NotAStoreError, OSError, ("{root}", "is a file", "CASSTORE_DIR")),
    "damaged store.json": (
        _marker("{nonsense"),
        StoreFormatError,
        ValueError,
        ("{root}/store.json", "damaged", "move it away"),
    ),
    "empty store.json": (_marker(""), StoreFormatError, ValueError, ("{root}/store.json", "damaged", "move it away")),
    "newer format": (_marker(_NEWER), StoreFormatError, ValueError, ("{root}", "format 99", "upgrade casstore")),
    "config.toml that is no TOML": (_config("views ="), StoreFormatError, ValueError, ("{root}/config.toml", "TOML")),
    "unknown setting": (
        _config("vews = 'copy'"),
        StoreFormatError,
        ValueError,
        ("{root}/config.toml", "'vews'", "views"),
    ),
    "impossible setting": (
        _config("views = 'warp'"),
        StoreFormatError,
        ValueError,
        ("views", "auto, copy, link", "'warp'"),
    ),
}


def _snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and bytes of everything below; times of directories would change by a temporary file that came and went."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, path.read_bytes() if path.is_file() else str(status.st_mtime_ns).encode())
    return found


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ROOTS)
def test_a_directory_that_cannot_serve_is_refused_and_left_alone(
    name: str, bare_environment: dict[str, str], tmp_path: Path
) -> None:
    spoil, raises, built_in, says = ROOTS[name]
    top = Path(tempfile.mkdtemp(dir=tmp_path))
    root = top / "root"
    spoil(root)
    data = tmp_path / "data"
    data.write_bytes(b"1")
    before = _snapshot(top)
    says = tuple(word.format(root=root) for word in says)

    # A spoiled store that this process has open would be served from memory: another name for it is another store.
    alias = top / "alias"
    shutil.copytree(root, alias) if root.is_dir() else shutil.copy(root, alias)
    with pytest.raises(raises) as caught:
        FileClient(local_cache_dir=alias).CloudPath(data.as_uri()).read_bytes()
    assert isinstance(caught.value, built_in)
    assert [word for word in says if word.replace(str(root), str(alias)) not in str(caught.value)] == []
    shutil.rmtree(alias) if alias.is_dir() else alias.unlink()

    for command in (["ls"], ["get", data.as_uri()]):
        done = _shell(["--dir", str(root), *command], bare_environment)
        _assert_refused(done, 1, tuple(word.replace("CASSTORE_DIR", "--dir") for word in says))
    assert _snapshot(top) == before


# --- directories that this user may not use --------------------------------------------------------------------------

_NOBODY = 65534


@pytest.fixture
def anybodys_directory() -> Iterator[Path]:
    """A directory that any user can enter; pytest's own ones are private."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    subprocess.run(["chmod", "-R", "u+w", directory], check=True)
    shutil.rmtree(directory)


_AS_NOBODY = f"""
import os, sys
# Everything that the commands import when they need it: a Python below /root is closed to nobody.
import platformdirs, random, rich.console, rich.table
import casstore.cli.main, pathapi.backends.file.backend, pathapi.clouds.file
casstore.cli.main.command.list_commands(None)
os.setgroups([]), os.setgid({_NOBODY}), os.setuid({_NOBODY})
casstore.cli.main.main()
"""


def _as_somebody(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command as a user whom modes stop, which root is not."""
    if os.geteuid() != 0:
        return _shell(arguments, environment)
    return subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("at", ["", "/sub/store"])
def test_a_directory_that_cannot_be_written_is_refused(
    at: str, anybodys_directory: Path, bare_environment: dict[str, str]
) -> None:
    (anybodys_directory / "data").write_bytes(b"1")
    root = anybodys_directory / "closed"
    root.mkdir(mode=0o555)
    if os.geteuid() == 0:
        os.chown(root, _NOBODY, _NOBODY)
    for command in (["get", f"file://{anybodys_directory}/data"], ["ls"]):
        done = _as_somebody(["--dir", f"{root}{at}", *command], bare_environment)
        if command == ["ls"] and done.returncode == 1 and "no store here" in done.stderr:
            continue  # also true, and enough for who only looks
        _assert_refused(done, 1, (f"{root}{at}", "write", "--dir"))
    assert list(root.iterdir()) == []


def test_an_unwritable_default_gives_way_to_a_temporary_directory_with_one_warning(
    anybodys_directory: Path, bare_environment: dict[str, str]
) -> None:
    (anybodys_directory / "data").write_bytes(b"1")
    home, temporary = anybodys_directory / "home", anybodys_directory / "tmp"
    home.mkdir(mode=0o555)
    temporary.mkdir()
    temporary.chmod(0o1777)
    environment = bare_environment | {"HOME": str(home), "TMPDIR": str(temporary)}
    done = _as_somebody(["get", f"file://{anybodys_directory}/data"], environment)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("casstore: warning: ") and str(home) in line and "CASSTORE_DIR" in line
    (fallback,) = temporary.glob("casstore-*")
    assert str(fallback) in line
    assert fallback.stat().st_mode & 0o077 == 0


@pytest.mark.needs_root
def test_a_store_of_another_user_is_refused_in_both_directions(
    anybodys_directory: Path, bare_environment: dict[str, str]
) -> None:
    data = anybodys_directory / "data"
    data.write_bytes(b"1")
    ours = anybodys_directory / "ours"
    assert _shell(["--dir", str(ours), "get", data.as_uri()], bare_environment).returncode == 0
    _assert_refused(_as_somebody(["--dir", str(ours), "ls"], bare_environment), 1, (str(ours), "--dir"))

    anybodys_directory.chmod(0o1777)
    theirs = anybodys_directory / "theirs"
    assert _as_somebody(["--dir", str(theirs), "get", data.as_uri()], bare_environment).returncode == 0
    done = _shell(["--dir", str(theirs), "ls"], bare_environment)
    warned, _, done.stderr = done.stderr.partition("\n")
    assert f"can write to {theirs}" in warned
    _assert_refused(done, 1, (str(theirs), "another user", str(_NOBODY)))
    with pytest.warns(UserWarning, match="can write to"), pytest.raises(StoreUnavailableError):
        casstore.open(theirs)


# --- what goes wrong in between --------------------------------------------------------------------------------------


def test_an_endpoint_that_went_away_says_that_a_copy_is_held_and_how_to_read_it(
    facts: dict[str, str], bare_environment: dict[str, str], tmp_path: Path
) -> None:
    uri = f"s3://{facts['bucket']}/directory/object"
    root = str(tmp_path / "store")
    with Proxy(facts["endpoint"]) as proxy:
        environment = bare_environment | {**KEYS, "AWS_ENDPOINT_URL": proxy.endpoint}
        assert _shell(["--dir", root, "get", uri], environment).returncode == 0
    gone = _shell(["--dir", root, "get", uri], environment)
    _assert_refused(gone, 1, (uri, "could not be reached", "is cached", "--freshness offline", "CASSTORE_OFFLINE=1"))
    held = _shell(["--dir", root, "get", "-o", "-", "--freshness", "offline", uri], environment)
    assert (held.returncode, held.stdout, held.stderr) == (0, "1", "")


def test_one_bad_object_does_not_stop_the_others(
    facts: dict[str, str], bare_environment: dict[str, str], tmp_path: Path
) -> None:
    good, bad = f"file://{facts['data']}/file", f"file://{facts['data']}/none"
    done = _shell(["--dir", str(tmp_path / "store"), "get", bad, good], bare_environment)
    assert done.returncode == 1
    assert good in done.stdout and bad not in done.stdout
    assert bad in done.stderr and good not in done.stderr


def test_control_characters_of_a_uri_reach_no_terminal(bare_environment: dict[str, str], tmp_path: Path) -> None:
    evil = f"file://{tmp_path}/\x1b]0;owned\x07\n\x9b31m\u202e"
    done = _shell(["--dir", str(tmp_path / "store"), "get", evil], bare_environment)
    _assert_refused(done, 1, ("\\x1b]0;owned\\x07\\n\\x9b31m\\u202e", "does not exist"))
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def test_a_query_that_may_be_a_signature_is_not_repeated(bare_environment: dict[str, str], tmp_path: Path) -> None:
    done = _shell(["get", "ftp://user:password@host/x?X-Amz-Signature=abc"], bare_environment)
    assert done.returncode == 2
    assert "password" not in done.stderr and "abc" not in done.stderr
