"""The local double of S3."""

from __future__ import annotations

from typing import Final

from pathapi.clouds.s3 import S3Client, S3Path
from pathapi.local.localclient import LocalClient, implementation_of
from pathapi.local.localpath import LocalPath


class LocalS3Path(LocalPath, S3Path):
    """An `S3Path` of a directory."""

    __slots__ = ()


class LocalS3Client(LocalClient, S3Client):
    """An `S3Client` of a directory."""


local_s3_implementation: Final = implementation_of("s3", LocalS3Path, LocalS3Client)
