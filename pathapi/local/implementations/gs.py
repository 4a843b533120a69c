"""The local double of Google Cloud Storage."""

from __future__ import annotations

from typing import Final

from pathapi.clouds.gs import GSClient, GSPath
from pathapi.local.localclient import LocalClient, implementation_of
from pathapi.local.localpath import LocalPath


class LocalGSPath(LocalPath, GSPath):
    """A `GSPath` of a directory."""

    __slots__ = ()


class LocalGSClient(LocalClient, GSClient):
    """A `GSClient` of a directory."""


local_gs_implementation: Final = implementation_of("gs", LocalGSPath, LocalGSClient)
