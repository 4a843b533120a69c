"""Legal keys, written, renamed, deleted, read and listed in any order: every backend agrees with a dictionary."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pathapi import AzureBlobClient, FileClient, GSClient, HttpClient, S3Client
from pathapi.backends.file.metadata import problem_of
from tests.harness.azure_servers import AzureServer
from tests.harness.http_server import SAFE, HttpOrigin
from tests.harness.sampling import by_pass
from tests.harness.servers import GCSServer, S3Server


@dataclass(frozen=True)
class Root:
    """*make* gives an empty "directory" of its own at each call; *spell* writes a key as the place's URIs do."""

    make: Callable[[], Any]
    spell: Callable[[str], str] = str


_PARTS = st.text(
    st.one_of(
        st.sampled_from("ab AB.-_~!$&'()*+,;=:@%#?[]{}<>^|`\"éüßñ日本🎈"),
        st.characters(codec="utf-8", categories=["L", "M", "N", "P", "S"], exclude_characters="/\\"),
    ),
    min_size=1,
    max_size=12,
).filter(lambda part: part not in (".", "..") and not part.startswith(".casstore-"))
KEYS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join).filter(lambda key: problem_of(key) is None)
"""What every one of them takes; what single ones take beyond that is in `test_hostile_keys`."""

DOINGS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "append", "rename", "unlink"]), KEYS, KEYS, st.binary(max_size=40)
    ),
    min_size=1,
    max_size=10,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def on_files(_: pytest.FixtureRequest, store: Path) -> Root:
    client = FileClient(local_cache_dir=store)
    return Root(
        lambda: client.CloudPath(f"file://{store.parent}/{uuid.uuid4().hex}"), lambda key: key.replace("%", "%25")
    )


def _on_s3(server: S3Server, bucket: str, store: Path) -> Root:
    client = S3Client(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region=server.region,
        endpoint_url=server.endpoint,
        local_cache_dir=store,
    )
    return Root(lambda: client.CloudPath(f"s3://{bucket}/{uuid.uuid4().hex}"))


def on_seaweed(request: pytest.FixtureRequest, store: Path) -> Root:
    return _on_s3(request.getfixturevalue("seaweed"), request.getfixturevalue("shared_bucket"), store)


def on_moto(request: pytest.FixtureRequest, store: Path) -> Root:
    server: S3Server = request.getfixturevalue("moto")
    return _on_s3(server, server.new_bucket(), store)


def on_gcs(request: pytest.FixtureRequest, store: Path) -> Root:
    server: GCSServer = request.getfixturevalue("gcs")
    client = GSClient(endpoint_url=server.endpoint, local_cache_dir=store)
    bucket = request.getfixturevalue("gcs_bucket")
    return Root(lambda: client.CloudPath(f"gs://{bucket}/{uuid.uuid4().hex}"))


def on_azurite(request: pytest.FixtureRequest, store: Path) -> Root:
    server: AzureServer = request.getfixturevalue("azurite")
    client = AzureBlobClient(connection_string=server.connection_string(), local_cache_dir=store)
    container = request.getfixturevalue("shared_container")
    return Root(lambda: client.CloudPath(f"az://{container}/{uuid.uuid4().hex}"))


def on_http(request: pytest.FixtureRequest, store: Path) -> Root:
    server = HttpOrigin()
    request.addfinalizer(server.close)
    client = HttpClient(local_cache_dir=store)
    # A key is a piece of a URL as written: whatever else a name holds is escaped there, and in the links of a page.
    return Root(lambda: client.CloudPath(f"{server.url}/{uuid.uuid4().hex}"), lambda key: quote(key, safe=f"/{SAFE}"))


PLACES = [on_files, on_seaweed, on_moto, on_gcs, on_azurite, on_http]


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: place.__name__)
def root(request: pytest.FixtureRequest, store: Path) -> Root:
    return request.param(request, store)  # type: ignore[no-any-return]


def _clashes(held: dict[str, bytes], key: str) -> bool:
    """Whether an object of that name cannot be beside the others where keys are files: it would be a directory."""
    return any(other.startswith(key + "/") or key.startswith(other + "/") for other in held)


@settings(
    max_examples=by_pass(quick=8, full=15),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each try is some twenty requests: shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(doings=DOINGS)
def test_paths_agree_with_a_dictionary_whatever_is_done(root: Root, doings: list[tuple[str, str, str, bytes]]) -> None:
    top = root.make()
    base = str(top) + "/"
    held: dict[str, bytes] = {}
    doings = [(what, root.spell(key), root.spell(other), data) for what, key, other, data in doings]

    def at(key: str) -> Any:
        return top.client.CloudPath(base + key)

    for what, key, other, data in doings:
        source = next(iter(sorted(held)), key) if what in ("append", "rename", "unlink") else key
        if what == "write" and not _clashes(held, key):
            at(key).write_bytes(data)
            held[key] = data
        elif what == "append" and source in held:
            with at(source).open("ab") as file:
                file.write(data)
            held[source] += data
        elif what == "rename" and source in held:
            rest = {name: value for name, value in held.items() if name != source}
            if not _clashes(rest, other) and not _clashes({source: b""}, other):
                at(source).rename(at(other))
                held = {**rest, other: held[source]}
        elif what == "unlink":
            at(source).unlink()
            held.pop(source, None)
    for key, data in held.items():
        assert at(key).read_bytes() == data
        assert at(key).stat().st_size == len(data) and at(key).is_file()
    found = {str(path).removeprefix(base): path.stat().st_size for path in top.rglob("*") if path.is_file()}
    assert found == {key: len(data) for key, data in held.items()}
    # Of the children, directories that were emptied may stay for a while: SeaweedFS 4.48 keeps them.
    # Of a page that is missing, a web server lists nothing.
    children = {str(path).removeprefix(base).strip("/") for path in top.iterdir()} if held or top.is_dir() else set()
    assert children >= {key.partition("/")[0] for key in held}
    assert not any(at(name).is_file() for name in children - {key.partition("/")[0] for key in held})
    assert {str(path).removeprefix(base) for path in top.glob("*/*") if path.is_file()} == {
        key for key in held if key.count("/") == 1
    }
