"""Two objects with one MD5: by default, neither is read, left out or copied as the other, on any cloud."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from pathapi import prefetch
from pathapi.exceptions import OverwriteNewerCloudError
from tests.harness.faults import Call, Fault, Reset
from tests.pathapi.support.proxied import Cloud

FIRST = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f8955ad340609f4b30283e488832571415a085125e8f7cdc99f"
    "d91dbdf280373c5bd8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0e99f33420f577ee8ce54b67080a80d1e"
    "c69821bcb6a8839396f9652b6ff72a70"
)
"""Wang and Yu, 2004."""
OTHER = bytes(byte ^ 0x80 * (at in (19, 45, 59, 83, 109, 123)) for at, byte in enumerate(FIRST))


@pytest.fixture
def root(cloud: Cloud) -> Any:
    """A "directory" with both objects."""
    prefix = cloud.path.location.key.rpartition("/")[0]
    for name, data in (("d/first", FIRST), ("d/other", OTHER)):
        cloud.ground.plant(f"{prefix}/{name}", data)
    return cloud.path.parent


def content(cloud: Cloud, path: Any) -> bytes | None:
    found: bytes | None = cloud.ground.content(path.location.key)
    return found


def test_the_pair_has_one_md5() -> None:
    assert FIRST != OTHER
    assert hashlib.md5(FIRST).digest() == hashlib.md5(OTHER).digest()


def test_an_object_of_a_listing_is_not_read_as_another(cloud: Cloud, root: Any) -> None:
    assert {path.name: path.read_bytes() for path in (root / "d/").iterdir()} == {"first": FIRST, "other": OTHER}


def test_a_prefetch_fetches_both(cloud: Cloud, root: Any) -> None:
    assert not prefetch(root / "d/").errors
    for name, data in (("first", FIRST), ("other", OTHER)):
        assert (root / "d" / name).read_bytes(freshness="offline") == data


def test_a_newer_file_is_uploaded(cloud: Cloud, root: Any, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/first").write_bytes(OTHER)
    (root / "d/").upload_from(tmp_path / "local")
    assert content(cloud, root / "d/first") == OTHER


def test_a_newer_object_is_downloaded(cloud: Cloud, root: Any, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local/first").write_bytes(OTHER)
    (root / "d/").download_to(tmp_path / "local")
    assert (tmp_path / "local/first").read_bytes() == FIRST


@pytest.mark.parametrize("cloud", ["s3", "gs", "az"], indirect=True)
def test_a_copy_on_the_server_replaces_the_other(cloud: Cloud, root: Any) -> None:
    cloud.ground.plant((root / "to/first").location.key, OTHER)
    time.sleep(1.1)
    cloud.ground.plant((root / "d/first").location.key, FIRST)  # the target is older
    (root / "d/").copytree(root / "to/")
    assert content(cloud, root / "to/first") == FIRST


@pytest.mark.parametrize("cloud", ["s3", "gs", "az"], indirect=True)
def test_in_doubt_about_an_upload_the_bytes_are_compared(cloud: Cloud, root: Any) -> None:
    """Our request is lost, and another client creates an object with that MD5."""
    path = root / "new"
    cloud.proxy.add(Fault(Call(lambda: cloud.ground.plant(path.location.key, OTHER)), kind="PUT"))
    cloud.proxy.add(Fault(Reset(after=None), kind="PUT"))
    with pytest.raises(FileExistsError), path.open("xb") as file:
        file.write(FIRST)
    assert content(cloud, path) == OTHER


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
def test_in_doubt_about_a_copy_the_bytes_are_compared(cloud: Cloud, root: Any) -> None:
    """The response is lost, and another client replaces the copy by an object with that MD5 before the next try."""
    target = root / "new"
    cloud.proxy.add(Fault(Reset(after=None), kind="COPY"))
    cloud.proxy.add(Fault(Call(lambda: cloud.ground.plant(target.location.key, OTHER)), kind="COPY", nth=2))
    with pytest.raises(OverwriteNewerCloudError):
        (root / "d/first").rename(target)
    assert (content(cloud, root / "d/first"), content(cloud, target)) == (FIRST, OTHER)


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
def test_the_setting_that_believes_md5_is_what_the_documents_warn_of(
    md5_believed: None, cloud: Cloud, root: Any
) -> None:
    """The negative control, and the reason for the default."""
    found = {path.name: path.read_bytes() for path in (root / "d/").iterdir()}
    assert found == {"first": FIRST, "other": FIRST}
