"""Reading through the store, the same on every backend: `ReadSuite`, bound to files and to a real S3 server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casstore import Validator
from pathapi import FileClient
from pathapi.backends.file import metadata
from pathapi.testing import RawBucket, ReadSuite
from tests.harness.servers import S3Server
from tests.pathapi.conftest import MakeClient
from tests.pathapi.support.raw_buckets import FileRawBucket, PrefixedRawBucket, S3RawBucket


class TestFiles(ReadSuite):
    @pytest.fixture
    def ground(self, tmp_path: Path) -> RawBucket:
        return FileRawBucket(tmp_path / "bucket")

    @pytest.fixture
    def make(self, tmp_path: Path) -> Any:
        return lambda **habits: FileClient(**{"local_cache_dir": tmp_path / "store", **habits})

    @pytest.fixture
    def at(self, tmp_path: Path) -> str:
        return f"file://{tmp_path}/bucket/"


class TestS3(ReadSuite):
    @pytest.fixture
    def prefix(self, request: pytest.FixtureRequest) -> str:
        return f"{id(request.node):x}/"

    @pytest.fixture
    def ground(self, seaweed: S3Server, shared_bucket: str, prefix: str) -> RawBucket:
        return PrefixedRawBucket(S3RawBucket(seaweed.client(), shared_bucket), prefix)

    @pytest.fixture
    def make(self, make_client: MakeClient) -> MakeClient:
        return make_client

    @pytest.fixture
    def at(self, shared_bucket: str, prefix: str) -> str:
        return f"s3://{shared_bucket}/{prefix}"


@pytest.mark.parametrize("mode", ["r", "rt", "rb", "br", "r+", "r+b", "w", "wb", "a", "ab", "", "rr", "rw", "rbt", "q"])
@pytest.mark.parametrize(
    "options",
    [{}, {"buffering": 0}, {"encoding": "utf-8"}, {"errors": "strict"}, {"newline": ""}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_open_refuses_what_the_built_in_refuses(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    (tmp_path / "file").write_bytes(b"text")

    def refuses(opening: Callable[..., Any]) -> bool:
        try:
            opening(mode, **options).close()
        except ValueError:
            return True
        return False

    ours = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{tmp_path}/file")
    assert refuses(ours.open) == refuses((tmp_path / "file").open)


def test_an_image_library_opens_one_path_and_the_tree_shows_that_file_alone(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images/deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.png"):
        image.new("RGB", (4, 3), "red").save(tmp_path / "images" / name)
    root = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{tmp_path}/images")
    assert not [file for file in Path(root.fspath).rglob("*") if file.is_file()]
    with image.open(root / "deep/c.png") as opened:
        assert (opened.size, opened.getpixel((0, 0))) == ((4, 3), (255, 0, 0))
    tree = Path(root.fspath)
    assert [str(file.relative_to(tree)) for file in tree.rglob("*") if file.is_file()] == ["deep/c.png"]


def test_a_version_that_may_have_changed_unseen_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two contents in one tick of the clock look the same: that the server's answer agrees proves nothing."""
    path = FileClient(local_cache_dir=tmp_path / "store").CloudPath(f"file://{tmp_path}/file")
    racy = Validator(3, "same", mtime_ns=1, racy=True)
    monkeypatch.setattr(metadata, "validator_of", lambda _: racy)
    for data in (b"one", b"two"):
        (tmp_path / "file").write_bytes(data)
        assert path.read_bytes() == data
