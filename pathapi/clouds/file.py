"""``file://``: a directory tree of this machine as a bucket; needs no server and no account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pathapi.backend import Backend
from pathapi.client import Client
from pathapi.path.cloud_path import CloudPath
from pathapi.path.pure_path import PureCloudPath
from pathapi.registry import register_client_class, register_path_class


@register_path_class("file")
class FilePath(CloudPath):
    """A file or directory used like a cloud object: read through the store, written conditionally."""

    __slots__ = ()
    cloud_prefix: ClassVar[str] = "file://"

    if TYPE_CHECKING:

        @property
        def client(self) -> FileClient: ...

    def __init__(self, cloud_path: str | PureCloudPath, *parts: str, client: Client[Any] | None = None) -> None:
        """As `CloudPath`; ``%20`` and the like are decoded. `str` of the path has ``%25`` for a percent sign."""
        super().__init__(cloud_path, *parts, client=client)
        self._text = str(self.uri)

    def _written(self, names: str) -> str:
        return names.replace("%", "%25")


@register_client_class("file")
class FileClient(Client[FilePath]):
    """This machine's files; see `pathapi.client.Client` for the arguments."""

    FilePath = Client[FilePath].CloudPath
    lists_flat: ClassVar[bool] = False

    @property
    def origin(self) -> str:
        """Always ``file``."""
        return "file"

    def _make_backend(self, bucket: str) -> Backend:
        from pathapi.backends.file.backend import FileBackend

        return FileBackend("/", lambda: self.cache.settings.lock_timeout)
