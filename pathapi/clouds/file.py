"""``file://``: a directory tree of this machine as a bucket; needs no server and no account."""

from __future__ import annotations

from typing import Any, ClassVar

from pathapi.backend import Backend
from pathapi.client import Client
from pathapi.path import CloudPath
from pathapi.registry import register_client_class, register_path_class


@register_path_class("file")
class FilePath(CloudPath):
    """A file or directory used like a cloud object: read through the store, written conditionally."""

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "file://"


@register_client_class("file")
class FileClient(Client[FilePath]):
    """This machine's files; see `pathapi.client.Client` for the arguments."""

    path_class: ClassVar[type] = FilePath

    def FilePath(self, cloud_path: str | FilePath, *parts: str) -> FilePath:  # noqa: N802 (like the other clients)
        """A path that uses this client."""
        return self.CloudPath(cloud_path, *parts)

    @property
    def origin(self) -> str:
        """Always ``file``."""
        return "file"

    def _make_backend(self, bucket: str) -> Backend:
        from pathapi.backends.file.backend import FileBackend

        return FileBackend("/", lambda: self.cache.settings.lock_timeout)

    def _settings(self) -> dict[str, Any]:
        return {}
