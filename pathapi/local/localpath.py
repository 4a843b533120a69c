"""`LocalPath`: what paths of all local clients share."""

from __future__ import annotations

from casstore import new_hasher
from pathapi.path.cloud_path import CloudPath


class LocalPath(CloudPath):
    """A path of a `LocalClient`."""

    __slots__ = ()

    @property
    def etag(self) -> str:
        """The MD5 of the object's bytes, in hex. Raises FileNotFoundError."""
        return self.md5

    @property
    def md5(self) -> str:
        """The same as `etag`."""
        hasher = new_hasher("md5")
        hasher.update(self.read_bytes())
        return hasher.digest().hex()
