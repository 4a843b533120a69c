"""Where `tests/harness/interrupt_calls.py` plays: a store, and a cloud whose content can be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from casstore import Cache
from pathapi import CloudPath
from pathapi.client import Client
from pathapi.clouds.file import FileClient
from pathapi.clouds.http import HttpClient
from pathapi.local import LocalS3Client
from tests.harness.http_server import http_process

OLD: Final = b"old " * 5_000


class Stage:
    """A store, a "cloud" of local files, and one object for each point."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "cloud"
        self.files.mkdir(parents=True)
        self.client: Client[Any] = FileClient(local_cache_dir=directory / "store")

    @property
    def cache(self) -> Cache:
        return self.client.cache

    def plant(self, name: str, content: bytes = OLD) -> CloudPath:
        """Put an object of the cloud in its place."""
        file = self.files / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return self.path(name)

    def path(self, name: str) -> CloudPath:
        path: CloudPath = self.client.CloudPath(f"file://{self.files}/{name}")
        return path

    def content(self, name: str) -> bytes | None:
        try:
            return (self.files / name).read_bytes()
        except FileNotFoundError:
            return None


class HttpStage(Stage):
    """As `Stage`, with a real server in another process."""

    def __init__(self, directory: Path) -> None:
        self._server = http_process()
        self._url = self._server.__enter__()
        self.client: Client[Any] = HttpClient(local_cache_dir=directory / "store")

    def plant(self, name: str, content: bytes = OLD) -> CloudPath:
        urlopen(Request(f"{self._url}/{name}", content, method="PUT")).close()
        return self.path(name)

    def path(self, name: str) -> CloudPath:
        path: CloudPath = self.client.CloudPath(f"{self._url}/{name}")
        return path

    def content(self, name: str) -> bytes | None:
        try:
            with urlopen(f"{self._url}/{name}") as response:
                content: bytes = response.read()
                return content
        except HTTPError:
            return None


class DoubleStage(Stage):
    """As `Stage`, with a local double of S3."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "cloud" / "bucket"
        self.files.mkdir(parents=True)
        self.client: Client[Any] = LocalS3Client(
            local_storage_dir=directory / "cloud", local_cache_dir=directory / "store"
        )

    def path(self, name: str) -> CloudPath:
        path: CloudPath = self.client.CloudPath(f"s3://bucket/{name}")
        return path
