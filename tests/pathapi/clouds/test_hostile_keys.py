"""Every key that a cloud takes is one object: written, read, listed, viewed, shown and deleted as itself alone.

Three places hold the same keys: a directory tree, a real S3 server and moto. What one of them cannot hold is named with
its reason; every key is held by at least one, which the last test checks.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.cli.main import run
from pathapi import CloudPath, FileClient, S3Client, prefetch
from pathapi.client import Client
from pathapi.exceptions import CloudPathFileNotFoundError, CloudPathIsADirectoryError, OverwriteNewerLocalError
from pathapi.testing import RawBucket
from tests.harness.servers import S3Server
from tests.pathapi.support.raw_buckets import FileRawBucket, S3RawBucket

KEYS = {
    "up": "a/../b",
    "up at the end": "e/..",
    "only up": "..",
    "climbing out": "../../../../../etc/passwd",
    "here": "./c/./d",
    "only here": ".",
    "two slashes": "f//g",
    "three slashes": "h///i",
    "leading slash": "/j",
    "two leading slashes": "//k",
    "trailing slash": "l/",
    "two trailing slashes": "m//",
    "only a slash": "/",
    "spaces": " n / o ",
    "only a space": "p/ ",
    "question mark": "what?versionId=1&x=?",
    "hash": "frag#ment#",
    "escaped slash": "r%2Fs",
    "unescaped slash": "r/s",
    "escaped percent": "%252F%25%",
    "plus": "t+u",
    "space for plus": "t u",
    "newline": "v\nw\r\n",
    "tab": "\tx\t",
    "control characters": "y\x01\x08\x1b]0;z\x07\x1b[31m\x7f",
    "C1 control characters": "c1\x85\x9b2J",
    "letters that turn the line around": "bi\u202edi\u2028",
    "1024 bytes": "long/" + "k" * 1019,
    "1024 bytes, almost the same": "long/" + "k" * 1018 + "l",
    "300-byte components": "n" * 300 + "/" + "é" * 150,
    "300-byte components, almost the same": "n" * 299 + "m/" + "é" * 150,
    "deep": "/".join("d" * 150),
    "NFC": "caf\u00e9",
    "NFD": "cafe\u0301",
    "beside a prefix": "x",
    "prefix": "x/y",
    "upper case": "CASE/Z",
    "lower case": "case/z",
    "other case": "Case/z",
    "backslash": "back\\slash\\..\\up",
    "shell": "q'\"`$(x);|&<>*[?]~",
    "beyond the BMP": "\U0001f388/\uffff\ufffe",
    "escape of a view": "%",
    "hash of a view": "%~" + "0" * 32,
    "URI": "s3://b/k",
    "empty": "no-bytes",
}

FILE_CANNOT = {
    "no file has such a name": [
        *("up", "up at the end", "only up", "climbing out", "here", "only here", "two slashes", "three slashes"),
        *("leading slash", "two leading slashes", "trailing slash", "two trailing slashes", "only a slash", "URI"),
    ],
    "no file has so long a name": [
        *("1024 bytes", "1024 bytes, almost the same", "300-byte components", "300-byte components, almost the same"),
    ],
    "a file is no directory": ["beside a prefix"],
}
MOTO_CANNOT = {"moto 5.2 loses a key with a newline": ["newline"]}
SEAWEED_CANNOT = {
    "SeaweedFS 4.48 refuses dots for a name": [
        *("up", "up at the end", "only up", "climbing out", "here", "only here"),
    ],
    "SeaweedFS 4.48 drops empty names": [
        *(
            "two slashes",
            "three slashes",
            "leading slash",
            "two leading slashes",
            "two trailing slashes",
            "only a slash",
        ),
        *("trailing slash", "URI"),
    ],
    "SeaweedFS 4.48 takes no component over 255 bytes": [
        *("1024 bytes", "1024 bytes, almost the same", "300-byte components", "300-byte components, almost the same"),
    ],
    "SeaweedFS 4.48 takes a backslash for a slash": ["backslash"],
}


def _reasons(cannot: dict[str, list[str]]) -> dict[str, str]:
    return {name: reason for reason, names in cannot.items() for name in names}


PLACES = {"files": _reasons(FILE_CANNOT), "on_moto": _reasons(MOTO_CANNOT), "on_seaweed": _reasons(SEAWEED_CANNOT)}


def every_key(test: Any) -> Any:
    """A decorator: *test* with each key in each place that takes it."""
    names = [(place, name) for place, cannot in PLACES.items() for name in KEYS if name not in cannot]
    return pytest.mark.sampled(24)(pytest.mark.parametrize(("place", "name"), names, indirect=["place"])(test))


def data_of(name: str) -> bytes:
    return b"" if name == "empty" else name.encode()


def written(base: str, key: str) -> str:
    """The URI of *key* below *base*: only a file's is percent-encoded."""
    return base + (key.replace("%", "%25") if base.startswith("file:") else key)


@dataclass
class Place:
    """A bucket with every key it can hold, another one to write into, and a client with a store of its own."""

    client: Client[Any]
    planted: RawBucket
    work: RawBucket
    base: str
    work_base: str
    login: dict[str, Any]
    cannot: dict[str, str]
    apart: bool = False
    """Whether keys that are written must not meet: SeaweedFS 4.48 keeps an emptied directory for a while."""
    keys: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = {name: key for name, key in KEYS.items() if name not in self.cannot}
        for name, key in self.keys.items():
            self.planted.plant(key, data_of(name))
        self.planted.settle()  # else what is read at once is held as what may have changed unseen

    def another(self, **habits: Any) -> Client[Any]:
        """A client of the same place."""
        client: Client[Any] = type(self.client)(**self.login, **habits)
        return client

    @property
    def options(self) -> list[str]:
        """How a command reaches the place."""
        return ["--endpoint-url", self.login["endpoint_url"]] if self.login else []

    @property
    def cache(self) -> casstore.Cache:
        return self.client.cache

    @property
    def uris(self) -> dict[str, bytes]:
        return {self.uri_of(key): data_of(name) for name, key in self.keys.items()}

    def uri_of(self, key: str) -> str:
        return written(self.base, key)

    def path(self, name: str) -> CloudPath:
        path: CloudPath = self.client.CloudPath(self.uri_of(KEYS[name]))
        return path

    def to_write(self, name: str) -> tuple[CloudPath, str]:
        """The path and the key of an object in the other bucket."""
        key = f"{list(KEYS).index(name)}-{KEYS[name]}" if self.apart else KEYS[name]
        return self.client.CloudPath(written(self.work_base, key)), key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    planted, work = tmp_path_factory.mktemp("planted"), tmp_path_factory.mktemp("work")
    client = FileClient(local_cache_dir=tmp_path_factory.mktemp("store") / "s")
    grounds = FileRawBucket(planted), FileRawBucket(work)
    yield Place(client, *grounds, f"file://{planted}/", f"file://{work}/", {}, PLACES["files"])
    client.cache.close()


def _s3_place(server: S3Server, store: Path, cannot: dict[str, str], *, apart: bool = False) -> Iterator[Place]:
    login: dict[str, Any] = {
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
        "endpoint_url": server.endpoint,
        "region": server.region,
    }
    client = S3Client(local_cache_dir=store, **login)
    raw = server.client()
    planted, work = server.new_bucket(), server.new_bucket()
    grounds = S3RawBucket(raw, planted), S3RawBucket(raw, work)
    yield Place(client, *grounds, f"s3://{planted}/", f"s3://{work}/", login, cannot, apart)
    client.cache.close()
    client.client.close()
    raw.close()


@pytest.fixture(scope="module")
def on_moto(moto: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from _s3_place(moto, tmp_path_factory.mktemp("store") / "s", PLACES["on_moto"])


@pytest.fixture(scope="module")
def on_seaweed(seaweed: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from _s3_place(seaweed, tmp_path_factory.mktemp("store") / "s", PLACES["on_seaweed"], apart=True)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@every_key
def test_a_hostile_key_is_read_and_viewed_as_itself(place: Place, name: str) -> None:
    path, data = place.path(name), data_of(name)
    assert str(path) == place.base + path.uri.encode(KEYS[name]) and path.key.endswith(KEYS[name])
    assert path.read_bytes() == data
    with path.open("rb", freshness="immutable") as file:
        assert file.read() == data
    entry = place.cache.stat(str(path))
    assert entry is not None
    assert (entry.uri, entry.size) == (str(path), len(data))
    assert path.exists()
    if KEYS[name].endswith("/"):
        return  # locally a directory, as is everything that ends so
    assert path.is_file()
    assert path.stat().st_size == len(data)
    view = path.fspath
    assert os.path.realpath(view) == view
    assert view.startswith(f"{place.cache.layout.local}/")
    assert os.path.normpath(view) == view
    assert Path(view).read_bytes() == data


@every_key
def test_a_hostile_key_is_written_edited_and_deleted_as_itself(place: Place, name: str) -> None:
    path, key = place.to_write(name)
    if key.endswith("/"):
        with pytest.raises(CloudPathIsADirectoryError):
            path.write_bytes(b"a directory")
        place.work.plant(key, b"first")
    else:
        path.write_bytes(b"first")
        assert place.work.content(key) == b"first"
        view = Path(path.fspath)
        assert view.read_bytes() == b"first"
        view.chmod(0o600)
        view.unlink()
        view.write_bytes(b"edited by hand")
        with pytest.raises(OverwriteNewerLocalError):
            path.read_bytes()
        (edited,) = path.pending
        assert (edited.uri, edited.source) == (str(path), str(view))
        path.push()
        assert place.work.content(key) == b"edited by hand"
        path.write_bytes(b"first")
    assert path.read_bytes() == b"first"
    if key.endswith("/"):
        with pytest.raises(CloudPathIsADirectoryError, match="rmtree"):
            path.unlink()
        path.rmtree()
    else:
        path.unlink()
    assert place.work.content(key) is None
    assert place.cache.stat(str(path)) is None
    with pytest.raises(CloudPathFileNotFoundError):
        path.read_bytes()


@pytest.fixture
def _listings_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, too: of a child of an old listing only the name is known, which may be two things."""
    monkeypatch.setattr("pathapi.reading.listing_cache._NS", 10**15)


@pytest.mark.usefixtures("_listings_last")
def test_every_hostile_key_is_found_by_listing(place: Place) -> None:
    root: CloudPath = place.client.CloudPath(place.base)
    # An object whose key ends in a slash marks a directory, here as in every tool.
    objects = {uri for uri in place.uris if not uri.endswith("/")}

    def below(directory: CloudPath) -> Iterator[str]:
        for child in directory.iterdir():
            if child.is_dir():
                yield from below(child)
            else:
                yield str(child)

    by_steps = list(below(root))
    assert len(by_steps) == len(set(by_steps))
    assert set(by_steps) == objects
    assert {str(found) for found in root.rglob("*") if found.is_file()} == objects
    walked = [str(at._at_key(at.uri.prefix + name)) for at, _, names in root.walk() for name in names]
    assert sorted(walked) == sorted(objects)
    for key in place.keys.values():
        names = key.split("/")
        pattern = "/".join("".join(f"[{c}]" if c in "*?[" else c for c in name) for name in names)
        if len(names) < 4 and not {"", ".", ".."} & set(names):  # pathlib's patterns cannot say those
            assert place.uri_of(key) in [str(found) for found in root.glob(pattern)]


def test_every_hostile_key_is_prefetched_and_shown(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "casstore-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "casstore-test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # A file that was made a moment ago is never trusted; the planted ones do not change.
    monkeypatch.setattr("pathapi.backends.file.metadata.RACY_NS", 0)
    done = prefetch(place.client.CloudPath(place.base))
    assert (done.files, done.errors) == (len(place.uris), [])
    place.cache.flush()
    command = ["--dir", place.cache.root]
    capsys.readouterr()

    assert run([*command, "ls", "--json", place.base]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {facts["uri"]: Path(facts["path"]).read_bytes() for facts in shown} == place.uris
    in_order = sorted(place.uris, key=lambda uri: uri.encode("utf-8", "surrogatepass"))
    assert [facts["uri"] for facts in shown] == in_order

    assert run([*command, "ls", place.base]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == len(place.uris) + 1
    assert all(line.isprintable() for line in lines)

    assert run([*command, "du", "--json", place.base]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["entries"] == len(place.uris)
    assert run([*command, "du", place.base]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()

    assert run([*command, "get", "--json", *place.options, *place.uris]) == 0
    out = capsys.readouterr()
    got = [json.loads(line) for line in out.out.splitlines()]
    assert {facts["uri"]: Path(facts["path"]).read_bytes() for facts in got} == place.uris
    assert all(facts["was_held"] for facts in got)
    assert run([*command, "get", *place.options, *place.uris]) == 0
    out = capsys.readouterr()
    assert (out.out + out.err).replace("\n", "").isprintable()


@pytest.mark.usefixtures("_listings_last")
def test_offline_the_store_lists_the_same_hostile_keys(place: Place) -> None:
    prefetch(place.client.CloudPath(place.base))
    place.cache.flush()
    client = place.another(local_cache_dir=place.cache.root, freshness="offline")
    root: CloudPath = client.CloudPath(place.base)
    objects = {uri for uri in place.uris if not uri.endswith("/")}

    def below(directory: CloudPath) -> Iterator[str]:
        for child in directory.iterdir():
            if child.is_dir():
                assert client.CloudPath(str(child)).is_dir()
                yield from below(child)
            else:
                yield str(child)

    found = list(below(root))
    assert len(found) == len(set(found))
    assert set(found) == objects
    for uri, data in place.uris.items():
        assert client.CloudPath(uri).read_bytes() == data


def test_a_directory_of_hostile_keys_is_a_local_directory_of_their_views(place: Place, tmp_path: Path) -> None:
    client = place.another(local_cache_dir=tmp_path)
    # No name that is a file and a directory, which no tree can hold, and nothing so deep that it lies elsewhere.
    directories = {key[:end] for key in KEYS.values() for end, letter in enumerate(key) if letter == "/"}
    keys = {name: key for name, key in place.keys.items() if key not in directories and key.count("/") < 100}
    keys = {name: key for name, key in keys.items() if not key.endswith("/")}
    prefetch([client.CloudPath(place.uri_of(key)) for key in keys.values()], recursive=False)
    for name, key in keys.items():
        directory = client.CloudPath(place.uri_of(key[: key.rfind("/") + 1]))
        view = Path(client.CloudPath(place.uri_of(key)).fspath)
        if view.relative_to(client.cache.layout.local).parts[1] == "%":
            with suppress(OSError):
                assert view.name not in os.listdir(directory.fspath), "no file can have its name"
        else:
            assert (name, str(view.parent)) == (name, directory.fspath)
        assert view.read_bytes() == data_of(name)
    client.cache.close()


def test_the_fast_reader_reads_the_same_hostile_keys(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    if not isinstance(place.client, S3Client):
        pytest.skip("for S3 only")
    monkeypatch.setenv("CASSTORE_FAST", "1")
    client = place.another(local_cache_dir=tmp_path)
    for uri, data in place.uris.items():
        assert client.CloudPath(uri).read_bytes() == data
    client.cache.close()


@pytest.mark.parametrize("command", ["get", "prefetch"])
def test_an_error_about_a_hostile_key_does_not_speak_to_the_terminal(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"file://{tmp_path}/missing\x1b]0;title\x07\r\ncasstore: all is well\u202e\x9b2J"
    assert run(["--dir", str(tmp_path / "store"), command, uri]) == 1
    out = capsys.readouterr()
    assert "missing" in out.err
    assert all(line.isprintable() for line in (out.out + out.err).split("\n"))
    assert not any(line.startswith("casstore: all is well") for line in out.err.split("\n"))


@pytest.mark.parametrize("name", ["a/../../x", "..", "/", "a//b", "a/"])
def test_a_key_that_no_file_can_have_does_not_exist(files: Place, name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    path = files.client.CloudPath(f"file://{tmp_path}/no/{name}")
    with pytest.raises(CloudPathFileNotFoundError):
        path.read_bytes()


def test_bytes_that_are_no_text_are_names_like_any_other(tmp_path: Path) -> None:
    name = os.fsdecode(b"latin-\xe9\xff")
    try:
        (tmp_path / name).write_bytes(b"data")
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error}")
    (tmp_path / "latin-é").write_bytes(b"other")
    client = FileClient(local_cache_dir=tmp_path / ".store")
    path = client.CloudPath(f"file://{tmp_path}/{name}")
    assert path.read_bytes() == b"data"
    assert Path(path.fspath).read_bytes() == b"data"
    assert str(path) in [str(found) for found in client.CloudPath(f"file://{tmp_path}").iterdir()]
    entry = client.cache.stat(str(path))
    assert entry is not None
    assert path.with_name("latin-é").read_bytes() == b"other"
    with io.BytesIO() as out:
        out.write(json.dumps(entry.uri).encode("ascii"))
        assert json.loads(out.getvalue()) == str(path)
    path.unlink()
    assert not (tmp_path / name).exists()
    client.cache.close()


def test_no_key_goes_untested() -> None:
    refused = [set(cannot) for cannot in PLACES.values()]
    assert set.intersection(*refused) == set()
    assert set.union(*refused) <= set(KEYS)
