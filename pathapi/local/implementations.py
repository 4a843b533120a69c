"""The local doubles of S3, Google Cloud Storage and Azure, and what to put into `implementation_registry`."""

from __future__ import annotations

import os
from typing import Any, Final

from pathapi.clouds.azure import AzureBlobClient, AzureBlobPath
from pathapi.clouds.gs import GSClient, GSPath
from pathapi.clouds.s3 import S3Client, S3Path
from pathapi.exceptions import MissingCredentialsError
from pathapi.local.localclient import LocalClient
from pathapi.local.localpath import LocalPath
from pathapi.registry import CloudImplementation


class LocalS3Path(LocalPath, S3Path):
    """An `S3Path` of a directory."""

    __slots__ = ()


class LocalS3Client(LocalClient, S3Client):
    """An `S3Client` of a directory."""


class LocalGSPath(LocalPath, GSPath):
    """A `GSPath` of a directory."""

    __slots__ = ()


class LocalGSClient(LocalClient, GSClient):
    """A `GSClient` of a directory."""


class LocalAzureBlobPath(LocalPath, AzureBlobPath):
    """An `AzureBlobPath` of a directory."""

    __slots__ = ()


class LocalAzureBlobClient(LocalClient, AzureBlobClient):
    """An `AzureBlobClient` of a directory. Raises MissingCredentialsError without a login, as the real one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        logins = ("account_url", "connection_string", "blob_service_client", "data_lake_client")
        given = args or [name for name in logins if kwargs.get(name) is not None]
        if not given and not {"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL"} & os.environ.keys():
            raise MissingCredentialsError(f"LocalAzureBlobClient: it has no login: pass one of {', '.join(logins)}")
        super().__init__(*args, **kwargs)


def _implementation(name: str, path_class: Any, client_class: type[LocalClient]) -> CloudImplementation:
    implementation = CloudImplementation(name, path_class, client_class)
    path_class._cloud_meta = client_class._cloud_meta = implementation
    path_class.__name__ = path_class.__name__.removeprefix("Local")  # paths print as those they stand for
    return implementation


local_s3_implementation: Final = _implementation("s3", LocalS3Path, LocalS3Client)
local_gs_implementation: Final = _implementation("gs", LocalGSPath, LocalGSClient)
local_azure_blob_implementation: Final = _implementation("azure", LocalAzureBlobPath, LocalAzureBlobClient)
